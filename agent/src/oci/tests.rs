use expect_test::expect;
use serde_json::Value;

use super::*;
use crate::sample;

struct Case {
    task: TaskSpec,
    image: Value,
    user: User,
    policy: HostPolicy,
    attachment: Option<Attachment>,
    host: Host,
}

impl Case {
    fn new() -> Case {
        Case {
            task: sample::task(),
            image: serde_json::json!({"Cmd": ["serve"], "Env": ["PATH=/bin", "A=image", "B=image"]}),
            user: User {
                uid: 0,
                gid: 0,
                additional_gids: vec![],
                home: "/root".to_owned(),
            },
            policy: HostPolicy::default(),
            attachment: Some(Attachment {
                netns: "/run/longshore/netns/x".into(),
                address: Some("172.31.64.2".parse().unwrap()),
                gateway: None,
                bindings: vec![],
            }),
            host: Host {
                name: "host-1".to_owned(),
                capabilities: capabilities_from_mask((1 << 41) - 1),
                oom_score_adj: -500,
            },
        }
    }

    fn container(&mut self) -> &mut ContainerSpec {
        &mut self.task.containers[0]
    }

    fn compose(&self) -> Result<Value, Failure> {
        let image: ImageConfiguration = serde_json::from_value(serde_json::json!({
            "architecture": "amd64", "os": "linux", "config": self.image,
            "rootfs": {"type": "layers", "diff_ids": []}, "history": [],
        }))
        .unwrap();
        let spec = compose(&Inputs {
            task: &self.task,
            container: &self.task.containers[0],
            runtime_id: "00000000000000000000000000000001-1234567890",
            image: &image,
            user: &self.user,
            attachment: self.attachment.as_ref(),
            policy: &self.policy,
            etc: Path::new("/run/longshore/etc/x"),
            task_cgroup: "longshore/task/1",
            host: &self.host,
        })?;
        let mut spec = serde_json::to_value(&spec).unwrap();
        sort_capabilities(&mut spec);
        // The profile is the runtime's, and tested there; here only whether there is one.
        let seccomp = spec["linux"]
            .as_object_mut()
            .and_then(|l| l.remove("seccomp"));
        spec["linux"]["seccomp"] = Value::Bool(seccomp.is_some());
        Ok(spec)
    }

    fn args(&self) -> Vec<String> {
        serde_json::from_value(self.compose().unwrap()["process"]["args"].clone()).unwrap()
    }

    fn bounding(&self) -> Vec<String> {
        let spec = self.compose().unwrap();
        serde_json::from_value(spec["process"]["capabilities"]["bounding"].clone()).unwrap()
    }
}

/// They are sets, and serialize in any order.
fn sort_capabilities(spec: &mut Value) {
    for set in spec["process"]["capabilities"]
        .as_object_mut()
        .unwrap()
        .values_mut()
    {
        let names = set.as_array_mut().unwrap();
        names.sort_by_key(|name| name.to_string());
    }
}

fn words(list: &[&str]) -> Option<Vec<String>> {
    Some(list.iter().map(|w| (*w).to_owned()).collect())
}

#[test]
fn a_plain_container() {
    let spec = Case::new().compose().unwrap();
    expect_test::expect_file!["tests/plain.json"]
        .assert_eq(&(serde_json::to_string_pretty(&spec).unwrap() + "\n"));
}

#[test]
fn a_privileged_container_in_the_host_s_network() {
    let mut case = Case::new();
    case.task.network = NetworkMode::Host;
    case.attachment = None;
    case.container().privileged = true;
    let spec = case.compose().unwrap();
    expect_test::expect_file!["tests/privileged.json"]
        .assert_eq(&(serde_json::to_string_pretty(&spec).unwrap() + "\n"));
}

#[test]
fn an_image_with_very_many_variables_costs_no_time() {
    let mut case = Case::new();
    let many: Vec<String> = (0..100_000).map(|n| format!("{n:06}=")).collect();
    case.image = serde_json::json!({"Env": many, "Cmd": ["/x"]});
    let begun = std::time::Instant::now();
    case.compose().unwrap();
    assert!(begun.elapsed().as_secs() < 5, "{:?}", begun.elapsed());
}

#[test]
fn commands_follow_docker_s_rules() {
    let mut case = Case::new();
    case.image = serde_json::json!({"Entrypoint": ["/entry"], "Cmd": ["default"]});
    assert_eq!(case.args(), ["/entry", "default"]);
    case.container().command = words(&["mine"]);
    assert_eq!(case.args(), ["/entry", "mine"]);
    case.container().entry_point = words(&["/other"]);
    assert_eq!(case.args(), ["/other", "mine"]);
    case.container().command = None;
    assert_eq!(
        case.args(),
        ["/other"],
        "the image's command goes with its entrypoint"
    );
    case.container().entry_point = Some(Vec::new());
    assert_eq!(
        case.args(),
        ["/entry", "default"],
        "an empty list overrides nothing"
    );
}

#[test]
fn an_image_without_a_command_needs_one() {
    let mut case = Case::new();
    case.image = Value::Null;
    expect![[r#"CannotCreateContainerError: compose command of container "web": image registry.example/site:1 has neither entrypoint nor command; give the container a command"#]]
        .assert_eq(&case.compose().unwrap_err().to_string());
}

#[test]
fn the_environment_is_layered() {
    let mut case = Case::new();
    case.container().environment = vec![
        ("B".to_owned(), "definition".to_owned()),
        ("C".to_owned(), "x=y".to_owned()),
        ("C".to_owned(), "later".to_owned()),
    ];
    let spec = case.compose().unwrap();
    expect![[
        r#"["HOSTNAME=000000000000","PATH=/bin","A=image","B=definition","C=later","HOME=/root"]"#
    ]]
    .assert_eq(&spec["process"]["env"].to_string());
}

#[test]
fn capabilities_are_added_and_dropped_by_name() {
    let mut case = Case::new();
    case.container().cap_drop = words(&["ALL"]).unwrap();
    assert!(case.bounding().is_empty());
    case.container().cap_add = words(&["NET_ADMIN"]).unwrap();
    assert_eq!(case.bounding(), ["CAP_NET_ADMIN"]);
    case.container().cap_drop = words(&["MKNOD", "CAP_NET_RAW"]).unwrap();
    assert_eq!(case.bounding().len(), 14 - 2 + 1);
    case.container().cap_add = words(&["ALL"]).unwrap();
    assert_eq!(case.bounding().len(), 41 - 2);
    case.container().cap_add = words(&["SYS_MAGIC"]).unwrap();
    assert!(case.compose().is_err());
}

#[test]
fn nobody_is_given_what_the_agent_does_not_hold() {
    let mut case = Case::new();
    case.host.capabilities = capabilities_from_mask(1);
    assert_eq!(case.bounding(), ["CAP_CHOWN"]);
    case.container().cap_add = words(&["SYS_ADMIN"]).unwrap();
    assert!(
        case.compose()
            .unwrap_err()
            .message
            .contains("the agent does not hold it")
    );
}

#[test]
fn a_user_other_than_root_holds_no_capability() {
    let mut case = Case::new();
    case.user = User {
        uid: 33,
        gid: 33,
        additional_gids: vec![4],
        home: "/".to_owned(),
    };
    let spec = case.compose().unwrap();
    let capabilities = &spec["process"]["capabilities"];
    assert_eq!(capabilities["effective"], serde_json::json!([]));
    assert_eq!(capabilities["permitted"], serde_json::json!([]));
    assert_eq!(capabilities["inheritable"], serde_json::json!([]));
    assert_eq!(capabilities["bounding"].as_array().unwrap().len(), 14);
    assert_eq!(
        spec["process"]["user"],
        serde_json::json!({"uid": 33, "gid": 33, "additionalGids": [4]})
    );
}

#[test]
fn the_host_can_force_no_new_privileges() {
    let mut case = Case::new();
    let forced = |case: &Case| case.compose().unwrap()["process"]["noNewPrivileges"] == true;
    assert!(!forced(&case));
    case.policy = HostPolicy::from_allow("no-new-privileges").unwrap();
    assert!(forced(&case));
    case.policy = HostPolicy::default();
    case.container().no_new_privileges = true;
    assert!(forced(&case));
}

#[test]
fn limits_that_cannot_be_are_refused_by_name() {
    let mut case = Case::new();
    let mut limit = longshore_engine::Ulimit {
        name: "nofile".to_owned(),
        soft: 10,
        hard: 20,
    };
    case.container().ulimits = vec![limit.clone()];
    let spec = case.compose().unwrap();
    expect![[r#"[{"hard":20,"soft":10,"type":"RLIMIT_NOFILE"}]"#]]
        .assert_eq(&spec["process"]["rlimits"].to_string());
    limit.soft = 30;
    case.container().ulimits = vec![limit.clone()];
    assert!(case.compose().is_err());
    limit.name = "files".to_owned();
    case.container().ulimits = vec![limit];
    assert!(
        case.compose()
            .unwrap_err()
            .message
            .contains("\"files\" is no limit")
    );
}

#[test]
fn a_task_s_cgroup_has_its_quota_and_its_limit() {
    let task = sample::task();
    expect![[r#"{"cpu":{"period":100000,"quota":25000,"shares":256},"memory":{"limit":134217728},"pids":{"limit":4096}}"#]]
        .assert_eq(&serde_json::to_value(task_resources(&task)).unwrap().to_string());
    let unsized_task = TaskSpec {
        cpu: None,
        memory: None,
        ..task
    };
    expect![[r#"{"cpu":{"shares":128},"pids":{"limit":4096}}"#]].assert_eq(
        &serde_json::to_value(task_resources(&unsized_task))
            .unwrap()
            .to_string(),
    );
}
