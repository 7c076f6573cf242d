//! What mounts a container finds, seen from inside: attributes, propagation, copies, maps.

mod support;

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use longshore_sys::{MountAttributes, mount_setattr};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{MountFlags, mount, mount_bind};
use serde_json::{Value, json};
use support::{Host, Root};

fn push(spec: &mut Value, mount: Value) {
    spec["mounts"].as_array_mut().unwrap().push(mount);
}

fn tmpfs(place: &Path) {
    std::fs::create_dir_all(place).unwrap();
    mount("tmpfs", place, "tmpfs", MountFlags::empty(), c"").unwrap();
}

fn share(place: &Path) {
    let opened: OwnedFd = rustix::fs::openat(CWD, place, OFlags::PATH, Mode::empty()).unwrap();
    let shared = MountAttributes {
        propagation: libc::MS_SHARED,
        ..Default::default()
    };
    mount_setattr(opened.as_fd(), shared, false).unwrap();
}

/// The line of a mount point in a mountinfo text: (attributes, optional fields).
fn line<'a>(table: &'a str, point: &str) -> (&'a str, Vec<&'a str>) {
    let found = table.lines().rev().find_map(|line| {
        let fields: Vec<&str> = line.split(' ').collect();
        let end = fields.iter().position(|field| *field == "-")?;
        (fields[4] == point).then(|| (fields[5], fields[6..end].to_vec()))
    });
    found.unwrap_or_else(|| panic!("no {point} in {table}"))
}

fn table(host: &Host, change: impl FnOnce(&mut Value)) -> String {
    let root = Root::busybox();
    let (exit, table) = host.run(
        &host.spec(&["/bin/cat", "/proc/self/mountinfo"], change),
        root,
    );
    assert_eq!(exit.code, 0, "{table}");
    std::fs::remove_dir_all(host.log_dir()).unwrap();
    table
}

#[test]
#[ignore = "needs root"]
fn attributes_reach_a_mount_or_all_below_it() {
    let host = Host::new();
    let data = host.directory.path().join("data");
    tmpfs(&data);
    tmpfs(&data.join("below"));
    let cases = [
        (
            &["rbind", "ro", "noexec"][..],
            "ro,noexec,relatime",
            "rw,relatime",
        ),
        (
            &["rbind", "rro", "rnosuid"],
            "ro,nosuid,relatime",
            "ro,nosuid,relatime",
        ),
        (&["rbind", "rro", "rw"], "rw,relatime", "ro,relatime"),
        (
            &["rbind", "rnoatime", "rnodev"],
            "rw,nodev,noatime",
            "rw,nodev,noatime",
        ),
        (
            &["rbind", "rnoatime", "rstrictatime", "rnodiratime"],
            "rw,nodiratime",
            "rw,nodiratime",
        ),
        (
            &["rbind", "rnoatime", "rrelatime"],
            "rw,relatime",
            "rw,relatime",
        ),
        (
            &["rbind", "rnosymfollow", "symfollow"],
            "rw,relatime",
            "rw,relatime,nosymfollow",
        ),
    ];
    for (options, top, below) in cases {
        let table = table(&host, |spec| {
            push(
                spec,
                json!({"destination": "/d", "source": data, "options": options}),
            );
        });
        assert_eq!(line(&table, "/d").0, top, "{options:?}");
        assert_eq!(line(&table, "/d/below").0, below, "{options:?}");
    }
    rustix::mount::unmount(data.join("below"), rustix::mount::UnmountFlags::empty()).unwrap();
    rustix::mount::unmount(&data, rustix::mount::UnmountFlags::empty()).unwrap();
}

#[test]
#[ignore = "needs root"]
fn binds_propagate_as_the_spec_says() {
    let host = Host::new();
    let data = host.directory.path().join("data");
    tmpfs(&data);
    share(&data);
    let mine = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    let peers = line(&mine, data.to_str().unwrap()).1[0].to_owned();
    let master = peers.replace("shared", "master");
    let cases = [
        (&[][..], None),
        (&["private"], None),
        (&["rprivate"], None),
        (&["slave"], Some(master.as_str())),
        (&["rslave"], Some(master.as_str())),
        (&["shared"], Some(peers.as_str())),
        (&["rshared"], Some(peers.as_str())),
        (&["unbindable"], Some("unbindable")),
        (&["runbindable"], Some("unbindable")),
    ];
    for (options, field) in cases {
        let options: Vec<&str> = ["rbind"].iter().chain(options).copied().collect();
        let table = table(&host, |spec| {
            push(
                spec,
                json!({"destination": "/d", "source": data, "options": options}),
            );
        });
        let found = line(&table, "/d").1.first().copied();
        assert_eq!(found, field, "{options:?}");
    }
    // What is mounted inside reaches the host where that was asked for, and only there.
    for (option, reaches) in [("rshared", true), ("rslave", false), ("rprivate", false)] {
        let script = "/bin/busybox mkdir -p /d/new && /bin/mount -t tmpfs x /d/new && touch /d/new/file && echo done";
        let spec = host.spec(&["/bin/sh", "-c", script], |spec| {
            for set in ["bounding", "effective", "permitted"] {
                spec["process"]["capabilities"][set] = json!(["CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE"]);
            }
            push(
                spec,
                json!({"destination": "/d", "source": data, "options": ["rbind", option]}),
            );
        });
        std::fs::create_dir_all(data.join("new")).unwrap();
        let (_, output) = host.run(&spec, Root::busybox());
        assert!(output.contains("done"), "{output}");
        assert_eq!(data.join("new/file").exists(), reaches, "{option}");
        if reaches {
            rustix::mount::unmount(data.join("new"), rustix::mount::UnmountFlags::empty()).unwrap();
        }
    }
    rustix::mount::unmount(&data, rustix::mount::UnmountFlags::empty()).unwrap();
}

#[test]
#[ignore = "needs root"]
fn the_root_propagates_as_the_spec_says() {
    let host = Host::new();
    for name in ["private", "slave", "shared", "unbindable"] {
        for name in [name.to_owned(), format!("r{name}")] {
            let table = table(&host, |spec| {
                spec["linux"]["rootfsPropagation"] = json!(name)
            });
            let field = line(&table, "/")
                .1
                .first()
                .map(|field| field.split(':').next().unwrap());
            let expected = match name.trim_start_matches('r') {
                "shared" => Some("shared"),
                "unbindable" => Some("unbindable"),
                // The test's root has no peer to be the slave of.
                _ => None,
            };
            assert_eq!(field, expected, "{name}");
        }
    }
}

#[test]
#[ignore = "needs root"]
fn a_tmpfs_has_the_mode_of_the_place_or_a_copy_of_what_is_there() {
    let host = Host::new();
    let root = Root::busybox();
    let at = |name: &str| root.path(name);
    std::fs::create_dir_all(at("t/deep")).unwrap();
    support::write(at("t/deep/file"), "text\n", 0o4751);
    std::os::unix::fs::chown(at("t/deep/file"), Some(33), Some(34)).unwrap();
    std::fs::set_permissions(at("t/deep/file"), std::fs::Permissions::from_mode(0o4751)).unwrap();
    symlink("/etc/passwd", at("t/link")).unwrap();
    for (name, mode) in [("t", 0o712), ("m", 0o701), ("n", 0o700)] {
        std::fs::create_dir_all(at(name)).unwrap();
        std::fs::set_permissions(at(name), std::fs::Permissions::from_mode(mode)).unwrap();
    }
    let script = "stat -c '%n %a' /t /m /n /new /t/deep/file; stat -c '%u:%g' /t/deep/file; readlink /t/link; \
        cat /t/deep/file; touch /t/x; touch /m/x && echo written; grep ' /n ' /proc/self/mountinfo";
    let spec = host.spec(&["/bin/sh", "-c", script], |spec| {
        let tmpfs = |at: &str, options: &[&str]| {
            json!({"destination": at, "type": "tmpfs", "source": "tmpfs", "options": options})
        };
        push(spec, tmpfs("/t", &["tmpcopyup", "ro"]));
        push(spec, tmpfs("/m", &[]));
        push(spec, tmpfs("/n", &["mode=1777", "size=64k", "sync"]));
        push(spec, tmpfs("/new", &[]));
    });
    let (_, output) = host.run(&spec, root);
    let expected = [
        "/t 712",
        "/m 701",
        "/n 1777",
        "/new 1777",
        "/t/deep/file 4751",
        "33:34",
        "/etc/passwd",
        "text",
        "written",
    ];
    for text in expected {
        assert!(
            output.lines().any(|line| line == text),
            "{text} in {output}"
        );
    }
    assert!(output.contains("/t/x: Read-only"), "{output}");
    assert!(
        output.contains("size=64k") && output.contains("sync"),
        "{output}"
    );
}

#[test]
#[ignore = "needs root"]
fn a_mount_is_changed_by_another_that_remounts_it() {
    let host = Host::new();
    let table = table(&host, |spec| {
        push(
            spec,
            json!({"destination": "/t", "type": "tmpfs", "source": "tmpfs", "options": ["size=1m"]}),
        );
        push(
            spec,
            json!({"destination": "/t", "options": ["remount", "ro", "nodev", "size=64k"]}),
        );
    });
    assert_eq!(line(&table, "/t").0, "ro,nodev,relatime");
    assert!(
        table
            .lines()
            .any(|line| line.contains(" /t ") && line.contains("size=64k")),
        "{table}"
    );
    let spec = host.spec(&["/bin/true"], |spec| {
        push(
            spec,
            json!({"destination": "/etc", "options": ["remount", "ro"]}),
        );
    });
    let error = host.create(&spec, Root::busybox()).unwrap_err();
    assert!(error.cause.contains("no mount point"), "{error}");
}

#[test]
#[ignore = "needs root"]
fn a_mount_shows_ids_through_its_own_map() {
    let host = Host::new();
    let data = host.directory.path().join("data");
    std::fs::create_dir(&data).unwrap();
    std::fs::write(data.join("file"), "").unwrap();
    std::os::unix::fs::chown(data.join("file"), Some(5), Some(6)).unwrap();
    let map = |first: u32| json!([{"containerID": 0, "hostID": first, "size": 100}]);
    let spec = host.spec(&["/bin/stat", "-c", "%u:%g", "/d/file"], |spec| {
        push(
            spec,
            json!({"destination": "/d", "source": data, "options": ["bind", "idmap"],
                          "uidMappings": map(1000), "gidMappings": map(2000)}),
        );
    });
    let (_, output) = host.run(&spec, Root::busybox());
    assert_eq!(output, "1005:2006\n");
    assert_eq!(std::fs::metadata(data.join("file")).unwrap().uid(), 5);
}

#[test]
#[ignore = "needs root"]
fn file_systems_with_host_paths_and_symlinks_as_such() {
    let host = Host::new();
    let at = |name: &str| host.directory.path().join(name);
    tmpfs(&at("o"));
    for name in ["o/lower", "o/upper", "o/work"] {
        std::fs::create_dir(at(name)).unwrap();
    }
    std::fs::write(at("o/lower/file"), "from below\n").unwrap();
    symlink("nowhere", at("broken")).unwrap();
    let root = Root::busybox();
    symlink("elsewhere", root.path("target")).unwrap();
    let script = "cat /o/file; echo x > /o/new; readlink /copied/link; readlink /target";
    let spec = host.spec(&["/bin/sh", "-c", script], |spec| {
        let data = format!("lowerdir={},upperdir={}", at("o/lower").display(), at("o/upper").display());
        let mut options: Vec<String> = data.split(',').map(str::to_owned).collect();
        options.push(format!("workdir={}", at("o/work").display()));
        push(spec, json!({"destination": "/o", "type": "overlay", "source": "overlay", "options": options}));
        push(spec, json!({"destination": "/copied/link", "source": at("broken"), "options": ["rbind", "copy-symlink"]}));
        push(spec, json!({"destination": "/target", "source": at("broken"), "options": ["bind", "src-nofollow", "dest-nofollow"]}));
    });
    let (exit, output) = host.run(&spec, root);
    assert_eq!(
        (exit.code, output.as_str()),
        (0, "from below\nnowhere\nnowhere\n")
    );
    assert!(at("o/upper/new").exists());
    rustix::mount::unmount(at("o"), rustix::mount::UnmountFlags::empty()).unwrap();
}

#[test]
#[ignore = "needs root"]
fn a_mount_may_take_the_place_of_the_root() {
    let host = Host::new();
    let other = host.directory.path().join("other");
    std::fs::create_dir_all(other.join("bin")).unwrap();
    support::program::install("/bin/busybox", other.join("bin/busybox"));
    let spec = host.spec(
        &[
            "/bin/busybox",
            "sh",
            "-c",
            "/bin/busybox ls /; /bin/busybox ls /..",
        ],
        |spec| {
            let first = json!({"destination": "/", "source": other, "options": ["bind"]});
            spec["mounts"].as_array_mut().unwrap().insert(0, first);
        },
    );
    let (exit, output) = host.run(&spec, Root::busybox());
    assert_eq!(
        (exit.code, output.as_str()),
        (0, "bin\ndev\nproc\nsys\nbin\ndev\nproc\nsys\n")
    );
}

#[test]
#[ignore = "needs root"]
fn a_container_in_a_user_namespace_has_all_that_others_have() {
    let host = Host::new();
    let data = host.directory.path().join("secret/data");
    std::fs::create_dir_all(&data).unwrap();
    std::fs::write(data.join("file"), "of the host\n").unwrap();
    std::os::unix::fs::chown(data.join("file"), Some(0), Some(0)).unwrap();
    // Init could not go through here, its parent can.
    std::fs::set_permissions(
        data.parent().unwrap(),
        std::fs::Permissions::from_mode(0o700),
    )
    .unwrap();
    let root = Root::busybox();
    for name in ["proc", "sys", "dev", "d", "m"] {
        std::fs::create_dir(root.path(name)).unwrap();
    }
    let script = "cat /d/file; stat -c '%u' /d/file /m/file; ls -d /proc/1/ns; ls /sys/class >/dev/null && echo sysfs; \
        head -c 2 /dev/zero | wc -c; stat -c '%a %u:%g %t:%T' /dev/null /dev/mine; echo x > /dev/null && echo works; \
        wc -c < /proc/timer_list; echo x > /proc/sys/kernel/hostname; ls /sys/fs/cgroup | wc -l; ls /dev/pts; \
        grep -E ' /dev/(null|mine) ' /proc/self/mountinfo";
    let spec = host.spec(&["/bin/sh", "-c", script], |spec| {
        let map = json!([{"containerID": 0, "hostID": 100_000, "size": 100}]);
        spec["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
        spec["linux"]["uidMappings"] = map.clone();
        spec["linux"]["gidMappings"] = map;
        spec["linux"]["devices"] =
            json!([{"path": "/dev/mine", "type": "c", "major": 1, "minor": 7, "fileMode": 0o640, "uid": 3, "gid": 4}]);
        push(spec, json!({"destination": "/d", "source": data, "options": ["bind", "ro"]}));
        push(spec, json!({"destination": "/m", "source": data, "options": ["bind", "idmap"]}));
    });
    let (exit, output) = host.run(&spec, root);
    let expected = [
        "of the host",
        "65534",
        "0",
        "/proc/1/ns",
        "sysfs",
        "2",
        "666 0:0 1:3",
        "640 3:4 1:7",
        "works",
    ];
    for text in expected {
        assert!(
            output.lines().any(|line| line == text),
            "{text} in {output}"
        );
    }
    assert!(output.contains("Read-only file system"), "{output}");
    assert_eq!(
        output.matches("nosuid,noexec").count(),
        2,
        "{exit:?} {output}"
    );
}

/// No network namespace of its own: sysfs is the host's, cannot be mounted, and comes without the host's cgroups.
#[test]
#[ignore = "needs root"]
fn a_user_namespace_in_the_host_s_network_sees_a_read_only_sysfs() {
    let host = Host::new();
    let root = Root::busybox();
    for name in ["proc", "sys", "dev"] {
        std::fs::create_dir(root.path(name)).unwrap();
    }
    let spec = host.spec(
        &[
            "/bin/sh",
            "-c",
            "ls /sys/class >/dev/null && echo sysfs; ls /sys/fs/cgroup; cat /proc/self/mountinfo",
        ],
        |spec| {
            let map = json!([{"containerID": 0, "hostID": 100_000, "size": 100}]);
            let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
            namespaces.retain(|one| one["type"] != "network");
            namespaces.push(json!({"type": "user"}));
            spec["linux"]["uidMappings"] = map.clone();
            spec["linux"]["gidMappings"] = map;
            spec["mounts"]
                .as_array_mut()
                .unwrap()
                .retain(|mount| mount["type"] != "cgroup");
        },
    );
    let (exit, output) = host.run(&spec, root);
    assert_eq!(exit.code, 0, "{output}");
    assert!(
        output.starts_with("sysfs\n") && line(&output, "/sys").0.starts_with("ro,"),
        "{output}"
    );
    assert_eq!(line(&output, "/sys/fs/cgroup").0, "ro,relatime");
    let after_the_listing = output.lines().nth(1).unwrap();
    assert!(
        after_the_listing.contains(" - "),
        "the host's cgroups are in sight: {output}"
    );
}

#[test]
#[ignore = "needs root"]
fn only_a_procfs_may_be_bound_at_proc() {
    let host = Host::new();
    let fake = host.directory.path().join("fake");
    std::fs::create_dir_all(fake.join("self")).unwrap();
    let bound = |source: &Path| {
        host.spec(&["/bin/ls", "/proc/self/status"], |spec| {
            spec["mounts"][0] =
                json!({"destination": "/proc", "source": source, "options": ["rbind"]});
            spec["linux"]["namespaces"]
                .as_array_mut()
                .unwrap()
                .retain(|one| one["type"] != "pid");
        })
    };
    // A directory of a procfs is none either.
    for source in [fake.as_path(), Path::new("/proc/sys"), Path::new("/sys")] {
        let error = host.create(&bound(source), Root::busybox()).unwrap_err();
        assert!(error.cause.contains("not the root of a procfs"), "{error}");
    }
    mount_bind("/proc/sys", &fake).unwrap();
    assert!(host.create(&bound(&fake), Root::busybox()).is_err());
    rustix::mount::unmount(&fake, rustix::mount::UnmountFlags::empty()).unwrap();
    let (exit, output) = host.run(&bound(Path::new("/proc")), Root::busybox());
    assert_eq!((exit.code, output.as_str()), (0, "/proc/self/status\n"));
}

/// mountinfo lists mounts in the order in which they were made.
#[test]
#[ignore = "needs root"]
fn mounts_are_in_the_spec_s_order() {
    let host = Host::new();
    let data = host.directory.path().join("data");
    std::fs::create_dir(&data).unwrap();
    let table = table(&host, |spec| {
        let mounts = spec["mounts"].as_array_mut().unwrap();
        mounts.retain(|mount| mount["type"] != "cgroup");
        let bind = json!({"destination": "/d", "source": data, "options": ["bind"]});
        mounts.insert(1, bind);
        spec["linux"]["maskedPaths"] = json!([]);
        spec["linux"]["readonlyPaths"] = json!([]);
    });
    let points: Vec<&str> = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .collect();
    let expected = [
        "/",
        "/proc",
        "/d",
        "/dev",
        "/dev/pts",
        "/dev/shm",
        "/dev/mqueue",
        "/sys",
    ];
    assert_eq!(points, expected);
}
