//! What a definition may ask for beyond an image and a command, seen from inside the container.

use longshore_tests::{Street, container, definition};
use serde_json::json;

#[test]
#[ignore = "needs root"]
fn an_image_is_had_by_its_digest_too() {
    let street = Street::open();
    let tagged = street.registry_image("web:1");
    let mut dev = street.dev();
    let first = dev
        .client()
        .launch(definition("tag", &[container("c", &tagged, "true")]));
    let digest = dev.client().until_stopped(&first)["containers"][0]["imageDigest"].clone();
    let digest = digest.as_str().expect("a digest");
    let pinned = format!("{}@{digest}", tagged.rsplit_once(':').expect("a tag").0);
    let second = dev
        .client()
        .launch(definition("digest", &[container("c", &pinned, "exit 4")]));
    let stopped = dev.client().until_stopped(&second);
    assert_eq!(stopped["containers"][0]["exitCode"], 4, "{stopped:#}");
}

#[test]
#[ignore = "needs root"]
fn a_container_that_will_not_end_is_killed_after_its_stop_timeout() {
    let street = Street::open();
    let image = street.registry_image("web:1");
    let mut dev = street.dev();
    let deaf = container(
        "deaf",
        &image,
        "trap '' TERM; echo up; while :; do sleep 1; done",
    );
    let task = dev.client().launch(definition("deaf", &[deaf]));
    dev.client().until_running(&task);
    longshore_tests::wait_until("the trap is set", || dev.log_of(&task).contains("up"));
    dev.client().stop(&task, "enough");
    let stopped = dev.client().until_stopped(&task);
    assert_eq!(stopped["containers"][0]["exitCode"], 137, "{stopped:#}");
    assert!(!stopped.to_string().contains("OutOfMemory"), "{stopped:#}");
}

#[test]
#[ignore = "needs root"]
fn rights_are_taken_away_where_a_definition_says_so() {
    let street = Street::open();
    let image = street.registry_image("web:1");
    let mut dev = street.dev();
    let look = "touch /srv/new; grep -E '^(NoNewPrivs|CapEff):' /proc/self/status; ulimit -n";
    let mut strict = container("c", &image, look);
    strict["readonlyRootFilesystem"] = json!(true);
    strict["dockerSecurityOptions"] = json!(["no-new-privileges"]);
    strict["linuxParameters"] = json!({"capabilities": {"drop": ["ALL"]}});
    strict["ulimits"] = json!([{"name": "nofile", "softLimit": 77, "hardLimit": 88}]);
    let task = dev.client().launch(definition("strict", &[strict]));
    dev.client().until_stopped(&task);
    let log = dev.log_of(&task);
    assert!(log.contains("/srv/new: Read-only file system"), "{log}");
    assert!(log.contains("NoNewPrivs:\t1"), "{log}");
    assert!(log.contains("CapEff:\t0000000000000000"), "{log}");
    // Standard error has a pipe of its own, so what came last is not told.
    assert!(log.lines().any(|line| line == "77"), "{log}");
}

#[test]
#[ignore = "needs root"]
fn a_host_that_permits_it_gives_its_network_and_capabilities() {
    let street = Street::open();
    let image = street.registry_image("web:1");
    let mut dev = street.dev_with(&["--allow", "host-network,cap-add=NET_ADMIN"]);
    let look =
        "ip -o link | wc -l; ip link add dummy0 type bridge && ip link del dummy0 && echo changed";
    let mut capable = container("c", &image, look);
    capable["linuxParameters"] = json!({"capabilities": {"add": ["NET_ADMIN"]}});
    let mut host = definition("host", &[capable]);
    host["networkMode"] = json!("host");
    let links = street.census().matching("link ").len();
    let task = dev.client().launch(host);
    let stopped = dev.client().until_stopped(&task);
    let log = dev.log_of(&task);
    assert_eq!(log, format!("{links}\nchanged\n"), "{stopped:#}");
}

#[test]
#[ignore = "needs root"]
fn a_host_that_permits_it_runs_a_privileged_container() {
    let street = Street::open();
    let image = street.registry_image("web:1");
    let mut dev = street.dev_with(&["--allow", "privileged"]);
    let look = "grep -E '^(CapEff|Seccomp):' /proc/self/status; touch /proc/sys/kernel/probe 2>&1";
    let mut mighty = container("c", &image, look);
    mighty["privileged"] = json!(true);
    mighty["user"] = json!("0");
    let task = dev.client().launch(definition("mighty", &[mighty]));
    let stopped = dev.client().until_stopped(&task);
    let log = dev.log_of(&task);
    assert!(log.contains("Seccomp:\t0"), "{log} {stopped:#}");
    assert!(!log.contains("CapEff:\t00000000a80425fb"), "{log}");
    assert!(!log.contains("Read-only file system"), "{log}");
}

#[test]
#[ignore = "needs root"]
fn a_task_has_the_ephemeral_storage_that_it_asks_for() {
    let street = Street::open();
    let image = street.registry_image("web:1");
    let mut dev = street.dev();
    let look = "df -k / | tail -n 1; echo written >/file; cat /file";
    let mut sized = definition("sized", &[container("c", &image, look)]);
    sized["ephemeralStorage"] = json!({"sizeInGiB": 2});
    let task = dev.client().launch(sized);
    let stopped = dev.client().until_stopped(&task);
    assert_eq!(stopped["ephemeralStorage"], json!({"sizeInGiB": 2}));
    let log = dev.log_of(&task);
    let words: Vec<&str> = log.split_whitespace().collect();
    let size: u64 = words[1].parse().expect("df's second column");
    // An ext4's own tables take some of it.
    assert!((1_900_000..=2_097_152).contains(&size), "{log}");
    assert_eq!(words.last(), Some(&"written"), "{log}");
}

#[test]
#[ignore = "needs root"]
fn any_user_of_a_container_can_read_its_limits() {
    let street = Street::open();
    let image = street.registry_image("web:1");
    let mut dev = street.dev();
    let look = "cd /sys/fs/cgroup; cat memory/memory.limit_in_bytes memory.max 2>/dev/null; true";
    let mut anyone = container("c", &image, look);
    anyone["user"] = json!("www-data");
    let task = dev.client().launch(definition("look", &[anyone]));
    let stopped = dev.client().until_stopped(&task);
    let limit = (64 << 20).to_string();
    assert_eq!(dev.log_of(&task).trim(), limit, "{stopped:#}");
}

#[test]
#[ignore = "needs root"]
fn logs_are_followed_to_the_end_and_cut_to_a_tail() {
    let street = Street::open();
    let image = street.registry_image("web:1");
    let mut dev = street.dev();
    let chatty = container(
        "chatty",
        &image,
        "for n in 1 2 3 4 5; do echo line $n; sleep 0.2; done; echo end >&2",
    );
    let quiet = container("quiet", &image, "exec sleep 1000");
    let task = dev.client().launch(definition("chatty", &[chatty, quiet]));
    dev.client().until_running(&task);
    let followed = dev.longshore(&["logs", "-f", &task, "chatty"]);
    let text = String::from_utf8_lossy(&followed.stdout).into_owned();
    assert_eq!(text, "line 1\nline 2\nline 3\nline 4\nline 5\n");
    assert_eq!(String::from_utf8_lossy(&followed.stderr), "end\n");
    let tail = dev.longshore(&["logs", "--tail", "2", &task, "chatty"]);
    assert_eq!(String::from_utf8_lossy(&tail.stdout), "line 5\n");
    assert_eq!(String::from_utf8_lossy(&tail.stderr), "end\n");
    let several = dev.longshore(&["logs", &task]);
    assert_eq!(several.status.code(), Some(1));
    let error = String::from_utf8_lossy(&several.stderr).into_owned();
    assert!(error.contains("chatty, quiet"), "it names them: {error}");
}

#[test]
#[ignore = "needs root"]
fn a_task_can_be_put_on_a_named_host() {
    let street = Street::open();
    let image = street.registry_image("web:1");
    let mut dev = street.dev();
    let client = dev.client();
    let one = definition("one", &[container("c", &image, "exit 9")]);
    client
        .call("RegisterTaskDefinition", one)
        .expect("register");
    let hosts = client
        .call("ListContainerInstances", json!({}))
        .expect("list");
    let host = hosts["containerInstanceArns"][0]
        .as_str()
        .expect("a host")
        .to_owned();
    let start = json!({"taskDefinition": "one", "containerInstances": [host]});
    let started = client.call("StartTask", start).expect("start");
    let task = started["tasks"][0]["taskArn"].as_str().expect("a task");
    let stopped = client.until_stopped(task);
    assert_eq!(stopped["containerInstanceArn"], host.as_str());
    assert_eq!(stopped["containers"][0]["exitCode"], 9);

    let described = client.call(
        "DescribeContainerInstances",
        json!({"containerInstances": [host]}),
    );
    let described = described.expect("describe");
    let host = &described["containerInstances"][0];
    assert_eq!(host["agentConnected"], true);
    assert_eq!(
        host["remainingResources"], host["registeredResources"],
        "all is given back: {host:#}"
    );
}
