//! The rules a task definition must keep to be registered, with ECS's own texts where they are known.
//!
//! The first broken rule is answered, as ECS does it. Nothing here asks what the agents can run.

mod container;
mod depends;
mod ports;
mod text;

use std::collections::HashSet;

use super::{Compatibility, Document, Invalid, Volume, fargate};
use crate::model::Tag;

/// ECS's limits.
const MOST_CONTAINERS: usize = 10;
const MOST_CONSTRAINTS: usize = 10;
const MOST_TAGS: usize = 50;
const MOST_BYTES: usize = 64 * 1024;
const CPU_RANGE: std::ops::RangeInclusive<u32> = 128..=196_608;

/// No container can live on less; the kernel charges that much before its first instruction.
const LEAST_MEMORY: u64 = 6;

/// Checks a normalised document.
///
/// # Errors
/// The first rule that is broken.
pub fn check(document: &Document) -> Result<(), Invalid> {
    check_family(&document.family)?;
    check_containers(document)?;
    check_task(document)?;
    check_volumes(document)?;
    for container in &document.container_definitions {
        container::check(document, container)?;
        ports::check(document, container)?;
    }
    depends::check(&document.container_definitions)?;
    check_sums(document)?;
    if document.is_for_fargate() {
        fargate::check(document)?;
    }
    check_size(document)
}

/// Checks tags, of whatever resource.
///
/// # Errors
/// The first rule that is broken.
pub fn check_tags(tags: &[Tag]) -> Result<(), Invalid> {
    if tags.len() > MOST_TAGS {
        return Err(Invalid(format!("At most {MOST_TAGS} tags are allowed.")));
    }
    let mut seen = HashSet::new();
    for tag in tags {
        let (key, value) = (tag.key.chars().count(), tag.value.chars().count());
        if key == 0 || key > 128 || value > 256 {
            return Err(Invalid(format!(
                "Invalid tag '{}'. Keys have 1 to 128 and values at most 256 characters.",
                tag.key
            )));
        }
        if tag.key.to_ascii_lowercase().starts_with("aws:") {
            return Err(Invalid(format!(
                "Invalid tag '{}'. Keys that start with 'aws:' are reserved.",
                tag.key
            )));
        }
        if !seen.insert(&tag.key) {
            return Err(Invalid(format!("Duplicate tag key '{}'.", tag.key)));
        }
    }
    Ok(())
}

/// 1 to 255 letters, digits, hyphens and underscores: families, containers, clusters.
pub(crate) fn is_name(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    (1..=255).contains(&text.len()) && text.bytes().all(allowed)
}

fn check_family(family: &str) -> Result<(), Invalid> {
    if family.is_empty() {
        return Err(Invalid::because("Family should not be null or empty."));
    }
    check_name("Family", family)
}

/// For names of families and containers, which are not empty.
pub(crate) fn check_name(member: &str, name: &str) -> Result<(), Invalid> {
    if is_name(name) {
        return Ok(());
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let remedy = "Use 1 to 255 letters, digits, hyphens and underscores.";
    Err(text::characters(member, name, allowed, remedy))
}

fn check_containers(document: &Document) -> Result<(), Invalid> {
    let containers = &document.container_definitions;
    if containers.is_empty() {
        return Err(Invalid::because("Container list cannot be empty."));
    }
    if containers.len() > MOST_CONTAINERS {
        return Err(Invalid::because("Too many containers."));
    }
    let mut names = HashSet::new();
    for container in containers {
        if container.name.is_empty() {
            return Err(Invalid::because(
                "Container.name should not be null or empty.",
            ));
        }
        check_name("Container.name", &container.name)?;
        if !names.insert(&container.name) {
            return Err(Invalid(format!(
                "Container.name '{}' is used by more than one container; names must be unique within a task definition.",
                container.name
            )));
        }
    }
    if !containers.iter().any(|c| c.is_essential()) {
        return Err(Invalid::because(
            "Task definition doesn't have any essential container.",
        ));
    }
    Ok(())
}

fn check_task(document: &Document) -> Result<(), Invalid> {
    if document
        .task_cpu()
        .is_some_and(|units| !CPU_RANGE.contains(&units))
    {
        return Err(Invalid::because(
            "Invalid 'cpu' setting for task. It must be between 128 and 196608 CPU units.",
        ));
    }
    if document.task_memory().is_some_and(|mib| mib < LEAST_MEMORY) {
        return Err(Invalid(format!(
            "Invalid 'memory' setting for task. It must be at least {LEAST_MEMORY} MiB."
        )));
    }
    if !document.inference_accelerators.is_empty() {
        return Err(Invalid::because(
            "Unsupported field: inferenceAccelerators.",
        ));
    }
    check_constraints(document)?;
    check_platform(document)?;
    check_storage(document)?;
    check_proxy(document)
}

/// ECS's bounds are Fargate's disks'. A host of one's own may be smaller, or larger: an ext4 has files up to 16 TiB.
fn check_storage(document: &Document) -> Result<(), Invalid> {
    let (least, most) = match document.is_for_fargate() {
        true => (21, 200),
        false => (1, 16_000),
    };
    let storage = document.ephemeral_storage.as_ref();
    if storage.is_some_and(|s| !(least..=most).contains(&s.size_in_gib)) {
        return Err(Invalid(format!(
            "Invalid 'ephemeralStorage' setting for task. 'sizeInGiB' must be between {least} and {most}."
        )));
    }
    Ok(())
}

fn check_constraints(document: &Document) -> Result<(), Invalid> {
    if document.placement_constraints.len() > MOST_CONSTRAINTS {
        return Err(Invalid(format!(
            "At most {MOST_CONSTRAINTS} placement constraints are allowed."
        )));
    }
    for constraint in &document.placement_constraints {
        let expression = constraint.expression.as_deref().unwrap_or_default();
        if constraint.kind != "memberOf" || expression.is_empty() || expression.len() > 2000 {
            return Err(Invalid::because(
                "Invalid placement constraint. Task definitions support type 'memberOf' with an expression of at most 2000 characters.",
            ));
        }
    }
    Ok(())
}

fn check_platform(document: &Document) -> Result<(), Invalid> {
    let Some(platform) = &document.runtime_platform else {
        return Ok(());
    };
    let architecture = platform.cpu_architecture.as_deref().unwrap_or("X86_64");
    let family = platform
        .operating_system_family
        .as_deref()
        .unwrap_or("LINUX");
    if !["X86_64", "ARM64"].contains(&architecture) {
        return Err(Invalid(format!(
            "Invalid cpuArchitecture '{architecture}'. Must be one of [X86_64, ARM64]."
        )));
    }
    if family != "LINUX" && !family.starts_with("WINDOWS_SERVER_") {
        return Err(Invalid(format!(
            "Invalid operatingSystemFamily '{family}'. Must be LINUX or one of the WINDOWS_SERVER_ families."
        )));
    }
    Ok(())
}

fn check_proxy(document: &Document) -> Result<(), Invalid> {
    let Some(proxy) = &document.proxy_configuration else {
        return Ok(());
    };
    if document.network_mode != Some(super::NetworkMode::Awsvpc) {
        return Err(Invalid::because(
            "Proxy configuration is only supported with networkMode 'awsvpc'.",
        ));
    }
    match document.container(&proxy.container_name) {
        Some(_) => Ok(()),
        None => Err(Invalid(format!(
            "The proxy container '{}' does not exist in the task definition.",
            proxy.container_name
        ))),
    }
}

fn check_volumes(document: &Document) -> Result<(), Invalid> {
    let mut names = HashSet::new();
    for volume in &document.volumes {
        if !is_name(&volume.name) {
            return Err(Invalid(format!(
                "Invalid volume name '{}'. Use 1 to 255 letters, digits, hyphens and underscores.",
                volume.name
            )));
        }
        if !names.insert(&volume.name) {
            return Err(Invalid(format!(
                "Volume name '{}' is used more than once.",
                volume.name
            )));
        }
        if kinds(volume) > 1 {
            return Err(Invalid(format!(
                "Volume '{}' must have only one configuration.",
                volume.name
            )));
        }
    }
    Ok(())
}

fn kinds(volume: &Volume) -> usize {
    // An empty `host` is what clients send for "a task volume"; it counts only with a path.
    let host = volume
        .host
        .as_ref()
        .is_some_and(|h| h.source_path.is_some());
    [
        host,
        volume.docker_volume_configuration.is_some(),
        volume.efs_volume_configuration.is_some(),
        volume.s3files_volume_configuration.is_some(),
        volume.fsx_windows_volume_configuration.is_some(),
        volume.configured_at_launch == Some(true),
    ]
    .into_iter()
    .filter(|given| *given)
    .count()
}

fn check_sums(document: &Document) -> Result<(), Invalid> {
    let containers = &document.container_definitions;
    let cpu: u64 = containers.iter().map(|c| u64::from(c.cpu)).sum();
    if document
        .task_cpu()
        .is_some_and(|units| cpu > u64::from(units))
    {
        return Err(Invalid::because(
            "The sum of all container 'cpu' values cannot be greater than the value of the task 'cpu'.",
        ));
    }
    let memory = containers
        .iter()
        .filter_map(|c| c.reserved_memory())
        .fold(0_u64, u64::saturating_add);
    if document.task_memory().is_some_and(|mib| memory > mib) {
        return Err(Invalid::because(
            "The sum of all container memory reservations cannot be greater than the value of the task 'memory'.",
        ));
    }
    Ok(())
}

fn check_size(document: &Document) -> Result<(), Invalid> {
    let bytes = serde_json::to_vec(document).map_or(usize::MAX, |text| text.len());
    if bytes > MOST_BYTES {
        return Err(Invalid(format!(
            "Task definition is {bytes} bytes; the largest allowed size is {MOST_BYTES} bytes."
        )));
    }
    Ok(())
}

/// Whether the document would do for FARGATE too, although nobody asked.
pub(super) fn would_do_for_fargate(document: &Document) -> bool {
    document
        .requires_compatibilities
        .contains(&Compatibility::Fargate)
        || fargate::check(document).is_ok()
}

#[cfg(test)]
mod tests;
