//! The instance's own groups: `task`, which holds every task's, and `monitors`, which no task's limits
//! reach. On v2 in a delegated scope the agent itself moves into a leaf, `agent`, because a group that
//! hands controllers down may hold no process.

use std::path::Path;

use anyhow::Context as _;
use oci_spec::runtime::{LinuxCpu, LinuxMemory, LinuxPids, LinuxResources};

use crate::effects::ThisHost;

/// What the monitors of an empty host may use together, and how much more each container adds. A monitor
/// itself needs less than half of it; its log's page cache is charged here too, and reclaimed first.
const MONITORS_BASE: i64 = 64 << 20;
const MONITORS_EACH: i64 = 8 << 20;
/// The monitors' weight beside the tasks' 1024, when all cores are busy: a task that floods its log makes its
/// monitor work, and must not take more from its neighbours that way than by its own share.
const MONITORS_SHARES: u64 = 256;

/// Makes the instance's groups.
pub(crate) fn prepare(host: &ThisHost) -> anyhow::Result<()> {
    if host.hierarchy.is_v2() {
        leave_inner_node(&host.cgroup_parent)?;
    }
    for path in [host.tasks_cgroup(), host.monitors_cgroup()] {
        host.hierarchy.group(&path)?.create()?;
    }
    bound_tasks(host)?;
    bound_monitors(host);
    Ok(())
}

/// All tasks together leave the host a quarter of its process ids: each has a limit of its own, but enough
/// tasks would use up what is there.
fn bound_tasks(host: &ThisHost) -> anyhow::Result<()> {
    let path = "/proc/sys/kernel/pid_max";
    let text = std::fs::read_to_string(path).with_context(|| format!("read {path}"))?;
    let pid_max: i64 = text
        .trim()
        .parse()
        .with_context(|| format!("read {path}"))?;
    let mut pids = LinuxPids::default();
    pids.set_limit(pid_max / 4 * 3);
    let mut resources = LinuxResources::default();
    resources.set_pids(Some(pids));
    Ok(host
        .hierarchy
        .group(&host.tasks_cgroup())?
        .apply(&resources)?)
}

/// Fits the bound of the monitors' memory to the number of containers and one more, and keeps their weight low. What cannot be
/// written is told only: an older bound is still a bound.
pub(crate) fn bound_monitors(host: &ThisHost) {
    let containers = std::fs::read_dir(host.containers_dir()).map_or(0, Iterator::count);
    let each = i64::try_from(containers + 1)
        .unwrap_or(i64::MAX)
        .saturating_mul(MONITORS_EACH);
    let mut memory = LinuxMemory::default();
    memory.set_limit(Some(MONITORS_BASE.saturating_add(each)));
    let mut cpu = LinuxCpu::default();
    cpu.set_shares(Some(MONITORS_SHARES));
    let mut resources = LinuxResources::default();
    resources.set_memory(Some(memory)).set_cpu(Some(cpu));
    let group = host.hierarchy.group(&host.monitors_cgroup());
    if let Err(e) = group.and_then(|group| group.apply(&resources)) {
        tracing::warn!("bound the monitors: {e}");
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
