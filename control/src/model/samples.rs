//! Records for tests.

use super::{Desired, Instance, Resources, Status, Task};

pub(crate) fn instance(cluster: &str, id: &str, total: Resources) -> Instance {
    Instance {
        id: id.to_owned(),
        cluster: cluster.to_owned(),
        connected: true,
        registered_at: 1_700_000_000_000,
        total,
        attributes: Vec::new(),
        agent_version: "0.1.0".to_owned(),
        host_name: format!("host-{id}"),
        key_hash: String::new(),
        version: 1,
    }
}

pub(crate) fn task(cluster: &str, id: &str, instance: &str) -> Task {
    Task {
        id: id.to_owned(),
        cluster: cluster.to_owned(),
        family: "web".to_owned(),
        revision: 1,
        instance: instance.to_owned(),
        desired: Desired::Running,
        status: Status::Running,
        overrides: serde_json::json!({}),
        ephemeral_storage: None,
        group: "family:web".to_owned(),
        started_by: None,
        tags: Vec::new(),
        holds: Resources::default(),
        stop_code: None,
        stopped_reason: None,
        version: 1,
        created_at: 1_700_000_000_000,
        pull_started_at: None,
        pull_stopped_at: None,
        started_at: None,
        stopping_at: None,
        execution_stopped_at: None,
        stopped_at: None,
        containers: Vec::new(),
    }
}
