//! Tests only: the store as it was before each of its own changes, opened again as after a kill -9 and as after a
//! power cut.
//!
//! A kill leaves on disk what was written up to then, and that is what a copy holds. A power cut leaves, of what was not
//! synced, whatever it likes: the worst is that names are there and contents are not. So files of layers that have no
//! mark are cut to nothing, and while no layer has one, records as well.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

mod tests;

#[path = "../../tests/registry/mod.rs"]
mod registry;

type Watcher = Arc<dyn Fn(&'static str) + Send + Sync>;

static WATCHERS: Mutex<Vec<(PathBuf, Watcher)>> = Mutex::new(Vec::new());

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

/// Copies of a store, made while it works.
struct Film {
    store: PathBuf,
    frames: Arc<Mutex<Vec<(&'static str, PathBuf)>>>,
}

impl Film {
    fn of(store: &Path, to: &Path) -> Film {
        let frames: Arc<Mutex<Vec<(&'static str, PathBuf)>>> = Arc::default();
        let (all, from, to) = (Arc::clone(&frames), store.to_owned(), to.to_owned());
        let watcher = move |what| {
            let mut all = all.lock().unwrap();
            let frame = to.join(all.len().to_string());
            copy(&from, &frame);
            all.push((what, frame));
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

    fn cut(self) -> Vec<(&'static str, PathBuf)> {
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

/// What a power cut does to a store that was not synced.
fn tear(store: &Path) {
    let mut synced = false;
    for directory in ["layers/sha256", "layers/chain"] {
        for layer in std::fs::read_dir(store.join(directory)).unwrap() {
            let layer = layer.unwrap().path();
            match layer.join("synced").exists() {
                true => synced = true,
                false => empty_files(&layer.join("fs")),
            }
        }
    }
    if !synced {
        for directory in ["refs", "manifests", "configs"] {
            empty_files(&store.join(directory));
        }
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
