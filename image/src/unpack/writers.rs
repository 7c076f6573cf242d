//! Threads that write a layer's small files while its own thread goes on inflating: half of an unpacker's time is the
//! kernel's, spent on creating files.
//!
//! A small file is read whole and handed over in a batch. What is handed over has no name yet (its own thread has
//! looked), so writers can only add files and never meet each other. What comes later in the archive may need such a file
//! (a hard link, the same name again): [`Writers::is_due`] tells, and [`Writers::settle`] waits.
//!
//! The layer's own thread does the work itself where no core is free or the writers are behind. Threads live as long
//! as the layer: dropping `Writers` waits for them.

use std::collections::HashSet;
use std::collections::VecDeque;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::os::fd::AsFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use super::Fail;
use super::archive::Entry;
use super::at::Dir;
use super::crew;
use super::file::{Native, create, dress, write_all};

/// Larger files are written by the layer's own thread, straight from its buffer.
pub(crate) const SMALL: u64 = 128 * 1024;
/// A batch is handed over when it has so many bytes or files. With the batches that wait, the one in the making and
/// those being written, less than 2 MiB of a layer lie here.
const BATCH_BYTES: usize = 256 * 1024;
const BATCH_FILES: usize = 64;
const BATCHES_MAX: usize = 2;
/// More would only wait for the same directory's lock.
const THREADS_MAX: usize = 2;

/// A file to be created.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) dir: Arc<Dir>,
    pub(crate) last: Vec<u8>,
    pub(crate) entry: Entry,
    pub(crate) data: Vec<u8>,
    pub(crate) native: Native,
}

impl Job {
    fn run(&self) -> Result<(), Fail> {
        let host = |call: &'static str| move |e| Fail::host(&self.entry.path, call, e);
        let file =
            create(self.dir.fd.as_fd(), &self.last, self.entry.mode).map_err(host("open"))?;
        write_all(&file, &self.data).map_err(host("write"))?;
        dress(file.as_fd(), &self.entry, self.native)
    }
}

/// The writers of one layer.
#[derive(Debug, Default)]
pub(crate) struct Writers {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    batch: Vec<Job>,
    batch_bytes: usize,
    /// Whether something was handed over since all was written.
    handed_over: bool,
    keys: RandomState,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    work: Condvar,
    done: Condvar,
}

#[derive(Debug, Default)]
struct State {
    batches: VecDeque<(Vec<Job>, Vec<u64>)>,
    /// Keys of files that are handed over and not written.
    due: HashSet<u64>,
    running: usize,
    failed: Option<Fail>,
    closed: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs one batch that was taken out of the queue.
    fn run(&self, (batch, keys): (Vec<Job>, Vec<u64>)) {
        let result = batch.iter().try_for_each(Job::run);
        drop(batch);
        let mut state = self.lock();
        for key in keys {
            state.due.remove(&key);
        }
        state.running -= 1;
        if let Err(fail) = result {
            state.failed.get_or_insert(fail);
        }
        self.done.notify_all();
    }

    fn serve(&self) {
        let mut state = self.lock();
        loop {
            if let Some(batch) = state.batches.pop_front() {
                state.running += 1;
                drop(state);
                self.run(batch);
                state = self.lock();
            } else if state.closed {
                return;
            } else {
                state = self
                    .work
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
            }
        }
    }
}

impl Writers {
    /// Whether handing over is worth it now.
    pub(crate) fn have_time(&self) -> bool {
        crew::spare() > 0
    }

    /// Takes a file over.
    pub(crate) fn push(&mut self, job: Job) -> Result<(), Fail> {
        self.batch_bytes += job.data.len();
        self.batch.push(job);
        if self.batch.len() >= BATCH_FILES || self.batch_bytes >= BATCH_BYTES {
            self.hand_over()?;
        }
        Ok(())
    }

    /// Whether a file of that name is still to be written.
    pub(crate) fn is_due(&self, dir: u64, last: &[u8]) -> bool {
        let in_batch = |job: &Job| job.dir.inode == dir && job.last == last;
        if self.batch.iter().any(in_batch) {
            return true;
        }
        self.handed_over && self.shared.lock().due.contains(&self.key(dir, last))
    }

    /// Returns when all files are written that were taken over.
    pub(crate) fn settle(&mut self) -> Result<(), Fail> {
        self.write_batch()?;
        if !self.handed_over {
            return Ok(());
        }
        let mut state = self.shared.lock();
        loop {
            if let Some(fail) = state.failed.take() {
                return Err(fail);
            }
            if let Some(batch) = state.batches.pop_front() {
                state.running += 1;
                drop(state);
                self.shared.run(batch);
                state = self.shared.lock();
            } else if state.running > 0 {
                let done = &self.shared.done;
                state = done.wait(state).unwrap_or_else(PoisonError::into_inner);
            } else {
                break;
            }
        }
        drop(state);
        self.handed_over = false;
        Ok(())
    }

    fn hand_over(&mut self) -> Result<(), Fail> {
        let spare = crew::spare();
        let keys: Vec<u64> = self
            .batch
            .iter()
            .map(|job| self.key(job.dir.inode, &job.last))
            .collect();
        let mut state = self.shared.lock();
        if let Some(fail) = state.failed.take() {
            return Err(fail);
        }
        if spare == 0 || state.batches.len() >= BATCHES_MAX {
            drop(state);
            return self.write_batch();
        }
        state.due.extend(&keys);
        let batch = std::mem::take(&mut self.batch);
        self.batch_bytes = 0;
        state.batches.push_back((batch, keys));
        self.handed_over = true;
        let behind = state.running + state.batches.len() > self.threads.len();
        drop(state);
        if behind && self.threads.len() < spare.min(THREADS_MAX) {
            self.spawn();
        }
        self.shared.work.notify_one();
        Ok(())
    }

    fn spawn(&mut self) {
        let shared = Arc::clone(&self.shared);
        let thread = std::thread::Builder::new().name("layer-writer".into());
        // Without a thread the batch waits until the layer's own thread settles.
        match thread.spawn(move || shared.serve()) {
            Ok(thread) => self.threads.push(thread),
            Err(error) => tracing::debug!(%error, "no thread for a layer's small files"),
        }
    }

    /// Writes the batch in the making here and now.
    fn write_batch(&mut self) -> Result<(), Fail> {
        self.batch_bytes = 0;
        std::mem::take(&mut self.batch)
            .iter()
            .try_for_each(Job::run)
    }

    fn key(&self, dir: u64, last: &[u8]) -> u64 {
        self.keys.hash_one((dir, last))
    }
}

impl Drop for Writers {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        // What is still there belongs to a layer that failed.
        state.batches.clear();
        state.closed = true;
        drop(state);
        self.shared.work.notify_all();
        for thread in self.threads.drain(..) {
            thread.join().ok();
        }
    }
}
