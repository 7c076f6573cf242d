//! What the OCI text lets a spec leave out, and the runtime therefore may not demand.

mod support;

use serde_json::json;
use support::bundle::Bundle;

/// Its cgroup is then the one that the runtime chooses by the id.
#[test]
#[ignore = "needs root"]
fn a_spec_without_linux_runs_in_the_runtime_s_own_namespaces() {
    let bundle = Bundle::new();
    bundle.configure(&["readlink", "/proc/self/ns/uts"], |spec| {
        spec.as_object_mut().unwrap().remove("linux");
        spec.as_object_mut().unwrap().remove("hostname");
    });
    let own = std::fs::read_link("/proc/thread-self/ns/uts").unwrap();
    // With an id that no other container on the host has: the group is named after it alone.
    let id = format!("longshore-test-{}-bare", std::process::id());
    let said = bundle.succeed(&["run", &id]);
    assert_eq!(said.trim(), own.to_str().unwrap());
}

#[test]
#[ignore = "needs root"]
fn a_process_that_names_no_user_is_root() {
    let bundle = Bundle::new();
    bundle.configure(&["sleep", "1000"], |spec| {
        spec["process"].as_object_mut().unwrap().remove("user");
    });
    bundle.succeed(&["run", "--detach", "c1"]);
    assert_eq!(bundle.succeed(&["exec", "c1", "id", "-u"]), "0\n");
    let process = json!({"cwd": "/", "args": ["id", "-g"]});
    let file = bundle.path().join("process.json");
    std::fs::write(&file, process.to_string()).unwrap();
    let file = file.to_str().unwrap();
    assert_eq!(bundle.succeed(&["exec", "--process", file, "c1"]), "0\n");
    // What is needed is named.
    std::fs::write(file, r#"{"args": ["id"]}"#).unwrap();
    let refused = bundle.runtime(&["exec", "--process", file, "c1"]);
    let text = String::from_utf8(refused.stderr).unwrap();
    assert!(text.contains("missing field `cwd`; write it"), "{text}");
}
