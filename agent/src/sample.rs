//! A plain task for tests.

use std::time::Duration;

use longshore_engine::{ContainerSpec, NetworkMode, TaskId, TaskSpec};

/// `00...0n`.
pub(crate) fn id(n: u32) -> TaskId {
    TaskId::try_from(format!("{n:032x}")).unwrap()
}

/// One essential container `web` with nothing special.
pub(crate) fn task() -> TaskSpec {
    let id = id(1);
    TaskSpec {
        arn: format!("arn:aws:ecs:eu-central-1:000000000000:task/default/{id}"),
        id,
        family: "site".to_owned(),
        revision: 3,
        cpu: Some(256),
        memory: Some(128),
        ephemeral_storage: None,
        network: NetworkMode::Bridge,
        containers: vec![container("web")],
    }
}

/// A container of an image that sets nothing but its command.
pub(crate) fn container(name: &str) -> ContainerSpec {
    ContainerSpec {
        name: name.to_owned(),
        image: "registry.example/site:1".to_owned(),
        essential: true,
        cpu: 128,
        memory: Some(64),
        memory_reservation: Some(32),
        entry_point: None,
        command: None,
        environment: Vec::new(),
        working_directory: None,
        user: None,
        hostname: None,
        privileged: false,
        readonly_root: false,
        no_new_privileges: false,
        cap_add: Vec::new(),
        cap_drop: Vec::new(),
        ulimits: Vec::new(),
        ports: Vec::new(),
        stop_timeout: Duration::from_secs(30),
    }
}
