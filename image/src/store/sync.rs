//! Power cuts: one syncfs(2) after an image is there, in the background, so that no task waits for it.
//!
//! Until then its layers are marked with this boot's id alone; if the host boots again before they are synced, the next
//! start drops them (see `layers::drop_doubtful`). Records need no fsync of their own: one that a power cut took or
//! damaged fails its digest or its parse, counts as none, and the image is pulled again.
//!
//! Images that come while a sync runs share the next one. Dropping waits for what is under way: the store is then as
//! safe as it says.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::layers;
use super::layout::Layout;
use crate::error::ImageError;

/// The background sync of one store.
#[derive(Debug)]
pub(crate) struct Syncs {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    done: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Paths of layers and seams that wait for a sync.
    waiting: VecDeque<Vec<String>>,
    running: bool,
    /// Why the last one failed; the next start looks at each layer's mark and need not know.
    failed: Option<ImageError>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Syncs {
    pub(crate) fn new() -> Syncs {
        Syncs {
            shared: Arc::default(),
        }
    }

    /// What has layers and seams synced soon, without waiting for it.
    pub(crate) fn later(&self) -> impl FnOnce(&Arc<Layout>, Vec<String>) + Send + use<> {
        let shared = Arc::clone(&self.shared);
        move |layout, paths| soon(&shared, layout, paths)
    }

    /// Returns when all that was asked for is on disk; an error if the last sync failed. Blocking.
    pub(crate) fn settle(&self) -> Result<(), ImageError> {
        let mut state = self.shared.lock();
        while state.running {
            let done = &self.shared.done;
            state = done.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.failed.take().map_or(Ok(()), Err)
    }
}

impl Drop for Syncs {
    fn drop(&mut self) {
        // A failure was logged where it happened.
        self.settle().ok();
    }
}

fn soon(shared: &Arc<Shared>, layout: &Arc<Layout>, paths: Vec<String>) {
    let mut state = shared.lock();
    state.waiting.push_back(paths);
    if state.running {
        return;
    }
    state.running = true;
    drop(state);
    let (theirs, their_layout) = (Arc::clone(shared), Arc::clone(layout));
    let thread = std::thread::Builder::new().name("image-sync".into());
    if thread.spawn(move || run(&theirs, their_layout)).is_err() {
        run(shared, Arc::clone(layout));
    }
}

fn run(shared: &Shared, layout: Arc<Layout>) {
    loop {
        let paths: Vec<String> = {
            let mut state = shared.lock();
            if state.waiting.is_empty() {
                // Given up first: whoever waits for us may open the store again.
                drop(layout);
                state.running = false;
                shared.done.notify_all();
                return;
            }
            state.waiting.drain(..).flatten().collect()
        };
        let synced = sync(&layout, &paths);
        let mut state = shared.lock();
        state.failed = synced.err();
        if let Some(error) = &state.failed {
            tracing::warn!(%error, "image store: layers are not safe from a power cut yet");
        }
    }
}

fn sync(layout: &Layout, paths: &[String]) -> Result<(), ImageError> {
    layout.sync_all()?;
    layers::mark_synced(layout, paths)
}
