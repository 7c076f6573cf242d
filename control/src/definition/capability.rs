//! What a definition asks of a host: `requiresAttributes` and `compatibilities` as ECS answers them, and
//! the needs that placement compares with a host's attributes.
//!
//! `requiresAttributes` names Amazon's whole vocabulary, because clients show it. Placement asks only for
//! what differs between Longshore's hosts: what their policy permits and what their machine is.

use super::{Compatibility, ContainerDefinition, Document, NetworkMode, check};

const DOCKER: &str = "com.amazonaws.ecs.capability.docker-remote-api";

/// An attribute that a host must have to be given a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Need {
    /// The attribute; one of several names will do.
    pub any_of: Vec<String>,
    /// The value it must have; none: any.
    pub value: Option<String>,
    /// What in the definition needs it, and what opens it.
    pub reason: String,
}

/// The needs of a definition with its overrides applied.
#[must_use]
pub fn needs(document: &Document) -> Vec<Need> {
    let mut needs = Vec::new();
    let mut need = |name: &str, reason: String| {
        needs.push(Need {
            any_of: vec![name.to_owned()],
            value: None,
            reason,
        });
    };
    if document.network() == NetworkMode::Host {
        need(
            "longshore.capability.network-host",
            "networkMode 'host'; to permit it, allow host-network in the host's policy".into(),
        );
    }
    if document.cpu.is_some() || document.memory.is_some() {
        need(
            "ecs.capability.task-cpu-mem-limit",
            "task-level cpu or memory; the host's agent cannot set such limits".into(),
        );
    }
    for container in &document.container_definitions {
        let name = &container.name;
        if container.privileged == Some(true) {
            need(
                "com.amazonaws.ecs.capability.privileged-container",
                format!(
                    "privileged container '{name}'; to permit it, allow privileged in the host's policy"
                ),
            );
        }
    }
    needs.extend(capability_needs(document));
    needs.extend(architecture_need(document));
    needs
}

fn capability_needs(document: &Document) -> Vec<Need> {
    let containers = document.container_definitions.iter();
    let added = containers.flat_map(|c| added_capabilities(c).map(move |name| (&c.name, name)));
    let rule = |name: &str| format!("longshore.capability.add-capability.{name}");
    added
        .map(|(container, name)| Need {
            any_of: vec![rule(&name), rule("ALL")],
            value: None,
            reason: format!(
                "capability {name} added to container '{container}'; to permit it, allow cap-add={name} in the host's policy"
            ),
        })
        .collect()
}

/// `capabilities.add` in one spelling: `NET_ADMIN`.
fn added_capabilities(container: &ContainerDefinition) -> impl Iterator<Item = String> {
    let linux = container.linux_parameters.as_ref();
    let capabilities = linux.and_then(|l| l.capabilities.as_ref());
    capabilities.into_iter().flat_map(|c| &c.add).map(|name| {
        let name = name.to_ascii_uppercase();
        name.strip_prefix("CAP_").unwrap_or(&name).to_owned()
    })
}

fn architecture_need(document: &Document) -> Option<Need> {
    let platform = document.runtime_platform.as_ref()?;
    let wanted = match platform.cpu_architecture.as_deref()? {
        "ARM64" => "arm64",
        _ => "x86_64",
    };
    Some(Need {
        any_of: vec!["ecs.cpu-architecture".into()],
        value: Some(wanted.into()),
        reason: format!("runtimePlatform.cpuArchitecture; it needs a host of {wanted}"),
    })
}

/// `requiresAttributes`, sorted, each once.
#[must_use]
pub fn required_attributes(document: &Document) -> Vec<String> {
    let mut all = Vec::new();
    if document.network_mode == Some(NetworkMode::Awsvpc) {
        all.push("ecs.capability.task-eni".to_owned());
        all.push(format!("{DOCKER}.1.18"));
    }
    if document.cpu.is_some() || document.memory.is_some() {
        all.push("ecs.capability.task-cpu-mem-limit".to_owned());
    }
    if document.task_role_arn.is_some() {
        let tail = match document.network_mode {
            Some(NetworkMode::Host) => "-network-host",
            _ => "",
        };
        all.push(format!("com.amazonaws.ecs.capability.task-iam-role{tail}"));
    }
    if document.pid_mode.is_some() || document.ipc_mode.is_some() {
        all.push("ecs.capability.pid-ipc-namespace-sharing".to_owned());
    }
    if document
        .volumes
        .iter()
        .any(|v| v.efs_volume_configuration.is_some())
    {
        all.push("ecs.capability.efs".to_owned());
    }
    for container in &document.container_definitions {
        of_container(document, container, &mut all);
    }
    all.extend(
        needs(document)
            .into_iter()
            .filter(|need| need.value.is_none())
            .map(|mut need| need.any_of.swap_remove(0)),
    );
    all.sort();
    all.dedup();
    all
}

fn of_container(document: &Document, container: &ContainerDefinition, all: &mut Vec<String>) {
    let mut when = |given: bool, name: &str| {
        if given {
            all.push(name.to_owned());
        }
    };
    let ecr = container.image.contains(".dkr.ecr.");
    let role = document.execution_role_arn.is_some();
    let log = container.log_configuration.as_ref();
    let linux = container.linux_parameters.as_ref();
    when(
        container.privileged == Some(true),
        "com.amazonaws.ecs.capability.privileged-container",
    );
    when(ecr, "com.amazonaws.ecs.capability.ecr-auth");
    when(ecr && role, "ecs.capability.execution-role-ecr-pull");
    when(
        role && log.is_some_and(|l| l.log_driver == "awslogs"),
        "ecs.capability.execution-role-awslogs",
    );
    when(
        container.health_check.is_some(),
        "ecs.capability.container-health-check",
    );
    when(
        container.depends_on.is_some()
            || container.start_timeout.is_some()
            || container.stop_timeout.is_some(),
        "ecs.capability.container-ordering",
    );
    when(
        container.restart_policy.is_some(),
        "ecs.capability.container-restart-policy",
    );
    when(
        container.repository_credentials.is_some(),
        "ecs.capability.private-registry-authentication.secretsmanager",
    );
    when(
        container.environment_files.is_some(),
        "ecs.capability.env-files.s3",
    );
    when(
        linux.is_some_and(|l| l.init_process_enabled == Some(true)),
        "com.amazonaws.ecs.capability.docker-remote-api.1.25",
    );
    for secret in container.secrets.iter().flatten() {
        let asm = secret.value_from.contains(":secretsmanager:");
        when(asm, "ecs.capability.secrets.asm.environment-variables");
        when(!asm, "ecs.capability.secrets.ssm.environment-variables");
    }
    if let Some(firelens) = &container.firelens_configuration {
        when(true, &format!("ecs.capability.firelens.{}", firelens.kind));
    }
    if let Some(log) = log {
        when(
            true,
            &format!(
                "com.amazonaws.ecs.capability.logging-driver.{}",
                log.log_driver
            ),
        );
        when(true, &format!("{DOCKER}.1.19"));
    }
}

/// `compatibilities`: the launch types the (valid) document would do for.
#[must_use]
pub fn compatibilities(document: &Document) -> Vec<Compatibility> {
    if document.is_for_windows() {
        return vec![Compatibility::Ec2, Compatibility::Fargate];
    }
    if document.network_mode != Some(NetworkMode::Awsvpc) {
        return vec![Compatibility::External, Compatibility::Ec2];
    }
    let mut all = vec![Compatibility::Ec2];
    if check::would_do_for_fargate(document) {
        all.extend([Compatibility::ManagedInstances, Compatibility::Fargate]);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn document(more: serde_json::Value) -> Document {
        let mut document = json!({"family": "f", "containerDefinitions": [{"name": "a", "image": "i",
            "memory": 64, "privileged": true,
            "linuxParameters": {"capabilities": {"add": ["cap_net_admin"]}}}]});
        for (key, value) in more.as_object().unwrap() {
            document[key] = value.clone();
        }
        serde_json::from_value(document).unwrap()
    }

    #[test]
    fn what_the_policy_must_permit_is_asked_of_the_host() {
        let needs = needs(&document(json!({"networkMode": "host", "cpu": "256"})));
        let names: Vec<&str> = needs.iter().map(|n| n.any_of[0].as_str()).collect();
        assert_eq!(
            names,
            [
                "longshore.capability.network-host",
                "ecs.capability.task-cpu-mem-limit",
                "com.amazonaws.ecs.capability.privileged-container",
                "longshore.capability.add-capability.NET_ADMIN"
            ]
        );
    }

    #[test]
    fn a_plain_definition_needs_nothing() {
        let mut plain = document(json!({}));
        plain.container_definitions[0].privileged = None;
        plain.container_definitions[0].linux_parameters = None;
        assert!(needs(&plain).is_empty());
        assert!(required_attributes(&plain).is_empty());
    }

    #[test]
    fn compatibilities_are_those_ecs_answers() {
        use Compatibility::{Ec2, External, Fargate, ManagedInstances};
        assert_eq!(compatibilities(&document(json!({}))), [External, Ec2]);
        let awsvpc = document(json!({"networkMode": "awsvpc"}));
        assert_eq!(compatibilities(&awsvpc), [Ec2]);
        let mut sized = document(json!({"networkMode": "awsvpc", "cpu": "256", "memory": "512"}));
        sized.container_definitions[0].privileged = None;
        assert_eq!(compatibilities(&sized), [Ec2, ManagedInstances, Fargate]);
    }
}
