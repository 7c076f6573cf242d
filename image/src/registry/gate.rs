//! One at a time for each thing, and only once: who has waited for another goes on beside all who waited with it.
//!
//! So many who need the same answer cost one question; and if that one fails they do not stand in line for their own, each
//! with a time limit of its own.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::MutexGuard;

type Door = tokio::sync::Mutex<()>;

/// Gates by what is asked for.
#[derive(Debug)]
pub(crate) struct Gates<K>(Mutex<HashMap<K, Weak<Door>>>);

impl<K> Default for Gates<K> {
    fn default() -> Gates<K> {
        Gates(Mutex::default())
    }
}

/// The gate of one thing.
#[derive(Debug)]
pub(crate) struct Gate(Arc<Door>);

impl<K: Clone + Eq + Hash> Gates<K> {
    pub(crate) fn gate(&self, key: &K) -> Gate {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, door| door.strong_count() > 0);
        let door = all.get(key).and_then(Weak::upgrade).unwrap_or_default();
        all.insert(key.clone(), Arc::downgrade(&door));
        Gate(door)
    }
}

impl Gate {
    /// Some, at once, if nobody is inside: others wait until it is dropped. Else None, when whoever is inside has left.
    pub(crate) async fn enter(&self) -> Option<MutexGuard<'_, ()>> {
        if let Ok(alone) = self.0.try_lock() {
            return Some(alone);
        }
        drop(self.0.lock().await);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn many_wait_for_the_first_and_then_for_nobody() {
        let gates = Gates::default();
        let (one, other) = (gates.gate(&"a"), gates.gate(&"a"));
        let inside = one.enter().await;
        assert!(inside.is_some() && gates.gate(&"b").enter().await.is_some());
        let waits = async { (other.enter().await.is_none(), other.enter().await.is_some()) };
        let leaves = async {
            tokio::task::yield_now().await;
            drop(inside);
        };
        assert_eq!(tokio::join!(waits, leaves).0, (true, true));
    }
}
