//! Namespaces that a spec does not list are the runtime's own, the mount namespace too: then the root is mounted in
//! the host's tree as long as the container is there.

mod support;

use serde_json::json;
use support::bundle::Bundle;

const KINDS: [&str; 7] = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"];

/// Without any namespace of its own.
fn bare(bundle: &Bundle, args: &[&str]) {
    bundle.configure(args, |spec| {
        spec["linux"]["namespaces"] = json!([]);
        spec.as_object_mut().unwrap().remove("hostname");
        spec["process"]["env"] = json!(["PATH=/bin"]);
    });
}

fn own(kind: &str) -> String {
    let link = std::fs::read_link(format!("/proc/thread-self/ns/{kind}")).unwrap();
    format!("{}\n", link.display())
}

#[test]
#[ignore = "needs root"]
fn what_is_not_listed_is_the_runtime_s() {
    let bundle = Bundle::new();
    let script = format!(
        "for kind in {}; do readlink /proc/self/ns/$kind; done",
        KINDS.join(" ")
    );
    bare(&bundle, &["sh", "-c", &script]);
    assert_eq!(bundle.succeed(&["run", "c1"]), KINDS.map(own).concat());
    bundle.assert_nothing_left();
    assert!(bundle.rootfs().join("bin/busybox").exists());
}

#[test]
#[ignore = "needs root"]
fn the_root_is_the_container_s_also_for_exec() {
    let bundle = Bundle::new();
    std::fs::write(bundle.rootfs().join("etc/mine"), "mine").unwrap();
    bare(
        &bundle,
        &["sh", "-c", "touch /dev/from-program; sleep 1000"],
    );
    bundle.succeed(&["run", "--detach", "c1"]);
    let look =
        "cat /etc/mine; pwd; ls /dev/null /proc/self/exe /dev/from-program; ls -d /../../etc/mine";
    assert_eq!(
        bundle.succeed(&["exec", "c1", "sh", "-c", look]),
        "mine/\n/dev/from-program\n/dev/null\n/proc/self/exe\n/../../etc/mine\n"
    );
    // The mounts are the container's and not the image's.
    let image = std::fs::read_dir(bundle.rootfs().join("dev")).unwrap();
    assert_eq!(image.count(), 0);
    bundle.succeed(&["delete", "--force", "c1"]);
    bundle.assert_nothing_left();
    assert_eq!(bundle.read("rootfs/etc/mine"), "mine");
}

#[test]
#[ignore = "needs root"]
fn what_would_change_the_host_s_tree_is_refused() {
    let bundle = Bundle::new();
    bundle.configure(&["true"], |spec| {
        spec["linux"]["namespaces"] = json!([{"type": "pid"}, {"type": "uts"}]);
        let mounts = spec["mounts"].as_array_mut().unwrap();
        mounts.insert(
            0,
            json!({"destination": "/", "type": "tmpfs", "source": "tmpfs"}),
        );
    });
    let error = bundle.fail(&["run", "c1"]);
    assert!(error.contains("mount namespace"), "{error}");
    bundle.configure(&["true"], |spec| {
        spec["linux"]["namespaces"] = json!([{"type": "user"}, {"type": "uts"}]);
        spec["linux"]["uidMappings"] = json!([{"containerID": 0, "hostID": 1000, "size": 1}]);
        spec["linux"]["gidMappings"] = json!([{"containerID": 0, "hostID": 1000, "size": 1}]);
    });
    let error = bundle.fail(&["run", "c1"]);
    assert!(error.contains("mount"), "{error}");
    bundle.assert_nothing_left();
}

#[test]
#[ignore = "needs root"]
fn no_pivot_and_hooks_leave_the_host_s_mounts_alone() {
    let bundle = Bundle::new();
    bundle.configure(&["cat", "/etc/said"], |spec| {
        spec["linux"]["namespaces"] = json!([{"type": "uts"}]);
        spec["hooks"] = json!({"createContainer": [{"path": "/bin/sh",
            "args": ["sh", "-c", "echo hook >rootfs/etc/said"]}]});
    });
    assert_eq!(bundle.succeed(&["run", "--no-pivot", "c1"]), "hook\n");
    bundle.assert_nothing_left();
}
