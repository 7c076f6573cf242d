//! Tests only: the store as it was before each of its own changes, opened again as after a kill -9 and as after a
//! power cut.
//!
//! A kill leaves on disk what was written up to then, and that is what a copy holds. A power cut leaves, of what was not
//! synced, whatever it likes: the worst is that names are there and contents are not. So files of layers that have no
//! mark are cut to nothing, and of records those of which no fsync(2) was seen.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

mod tests;

#[path = "../../tests/registry/mod.rs"]
mod registry;

type Watcher = Arc<dyn Fn(&'static str) + Send + Sync>;

static WATCHERS: Mutex<Vec<(PathBuf, Watcher)>> = Mutex::new(Vec::new());

/// Device and inode of each file that was synced.
static ON_DISK: Mutex<BTreeSet<(u64, u64)>> = Mutex::new(BTreeSet::new());

/// A store has synced this file.
pub(super) fn is_on_disk(file: &File) {
    let meta = file.metadata().unwrap();
    ON_DISK.lock().unwrap().insert((meta.dev(), meta.ino()));
}

/// The store at `path` is about to do `what`.
pub(super) fn at(path: &Path, what: &'static str) {
    let all = WATCHERS.lock().unwrap_or_else(PoisonError::into_inner);
    let watcher = all.iter().find(|(watched, _)| watched == path);
    let watcher = watcher.map(|(_, watcher)| Arc::clone(watcher));
    drop(all);
    if let Some(watcher) = watcher {
        watcher(what);
    }
}

/// A copy of a store.
#[derive(Clone, Debug)]
struct Frame {
    /// What was about to be done.
    before: &'static str,
    path: PathBuf,
    /// Records, below the store, that are not on disk yet.
    loose: Vec<PathBuf>,
}

/// Copies of a store, made while it works.
struct Film {
    store: PathBuf,
    frames: Arc<Mutex<Vec<Frame>>>,
}

impl Film {
    fn of(store: &Path, to: &Path) -> Film {
        let frames: Arc<Mutex<Vec<Frame>>> = Arc::default();
        let (all, from, to) = (Arc::clone(&frames), store.to_owned(), to.to_owned());
        let watcher = move |before| {
            let mut all = all.lock().unwrap();
            let path = to.join(all.len().to_string());
            copy(&from, &path);
            let mut loose = loose_records(&from);
            // What came between the two looks is not in the copy.
            loose.retain(|record| path.join(record).exists());
            all.push(Frame {
                before,
                path,
                loose,
            });
        };
        WATCHERS
            .lock()
            .unwrap()
            .push((store.to_owned(), Arc::new(watcher)));
        Film {
            store: store.to_owned(),
            frames,
        }
    }

    fn cut(self) -> Vec<Frame> {
        WATCHERS
            .lock()
            .unwrap()
            .retain(|(path, _)| *path != self.store);
        self.frames.lock().unwrap().clone()
    }
}

/// With modes and times. What goes away meanwhile is left out: other threads go on.
fn copy(from: &Path, to: &Path) {
    let Ok(meta) = std::fs::symlink_metadata(from) else {
        return;
    };
    if meta.is_symlink() {
        let target = std::fs::read_link(from).unwrap();
        return std::os::unix::fs::symlink(target, to).unwrap();
    }
    if meta.is_dir() {
        std::fs::create_dir(to).unwrap();
        for entry in std::fs::read_dir(from).into_iter().flatten().flatten() {
            copy(&entry.path(), &to.join(entry.file_name()));
        }
    } else if std::fs::copy(from, to).is_err() {
        return;
    }
    std::fs::set_permissions(to, meta.permissions()).unwrap();
    File::open(to)
        .unwrap()
        .set_modified(meta.modified().unwrap())
        .unwrap();
}

const RECORDS: [&str; 3] = ["refs", "manifests", "configs"];

/// Records of which no fsync was seen.
fn loose_records(store: &Path) -> Vec<PathBuf> {
    let on_disk = ON_DISK.lock().unwrap();
    let mut loose = Vec::new();
    for directory in RECORDS {
        for entry in std::fs::read_dir(store.join(directory))
            .into_iter()
            .flatten()
            .flatten()
        {
            let Ok(meta) = entry.metadata() else { continue };
            if !on_disk.contains(&(meta.dev(), meta.ino())) {
                loose.push(Path::new(directory).join(entry.file_name()));
            }
        }
    }
    loose
}

/// What a power cut does to the copy of a store.
fn tear(store: &Path, loose: &[PathBuf]) {
    for directory in ["layers/sha256", "layers/chain"] {
        for layer in std::fs::read_dir(store.join(directory)).unwrap() {
            let layer = layer.unwrap().path();
            if !layer.join("synced").exists() {
                empty_files(&layer.join("fs"));
            }
        }
    }
    for blob in std::fs::read_dir(store.join("blobs/sha256")).unwrap() {
        let blob = blob.unwrap().path();
        if !blob.join("synced").exists() {
            File::create(blob.join("blob")).unwrap();
        }
    }
    for record in loose {
        File::create(store.join(record)).unwrap();
    }
}

fn empty_files(dir: &Path) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            empty_files(&path);
        } else {
            File::create(path).unwrap();
        }
    }
}
