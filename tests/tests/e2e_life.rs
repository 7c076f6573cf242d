//! The main job: an image from a real registry becomes a running, limited task, and its status comes back.

use longshore_tests::{Street, container, definition};
use serde_json::{Value, json};

#[test]
#[ignore = "needs root"]
fn awscli_drives_a_task_through_its_whole_life() {
    let street = Street::open();
    let image = street.registry_image("web:1");
    let before = street.census();
    let mut dev = street.dev();

    let web = json!({"family": "web", "cpu": "256", "memory": "128", "containerDefinitions": [{
        "name": "front", "image": image, "memory": 64, "stopTimeout": 5,
        "portMappings": [{"containerPort": 8080, "hostPort": 18080}]}]});
    let registered = dev.ecs_json(&[
        "register-task-definition",
        "--cli-input-json",
        &web.to_string(),
    ]);
    let arn = registered["taskDefinition"]["taskDefinitionArn"]
        .as_str()
        .expect("an ARN");
    assert!(arn.ends_with(":task-definition/web:1"), "{arn}");

    let run = dev.ecs_json(&["run-task", "--task-definition", "web"]);
    assert_eq!(run["tasks"][0]["lastStatus"], "PENDING");
    let task = run["tasks"][0]["taskArn"]
        .as_str()
        .expect("a task")
        .to_owned();

    let running = dev.client().until_running(&task);
    assert_eq!(
        running["containers"][0]["networkBindings"][0]["hostPort"],
        18080
    );
    assert!(
        running["startedAt"].is_string() && running["pullStoppedAt"].is_string(),
        "{running:#}"
    );

    let page = street.fetch("http://127.0.0.1:18080/");
    assert!(
        page.contains("Served from a task of your own ECS"),
        "{page}"
    );

    let log = dev.log_of(&task);
    assert!(log.contains("200"), "httpd tells each answer: {log}");

    dev.ecs_json(&["stop-task", "--task", &task, "--reason", "seen enough"]);
    let stopped = dev.client().until_stopped(&task);
    assert_eq!(stopped["stopCode"], "UserInitiated");
    assert_eq!(stopped["stoppedReason"], "seen enough");
    assert_eq!(stopped["containers"][0]["exitCode"], 0, "{stopped:#}");
    // Its record is gone from the agent's journal by then, or soon.
    longshore_tests::wait_until("the agent has let go of it", || {
        dev.socket("/v1/tasks")["Tasks"] == json!([])
    });
    let inspected = dev.longshore(&["inspect", &task]);
    let inspected: Value = serde_json::from_slice(&inspected.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&inspected.stderr)));
    assert_eq!(inspected["KnownStatus"], "STOPPED");
    assert_eq!(inspected["StoppedReason"], "seen enough");

    dev.reset();
    drop(dev);
    street.census().assert_same(&before);
}

#[test]
#[ignore = "needs root"]
fn the_readmes_example_runs() {
    let street = Street::open();
    let image = street.registry_image("web:1");
    let mut dev = street.dev();
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/web.json");
    let example = std::fs::read_to_string(file).expect("read the example");
    let example: Value = serde_json::from_str(&example).expect("the example is JSON");
    assert_eq!(example["containerDefinitions"][0]["image"], image.as_str());
    let task = dev.client().launch(example);
    dev.client().until_running(&task);
    let page = street.fetch("http://127.0.0.1:18080/");
    assert!(page.contains("<h1>Served from a task"), "{page}");
}

#[test]
#[ignore = "needs root"]
fn a_reset_counts_what_ran() {
    let street = Street::open();
    let image = street.registry_image("web:1");
    let mut dev = street.dev();
    let mut sleeper = container("c", &image, "1000");
    sleeper["entryPoint"] = json!(["/bin/sleep"]);
    let task = dev.client().launch(definition("sleeper", &[sleeper]));
    dev.client().until_running(&task);
    let said = dev.reset();
    assert!(said.contains("  1 container, 1 process\n"), "{said}");
}

#[test]
#[ignore = "needs root"]
fn an_exit_code_and_the_essential_rule_come_back() {
    let street = Street::open();
    let image = street.registry_image("web:1");
    let mut dev = street.dev();
    let until_term =
        |code| format!("trap 'exit {code}' TERM; echo up; while :; do sleep 0.1; done");
    let mut helper = container("helper", &image, &until_term(5));
    helper["essential"] = json!(false);
    let main = container("main", &image, &until_term(3));
    let task = dev.client().launch(definition("pair", &[main, helper]));
    let running = dev.client().until_running(&task);
    street.until_up(&task, "main");
    street.until_up(&task, "helper");
    let main = running["containers"][0]["runtimeId"]
        .as_str()
        .expect("a runtime id");
    longshore_tests::terminate(street.pid_of(main));

    let stopped = dev.client().until_stopped(&task);
    assert_eq!(stopped["stopCode"], "EssentialContainerExited");
    assert_eq!(
        stopped["stoppedReason"],
        "Essential container in task exited"
    );
    let codes: Vec<_> = named(&stopped)
        .map(|(name, c)| (name, c["exitCode"].clone()))
        .collect();
    assert_eq!(codes, [("main", json!(3)), ("helper", json!(5))]);
}

#[test]
#[ignore = "needs root"]
fn overrides_environment_user_and_directory_reach_the_process() {
    let street = Street::open();
    let image = street.registry_image("web:1");
    let mut dev = street.dev();
    let mut shell = container(
        "c",
        &image,
        "id -u; pwd; echo $GREETING $NAME; echo $MORE; hostname",
    );
    shell["user"] = json!("www-data:games");
    shell["workingDirectory"] = json!("/srv");
    shell["hostname"] = json!("harbour");
    shell["environment"] = json!([{"name": "NAME", "value": "world"}]);
    let client = dev.client();
    client
        .call("RegisterTaskDefinition", definition("env", &[shell]))
        .expect("register");
    let overrides = json!({"containerOverrides": [{"name": "c",
        "environment": [{"name": "MORE", "value": "overridden"}]}]});
    let answer = client.call(
        "RunTask",
        json!({"taskDefinition": "env", "overrides": overrides}),
    );
    let task = answer.expect("run")["tasks"][0]["taskArn"]
        .as_str()
        .expect("a task")
        .to_owned();
    client.until_stopped(&task);
    let log = dev.log_of(&task);
    assert_eq!(log, "33\n/srv\nhello world\noverridden\nharbour\n");
}

#[test]
#[ignore = "needs root"]
fn a_whiteout_hides_what_a_lower_layer_holds_and_the_sandbox_is_closed() {
    let street = Street::open();
    let image = street.registry_image("web:1");
    let mut dev = street.dev();
    let look = "ls /srv/www; echo pid $$; cat /proc/self/status | grep -E '^(Seccomp|NoNewPrivs):'; \
                echo 1 > /proc/sys/kernel/panic; mount -t tmpfs none /mnt; \
                ip -o link | wc -l";
    let task = dev
        .client()
        .launch(definition("look", &[container("c", &image, look)]));
    dev.client().until_stopped(&task);
    let log = dev.log_of(&task);
    let lines: Vec<&str> = log.lines().collect();
    assert_eq!(lines[0], "index.html", "draft.html is whited out: {log}");
    assert!(log.contains("pid 1\n"), "{log}");
    assert!(log.contains("Seccomp:\t2"), "{log}");
    assert!(
        log.contains("NoNewPrivs:\t0"),
        "off unless asked, as in ECS: {log}"
    );
    assert!(
        log.contains("/proc/sys/kernel/panic: Read-only file system"),
        "{log}"
    );
    assert!(log.contains("mount: ") && log.contains("denied"), "{log}");
    assert!(lines.contains(&"1"), "mode none has loopback only: {log}");
}

#[test]
#[ignore = "needs root"]
fn containers_on_the_bridge_get_addresses_and_dynamic_ports() {
    let street = Street::open();
    let image = street.registry_image("web:1");
    let mut dev = street.dev();
    let server = json!({"name": "front", "image": image, "memory": 32, "stopTimeout": 2,
        "portMappings": [{"containerPort": 8080}]});
    let bridge = json!({"family": "two", "containerDefinitions": [server]});
    let client = dev.client();
    let first = client.launch(bridge);
    let second = client.run("two");
    let port = |arn: &str| {
        let task = client.until_running(arn);
        task["containers"][0]["networkBindings"][0]["hostPort"]
            .as_u64()
            .expect("a port")
    };
    let (one, two) = (port(&first), port(&second));
    assert_ne!(one, two);
    for port in [one, two] {
        let page = street.fetch(&format!("http://127.0.0.1:{port}/"));
        assert!(page.contains("your own ECS"), "{page}");
    }
    for task in [&first, &second] {
        client.stop(task, "enough");
        client.until_stopped(task);
    }
}

#[test]
#[ignore = "needs root"]
fn the_debug_socket_tells_what_runs() {
    let street = Street::open();
    let image = street.registry_image("web:1");
    let mut dev = street.dev();
    let task = dev.client().launch(definition(
        "sleep",
        &[container("c", &image, "exec sleep 1000")],
    ));
    dev.client().until_running(&task);

    let metadata = dev.socket("/v1/metadata");
    assert_eq!(metadata["Cluster"], "default", "{metadata}");
    assert!(
        metadata["ContainerInstanceArn"]
            .as_str()
            .is_some_and(|arn| arn.contains(":container-instance/"))
    );
    assert_eq!(dev.socket("/v1/tasks")["Tasks"][0]["Arn"], task.as_str());
    let one = dev.socket(&format!("/v1/tasks?taskarn={task}"));
    assert!(one.to_string().contains(&task), "{one}");

    let ps = dev.longshore(&["ps"]);
    let id = task.rsplit('/').next().expect("an id");
    assert!(String::from_utf8_lossy(&ps.stdout).contains(id));
    let inspect = dev.longshore(&["inspect", &id[..8]]);
    let inspect: Value = serde_json::from_slice(&inspect.stdout).expect("inspect prints JSON");
    assert_eq!(inspect["Arn"], task.as_str());
    let unknown = dev.longshore(&["inspect", "ffff"]);
    assert_eq!(unknown.status.code(), Some(1));
}

fn named(task: &Value) -> impl Iterator<Item = (&str, &Value)> {
    let containers = task["containers"].as_array().expect("containers");
    containers
        .iter()
        .map(|c| (c["name"].as_str().expect("a name"), c))
}
