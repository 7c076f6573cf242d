//! A collection while an image is pulled that shares layers with what goes. How long the one keeps the other waiting is
//! measured by `scripts/bench pull`. No privilege needed.

mod registry;

use std::path::Path;
use std::time::Duration;

use longshore_image::{Image, Prune, Registries, Store};
use registry::{Registry, tar_of};

const LAYERS: usize = 12;
const ROUNDS: usize = 25;

fn layer(number: usize) -> Vec<u8> {
    let names: Vec<String> = (0..20).map(|file| format!("{number}-{file}")).collect();
    let files: Vec<(&str, &[u8])> = names.iter().map(|n| (n.as_str(), n.as_bytes())).collect();
    tar_of(&files)
}

/// Every file of every layer is there.
#[track_caller]
fn is_whole(store: &Path, image: &Image) {
    for (number, diff_id) in image.layers.iter().enumerate() {
        let hex = diff_id.strip_prefix("sha256:").unwrap();
        for file in 0..20 {
            let name = format!("{number}-{file}");
            let path = store.join("layers/sha256").join(hex).join("fs").join(&name);
            let content = std::fs::read(&path).unwrap_or_else(|e| panic!("{path:?}: {e}"));
            assert_eq!(content, name.as_bytes());
        }
    }
}

#[test]
fn an_image_is_whole_whose_layers_were_being_collected_when_it_was_pulled() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let dir = tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .unwrap();
    let at = dir.path().join("store");
    let store = Store::open(&at, Registries::default()).unwrap();
    let registry = runtime.block_on(Registry::start());
    let layers: Vec<Vec<u8>> = (0..LAYERS).map(layer).collect();
    registry.push("goes", "1", &layers);
    registry.push("comes", "1", &layers[..LAYERS - 1]);
    let (goes, comes) = (registry.reference("goes:1"), registry.reference("comes:1"));
    let collect = || store.prune(Prune::Unused, &[], &Vec::new, false);
    for _ in 0..ROUNDS {
        runtime.block_on(store.pull(&goes, |_| {})).unwrap();
        let pulled = std::thread::scope(|scope| {
            let collecting = scope.spawn(collect);
            // It may come before, between or behind: whatever it met, the lease keeps the image from then on.
            let held = store.pull_held(&comes, Default::default(), |_| {});
            let pulled = runtime.block_on(held).unwrap();
            collecting.join().unwrap().unwrap();
            pulled
        });
        let (image, _lease) = pulled;
        assert!(store.image(&image.manifest_digest).unwrap().is_some());
        is_whole(&at, &image);
    }
    collect().unwrap();
    assert!(store.settle(Duration::from_secs(60)), "the removal ends");
    let left = |folder: &str| std::fs::read_dir(at.join(folder)).unwrap().count();
    assert_eq!((left("trash"), left("layers/sha256")), (0, 0));
}
