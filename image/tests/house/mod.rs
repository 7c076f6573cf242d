//! A store in a temporary directory, and what a test asks of it.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test file uses its own part"
)]

use std::path::{Path, PathBuf};

use longshore_image::{Image, Registries, Store};

pub struct House {
    // Dropped first: it may still be at work in the directory.
    pub store: Store,
    pub dir: tempfile::TempDir,
}

pub fn house(registries: Registries) -> House {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store"), registries).unwrap();
    House { store, dir }
}

impl House {
    pub async fn pull(&self, reference: &str) -> Result<Image, String> {
        self.store
            .pull(reference, |_| {})
            .await
            .map_err(|e| e.to_string())
    }

    pub fn path(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    pub fn layer(&self, image: &Image, layer: usize) -> PathBuf {
        let hex = image.layers[layer].strip_prefix("sha256:").unwrap();
        self.path().join("layers/sha256").join(hex).join("fs")
    }

    pub fn file(&self, image: &Image, layer: usize, name: &str) -> Vec<u8> {
        std::fs::read(self.layer(image, layer).join(name)).unwrap()
    }

    /// Nothing half-done, and no image.
    #[track_caller]
    pub fn holds_nothing(&self) {
        assert_eq!(names(&self.path().join("ingest")), [""; 0]);
        assert_eq!(names(&self.path().join("layers/sha256")), [""; 0]);
        assert_eq!(names(&self.path().join("refs")), [""; 0]);
    }
}

pub fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    entries
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect()
}
