//! The instance's own groups: `task`, which holds every task's, and `monitors`, which no task's limits
//! reach. On v2 in a delegated scope the agent itself moves into a leaf, `agent`, because a group that
//! hands controllers down may hold no process.

use std::path::Path;

use anyhow::Context as _;
use oci_spec::runtime::{LinuxMemory, LinuxResources};

use crate::effects::ThisHost;

/// What the monitors of an empty host may use together, and how much more each container adds. A monitor
/// itself needs less; its log's page cache is charged here too, and reclaimed first.
const MONITORS_BASE: i64 = 64 << 20;
const MONITORS_EACH: i64 = 2 << 20;

/// Makes the instance's groups.
pub(crate) fn prepare(host: &ThisHost) -> anyhow::Result<()> {
    if host.hierarchy.is_v2() {
        leave_inner_node(&host.cgroup_parent)?;
    }
    for path in [host.tasks_cgroup(), host.monitors_cgroup()] {
        host.hierarchy.group(&path)?.create()?;
    }
    bound_monitors(host);
    Ok(())
}

/// Fits the bound of the monitors' memory to the number of containers, and one more. What cannot be
/// written is told only: an older bound is still a bound.
pub(crate) fn bound_monitors(host: &ThisHost) {
    let containers = std::fs::read_dir(host.containers_dir()).map_or(0, Iterator::count);
    let each = i64::try_from(containers + 1)
        .unwrap_or(i64::MAX)
        .saturating_mul(MONITORS_EACH);
    let mut memory = LinuxMemory::default();
    memory.set_limit(Some(MONITORS_BASE.saturating_add(each)));
    let mut resources = LinuxResources::default();
    resources.set_memory(Some(memory));
    let group = host.hierarchy.group(&host.monitors_cgroup());
    if let Err(e) = group.and_then(|group| group.apply(&resources)) {
        tracing::warn!("bound the monitors' memory: {e}");
    }
}

/// Moves this process from the delegated group into a leaf below it, if it is in that group itself.
/// Written by hand: the group cannot hand controllers down before it is empty.
fn leave_inner_node(parent: &str) -> anyhow::Result<()> {
    let own = std::fs::read_to_string("/proc/self/cgroup").context("read /proc/self/cgroup")?;
    let is_inner = own
        .lines()
        .filter_map(|line| line.strip_prefix("0::/"))
        .any(|path| path == parent);
    if !is_inner {
        return Ok(());
    }
    let leaf = Path::new("/sys/fs/cgroup").join(parent).join("agent");
    if let Err(e) = std::fs::create_dir(&leaf)
        && e.kind() != std::io::ErrorKind::AlreadyExists
    {
        return Err(e).with_context(|| format!("make cgroup {}", leaf.display()));
    }
    std::fs::write(leaf.join("cgroup.procs"), "0")
        .with_context(|| format!("enter cgroup {}", leaf.display()))
}
