//! What a definition must be for Fargate. It is checked where `requiresCompatibilities` names FARGATE, and
//! asked silently to tell the `compatibilities` of all others.

use super::{ContainerDefinition, Document, Invalid, NetworkMode, PidMode, Volume};

/// (CPU units, least MiB, most MiB, step): the ECS developer guide's table of task sizes.
const SIZES: [(u32, u64, u64, u64); 8] = [
    (256, 512, 512, 512),
    (256, 1024, 2048, 1024),
    (512, 1024, 4096, 1024),
    (1024, 2048, 8192, 1024),
    (2048, 4096, 16384, 1024),
    (4096, 8192, 30720, 1024),
    (8192, 16384, 61440, 4096),
    (16384, 32768, 122_880, 8192),
];

/// The first rule of Fargate that the (normalised) document breaks.
pub(super) fn check(document: &Document) -> Result<(), Invalid> {
    let refuse = |text: &str| Err(Invalid::because(text));
    if document.network_mode != Some(NetworkMode::Awsvpc) {
        return refuse("Fargate only supports network mode ‘awsvpc’.");
    }
    let Some(cpu) = document.task_cpu() else {
        return refuse("Fargate requires that 'cpu' be defined at the task level.");
    };
    let Some(memory) = document.task_memory() else {
        return refuse("Fargate requires that 'memory' be defined at the task level.");
    };
    if !is_a_size(cpu, memory) {
        return refuse("No Fargate configuration exists for given values.");
    }
    if document.pid_mode == Some(PidMode::Host) {
        return refuse(
            "Tasks using the Fargate launch type do not support pidMode 'host'. The supported value for pidMode is 'task'.",
        );
    }
    if !document.placement_constraints.is_empty() {
        return refuse("Fargate compatible task definitions do not support placementConstraints");
    }
    document.volumes.iter().try_for_each(check_volume)?;
    let has_role = document.execution_role_arn.is_some();
    document
        .container_definitions
        .iter()
        .try_for_each(|container| check_container(container, has_role))
}

fn is_a_size(cpu: u32, memory: u64) -> bool {
    SIZES.iter().any(|&(units, least, most, step)| {
        cpu == units && (least..=most).contains(&memory) && (memory - least).is_multiple_of(step)
    })
}

fn check_volume(volume: &Volume) -> Result<(), Invalid> {
    let source = volume.host.as_ref().and_then(|h| h.source_path.as_ref());
    let unsupported = [
        ("sourcePath", source.is_some()),
        (
            "dockerVolumeConfiguration",
            volume.docker_volume_configuration.is_some(),
        ),
    ];
    refuse_given(&unsupported)
}

fn check_container(container: &ContainerDefinition, has_role: bool) -> Result<(), Invalid> {
    if container.privileged == Some(true) {
        return Err(Invalid::because(
            "Fargate requires that the 'privileged' setting be 'false'",
        ));
    }
    let linux = container.linux_parameters.as_ref();
    refuse_given(&[
        (
            "dockerSecurityOptions",
            container.docker_security_options.is_some(),
        ),
        (
            "sharedMemorySize",
            linux.is_some_and(|l| l.shared_memory_size.is_some()),
        ),
    ])?;
    if let Some(log) = &container.log_configuration {
        if !["awslogs", "splunk", "awsfirelens"].contains(&log.log_driver.as_str()) {
            return Err(Invalid(format!(
                "{} is not a valid log driver. Must be one of [awslogs, splunk, awsfirelens]",
                log.log_driver
            )));
        }
        if log.log_driver == "awslogs" && !has_role {
            return Err(Invalid::because(
                "Fargate requires task definition to have execution role ARN to support log driver awslogs.",
            ));
        }
    }
    if container.stop_timeout.is_some_and(|seconds| seconds > 120) {
        return Err(Invalid(format!(
            "Invalid setting for container '{}'. On Fargate 'stopTimeout' must not be greater than 120 seconds.",
            container.name
        )));
    }
    Ok(())
}

fn refuse_given(members: &[(&str, bool)]) -> Result<(), Invalid> {
    match members.iter().find(|(_, given)| *given) {
        None => Ok(()),
        Some((member, _)) => Err(Invalid(format!(
            "Fargate compatible task definitions do not support {member}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_of_the_table() {
        for (cpu, memory) in [(256, 512), (256, 2048), (4096, 30720), (16384, 40960)] {
            assert!(is_a_size(cpu, memory), "{cpu} {memory}");
        }
        for (cpu, memory) in [(256, 1536), (256, 4096), (300, 512), (8192, 17408)] {
            assert!(!is_a_size(cpu, memory), "{cpu} {memory}");
        }
    }
}
