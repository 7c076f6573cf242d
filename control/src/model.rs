//! What the control plane knows, as records in the store. North and south meet here and nowhere else.
//!
//! Keys: `cluster/NAME`, `family/FAMILY`, `definition/FAMILY/0000000001`, `task/CLUSTER/ID`,
//! `instance/CLUSTER/ID`, `placement/CLUSTER/ID`, `clienttoken/CLUSTER/SHA256`, `token/SHA256`,
//! `accesskey/ID`, `ca`; `quarantine/KEY` for what could not be read.

mod record;
#[cfg(test)]
pub(crate) mod samples;

use serde::{Deserialize, Serialize};

pub(crate) use self::record::{ATTEMPTS, contended};
pub use self::record::{Stored, all, list, put, read, scan, update};

/// Milliseconds since the Unix epoch.
pub type Millis = u64;

/// A cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cluster {
    /// Name.
    pub name: String,
    /// False once deleted: still described for a while, never listed.
    pub active: bool,
    /// `tags`, as given.
    pub tags: Vec<Tag>,
    /// `settings`, as given: (name, value).
    pub settings: Vec<Tag>,
}

/// A key and a value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tag {
    /// Key.
    pub key: String,
    /// Value.
    pub value: String,
}

/// One revision of a task definition.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Definition {
    /// Family.
    pub family: String,
    /// Revision, from 1.
    pub revision: u32,
    /// False once deregistered.
    pub active: bool,
    /// Registered when.
    pub registered_at: Millis,
    /// By whom (ARN).
    pub registered_by: String,
    /// Deregistered when.
    pub deregistered_at: Option<Millis>,
    /// The definition in ECS's own JSON, defaults filled in: a public document format, kept as such and
    /// read through `crate::definition::Document`.
    pub document: serde_json::Value,
    /// Tags.
    pub tags: Vec<Tag>,
}

/// What is known of a family over all its revisions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Family {
    /// The last revision that was given out; none is ever given out twice.
    pub last_revision: u32,
    /// The newest ACTIVE revision; none: the family is INACTIVE.
    pub latest_active: Option<u32>,
}

/// What is wanted of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Desired {
    /// It shall run.
    Running,
    /// It shall be stopped.
    Stopped,
}

/// ECS `lastStatus`, as far as tasks here take these values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Status {
    /// Placed; not running yet.
    Pending,
    /// Running.
    Running,
    /// Being stopped; its resources are still held.
    Stopping,
    /// Stopped, proven by its agent.
    Stopped,
}

/// ECS `stopCode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StopCode {
    /// Never came to RUNNING.
    TaskFailedToStart,
    /// An essential container ended.
    EssentialContainerExited,
    /// StopTask.
    UserInitiated,
}

/// A task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Task {
    /// 32 lowercase hex digits.
    pub id: String,
    /// Its cluster's name.
    pub cluster: String,
    /// Its definition.
    pub family: String,
    /// Its definition's revision.
    pub revision: u32,
    /// The host it was placed on (instance id).
    pub instance: String,
    /// What is wanted.
    pub desired: Desired,
    /// What is known.
    pub status: Status,
    /// The `overrides` of RunTask, as ECS JSON (an object, also when empty).
    pub overrides: serde_json::Value,
    /// GiB of the task's own disk, if it has one.
    #[serde(default)]
    pub ephemeral_storage: Option<u32>,
    /// Group.
    pub group: String,
    /// startedBy.
    pub started_by: Option<String>,
    /// Tags.
    pub tags: Vec<Tag>,
    /// What it holds of its host until it is STOPPED.
    pub holds: Resources,
    /// Why it stops.
    pub stop_code: Option<StopCode>,
    /// stoppedReason.
    pub stopped_reason: Option<String>,
    /// Rises with each change that DescribeTasks shows.
    pub version: u64,
    /// Times, as ECS names them.
    pub created_at: Millis,
    /// pullStartedAt
    pub pull_started_at: Option<Millis>,
    /// pullStoppedAt
    pub pull_stopped_at: Option<Millis>,
    /// startedAt
    pub started_at: Option<Millis>,
    /// stoppingAt
    pub stopping_at: Option<Millis>,
    /// executionStoppedAt
    pub execution_stopped_at: Option<Millis>,
    /// stoppedAt
    pub stopped_at: Option<Millis>,
    /// The containers, in the definition's order.
    pub containers: Vec<Container>,
}

impl Task {
    /// What ECS answers as `desiredStatus`: a task that ends by itself is wanted STOPPED from then on.
    #[must_use]
    pub fn desired_now(&self) -> Desired {
        if self.status >= Status::Stopping {
            Desired::Stopped
        } else {
            self.desired
        }
    }
}

/// A container of a task as last reported.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Container {
    /// UUID that ends its ARN.
    pub uuid: String,
    /// Name.
    pub name: String,
    /// Image as in the definition.
    pub image: String,
    /// Digest, once pulled.
    pub image_digest: Option<String>,
    /// Id below the runtime.
    pub runtime_id: Option<String>,
    /// Status.
    pub status: Status,
    /// Exit code.
    pub exit_code: Option<i32>,
    /// Reason.
    pub reason: Option<String>,
    /// Published ports.
    pub bindings: Vec<Binding>,
    /// cpu as in the definition.
    pub cpu: u32,
    /// memory as in the definition.
    pub memory: Option<u64>,
    /// memoryReservation as in the definition.
    pub memory_reservation: Option<u64>,
}

/// A network binding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// Usually 0.0.0.0.
    pub bind_ip: String,
    /// Inside.
    pub container_port: u16,
    /// Outside.
    pub host_port: u16,
    /// `tcp` or `udp`.
    pub protocol: String,
}

/// What a host has, or a task holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// CPU units.
    pub cpu: u32,
    /// MiB.
    pub memory: u64,
    /// TCP ports (for a host: the reserved ones).
    pub ports: Vec<u16>,
    /// UDP ports.
    pub ports_udp: Vec<u16>,
}

/// A host that has joined: ECS's container instance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Instance {
    /// 32 lowercase hex digits.
    pub id: String,
    /// Its cluster.
    pub cluster: String,
    /// Whether its agent has a session now.
    pub connected: bool,
    /// Times.
    pub registered_at: Millis,
    /// What it has. `ports` and `ports_udp` are reserved, never given out.
    pub total: Resources,
    /// Attributes: (name, value).
    pub attributes: Vec<(String, Option<String>)>,
    /// Version of its agent.
    pub agent_version: String,
    /// Host name, for people.
    pub host_name: String,
    /// SHA-256 of the public key its client certificate was issued for.
    pub key_hash: String,
    /// Rises with each change.
    pub version: u64,
}

/// Every placement on an instance writes this record and compares it: two placements that looked at the
/// same instance at once cannot both go through.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// Tasks placed there so far.
    pub tasks: u64,
}

/// What RunTask did for a `clientToken`: the same call again is answered with the same tasks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientToken {
    /// SHA-256 of the call's parameters.
    pub parameters: String,
    /// The tasks' ids.
    pub tasks: Vec<String>,
    /// First used when.
    pub created_at: Millis,
}

/// A join token, by its hash; the token itself is never kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JoinToken {
    /// For this cluster.
    pub cluster: String,
    /// No longer good after.
    pub expires_at: Millis,
    /// The instance that used it.
    pub used_by: Option<String>,
}
