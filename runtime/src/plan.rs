//! The plan: what init and the monitor will do for one container, in order, as data.
//!
//! [`Plan::of`] turns an OCI spec and what this host can do into steps. It is pure: no file, no clock,
//! no system call, so that a plan can be read as text and a review sees a change of the order. The text
//! (`Display`) shows the names of environment variables and never their values.

mod attribute;
mod capabilities;
mod devices;
mod draft;
mod exec;
mod facts;
mod groups;
mod hook;
mod label;
mod mounts;
mod namespaces;
mod network_device;
mod program;
mod ranges;
mod refusals;
mod resctrl;
mod step;
mod sysctl;
mod terminal;
mod text;
mod user;

use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxResources, Spec};
use serde::{Deserialize, Serialize};

use crate::cgroup::Location;
use crate::seccomp::Listener;

pub use attribute::{Attribute, MemoryPolicy, Scheduling};
pub use exec::{Asked, ExecUser};
pub use facts::HostFacts;
pub use hook::{Hook, HookKind, Hooks};
pub use label::LabelKind;
pub use mounts::{Ids, MountFlags, MountMap, Propagation, Spread, mount_options};
pub use network_device::NetworkDevice;
pub use resctrl::Resctrl;
pub use step::{
    Bind, CapabilitySets, CgroupView, DeviceKind, DeviceNode, Environment, Filesystem, Groups,
    Joined, Namespace, Remount, Rlimit, RootChange, Source, Step, Terminal, TimeOffsets,
};
pub use user::{IdRange, Mapper, UserNamespace, outside};

/// What happens, from the making of the cgroup to execve.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The container's cgroup.
    pub cgroup: Location,
    /// The limits of that cgroup.
    pub resources: Option<LinuxResources>,
    /// Namespaces that clone3 makes.
    pub clone: Vec<Namespace>,
    /// The new user namespace, if there is one: its parent writes the maps.
    pub user: Option<UserNamespace>,
    /// What the parent opens before clone3, because init will see or may do less; init finds it opened.
    pub opened: Vec<Step>,
    /// What a process between parent and init walks, where something must be done before init is cloned. Init
    /// then is its sibling. Empty: there is no such process.
    pub stage: Vec<Step>,
    /// What init walks, in order.
    pub steps: Vec<Step>,
    /// Hooks that the parent runs.
    #[serde(default)]
    pub hooks: Hooks,
    /// Network devices of the host that move into the container.
    #[serde(default)]
    pub network_devices: Vec<NetworkDevice>,
    /// The container's resctrl group.
    #[serde(default)]
    pub resctrl: Option<Resctrl>,
    /// The container's OCI state, as hooks get it; whoever launches the plan sets it.
    #[serde(default)]
    pub state: serde_json::Value,
    /// What the spec asked for and this host cannot give, where the OCI text says "warn and go on".
    pub warnings: Vec<String>,
}

impl Plan {
    /// The terminal of the program, if it has one.
    pub fn terminal(&self) -> Option<&Terminal> {
        self.steps.iter().find_map(|step| match step {
            Step::Terminal(terminal) => Some(terminal),
            _ => None,
        })
    }

    /// Tells the program of `count` descriptors from 3 on, as sd_listen_fds(3) reads it. Before the filter: it may know
    /// nothing of what only init does.
    pub fn listen(&mut self, count: u32, names: Option<String>) {
        let find = |step: &Step| matches!(step, Step::FindProgram { .. });
        let at = self.steps.iter().position(find).unwrap_or(0);
        self.steps.insert(at, Step::Listen { count, names });
    }

    /// args[0], for messages.
    pub fn entrypoint(&self) -> &str {
        let args = self.steps.iter().find_map(|step| match step {
            Step::Execute { args, .. } => args.first(),
            _ => None,
        });
        args.map_or("", String::as_str)
    }

    /// Who answers what the filter asks, if it asks.
    pub(crate) fn listener(&self) -> Option<&Listener> {
        self.steps.iter().find_map(|step| match step {
            Step::Seccomp(filter) => filter.listener.as_ref(),
            _ => None,
        })
    }

    /// Leaves the host's tree by chroot(2): where the host runs from its initial ramfs, pivot_root(2) cannot.
    pub fn without_pivot(mut self) -> Plan {
        for step in &mut self.steps {
            if let Step::PivotRoot { way, .. } = step
                && *way == RootChange::Pivot
            {
                *way = RootChange::Chroot;
            }
        }
        self
    }

    /// Where the root is attached for good, in the host's mount namespace, if the container has none of its own.
    /// Whoever launches the plan names a place of its own there, and unmounts it in the end.
    pub(crate) fn lasting_root(&mut self) -> Option<&mut PathBuf> {
        self.steps.iter_mut().find_map(|step| match step {
            Step::AttachRoot {
                path,
                way: RootChange::Stay,
                ..
            } => Some(path),
            _ => None,
        })
    }
}

/// Makes the paths of a spec absolute that the OCI text counts from the bundle: the root, and sources of binds.
pub fn count_from_bundle(spec: &mut Spec, bundle: &Path) {
    if let Some(root) = spec.root_mut() {
        let path = bundle.join(root.path());
        root.set_path(path);
    }
    for mount in spec.mounts_mut().iter_mut().flatten() {
        let source = mount
            .source()
            .as_ref()
            .filter(|_| mounts::is_bind_mount(mount));
        if let Some(source) = source.map(|source| bundle.join(source)) {
            mount.set_source(Some(source));
        }
    }
}
