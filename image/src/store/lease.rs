//! Leases: what of the store somebody is about to use, so that nobody removes it meanwhile.
//!
//! A pull, or a root in the making, *holds a name first and then looks whether it is there*. A collection *begins, then
//! looks what is referred to, and then removes*; what is held, or was held at any time since it began, it leaves alone.
//! So whoever found a thing after holding its name finds it until the lease is dropped, and what a lease left behind is
//! referred to by a record before the next collection looks.
//!
//! ```text
//!   pull:        hold ──▶ look ──▶ fetch ──▶ record ──▶ drop
//!   collection:        begin ──▶ look at records ──▶ remove, unless held since `begin` ──▶ end
//! ```
//!
//! In memory only: the processes that lease end with the process that has the store open. Names are paths below the store.
//! No lock is held across a system call: a name that is being removed is *condemned*, and only who wants to hold just that
//! name waits, for the length of a rename.
//!
//! Absent on purpose: counters. What tasks refer to is looked up in records anew each time, so nothing can drift.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::layers;
use crate::digest::Digest;

/// All leases of a store.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    book: Mutex<Book>,
    /// Rings when a condemned name is gone, and when a collection has ended.
    gone: Condvar,
    at_work: AtomicUsize,
    /// When somebody last fetched or unpacked.
    worked: Mutex<Option<Instant>>,
}

#[derive(Debug, Default)]
struct Book {
    next: u64,
    held: HashMap<u64, HashSet<String>>,
    condemned: HashSet<String>,
    /// What was held at any time since the collection that is under way began.
    since: Option<HashSet<String>>,
}

/// Keeps what it holds in the store until it is dropped.
#[derive(Debug)]
pub struct Lease {
    leases: Arc<Leases>,
    id: u64,
}

/// A collection under way; there is at most one.
#[derive(Debug)]
pub(crate) struct Collecting<'a>(&'a Leases);

/// Somebody fetches or unpacks: what can wait should.
#[derive(Debug)]
pub(crate) struct AtWork<'a>(&'a Leases);

impl Leases {
    /// A lease that holds nothing yet.
    pub(crate) fn open(self: &Arc<Self>) -> Lease {
        let mut book = self.book();
        book.next += 1;
        let id = book.next;
        book.held.insert(id, HashSet::new());
        Lease {
            leases: Arc::clone(self),
            id,
        }
    }

    /// Begins a collection; None if one is under way.
    pub(crate) fn collect(&self) -> Option<Collecting<'_>> {
        let mut book = self.book();
        if book.since.is_some() {
            return None;
        }
        book.since = Some(book.held.values().flatten().cloned().collect());
        Some(Collecting(self))
    }

    /// [`Leases::collect`], after the one that is under way.
    pub(crate) fn collect_next(&self) -> Collecting<'_> {
        loop {
            if let Some(collecting) = self.collect() {
                return collecting;
            }
            let book = self
                .gone
                .wait_while(self.book(), |book| book.since.is_some());
            drop(book);
        }
    }

    /// Says that somebody fetches or unpacks until the answer is dropped.
    pub(crate) fn work(&self) -> AtWork<'_> {
        self.at_work.fetch_add(1, Ordering::Relaxed);
        AtWork(self)
    }

    pub(crate) fn is_busy(&self) -> bool {
        self.at_work.load(Ordering::Relaxed) > 0
    }

    /// Whether nobody has fetched or unpacked for so long.
    pub(crate) fn is_quiet(&self, time: Duration) -> bool {
        let worked = *self.worked.lock().unwrap_or_else(PoisonError::into_inner);
        !self.is_busy() && worked.is_none_or(|worked| worked.elapsed() >= time)
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lease {
    /// Holds these names from now on, whether or not anything has them. Look for them only afterwards.
    pub(crate) fn hold(&self, names: impl IntoIterator<Item = String>) {
        let names: Vec<String> = names.into_iter().collect();
        let mut book = self.leases.book();
        while names.iter().any(|name| book.condemned.contains(name)) {
            let waited = self.leases.gone.wait(book);
            book = waited.unwrap_or_else(PoisonError::into_inner);
        }
        if let Some(since) = &mut book.since {
            since.extend(names.iter().cloned());
        }
        if let Some(held) = book.held.get_mut(&self.id) {
            held.extend(names);
        }
    }

    /// Holds the layers of an image, from the bottom up, and all seams that can lie between them.
    pub(crate) fn hold_layers(&self, diff_ids: &[Digest]) {
        let layers = diff_ids.iter().map(layers::path);
        self.hold(layers.chain(layers::chain_paths(diff_ids)));
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.leases.book().held.remove(&self.id);
    }
}

impl Collecting<'_> {
    /// Removes by `remove` what has these names, unless one of them was held since the collection began: then None.
    /// Whoever wants to hold one of them waits until `remove` returns: let it rename, not unlink.
    pub(crate) fn unless_held<T>(&self, names: &[String], remove: impl FnOnce() -> T) -> Option<T> {
        {
            let mut book = self.0.book();
            let since = book.since.get_or_insert_default();
            if names.iter().any(|name| since.contains(name)) {
                return None;
            }
            book.condemned.extend(names.iter().cloned());
        }
        let acquittal = Acquittal(self.0, names);
        let done = remove();
        drop(acquittal);
        Some(done)
    }

    /// Whether any of these names was held since the collection began.
    pub(crate) fn is_held(&self, names: &[String]) -> bool {
        let book = self.0.book();
        let since = book.since.as_ref();
        since.is_some_and(|since| names.iter().any(|name| since.contains(name)))
    }
}

impl Drop for Collecting<'_> {
    fn drop(&mut self) {
        self.0.book().since = None;
        self.0.gone.notify_all();
    }
}

/// Names that are no longer condemned once it is dropped, also by a panic.
struct Acquittal<'a>(&'a Leases, &'a [String]);

impl Drop for Acquittal<'_> {
    fn drop(&mut self) {
        let mut book = self.0.book();
        for name in self.1 {
            book.condemned.remove(name);
        }
        drop(book);
        self.0.gone.notify_all();
    }
}

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        self.0.at_work.fetch_sub(1, Ordering::Relaxed);
        let mut worked = self.0.worked.lock().unwrap_or_else(PoisonError::into_inner);
        *worked = Some(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(all: &[&str]) -> Vec<String> {
        all.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn what_was_held_since_a_collection_began_stays_even_if_it_is_held_no_more() {
        let leases = Arc::new(Leases::default());
        let early = leases.open();
        early.hold(names(&["a"]));
        let collecting = leases.collect().unwrap();
        assert!(leases.collect().is_none(), "there is one already");
        drop(early);
        let late = leases.open();
        late.hold(names(&["b"]));
        drop(late);
        assert_eq!(collecting.unless_held(&names(&["a"]), || ()), None);
        assert_eq!(collecting.unless_held(&names(&["x", "b"]), || ()), None);
        assert_eq!(collecting.unless_held(&names(&["x"]), || 1), Some(1));
        drop(collecting);
        let collecting = leases.collect().unwrap();
        assert_eq!(collecting.unless_held(&names(&["a", "b"]), || 1), Some(1));
    }

    #[test]
    fn who_wants_a_name_that_is_being_removed_waits_for_it_and_nobody_else_does() {
        let leases = Arc::new(Leases::default());
        let collecting = leases.collect().unwrap();
        let held = std::thread::scope(|scope| {
            let (wanting, wanted) = std::sync::mpsc::channel();
            let removed = collecting.unless_held(&names(&["a"]), || {
                let other = leases.open();
                other.hold(names(&["b"]));
                let same = Arc::clone(&leases);
                let waiter = scope.spawn(move || {
                    let lease = same.open();
                    wanting.send(()).unwrap();
                    lease.hold(names(&["a"]));
                    lease
                });
                wanted.recv().unwrap();
                assert!(
                    !leases.book().held.values().any(|held| held.contains("a")),
                    "held while it was being removed"
                );
                waiter
            });
            removed.unwrap().join().unwrap()
        });
        assert!(collecting.is_held(&names(&["a"])));
        drop(held);
    }
}
