//! A volume whose owner exchanges a directory for a symlink while containers are made.
//!
//! LONGSHORE_TEST_ROUNDS says how many are made for each race; `scripts/test races` lets it run for minutes.

mod support;

use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde_json::json;
use support::{Host, Root};

/// Few, so that it takes seconds.
const ROUNDS: u32 = 20;

fn rounds() -> u32 {
    let asked = std::env::var("LONGSHORE_TEST_ROUNDS");
    asked.map_or(ROUNDS, |text| text.parse().expect("a number"))
}

/// Exchanges two names as fast as it can, for as long as `work` lasts.
fn exchanging<T>(one: &Path, other: &Path, work: impl FnOnce() -> T) -> T {
    let ended = AtomicBool::new(false);
    /// Ends the exchange also where `work` panics.
    struct End<'a>(&'a AtomicBool);
    impl Drop for End<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    std::thread::scope(|scope| {
        let _end = End(&ended);
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE).unwrap();
            }
        });
        work()
    })
}

/// CVE-2021-30465, CVE-2019-18837, CVE-2025-52881: whatever the place of a mount is when it is looked at, the mount
/// never lands in /proc, where it could fake what is written and read there, nor on the host.
#[test]
#[ignore = "needs root"]
fn a_mount_never_lands_in_proc_nor_on_the_host() {
    let host = Host::new();
    let volume = host.directory.path().join("volume");
    let victim = host.directory.path().join("victim");
    std::fs::create_dir_all(&victim).unwrap();
    let (mut landed, mut refused) = (0, 0);
    for target in [Path::new("/proc"), Path::new("/proc/self"), &victim] {
        std::fs::create_dir_all(volume.join("a")).unwrap();
        symlink(target, volume.join("b")).unwrap();
        let spec = host.spec(&["/bin/cat", "/proc/self/mountinfo"], |spec| {
            spec["linux"]["maskedPaths"] = json!([]);
            spec["linux"]["readonlyPaths"] = json!([]);
            let mounts = spec["mounts"].as_array_mut().unwrap();
            mounts.push(json!({"destination": "/v", "source": volume, "options": ["bind"]}));
            mounts.push(json!({"destination": "/v/a", "type": "tmpfs", "source": "one"}));
            mounts.push(json!({"destination": "/v/b/attr", "type": "tmpfs", "source": "two"}));
            mounts.push(json!({"destination": "/v/b/made", "source": volume, "options": ["bind"]}));
        });
        exchanging(&volume.join("a"), &volume.join("b"), || {
            for _ in 0..rounds() {
                let Ok(container) = host.create(&spec, Root::busybox()) else {
                    refused += 1;
                    continue;
                };
                container.start().unwrap();
                support::wait(&container);
                let table = host.output();
                container.delete().unwrap();
                std::fs::remove_dir_all(host.log_dir()).unwrap();
                let points: Vec<&str> = table
                    .lines()
                    .filter_map(|line| line.split(' ').nth(4))
                    .collect();
                let in_proc: Vec<_> = points
                    .iter()
                    .filter(|point| point.starts_with("/proc"))
                    .collect();
                assert_eq!(in_proc, [&"/proc"], "{table}");
                landed += 1;
            }
        });
        assert_eq!(std::fs::read_dir(&victim).unwrap().count(), 0);
        std::fs::remove_dir_all(&volume).unwrap();
    }
    assert!(
        landed > 0 && refused > 0,
        "both sides of the race were seen: {landed} {refused}"
    );
}

/// A path to be hidden or protected that turns into a link: what it leads to inside the root is hidden, nothing of
/// the host's is touched, and the container does not start with what should be hidden in sight.
#[test]
#[ignore = "needs root"]
fn a_masked_path_that_is_exchanged_stays_inside() {
    let host = Host::new();
    let volume = host.directory.path().join("volume");
    let victim = host.directory.path().join("victim");
    std::fs::create_dir_all(volume.join("a")).unwrap();
    std::fs::create_dir_all(&victim).unwrap();
    symlink(&victim, volume.join("b")).unwrap();
    let before = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    let spec = host.spec(&["/bin/true"], |spec| {
        let bind = json!({"destination": "/v", "source": volume, "options": ["bind"]});
        spec["mounts"].as_array_mut().unwrap().push(bind);
        spec["linux"]["maskedPaths"] = json!(["/v/a", "/v/b"]);
        spec["linux"]["readonlyPaths"] = json!(["/v/a", "/v/b"]);
        spec["linux"]["devices"] = json!([{"path": "/v/a/node", "type": "p"}]);
    });
    exchanging(&volume.join("a"), &volume.join("b"), || {
        for _ in 0..rounds() {
            if let Ok(container) = host.create(&spec, Root::busybox()) {
                container.delete().unwrap();
            }
        }
    });
    assert_eq!(std::fs::read_dir(&victim).unwrap().count(), 0);
    assert_eq!(
        std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap(),
        before
    );
}
