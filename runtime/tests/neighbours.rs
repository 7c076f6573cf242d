//! What a command must not do to another container or to the host, however it is called.

mod support;

use serde_json::json;
use support::commands::{Cli, text};

#[test]
#[ignore = "needs root"]
fn a_creation_that_is_refused_leaves_alone_whom_it_was_refused_for() {
    let cli = Cli::new();
    cli.run_detached("first", &["sleep", "1000"]);
    let path = cli.place("first").spec;
    let bundle = cli.changed_bundle("second", &["true"], |spec| {
        spec["linux"]["cgroupsPath"] = json!(path);
    });
    for command in ["create", "run"] {
        let arguments = [command, "--bundle", text(&bundle), "second"];
        cli.refuses(&arguments, "processes of another container");
        assert_eq!(cli.status("first"), "running");
        cli.assert_gone("second");
    }
}

/// Mode and owner of the host's /dev/null are everybody's, and every command of a supervisor has it as its input.
#[test]
#[ignore = "needs root"]
fn a_container_cannot_change_the_null_device_of_the_host() {
    let cli = Cli::new();
    cli.run_detached("c", &["sleep", "1000"]);
    // The mode that it has anyway: a test that fails must do no harm.
    let change = ["exec", "c", "busybox", "chmod", "666", "/proc/self/fd/0"];
    let said = cli.says(&change);
    assert!(said.stderr.contains("Read-only file system"), "{said:?}");
    let bundle = cli.changed_bundle(
        "d",
        &["busybox", "chmod", "666", "/proc/self/fd/0"],
        |spec| {
            // Without a /dev of its own that the null device could come from.
            let mounts = spec["mounts"].as_array_mut().unwrap();
            mounts.retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
        },
    );
    let said = cli.says(&["run", "--bundle", text(&bundle), "d"]);
    assert!(said.stderr.contains("Read-only file system"), "{said:?}");
}
