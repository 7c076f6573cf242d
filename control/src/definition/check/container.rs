//! The rules of one container.

use super::{LEAST_MEMORY, text};
use crate::definition::{
    ContainerDefinition, Document, HealthCheck, Invalid, LinuxParameters, LogConfiguration,
    NetworkMode, RestartPolicy, Ulimit,
};

const LOG_DRIVERS: [&str; 8] = [
    "json-file",
    "syslog",
    "journald",
    "gelf",
    "fluentd",
    "awslogs",
    "splunk",
    "awsfirelens",
];

const ULIMITS: [&str; 15] = [
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// Seconds. ECS's least; its most is documented for Fargate alone (120), so a day here, as the agents take.
const TIMEOUTS: std::ops::RangeInclusive<u32> = 2..=86_400;

/// Longest an image reference may be.
const LONGEST_IMAGE: usize = 255 + 256;

pub(super) fn check(document: &Document, container: &ContainerDefinition) -> Result<(), Invalid> {
    check_image(container)?;
    text::check(container)?;
    check_memory(document, container)?;
    check_timeouts(container)?;
    check_network(document, container)?;
    check_references(document, container)?;
    check_secrets(document, container)?;
    if let Some(log) = &container.log_configuration {
        check_log(log)?;
    }
    if let Some(check) = &container.health_check {
        check_health(container, check)?;
    }
    if let Some(policy) = &container.restart_policy {
        check_restart(container, policy)?;
    }
    if let Some(linux) = &container.linux_parameters {
        check_linux(container, linux)?;
    }
    let ulimits = container.ulimits.iter().flatten();
    ulimits.into_iter().try_for_each(check_ulimit)?;
    check_environment(container)
}

/// "Invalid setting for container 'NAME'. TEXT"
pub(super) fn invalid(container: &ContainerDefinition, text: impl std::fmt::Display) -> Invalid {
    Invalid(format!(
        "Invalid setting for container '{}'. {text}",
        container.name
    ))
}

fn check_image(container: &ContainerDefinition) -> Result<(), Invalid> {
    let image = &container.image;
    if image.is_empty() {
        return Err(Invalid::because(
            "Container.image should not be null or empty.",
        ));
    }
    // As ECS: the characters are looked at, not the form. What is no reference of an image registers, and its tasks
    // stop with CannotPullContainerError. `[]` is for registries at an IPv6 address.
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_:./#@[]".contains(c);
    match image.len() <= LONGEST_IMAGE && image.chars().all(allowed) {
        true => Ok(()),
        false => {
            let remedy = format!(
                "Write [registry[:port]/]name[:tag][@sha256:...] in at most {LONGEST_IMAGE} letters, digits and -_:./#@."
            );
            Err(text::characters("Container.image", image, allowed, &remedy))
        }
    }
}

fn check_memory(document: &Document, container: &ContainerDefinition) -> Result<(), Invalid> {
    let (hard, soft) = (container.memory, container.memory_reservation);
    if hard.is_none() && soft.is_none() && document.memory.is_none() {
        return Err(invalid(
            container,
            "At least one of 'memory' or 'memoryReservation' must be specified.",
        ));
    }
    for (member, value) in [("memory", hard), ("memoryReservation", soft)] {
        if value.is_some_and(|mib| mib < LEAST_MEMORY) {
            return Err(invalid(
                container,
                format!("'{member}' must be at least {LEAST_MEMORY} MiB."),
            ));
        }
    }
    if let (Some(hard), Some(soft)) = (hard, soft)
        && soft > hard
    {
        return Err(invalid(
            container,
            "'memory' must be greater than or equal to 'memoryReservation'.",
        ));
    }
    if let (Some(hard), Some(task)) = (hard, document.task_memory())
        && hard > task
    {
        return Err(invalid(
            container,
            "'memory' cannot be greater than the value of the task 'memory'.",
        ));
    }
    Ok(())
}

fn check_timeouts(container: &ContainerDefinition) -> Result<(), Invalid> {
    for (member, value) in [
        ("startTimeout", container.start_timeout),
        ("stopTimeout", container.stop_timeout),
    ] {
        if value.is_some_and(|seconds| !TIMEOUTS.contains(&seconds)) {
            return Err(invalid(
                container,
                format!(
                    "'{member}' must be between {} and {} seconds.",
                    TIMEOUTS.start(),
                    TIMEOUTS.end()
                ),
            ));
        }
    }
    Ok(())
}

fn check_network(document: &Document, container: &ContainerDefinition) -> Result<(), Invalid> {
    let network = document.network();
    let given = |list: &Option<Vec<String>>| list.as_ref().is_some_and(|l| !l.is_empty());
    let links = given(&container.links);
    if links && network != NetworkMode::Bridge && network != NetworkMode::Awsvpc {
        return Err(invalid(
            container,
            "'links' are only supported with networkMode 'bridge'.",
        ));
    }
    if network != NetworkMode::Awsvpc {
        return Ok(());
    }
    let forbidden = [
        ("links", links),
        ("dnsServers", given(&container.dns_servers)),
        (
            "disableNetworking",
            container.disable_networking == Some(true),
        ),
        ("hostname", container.hostname.is_some()),
    ];
    match forbidden.iter().find(|(_, given)| *given) {
        None => Ok(()),
        Some((member, _)) => Err(Invalid(format!(
            "{member} is not supported on container when networkMode=awsvpc."
        ))),
    }
}

fn check_references(document: &Document, container: &ContainerDefinition) -> Result<(), Invalid> {
    for mount in &container.mount_points {
        let volume = mount.source_volume.as_deref().unwrap_or_default();
        if !document.volumes.iter().any(|v| v.name == volume) {
            return Err(invalid(container, format!("Unknown volume '{volume}'.")));
        }
        if mount.container_path.as_deref().is_none_or(str::is_empty) {
            return Err(invalid(
                container,
                format!("The mount point of volume '{volume}' has no containerPath."),
            ));
        }
    }
    for from in &container.volumes_from {
        let source = from.source_container.as_deref().unwrap_or_default();
        if source == container.name || document.container(source).is_none() {
            return Err(invalid(
                container,
                format!("'volumesFrom' names no other container: '{source}'."),
            ));
        }
    }
    Ok(())
}

fn check_secrets(document: &Document, container: &ContainerDefinition) -> Result<(), Invalid> {
    let has_secrets = container.secrets.as_ref().is_some_and(|s| !s.is_empty());
    if has_secrets && document.execution_role_arn.is_none() {
        return Err(Invalid::because(
            "When you are specifying container secrets, you must also specify a value for 'executionRoleArn'",
        ));
    }
    let files = container.environment_files.as_deref().unwrap_or_default();
    if files.len() > 10 || files.iter().any(|file| file.kind != "s3") {
        return Err(invalid(
            container,
            "'environmentFiles' has at most 10 files, of type 's3'.",
        ));
    }
    Ok(())
}

fn check_environment(container: &ContainerDefinition) -> Result<(), Invalid> {
    for variable in &container.environment {
        let name = variable.name.as_deref().unwrap_or_default();
        let value = variable.value.as_deref().unwrap_or_default();
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            return Err(invalid(
                container,
                format!(
                    "'environment': variable '{name}' cannot be set: names are not empty and have no '=', neither part has a NUL."
                ),
            ));
        }
    }
    Ok(())
}

fn check_log(log: &LogConfiguration) -> Result<(), Invalid> {
    if !LOG_DRIVERS.contains(&log.log_driver.as_str()) {
        return Err(Invalid(format!(
            "{} is not a valid log driver. Must be one of [{}]",
            log.log_driver,
            LOG_DRIVERS.join(", ")
        )));
    }
    let has_group = log
        .options
        .as_ref()
        .is_some_and(|options| options.contains_key("awslogs-group"));
    if log.log_driver == "awslogs" && !has_group {
        return Err(Invalid::because(
            "Log driver awslogs requires options: awslogs-group",
        ));
    }
    Ok(())
}

fn check_health(container: &ContainerDefinition, check: &HealthCheck) -> Result<(), Invalid> {
    let kind = check.command.first().map(String::as_str);
    if !matches!(kind, Some("CMD" | "CMD-SHELL" | "NONE")) {
        return Err(invalid(
            container,
            "The health check command must start with CMD, CMD-SHELL or NONE.",
        ));
    }
    let ranges = [
        ("interval", check.interval, 5..=300),
        ("timeout", check.timeout, 2..=60),
        ("retries", check.retries, 1..=10),
        ("startPeriod", check.start_period, 0..=300),
    ];
    for (member, value, range) in ranges {
        if value.is_some_and(|v| !range.contains(&v)) {
            return Err(invalid(
                container,
                format!(
                    "The health check's '{member}' must be between {} and {}.",
                    range.start(),
                    range.end()
                ),
            ));
        }
    }
    Ok(())
}

fn check_restart(container: &ContainerDefinition, policy: &RestartPolicy) -> Result<(), Invalid> {
    let codes = policy.ignored_exit_codes.as_ref().map_or(0, Vec::len);
    let period = policy.restart_attempt_period.unwrap_or(300);
    if codes > 50 || !(60..=1800).contains(&period) {
        return Err(invalid(
            container,
            "A restart policy has at most 50 ignoredExitCodes and a restartAttemptPeriod between 60 and 1800 seconds.",
        ));
    }
    Ok(())
}

fn check_linux(container: &ContainerDefinition, linux: &LinuxParameters) -> Result<(), Invalid> {
    if linux.swappiness.is_some_and(|s| s > 100) {
        return Err(invalid(
            container,
            "'swappiness' must be between 0 and 100.",
        ));
    }
    Ok(())
}

fn check_ulimit(ulimit: &Ulimit) -> Result<(), Invalid> {
    let amount = |limit: i64| if limit < 0 { i64::MAX } else { limit };
    if !ULIMITS.contains(&ulimit.name.as_str()) {
        return Err(Invalid(format!(
            "Invalid ulimit '{}'. Must be one of [{}].",
            ulimit.name,
            ULIMITS.join(", ")
        )));
    }
    if ulimit.soft_limit < -1 || ulimit.hard_limit < -1 {
        return Err(Invalid(format!(
            "Invalid ulimit '{}'. Limits are not negative, except -1 for none.",
            ulimit.name
        )));
    }
    if amount(ulimit.soft_limit) > amount(ulimit.hard_limit) {
        return Err(Invalid(format!(
            "Invalid ulimit '{}'. The soft limit cannot be greater than the hard limit.",
            ulimit.name
        )));
    }
    Ok(())
}
