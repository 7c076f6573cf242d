//! What a task is asked to be: the control plane's wish in the engine's own words.
//!
//! The agent's link translates the wire message into a [`TaskSpec`]; nothing below this type
//! knows protobuf. A spec never changes after the engine has accepted it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The 32 lowercase hex digits that end a task ARN; unique over all clusters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TaskId(String);

/// A task id was not 32 lowercase hex digits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidTaskId(pub String);

impl std::fmt::Display for InvalidTaskId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "task id {:?} is not 32 lowercase hex digits", self.0)
    }
}

impl std::error::Error for InvalidTaskId {}

impl TaskId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for TaskId {
    type Error = InvalidTaskId;

    fn try_from(text: String) -> Result<Self, InvalidTaskId> {
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if text.len() == 32 && text.bytes().all(hex) {
            Ok(TaskId(text))
        } else {
            Err(InvalidTaskId(text))
        }
    }
}

impl From<TaskId> for String {
    fn from(id: TaskId) -> String {
        id.0
    }
}

impl std::fmt::Display for TaskId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// One task as the control plane wants it: the task definition with the overrides applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskSpec {
    /// The task's id, the last part of its ARN.
    pub id: TaskId,
    /// `arn:aws:ecs:REGION:ACCOUNT:task/CLUSTER/ID`.
    pub arn: String,
    /// Family of the task definition.
    pub family: String,
    /// Revision of the task definition.
    pub revision: u32,
    /// Task-level CPU in ECS units (1024 = one core): a hard quota. None: no quota.
    pub cpu: Option<u32>,
    /// Task-level memory in MiB: a hard limit over all containers. None: no limit of its own.
    pub memory: Option<u64>,
    /// GiB that the writable layers of all containers may have together. None: no limit of its own.
    pub ephemeral_storage: Option<u64>,
    /// How the task's containers reach a network.
    pub network: NetworkMode,
    /// The containers in the definition's order; names are unique and at least one is essential.
    pub containers: Vec<ContainerSpec>,
}

/// ECS `networkMode`, as far as this agent runs it. `awsvpc` never reaches an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NetworkMode {
    /// A network namespace with loopback only.
    None,
    /// The host's network namespace (only where the host's policy allows it).
    Host,
    /// A network namespace for each container, joined to the instance's bridge.
    Bridge,
}

/// One container of a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// Unique within the task; 1 to 255 of `[A-Za-z0-9_-]`.
    pub name: String,
    /// Image reference as written in the definition.
    pub image: String,
    /// Whether the task stops when this container stops.
    pub essential: bool,
    /// Relative weight in ECS CPU units; 0 counts as 2, as in ECS.
    pub cpu: u32,
    /// Hard limit in MiB.
    pub memory: Option<u64>,
    /// Soft limit in MiB.
    pub memory_reservation: Option<u64>,
    /// Replaces the image's entrypoint; with it the image's command is dropped too.
    pub entry_point: Option<Vec<String>>,
    /// Replaces the image's command.
    pub command: Option<Vec<String>>,
    /// Added to the image's environment; a later key wins.
    pub environment: Vec<(String, String)>,
    /// Replaces the image's working directory.
    pub working_directory: Option<String>,
    /// `user`, `uid`, `user:group`, `uid:gid` and the mixed forms.
    pub user: Option<String>,
    /// Host name of the container; none: its runtime id's first 12 characters.
    pub hostname: Option<String>,
    /// ECS `privileged`; refused unless the host's policy allows it.
    pub privileged: bool,
    /// The root filesystem is mounted read-only.
    pub readonly_root: bool,
    /// `dockerSecurityOptions: ["no-new-privileges"]`.
    pub no_new_privileges: bool,
    /// Capabilities to add (`NET_ADMIN`, without `CAP_`); refused unless the policy allows it.
    pub cap_add: Vec<String>,
    /// Capabilities to drop from the default set; `ALL` drops every one.
    pub cap_drop: Vec<String>,
    /// Resource limits of the process.
    pub ulimits: Vec<Ulimit>,
    /// Ports to publish.
    pub ports: Vec<PortMapping>,
    /// Time between SIGTERM (or the image's stop signal) and SIGKILL.
    pub stop_timeout: Duration,
}

/// ECS `ulimits` entry; names as in ECS (`nofile`, `nproc`, ...).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    /// Lower-case name without `RLIMIT_`.
    pub name: String,
    /// Soft limit.
    pub soft: u64,
    /// Hard limit.
    pub hard: u64,
}

/// One port to publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PortMapping {
    /// Port inside the container.
    pub container_port: u16,
    /// Port on the host; none: any free port of the dynamic range.
    pub host_port: Option<u16>,
    /// Transport.
    pub protocol: Protocol,
}

/// Transport protocol of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// A port that is published: what ECS calls a network binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PortBinding {
    /// Port inside the container.
    pub container_port: u16,
    /// Port on the host.
    pub host_port: u16,
    /// Transport.
    pub protocol: Protocol,
}
