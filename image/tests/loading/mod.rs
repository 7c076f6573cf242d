//! A store in a temporary directory into which a test loads what it made.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test file uses its own part"
)]

use std::io::Cursor;
use std::path::{Path, PathBuf};

use longshore_image::{Image, Load, Origin, Registries, Store};

use crate::layout::Files;
use crate::registry::{noise, tar_of};

pub struct House {
    pub dir: tempfile::TempDir,
    pub store: Store,
}

pub fn house() -> House {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store"), Registries::default()).unwrap();
    House { dir, store }
}

impl House {
    pub fn load(&self, origin: Origin, wanted: &Load) -> Result<Vec<Image>, String> {
        let loaded = self.store.load(origin, wanted, |_| ());
        loaded.map_err(|e| e.to_string())
    }

    /// [`House::load`] from an async test: it blocks, and a runtime's thread must not.
    pub fn load_apart(&self, origin: Origin) -> Image {
        let load = || self.load(origin, &Load::default()).unwrap().remove(0);
        std::thread::scope(|scope| scope.spawn(load).join().unwrap())
    }

    pub fn file(&self, name: &str, bytes: &[u8]) -> Origin {
        let path = self.dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        Origin::Path(path)
    }

    pub fn folder(&self, files: &Files) -> Origin {
        let path = self.dir.path().join("folder");
        files.write(&path);
        Origin::Path(path)
    }

    pub fn path(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    pub fn content(&self, image: &Image, layer: usize, name: &str) -> Vec<u8> {
        let hex = image.layers[layer].strip_prefix("sha256:").unwrap();
        let path = self.path().join("layers/sha256").join(hex).join("fs");
        std::fs::read(path.join(name)).unwrap()
    }

    /// Nothing half-done, no layer and no image.
    #[track_caller]
    pub fn holds_nothing(&self) {
        for directory in ["ingest", "layers/sha256", "refs", "manifests", "configs"] {
            assert_eq!(names(&self.path().join(directory)), [""; 0], "{directory}");
        }
    }
}

pub fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    entries
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect()
}

pub fn stream(bytes: Vec<u8>) -> Origin {
    Origin::Stream(Box::new(Cursor::new(bytes)), "a stream".to_owned())
}

pub fn tagged(tag: &str) -> Load {
    Load {
        tag: Some(tag.to_owned()),
        ..Load::default()
    }
}

pub fn two_layers() -> Vec<Vec<u8>> {
    vec![tar_of(&[("f", &noise(200_000))]), tar_of(&[("g", b"2")])]
}
