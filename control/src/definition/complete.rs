//! What ECS writes into a document by itself: plain numbers before the checks, defaults after them.

use super::{
    ContainerDefinition, Document, HealthCheck, Invalid, NetworkMode, PortMapping,
    TransportProtocol, quantity,
};

/// Makes task-level `cpu` and `memory` plain decimal numbers.
///
/// # Errors
/// Where they are none of ECS's forms.
pub fn normalise(document: &mut Document) -> Result<(), Invalid> {
    if let Some(text) = &mut document.cpu {
        let units = quantity::cpu(text).ok_or_else(|| {
            Invalid::because(
                "Invalid 'cpu' setting for task. Write CPU units ('256') or vCPUs ('.25 vcpu').",
            )
        })?;
        *text = units.to_string();
    }
    if let Some(text) = &mut document.memory {
        let mib = quantity::memory(text).ok_or_else(|| {
            Invalid::because("Invalid 'memory' setting for task. Write MiB ('512') or GB ('1 GB').")
        })?;
        *text = mib.to_string();
    }
    Ok(())
}

/// Fills in the defaults that ECS answers.
pub fn complete(document: &mut Document) {
    let network = document.network();
    for container in &mut document.container_definitions {
        complete_container(container, network);
    }
}

fn complete_container(container: &mut ContainerDefinition, network: NetworkMode) {
    container.essential.get_or_insert(true);
    for mapping in &mut container.port_mappings {
        complete_port(mapping, network);
    }
    if let Some(check) = &mut container.health_check {
        complete_health_check(check);
    }
    if let Some(policy) = &mut container.restart_policy {
        policy.restart_attempt_period.get_or_insert(300);
    }
}

fn complete_port(mapping: &mut PortMapping, network: NetworkMode) {
    mapping.protocol.get_or_insert(TransportProtocol::Tcp);
    let Some(inside) = mapping.container_port else {
        return;
    };
    match network {
        NetworkMode::Host | NetworkMode::Awsvpc => mapping.host_port = Some(inside),
        NetworkMode::Bridge | NetworkMode::None => {
            mapping.host_port.get_or_insert(0);
        }
    }
}

fn complete_health_check(check: &mut HealthCheck) {
    check.interval.get_or_insert(30);
    check.timeout.get_or_insert(5);
    check.retries.get_or_insert(3);
}
