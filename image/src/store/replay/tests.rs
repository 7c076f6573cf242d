use std::collections::BTreeMap;
use std::time::Duration;

use super::registry::{Registry, tar_of};
use super::*;
use crate::digest::Digest;
use crate::registry::{Client, Registries};
use crate::save::Format;
use crate::store::collect::Prune;
use crate::store::layout::Layout;
use crate::store::{Store, blobs, layers};

/// In memory where that can be: a store syncs its whole file system.
fn room() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .unwrap()
}

fn open(path: &Path, boot: &str) -> Store {
    let client = Client::new(Registries::default()).unwrap();
    Store::over(
        Layout::open_in_boot(path, boot, Duration::ZERO).unwrap(),
        client,
    )
    .unwrap()
}

const PATIENCE: Duration = Duration::from_secs(30);

/// Layers of which the second has a seam, for it does not describe `d`.
fn layers_of(mark: &str) -> Vec<Vec<u8>> {
    let mut base = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::Directory);
    header.set_size(0);
    header.set_mode(0o700);
    header.set_uid(rustix::process::geteuid().as_raw().into());
    header.set_gid(rustix::process::getegid().as_raw().into());
    header.set_mtime(7);
    base.append_data(&mut header, "d", &b""[..]).unwrap();
    let second = format!("second {mark}");
    vec![
        base.into_inner().unwrap(),
        tar_of(&[("d/file", second.as_bytes()), ("d/other", b"other")]),
        tar_of(&[("top", mark.as_bytes())]),
    ]
}

type Tree = BTreeMap<String, String>;

/// All layers and seams of a store as they are, but for times: what a layer does not describe has the time of its making.
fn trees(store: &Store, at: &Path) -> BTreeMap<String, Tree> {
    let mut found = BTreeMap::new();
    for directory in ["layers/sha256", "layers/chain"] {
        for name in store.layout.list(directory).unwrap() {
            let path = format!("{directory}/{name}");
            let mut tree = Tree::new();
            describe(&at.join(&path).join("fs"), "", &mut tree);
            found.insert(path, tree);
        }
    }
    found
}

fn describe(path: &Path, name: &str, found: &mut Tree) {
    use std::os::unix::fs::PermissionsExt;
    let meta = std::fs::symlink_metadata(path).unwrap();
    let content = match meta.is_dir() {
        true => String::new(),
        false => String::from_utf8_lossy(&std::fs::read(path).unwrap()).into_owned(),
    };
    found.insert(
        name.to_owned(),
        format!("{:o} {content}", meta.permissions().mode()),
    );
    for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
        let inner = format!("{name}/{}", entry.file_name().into_string().unwrap());
        describe(&entry.path(), &inner, found);
    }
}

/// What is visible of an image is as it was pulled; nothing half-done is left. Whether the image is there.
#[track_caller]
fn is_right(
    store: &Store,
    at: &Path,
    digest: &str,
    wanted: &BTreeMap<String, Tree>,
    when: &str,
) -> bool {
    assert_eq!(store.layout.list("ingest").unwrap(), [""; 0], "{when}");
    for (path, found) in trees(store, at) {
        if !layers::is_whole(&store.layout, &path) {
            continue;
        }
        // Layers of other images are none of this one's.
        if let Some(wanted) = wanted.get(&path) {
            assert_eq!(found, *wanted, "{when}: {path}");
        }
    }
    let Some(image) = store.image(digest).unwrap() else {
        return false;
    };
    let ids: Vec<Digest> = image
        .layers
        .iter()
        .map(|id| Digest::parse(id).unwrap())
        .collect();
    assert!(
        ids.iter().all(|id| layers::is_present(&store.layout, id)),
        "{when}"
    );
    true
}

#[tokio::test]
async fn a_pull_that_dies_at_any_step_leaves_nothing_wrong_and_is_done_again() {
    let room = room();
    let registry = Registry::start().await;
    let digest = registry.push("a", "t", &layers_of("1"));
    let reference = registry.reference("a:t");
    let path = room.path().join("store");
    std::fs::create_dir(room.path().join("frames")).unwrap();

    let film = Film::of(&path, &room.path().join("frames"));
    let store = open(&path, "first");
    store.keep_blobs(true);
    store.pull(&reference, |_| {}).await.unwrap();
    assert!(store.settle(PATIENCE), "inventories and all");
    let frames = film.cut();
    let wanted = trees(&store, &path);
    assert_eq!(wanted.len(), 4, "three layers and a seam");
    let blobs = blobs::all(&store.layout).unwrap();
    assert_eq!(blobs.len(), 3);
    drop(store);
    for what in [
        "mkdir",
        "publish",
        "syncfs",
        "mark",
        "create",
        "rename a file",
        "rename beside",
    ] {
        assert!(
            frames.iter().any(|frame| frame.before == what),
            "no {what} in {frames:?}"
        );
    }

    let mut whole = 0;
    for (at, frame) in frames.iter().enumerate() {
        for boot in ["first", "second"] {
            let when = format!("step {at}, before {}, boot {boot}", frame.before);
            let again = room.path().join("again");
            copy(&frame.path, &again);
            if boot == "second" {
                tear(&again, &frame.loose);
            }
            let store = open(&again, boot);
            // Before anything mends it: what is not there is no damage.
            let report = store.fsck(false, &|_| {}).unwrap();
            assert_eq!(report.damaged, vec![], "{when}");
            whole += usize::from(is_right(&store, &again, &digest, &wanted, &when));
            store.keep_blobs(true);
            store.pull(&reference, |_| {}).await.unwrap();
            assert!(is_right(&store, &again, &digest, &wanted, &when), "{when}");
            assert!(store.settle(PATIENCE), "{when}");
            assert_eq!(trees(&store, &again), wanted, "{when}");
            let mut kept = blobs::all(&store.layout).unwrap();
            kept.sort();
            let mut all = blobs.clone();
            all.sort();
            assert_eq!(kept, all, "{when}");
            store
                .save(std::slice::from_ref(&reference), Format::Exact)
                .unwrap();
            let report = store.fsck(false, &|_| {}).unwrap();
            assert_eq!(
                (report.damaged, report.unproven),
                (vec![], vec![]),
                "{when}"
            );
            assert_eq!(store.layout.list("trash").unwrap(), [""; 0], "{when}");
            drop(store);
            std::fs::remove_dir_all(again).unwrap();
        }
    }
    assert!(
        whole > 0 && whole < frames.len() * 2,
        "{whole} of {}",
        frames.len() * 2
    );
}

#[tokio::test]
async fn a_removal_that_dies_at_any_step_is_ended_by_the_next_and_takes_nothing_else() {
    let room = room();
    let registry = Registry::start().await;
    let kept = registry.push("a", "kept", &layers_of("kept"));
    let gone = registry.push("a", "gone", &layers_of("gone"));
    let path = room.path().join("store");
    std::fs::create_dir(room.path().join("frames")).unwrap();
    let store = open(&path, "first");
    for name in ["a:kept", "a:gone"] {
        store.pull(&registry.reference(name), |_| {}).await.unwrap();
    }
    assert!(store.settle(PATIENCE));
    let both = trees(&store, &path);
    assert_eq!(
        both.len(),
        3 + 3 + 1,
        "a layer is common, the seams are not"
    );

    let held = || vec![kept.clone()];
    let film = Film::of(&path, &room.path().join("frames"));
    let told = store.prune(Prune::Unused, &[], &held, true).unwrap();
    let done = store.prune(Prune::Unused, &[], &held, false).unwrap();
    assert!(store.settle(PATIENCE));
    let frames = film.cut();
    assert_eq!(done.images[0].digest, gone);
    assert_eq!(
        (told.images, told.layers, told.bytes),
        (done.images, done.layers, done.bytes)
    );
    let wanted = trees(&store, &path);
    assert_eq!(wanted.len(), 4);
    drop(store);
    for what in ["unlink", "rename out of sight"] {
        assert!(
            frames.iter().any(|frame| frame.before == what),
            "no {what} in {frames:?}"
        );
    }

    let mut there = 0;
    for (at, frame) in frames.iter().enumerate() {
        for boot in ["first", "second"] {
            let when = format!("step {at}, before {}, boot {boot}", frame.before);
            let again = room.path().join("again");
            copy(&frame.path, &again);
            let store = open(&again, boot);
            assert!(is_right(&store, &again, &kept, &both, &when), "{when}");
            there += usize::from(is_right(&store, &again, &gone, &both, &when));
            store.prune(Prune::Unused, &[], &held, false).unwrap();
            assert!(store.settle(PATIENCE), "{when}");
            assert!(is_right(&store, &again, &kept, &both, &when), "{when}");
            assert_eq!(trees(&store, &again), wanted, "{when}");
            assert_eq!(store.layout.list("refs").unwrap().len(), 1, "{when}");
            assert_eq!(store.layout.list("configs").unwrap().len(), 1, "{when}");
            assert_eq!(store.layout.list("trash").unwrap(), [""; 0], "{when}");
            drop(store);
            std::fs::remove_dir_all(again).unwrap();
        }
    }
    assert!(
        there > 0 && there < frames.len() * 2,
        "{there} of {}",
        frames.len() * 2
    );
}

/// The worst moment for a pull: a collection looks while it is under way, at each of its steps.
#[tokio::test]
async fn a_collection_at_any_step_of_a_pull_takes_nothing_of_it() {
    let room = room();
    let registry = Registry::start().await;
    let old = registry.push("a", "old", &layers_of("old"));
    let new = registry.push("a", "new", &layers_of("new"));
    let path = room.path().join("store");
    let store = Arc::new(open(&path, "first"));
    store
        .pull(&registry.reference("a:old"), |_| {})
        .await
        .unwrap();

    // The old image, whose lowest layer is the new one's too, goes at some step of the new one's pull.
    let collector = Arc::downgrade(&store);
    let watcher = move |what| {
        // A collection's own steps, and the caretaker's, are no pull's.
        let own = matches!(
            what,
            "unlink" | "rename out of sight" | "write beside" | "rename beside"
        );
        if !own && let Some(store) = collector.upgrade() {
            store.prune(Prune::Unused, &[], &|| Vec::new(), false).ok();
        }
    };
    WATCHERS
        .lock()
        .unwrap()
        .push((path.clone(), Arc::new(watcher)));
    let pulled = store
        .pull_held(
            &registry.reference("a:new"),
            crate::PullBehaviour::Default,
            |_| {},
        )
        .await;
    WATCHERS
        .lock()
        .unwrap()
        .retain(|(watched, _)| *watched != path);
    // The sync behind the pull may be watched still.
    store.sync().unwrap();
    let (image, lease) = pulled.unwrap();
    assert_eq!(image.manifest_digest, new);
    assert!(store.image(&new).unwrap().is_some());
    assert!(store.image(&old).unwrap().is_none(), "it was collected");
    // While the lease is held nothing takes it; afterwards it is as any other.
    store
        .prune(Prune::Unused, &[], &|| Vec::new(), false)
        .unwrap();
    assert!(store.image(&new).unwrap().is_some());
    drop(lease);
    let gone = store
        .prune(Prune::Unused, &[], &|| Vec::new(), false)
        .unwrap();
    assert_eq!(gone.images.len(), 1);
    assert!(store.image(&new).unwrap().is_none());
    assert!(store.settle(PATIENCE));
    assert_eq!(trees(&store, &path), BTreeMap::new());
}
