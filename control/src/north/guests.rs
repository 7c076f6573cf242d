//! Who is connected, and who must leave when all places are taken.
//!
//! ```text
//!   welcome ──▶ idle ──work──▶ working ──▶ idle (the youngest again)
//!                │  the longest idle one, when a newcomer finds no place
//!                ▼
//!              leaves
//! ```
//! Idle is whoever has no call whose signature holds at work: whoever says nothing, or says something slowly.
//! So strangers who only connect can push out each other, and never a call at work.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// All that are connected.
#[derive(Debug)]
pub(super) struct Guests {
    places: usize,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    next: u64,
    /// By the order in which they fell idle.
    idle: BTreeMap<u64, Arc<Notify>>,
    working: usize,
}

/// One connection's place; free again when dropped.
#[derive(Debug)]
pub(crate) struct Guest {
    guests: Arc<Guests>,
    leave: Arc<Notify>,
    /// Changed under the table's lock only.
    seat: Mutex<Seat>,
}

#[derive(Debug, PartialEq, Eq)]
enum Seat {
    Idle(u64),
    Working,
    /// Told to leave: it holds no place any more.
    Given,
}

/// A call at work; over when dropped.
#[derive(Debug)]
pub(crate) struct Work<'a>(&'a Guest);

impl Guests {
    pub(super) fn new(places: usize) -> Arc<Guests> {
        Arc::new(Guests {
            places,
            table: Mutex::default(),
        })
    }

    /// A place for a newcomer; None if all are taken by calls at work.
    pub(super) fn welcome(self: &Arc<Guests>) -> Option<Guest> {
        let mut table = self.table();
        if table.idle.len() + table.working >= self.places {
            let (_, longest) = table.idle.pop_first()?;
            longest.notify_one();
        }
        let leave = Arc::new(Notify::new());
        let seat = Mutex::new(table.seat(&leave));
        Some(Guest {
            guests: Arc::clone(self),
            leave,
            seat,
        })
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Nothing panics half-way through a change of it.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn seat(&mut self, leave: &Arc<Notify>) -> Seat {
        self.next += 1;
        self.idle.insert(self.next, Arc::clone(leave));
        Seat::Idle(self.next)
    }

    /// Takes the seat away.
    fn clear(&mut self, seat: &mut Seat) {
        match std::mem::replace(seat, Seat::Given) {
            Seat::Idle(number) => drop(self.idle.remove(&number)),
            Seat::Working => self.working -= 1,
            Seat::Given => {}
        }
    }
}

impl Guest {
    /// Returns when the place is needed for another. May be cancelled and called again.
    pub(super) async fn must_leave(&self) {
        self.leave.notified().await;
    }

    /// Keeps its place for as long as the call is at work.
    pub(super) fn work(&self) -> Work<'_> {
        let mut table = self.guests.table();
        let mut seat = self.seat.lock().unwrap_or_else(PoisonError::into_inner);
        // One that was told to leave has no number there any more, and keeps nothing.
        let seated = matches!(*seat, Seat::Idle(number) if table.idle.contains_key(&number));
        table.clear(&mut seat);
        if seated {
            table.working += 1;
            *seat = Seat::Working;
        }
        Work(self)
    }
}

impl Drop for Work<'_> {
    fn drop(&mut self) {
        let mut table = self.0.guests.table();
        let mut seat = self.0.seat.lock().unwrap_or_else(PoisonError::into_inner);
        if *seat == Seat::Working {
            table.clear(&mut seat);
            *seat = table.seat(&self.0.leave);
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut table = self.guests.table();
        table.clear(self.seat.get_mut().unwrap_or_else(PoisonError::into_inner));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_told_to_leave(guest: &Guest) -> bool {
        let mut notified = std::pin::pin!(guest.must_leave());
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        notified.as_mut().poll(&mut context).is_ready()
    }

    #[test]
    fn the_longest_idle_one_makes_room_and_work_keeps_its_place() {
        let guests = Guests::new(3);
        let [first, second, third] = std::array::from_fn(|_| guests.welcome().unwrap());
        drop(first.work());
        let working = third.work();
        let _fourth = guests.welcome().unwrap();
        assert!(is_told_to_leave(&second));
        assert!(!is_told_to_leave(&first) && !is_told_to_leave(&third));
        let _fifth = guests.welcome().unwrap();
        assert!(is_told_to_leave(&first) && !is_told_to_leave(&third));
        drop(working);
    }

    #[test]
    fn places_are_neither_lost_nor_made() {
        let guests = Guests::new(2);
        for _ in 0..10 {
            let [one, two] = std::array::from_fn(|_| guests.welcome().unwrap());
            let work = (one.work(), two.work());
            assert!(guests.welcome().is_none(), "both are at work");
            drop(work);
            let _three = guests.welcome().unwrap();
            // It was told to leave already; what it does until it is gone counts for nothing.
            drop(one.work());
            assert_eq!(guests.table().working, 0);
            assert_eq!(guests.table().idle.len(), 2);
        }
        assert!(guests.table().idle.is_empty());
    }
}
