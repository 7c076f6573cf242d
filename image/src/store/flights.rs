//! One fetch and one unpack per layer, however many pulls want it at once.
//!
//! Pulls from the same registry always wait for each other. A pull from another registry waits as well, but only while
//! the one that is on its way makes progress: a registry that is slow, or hostile and sends a byte a minute, must not
//! stall the pulls from others. Then both fetch, and whoever is done first has made the layer.
//!
//! A flight ends with its pull. If that one was cancelled, the next one takes off.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::{OwnedMutexGuard, watch};

use crate::digest::Digest;

/// What others make of a flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nobody fetches.
    Idle,
    /// Worth waiting for.
    Flying,
    /// Under way, and not worth waiting for.
    Slow,
}

/// A layer from one registry.
#[derive(Debug)]
struct Flight {
    alone: Arc<tokio::sync::Mutex<()>>,
    state: watch::Sender<State>,
}

type Table = HashMap<Digest, HashMap<String, Weak<Flight>>>;

/// All layers that are on their way in one store.
#[derive(Debug, Default)]
pub(crate) struct Flights(Mutex<Table>);

/// The right to fetch a layer.
#[derive(Debug)]
pub(crate) struct Boarded {
    flight: Arc<Flight>,
    _alone: OwnedMutexGuard<()>,
}

impl Boarded {
    /// Tells those who wait whether it is worth their while.
    pub(crate) fn is_slow(&self, slow: bool) {
        let state = if slow { State::Slow } else { State::Flying };
        self.flight.state.send_if_modified(|now| {
            let changed = *now != state;
            *now = state;
            changed
        });
    }
}

impl Drop for Boarded {
    fn drop(&mut self) {
        self.flight.state.send_replace(State::Idle);
    }
}

impl Flights {
    /// Waits until the layer is to be fetched from `registry` by the caller, or is there.
    pub(crate) async fn board(
        &self,
        registry: &str,
        layer: &Digest,
        is_there: impl Fn() -> bool,
    ) -> Option<Boarded> {
        let flight = self.flight(registry, layer);
        let alone = Arc::clone(&flight.alone).lock_owned().await;
        loop {
            if is_there() {
                return None;
            }
            let Some(mut other) = self.take_off(registry, layer, &flight) else {
                return Some(Boarded {
                    flight,
                    _alone: alone,
                });
            };
            // An error means that the other one is gone altogether.
            other.wait_for(|state| *state != State::Flying).await.ok();
        }
    }

    fn flight(&self, registry: &str, layer: &Digest) -> Arc<Flight> {
        let mut all = self.lock();
        all.retain(|_, by_registry| {
            by_registry.retain(|_, flight| flight.strong_count() > 0);
            !by_registry.is_empty()
        });
        let by_registry = all.entry(layer.clone()).or_default();
        if let Some(flight) = by_registry.get(registry).and_then(Weak::upgrade) {
            return flight;
        }
        let flight = Arc::new(Flight {
            alone: Arc::default(),
            state: watch::Sender::new(State::Idle),
        });
        by_registry.insert(registry.to_owned(), Arc::downgrade(&flight));
        flight
    }

    /// Takes off, unless the layer is on its way from another registry: then that one's state.
    fn take_off(
        &self,
        registry: &str,
        layer: &Digest,
        own: &Flight,
    ) -> Option<watch::Receiver<State>> {
        // Under the lock, or two would wait for each other or both take off.
        let all = self.lock();
        let others = all.get(layer).into_iter().flatten();
        for (other, flight) in others {
            if other != registry
                && let Some(flight) = flight.upgrade()
                && *flight.state.borrow() == State::Flying
            {
                return Some(flight.state.subscribe());
            }
        }
        own.state.send_replace(State::Flying);
        None
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    fn ready<F: Future>(future: std::pin::Pin<&mut F>) -> Option<F::Output> {
        match future.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(done) => Some(done),
            Poll::Pending => None,
        }
    }

    #[test]
    fn others_wait_while_a_flight_makes_progress_and_the_same_registry_always() {
        let flights = Flights::default();
        let layer = Digest::of(b"layer");
        let board = |registry: &'static str| flights.board(registry, &layer, || false);
        let first = ready(pin!(board("a"))).flatten().unwrap();
        assert!(ready(pin!(flights.board("b", &Digest::of(b"other"), || false))).is_some());
        let (mut same, mut other) = (pin!(board("a")), pin!(board("b")));
        assert!(ready(same.as_mut()).is_none() && ready(other.as_mut()).is_none());
        first.is_slow(true);
        assert!(ready(same.as_mut()).is_none());
        let second = ready(other.as_mut()).flatten().unwrap();
        // A third registry waits for the one that flies.
        let mut third = pin!(board("c"));
        assert!(ready(third.as_mut()).is_none());
        drop(second);
        let third = ready(third.as_mut()).flatten().unwrap();
        drop((first, third));
        assert!(ready(same.as_mut()).flatten().is_some());
    }

    #[test]
    fn a_layer_that_is_there_is_not_fetched_and_a_dropped_flight_is_followed_by_the_next() {
        let flights = Flights::default();
        let layer = Digest::of(b"layer");
        assert!(
            ready(pin!(flights.board("a", &layer, || true)))
                .unwrap()
                .is_none()
        );
        let there = std::cell::Cell::new(false);
        let first = ready(pin!(flights.board("a", &layer, || false)))
            .flatten()
            .unwrap();
        let mut next = pin!(flights.board("b", &layer, || there.get()));
        assert!(ready(next.as_mut()).is_none());
        there.set(true);
        drop(first);
        assert!(ready(next.as_mut()).unwrap().is_none());
        let again = ready(pin!(flights.board("b", &layer, || false)));
        assert!(again.flatten().is_some());
    }
}
