//! Any bytes as a layer: unpacked or refused, and nothing outside its directory is touched. Needs root, and a temporary
//! directory of its own.
#![no_main]

use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use longshore_image::fuzz::layer;

const INSIDE: &str = "root";

static HARBOUR: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let harbour = tempfile::tempdir().expect("a temporary directory");
    fs::create_dir(harbour.path().join("outside")).expect("a directory beside it");
    fs::write(harbour.path().join("outside/file"), "as it was").expect("a file beside it");
    harbour
});

/// What is beside the layer's directory: names, kinds, modes, owners, sizes, and how many names each has.
fn outside(at: &Path) -> Vec<(String, u32, u32, u64, u64)> {
    let mut found = Vec::new();
    for folder in [at.to_owned(), at.join("outside")] {
        for entry in fs::read_dir(folder).expect("a directory") {
            let entry = entry.expect("an entry");
            let name = entry.file_name().to_string_lossy().into_owned();
            let stat = entry.metadata().expect("its metadata");
            if name != INSIDE {
                found.push((name, stat.mode(), stat.uid(), stat.size(), stat.nlink()));
            }
        }
    }
    found.sort();
    found
}

fuzz_target!(|bytes: &[u8]| {
    let harbour = HARBOUR.path();
    let before = outside(harbour);
    let inside = harbour.join(INSIDE);
    DirBuilder::new().mode(0o700).create(&inside).expect("the layer's directory");
    let root = File::open(&inside).expect("the layer's directory");
    if let Err(cause) = layer(bytes, root.into()) {
        assert!(!cause.is_empty());
        assert!(!cause.contains(char::is_control), "{cause:?}");
    }
    fs::remove_dir_all(&inside).expect("what was unpacked can be removed");
    assert_eq!(outside(harbour), before);
    assert_eq!(fs::read(harbour.join("outside/file")).expect("the file beside it"), b"as it was");
});
