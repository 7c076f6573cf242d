//! What the planner makes of mounts.

use serde_json::{Value, json};

use super::*;

fn host(privileged: bool) -> HostFacts {
    HostFacts {
        v1_hierarchies: vec!["cpu,cpuacct".into(), "name=systemd".into()],
        privileged,
        initial_user_namespace: true,
        old_mount_calls: false,
        ..HostFacts::default()
    }
}

/// The steps as text, for these mounts in this `linux` object.
fn plan_on(host: &HostFacts, linux: Value, mounts: Value) -> Result<String, StepError> {
    let linux: Linux = serde_json::from_value(linux).unwrap();
    let mounts: Vec<Mount> = serde_json::from_value(mounts).unwrap();
    let namespaces = Namespaces::of(&linux, host)?;
    let planned = Mounts::of(&mounts, &Around::of(&linux, host, &namespaces))?;
    let lists = [
        ("before", planned.before),
        ("open", planned.open),
        ("attach", planned.attach),
    ];
    let mut text = String::new();
    for (name, steps) in lists {
        text.extend(steps.iter().map(|step| format!("{name}: {step}\n")));
    }
    text.extend(
        planned
            .warnings
            .iter()
            .map(|warning| format!("warning: {warning}\n")),
    );
    Ok(text)
}

fn plan(mounts: Value) -> String {
    plan_on(
        &host(true),
        json!({"namespaces": [{"type": "mount"}]}),
        mounts,
    )
    .unwrap()
}

fn refusal(mount: Value) -> String {
    plan_on(
        &host(true),
        json!({"namespaces": [{"type": "mount"}]}),
        json!([mount]),
    )
    .unwrap_err()
    .to_string()
}

fn in_user_namespace(others: &[&str]) -> Value {
    let kinds = ["mount", "user"].iter().chain(others);
    let namespaces: Vec<Value> = kinds.map(|kind| json!({"type": kind})).collect();
    let map = json!([{"containerID": 0, "hostID": 100000, "size": 10}]);
    json!({"namespaces": namespaces, "uidMappings": map, "gidMappings": map})
}

#[test]
fn mounts_that_could_fake_proc_are_refused() {
    let at = |destination: &str, kind: &str| json!({"destination": destination, "type": kind, "source": "/s"});
    assert!(refusal(at("/proc", "tmpfs")).contains("only a mount of type proc"));
    assert!(refusal(at("proc", "tmpfs")).contains("only a mount of type proc"));
    assert!(refusal(at("/proc/sys", "tmpfs")).contains("below /proc"));
    assert!(refusal(at("//proc/./self/attr", "bind")).contains("below /proc"));
    assert!(refusal(at("/x/../proc/self", "tmpfs")).contains("below /proc"));
    assert!(
        plan(json!([at("/proc/meminfo", "bind"), at("/proc", "bind")])).contains("/proc/meminfo")
    );
}

#[test]
fn binds_with_all_that_can_be_asked_of_them() {
    let mounts = json!([
        {"destination": "relative/./x", "source": "/a", "options": ["rbind", "rro", "rw", "rslave", "z"]},
        {"destination": "/f", "type": "bind", "source": "/b", "options": ["src-nofollow", "dest-nofollow", "shared"]},
        {"destination": "/l", "source": "/c", "options": ["bind", "copy-symlink", "unbindable"]},
        {"destination": "/m", "source": "/d", "options": ["bind", "ridmap"],
         "uidMappings": [{"containerID": 0, "hostID": 7, "size": 3}],
         "gidMappings": [{"containerID": 0, "hostID": 8, "size": 3}]},
        {"destination": "/f", "type": "none", "options": ["remount", "bind", "ro", "noexec"]},
    ]);
    expect_test::expect![[r#"
        before: open #3 /d, users 0:7:3 groups 0:8:3, with all below
        open: open tree #0 /a
        open: open #1 /b, symlink not followed
        open: open #2 /c, a symlink as such
        attach: attach #0 /relative/x rw (below: ro) rslave
        attach: attach #1 /f rw shared, symlink not followed
        attach: attach #2 /l rw unbindable
        attach: attach #3 /m rw rprivate
        attach: remount /f ro,noexec
        warning: mount /relative/x: a bind mount has no option `z`
    "#]]
    .assert_eq(&plan(mounts));
}

#[test]
fn file_systems_of_any_type_are_made_while_host_paths_are_in_sight() {
    let mounts = json!([
        {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["ro", "tmpcopyup", "size=64k", "sync"]},
        {"destination": "/o", "type": "overlay", "source": "overlay", "options": ["lowerdir=/a:/b", "rshared"]},
        {"destination": "/disk", "type": "ext4", "source": "/dev/sda", "options": ["ro", "nodev"]},
        {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["mode=1777"]},
    ]);
    expect_test::expect![[r#"
        open: open file system #0 tmpfs
        open: open file system #1 overlay
        open: open file system #2 ext4
        open: open file system #3 tmpfs
        attach: attach #0, mount tmpfs /tmp rw private size=64k sync, with a copy of what is there, read-only later
        attach: attach #1, mount overlay /o rw rshared lowerdir=/a:/b
        attach: attach #2, mount ext4 /disk ro,nodev private from /dev/sda
        attach: attach #3, mount tmpfs /dev/shm rw private from shm mode=1777
    "#]]
    .assert_eq(&plan(mounts));
}

#[test]
fn what_makes_no_sense_is_refused_with_a_reason() {
    let cases = [
        (json!({"destination": "/x", "type": "none"}), "needs a type"),
        (
            json!({"destination": "/x", "source": "rel", "options": ["bind"]}),
            "absolute path",
        ),
        (
            json!({"destination": "/x", "type": "ext4", "options": ["tmpcopyup"]}),
            "tmpcopyup",
        ),
        (
            json!({"destination": "/", "type": "tmpfs", "options": ["tmpcopyup"]}),
            "tmpcopyup",
        ),
        (
            json!({"destination": "/x", "type": "tmpfs", "options": ["idmap"]}),
            "only a bind",
        ),
        (
            json!({"destination": "/x", "source": "/a", "options": ["bind", "idmap"]}),
            "uidMappings",
        ),
    ];
    for (mount, words) in cases {
        let refusal = refusal(mount);
        assert!(refusal.contains(words), "{words}: {refusal}");
    }
}

/// The host's groups are in no mount: clones of the container's own are, read-only or not.
#[test]
fn a_cgroup_mount_without_a_cgroup_namespace_shows_the_container_s_own() {
    let mounts = json!([{"destination": "/sys/fs/cgroup", "type": "cgroup", "options": ["ro"]}]);
    expect_test::expect![[r#"
        open: open own cgroups [cpu,cpuacct name=systemd]
        attach: attach own cgroup /sys/fs/cgroup ro,nosuid,nodev,noexec [cpu,cpuacct name=systemd]
    "#]]
    .assert_eq(&plan(mounts.clone()));
    let own = json!({"namespaces": [{"type": "mount"}, {"type": "cgroup"}]});
    let with_own = plan_on(&host(true), own, mounts).unwrap();
    expect_test::expect![[r#"
        attach: mount cgroup /sys/fs/cgroup ro,nosuid,nodev,noexec [cpu,cpuacct name=systemd]
    "#]]
    .assert_eq(&with_own);
}

/// v2 is one file system, which has options; what stands for it elsewhere has none.
#[test]
fn a_cgroup_mount_s_own_options_are_for_a_new_mount_of_v2() {
    let mounts = json!([{"destination": "/c", "type": "cgroup", "options": ["nsdelegate", "x=y"]}]);
    let namespaces = json!({"namespaces": [{"type": "mount"}, {"type": "cgroup"}]});
    let v2 = HostFacts {
        v1_hierarchies: Vec::new(),
        ..host(true)
    };
    let text = plan_on(&v2, namespaces.clone(), mounts.clone()).unwrap();
    expect_test::expect![[r#"
        attach: mount cgroup /c rw,nosuid,nodev,noexec [cgroup2] nsdelegate x=y
    "#]]
    .assert_eq(&text);
    let v1 = plan_on(&host(true), namespaces, mounts.clone()).unwrap();
    let cloned = plan_on(&v2, json!({"namespaces": [{"type": "mount"}]}), mounts).unwrap();
    for text in [v1, cloned] {
        let told = "warning: mount /c: this host's view of cgroups has no option `nsdelegate`";
        assert!(
            text.contains(told) && !text.contains("] nsdelegate"),
            "{text}"
        );
    }
}

#[test]
fn in_a_user_namespace_the_parent_opens_and_procfs_comes_before_the_pivot() {
    let mounts = json!([
        {"destination": "/proc", "type": "proc"},
        {"destination": "/sys", "type": "sysfs", "options": ["nosuid"]},
        {"destination": "/dev/pts", "type": "devpts", "options": ["gid=5", "mode=0620"]},
        {"destination": "/dev/mqueue", "type": "mqueue"},
        {"destination": "/data", "source": "/a", "options": ["bind", "idmap"]},
    ]);
    let all = in_user_namespace(&["pid", "network", "ipc"]);
    expect_test::expect![[r#"
        before: open #4 /a, users 0:100000:10 groups 0:100000:10
        open: open file system #0 proc
        open: open file system #1 sysfs
        open: open file system #2 devpts
        open: open file system #3 mqueue
        attach: attach #0, mount proc /proc rw private, no symlink
        attach: attach #1, mount sysfs /sys rw,nosuid private, no symlink
        attach: attach #2, mount devpts /dev/pts rw private gid=5 mode=0620
        attach: attach #3, mount mqueue /dev/mqueue rw private
        attach: attach #4 /data rw rprivate
    "#]]
    .assert_eq(&plan_on(&host(true), all, mounts.clone()).unwrap());

    // What is the host's and may not be mounted is cloned, sysfs read-only and without the host's cgroups.
    expect_test::expect![[r#"
        open: open tree #0 /proc
        open: open tree #1 /sys
        open: open file system #2 devpts
        open: open tree #3 /dev/mqueue
        open: open #4 /a, users 0:100000:10 groups 0:100000:10
        attach: attach #0 /proc rw rprivate
        attach: attach #1 /sys rw,nosuid (below: ro) rprivate
        attach: hide /sys/fs/cgroup
        attach: attach #2, mount devpts /dev/pts rw private gid=5 mode=0620
        attach: attach #3 /dev/mqueue rw rprivate
        attach: attach #4 /data rw rprivate
    "#]]
    .assert_eq(&plan_on(&host(false), in_user_namespace(&[]), mounts).unwrap());
}

#[test]
fn a_group_that_the_user_namespace_lacks_is_left_to_devpts() {
    let mounts =
        json!([{"destination": "/dev/pts", "type": "devpts", "options": ["gid=11", "mode=0620"]}]);
    let text = plan_on(&host(true), in_user_namespace(&[]), mounts).unwrap();
    assert_eq!(text, "attach: mount devpts /dev/pts rw private mode=0620\n");
}

#[test]
fn paths_count_from_the_bundle() {
    let mut spec = serde_json::from_value(json!({
        "ociVersion": "1.0.0",
        "root": {"path": "rootfs"},
        "mounts": [
            {"destination": "/a", "source": "data", "options": ["bind"]},
            {"destination": "/b", "source": "/data", "type": "bind"},
            {"destination": "/c", "source": "tmpfs", "type": "tmpfs"},
        ],
    }))
    .unwrap();
    crate::plan::count_from_bundle(&mut spec, Path::new("/b"));
    let sources: Vec<_> = spec
        .mounts()
        .iter()
        .flatten()
        .map(|mount| mount.source().clone().unwrap())
        .collect();
    assert_eq!(sources, ["/b/data", "/data", "tmpfs"].map(PathBuf::from));
    assert_eq!(spec.root().as_ref().unwrap().path(), Path::new("/b/rootfs"));
}
