//! The store's one background thread: empties `trash/`, clears `aside/`, and takes the inventories of new layers.
//!
//! All of it can wait and can be repeated. It works in short strides with pauses between, longer ones while somebody
//! pulls: on a journalling file system thousands of unlinks in a row would make every file that a pull creates wait. Inventories
//! are taken only when nobody has pulled for a while. It sleeps for good when there is nothing to do, and ends with the store.

use std::ffi::CString;
use std::os::fd::AsFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::inventory::{self, NoInventory};
use super::layers;
use super::layout::Layout;
use super::lease::Leases;
use crate::error::ImageError;
use crate::remove::remove_tree_slowly;

/// How long it works between two pauses.
const STRIDE: Duration = Duration::from_millis(10);
/// The pause after a stride, as a multiple of it: while nobody pulls, and while somebody does. None where somebody waits for
/// the end, and nobody pulls.
const PAUSE: (u32, u32) = (1, 9);
/// Inventories are taken when nobody has pulled for so long.
const QUIET: Duration = Duration::from_secs(5);

/// The thread's owner: ends it when dropped.
#[derive(Debug)]
pub(crate) struct Caretaker {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Shared {
    layout: Arc<Layout>,
    leases: Arc<Leases>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    stop: bool,
    /// Somebody said that there is work.
    work: bool,
    /// Somebody waits for all to be done.
    hurry: bool,
    /// It has found nothing to do and sleeps.
    idle: bool,
}

impl Caretaker {
    /// A caretaker that does nothing before it is woken.
    pub(crate) fn new(layout: Arc<Layout>, leases: Arc<Leases>) -> Caretaker {
        Caretaker {
            shared: Arc::new(Shared {
                layout,
                leases,
                state: Mutex::default(),
                changed: Condvar::new(),
            }),
            thread: Mutex::new(None),
        }
    }

    /// Says that there may be work. Does not wait for it.
    pub(crate) fn wake(&self) {
        self.shared.state().work = true;
        self.shared.changed.notify_all();
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if thread.is_none() {
            let shared = Arc::clone(&self.shared);
            let started = std::thread::Builder::new()
                .name("image-caretaker".to_owned())
                .spawn(move || shared.run());
            match started {
                Ok(started) => *thread = Some(started),
                Err(error) => tracing::warn!(%error, "image store: nothing is tidied up"),
            }
        }
    }

    /// Waits until all that was there to do is done, or `patience` is over; whether it is done.
    pub(crate) fn rest(&self, patience: Duration) -> bool {
        self.shared.state().hurry = true;
        self.wake();
        let state = self.shared.state();
        let rested = self
            .shared
            .changed
            .wait_timeout_while(state, patience, |state| !state.idle || state.work);
        let (mut state, timeout) = rested.unwrap_or_else(PoisonError::into_inner);
        state.hurry = false;
        !timeout.timed_out()
    }
}

impl Drop for Caretaker {
    fn drop(&mut self) {
        self.shared.state().stop = true;
        self.shared.changed.notify_all();
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(thread) = thread.take() {
            // It holds the store's directory: another must be able to open that now.
            thread.join().ok();
        }
    }
}

/// The next thing to do.
enum Next {
    Work,
    /// There is something, but not now.
    Later,
    Nothing,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        // For this thread alone, in spite of the name (setpriority(2), "C library/kernel differences").
        let thread = rustix::thread::gettid();
        if let Err(errno) = rustix::process::setpriority_process(Some(thread), 19) {
            tracing::debug!(%errno, "image store: the caretaker runs at the usual priority");
        }
        let mut failed = false;
        loop {
            {
                let mut state = self.state();
                if state.stop {
                    return;
                }
                state.work = false;
                state.idle = false;
            }
            let next = match self.work() {
                Ok(next) => next,
                Err(error) => {
                    // Told once: it stays true for a long time, and nobody waits for it.
                    if !failed {
                        tracing::warn!(%error, "image store: it could not be tidied up");
                    }
                    failed = true;
                    Next::Nothing
                }
            };
            let mut state = self.state();
            match next {
                Next::Work => {}
                Next::Later => {
                    let quiet = self
                        .changed
                        .wait_timeout_while(state, QUIET, |state| !state.stop && !state.hurry);
                    drop(quiet);
                }
                Next::Nothing => {
                    state.idle = true;
                    self.changed.notify_all();
                    let waited = self
                        .changed
                        .wait_while(state, |state| !state.stop && !state.work);
                    drop(waited);
                }
            }
        }
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>, time: Duration) -> MutexGuard<'a, State> {
        let waited = self
            .changed
            .wait_timeout_while(state, time, |state| !state.stop);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    fn work(&self) -> Result<Next, ImageError> {
        self.clear_aside()?;
        if let Some(name) = self.layout.list("trash")?.pop() {
            self.remove(&name)?;
            return Ok(Next::Work);
        }
        let Some(path) = self.without_inventory()? else {
            return Ok(Next::Nothing);
        };
        let quiet = if self.state().hurry {
            Duration::ZERO
        } else {
            QUIET
        };
        if !self.leases.is_quiet(quiet) {
            return Ok(Next::Later);
        }
        self.take_inventory(&path)
    }

    /// What was put aside goes once nothing can stand on it: after a restart of the host, or when there are no roots.
    fn clear_aside(&self) -> Result<(), ImageError> {
        let aside = self.layout.list("aside")?;
        if aside.is_empty() {
            return Ok(());
        }
        let no_roots = self.layout.list("roots")?.is_empty();
        for name in aside {
            if no_roots || !name.starts_with(&format!("{}.", self.layout.boot)) {
                self.layout.retire(&format!("aside/{name}"))?;
            }
        }
        Ok(())
    }

    fn remove(&self, name: &str) -> Result<(), ImageError> {
        let trash = self.layout.directory("trash")?;
        let c_name = CString::new(name).unwrap_or_default();
        let mut pace = self.pace();
        match remove_tree_slowly(trash.as_fd(), &c_name, &mut || pace()) {
            Ok(()) | Err(Errno::CANCELED) => Ok(()),
            Err(e) => Err(self.layout.error("remove", &format!("trash/{name}"), e)),
        }
    }

    /// A layer or seam whose inventory is to be taken: it is whole, and a power cut cannot take it any more.
    fn without_inventory(&self) -> Result<Option<String>, ImageError> {
        for directory in ["layers/sha256", "layers/chain"] {
            for name in self.layout.list(directory)? {
                let path = format!("{directory}/{name}");
                let has = |file: &str| self.layout.exists(&format!("{path}/{file}"));
                if layers::is_whole(&self.layout, &path)
                    && has("synced")
                    && !has("inventory.json")
                    && !has(NONE_POSSIBLE)
                {
                    return Ok(Some(path));
                }
            }
        }
        Ok(None)
    }

    fn take_inventory(&self, path: &str) -> Result<Next, ImageError> {
        let lease = self.leases.open();
        lease.hold([path.to_owned()]);
        if !layers::is_whole(&self.layout, path) {
            return Ok(Next::Work);
        }
        let mut pace = self.pace();
        let taken = inventory::take(&self.layout, path, &mut |_| {
            pace()?;
            // Somebody began to pull: this begins anew later.
            match self.leases.is_busy() {
                true => Err(Errno::CANCELED),
                false => Ok(()),
            }
        });
        match taken {
            Ok(found) => inventory::record(&self.layout, path, &found)?,
            Err(NoInventory::Stopped) => return Ok(Next::Later),
            Err(NoInventory::Failed(cause)) => {
                tracing::warn!(layer = path, cause, "image store: no inventory");
                self.layout.touch(&format!("{path}/{NONE_POSSIBLE}"))?;
            }
        }
        Ok(Next::Work)
    }

    /// Sleeps from time to time; an error once the thread is to end.
    fn pace(&self) -> impl FnMut() -> Result<(), Errno> + '_ {
        let mut began = Instant::now();
        move || {
            let worked = began.elapsed();
            if worked < STRIDE {
                return Ok(());
            }
            let times = match (self.leases.is_busy(), self.state().hurry) {
                (true, _) => PAUSE.1,
                (false, false) => PAUSE.0,
                (false, true) => 0,
            };
            let stop = self.wait(self.state(), worked.saturating_mul(times)).stop;
            began = Instant::now();
            match stop {
                true => Err(Errno::CANCELED),
                false => Ok(()),
            }
        }
    }
}

/// The mark of a layer of which no inventory can be taken.
pub(crate) const NONE_POSSIBLE: &str = "no-inventory";
