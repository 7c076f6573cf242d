//! The runtime on a kernel that lacks what came with Linux 5.2 to 5.12: a filter answers those calls with ENOSYS.
//!
//! What a container finds must be the same, and what keeps an image's links and leaked descriptors from harm must
//! hold as well.

mod support;

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use serde_json::{Value, json};
use support::bundle::Bundle;

/// seccomp(2) of this thread, for it and all that it starts.
fn forget_newer_calls() {
    const RETURN: u16 = 0x06;
    const ENOSYS: u32 = 0x0005_0000 | libc::ENOSYS as u32;
    let missing = [
        libc::SYS_fsopen,
        libc::SYS_fsconfig,
        libc::SYS_fsmount,
        libc::SYS_fspick,
        libc::SYS_open_tree,
        libc::SYS_move_mount,
        libc::SYS_mount_setattr,
        libc::SYS_openat2,
        libc::SYS_clone3,
        libc::SYS_close_range,
    ];
    // struct seccomp_data begins with the number of the call.
    let mut filter = vec![(0x20, 0, 0, 0)];
    for number in missing {
        filter.push((0x15, 0, 1, number as u32));
        filter.push((RETURN, 0, 0, ENOSYS));
    }
    filter.push((RETURN, 0, 0, 0x7fff_0000));
    longshore_sys::set_mode_filter(&filter, 0).unwrap();
}

/// What a program prints, with and without the newer calls.
fn both(args: &[&str], prepare: impl Fn(&Bundle), change: impl Fn(&mut Value)) -> [String; 2] {
    let run = || {
        let bundle = Bundle::new();
        prepare(&bundle);
        bundle.configure(args, &change);
        bundle
    };
    let newer = run();
    let said = newer.succeed(&["run", "c1"]);
    drop(newer);
    let older = run();
    forget_newer_calls();
    [said, older.succeed(&["run", "c1"])]
}

/// Without ids and device numbers, which differ from mount to mount.
fn same(table: &str) -> Vec<String> {
    let mut lines = lines(table);
    // In the order of their places: of ids, those of the newer calls alone are in the spec's order.
    lines.sort();
    lines
}

fn lines(table: &str) -> Vec<String> {
    let line = |line: &str| {
        let fields: Vec<&str> = line.split(' ').collect();
        let end = fields.iter().position(|field| *field == "-")?;
        let flags: std::collections::BTreeSet<&str> = fields.get(5)?.split(',').collect();
        let peers = fields[6..end].iter().map(|field| field.split(':').next());
        Some(format!(
            "{} {flags:?} {:?} {}",
            fields[4],
            peers.collect::<Vec<_>>(),
            fields[end + 1]
        ))
    };
    table.lines().filter_map(line).collect()
}

const LOOK: &str = "exec 2>&1; cat /proc/self/mountinfo; echo; ls /..; stat -c '%A %t:%T %N' /dev/*; ls /proc/self/fd; \
    cat /here/file /single; touch /here/x /ro/x /ro/below/x /rro/below/x; ls /copied; cat /copied/file; \
    stat -c '%n %a' /copied /tmpfs; grep Cap /proc/self/status; touch /x; cat /proc/timer_list; \
    ls /proc/scsi /masked | wc -l; echo > /proc/sys/kernel/hostname; cat /proc/self/cgroup | wc -l; readlink /link; \
    ls /sys/fs/cgroup; pwd";

fn furnish(bundle: &Bundle) {
    for name in ["data/below", "rootfs/copied", "rootfs/masked"] {
        std::fs::create_dir_all(bundle.path().join(name)).unwrap();
    }
    for name in ["data/file", "rootfs/copied/file", "rootfs/masked/file"] {
        std::fs::write(bundle.path().join(name), "text\n").unwrap();
    }
    symlink("elsewhere", bundle.path().join("data/link")).unwrap();
    symlink("busybox", bundle.rootfs().join("bin/cut")).unwrap();
}

fn all_of_it(spec: &mut Value) {
    spec["root"]["readonly"] = json!(true);
    spec["process"]["cwd"] = json!("/tmp");
    spec["linux"]["maskedPaths"]
        .as_array_mut()
        .unwrap()
        .push(json!("/masked"));
    spec["linux"]["devices"] =
        json!([{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o600}]);
    spec["mounts"].as_array_mut().unwrap().extend([
        json!({"destination": "/here", "source": "data", "options": ["rbind"]}),
        json!({"destination": "/ro", "source": "data", "options": ["bind", "ro", "noexec", "noatime"]}),
        json!({"destination": "/rro", "source": "data", "options": ["rbind", "rro", "rnosuid"]}),
        json!({"destination": "/single", "source": "data/file", "options": ["bind", "ro"]}),
        json!({"destination": "/copied", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup", "ro"]}),
        json!({"destination": "/tmpfs", "type": "tmpfs", "source": "tmpfs", "options": ["size=1m", "nodev", "mode=1770", "sync"]}),
        json!({"destination": "/tmpfs", "options": ["remount", "nosuid", "size=64k"]}),
        json!({"destination": "/link", "source": "data/link", "options": ["bind", "copy-symlink"]}),
        json!({"destination": "/shared", "source": "data", "options": ["rbind", "shared"]}),
        json!({"destination": "/unbindable", "source": "data", "options": ["rbind", "unbindable"]}),
    ]);
}

#[test]
#[ignore = "needs root"]
fn a_container_finds_the_same() {
    let [newer, older] = both(&["/bin/sh", "-c", LOOK], furnish, all_of_it);
    let halves = |text: &str| {
        let (table, rest) = text.split_once("\n\n").unwrap();
        (same(table), rest.to_owned())
    };
    let (newer, older) = (halves(&newer), halves(&older));
    assert_eq!(older.0, newer.0);
    assert_eq!(older.1, newer.1);
}

#[test]
#[ignore = "needs root"]
fn it_finds_the_same_without_a_cgroup_namespace_and_with_early_hooks() {
    let change = |spec: &mut Value| {
        all_of_it(spec);
        let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|namespace| namespace["type"] != "cgroup");
        spec["hooks"] = json!({"createContainer": [{"path": "/bin/true"}]});
        spec["linux"]["rootfsPropagation"] = json!("rshared");
    };
    let [newer, older] = both(&["/bin/sh", "-c", LOOK], furnish, change);
    let halves = |text: &str| {
        let (table, rest) = text.split_once("\n\n").unwrap();
        (same(table), rest.to_owned())
    };
    assert_eq!(halves(&older), halves(&newer));
}

#[test]
#[ignore = "needs root"]
fn a_user_namespace_has_what_its_root_may_see() {
    let open = |bundle: &Bundle| {
        let up = bundle
            .path()
            .ancestors()
            .map(Path::to_owned)
            .collect::<Vec<_>>();
        for path in up.iter().take(2) {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        std::fs::create_dir(bundle.rootfs().join("d")).unwrap();
        std::fs::create_dir(bundle.path().join("data")).unwrap();
        std::fs::write(bundle.path().join("data/file"), "text\n").unwrap();
    };
    let script = "exec 2>&1; cat /d/file; ls /dev; echo x > /dev/null; cat /proc/self/uid_map; id -u; touch /d/x; true";
    let [newer, older] = both(&["/bin/sh", "-c", script], open, |spec| {
        let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
        spec["linux"]["uidMappings"] = map.clone();
        spec["linux"]["gidMappings"] = map;
        spec["linux"]["namespaces"]
            .as_array_mut()
            .unwrap()
            .push(json!({"type": "user"}));
        let bind = json!({"destination": "/d", "source": "data", "options": ["rbind", "ro"]});
        spec["mounts"].as_array_mut().unwrap().push(bind);
    });
    assert_eq!(older, newer);
}

#[test]
#[ignore = "needs root"]
fn every_command_works() {
    let bundle = Bundle::new();
    bundle.configure(&["/bin/sleep", "1000"], |_| {});
    forget_newer_calls();
    bundle.succeed(&["create", "c1"]);
    assert!(bundle.succeed(&["state", "c1"]).contains("created"));
    bundle.succeed(&["start", "c1"]);
    let listed = bundle.succeed(&["exec", "c1", "/bin/ls", "/proc/self/fd"]);
    assert_eq!(
        listed, "0\n1\n2\n3\n",
        "`ls` itself opens the directory, as 3"
    );
    for number in 3..=20 {
        let number = format!("/proc/self/fd/{number}");
        let said = bundle.runtime(&["exec", "--cwd", &number, "c1", "/bin/true"]);
        assert_eq!(said.status.code(), Some(255), "{said:?}");
        let said = bundle.runtime(&["exec", "c1", &number]);
        assert_eq!(said.status.code(), Some(255), "{said:?}");
    }
    bundle.succeed(&["pause", "c1"]);
    bundle.succeed(&["resume", "c1"]);
    bundle.succeed(&["kill", "c1", "KILL"]);
    bundle.succeed(&["delete", "--force", "c1"]);
}

#[test]
#[ignore = "needs root"]
fn what_only_a_newer_kernel_can_do_is_refused_by_name() {
    let bundle = Bundle::new();
    std::fs::create_dir(bundle.path().join("data")).unwrap();
    symlink("nowhere", bundle.path().join("link")).unwrap();
    forget_newer_calls();
    let refused = |args: &[&str], words: &str, change: &dyn Fn(&mut Value)| {
        bundle.configure(&["/bin/true"], change);
        let said = bundle.fail(args);
        assert!(said.contains(words), "{said}");
    };
    let bind = |source: &str, more: Value| {
        let mut mount = json!({"destination": "/d", "source": source, "options": ["bind"]});
        mount
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        move |spec: &mut Value| spec["mounts"].as_array_mut().unwrap().push(mount.clone())
    };
    let map = json!([{"containerID": 0, "hostID": 1000, "size": 100}]);
    let mapped = bind("data", json!({"uidMappings": map, "gidMappings": map}));
    refused(&["run", "c1"], "id-mapped", &mapped);
    let link = bind("link", json!({"options": ["bind", "src-nofollow"]}));
    refused(&["run", "c1"], "open_tree(2)", &link);
    refused(
        &["run", "--no-pivot", "c1"],
        "lacks the calls of Linux 5.12",
        &|_| {},
    );
    let without_namespace = |spec: &mut Value| {
        let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|namespace| namespace["type"] != "mount");
    };
    let before = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    refused(&["run", "c1"], "needs a new one", &without_namespace);
    let after = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    assert_eq!(after, before, "nothing is mounted on the host");
}

/// The defences do not hang on the newer calls.
#[test]
#[ignore = "needs root"]
fn an_image_full_of_links_leads_nowhere() {
    let bundle = Bundle::new();
    let victim = tempfile::tempdir().unwrap();
    let volume = bundle.path().join("volume");
    std::fs::create_dir(&volume).unwrap();
    forget_newer_calls();
    let out = victim.path().display().to_string();
    let climbing = format!("../../../../../../../..{out}");
    let magic = format!("/proc/self/root{out}");
    let refused = |place: &str, target: &str, words: &str, change: &dyn Fn(&mut Value)| {
        let at = bundle.rootfs().join(place);
        std::fs::remove_dir(&at).ok();
        symlink(target, &at).unwrap();
        bundle.configure(&["/bin/true"], change);
        let said = bundle.runtime(&["run", "c1"]);
        let told = String::from_utf8_lossy(&said.stderr);
        match words {
            "" => assert!(said.status.success(), "{place} -> {target}: {told}"),
            _ => assert!(told.contains(words), "{place} -> {target}: {told}"),
        }
        std::fs::remove_file(&at).unwrap();
        std::fs::create_dir_all(&at).unwrap();
    };
    let without_dev = |spec: &mut Value| {
        let mounts = spec["mounts"].as_array_mut().unwrap();
        mounts.retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
    };
    let bound = |destination: &'static str| {
        let bind = json!({"destination": destination, "source": volume, "options": ["bind"]});
        move |spec: &mut Value| spec["mounts"].as_array_mut().unwrap().push(bind.clone())
    };
    for target in [out.as_str(), &climbing, &magic] {
        refused("proc", target, "real directory", &|_| {});
        refused("sys", target, "real directory", &|_| {});
        refused("dev", target, "real directory", &without_dev);
    }
    for target in [out.as_str(), &climbing] {
        refused("dev", target, "", &|_| {});
        refused("data", target, "", &bound("/data/deep"));
    }
    refused("data", "/proc/sys", "into /proc", &bound("/data"));
    refused(
        "data",
        "/proc/self/root",
        "bind mount /data/deep",
        &bound("/data/deep"),
    );
    refused("data", "/dev", "in its way", &|spec| {
        without_dev(spec);
        bound("/data")(spec);
    });
    assert_eq!(std::fs::read_dir(victim.path()).unwrap().count(), 0);
    assert_eq!(std::fs::read_dir(&volume).unwrap().count(), 0);
}
