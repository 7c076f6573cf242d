//! Disks that are full: a small ext4 of the test's own. Needs root.

mod house;
mod registry;

use std::path::PathBuf;
use std::process::Command;

use house::names;
use longshore_image::{Registries, Store};
use registry::{Registry, noise, tar_of};

/// A file system in a file, mounted; gone when dropped.
struct Disk {
    at: PathBuf,
    _dir: tempfile::TempDir,
}

impl Disk {
    fn new(size: &str, options: &[&str]) -> Disk {
        let dir = tempfile::tempdir().unwrap();
        let (image, at) = (dir.path().join("image"), dir.path().join("disk"));
        std::fs::create_dir(&at).unwrap();
        done(Command::new("truncate").args(["-s", size]).arg(&image));
        done(
            Command::new("mkfs.ext4")
                .args(["-q", "-F", "-m", "0"])
                .args(options)
                .arg(&image),
        );
        done(
            Command::new("mount")
                .args(["-o", "loop"])
                .arg(&image)
                .arg(&at),
        );
        Disk { at, _dir: dir }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        Command::new("umount").arg("-l").arg(&self.at).output().ok();
    }
}

#[track_caller]
fn done(command: &mut Command) {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root"]
async fn a_full_disk_is_named_and_what_was_there_stays() {
    let registry = Registry::start().await;
    registry.push("small", "t", &[tar_of(&[("f", b"x")])]);
    registry.push("next", "t", &[tar_of(&[("g", b"y")])]);
    let big = noise(12_000_000);
    registry.push("one-file", "t", &[tar_of(&[("big", &big)])]);
    let names_of: Vec<String> = (0..300).map(|number| format!("{number}")).collect();
    let many: Vec<(&str, &[u8])> = names_of
        .iter()
        .map(|name| (&name[..], &big[..40_000]))
        .collect();
    registry.push("many-files", "t", &[tar_of(&many)]);
    let empty: Vec<(&str, &[u8])> = names_of.iter().map(|name| (&name[..], &b"x"[..])).collect();
    registry.push("many-names", "t", &[tar_of(&empty)]);

    let blocks = Disk::new("10M", &[]);
    let inodes = Disk::new("10M", &["-N", "150"]);
    let cases = [
        (&blocks, "one-file"),
        (&blocks, "many-files"),
        (&inodes, "many-names"),
    ];
    for (disk, image) in cases {
        let path = disk.at.join("store");
        let store = Store::open(&path, Registries::default()).unwrap();
        let small = store
            .pull(&registry.reference("small:t"), |_| {})
            .await
            .unwrap();
        let error = store
            .pull(&registry.reference(&format!("{image}:t")), |_| {})
            .await;
        let error = error.unwrap_err().to_string();
        assert!(
            error.starts_with("unpack layer sha256:")
                && error.contains("No space left on device")
                && error.contains("check the store's disk space"),
            "{image}: {error}"
        );
        assert_eq!(
            names(&path.join("ingest")).len(),
            0,
            "{image}: something half-done is left"
        );
        assert_eq!(names(&path.join("layers/sha256")).len(), 1, "{image}");
        assert!(
            store.image(&small.manifest_digest).unwrap().is_some(),
            "{image}"
        );
        // There is room again: the store goes on.
        store
            .pull(&registry.reference("next:t"), |_| {})
            .await
            .unwrap();
        drop(store);
        std::fs::remove_dir_all(&path).unwrap();
    }
}
