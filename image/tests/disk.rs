//! A task's disk: what its size bounds, whom it serves, and what is left of it. Needs root, loop(4) and mkfs.ext4(8).
//!
//! Works below the temporary directory; mounts nothing that anybody else can see.

use std::ffi::OsString;
use std::io::{ErrorKind, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use longshore_image::{Image, Load, Origin, Registries, Store};

const MIB: u64 = 1024 * 1024;
const SIZE: u64 = 64 * MIB;

struct House {
    dir: tempfile::TempDir,
    store: Store,
    image: Image,
}

impl House {
    /// A store with one image: a root of mode 0751 that belongs to 7:8, and a file.
    fn new() -> House {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store"), Registries::default()).unwrap();
        let archive = dir.path().join("root.tar");
        let mut tar = tar::Builder::new(std::fs::File::create(&archive).unwrap());
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(0o751);
        header.set_uid(7);
        header.set_gid(8);
        header.set_size(0);
        tar.append_data(&mut header, "./", std::io::empty())
            .unwrap();
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(5);
        tar.append_data(&mut header, "below", &b"below"[..])
            .unwrap();
        tar.into_inner().unwrap();
        let wanted = Load {
            rootfs: true,
            tag: Some("registry.example/disk:1".into()),
            ..Load::default()
        };
        let loaded = store.load(Origin::Path(archive), &wanted, |_| ());
        let image = loaded.unwrap().remove(0);
        House { dir, store, image }
    }

    fn root(&self, disk: &str, id: &str) -> OwnedFd {
        self.store.mount_root_on(disk, id, &self.image).unwrap()
    }

    fn refused(&self, disk: &str, id: &str) -> String {
        let refused = self.store.mount_root_on(disk, id, &self.image);
        refused.unwrap_err().to_string()
    }

    fn file(&self, disk: &str) -> PathBuf {
        self.dir.path().join(format!("store/disks/{disk}/fs"))
    }

    /// Bytes that the disk's file takes.
    fn taken(&self, disk: &str) -> u64 {
        std::fs::metadata(self.file(disk)).unwrap().blocks() * 512
    }
}

fn at(root: &OwnedFd, name: &str) -> PathBuf {
    format!("/proc/self/fd/{}/{name}", root.as_raw_fd()).into()
}

/// Writes zeros until there is no room; how many there was room for.
fn fill(path: &Path) -> u64 {
    let mut file = std::fs::File::create(path).unwrap();
    let piece = vec![0; 64 * 1024];
    let mut written = 0;
    loop {
        match file.write(&piece) {
            Ok(len) => written += len as u64,
            Err(e) => {
                assert_eq!(e.kind(), ErrorKind::StorageFull, "{e}");
                return written;
            }
        }
    }
}

/// The loop devices that serve a file of the store, by its inode: another's backing file may have any name.
fn serving(file: &Path) -> Vec<OsString> {
    let wanted = std::fs::canonicalize(file).unwrap();
    let devices = std::fs::read_dir("/sys/block").unwrap().flatten();
    devices
        .filter(|device| {
            let backing = std::fs::read_to_string(device.path().join("loop/backing_file"));
            // The kernel tells the file's path as its own mount saw it: the end of ours.
            backing.is_ok_and(|path| wanted.ends_with(path.trim_end().trim_start_matches('/')))
        })
        .map(|device| device.file_name())
        .collect()
}

/// The kernel unmounts behind our back.
#[track_caller]
fn eventually(what: &str, holds: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < until, "not within a minute: {what}");
        std::thread::yield_now();
    }
}

#[test]
#[ignore = "needs root"]
fn roots_on_one_disk_share_its_size_and_leave_no_device() {
    let house = House::new();
    house.store.make_disk("d", SIZE).unwrap();
    house.store.make_disk("d", SIZE).unwrap();
    assert!(house.taken("d") < SIZE / 8, "a new disk is sparse");
    let (one, two) = (house.root("d", "one"), house.root("d", "two"));
    assert_eq!(serving(&house.file("d")).len(), 1, "one file system");
    for root in [&one, &two] {
        let meta = std::fs::metadata(at(root, "")).unwrap();
        let seen = (meta.permissions().mode() & 0o7777, meta.uid(), meta.gid());
        assert_eq!(seen, (0o751, 7, 8));
        assert_eq!(std::fs::read(at(root, "below")).unwrap(), b"below");
    }
    let whole = fill(&at(&one, "large"));
    assert!((SIZE * 3 / 4..SIZE).contains(&whole), "{whole}");
    assert!(fill(&at(&two, "x")) < MIB, "nothing is left for the other");
    std::fs::remove_file(at(&one, "large")).unwrap();
    let again = fill(&at(&two, "y"));
    assert!(again > whole - MIB, "{again} after {whole}");
    assert!(!at(&one, "y").exists(), "roots do not see each other");

    // The same root again has what was written to it, also while another holds the device.
    drop(two);
    let two = house.root("d", "two");
    assert_eq!(std::fs::metadata(at(&two, "y")).unwrap().len(), again);
    assert_eq!(serving(&house.file("d")).len(), 1);
    drop((one, two));
    eventually("its device is free", || {
        serving(&house.file("d")).is_empty()
    });
    let two = house.root("d", "two");
    assert_eq!(std::fs::metadata(at(&two, "y")).unwrap().len(), again);

    // What was removed goes back to the store's disk.
    let before = house.taken("d");
    std::fs::remove_file(at(&two, "y")).unwrap();
    rustix::fs::syncfs(std::fs::File::open(at(&two, "below")).unwrap()).unwrap();
    drop(two);
    eventually("the holes are given back", || {
        house.taken("d") < before / 2 && serving(&house.file("d")).is_empty()
    });
    for id in ["one", "two"] {
        house.store.remove_root(id).unwrap();
    }
    house.store.remove_disk("d").unwrap();
    house.store.remove_disk("d").unwrap();
    assert!(house.store.disks().unwrap().is_empty());
    let ingest = house.dir.path().join("store/ingest");
    assert_eq!(std::fs::read_dir(ingest).unwrap().count(), 0);
}

#[test]
#[ignore = "needs root"]
fn a_root_that_is_made_anew_has_nothing_of_the_one_before() {
    let house = House::new();
    house.store.make_disk("d", SIZE).unwrap();
    let root = house.root("d", "one");
    std::fs::write(at(&root, "mine"), "1").unwrap();
    drop(root);
    house.store.remove_root("one").unwrap();
    assert!(!at(&house.root("d", "one"), "mine").exists());
}

#[test]
#[ignore = "needs root"]
fn many_roots_mounted_at_once_have_one_device() {
    let house = House::new();
    house.store.make_disk("d", SIZE).unwrap();
    let roots: Vec<OwnedFd> = std::thread::scope(|scope| {
        let ids = (0..8).map(|n| format!("root-{n}"));
        let threads: Vec<_> = ids
            .map(|id| {
                scope.spawn(|| {
                    let id = id;
                    house.root("d", &id)
                })
            })
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert_eq!(serving(&house.file("d")).len(), 1);
    for (n, root) in roots.iter().enumerate() {
        std::fs::write(at(root, "n"), n.to_string()).unwrap();
    }
    for (n, root) in roots.iter().enumerate() {
        assert_eq!(
            std::fs::read_to_string(at(root, "n")).unwrap(),
            n.to_string()
        );
    }
}

#[test]
#[ignore = "needs root"]
fn what_does_not_fit_together_is_refused_by_name() {
    let house = House::new();
    house.store.make_disk("d", SIZE).unwrap();
    let other_size = house
        .store
        .make_disk("d", SIZE * 2)
        .unwrap_err()
        .to_string();
    assert!(other_size.contains("remove it first"), "{other_size}");
    drop(house.root("d", "one"));
    assert!(
        house
            .refused("e", "one")
            .contains("a root on disk d, not e")
    );
    let plain = house.store.mount_root("one", &house.image).unwrap_err();
    assert!(
        plain.to_string().contains("a root on disk d, not -"),
        "{plain}"
    );
    assert!(
        house
            .refused("e", "two")
            .contains("it is gone from the image store")
    );
    let lost = house.refused("../d", "two");
    assert!(lost.contains("not an id"), "{lost}");
    // Too small for an ext4: mkfs says so, and nothing is left.
    let small = house
        .store
        .make_disk("small", 4096)
        .unwrap_err()
        .to_string();
    assert!(small.contains("mkfs.ext4"), "{small}");
    assert_eq!(house.store.disks().unwrap(), ["d"]);
    // Torn, or another's: no file system is no root.
    std::fs::write(house.file("d"), vec![0; MIB as usize]).unwrap();
    let torn = house.refused("d", "one");
    assert!(torn.contains("mount ext4"), "{torn}");
    eventually("its device is free", || {
        serving(&house.file("d")).is_empty()
    });
}
