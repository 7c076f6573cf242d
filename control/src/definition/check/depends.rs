//! `dependsOn`: to whom, on what condition, and never in a circle.

use super::container::invalid;
use crate::definition::{Condition, ContainerDefinition, Dependency, Invalid};

pub(super) fn check(containers: &[ContainerDefinition]) -> Result<(), Invalid> {
    for container in containers {
        for dependency in container.depends_on.iter().flatten() {
            check_one(containers, container, dependency)?;
        }
    }
    check_circles(containers)
}

fn check_one(
    containers: &[ContainerDefinition],
    container: &ContainerDefinition,
    dependency: &Dependency,
) -> Result<(), Invalid> {
    let name = &dependency.container_name;
    let Some(target) = containers.iter().find(|c| c.name == *name) else {
        return Err(invalid(
            container,
            format!("It depends on '{name}', which does not exist in the task definition."),
        ));
    };
    match dependency.condition {
        None => Err(invalid(
            container,
            format!("Its dependency on '{name}' has no condition."),
        )),
        Some(Condition::Start) => Ok(()),
        Some(Condition::Complete | Condition::Success) if target.is_essential() => {
            Err(Invalid::because(
                "A dependency container with SUCCESS or COMPLETE condition cannot be an essential container",
            ))
        }
        Some(Condition::Complete | Condition::Success) => Ok(()),
        Some(Condition::Healthy) if target.health_check.is_none() => Err(invalid(
            container,
            format!("It depends on '{name}' being HEALTHY, which has no health check."),
        )),
        Some(Condition::Healthy) => Ok(()),
    }
}

/// Takes away containers all of whose dependencies are gone, until none is left or a circle is.
fn check_circles(containers: &[ContainerDefinition]) -> Result<(), Invalid> {
    let mut waiting: Vec<&ContainerDefinition> = containers.iter().collect();
    loop {
        let names: Vec<&str> = waiting.iter().map(|c| c.name.as_str()).collect();
        let waits = |container: &ContainerDefinition| {
            let mut dependencies = container.depends_on.iter().flatten();
            dependencies.any(|d| names.contains(&d.container_name.as_str()))
        };
        let still: Vec<&ContainerDefinition> =
            waiting.iter().copied().filter(|c| waits(c)).collect();
        if still.is_empty() {
            return Ok(());
        }
        if still.len() == waiting.len() {
            return Err(Invalid(format!(
                "Container dependencies form a cycle: {}.",
                names.join(", ")
            )));
        }
        waiting = still;
    }
}
