//! One fetch and one unpack per layer, however many pulls from one registry want it at once.
//!
//! A flight ends with its pull. If that one was cancelled, the next one takes off. Absent on purpose: waiting for another
//! registry's fetch of the same layer. It may be slow, or hostile and never end; whoever is done first has made the layer.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::OwnedMutexGuard;

use crate::digest::Digest;

/// Whoever holds it fetches.
type Flight = tokio::sync::Mutex<()>;

/// All layers that are on their way in one store, by registry and diff ID.
#[derive(Debug, Default)]
pub(crate) struct Flights(Mutex<HashMap<(String, Digest), Weak<Flight>>>);

/// The right to fetch a layer.
#[derive(Debug)]
pub(crate) struct Boarded(#[expect(dead_code, reason = "held, not read")] OwnedMutexGuard<()>);

impl Flights {
    /// Waits until the layer is to be fetched from `registry` by the caller, or is there: then None.
    pub(crate) async fn board(
        &self,
        registry: &str,
        layer: &Digest,
        is_there: impl Fn() -> bool,
    ) -> Option<Boarded> {
        let alone = self.flight(registry, layer).lock_owned().await;
        (!is_there()).then(|| Boarded(alone))
    }

    fn flight(&self, registry: &str, layer: &Digest) -> Arc<Flight> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, flight| flight.strong_count() > 0);
        let key = (registry.to_owned(), layer.clone());
        if let Some(flight) = all.get(&key).and_then(Weak::upgrade) {
            return flight;
        }
        let flight = Arc::new(Flight::new(()));
        all.insert(key, Arc::downgrade(&flight));
        flight
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::{Pin, pin};
    use std::task::{Context, Poll, Waker};

    fn ready<F: Future>(future: Pin<&mut F>) -> Option<F::Output> {
        match future.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(done) => Some(done),
            Poll::Pending => None,
        }
    }

    #[test]
    fn pulls_from_one_registry_wait_for_each_other_and_for_no_other() {
        let flights = Flights::default();
        let layer = Digest::of(b"layer");
        let board = |registry: &'static str| flights.board(registry, &layer, || false);
        let first = ready(pin!(board("a"))).flatten().unwrap();
        let mut same = pin!(board("a"));
        assert!(ready(same.as_mut()).is_none());
        assert!(ready(pin!(board("b"))).flatten().is_some());
        assert!(ready(pin!(flights.board("a", &Digest::of(b"other"), || false))).is_some());
        drop(first);
        assert!(ready(same.as_mut()).flatten().is_some());
    }

    #[test]
    fn a_layer_that_is_there_is_not_fetched() {
        let flights = Flights::default();
        let layer = Digest::of(b"layer");
        let there = std::cell::Cell::new(false);
        let first = ready(pin!(flights.board("a", &layer, || there.get())));
        let mut next = pin!(flights.board("a", &layer, || there.get()));
        assert!(ready(next.as_mut()).is_none());
        there.set(true);
        drop(first);
        assert!(ready(next.as_mut()).unwrap().is_none());
    }
}
