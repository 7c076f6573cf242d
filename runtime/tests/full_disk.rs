//! A bundle, or the directory of all containers, on a disk that is full: an error in words, and nothing left.

mod support;

use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use support::bundle::Bundle;

/// A file system of a few files, which is full once `fill` has run.
struct Disk(PathBuf);

impl Disk {
    fn mount(place: &Path, limits: &str) -> Disk {
        std::fs::create_dir_all(place).unwrap();
        let kind = Some("tmpfs");
        mount(kind, place, kind, MsFlags::empty(), Some(limits)).unwrap();
        Disk(place.to_owned())
    }

    /// Empty files until there is no room for another one.
    fn fill(&self) {
        let full = (0..).find_map(|n| std::fs::File::create_new(self.filler(n)).err());
        assert_eq!(full.unwrap().raw_os_error(), Some(libc::ENOSPC));
    }

    fn filler(&self, number: u32) -> PathBuf {
        self.0.join(format!(".filler{number}"))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        umount2(&self.0, MntFlags::MNT_DETACH).unwrap();
    }
}

#[test]
#[ignore = "needs root"]
fn a_root_where_no_directory_can_be_made_is_refused_in_words() {
    let bundle = Bundle::new();
    bundle.configure(&["true"], |_| {});
    let rootfs = bundle.path().join("full");
    let disk = Disk::mount(&rootfs, "nr_inodes=20");
    std::fs::create_dir(rootfs.join("bin")).unwrap();
    support::program::install("/bin/busybox", rootfs.join("bin/true"));
    disk.fill();
    bundle.configure(&["/bin/true"], |spec| spec["root"]["path"] = "full".into());
    for command in ["create", "run"] {
        let error = bundle.fail(&[command, "c1"]);
        assert!(error.contains("No space left on device"), "{error}");
        assert!(error.contains("/proc"), "{error} names what it was for");
        assert_eq!(error.lines().count(), 1, "{error}");
        assert!(!bundle.state_root().join("c1").exists());
    }
    drop(disk);
    bundle.assert_nothing_left();
}

/// With room for one file, for two, and so on: until there is enough, each creation fails and removes what it made.
#[test]
#[ignore = "needs root"]
fn a_state_directory_that_finds_no_room_is_removed_again() {
    let bundle = Bundle::new();
    bundle.configure(&["true"], |_| {});
    let root = bundle.state_root();
    let disk = Disk::mount(&root, "nr_inodes=40");
    // The lock of all containers is there before the disk is full.
    bundle.succeed(&["run", "c1"]);
    disk.fill();
    let mut room = 0;
    while !bundle.runtime(&["run", "c1"]).status.success() {
        let error = bundle.fail(&["create", "c1"]);
        assert!(error.contains("No space left on device"), "{error}");
        assert!(!root.join("c1").exists(), "with room for {room}: {error}");
        std::fs::remove_file(disk.filler(room)).unwrap();
        room += 1;
        assert!(room < 20);
    }
    assert!(room > 1, "it was full");
    drop(disk);
    bundle.assert_nothing_left();
}

#[test]
#[ignore = "needs root"]
fn a_record_that_finds_no_room_fails_the_creation() {
    let bundle = Bundle::new();
    bundle.configure(&["true"], |_| {});
    let root = bundle.state_root();
    let disk = Disk::mount(&root, "size=16k");
    bundle.succeed(&["run", "c1"]);
    std::fs::write(root.join(".filler"), [0; 16 << 10]).unwrap();
    let error = bundle.fail(&["create", "c1"]);
    assert!(error.contains("No space left on device"), "{error}");
    assert!(!root.join("c1").exists(), "{error}");
    drop(disk);
    bundle.assert_nothing_left();
}
