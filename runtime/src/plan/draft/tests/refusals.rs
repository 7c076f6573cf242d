//! What the planner refuses.

use super::*;

/// Words of a refusal, and the change of the spec that earns it.
type Case = (&'static str, fn(&mut Value));

#[test]
fn what_the_kernel_would_refuse_without_a_reason_is_refused_with_one() {
    let cases: [Case; 16] = [
        ("linux.cgroupsPath", |spec| {
            drop(spec["linux"].as_object_mut().unwrap().remove("cgroupsPath"))
        }),
        ("`..`", |spec| {
            spec["linux"]["cgroupsPath"] = json!("a/../../b")
        }),
        ("uts namespace", |spec| {
            spec["linux"]["namespaces"]
                .as_array_mut()
                .unwrap()
                .remove(2);
        }),
        ("may mount nothing in the host's", |spec| {
            drop(namespaces_of(spec).remove(1));
            namespaces_of(spec).push(json!({"type": "user"}));
            spec["linux"]["uidMappings"] = json!([{"containerID": 0, "hostID": 1, "size": 99}]);
            spec["linux"]["gidMappings"] = json!([{"containerID": 0, "hostID": 1, "size": 99}]);
        }),
        ("the root can be replaced only", |spec| {
            drop(namespaces_of(spec).remove(1));
            spec["mounts"][0] = json!({"destination": "//", "type": "tmpfs", "source": "tmpfs"});
        }),
        ("mappings belong to a user namespace", |spec| {
            spec["linux"]["uidMappings"] = json!([{"containerID": 0, "hostID": 1, "size": 1}]);
        }),
        ("needs a mapping", |spec| {
            let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
            namespaces.push(json!({"type": "user"}));
        }),
        ("offsets belong to a new time namespace", |spec| {
            spec["linux"]["timeOffsets"] = json!({"boottime": {"secs": 1}});
        }),
        ("only the clocks monotonic and boottime", |spec| {
            spec["linux"]["timeOffsets"] = json!({"realtime": {"secs": 1}});
        }),
        ("must be absolute", |spec| {
            spec["linux"]["namespaces"][5]["path"] = json!("run/net");
        }),
        ("listed twice", |spec| {
            spec["linux"]["namespaces"][2]["type"] = json!("pid")
        }),
        ("no program to run", |spec| {
            spec["process"]["args"] = json!([])
        }),
        ("process.env[1]", |spec| {
            spec["process"]["env"] = json!(["A=1", "hunter2"])
        }),
        ("longer than 64", |spec| {
            spec["hostname"] = json!("x".repeat(65))
        }),
        ("soft limit", |spec| {
            spec["process"]["rlimits"][0]["hard"] = json!(1)
        }),
        ("absolute", |spec| spec["process"]["cwd"] = json!("srv")),
    ];
    for (words, change) in cases {
        let refusal = refusal(change);
        assert!(
            refusal.contains(words) && !refusal.contains("hunter2"),
            "{words}: {refusal}"
        );
    }
}
