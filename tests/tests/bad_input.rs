//! Bad input: each a named error with step, subject and remedy; nothing left behind, nothing else disturbed.

use longshore_tests::{
    AgentHalf, ControlHalf, Dev, Image, Layer, Program, Street, container, definition,
};
use serde_json::{Value, json};

/// A street with a dev and a bystander task that must run through everything.
struct Scene {
    dev: Dev,
    bystander: String,
    street: Street,
}

impl Scene {
    fn open() -> Scene {
        let street = Street::open();
        let image = street.registry_image("web:1");
        let mut dev = street.dev();
        // No shell: it would become sleep under the census's eyes.
        let mut sleeper = container("c", &image, "1000");
        sleeper["entryPoint"] = json!(["/bin/sleep"]);
        let bystander = dev.client().launch(definition("bystander", &[sleeper]));
        dev.client().until_running(&bystander);
        Scene {
            dev,
            bystander,
            street,
        }
    }

    /// Runs a task that cannot start; its reasons. Whatever it made must be gone again.
    fn fails_to_start(&mut self, family: &str, containers: &[Value]) -> String {
        let before = self.street.census();
        let client = self.dev.client();
        let task = client.launch(definition(family, containers));
        let stopped = client.until_stopped(&task);
        assert_eq!(
            stopped["stopCode"], "TaskFailedToStart",
            "{family}: {stopped:#}"
        );
        self.street.census().assert_same(&before);
        assert_eq!(
            client.task(&self.bystander)["lastStatus"],
            "RUNNING",
            "{family} disturbed a bystander"
        );
        let reason = &stopped["containers"][0]["reason"];
        format!(
            "{} | {}",
            stopped["stoppedReason"].as_str().unwrap_or_default(),
            reason.as_str().unwrap_or_default()
        )
    }

    fn image_fails(&mut self, family: &str, image: &str) -> String {
        let reason = self.fails_to_start(family, &[container("c", image, "true")]);
        assert!(
            reason.contains("CannotPullContainerError"),
            "{family}: {reason}"
        );
        reason
    }

    fn refuses_definition(&mut self, what: &str, definition: Value) -> String {
        let refused = self.dev.client().call("RegisterTaskDefinition", definition);
        let error = refused.expect_err(what);
        assert_eq!(error.code, "ClientException", "{what}: {}", error.message);
        error.message
    }
}

/// Fails unless the text has each of the words.
fn says(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "no {word:?} in: {text}");
    }
}

#[test]
#[ignore = "needs root"]
fn images_that_cannot_be_had_are_named() {
    let mut scene = Scene::open();
    let unknown = scene.image_fails("unknown", "127.0.0.1:5000/no/such:tag");
    says(&unknown, &["127.0.0.1:5000/no/such:tag"]);
    let unreachable = scene.image_fails("unreachable", "127.0.0.1:9/web:1");
    says(&unreachable, &["127.0.0.1:9"]);
    let absent = format!("127.0.0.1:5000/web@sha256:{}", "0".repeat(64));
    let absent = scene.image_fails("absent", &absent);
    says(
        &absent,
        &[
            "sha256:0000",
            "no image of this digest",
            "check name and digest",
        ],
    );
}

#[test]
#[ignore = "needs root"]
fn what_is_no_image_reference_registers_as_at_ecs_and_fails_by_name() {
    let mut scene = Scene::open();
    for (family, image) in [("upper", "UPPER/::x"), ("digest", "web@sha256:12")] {
        let reason = scene.image_fails(family, image);
        let step = format!("resolve {image}: not an image reference: ");
        says(&reason, &[&step, "write [registry[:port]/]name[:tag]"]);
    }
}

#[test]
#[ignore = "needs root"]
fn images_that_are_not_what_they_say_are_refused() {
    let mut scene = Scene::open();
    let registry = scene.street.registry();
    let corrupt = Image::busybox().layer(Layer::new().file("a", 0o644, &[b'x'; 4096]));
    let corrupt_reference = registry.push("corrupt:1", &corrupt);
    registry.corrupt(&corrupt.top_layer());
    let wrong = Image::busybox()
        .layer(Layer::new().file("b", 0o644, b"b"))
        .with_wrong_diff_id();
    let wrong_reference = registry.push("wrong:1", &wrong);

    let reason = scene.image_fails("corrupt", &corrupt_reference);
    says(&reason, &["digest", &corrupt.top_layer()]);
    let reason = scene.image_fails("wrong", &wrong_reference);
    says(&reason, &["diff ID"]);
}

#[test]
#[ignore = "needs root"]
fn layers_that_climb_out_write_nothing_outside() {
    let mut scene = Scene::open();
    let target = scene.street.path("victim");
    std::fs::create_dir(&target).expect("make the victim");
    let outside = target.to_string_lossy().into_owned();
    let climbers = [
        (
            "dots",
            Layer::new().file(
                "../../../../../../../../tmp/longshore-climbed",
                0o644,
                b"out",
            ),
        ),
        (
            "symlink",
            Layer::new()
                .symlink("door", &outside)
                .file("door/climbed", 0o644, b"out"),
        ),
        (
            "hardlink",
            Layer::new().hardlink("stolen", "../../../../../../../../etc/shadow"),
        ),
        ("absolute", Layer::new().hardlink("stolen", "/etc/shadow")),
    ];
    for (name, layer) in climbers {
        let image = Image::busybox().layer(layer);
        let reference = scene.street.registry().push(&format!("{name}:1"), &image);
        let reason = scene.image_fails(name, &reference);
        says(&reason, &["climbs out", "is refused"]);
        let climbed = std::fs::read_dir(&target).expect("read the victim").count();
        assert_eq!(climbed, 0, "{name} wrote outside of its root");
        assert!(
            !std::path::Path::new("/tmp/longshore-climbed").exists(),
            "{name} wrote outside of its root"
        );
    }
}

#[test]
#[ignore = "needs root"]
fn processes_that_cannot_start_are_named() {
    let mut scene = Scene::open();
    let image =
        Image::busybox().layer(Layer::new().file("srv-not-executable", 0o644, b"/bin/true\n"));
    let image = scene.street.registry().push("odd:1", &image);

    let mut user = container("c", &image, "true");
    user["user"] = json!("nobody-knows");
    says(
        &scene.fails_to_start("user", &[user]),
        &["nobody-knows", "Cannot"],
    );

    let mut absent = container("c", &image, "true");
    absent["entryPoint"] = json!(["/bin/absent"]);
    says(
        &scene.fails_to_start("absent", &[absent]),
        &["/bin/absent", "Cannot"],
    );

    let mut forbidden = container("c", &image, "true");
    forbidden["entryPoint"] = json!(["/srv-not-executable"]);
    says(
        &scene.fails_to_start("forbidden", &[forbidden]),
        &["/srv-not-executable", "Cannot"],
    );
}

#[test]
#[ignore = "needs root"]
fn definitions_that_cannot_be_are_refused_by_ecs_names() {
    let mut scene = Scene::open();
    let one = |name: &str| container(name, "127.0.0.1:5000/web:1", "true");

    let mut small = one("c");
    small["memory"] = json!(5);
    let message = scene.refuses_definition("memory below 6 MiB", definition("small", &[small]));
    says(&message, &["6"]);

    scene.refuses_definition(
        "two containers of one name",
        definition("twins", &[one("c"), one("c")]),
    );

    let mut extra = one("c");
    extra["essential"] = json!(false);
    let message = scene.refuses_definition("no essential container", definition("idle", &[extra]));
    says(&message, &["essential"]);

    let message = scene.refuses_definition("no container", definition("empty", &[]));
    assert!(
        message.starts_with("Container list cannot be empty"),
        "{message}"
    );
}

#[test]
#[ignore = "needs root"]
fn what_the_host_forbids_is_a_placement_failure() {
    let mut scene = Scene::open();
    let mut privileged = container("c", "127.0.0.1:5000/web:1", "true");
    privileged["privileged"] = json!(true);
    let mut host = definition("host", &[container("c", "127.0.0.1:5000/web:1", "true")]);
    host["networkMode"] = json!("host");
    let mut capable = container("c", "127.0.0.1:5000/web:1", "true");
    capable["linuxParameters"] = json!({"capabilities": {"add": ["SYS_ADMIN"]}});
    for forbidden in [
        definition("privileged", &[privileged]),
        host,
        definition("capable", &[capable]),
    ] {
        let family = forbidden["family"].as_str().expect("a family").to_owned();
        let client = scene.dev.client();
        client
            .call("RegisterTaskDefinition", forbidden)
            .expect("register");
        let answer = client
            .call("RunTask", json!({"taskDefinition": family}))
            .expect("run");
        assert_eq!(answer["tasks"], json!([]), "{family}");
        assert_eq!(
            answer["failures"][0]["reason"], "ATTRIBUTE",
            "{family}: {answer}"
        );
    }
}

#[test]
#[ignore = "needs root"]
fn awsvpc_registers_and_is_refused_by_name() {
    let mut scene = Scene::open();
    let mut vpc = definition("vpc", &[container("c", "127.0.0.1:5000/web:1", "true")]);
    vpc["networkMode"] = json!("awsvpc");
    let client = scene.dev.client();
    client
        .call("RegisterTaskDefinition", vpc)
        .expect("awsvpc registers");
    let network = json!({"awsvpcConfiguration": {"subnets": ["subnet-1"]}});
    let run = json!({"taskDefinition": "vpc", "networkConfiguration": network});
    let error = client
        .call("RunTask", run)
        .expect_err("awsvpc is not there yet");
    says(&error.message, &["awsvpc"]);
}

#[test]
#[ignore = "needs root"]
fn requests_that_are_no_requests_get_aws_errors() {
    let mut scene = Scene::open();
    let client = scene.dev.client();
    let target = "AmazonEC2ContainerServiceV20141113.ListClusters";
    let kind = |request: Value| {
        let answer = client.raw(request);
        assert_eq!(answer["status"], 400, "{answer}");
        let body: Value =
            serde_json::from_str(answer["body"].as_str().expect("a body")).expect("JSON");
        body["__type"].as_str().expect("a type").to_owned()
    };
    assert_eq!(
        kind(json!({"raw": "{", "target": target})),
        "SerializationException"
    );
    assert_eq!(
        kind(json!({"raw": "[]", "target": target})),
        "SerializationException"
    );
    let wrong = json!({"raw": "{}", "target": target, "secret": "not the secret"});
    assert_eq!(kind(wrong), "InvalidSignatureException");
    let unsigned = json!({"raw": "{}", "target": target, "sign": false});
    assert_eq!(kind(unsigned), "MissingAuthenticationTokenException");
    let unknown = json!({"raw": "{}", "target": "AmazonEC2ContainerServiceV20141113.MakeTea"});
    assert_eq!(kind(unknown), "UnknownOperationException");
}

#[test]
#[ignore = "needs root"]
fn a_join_token_admits_one_host_once() {
    let street = Street::open();
    let other = Street::second(&street);
    let control = ControlHalf::start(&street, "plane", 4480, 4481);
    let token = control.token();
    let mut first = AgentHalf::start(&street, 4481, &token);
    first.program.says("Ready");
    let before = other.census();
    let mut second = AgentHalf::start(&other, 4481, &token);
    let said = second.program.fails();
    says(&said, &["join https://127.0.0.1:4481", "used"]);
    other.census().assert_same(&before);
    assert!(!other.path("agent").exists(), "it left its state folder");
    let instances = control
        .client()
        .call("ListContainerInstances", json!({}))
        .expect("list");
    assert_eq!(
        instances["containerInstanceArns"].as_array().map(Vec::len),
        Some(1)
    );
    assert!(
        !second.program.text().contains(&token),
        "the token is in the agent's output"
    );
}

#[test]
#[ignore = "needs root"]
fn a_dev_that_cannot_begin_leaves_nothing() {
    let street = Street::open();
    let taken = std::net::TcpListener::bind("127.0.0.1:4480").expect("take the port");
    let before = street.census();
    let state = street.path("state");
    let begin = |more: &[&str]| {
        let place = [
            "dev",
            "--instance",
            &street.instance,
            "--state-dir",
            &state.display().to_string(),
        ];
        let words: Vec<&str> = place.iter().chain(more).copied().collect();
        let said = Program::start(street.path("dev.log"), &words, &[]).fails();
        street.census().assert_same(&before);
        assert!(!state.exists(), "it left its state folder: {said}");
        said
    };
    let said = begin(&["--runtime", "/no/such/runtime"]);
    says(&said, &["find longshore-runtime", "/no/such/runtime"]);
    let said = begin(&[]);
    says(&said, &["127.0.0.1:4480", "another port with --api"]);
    drop(taken);
}

#[test]
#[ignore = "needs root"]
fn a_token_that_is_not_needed_is_not_passed_over_in_silence() {
    let street = Street::open();
    let control = ControlHalf::start(&street, "plane", 4480, 4481);
    let token = control.token();
    let mut first = AgentHalf::start(&street, 4481, &token);
    first.program.says("Ready");
    first.program.kill();
    let mut again = AgentHalf::start(&street, 4481, &token);
    again.program.says("the join token is not used");
    assert!(!again.program.text().contains(&token));
}

#[test]
#[ignore = "needs root"]
fn an_impostor_hears_no_token_and_a_stranger_is_sent_away() {
    let street = Street::open();
    let other = Street::second(&street);
    let ours = ControlHalf::start(&street, "plane", 4480, 4481);
    let impostor = ControlHalf::start(&street, "impostor", 4490, 4491);
    let token = ours.token();

    // The token names our CA: whoever answers on another port is refused before the token is sent.
    let mut deceived = AgentHalf::start(&other, 4491, &token);
    deceived.program.says("the token was not sent");
    assert!(!impostor.program.text().contains(&token));
    let joined = impostor
        .client()
        .call("ListContainerInstances", json!({}))
        .expect("list");
    assert_eq!(joined["containerInstanceArns"], json!([]));
    drop(deceived);

    // The token was not used up by that; a host of ours that is pointed elsewhere stays out there.
    let mut agent = AgentHalf::start(&street, 4481, &token);
    agent.program.says("Ready");
    agent.program.kill();
    agent.point_at(4491);
    agent.program.says("certificate");
    let joined = impostor
        .client()
        .call("ListContainerInstances", json!({}))
        .expect("list");
    assert_eq!(joined["containerInstanceArns"], json!([]));
}
