use expect_test::{Expect, expect};
use serde_json::{Value, json};

use super::super::{complete, normalise};
use super::*;

/// A container `web` with `more` laid over it.
fn web(more: Value) -> Value {
    let mut container = json!({"name": "web", "image": "web:1", "memory": 64});
    for (key, value) in more.as_object().unwrap() {
        container[key] = value.clone();
    }
    container
}

fn parse(document: Value) -> Document {
    serde_json::from_value(document).unwrap()
}

fn task(containers: Value) -> Document {
    parse(json!({"family": "web", "containerDefinitions": containers}))
}

fn verdict(mut document: Document) -> Result<Document, Invalid> {
    normalise(&mut document)?;
    check(&document)?;
    complete(&mut document);
    Ok(document)
}

fn refused(document: Document, text: Expect) {
    text.assert_eq(&verdict(document).unwrap_err().0);
}

fn refused_container(more: Value, text: Expect) {
    refused(task(json!([web(more)])), text);
}

fn accepted(document: Document) -> Document {
    verdict(document).unwrap()
}

#[test]
fn the_least_definition_registers_with_the_defaults_ecs_answers() {
    let document = accepted(task(json!([web(
        json!({"portMappings": [{"containerPort": 80}]})
    )])));
    let text = serde_json::to_string_pretty(&document).unwrap();
    expect![[r#"
        {
          "family": "web",
          "containerDefinitions": [
            {
              "name": "web",
              "image": "web:1",
              "cpu": 0,
              "memory": 64,
              "essential": true,
              "portMappings": [
                {
                  "containerPort": 80,
                  "hostPort": 0,
                  "protocol": "tcp"
                }
              ],
              "environment": [],
              "mountPoints": [],
              "volumesFrom": [],
              "systemControls": []
            }
          ],
          "volumes": [],
          "placementConstraints": []
        }"#]]
    .assert_eq(&text);
}

#[test]
fn quantities_become_plain_numbers() {
    let document = accepted(parse(
        json!({"family": "f", "cpu": ".25 vcpu", "memory": "1 GB",
        "containerDefinitions": [{"name": "a", "image": "i"}]}),
    ));
    assert_eq!(
        (document.task_cpu(), document.task_memory()),
        (Some(256), Some(1024))
    );
    assert_eq!(document.cpu.as_deref(), Some("256"));
}

#[test]
fn names_and_lists() {
    refused(task(json!([])), expect!["Container list cannot be empty."]);
    refused(
        task(json!([web(json!({"name": ""}))])),
        expect!["Container.name should not be null or empty."],
    );
    refused_container(
        json!({"name": "a b"}),
        expect![
            "Container.name contains invalid characters: 'a b' has ' '. Use 1 to 255 letters, digits, hyphens and underscores."
        ],
    );
    refused_container(
        json!({"image": ""}),
        expect!["Container.image should not be null or empty."],
    );
    refused_container(
        json!({"image": "a b"}),
        expect![
            "Container.image contains invalid characters: 'a b' has ' '. Write [registry[:port]/]name[:tag][@sha256:...] in at most 511 letters, digits and -_:./#@."
        ],
    );
    refused_container(
        json!({"image": "a".repeat(512)}),
        expect![
            "Container.image is too long: it has 512 characters. Write [registry[:port]/]name[:tag][@sha256:...] in at most 511 letters, digits and -_:./#@."
        ],
    );
    refused(
        task(json!([web(json!({})), web(json!({}))])),
        expect![
            "Container.name 'web' is used by more than one container; names must be unique within a task definition."
        ],
    );
    let many: Vec<Value> = (0..11)
        .map(|n| web(json!({"name": format!("c{n}")})))
        .collect();
    refused(task(json!(many)), expect!["Too many containers."]);
    refused(
        parse(json!({"containerDefinitions": [web(json!({}))]})),
        expect!["Family should not be null or empty."],
    );
    refused(
        parse(json!({"family": "a/b", "containerDefinitions": [web(json!({}))]})),
        expect![
            "Family contains invalid characters: 'a/b' has '/'. Use 1 to 255 letters, digits, hyphens and underscores."
        ],
    );
    refused(
        parse(json!({"family": "f".repeat(256), "containerDefinitions": [web(json!({}))]})),
        expect![
            "Family is too long: it has 256 characters. Use 1 to 255 letters, digits, hyphens and underscores."
        ],
    );
}

#[test]
fn at_least_one_container_is_essential() {
    refused_container(
        json!({"essential": false}),
        expect!["Task definition doesn't have any essential container."],
    );
}

#[test]
fn memory_has_a_floor_and_must_be_given() {
    refused_container(
        json!({"memory": 5}),
        expect!["Invalid setting for container 'web'. 'memory' must be at least 6 MiB."],
    );
    accepted(task(json!([web(json!({"memory": 6}))])));
    refused(
        task(json!([{"name": "web", "image": "i"}])),
        expect![
            "Invalid setting for container 'web'. At least one of 'memory' or 'memoryReservation' must be specified."
        ],
    );
    refused_container(
        json!({"memoryReservation": 65}),
        expect![
            "Invalid setting for container 'web'. 'memory' must be greater than or equal to 'memoryReservation'."
        ],
    );
    let mut small = task(json!([web(json!({}))]));
    small.memory = Some("32".into());
    refused(
        small,
        expect![
            "Invalid setting for container 'web'. 'memory' cannot be greater than the value of the task 'memory'."
        ],
    );
}

#[test]
fn task_cpu_bounds_its_containers() {
    let mut document = task(json!([web(json!({"cpu": 300}))]));
    document.cpu = Some("256".into());
    refused(
        document.clone(),
        expect![
            "The sum of all container 'cpu' values cannot be greater than the value of the task 'cpu'."
        ],
    );
    document.cpu = Some("64".into());
    refused(
        document.clone(),
        expect!["Invalid 'cpu' setting for task. It must be between 128 and 196608 CPU units."],
    );
    document.cpu = Some("lots".into());
    refused(
        document,
        expect!["Invalid 'cpu' setting for task. Write CPU units ('256') or vCPUs ('.25 vcpu')."],
    );
}

#[test]
fn ports_follow_the_network_mode() {
    let with = |network: &str, mapping: Value| {
        parse(json!({"family": "f", "networkMode": network,
            "containerDefinitions": [web(json!({"portMappings": [mapping]}))]}))
    };
    refused(
        with("host", json!({"containerPort": 80, "hostPort": 81})),
        expect![
            "When networkMode=host, the host ports and container ports in port mappings must match."
        ],
    );
    refused(
        with("none", json!({"containerPort": 80})),
        expect![
            "Invalid setting for container 'web'. Port mappings are not supported with networkMode 'none'."
        ],
    );
    refused(
        with(
            "bridge",
            json!({"containerPort": 80, "containerPortRange": "80-81"}),
        ),
        expect![
            "Invalid setting for container 'web'. A port mapping cannot specify both single port and port range."
        ],
    );
    refused(
        with("bridge", json!({"containerPortRange": "90-80"})),
        expect![
            "Invalid setting for container 'web'. 'containerPortRange' '90-80' is not FIRST-LAST with at most 100 ports."
        ],
    );
    refused(
        with("bridge", json!({"containerPort": 0})),
        expect![
            "Invalid setting for container 'web'. 'containerPort' must be between 1 and 65535."
        ],
    );
    let host = accepted(with("host", json!({"containerPort": 80})));
    assert_eq!(
        host.container_definitions[0].port_mappings[0].host_port,
        Some(80)
    );
    accepted(with(
        "bridge",
        json!({"containerPort": 80, "hostPort": 8080}),
    ));
}

#[test]
fn a_host_port_is_given_out_once() {
    let ports =
        json!([{"containerPort": 80, "hostPort": 8080}, {"containerPort": 81, "hostPort": 8080}]);
    refused_container(
        json!({"portMappings": ports}),
        expect![
            "Invalid setting for container 'web'. Host port 8080 is used more than once in the task definition."
        ],
    );
    let both = json!([{"containerPort": 80, "hostPort": 8080},
        {"containerPort": 80, "hostPort": 8080, "protocol": "udp"}]);
    accepted(task(json!([web(json!({"portMappings": both}))])));
}

#[test]
fn dependencies_exist_and_form_no_circle() {
    let on = |name: &str, target: &str, condition: &str| {
        web(json!({"name": name, "dependsOn": [{"containerName": target, "condition": condition}]}))
    };
    refused(
        task(json!([on("a", "b", "START")])),
        expect![
            "Invalid setting for container 'a'. It depends on 'b', which does not exist in the task definition."
        ],
    );
    refused(
        task(json!([
            on("a", "b", "START"),
            on("b", "a", "START"),
            web(json!({}))
        ])),
        expect!["Container dependencies form a cycle: a, b."],
    );
    refused(
        task(json!([on("a", "a", "START")])),
        expect!["Container dependencies form a cycle: a."],
    );
    refused(
        task(json!([on("a", "web", "SUCCESS"), web(json!({}))])),
        expect![
            "A dependency container with SUCCESS or COMPLETE condition cannot be an essential container"
        ],
    );
    refused(
        task(json!([on("a", "web", "HEALTHY"), web(json!({}))])),
        expect![
            "Invalid setting for container 'a'. It depends on 'web' being HEALTHY, which has no health check."
        ],
    );
    accepted(task(json!([on("a", "web", "START"), web(json!({}))])));
}

#[test]
fn smaller_rules() {
    refused_container(
        json!({"stopTimeout": 1}),
        expect![
            "Invalid setting for container 'web'. 'stopTimeout' must be between 2 and 86400 seconds."
        ],
    );
    refused_container(
        json!({"ulimits": [{"name": "files", "softLimit": 1, "hardLimit": 2}]}),
        expect![
            "Invalid ulimit 'files'. Must be one of [core, cpu, data, fsize, locks, memlock, msgqueue, nice, nofile, nproc, rss, rtprio, rttime, sigpending, stack]."
        ],
    );
    refused_container(
        json!({"ulimits": [{"name": "nofile", "softLimit": -1, "hardLimit": 2}]}),
        expect!["Invalid ulimit 'nofile'. The soft limit cannot be greater than the hard limit."],
    );
    refused_container(
        json!({"logConfiguration": {"logDriver": "paper"}}),
        expect![
            "paper is not a valid log driver. Must be one of [json-file, syslog, journald, gelf, fluentd, awslogs, splunk, awsfirelens]"
        ],
    );
    refused_container(
        json!({"logConfiguration": {"logDriver": "awslogs"}}),
        expect!["Log driver awslogs requires options: awslogs-group"],
    );
    refused_container(
        json!({"secrets": [{"name": "A", "valueFrom": "arn"}]}),
        expect![
            "When you are specifying container secrets, you must also specify a value for 'executionRoleArn'"
        ],
    );
    refused_container(
        json!({"mountPoints": [{"sourceVolume": "v", "containerPath": "/v"}]}),
        expect!["Invalid setting for container 'web'. Unknown volume 'v'."],
    );
    refused_container(
        json!({"environment": [{"name": "A=B", "value": "c"}]}),
        expect![
            "Invalid setting for container 'web'. 'environment': variable 'A=B' cannot be set: names are not empty and have no '=', neither part has a NUL."
        ],
    );
    refused_container(
        json!({"linuxParameters": {"swappiness": 101}}),
        expect!["Invalid setting for container 'web'. 'swappiness' must be between 0 and 100."],
    );
}

#[test]
fn fargate_has_rules_of_its_own() {
    let mut document = task(json!([web(json!({}))]));
    document.requires_compatibilities = vec![Compatibility::Fargate];
    refused(
        document.clone(),
        expect!["Fargate only supports network mode ‘awsvpc’."],
    );
    document.network_mode = Some(super::super::NetworkMode::Awsvpc);
    refused(
        document.clone(),
        expect!["Fargate requires that 'cpu' be defined at the task level."],
    );
    document.cpu = Some("256".into());
    document.memory = Some("700".into());
    refused(
        document.clone(),
        expect!["No Fargate configuration exists for given values."],
    );
    document.memory = Some("512".into());
    accepted(document);
}

#[test]
fn a_definition_has_at_most_64_kib() {
    let big = "x".repeat(65 * 1024);
    let error = verdict(task(json!([web(
        json!({"environment": [{"name": "A", "value": big}]})
    )])));
    assert!(
        error
            .unwrap_err()
            .0
            .contains("the largest allowed size is 65536 bytes")
    );
}

#[test]
fn tags_are_few_unique_and_not_amazons() {
    let tag = |key: &str| Tag {
        key: key.into(),
        value: String::new(),
    };
    assert!(check_tags(&[tag("a"), tag("b")]).is_ok());
    assert!(check_tags(&[tag("a"), tag("a")]).is_err());
    assert!(check_tags(&[tag("aws:x")]).is_err());
    assert!(check_tags(&[tag("")]).is_err());
    let many: Vec<Tag> = (0..51).map(|n| tag(&n.to_string())).collect();
    assert!(check_tags(&many).is_err());
}

#[test]
fn what_no_container_can_be_given_is_refused_with_its_member() {
    let long = "a".repeat(64);
    let capability =
        |list: &str, name: &str| json!({"linuxParameters": {"capabilities": {list: [name]}}});
    for (more, member) in [
        (
            json!({"command": ["a\0b"]}),
            "'command[]' has the character '\\0'",
        ),
        (json!({"entryPoint": ["\0"]}), "'entryPoint[]'"),
        (
            json!({"environment": [{"name": "A", "value": "\0"}]}),
            "'environment[].value'",
        ),
        (
            json!({"environment": [{"name": "A\n", "value": ""}]}),
            "'environment[].name'",
        ),
        (
            json!({"environment": [{"name": "A=B", "value": ""}]}),
            "'environment': variable",
        ),
        (
            json!({"environment": [{"value": "x"}]}),
            "'environment': variable",
        ),
        (
            json!({"workingDirectory": "/a\nb"}),
            "'workingDirectory' has the character '\\n'",
        ),
        (json!({"user": "root\n"}), "'user'"),
        (json!({"user": ""}), "'user' is empty"),
        (json!({"dockerLabels": {"a\0": "b"}}), "'dockerLabels'"),
        (json!({"hostname": ""}), "'hostname'"),
        (json!({"hostname": "-a"}), "'hostname'"),
        (json!({"hostname": "a..b"}), "'hostname'"),
        (json!({"hostname": "a_b"}), "'hostname'"),
        (json!({"hostname": long}), "'hostname'"),
        (
            json!({"hostname": "abcdefg.".repeat(8) + "a"}),
            "'hostname'",
        ),
        (json!({"stopTimeout": 86_401}), "'stopTimeout'"),
        (json!({"stopTimeout": u32::MAX}), "'stopTimeout'"),
        (
            capability("add", "SYS_EVERYTHING"),
            "'linuxParameters.capabilities.add': 'SYS_EVERYTHING'",
        ),
        (
            capability("drop", ""),
            "'linuxParameters.capabilities.drop': ''",
        ),
    ] {
        let error = verdict(task(json!([web(more.clone())]))).expect_err(&more.to_string());
        assert!(error.0.contains("container 'web'"), "{more}: {error}");
        assert!(error.0.contains(member), "{more}: {error}");
        assert!(!error.0.contains(char::is_control), "{more}: {error:?}");
    }
}

#[test]
fn what_a_container_can_be_given_is_not_refused() {
    accepted(task(json!([web(json!({
        "command": ["sh", "-c", "a\n\tb\r\u{1b}"],
        "environment": [{"name": "A.b-c d", "value": "x\ny"}],
        "dockerLabels": {"text": "two\nlines"},
        "hostname": "db-1.Example",
        "user": "1000:1000",
        "stopTimeout": 86_400,
        "linuxParameters": {"capabilities": {"add": ["net_admin", "CAP_BPF"], "drop": ["ALL"]}},
    }))])));
}

/// ECS's own bounds where it is for Fargate; a host of one's own has other disks.
#[test]
fn ephemeral_storage_has_bounds() {
    let sized = |gib: u32, fargate: bool| {
        let mut document = task(json!([web(json!({}))]));
        document.ephemeral_storage = Some(crate::definition::EphemeralStorage { size_in_gib: gib });
        if fargate {
            document.requires_compatibilities = vec![Compatibility::Fargate];
            document.network_mode = Some(super::super::NetworkMode::Awsvpc);
            (document.cpu, document.memory) = (Some("256".into()), Some("512".into()));
        }
        document
    };
    for gib in [1, 21, 16_000] {
        assert_eq!(
            crate::definition::unsupported(&accepted(sized(gib, false))),
            None
        );
    }
    for gib in [0, 16_001] {
        let error = verdict(sized(gib, false)).unwrap_err().0;
        assert!(error.contains("between 1 and 16000"), "{error}");
    }
    for gib in [21, 200] {
        accepted(sized(gib, true));
    }
    for gib in [20, 201] {
        let error = verdict(sized(gib, true)).unwrap_err().0;
        assert!(error.contains("between 21 and 200"), "{error}");
    }
}
