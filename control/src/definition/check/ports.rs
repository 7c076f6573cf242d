//! The rules of port mappings.

use std::collections::HashSet;

use super::container::invalid;
use crate::definition::{ContainerDefinition, Document, Invalid, NetworkMode, PortMapping};

/// ECS's limit for one container.
const MOST: usize = 100;

pub(super) fn check(document: &Document, container: &ContainerDefinition) -> Result<(), Invalid> {
    let mappings = &container.port_mappings;
    if mappings.is_empty() {
        return Ok(());
    }
    let network = document.network();
    if network == NetworkMode::None {
        return Err(invalid(
            container,
            "Port mappings are not supported with networkMode 'none'.",
        ));
    }
    if mappings.len() > MOST {
        return Err(invalid(
            container,
            format!("At most {MOST} port mappings are allowed."),
        ));
    }
    for mapping in mappings {
        check_one(container, mapping, network)?;
    }
    check_twice(document, container)
}

fn check_one(
    container: &ContainerDefinition,
    mapping: &PortMapping,
    network: NetworkMode,
) -> Result<(), Invalid> {
    match (&mapping.container_port, &mapping.container_port_range) {
        (Some(_), Some(_)) => Err(invalid(
            container,
            "A port mapping cannot specify both single port and port range.",
        )),
        (None, None) => Err(invalid(container, "A port mapping needs a containerPort.")),
        (None, Some(range)) => check_range(container, mapping, range),
        (Some(0), None) => Err(invalid(
            container,
            "'containerPort' must be between 1 and 65535.",
        )),
        (Some(inside), None) => check_host(mapping, *inside, network),
    }
}

fn check_host(mapping: &PortMapping, inside: u16, network: NetworkMode) -> Result<(), Invalid> {
    let word = match network {
        NetworkMode::Host => "host",
        NetworkMode::Awsvpc => "awsvpc",
        NetworkMode::Bridge | NetworkMode::None => return Ok(()),
    };
    match mapping.host_port {
        // ECS takes 0 as "not given" here.
        None | Some(0) => Ok(()),
        Some(outside) if outside == inside => Ok(()),
        Some(_) => Err(Invalid(format!(
            "When networkMode={word}, the host ports and container ports in port mappings must match."
        ))),
    }
}

fn check_range(
    container: &ContainerDefinition,
    mapping: &PortMapping,
    range: &str,
) -> Result<(), Invalid> {
    let ends = range.split_once('-');
    let ends = ends.and_then(|(a, b)| Some((a.parse::<u16>().ok()?, b.parse::<u16>().ok()?)));
    match ends {
        Some((first, last)) if 1 <= first && first <= last && usize::from(last - first) < MOST => {}
        _ => {
            return Err(invalid(
                container,
                format!(
                    "'containerPortRange' '{range}' is not FIRST-LAST with at most {MOST} ports."
                ),
            ));
        }
    }
    if mapping.host_port.is_some() {
        return Err(invalid(
            container,
            "'hostPort' is not supported together with 'containerPortRange'.",
        ));
    }
    Ok(())
}

/// A host port can be given out once only, over all containers of the task.
fn check_twice(document: &Document, container: &ContainerDefinition) -> Result<(), Invalid> {
    let mut taken = HashSet::new();
    let same_network = document.network() != NetworkMode::Bridge;
    for other in &document.container_definitions {
        for mapping in &other.port_mappings {
            let inside = mapping.container_port.filter(|_| same_network);
            let outside = inside.or(mapping.host_port).filter(|port| *port != 0);
            let Some(port) = outside else {
                continue;
            };
            let transport = mapping.transport();
            if !taken.insert((port, transport == crate::definition::TransportProtocol::Tcp)) {
                return Err(invalid(
                    container,
                    format!("Host port {port} is used more than once in the task definition."),
                ));
            }
        }
    }
    Ok(())
}
