//! Records written as ECS's shapes.

use serde_json::{Map, Value, json};

use super::Arns;
use crate::definition::{Document, compatibilities, required_attributes};
use crate::model::{
    Binding, Cluster, Container, Definition, Desired, Instance, Millis, Resources, Status, Task,
};
use crate::placement::Host;

/// The launch type of every task here: containers on hosts of one's own.
pub(super) const LAUNCH_TYPE: &str = "EC2";

/// Seconds since the epoch, with the fraction: ECS's timestamps.
pub(super) fn time(at: Millis) -> Value {
    // f64 counts milliseconds exactly for the next 285 000 years.
    json!(at as f64 / 1000.0)
}

/// What a cluster's description counts.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) instances: usize,
    pub(super) running: usize,
    pub(super) pending: usize,
}

impl Arns {
    pub(super) fn cluster_shape(&self, cluster: &Cluster, counts: Counts) -> Value {
        json!({
            "clusterArn": self.cluster(&cluster.name),
            "clusterName": cluster.name,
            "status": if cluster.active { "ACTIVE" } else { "INACTIVE" },
            "registeredContainerInstancesCount": counts.instances,
            "runningTasksCount": counts.running,
            "pendingTasksCount": counts.pending,
            "activeServicesCount": 0,
            "statistics": [],
            "tags": [],
            "settings": [],
            "capacityProviders": [],
            "defaultCapacityProviderStrategy": [],
        })
    }

    pub(super) fn task_definition_shape(&self, definition: &Definition, doc: &Document) -> Value {
        let mut shape = match &definition.document {
            Value::Object(members) => members.clone(),
            _ => Map::new(),
        };
        let attributes: Vec<Value> = required_attributes(doc)
            .into_iter()
            .map(|name| json!({"name": name}))
            .collect();
        let arn = self.task_definition(&definition.family, definition.revision);
        let status = if definition.active {
            "ACTIVE"
        } else {
            "INACTIVE"
        };
        shape.insert("taskDefinitionArn".into(), arn.into());
        shape.insert("revision".into(), definition.revision.into());
        shape.insert("status".into(), status.into());
        shape.insert("requiresAttributes".into(), attributes.into());
        shape.insert("compatibilities".into(), json!(compatibilities(doc)));
        shape.insert("registeredAt".into(), time(definition.registered_at));
        shape.insert("registeredBy".into(), json!(definition.registered_by));
        insert_time(&mut shape, "deregisteredAt", definition.deregistered_at);
        Value::Object(shape)
    }

    /// `instance`: the task's host, where it is still known.
    pub(super) fn task_shape(&self, task: &Task, instance: Option<&Instance>) -> Value {
        let containers = task.containers.iter();
        let containers: Vec<Value> = containers.map(|c| self.container_shape(task, c)).collect();
        let desired = match task.desired_now() {
            Desired::Running => "RUNNING",
            Desired::Stopped => "STOPPED",
        };
        let shape = json!({
            "attachments": [],
            "attributes": instance.map_or_else(Vec::new, task_attributes),
            "clusterArn": self.cluster(&task.cluster),
            "containerInstanceArn": self.instance(&task.cluster, &task.instance),
            "containers": containers,
            "cpu": task.holds.cpu.to_string(),
            "createdAt": time(task.created_at),
            "desiredStatus": desired,
            "enableExecuteCommand": false,
            "group": task.group,
            "healthStatus": "UNKNOWN",
            "lastStatus": status(task.status),
            "launchType": LAUNCH_TYPE,
            "memory": task.holds.memory.to_string(),
            "overrides": task.overrides,
            "tags": [],
            "taskArn": self.task(&task.cluster, &task.id),
            "taskDefinitionArn": self.task_definition(&task.family, task.revision),
            "version": task.version,
        });
        let Value::Object(mut shape) = shape else {
            unreachable!("json!({{..}}) is an object")
        };
        if task.status != Status::Pending
            && let Some(instance) = instance
        {
            let connected = ["DISCONNECTED", "CONNECTED"][usize::from(instance.connected)];
            shape.insert("connectivity".into(), connected.into());
        }
        if let Some(gib) = task.ephemeral_storage {
            shape.insert("ephemeralStorage".into(), json!({ "sizeInGiB": gib }));
        }
        if let Some(code) = task.stop_code {
            // The enum's words are ECS's.
            shape.insert("stopCode".into(), format!("{code:?}").into());
        }
        insert_text(&mut shape, "startedBy", task.started_by.as_deref());
        insert_text(&mut shape, "stoppedReason", task.stopped_reason.as_deref());
        for (name, at) in [
            ("pullStartedAt", task.pull_started_at),
            ("pullStoppedAt", task.pull_stopped_at),
            ("startedAt", task.started_at),
            ("stoppingAt", task.stopping_at),
            ("executionStoppedAt", task.execution_stopped_at),
            ("stoppedAt", task.stopped_at),
        ] {
            insert_time(&mut shape, name, at);
        }
        Value::Object(shape)
    }

    fn container_shape(&self, task: &Task, container: &Container) -> Value {
        let bindings: Vec<Value> = container.bindings.iter().map(binding).collect();
        let mut shape = Map::new();
        let fixed = [
            ("containerArn", json!(self.container(task, container))),
            ("taskArn", json!(self.task(&task.cluster, &task.id))),
            ("name", json!(container.name)),
            ("image", json!(container.image)),
            ("lastStatus", json!(container_status(container.status))),
            ("networkBindings", json!(bindings)),
            ("networkInterfaces", json!([])),
            ("healthStatus", json!("UNKNOWN")),
            ("cpu", json!(container.cpu.to_string())),
        ];
        shape.extend(fixed.map(|(name, value)| (name.to_owned(), value)));
        insert_text(&mut shape, "imageDigest", container.image_digest.as_deref());
        insert_text(&mut shape, "runtimeId", container.runtime_id.as_deref());
        insert_text(&mut shape, "reason", container.reason.as_deref());
        let number = |n: Option<u64>| n.map(|n| n.to_string());
        insert_text(&mut shape, "memory", number(container.memory).as_deref());
        insert_text(
            &mut shape,
            "memoryReservation",
            number(container.memory_reservation).as_deref(),
        );
        if let Some(code) = container.exit_code {
            shape.insert("exitCode".into(), code.into());
        }
        Value::Object(shape)
    }

    pub(super) fn instance_shape(&self, host: &Host, running: usize, pending: usize) -> Value {
        let instance = &host.instance;
        let attributes: Vec<Value> = instance
            .attributes
            .iter()
            .map(|(name, value)| attribute(name, value.as_deref()))
            .collect();
        json!({
            "containerInstanceArn": self.instance(&instance.cluster, &instance.id),
            "version": instance.version,
            "versionInfo": {"agentVersion": instance.agent_version},
            "remainingResources": resources(&host.remaining()),
            "registeredResources": resources(&instance.total),
            "status": "ACTIVE",
            "agentConnected": instance.connected,
            "runningTasksCount": running,
            "pendingTasksCount": pending,
            "attributes": attributes,
            "registeredAt": time(instance.registered_at),
            "attachments": [],
            "tags": [],
        })
    }
}

fn insert_text(shape: &mut Map<String, Value>, name: &str, text: Option<&str>) {
    if let Some(text) = text {
        shape.insert(name.to_owned(), text.into());
    }
}

fn insert_time(shape: &mut Map<String, Value>, name: &str, at: Option<Millis>) {
    if let Some(at) = at {
        shape.insert(name.to_owned(), time(at));
    }
}

fn status(status: Status) -> &'static str {
    match status {
        Status::Pending => "PENDING",
        Status::Running => "RUNNING",
        Status::Stopping => "STOPPING",
        Status::Stopped => "STOPPED",
    }
}

/// Containers know no STOPPING in ECS: one that is being stopped still runs.
fn container_status(status_: Status) -> &'static str {
    match status_ {
        Status::Stopping => "RUNNING",
        other => status(other),
    }
}

fn binding(binding: &Binding) -> Value {
    json!({
        "bindIP": binding.bind_ip,
        "containerPort": binding.container_port,
        "hostPort": binding.host_port,
        "protocol": binding.protocol,
    })
}

fn attribute(name: &str, value: Option<&str>) -> Value {
    match value {
        None => json!({"name": name}),
        Some(value) => json!({"name": name, "value": value}),
    }
}

fn task_attributes(instance: &Instance) -> Vec<Value> {
    let shown = |name: &str| name == "ecs.cpu-architecture";
    let attributes = instance.attributes.iter().filter(|(name, _)| shown(name));
    attributes
        .map(|(name, value)| attribute(name, value.as_deref()))
        .collect()
}

fn resources(resources: &Resources) -> Value {
    let number = |name: &str, value: u64| json!({"name": name, "type": "INTEGER", "doubleValue": 0.0, "longValue": 0, "integerValue": value});
    let set = |name: &str, ports: &[u16]| {
        let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
        json!({"name": name, "type": "STRINGSET", "doubleValue": 0.0, "longValue": 0,
            "integerValue": 0, "stringSetValue": ports})
    };
    json!([
        number("CPU", resources.cpu.into()),
        number("MEMORY", resources.memory),
        set("PORTS", &resources.ports),
        set("PORTS_UDP", &resources.ports_udp),
    ])
}
