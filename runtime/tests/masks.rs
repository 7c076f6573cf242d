//! Masked and read-only paths: what they hide, what they follow, and that nothing is left open because it could not be
//! looked at.

mod support;

use std::os::unix::fs::symlink;
use std::path::Path;

use rustix::mount::{UnmountFlags, mount_bind, unmount};
use serde_json::json;
use support::{Host, Root};

#[test]
#[ignore = "needs root"]
fn masks_follow_links_inside_the_root_and_may_overlap() {
    let host = Host::new();
    let victim = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(victim.path(), "of the host\n").unwrap();
    let root = Root::busybox();
    std::fs::create_dir_all(root.path("var/deep")).unwrap();
    std::fs::write(root.path("var/deep/file"), "hidden\n").unwrap();
    std::fs::write(root.path("var/secret"), "hidden\n").unwrap();
    symlink("../../../../var/secret", root.path("etc/link")).unwrap();
    symlink(victim.path(), root.path("etc/host")).unwrap();
    let script = "cat /var/secret /etc/link /var/deep/file; ls /var/deep; touch /var/deep/x /var/x; cat /etc/passwd/x";
    let spec = host.spec(&["/bin/sh", "-c", script], |spec| {
        spec["linux"]["maskedPaths"] = json!([
            "/etc/link",
            "/etc/link",
            "/var/deep",
            "/var/deep/file",
            "/etc/host",
            "/etc/passwd/x",
            "/none"
        ]);
        spec["linux"]["readonlyPaths"] = json!(["/var", "/var/deep", "/none"]);
    });
    let (_, output) = host.run(&spec, root);
    assert!(!output.contains("hidden"), "{output}");
    assert_eq!(
        output.matches("Read-only file system").count(),
        2,
        "{output}"
    );
    assert_eq!(
        std::fs::read_to_string(victim.path()).unwrap(),
        "of the host\n"
    );
}

/// CVE-2025-31133, CVE-2025-62161: what lies at the host's /dev/null may be anything; a mask that could be read or written
/// is none.
#[test]
#[ignore = "needs root"]
fn a_null_device_that_is_none_masks_nothing() {
    let host = Host::new();
    let file = host.directory.path().join("file");
    std::fs::write(&file, "").unwrap();
    for source in [Path::new("/dev/zero"), &file] {
        mount_bind(source, "/dev/null").unwrap();
        let created = host.create(&host.spec(&["/bin/true"], |_| {}), Root::busybox());
        unmount("/dev/null", UnmountFlags::DETACH).unwrap();
        let refused = created.err().unwrap();
        assert!(refused.cause.contains("not the null device"), "{refused}");
        host.assert_nothing_left();
    }
}

/// What cannot be looked at is not absent: it might be there the next moment.
#[test]
#[ignore = "needs root"]
fn what_cannot_be_looked_at_is_refused_and_not_left_open() {
    let host = Host::new();
    for list in ["maskedPaths", "readonlyPaths"] {
        let root = Root::busybox();
        symlink("loop", root.path("etc/loop")).unwrap();
        let spec = host.spec(&["/bin/true"], |spec| {
            spec["linux"][list] = json!(["/none", "/etc/passwd/none", "/etc/loop/secret"]);
        });
        let refused = host.create(&spec, root).err().unwrap();
        assert_eq!(refused.subject, "/etc/loop/secret", "{refused}");
        assert_eq!(refused.errno, Some(libc::ELOOP), "{refused}");
        host.assert_nothing_left();
    }
}
