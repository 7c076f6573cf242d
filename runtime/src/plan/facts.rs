//! What this host can do, read once, so that the planner itself touches nothing.

use caps::Capability;
use rustix::io::Errno;
use rustix::thread::CapabilitySet;

use crate::StepError;
use crate::error::Context;
use crate::kernel_text;

/// File system type of a mounted selinuxfs, linux/magic.h.
const SELINUX_MAGIC: rustix::fs::FsWord = 0xf97c_ff8c;

/// What the planner must know about the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostFacts {
    /// Capabilities that this process can give, permitted to it and in its bounding set, by name (`CAP_CHOWN`), in
    /// the kernel's order.
    pub bounding: Vec<String>,
    /// All capabilities of the kernel that have a name here: whoever enters a user namespace holds them in it.
    pub supported: Vec<String>,
    /// cgroup v1 hierarchies as mount options (`cpu,cpuacct`, `name=systemd`); empty on pure v2.
    pub v1_hierarchies: Vec<String>,
    /// Whether AppArmor enforces profiles.
    pub apparmor: bool,
    /// Whether SELinux is in force.
    pub selinux: bool,
    /// Whether CAP_SYS_ADMIN is in force: namespaces and mounts need it, in the user namespace we are in.
    pub privileged: bool,
    /// Whether this process lives in the initial user namespace: elsewhere no device node can be made.
    pub initial_user_namespace: bool,
    /// Whether the kernel lacks the mount calls of Linux 5.12: the parent can open nothing for init.
    pub old_mount_calls: bool,
    /// Effective user id.
    pub uid: u32,
    /// Effective group id.
    pub gid: u32,
}

impl HostFacts {
    /// Reads /proc/self/cgroup, the bounding set, and which security modules there are.
    pub fn read() -> Result<HostFacts, StepError> {
        let own = rustix::thread::capabilities(None).context("read", "capabilities")?;
        let (supported, bounding) = capabilities(own.permitted)?;
        let groups =
            kernel_text::read_string("/proc/self/cgroup").context("read", "/proc/self/cgroup")?;
        Ok(HostFacts {
            bounding,
            supported,
            v1_hierarchies: v1_hierarchies(&groups),
            // A module that is not there has no such file.
            apparmor: kernel_text::read("/sys/module/apparmor/parameters/enabled")
                .is_ok_and(|text| text.starts_with(b"Y")),
            selinux: rustix::fs::statfs("/sys/fs/selinux")
                .is_ok_and(|statfs| statfs.f_type == SELINUX_MAGIC),
            privileged: own.effective.contains(CapabilitySet::SYS_ADMIN),
            initial_user_namespace: initial_user_namespace()?,
            old_mount_calls: crate::classic::needed(),
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
        })
    }
}

/// What the kernel knows, and what of it is permitted and in the bounding set, both in the kernel's order.
fn capabilities(permitted: CapabilitySet) -> Result<(Vec<String>, Vec<String>), StepError> {
    let mut named: Vec<Capability> = caps::all().into_iter().collect();
    named.sort_by_key(Capability::index);
    let (mut supported, mut bounding) = (Vec::new(), Vec::new());
    for capability in named {
        let one = CapabilitySet::from_bits_retain(capability.bitmask());
        match rustix::thread::capability_is_in_bounding_set(one) {
            // Newer than this kernel.
            Err(Errno::INVAL) => break,
            held => {
                supported.push(capability.to_string());
                if held.context("read", "capability bounding set")? && permitted.contains(one) {
                    bounding.push(capability.to_string());
                }
            }
        }
    }
    Ok((supported, bounding))
}

/// The initial one has this inode number on every host (PROC_USER_INIT_INO).
fn initial_user_namespace() -> Result<bool, StepError> {
    let stat = rustix::fs::stat("/proc/self/ns/user").context("stat", "/proc/self/ns/user")?;
    Ok(stat.st_ino == 0xEFFF_FFFD)
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
    fn what_is_not_permitted_cannot_be_given() {
        let (supported, given) = capabilities(CapabilitySet::empty()).unwrap();
        assert!(supported.iter().any(|name| name == "CAP_KILL"));
        assert_eq!(given, [""; 0]);
    }

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
