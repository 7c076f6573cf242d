//! The node daemon: a tokio shell around the task machine of `longshore-engine`.
//!
//! ```text
//!   link ───▶ driver ◀──▶ engine          decides, never waits
//!               │  └────▶ journal, board   what was decided, for later and for readers
//!               └───────▶ effects          touch the world: image, network, runtime
//! ```
//!
//! `recover` feeds the driver what a restart finds; `debug` lets people look, and keep images; `upkeep` keeps the image store in
//! bounds. Absent on purpose: any other command. What should run here is the control plane's to say, over the link.

mod assembly;
mod board;
mod cgroups;
mod debug;
mod driver;
mod effects;
mod instance;
mod join;
mod journal;
pub mod link;
mod lock;
mod logs;
mod oci;
mod policy;
mod recover;
mod reset;
#[cfg(test)]
mod sample;
mod statistics;
mod upkeep;

pub use assembly::run;
pub use instance::{Instance, InvalidInstance};
pub use longshore_image::{GcPolicy, PullBehaviour, Registries};
pub use policy::{DEFAULT_POLICY_FILE, HostPolicy, PolicyError};
pub use reset::{Removed, reset};
pub use upkeep::{ImagePolicy, held_images};

use std::collections::BTreeSet;
use std::path::PathBuf;

/// All that an agent needs to know before it starts.
#[derive(Clone)]
pub struct Config {
    /// Names and roots.
    pub instance: Instance,
    /// The control plane's RPC endpoint, `https://HOST:PORT`.
    pub endpoint: String,
    /// The join token; needed only until the host has an identity.
    pub token: Option<String>,
    /// Whom to trust, ask and be at registries.
    pub registries: Registries,
    /// When images are pulled, and when they are removed.
    pub images: ImagePolicy,
    /// What the host permits.
    pub policy: HostPolicy,
    /// The `longshore-runtime` binary.
    pub runtime_binary: PathBuf,
    /// The cgroup, relative to the hierarchies' roots, in which the caller has placed this process
    /// and which is delegated to it (a systemd scope). None: [`Instance::cgroup_parent`].
    pub cgroup_parent: Option<String>,
    /// MiB of the host's memory that tasks never get.
    pub reserved_memory: u64,
    /// TCP ports never given to a task.
    pub reserved_ports: BTreeSet<u16>,
    /// UDP ports never given to a task.
    pub reserved_ports_udp: BTreeSet<u16>,
}

impl Config {
    /// A configuration with nothing reserved but port 22, and a policy that permits nothing.
    pub fn new(instance: Instance, endpoint: String, runtime_binary: PathBuf) -> Config {
        Config {
            instance,
            endpoint,
            token: None,
            registries: Registries::default(),
            images: ImagePolicy::default(),
            policy: HostPolicy::default(),
            runtime_binary,
            cgroup_parent: None,
            reserved_memory: 0,
            reserved_ports: BTreeSet::from([22]),
            reserved_ports_udp: BTreeSet::new(),
        }
    }
}

impl std::fmt::Debug for Config {
    /// Without the token, which is a secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config")
            .field("instance", &self.instance)
            .field("endpoint", &self.endpoint)
            .field("images", &self.images)
            .field("policy", &self.policy)
            .field("runtime_binary", &self.runtime_binary)
            .field("cgroup_parent", &self.cgroup_parent)
            .field("reserved_memory", &self.reserved_memory)
            .field("reserved_ports", &self.reserved_ports)
            .field("reserved_ports_udp", &self.reserved_ports_udp)
            .finish_non_exhaustive()
    }
}
