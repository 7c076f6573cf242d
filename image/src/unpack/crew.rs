//! How many threads unpack at this moment, and whether a core is left for one more.
//!
//! Layers are unpacked by one thread each, which is all that two cores can bear while there are two layers. When fewer
//! layers than cores are left, the one that goes on may let others write its small files (see `writers`).
//! A thread that waits for its registry is not at work: a slow download costs nobody a core.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

static AT_WORK: AtomicUsize = AtomicUsize::new(0);

/// This thread unpacks, until it is dropped.
#[derive(Debug)]
pub(crate) struct AtWork(());

impl AtWork {
    pub(crate) fn begin() -> AtWork {
        AT_WORK.fetch_add(1, Ordering::Relaxed);
        AtWork(())
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        AT_WORK.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Does something that waits, between two stretches of work.
pub(crate) fn rest<T>(wait: impl FnOnce() -> T) -> T {
    struct Back;
    impl Drop for Back {
        fn drop(&mut self) {
            AT_WORK.fetch_add(1, Ordering::Relaxed);
        }
    }
    AT_WORK.fetch_sub(1, Ordering::Relaxed);
    let _back = Back;
    wait()
}

/// Cores that no layer is using now.
pub(crate) fn spare() -> usize {
    #[cfg(test)]
    if let Some(forced) = FORCED.get() {
        return forced;
    }
    static CORES: OnceLock<usize> = OnceLock::new();
    let cores = *CORES.get_or_init(|| std::thread::available_parallelism().map_or(1, usize::from));
    cores.saturating_sub(AT_WORK.load(Ordering::Relaxed))
}

#[cfg(test)]
thread_local! {
    static FORCED: std::cell::Cell<Option<usize>> = const { std::cell::Cell::new(None) };
}

/// Does something on this thread as if so many cores were free.
#[cfg(test)]
pub(crate) fn with_spare<T>(cores: usize, work: impl FnOnce() -> T) -> T {
    FORCED.set(Some(cores));
    let done = work();
    FORCED.set(None);
    done
}
