//! What registers but does not run yet: refused by name at RunTask, never ignored.

use super::{ContainerDefinition, Document, LinuxParameters, NetworkMode, Overrides};

/// A member that the agents cannot honour yet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{subject}: {member} is not supported by this version of Longshore.")]
pub struct Unsupported {
    /// The task definition, the container, the overrides.
    pub subject: String,
    /// The member as ECS spells it, with the value where that matters.
    pub member: String,
}

/// The first member of the definition that the agents cannot run.
#[must_use]
pub fn unsupported(document: &Document) -> Option<Unsupported> {
    first("Task definition", of_task(document)).or_else(|| {
        let mut containers = document.container_definitions.iter();
        containers.find_map(|c| first(&format!("Container '{}'", c.name), of_container(c)))
    })
}

/// The first member of the overrides that the agents cannot run.
#[must_use]
pub fn unsupported_overrides(overrides: &Overrides) -> Option<Unsupported> {
    let task = [
        ("taskRoleArn", overrides.task_role_arn.is_some()),
        (
            "inferenceAcceleratorOverrides",
            !overrides.inference_accelerator_overrides.is_empty(),
        ),
    ];
    first("Overrides", task.map(named)).or_else(|| {
        overrides.container_overrides.iter().find_map(|c| {
            let members = [
                ("environmentFiles", has(&c.environment_files)),
                ("resourceRequirements", has(&c.resource_requirements)),
            ];
            first(
                &format!("Override of container '{}'", c.name),
                members.map(named),
            )
        })
    })
}

type Member = (String, bool);

fn named((name, given): (&str, bool)) -> Member {
    (format!("'{name}'"), given)
}

fn first(subject: &str, members: impl IntoIterator<Item = Member>) -> Option<Unsupported> {
    let (member, _) = members.into_iter().find(|(_, given)| *given)?;
    Some(Unsupported {
        subject: subject.to_owned(),
        member,
    })
}

fn has<T>(list: &Option<Vec<T>>) -> bool {
    list.as_ref().is_some_and(|list| !list.is_empty())
}

fn of_task(document: &Document) -> Vec<Member> {
    let awsvpc = document.network() == NetworkMode::Awsvpc;
    let mut all = vec![("'networkMode' 'awsvpc'".to_owned(), awsvpc)];
    let members = [
        ("volumes", !document.volumes.is_empty()),
        (
            "placementConstraints",
            !document.placement_constraints.is_empty(),
        ),
        ("pidMode", document.pid_mode.is_some()),
        ("ipcMode", document.ipc_mode.is_some()),
        // A task that asks for credentials must not run without them. `executionRoleArn` serves only
        // pulls, logs and secrets, which are refused where they would need it.
        ("taskRoleArn", document.task_role_arn.is_some()),
        ("proxyConfiguration", document.proxy_configuration.is_some()),
        (
            "enableFaultInjection",
            document.enable_fault_injection == Some(true),
        ),
        (
            "trustedExecutionConfiguration",
            document.trusted_execution_configuration.is_some(),
        ),
    ];
    all.extend(members.map(named));
    all.push((
        "'runtimePlatform' with Windows".to_owned(),
        document.is_for_windows(),
    ));
    all
}

fn of_container(c: &ContainerDefinition) -> Vec<Member> {
    let members = [
        ("mountPoints", !c.mount_points.is_empty()),
        ("volumesFrom", !c.volumes_from.is_empty()),
        ("systemControls", !c.system_controls.is_empty()),
        ("secrets", has(&c.secrets)),
        ("environmentFiles", has(&c.environment_files)),
        ("healthCheck", c.health_check.is_some()),
        ("dependsOn", has(&c.depends_on)),
        ("startTimeout", c.start_timeout.is_some()),
        ("links", has(&c.links)),
        ("restartPolicy", c.restart_policy.is_some()),
        ("firelensConfiguration", c.firelens_configuration.is_some()),
        ("resourceRequirements", has(&c.resource_requirements)),
        ("repositoryCredentials", c.repository_credentials.is_some()),
        ("interactive", c.interactive == Some(true)),
        ("pseudoTerminal", c.pseudo_terminal == Some(true)),
        ("disableNetworking", c.disable_networking == Some(true)),
        ("extraHosts", has(&c.extra_hosts)),
        ("dnsServers", has(&c.dns_servers)),
        ("dnsSearchDomains", has(&c.dns_search_domains)),
        ("credentialSpecs", has(&c.credential_specs)),
        (
            "portMappings.containerPortRange",
            c.port_mappings
                .iter()
                .any(|p| p.container_port_range.is_some()),
        ),
    ];
    let mut all = members.map(named).to_vec();
    all.extend(c.linux_parameters.iter().flat_map(of_linux));
    all.extend(security_options(c));
    all.extend(log(c));
    all
}

fn of_linux(linux: &LinuxParameters) -> [Member; 6] {
    [
        ("linuxParameters.devices", has(&linux.devices)),
        (
            "linuxParameters.initProcessEnabled",
            linux.init_process_enabled == Some(true),
        ),
        (
            "linuxParameters.sharedMemorySize",
            linux.shared_memory_size.is_some(),
        ),
        ("linuxParameters.tmpfs", has(&linux.tmpfs)),
        ("linuxParameters.maxSwap", linux.max_swap.is_some()),
        ("linuxParameters.swappiness", linux.swappiness.is_some()),
    ]
    .map(named)
}

fn security_options(c: &ContainerDefinition) -> Option<Member> {
    let options = c.docker_security_options.iter().flatten();
    let other = options.into_iter().find(|o| *o != "no-new-privileges")?;
    Some((format!("'dockerSecurityOptions' '{other}'"), true))
}

fn log(c: &ContainerDefinition) -> Vec<Member> {
    let Some(log) = &c.log_configuration else {
        return Vec::new();
    };
    let options = log.options.as_ref().is_some_and(|o| !o.is_empty());
    vec![
        (
            format!("'logConfiguration' with logDriver '{}'", log.log_driver),
            log.log_driver != "json-file",
        ),
        ("'logConfiguration.options'".to_owned(), options),
        (
            "'logConfiguration.secretOptions'".to_owned(),
            has(&log.secret_options),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn message(task: Value, container: Value) -> Option<String> {
        let mut document = json!({"family": "f", "containerDefinitions": [
            {"name": "web", "image": "i", "memory": 64}]});
        for (key, value) in task.as_object().unwrap() {
            document[key] = value.clone();
        }
        for (key, value) in container.as_object().unwrap() {
            document["containerDefinitions"][0][key] = value.clone();
        }
        let document: Document = serde_json::from_value(document).unwrap();
        unsupported(&document).map(|u| u.to_string())
    }

    #[test]
    fn what_the_agent_runs_is_let_through() {
        let container = json!({"cpu": 10, "memoryReservation": 32, "essential": true,
            "portMappings": [{"containerPort": 80, "hostPort": 0, "protocol": "tcp"}],
            "environment": [{"name": "A", "value": "b"}], "entryPoint": ["sh"], "command": ["-c"],
            "workingDirectory": "/", "user": "1", "hostname": "h", "privileged": true,
            "readonlyRootFilesystem": true, "dockerSecurityOptions": ["no-new-privileges"],
            "linuxParameters": {"capabilities": {"add": ["NET_ADMIN"], "drop": ["ALL"]}},
            "ulimits": [{"name": "nofile", "softLimit": 1, "hardLimit": 2}], "stopTimeout": 5,
            "dockerLabels": {"a": "b"}, "logConfiguration": {"logDriver": "json-file"},
            "interactive": false, "links": [], "mountPoints": []});
        let task = json!({"networkMode": "host", "cpu": "256", "memory": "512",
            "executionRoleArn": "arn"});
        assert_eq!(message(task, container), None);
    }

    #[test]
    fn what_it_cannot_is_named_with_its_container() {
        let cases = [
            ("healthCheck", json!({"command": ["CMD", "true"]})),
            (
                "dependsOn",
                json!([{"containerName": "a", "condition": "START"}]),
            ),
            (
                "mountPoints",
                json!([{"sourceVolume": "v", "containerPath": "/v"}]),
            ),
            ("pseudoTerminal", json!(true)),
            ("secrets", json!([{"name": "a", "valueFrom": "b"}])),
            ("startTimeout", json!(5)),
        ];
        for (member, value) in cases {
            let text = message(json!({}), json!({member: value}));
            let expected = format!(
                "Container 'web': '{member}' is not supported by this version of Longshore."
            );
            assert_eq!(text, Some(expected));
        }
        let text = message(json!({"networkMode": "awsvpc"}), json!({})).unwrap();
        assert!(
            text.contains("'networkMode' 'awsvpc' is not supported"),
            "{text}"
        );
        let text = message(
            json!({}),
            json!({"logConfiguration": {"logDriver": "syslog"}}),
        )
        .unwrap();
        assert!(text.contains("logDriver 'syslog'"), "{text}");
        let linux = json!({"linuxParameters": {"tmpfs": [{"containerPath": "/t", "size": 1}]}});
        assert!(
            message(json!({}), linux)
                .unwrap()
                .contains("'linuxParameters.tmpfs'")
        );
        let security = json!({"dockerSecurityOptions": ["label:x"]});
        assert!(message(json!({}), security).unwrap().contains("'label:x'"));
    }

    #[test]
    fn overrides_are_judged_too() {
        let overrides: Overrides = serde_json::from_value(json!({"containerOverrides": [
            {"name": "a", "environmentFiles": [{"value": "arn", "type": "s3"}]}]}))
        .unwrap();
        let text = unsupported_overrides(&overrides).unwrap().to_string();
        assert!(text.starts_with("Override of container 'a': 'environmentFiles'"));
        assert_eq!(unsupported_overrides(&Overrides::default()), None);
    }
}
