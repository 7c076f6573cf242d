//! What this host can do, read once, so that the planner itself touches nothing.

use caps::{CapSet, Capability};

use crate::StepError;
use crate::error::Context;

/// File system type of a mounted selinuxfs, linux/magic.h.
const SELINUX_MAGIC: rustix::fs::FsWord = 0xf97c_ff8c;

/// What the planner must know about the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostFacts {
    /// Capabilities in the bounding set of this process, by name (`CAP_CHOWN`), in the kernel's order.
    pub bounding: Vec<String>,
    /// cgroup v1 hierarchies as mount options (`cpu,cpuacct`, `name=systemd`); empty on pure v2.
    pub v1_hierarchies: Vec<String>,
    /// Whether AppArmor enforces profiles.
    pub apparmor: bool,
    /// Whether SELinux is in force.
    pub selinux: bool,
}

impl HostFacts {
    /// Reads /proc/self/cgroup, the bounding set, and which security modules there are.
    pub fn read() -> Result<HostFacts, StepError> {
        let held = caps::read(None, CapSet::Bounding).map_err(|error| {
            StepError::refused("read", "capability bounding set", error.to_string())
        })?;
        let mut held: Vec<Capability> = held.into_iter().collect();
        held.sort_by_key(Capability::index);
        let groups =
            std::fs::read_to_string("/proc/self/cgroup").context("read", "/proc/self/cgroup")?;
        Ok(HostFacts {
            bounding: held.iter().map(Capability::to_string).collect(),
            v1_hierarchies: v1_hierarchies(&groups),
            // A module that is not there has no such file.
            apparmor: std::fs::read("/sys/module/apparmor/parameters/enabled")
                .is_ok_and(|text| text.starts_with(b"Y")),
            selinux: rustix::fs::statfs("/sys/fs/selinux")
                .is_ok_and(|statfs| statfs.f_type == SELINUX_MAGIC),
        })
    }
}

/// cgroups(7): lines are `id:controllers:path`; v2 is the one without controllers.
fn v1_hierarchies(groups: &str) -> Vec<String> {
    let controllers = groups.lines().filter_map(|line| line.split(':').nth(1));
    let mut named: Vec<String> = controllers
        .filter(|names| !names.is_empty())
        .map(str::to_owned)
        .collect();
    named.sort();
    named
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hybrid_host_counts_as_v1() {
        let text = "4:memory:/a\n3:cpu,cpuacct:/a\n2:name=systemd:/\n0::/a\n";
        assert_eq!(
            v1_hierarchies(text),
            ["cpu,cpuacct", "memory", "name=systemd"]
        );
        assert!(v1_hierarchies("0::/init.scope\n").is_empty());
    }
}
