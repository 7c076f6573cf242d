//! Device nodes: the spec's, the default ones, and a /dev that is not the container's.

mod support;

use std::os::unix::fs::symlink;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use serde_json::{Value, json};
use support::{Host, Root};

fn devices(spec: &mut Value, devices: Value) {
    spec["linux"]["devices"] = devices;
}

fn without_dev(spec: &mut Value) {
    let mounts = spec["mounts"].as_array_mut().unwrap();
    mounts.retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
}

fn null(place: &Path) {
    let mode = Mode::from_raw_mode(0o640);
    mknodat(CWD, place, FileType::CharacterDevice, mode, makedev(1, 3)).unwrap();
}

#[test]
#[ignore = "needs root"]
fn nodes_of_every_kind_stand_where_the_spec_says() {
    let host = Host::new();
    let root = Root::busybox();
    null(&root.path("etc/there"));
    let script = "stat -c '%n %F %a %u:%g %t:%T' /dev/fifo /dev/block /deep/er/char /dev/null /etc/there /dev/bare; \
        readlink /dev/ptmx; touch /dev/x";
    let spec = host.spec(&["/bin/sh", "-c", script], |spec| {
        // Devices are made on a /dev that is read-only afterwards.
        spec["mounts"][1]["options"] = json!(["ro", "mode=755"]);
        spec["mounts"].as_array_mut().unwrap().retain(|mount| mount["destination"] != "/dev/mqueue");
        devices(spec, json!([
            {"path": "/dev/fifo", "type": "p", "fileMode": 0o660, "uid": 1, "gid": 2},
            {"path": "/dev/block/", "type": "b", "major": 7, "minor": 200, "fileMode": 0o157, "uid": 10, "gid": 11},
            {"path": "/deep/er/char", "type": "u", "major": 10, "minor": 229, "fileMode": 0o4},
            {"path": "/dev/null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o600, "uid": 5, "gid": 6},
            {"path": "/etc/there", "type": "c", "major": 1, "minor": 3, "fileMode": 0o666},
            {"path": "/dev/bare", "type": "c", "major": 1, "minor": 5},
            {"path": "/dev/ptmx", "type": "c", "major": 5, "minor": 2},
        ]));
    });
    let (_, output) = host.run(&spec, root);
    let expected = [
        "/dev/fifo fifo 660 1:2 0:0",
        "/dev/block block special file 157 10:11 7:c8",
        "/deep/er/char character special file 4 0:0 a:e5",
        // In the place of a default one.
        "/dev/null character special file 600 5:6 1:3",
        // What the image brings stays as it is.
        "/etc/there character special file 640 0:0 1:3",
        "/dev/bare character special file 666 0:0 1:5",
        "pts/ptmx",
    ];
    for text in expected {
        assert!(
            output.lines().any(|line| line == text),
            "{text} in {output}"
        );
    }
    assert!(output.contains("/dev/x: Read-only"), "{output}");
}

#[test]
#[ignore = "needs root"]
fn something_else_in_the_place_of_a_device_is_an_error() {
    let host = Host::new();
    for place in ["file", "link", "other"] {
        let root = Root::busybox();
        std::fs::write(root.path("etc/file"), "").unwrap();
        symlink("/dev/zero", root.path("etc/link")).unwrap();
        null(&root.path("etc/other"));
        let spec = host.spec(&["/bin/true"], |spec| {
            let path = format!("/etc/{place}");
            devices(
                spec,
                json!([{"path": path, "type": "c", "major": 1, "minor": 5}]),
            );
        });
        let error = host.create(&spec, root).unwrap_err();
        assert!(error.cause.contains("something else"), "{error}");
    }
}

#[test]
#[ignore = "needs root"]
fn a_dev_that_is_bound_is_left_as_it_is() {
    let host = Host::new();
    let theirs = host.directory.path().join("dev");
    std::fs::create_dir(&theirs).unwrap();
    null(&theirs.join("null"));
    let spec = |list: Value| {
        host.spec(&["/bin/ls", "/dev"], |spec| {
            without_dev(spec);
            let bind = json!({"destination": "/dev", "source": theirs, "options": ["rbind"]});
            spec["mounts"].as_array_mut().unwrap().push(bind);
            devices(spec, list);
        })
    };
    let there = json!({"path": "/dev/null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o777, "uid": 9});
    let (exit, output) = host.run(&spec(json!([there])), Root::busybox());
    assert_eq!((exit.code, output.as_str()), (0, "null\n"));
    let stat = rustix::fs::stat(theirs.join("null")).unwrap();
    assert_eq!(
        (stat.st_mode & 0o777, stat.st_uid),
        (0o640, 0),
        "nobody's but theirs"
    );
    let missing = json!({"path": "/dev/zero", "type": "c", "major": 1, "minor": 5});
    let other = json!({"path": "/dev/null", "type": "c", "major": 1, "minor": 5});
    for device in [missing, other] {
        assert!(
            host.create(&spec(json!([device])), Root::busybox())
                .is_err()
        );
    }
    assert_eq!(std::fs::read_dir(&theirs).unwrap().count(), 1);
}

/// Where no mount stands at /dev, the default devices and links are made in the image's own.
#[test]
#[ignore = "needs root"]
fn an_image_s_own_dev_is_furnished() {
    let host = Host::new();
    let victim = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(victim.path(), "of the host\n").unwrap();
    let root = Root::busybox();
    std::fs::create_dir(root.path("dev")).unwrap();
    symlink(victim.path(), root.path("dev/ptmx")).unwrap();
    let spec = host.spec(
        &[
            "/bin/sh",
            "-c",
            "ls /dev; echo x > /dev/null; readlink /dev/ptmx",
        ],
        without_dev,
    );
    let (exit, output) = host.run(&spec, root);
    assert_eq!(exit.code, 0, "{output}");
    let names =
        "fd\nfull\nnull\nptmx\nrandom\nstderr\nstdin\nstdout\ntty\nurandom\nzero\npts/ptmx\n";
    assert_eq!(output, names);
    assert_eq!(
        std::fs::read_to_string(victim.path()).unwrap(),
        "of the host\n"
    );
}

/// CVE-2026-41579, CVE-2026-47766 and CVE-2025-31133: the image's /dev, or its null device, is a link.
#[test]
#[ignore = "needs root"]
fn links_in_the_place_of_an_image_s_devices_are_refused() {
    let host = Host::new();
    let victim = tempfile::tempdir().unwrap();
    let climbing = format!("../../../../../../..{}", victim.path().display());
    for link in [victim.path().to_str().unwrap(), &climbing, "etc"] {
        let root = Root::busybox();
        symlink(link, root.path("dev")).unwrap();
        let error = host
            .create(&host.spec(&["/bin/true"], without_dev), root)
            .unwrap_err();
        assert!(error.cause.contains("real directory"), "{error}");
    }
    let root = Root::busybox();
    std::fs::create_dir(root.path("dev")).unwrap();
    symlink("/proc/sysrq-trigger", root.path("dev/null")).unwrap();
    let error = host
        .create(&host.spec(&["/bin/true"], without_dev), root)
        .unwrap_err();
    assert!(error.cause.contains("something else"), "{error}");
    assert_eq!(std::fs::read_dir(victim.path()).unwrap().count(), 0);
}

fn volume_at(spec: &mut Value, source: &Path, destination: &str) {
    let bind = json!({"destination": destination, "source": source, "options": ["rbind"]});
    spec["mounts"].as_array_mut().unwrap().push(bind);
}

/// A namespace with ids of its own, where a node is a bind of one that the parent made.
fn in_a_user_namespace(spec: &mut Value) {
    let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
    spec["linux"]["uidMappings"] = map.clone();
    spec["linux"]["gidMappings"] = map;
    let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.push(json!({"type": "user"}));
}

/// The image's link leads a volume over /dev: what the container needs there is not made on the host.
#[test]
#[ignore = "needs root"]
fn nothing_is_made_in_a_volume_that_a_link_puts_over_dev() {
    let host = Host::new();
    let volume = host.directory.path().join("volume");
    std::fs::create_dir(&volume).unwrap();
    std::fs::set_permissions(
        host.directory.path(),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .unwrap();
    let root = || {
        let root = Root::busybox();
        for name in ["dev", "proc", "sys"] {
            std::fs::create_dir(root.path(name)).unwrap();
        }
        symlink("/dev", root.path("data")).unwrap();
        root
    };
    for user in [false, true] {
        let change = |spec: &mut Value| {
            if user {
                in_a_user_namespace(spec);
            }
            devices(
                spec,
                json!([{"path": "/dev/net/tun", "type": "c", "major": 10, "minor": 200}]),
            );
            volume_at(spec, &volume, "/data");
        };
        let spec = host.spec(&["/bin/busybox", "true"], change);
        let (exit, output) = host.run(&spec, root());
        assert_eq!(exit.code, 0, "{output}");
        std::fs::remove_dir_all(host.log_dir()).unwrap();
        assert_eq!(std::fs::read_dir(&volume).unwrap().count(), 0, "{user}");

        // Here it covers the image's own /dev, in which they would be made.
        let spec = host.spec(&["/bin/busybox", "true"], |spec| {
            change(spec);
            without_dev(spec);
        });
        let error = host.create(&spec, root()).unwrap_err();
        assert!(error.cause.contains("in its way"), "{error}");
        assert_eq!(std::fs::read_dir(&volume).unwrap().count(), 0, "{user}");
    }
}

/// Links inside the container's /dev, or to it, on the way to a node or a link.
#[test]
#[ignore = "needs root"]
fn a_node_behind_links_stays_on_the_container_s_own_file_systems() {
    let host = Host::new();
    let volume = host.directory.path().join("volume");
    std::fs::create_dir(&volume).unwrap();
    let fifo = |path: &str| json!([{"path": path, "type": "p", "fileMode": 0o600}]);
    let root = || {
        let root = Root::busybox();
        for name in ["dev/inside", "etc/real"] {
            std::fs::create_dir_all(root.path(name)).unwrap();
        }
        symlink("/v", root.path("dev/away")).unwrap();
        symlink("../v", root.path("etc/away")).unwrap();
        symlink("inside", root.path("dev/near")).unwrap();
        symlink("/etc/real", root.path("dev/etc")).unwrap();
        symlink("/proc/self/root", root.path("dev/magic")).unwrap();
        symlink("loop", root.path("dev/loop")).unwrap();
        root
    };
    let copied = json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup"]});
    let image = |spec: &mut Value, path: &str| {
        without_dev(spec);
        volume_at(spec, &volume, "/v");
        devices(spec, fifo(path));
    };
    // In the image's own /dev a link is followed as long as it stays in the image.
    for (path, found) in [
        ("/dev/near/x", "/dev/inside/x"),
        ("/dev/etc/x", "/etc/real/x"),
    ] {
        let spec = host.spec(&["/bin/stat", "-c", "%F", found], |spec| image(spec, path));
        let (exit, output) = host.run(&spec, root());
        assert_eq!((exit.code, output.as_str()), (0, "fifo\n"), "{path}");
        std::fs::remove_dir_all(host.log_dir()).unwrap();
    }
    for path in [
        "/dev/away/x",
        "/etc/away/x",
        "/dev/magic/v/x",
        "/dev/loop/x",
    ] {
        let spec = host.spec(&["/bin/true"], |spec| image(spec, path));
        let error = host.create(&spec, root()).unwrap_err();
        assert_eq!(error.step, "make device", "{error}");
    }
    // On a file system over /dev that has the image's links, none is.
    for path in ["/dev/away/x", "/dev/near/x", "/dev/etc/x"] {
        let spec = host.spec(&["/bin/true"], |spec| {
            spec["mounts"][1] = copied.clone();
            volume_at(spec, &volume, "/v");
            devices(spec, fifo(path));
        });
        let error = host.create(&spec, root()).unwrap_err();
        assert!(error.cause.contains("in its way"), "{error}");
    }
    assert_eq!(std::fs::read_dir(&volume).unwrap().count(), 0);
    // Who wants a node in a volume says so.
    let spec = host.spec(&["/bin/stat", "-c", "%F", "/v/x"], |spec| {
        volume_at(spec, &volume, "/v");
        devices(spec, fifo("/v/x"));
    });
    let (_, output) = host.run(&spec, root());
    assert_eq!(output, "fifo\n");
}
