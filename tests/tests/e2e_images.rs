//! Images by hand: pulled before there is an agent, looked at, carried off and brought back while one runs.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use longshore_tests::{Street, stage};
use serde_json::{Value, json};

/// `longshore image ARGUMENTS...` of the street's instance; what it printed.
fn image(street: &Street, arguments: &[&str], stdin: Stdio) -> Output {
    let (verb, rest) = arguments.split_first().expect("a verb");
    Command::new(stage().join("longshore"))
        .args(["image", verb, "--instance", &street.instance])
        .arg("--state-dir")
        .arg(street.path("state"))
        .args(rest)
        .stdin(stdin)
        .output()
        .expect("start longshore")
}

/// The same, which must end well.
#[track_caller]
fn done(street: &Street, arguments: &[&str]) -> String {
    said(arguments, &image(street, arguments, Stdio::null()))
}

#[track_caller]
fn said(arguments: &[&str], output: &Output) -> String {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {error}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The same, which must end with 1 and one sentence.
#[track_caller]
fn refused(street: &Street, arguments: &[&str]) -> String {
    let output = image(street, arguments, Stdio::null());
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {error}");
    assert_eq!(
        (output.stdout.len(), error.lines().count()),
        (0, 1),
        "{error}"
    );
    error
}

fn listed(street: &Street) -> Vec<(String, bool)> {
    let all: Value = serde_json::from_str(&done(street, &["ls", "--json"])).expect("JSON");
    let line = |image: &Value| {
        let name = image["Reference"].as_str().expect("a name").to_owned();
        (name, image["UsedBy"] != json!([]))
    };
    all.as_array().expect("an array").iter().map(line).collect()
}

fn web(name: &str, port: u16) -> String {
    json!({"family": "web", "cpu": "256", "memory": "128", "containerDefinitions": [{
        "name": "front", "image": name, "memory": 64, "stopTimeout": 5,
        "portMappings": [{"containerPort": 8080, "hostPort": port}]}]})
    .to_string()
}

/// No agent has ever looked at the store, and still `fsck` sees a byte that is another; what `again` brings is good.
#[track_caller]
fn changed_by_hand_is_found(street: &Street, name: &str, again: &[&str]) {
    let good: Value = serde_json::from_str(&done(street, &["fsck", "--json"])).expect("JSON");
    assert_eq!(
        (&good["Damaged"], &good["Unproven"]),
        (&json!([]), &json!([])),
        "{good:#}"
    );
    let details: Value = serde_json::from_str(&done(street, &["inspect", name])).expect("JSON");
    let layers = details["Layers"].as_array().expect("layers");
    let layer = layers
        .iter()
        .map(|layer| layer["DiffID"].as_str().expect("a diff ID"))
        .map(|id| {
            street
                .path("state")
                .join("images/layers/sha256")
                .join(&id[7..])
        })
        .find(|layer| layer.join("fs/srv/www/index.html").exists())
        .expect("the page's layer");
    let page = layer.join("fs/srv/www/index.html");
    let mut bytes = std::fs::read(&page).expect("read the page");
    bytes[0] ^= 1;
    std::fs::write(&page, bytes).expect("change the page");
    let output = image(street, &["fsck", "--json"], Stdio::null());
    assert_eq!(output.status.code(), Some(1));
    let bad: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let damaged = bad["Damaged"].as_array().expect("an array");
    assert!(
        damaged
            .iter()
            .any(|damage| damage["References"] == json!([name])
                && layer.ends_with(damage["Path"].as_str().expect("a path"))),
        "{bad:#}"
    );
    image(street, &["fsck", "--repair"], Stdio::null());
    done(street, again);
    done(street, &["fsck"]);
}

#[test]
#[ignore = "needs root"]
fn an_image_is_pulled_without_an_agent_and_carried_through_a_file_beside_one() {
    let street = Street::open();
    let from_registry = street.registry_image("web:1");
    let before = street.census();
    assert_eq!(listed(&street), []);
    assert!(!street.path("state").exists(), "looking makes nothing");
    let pulled = done(&street, &["pull", &from_registry]);
    assert!(
        pulled.starts_with(&format!("{from_registry} sha256:")),
        "{pulled}"
    );
    assert_eq!(listed(&street), [(from_registry.clone(), false)]);
    let archive = street.path("web.tar").display().to_string();
    done(&street, &["save", "-o", &archive, &from_registry]);
    changed_by_hand_is_found(&street, &from_registry, &["load", &archive]);
    changed_by_hand_is_found(&street, &from_registry, &["pull", &from_registry]);

    let mut dev = street.dev();
    let with_agent: Value =
        serde_json::from_str(&done(&street, &["inspect", &from_registry])).expect("JSON");
    assert!(
        pulled.contains(with_agent["Digest"].as_str().expect("a digest")),
        "{with_agent:#}"
    );
    // Nobody listens there: what is run from it was loaded.
    let carried = "127.0.0.1:1/carried:1";
    let words = ["load", "--tag", carried, "-"];
    let from_stdin = Stdio::from(File::open(&archive).expect("open the archive"));
    let loaded = image(&street, &words, from_stdin);
    assert!(said(&words, &loaded).starts_with(carried));
    dev.ecs_json(&[
        "register-task-definition",
        "--cli-input-json",
        &web(carried, 18080),
    ]);
    let run = dev.ecs_json(&["run-task", "--task-definition", "web"]);
    let task = run["tasks"][0]["taskArn"]
        .as_str()
        .expect("a task")
        .to_owned();
    dev.client().until_running(&task);
    let page = street.fetch("http://127.0.0.1:18080/");
    assert!(
        page.contains("Served from a task of your own ECS"),
        "{page}"
    );

    let found = listed(&street);
    assert_eq!(
        found,
        [(carried.to_owned(), true), (from_registry.clone(), false)]
    );
    let id = task.rsplit('/').next().expect("an id");
    let error = refused(&street, &["rm", carried]);
    assert!(
        error.contains(id) && error.contains("stop it first"),
        "{error}"
    );
    // The container goes on without an agent, and its image is still kept.
    dev.program.kill();
    let error = refused(&street, &["rm", carried]);
    assert!(
        error.contains(id) && error.contains("stop the task first"),
        "{error}"
    );
    dev.again();

    dev.ecs_json(&["stop-task", "--task", &task]);
    dev.client().until_stopped(&task);
    longshore_tests::wait_until("the agent has let go of it", || {
        dev.socket("/v1/tasks")["Tasks"] == json!([])
    });
    let removed = done(&street, &["rm", carried, &from_registry]);
    assert_eq!(removed.lines().count(), 2, "{removed}");
    assert_eq!(listed(&street), []);
    let usage: Value = serde_json::from_str(&done(&street, &["df", "--json"])).expect("JSON");
    assert_eq!(usage["Images"], 0, "{usage:#}");

    let docker = street.path("docker.tar");
    done(&street, &["load", "--tag", "web:2", &archive]);
    done(
        &street,
        &[
            "save",
            "--format",
            "docker",
            "-o",
            &docker.display().to_string(),
            "web:2",
        ],
    );
    let names = Command::new("tar")
        .arg("-tf")
        .arg(&docker)
        .output()
        .expect("start tar");
    assert!(String::from_utf8_lossy(&names.stdout).starts_with("manifest.json\n"));

    dev.reset();
    drop(dev);
    street.census().assert_same(&before);
}

#[test]
#[ignore = "needs root"]
fn what_cannot_be_loaded_is_refused_in_one_sentence_by_either_way() {
    let street = Street::open();
    let before = street.census();
    let text = street.path("text");
    std::fs::write(&text, "no archive at all\n".repeat(100)).expect("write a file");
    let text = text.display().to_string();
    let refusals = |street: &Street| {
        for (arguments, why) in [
            (&["load", &text][..], "check sum"),
            (&["load", "/nonexistent"], "open: "),
            (&["load", "--rootfs", "--tag", "a:1", &text], "check sum"),
            (&["pull", "127.0.0.1:1/none:1"], "127.0.0.1:1"),
            (&["inspect", "none"], "none"),
            (&["save", "-o", "/tmp/never-made.tar", "none"], "none"),
            (&["tag", "none", "other"], "none"),
            (&["rm", "none"], "none"),
        ] {
            let error = refused(street, arguments);
            assert!(error.contains(why), "{arguments:?}: {error}");
        }
        assert!(!Path::new("/tmp/never-made.tar").exists());
    };
    refusals(&street);
    let mut dev = street.dev();
    refusals(&street);
    let told = image(
        &street,
        &["pull", "--insecure-registry", "r:1", "r:1/a"],
        Stdio::null(),
    );
    assert!(String::from_utf8_lossy(&told.stderr).contains("an agent of this instance runs"));
    let wrong = image(&street, &["load", "--rootfs", "-"], Stdio::null());
    assert_eq!(
        wrong.status.code(),
        Some(2),
        "a root file system needs a name"
    );
    dev.reset();
    drop(dev);
    street.census().assert_same(&before);
}
