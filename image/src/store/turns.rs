//! How many layers move at once, and how fast: over all pulls of a store, and from one registry.
//!
//! A layer takes a turn of its registry and one of the store's. One whose registry is slow gives the store's turn back
//! until bytes come again. And a registry of which nothing moves yet needs no turn of the store's for its first layer: so
//! however many slow registries there are, and however slow, none keeps others waiting. The price is that each registry
//! may have one layer more on its way than the store's turns allow.
//!
//! Bandwidth is shared by making a reader late: what has come is counted, and who took more than the rate allows waits.
//! TCP tells the sender. Limitations: up to a tenth of a second's worth comes in one go, and what the kernel has received
//! already is not held back.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::registry::Registries;

/// A registry that sends less than [`SLOW_BYTES`] while we wait for so long is slow. To be called so costs an honest one
/// nothing: its own number of layers at once stays the same.
const SLOW_AFTER: Duration = Duration::from_secs(2);
const SLOW_BYTES: u64 = 1024 * 1024;

/// The turns of one store.
#[derive(Debug)]
pub(crate) struct Turns {
    all: Arc<Semaphore>,
    rate: Option<Rate>,
    registries: Mutex<HashMap<String, Weak<Lane>>>,
}

/// One registry's share.
#[derive(Debug)]
struct Lane {
    places: Arc<Semaphore>,
    rate: Option<Rate>,
    /// Layers that move now.
    moving: AtomicUsize,
    /// Told when none does any more.
    still: Notify,
}

impl Lane {
    /// Whether this layer is the only one; then it counts as moving.
    fn begin_alone(&self) -> bool {
        let none = self.moving.compare_exchange(0, 1, Relaxed, Relaxed);
        none.is_ok()
    }
}

/// A layer's turn; over when dropped.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    turns: &'a Turns,
    lane: Arc<Lane>,
    _place: OwnedSemaphorePermit,
    /// None while the registry is slow, and for one that needs none.
    everywhere: Option<OwnedSemaphorePermit>,
    needs_none: bool,
    pace: Pace,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if self.lane.moving.fetch_sub(1, Relaxed) == 1 {
            self.lane.still.notify_waiters();
        }
    }
}

impl Turns {
    pub(crate) fn new(registries: &Registries) -> Turns {
        let limits = &registries.limits;
        Turns {
            all: Arc::new(Semaphore::new(limits.layers.get())),
            rate: limits.bytes_per_second.map(Rate::new),
            registries: Mutex::default(),
        }
    }

    /// Waits for a turn with the registry at `authority`.
    pub(crate) async fn turn(&self, registries: &Registries, authority: &str) -> Turn<'_> {
        let lane = self.lane(registries, authority);
        // The registry's first: who waits for it must not hold a place that another registry could use.
        let place = permit(&lane.places).await;
        let everywhere = self.everywhere(&lane).await;
        Turn {
            turns: self,
            lane,
            _place: place,
            needs_none: everywhere.is_none(),
            everywhere,
            pace: Pace::default(),
        }
    }

    /// A turn of the store's, or none if the lane is to have its only layer without. The layer counts as moving.
    async fn everywhere(&self, lane: &Lane) -> Option<OwnedSemaphorePermit> {
        loop {
            // Before the look, so that nothing is missed between the two.
            let still = lane.still.notified();
            let free = Arc::clone(&self.all).try_acquire_owned().ok();
            if free.is_none() && lane.begin_alone() {
                return None;
            }
            let got = match free {
                Some(permit) => Some(permit),
                None => tokio::select! {
                    biased;
                    permit = permit(&self.all) => Some(permit),
                    () = still => None,
                },
            };
            if got.is_some() {
                lane.moving.fetch_add(1, Relaxed);
                return got;
            }
        }
    }

    fn lane(&self, registries: &Registries, authority: &str) -> Arc<Lane> {
        let mut all = self.lock();
        all.retain(|_, lane| lane.strong_count() > 0);
        if let Some(lane) = all.get(authority).and_then(Weak::upgrade) {
            return lane;
        }
        let own = registries.registry(authority);
        let places = own.and_then(|own| own.layers);
        let rate = own.and_then(|own| own.bytes_per_second);
        let lane = Arc::new(Lane {
            places: Arc::new(Semaphore::new(
                places
                    .unwrap_or(registries.limits.layers_per_registry)
                    .get(),
            )),
            rate: rate.map(Rate::new),
            moving: AtomicUsize::new(0),
            still: Notify::new(),
        });
        all.insert(authority.to_owned(), Arc::downgrade(&lane));
        lane
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Weak<Lane>>> {
        self.registries
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// A semaphore of ours is never closed, so there is always a permit in the end.
async fn permit(semaphore: &Arc<Semaphore>) -> OwnedSemaphorePermit {
    loop {
        if let Ok(permit) = Arc::clone(semaphore).acquire_owned().await {
            return permit;
        }
    }
}

impl Turn<'_> {
    /// Waits for what the registry sends next, of which `len` bytes count.
    pub(crate) async fn wait_for<T>(
        &mut self,
        next: impl Future<Output = T>,
        len: impl Fn(&T) -> usize,
    ) -> T {
        let began = Instant::now();
        let patience = self.pace.left();
        let mut next = std::pin::pin!(next);
        let got = tokio::select! {
            biased;
            got = &mut next => got,
            () = tokio::time::sleep(patience), if self.everywhere.is_some() => {
                if self.pace.is_slow_after(patience) {
                    self.everywhere = None;
                }
                next.await
            }
        };
        let len = len(&got) as u64;
        self.pace.note(began.elapsed(), len);
        if self.pace.is_slow {
            self.everywhere = None;
        } else if self.everywhere.is_none() && !self.needs_none {
            self.everywhere = Some(permit(&self.turns.all).await);
        }
        for rate in [&self.turns.rate, &self.lane.rate].into_iter().flatten() {
            tokio::time::sleep_until(rate.take(len, Instant::now())).await;
        }
        got
    }
}

/// How a registry does, by windows of time that was spent waiting for it.
#[derive(Debug, Default)]
struct Pace {
    waited: Duration,
    bytes: u64,
    is_slow: bool,
}

impl Pace {
    /// How much longer the registry may be silent in this window.
    fn left(&self) -> Duration {
        SLOW_AFTER.saturating_sub(self.waited)
    }

    /// Whether it is slow if nothing comes for so long.
    fn is_slow_after(&self, silence: Duration) -> bool {
        self.waited + silence >= SLOW_AFTER && self.bytes < SLOW_BYTES
    }

    fn note(&mut self, waited: Duration, bytes: u64) {
        self.waited += waited;
        self.bytes += bytes;
        if self.bytes >= SLOW_BYTES {
            self.is_slow = self.waited > SLOW_AFTER;
        } else if self.waited < SLOW_AFTER {
            return;
        } else {
            self.is_slow = true;
        }
        (self.waited, self.bytes) = (Duration::ZERO, 0);
    }
}

/// So many bytes a second.
#[derive(Debug)]
struct Rate {
    bytes_per_second: u64,
    /// When all that was taken so far has been paid for.
    paid: Mutex<Option<Instant>>,
}

impl Rate {
    fn new(bytes_per_second: std::num::NonZeroU64) -> Rate {
        Rate {
            bytes_per_second: bytes_per_second.get(),
            paid: Mutex::new(None),
        }
    }

    /// Takes bytes; when the taker may go on.
    fn take(&self, bytes: u64, now: Instant) -> Instant {
        const AHEAD: Duration = Duration::from_millis(100);
        let cost = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        let mut paid = self.paid.lock().unwrap_or_else(PoisonError::into_inner);
        let from = paid.map_or(now, |paid| paid.max(now));
        let until = from + cost;
        *paid = Some(until);
        until.checked_sub(AHEAD).map_or(now, |until| until.max(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Limits;
    use std::num::{NonZeroU64, NonZeroUsize};

    fn turns(layers: usize, per_registry: usize) -> (Turns, Registries) {
        let registries = Registries {
            limits: Limits {
                layers: NonZeroUsize::new(layers).unwrap(),
                layers_per_registry: NonZeroUsize::new(per_registry).unwrap(),
                ..Limits::default()
            },
            ..Registries::default()
        };
        (Turns::new(&registries), registries)
    }

    async fn waits(turns: &Turns, registries: &Registries, authority: &str) -> bool {
        let turn = turns.turn(registries, authority);
        tokio::time::timeout(SLOW_AFTER, turn).await.is_err()
    }

    #[tokio::test(start_paused = true)]
    async fn a_registry_has_no_more_than_its_turns_and_takes_none_of_another() {
        let (turns, registries) = turns(3, 2);
        let one = turns.turn(&registries, "a").await;
        let _two = turns.turn(&registries, "a").await;
        assert!(waits(&turns, &registries, "a").await);
        let _other = turns.turn(&registries, "b").await;
        assert!(waits(&turns, &registries, "b").await);
        drop(one);
        turns.turn(&registries, "b").await;
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_layer_of_a_registry_waits_for_no_other_registry() {
        let (turns, registries) = turns(2, 2);
        let _steady = [
            turns.turn(&registries, "a").await,
            turns.turn(&registries, "a").await,
        ];
        let mut first = turns.turn(&registries, "b").await;
        // It goes on without, and a second one waits for it, or for a turn of the store's.
        first
            .wait_for(async { SLOW_BYTES as usize }, |len| *len)
            .await;
        assert!(waits(&turns, &registries, "b").await);
        let second = turns.turn(&registries, "b");
        let ends = async {
            tokio::task::yield_now().await;
            drop(first);
        };
        let (second, ()) = tokio::join!(second, ends);
        assert!(second.everywhere.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_registry_gives_the_stores_turn_back_until_bytes_come() {
        let (turns, registries) = turns(1, 2);
        let mut slow = turns.turn(&registries, "slow").await;
        let silence = async {
            // While it is silent the store's turn is free.
            tokio::time::sleep(Duration::from_secs(5)).await;
            let turn = turns.turn(&registries, "fast").await;
            assert!(turn.everywhere.is_some());
            drop(turn);
            10
        };
        slow.wait_for(silence, |len| *len).await;
        slow.wait_for(async { SLOW_BYTES as usize }, |len| *len)
            .await;
        let other = turns.turn(&registries, "fast").await;
        assert!(other.everywhere.is_none());
        assert!(waits(&turns, &registries, "slow").await);
    }

    #[test]
    fn a_trickle_is_slow_however_often_a_byte_comes() {
        let mut pace = Pace::default();
        for _ in 0..25 {
            pace.note(Duration::from_millis(100), 100);
        }
        assert!(pace.is_slow);
        pace.note(Duration::from_millis(100), SLOW_BYTES);
        assert!(!pace.is_slow);
    }

    #[tokio::test(start_paused = true)]
    async fn bandwidth_is_shared_by_all_who_take() {
        let rate = Rate::new(NonZeroU64::new(1000).unwrap());
        let began = Instant::now();
        for _ in 0..10 {
            tokio::time::sleep_until(rate.take(500, Instant::now())).await;
        }
        let took = began.elapsed();
        assert!(
            took >= Duration::from_millis(4850) && took <= Duration::from_secs(5),
            "{took:?}"
        );
        // Time in which nobody takes is not saved up.
        tokio::time::sleep(Duration::from_secs(60)).await;
        let now = Instant::now();
        assert!(rate.take(5000, now) >= now + Duration::from_millis(4800));
    }
}
