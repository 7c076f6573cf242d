//! Power cuts: one syncfs(2) after an image is there, in the background, so that no task waits for it.
//!
//! Until then its layers are marked with this boot's id alone. If the host boots again before they are synced, the next
//! start drops them, and the images that stand on them: they are pulled again. Records are not in doubt, each is on disk
//! before it has its name (see `drafts`).
//!
//! Images that come while a sync runs share the next one. Dropping waits for what is under way: the store is then as
//! safe as it says.

use std::collections::BTreeSet;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use super::caretaker::Caretaker;
use super::census::census;
use super::layout::Layout;
use super::{blobs, layers};
use crate::error::ImageError;

/// The background sync of one store: its thread's owner.
#[derive(Debug)]
pub(crate) struct Syncs(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    layout: Arc<Layout>,
    /// Takes inventories of what is synced.
    caretaker: Arc<Caretaker>,
    state: Mutex<State>,
    changed: Condvar,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug, Default)]
struct State {
    /// Paths of layers, seams and blobs that wait for a sync.
    waiting: Vec<String>,
    running: bool,
    /// Why the last one failed; the next start looks at each layer's mark and need not know.
    failed: Option<ImageError>,
    stop: bool,
}

impl Syncs {
    pub(crate) fn new(layout: Arc<Layout>, caretaker: Arc<Caretaker>) -> Syncs {
        Syncs(Arc::new(Shared {
            layout,
            caretaker,
            state: Mutex::default(),
            changed: Condvar::new(),
            thread: Mutex::new(None),
        }))
    }

    /// What has layers, seams and blobs synced soon, without waiting for it.
    pub(crate) fn later(&self) -> impl FnOnce(Vec<String>) + Send + use<> {
        let shared = Arc::clone(&self.0);
        move |paths| shared.soon(paths)
    }

    /// Returns when all that was asked for is on disk; an error if the last sync failed. Blocking.
    pub(crate) fn settle(&self) -> Result<(), ImageError> {
        let state = self.0.lock();
        let settled = self
            .0
            .changed
            .wait_while(state, |state| state.running || !state.waiting.is_empty());
        let mut state = settled.unwrap_or_else(PoisonError::into_inner);
        state.failed.take().map_or(Ok(()), Err)
    }
}

impl Drop for Syncs {
    fn drop(&mut self) {
        self.0.lock().stop = true;
        self.0.changed.notify_all();
        if let Some(thread) = self.0.thread().take() {
            // It holds the store's directory: another must be able to open that now.
            thread.join().ok();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn thread(&self) -> MutexGuard<'_, Option<JoinHandle<()>>> {
        self.thread.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn soon(self: &Arc<Self>, paths: Vec<String>) {
        // Before the look at the store's end: who ends it waits for the thread that is started here.
        let mut thread = self.thread();
        let mut state = self.lock();
        if state.stop {
            // The next start does it.
            return;
        }
        state.waiting.extend(paths);
        drop(state);
        self.changed.notify_all();
        if thread.is_some() {
            return;
        }
        let theirs = Arc::clone(self);
        let builder = std::thread::Builder::new().name("image-sync".into());
        match builder.spawn(move || theirs.run()) {
            Ok(started) => *thread = Some(started),
            Err(_) => {
                let paths = std::mem::take(&mut self.lock().waiting);
                self.sync(&paths);
            }
        }
    }

    fn run(&self) {
        let mut state = self.lock();
        loop {
            let asleep = |state: &mut State| state.waiting.is_empty() && !state.stop;
            let woken = self.changed.wait_while(state, asleep);
            state = woken.unwrap_or_else(PoisonError::into_inner);
            if state.waiting.is_empty() {
                return;
            }
            let paths = std::mem::take(&mut state.waiting);
            state.running = true;
            drop(state);
            self.sync(&paths);
            state = self.lock();
            state.running = false;
            self.changed.notify_all();
        }
    }

    fn sync(&self, paths: &[String]) {
        let synced = self.layout.sync_all();
        let synced = synced.and_then(|()| layers::mark_synced(&self.layout, paths));
        if let Err(error) = &synced {
            tracing::warn!(%error, "image store: layers are not safe from a power cut yet");
        }
        self.lock().failed = synced.err();
        self.caretaker.wake();
    }
}

/// Removes layers and seams that an earlier boot made and never synced, and before them the records of images that stand
/// on one: those are not damaged, they are not there. Blobs go alone, for nothing stands on them.
pub(crate) fn drop_doubtful(layout: &Layout) -> Result<(), ImageError> {
    for path in blobs::doubtful(layout)? {
        layout.retire(&path)?;
    }
    let doubtful: BTreeSet<String> = layers::doubtful(layout)?.into_iter().collect();
    if doubtful.is_empty() {
        return Ok(());
    }
    for image in census(layout)?.images {
        if image.layer_paths().any(|path| doubtful.contains(&path)) {
            tracing::info!(image = %image.digest, "image store: removing an image that was never synced");
            for name in &image.names {
                layout.unlink(&name.file)?;
            }
            layout.unlink(&image.manifest())?;
        }
    }
    for path in doubtful {
        layout.retire(&path)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use rustix::fs::Mode;

    use super::*;
    use crate::unpack::Outline;

    #[test]
    fn a_layer_that_was_synced_gets_its_inventory_though_nobody_asks() {
        let patience = Duration::from_secs(30);
        let dir = tempfile::tempdir().unwrap();
        let layout = Arc::new(Layout::open(dir.path()).unwrap());
        let caretaker = Arc::new(Caretaker::new(Arc::clone(&layout), Arc::default()));
        let path = "layers/sha256/0";
        let ingest = layout.ingest().unwrap();
        ingest.mkdir(c"fs", Mode::RWXU).unwrap();
        layers::publish(&layout, ingest, path, Outline::default()).unwrap();
        assert!(caretaker.rest(patience));
        assert!(!layout.exists("layers/sha256/0/inventory.json"), "unsynced");

        let syncs = Syncs::new(Arc::clone(&layout), caretaker);
        syncs.later()(vec![path.to_owned()]);
        syncs.settle().unwrap();
        assert!(layout.exists("layers/sha256/0/synced"));
        let until = Instant::now() + patience;
        while !layout.exists("layers/sha256/0/inventory.json") {
            assert!(Instant::now() < until, "it sleeps");
            std::thread::yield_now();
        }
        let late = syncs.later();
        drop((syncs, layout));
        late(vec![path.to_owned()]);
    }
}
