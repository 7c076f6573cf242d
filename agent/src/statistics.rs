//! What a cgroup uses and what bounds it, read by cgroups-rs on v1 and v2 alike. Reading only: the
//! runtime's own module makes, limits and removes groups. Every call blocks.

use cgroups_rs::fs::cpu::CpuController;
use cgroups_rs::fs::cpuacct::CpuAcctController;
use cgroups_rs::fs::memory::MemController;
use cgroups_rs::fs::pid::PidController;
use cgroups_rs::fs::{Cgroup, MaxValue, hierarchies};
use serde::Serialize;

/// A group's figures; what the kernel does not tell is None.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Statistics {
    /// CPU time since the group was made.
    pub(crate) cpu_nanoseconds: Option<u64>,
    /// Hard CPU limit, in ECS units of 1/1024 core.
    pub(crate) cpu_limit: Option<u64>,
    /// Bytes charged now.
    pub(crate) memory_bytes: Option<u64>,
    /// Bytes charged at most.
    pub(crate) memory_peak_bytes: Option<u64>,
    /// Hard limit in bytes.
    pub(crate) memory_limit_bytes: Option<u64>,
    /// Processes and threads now.
    pub(crate) processes: Option<u64>,
    /// Processes and threads at most.
    pub(crate) processes_limit: Option<u64>,
}

/// v1 writes "no limit" as the largest number of whole pages.
const UNLIMITED: u64 = 1 << 62;

impl Statistics {
    /// The figures of the group at `path`, relative to the roots. All None if it is gone.
    pub(crate) fn of(path: &str) -> Statistics {
        let group = Cgroup::load(hierarchies::auto(), path);
        let mut all = Statistics::default();
        if let Some(cpu) = group.controller_of::<CpuController>() {
            all.cpu_limit = cpu_limit(cpu);
            all.cpu_nanoseconds = usage_of_v2(&cpu.cpu().stat);
        }
        if let Some(cpu) = group.controller_of::<CpuAcctController>() {
            all.cpu_nanoseconds = Some(cpu.cpuacct().usage);
        }
        if let Some(memory) = group.controller_of::<MemController>() {
            let stat = memory.memory_stat();
            let limit = u64::try_from(stat.limit_in_bytes).ok();
            all.memory_bytes = Some(stat.usage_in_bytes);
            all.memory_peak_bytes = Some(stat.max_usage_in_bytes).filter(|peak| *peak > 0);
            all.memory_limit_bytes = limit.filter(|limit| (1..UNLIMITED).contains(limit));
        }
        if let Some(pids) = group.controller_of::<PidController>() {
            all.processes = pids.get_pid_current().ok();
            all.processes_limit = pids.get_pid_max().ok().and_then(|max| match max {
                MaxValue::Value(limit) => u64::try_from(limit).ok(),
                MaxValue::Max => None,
            });
        }
        all
    }
}

fn cpu_limit(cpu: &CpuController) -> Option<u64> {
    let quota = u64::try_from(cpu.cfs_quota().ok()?).ok()?;
    let period = cpu.cfs_period().ok().filter(|period| *period > 0)?;
    Some(quota.saturating_mul(1024) / period)
}

/// `usage_usec` of v2's `cpu.stat`; v1's file of that name has no such line.
fn usage_of_v2(stat: &str) -> Option<u64> {
    let line = stat.lines().find_map(|l| l.strip_prefix("usage_usec "))?;
    line.trim().parse::<u64>().ok()?.checked_mul(1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_read_from_v2_s_lines_only() {
        assert_eq!(usage_of_v2("usage_usec 12\nuser_usec 5\n"), Some(12_000));
        assert_eq!(usage_of_v2("nr_periods 0\nnr_throttled 0\n"), None);
    }

    #[test]
    fn a_group_that_is_gone_has_no_figures_that_mislead() {
        let all = Statistics::of("longshore-no-such-group/x");
        assert_eq!(all.memory_limit_bytes, None);
        assert_eq!(all.processes, None);
    }
}
