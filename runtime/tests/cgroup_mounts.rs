//! What a container sees of its cgroups, and of nobody else's.

mod support;

use std::os::unix::fs::symlink;

use serde_json::{Value, json};
use support::{Host, Root};

#[test]
#[ignore = "needs root"]
fn options_of_a_new_cgroup_mount_reach_the_kernel() {
    let host = Host::new();
    let with = |option: &str| {
        host.spec(&["/bin/true"], |spec| {
            let mounts = spec["mounts"].as_array_mut().unwrap();
            let cgroup = mounts.iter_mut().find(|mount| mount["type"] == "cgroup");
            cgroup.unwrap()["options"] = json!(["ro", option]);
        })
    };
    let (exit, output) = host.run(&with("nsdelegate"), Root::busybox());
    assert_eq!(exit.code, 0, "{output}");
    std::fs::remove_dir_all(host.log_dir()).unwrap();
    let refused = host.create(&with("no_such_option"), Root::busybox()).err();
    // On v1 the view is no single file system; the plan warns.
    let expected = host.group("").is_v2();
    assert_eq!(refused.is_some(), expected, "{refused:?}");
    if let Some(error) = refused {
        let error = error.to_string();
        let told =
            error.contains("mount cgroup /sys/fs/cgroup") && error.contains("Invalid argument");
        assert!(told, "{error}");
    }
}

/// CVE-2023-25809 and its like: the host's groups are not there, and what is may be asked to be read-only.
#[test]
#[ignore = "needs root"]
fn without_a_cgroup_namespace_only_the_container_s_own_groups_are_seen() {
    let host = Host::new();
    // v1 has a directory for each hierarchy.
    let (within, wanted) = match host.group("").is_v2() {
        true => (".", "pids.max"),
        false => ("pids", "pids"),
    };
    // A group of the host's that must not be seen, and no directory stands above the container's own but what it is in.
    let script = format!(
        "cat /proc/self/mountinfo; cd /sys/fs/cgroup; ls; echo =procs; cat {within}/cgroup.procs; echo =below; \
        for at in {within}/*/; do test -d $at && echo $at; done; touch {within}/x; \
        /bin/mkdir {within}/below && echo made"
    );
    let view = |options: Value| {
        let spec = host.spec(&["/bin/sh", "-c", &script], |spec| {
            spec["linux"]["namespaces"]
                .as_array_mut()
                .unwrap()
                .retain(|one| one["type"] != "cgroup");
            for mount in spec["mounts"].as_array_mut().unwrap() {
                if mount["type"] == "cgroup" {
                    mount["options"] = options.clone();
                }
            }
        });
        let root = Root::busybox();
        symlink("busybox", root.path("bin/mkdir")).unwrap();
        let (_, output) = host.run(&spec, root);
        std::fs::remove_dir_all(host.log_dir()).unwrap();
        output
    };
    let read_only = view(json!(["ro"]));
    assert!(
        !read_only.contains("made") && read_only.contains("Read-only"),
        "{read_only}"
    );
    let (files, rest) = read_only.split_once("=procs\n").unwrap();
    assert!(files.lines().any(|line| line == wanted), "{read_only}");
    // Who is in the host's root group has no number here.
    let (members, below) = rest.split_once("=below\n").unwrap();
    let members: Vec<&str> = members.lines().collect();
    assert!(
        members.contains(&"1") && !members.contains(&"0"),
        "{read_only}"
    );
    assert!(!below.starts_with(within), "groups below: {read_only}");
    let writable = view(json!([]));
    assert!(writable.contains("made"), "{writable}");
    each_hierarchy_is_the_container_s_own(&read_only, &host.cgroup);
}

/// From the mountinfo in `output`: root, mount point and super options of each hierarchy tell the same tale.
fn each_hierarchy_is_the_container_s_own(output: &str, cgroup: &str) {
    let mounts: Vec<Vec<&str>> = output
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<&str>>())
        .filter(|fields| fields.iter().any(|field| field.starts_with("cgroup")))
        .filter(|fields| fields.contains(&"-"))
        .collect();
    assert!(!mounts.is_empty(), "{output}");
    for fields in mounts {
        let (root, point) = (fields[3], fields[4]);
        assert!(root.contains(cgroup), "{fields:?}");
        let Some(name) = point.strip_prefix("/sys/fs/cgroup/") else {
            continue;
        };
        let options: Vec<&str> = fields.last().unwrap().split(',').collect();
        let named = format!("name={name}");
        let shown = |name: &str| options.contains(&name);
        assert!(shown(&named) || name.split(',').all(shown), "{fields:?}");
    }
}
