//! Network devices of the host in a container. `veth` and `macvlan` stand for physical ones, which no test can make.

mod support;

use std::process::Command;

use serde_json::{Value, json};
use support::bundle::Bundle;

/// ip(8) in this thread's network namespace.
fn ip(args: &str) -> String {
    let output = Command::new("ip")
        .args(args.split_whitespace())
        .output()
        .unwrap();
    assert!(output.status.success(), "ip {args}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn has(device: &str) -> bool {
    std::path::Path::new("/proc/thread-self/net/dev").exists()
        && std::fs::read_to_string("/proc/thread-self/net/dev")
            .unwrap()
            .contains(&format!("{device}:"))
}

/// A host with a pair of devices in a network namespace of its own.
fn host() -> Bundle {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
    let bundle = Bundle::new();
    ip("link add test0 type veth peer name test1");
    ip("address add 10.1.2.3/24 brd + dev test0");
    ip("address add 10.1.2.4/32 scope link dev test0");
    ip("address add fd00::7/64 dev test0 nodad");
    ip("link set test0 up");
    bundle
}

fn devices(devices: Value) -> impl FnOnce(&mut Value) {
    move |spec| spec["linux"]["netDevices"] = devices
}

#[test]
#[ignore = "needs root"]
fn a_device_moves_with_its_addresses_and_is_up() {
    let bundle = host();
    bundle.configure(
        &["/bin/ip", "address"],
        devices(json!({"test0": {"name": "inside"}})),
    );
    let output = bundle.succeed(&["run", "c1"]);
    assert!(
        output.contains(": inside@") && output.contains(",UP"),
        "{output}"
    );
    assert!(
        output.contains("inet 10.1.2.3/24 brd 10.1.2.255 scope global inside"),
        "{output}"
    );
    assert!(output.contains("inet6 fd00::7/64 scope global"), "{output}");
    assert!(
        !output.contains("10.1.2.4"),
        "not of global scope: {output}"
    );
    // The OCI text leaves the end to the kernel: it destroys a virtual device with its namespace.
    support::eventually("the pair is gone", || !has("test0") && !has("test1"));
}

#[test]
#[ignore = "needs root"]
fn a_device_keeps_its_name_or_gets_the_first_free_one() {
    let bundle = host();
    bundle.configure(
        &["/bin/ip", "link"],
        devices(json!({"test0": {}, "test1": {"name": "eth%d"}})),
    );
    let output = bundle.succeed(&["run", "c1"]);
    assert!(
        output.contains(": test0@") && output.contains(": eth"),
        "{output}"
    );
}

#[test]
#[ignore = "needs root"]
fn what_cannot_be_moved_is_told_and_what_was_moved_comes_back() {
    let bundle = host();
    let before = ip("-o address show dev test0");
    for (wanted, words) in [
        (
            json!({"test0": {}, "test9": {}}),
            "test9: the host has no such device",
        ),
        (
            json!({"test0": {"name": "lo"}}),
            "test0: the container has a device of the name `lo` already",
        ),
        (
            json!({"test0": {}, "test1": {"name": "lo"}}),
            "the name `lo` already",
        ),
        (
            json!({"lo": {"name": "x"}}),
            "lo: the kernel lets no such device leave",
        ),
    ] {
        bundle.configure(&["/bin/true"], devices(wanted.clone()));
        let error = bundle.fail(&["create", "c1"]);
        assert!(error.contains(words), "{wanted}: {error}");
        bundle.assert_nothing_left();
        assert!(has("test0") && has("test1"), "{wanted}");
    }
    // The creation fails after they were moved.
    bundle.configure(
        &["/bin/missing"],
        devices(json!({"test0": {"name": "inside"}})),
    );
    let error = bundle.fail(&["create", "c1"]);
    assert!(error.contains("/bin/missing"), "{error}");
    let after = ip("-o address show dev test0");
    assert!(
        after.contains("10.1.2.3/24") && after.contains("fd00::7/64"),
        "{before} {after}"
    );
    assert!(ip("link show test0").contains(",UP"), "it was up");
}

#[test]
#[ignore = "needs root"]
fn a_shared_network_namespace_gets_no_device() {
    let bundle = host();
    let own = format!(
        "/proc/{}/task/{}/ns/net",
        std::process::id(),
        rustix::thread::gettid()
    );
    bundle.configure(&["/bin/true"], |spec| {
        spec["linux"]["netDevices"] = json!({"test0": {}});
        let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces
            .iter_mut()
            .find(|one| one["type"] == "network")
            .unwrap()["path"] = json!(own);
    });
    let error = bundle.fail(&["create", "c1"]);
    assert!(error.contains("host's own"), "{error}");
    bundle.configure(&["/bin/true"], |spec| {
        spec["linux"]["netDevices"] = json!({"test0": {}});
        spec["linux"]["namespaces"]
            .as_array_mut()
            .unwrap()
            .retain(|one| one["type"] != "network");
    });
    let error = bundle.fail(&["create", "c1"]);
    assert!(
        error.contains("shares the host's network namespace"),
        "{error}"
    );
    assert!(has("test0"));
}

#[test]
#[ignore = "needs root"]
fn resctrl_is_refused_by_name_where_there_is_none() {
    if std::path::Path::new("/sys/fs/resctrl/schemata").exists() {
        return support::skip::skip("the host has resctrl");
    }
    let bundle = Bundle::new();
    bundle.configure(&["/bin/true"], |spec| {
        spec["linux"]["intelRdt"] = json!({"closID": "gold"})
    });
    let error = bundle.fail(&["create", "c1"]);
    assert!(
        error.contains("no resctrl file system is mounted"),
        "{error}"
    );
    bundle.assert_nothing_left();
}
