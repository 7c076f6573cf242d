//! What cannot run, or tries to reach the host: an error in words, and nothing left.

mod support;

use std::os::unix::fs::symlink;

use serde_json::json;
use support::{Host, Root, write};

#[test]
#[ignore = "needs root"]
fn an_entrypoint_that_cannot_run_fails_the_creation() {
    let host = Host::new();
    let cases = [
        ("/bin/missing", "no such file in the image"),
        ("missing", "no such program in PATH (/bin)"),
        ("/tmp/plain", "chmod +x"),
        ("/tmp", "it is a directory"),
        ("/tmp/plain/below", "is not a directory"),
        ("/tmp/loop", "too many symlinks"),
        ("/dev/null", "permission denied"),
    ];
    for (entrypoint, words) in cases {
        let root = Root::busybox();
        write(root.path("tmp/plain"), "text", 0o644);
        symlink("loop", root.path("tmp/loop")).unwrap();
        let error = host
            .create(&host.spec(&[entrypoint], |_| {}), root)
            .unwrap_err();
        assert_eq!(
            (error.step.as_str(), error.subject.as_str()),
            ("resolve entrypoint", entrypoint)
        );
        assert!(error.cause.contains(words), "{error}");
        host.assert_nothing_left();
        assert!(!host.log_dir().exists());
    }
}

#[test]
#[ignore = "needs root"]
fn permission_is_judged_for_the_programs_user() {
    let host = Host::new();
    let spec = host.spec(&["/tmp/mine"], |spec| {
        spec["process"]["user"] = json!({"uid": 33, "gid": 33})
    });
    let root = Root::busybox();
    write(root.path("tmp/mine"), "#!/bin/sh\n", 0o700);
    let error = host.create(&spec, root).unwrap_err();
    assert_eq!(error.errno, Some(libc::EACCES), "{error}");
}

#[test]
#[ignore = "needs root"]
fn what_only_execve_can_see_fails_the_start() {
    let host = Host::new();
    for (text, words) in [
        ("echo no first line", "#!/bin/sh"),
        ("#!/no/interpreter\n", "its interpreter is missing"),
    ] {
        let root = Root::busybox();
        write(root.path("tmp/script"), text, 0o755);
        let container = host
            .create(&host.spec(&["/tmp/script"], |_| {}), root)
            .unwrap();
        let error = container.start().unwrap_err();
        assert_eq!(
            (error.step.as_str(), error.subject.as_str()),
            ("resolve entrypoint", "/tmp/script")
        );
        assert!(error.cause.contains(words), "{error}");
        let exit = support::wait(&container);
        assert!(!exit.started && exit.code == 127, "{exit:?}");
        assert!(container.start().is_err());
        container.delete().unwrap();
    }
}

/// The image's /dev, /etc and a volume's place are links to a directory of the host.
#[test]
#[ignore = "needs root"]
fn links_in_the_image_never_reach_the_host() {
    let host = Host::new();
    let victim = tempfile::tempdir().unwrap();
    std::fs::write(victim.path().join("resolv.conf"), "of the host\n").unwrap();
    let source = tempfile::NamedTempFile::new().unwrap();
    let climbing = format!("../../../../../../..{}", victim.path().display());
    for link in [victim.path().to_str().unwrap(), &climbing] {
        let root = Root::busybox();
        std::fs::remove_dir_all(root.path("etc")).unwrap();
        for name in ["dev", "etc", "work"] {
            // Each somewhere else: what is made on a mount that a link has led there is refused.
            symlink(format!("{link}/{name}"), root.path(name)).unwrap();
        }
        let spec = host.spec(&["/bin/sh", "-c", "ls /dev/null; cat /etc/resolv.conf; pwd"], |spec| {
            spec["process"]["cwd"] = json!("/work/deep");
            spec["linux"]["devices"] = json!([{"path": "/etc/extra", "type": "c", "major": 1, "minor": 3}]);
            let mounts = spec["mounts"].as_array_mut().unwrap();
            mounts.push(json!({"destination": "/etc/resolv.conf", "source": source.path(), "options": ["bind"]}));
        });
        let (exit, output) = host.run(&spec, root);
        assert_eq!(exit.code, 0, "{output}");
        assert!(
            output.contains("/dev/null\n") && !output.contains("of the host"),
            "{output}"
        );
        let left: Vec<_> = std::fs::read_dir(victim.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(left, ["resolv.conf"]);
    }
}

#[test]
#[ignore = "needs root"]
fn proc_and_sys_that_are_links_are_refused() {
    let host = Host::new();
    let victim = tempfile::tempdir().unwrap();
    for name in ["proc", "sys"] {
        let root = Root::busybox();
        symlink(victim.path(), root.path(name)).unwrap();
        let error = host
            .create(&host.spec(&["/bin/true"], |_| {}), root)
            .unwrap_err();
        assert!(
            error.subject.ends_with(&format!("at /{name}"))
                && error.cause.contains("real directory"),
            "{error}"
        );
    }
    assert_eq!(std::fs::read_dir(victim.path()).unwrap().count(), 0);
}

#[test]
#[ignore = "needs root"]
fn a_mount_that_leads_into_proc_is_refused() {
    let host = Host::new();
    let root = Root::busybox();
    symlink("/proc/sys", root.path("data")).unwrap();
    let spec = host.spec(&["/bin/true"], |spec| {
        let mounts = spec["mounts"].as_array_mut().unwrap();
        mounts.push(json!({"destination": "/data", "type": "tmpfs", "source": "tmpfs"}));
    });
    let error = host.create(&spec, root).unwrap_err();
    assert!(error.cause.contains("into /proc"), "{error}");
}

/// CVE-2024-21626: a descriptor of the runtime as the working directory.
#[test]
#[ignore = "needs root"]
fn a_working_directory_behind_a_descriptor_is_refused() {
    let host = Host::new();
    for number in 0..24 {
        let spec = host.spec(&["/bin/ls", ".."], |spec| {
            spec["process"]["cwd"] = json!(format!("/proc/self/fd/{number}"))
        });
        assert!(host.create(&spec, Root::busybox()).is_err(), "{number}");
        let spec = host.spec(&[&format!("/proc/self/fd/{number}")], |_| {});
        assert!(
            host.create(&spec, Root::busybox())
                .and_then(|container| container.start())
                .is_err(),
            "{number}"
        );
        host.container().delete().unwrap();
    }
}

#[test]
#[ignore = "needs root"]
fn a_cgroup_that_another_container_is_in_is_refused() {
    let host = Host::new();
    let spec = host.spec(&["/bin/true"], |spec| {
        spec["linux"]["cgroupsPath"] = json!(format!("{}/monitor", host.cgroup))
    });
    let error = host.create(&spec, Root::busybox()).unwrap_err();
    assert!(error.cause.contains("another container"), "{error}");
    assert!(host.group("monitor").exists(), "what is not ours stays");
}

#[test]
#[ignore = "needs root"]
fn memory_beyond_the_limit_is_an_oom_kill() {
    let host = Host::new();
    let spec = host.spec(
        &[
            "/bin/dd",
            "if=/dev/zero",
            "of=/dev/null",
            "bs=256M",
            "count=1",
        ],
        |spec| {
            spec["linux"]["resources"] = json!({"memory": {"limit": 16 << 20, "swap": 16 << 20}});
        },
    );
    let (exit, _) = host.run(&spec, Root::busybox());
    assert_eq!(exit.code, 137);
    assert!(exit.oom_kills >= 1, "{exit:?}");
}
