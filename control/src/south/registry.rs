//! One session per instance: a newer one replaces the older, and waits until the older has written its last.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

/// The sessions that are open.
#[derive(Debug, Default)]
pub(super) struct Registry {
    seats: Arc<Mutex<HashMap<String, Occupied>>>,
}

#[derive(Debug)]
struct Occupied {
    number: u64,
    /// Tells the session to end.
    replaced: watch::Sender<bool>,
    /// Closes when the session has ended.
    ended: watch::Receiver<()>,
}

/// A session's place; dropped when the session has written everything it will write.
#[derive(Debug)]
pub(super) struct Seat {
    seats: Arc<Mutex<HashMap<String, Occupied>>>,
    instance: String,
    number: u64,
    replaced: watch::Receiver<bool>,
    _ended: watch::Sender<()>,
}

impl Registry {
    /// Takes the instance's seat: asks who sits there to end, and waits until it has.
    pub(super) async fn take(&self, instance: &str) -> Seat {
        let (replace, replaced) = watch::channel(false);
        let (ending, ended) = watch::channel(());
        let (number, before) = {
            let mut seats = self.seats.lock().unwrap_or_else(PoisonError::into_inner);
            let number = seats.get(instance).map_or(1, |before| before.number + 1);
            let mine = Occupied {
                number,
                replaced: replace,
                ended,
            };
            (number, seats.insert(instance.to_owned(), mine))
        };
        let seat = Seat {
            seats: self.seats.clone(),
            instance: instance.to_owned(),
            number,
            replaced,
            _ended: ending,
        };
        if let Some(mut before) = before {
            before.replaced.send_replace(true);
            // An error is what is waited for: the seat was dropped.
            while before.ended.changed().await.is_ok() {}
        }
        seat
    }
}

impl Seat {
    /// Whether a newer session has come.
    pub(super) fn is_replaced(&self) -> bool {
        *self.replaced.borrow()
    }

    /// Waits for a newer session.
    pub(super) async fn replaced(&self) {
        let mut replaced = self.replaced.clone();
        if replaced.wait_for(|replaced| *replaced).await.is_err() {
            // Its sender goes only with the replacement's own end: nothing will come.
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut seats = self.seats.lock().unwrap_or_else(PoisonError::into_inner);
        if seats
            .get(&self.instance)
            .is_some_and(|s| s.number == self.number)
        {
            seats.remove(&self.instance);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_newer_session_waits_for_the_older_to_end() {
        let registry = Registry::default();
        let old = registry.take("a").await;
        assert!(!old.is_replaced());
        let take = registry.take("a");
        tokio::pin!(take);
        tokio::select! {
            biased;
            _ = &mut take => panic!("the seat was still taken"),
            () = old.replaced() => {}
        }
        assert!(old.is_replaced());
        drop(old);
        let new = take.await;
        assert!(!new.is_replaced());
        drop(new);
        assert!(registry.seats.lock().unwrap().is_empty());
    }
}
