//! Limits as v2 control files (kernel: Documentation/admin-guide/cgroup-v2.rst).

use oci_spec::runtime::{LinuxCpu, LinuxMemory, LinuxResources};

use super::directory::refused;
use super::limits::{self, Bound, Memory, STEP, Write, block_io, hugetlb, network, rdma};
use crate::StepError;

mod unified;

/// Tells the value that a file has now; None: there is no such file.
type Read<'a> = dyn Fn(&str) -> Result<Option<String>, StepError> + 'a;

/// The writes for the limits that are given.
pub(super) fn writes(resources: &LinuxResources, read: &Read<'_>) -> Result<Vec<Write>, StepError> {
    let mut writes = Vec::new();
    if let Some(cpu) = resources.cpu() {
        add_cpu(cpu, read, &mut writes)?;
    }
    if let Some(memory) = resources.memory() {
        add_memory(memory, read, &mut writes)?;
    }
    if let Some(bound) = limits::pids(resources)? {
        writes.push(Write::bound("pids", "pids.max", bound, "max"));
    }
    if let Some(block) = resources.block_io() {
        let has = |file: &str| Ok(read(file)?.is_some());
        writes.extend(block_io::writes_v2(block, &has)?);
    }
    let pages = resources.hugepage_limits().as_deref().unwrap_or_default();
    writes.extend(hugetlb::writes(pages, "max", "max")?);
    if let Some(network) = resources.network() {
        network::refuse_v2(network)?;
    }
    if let Some(devices) = resources.rdma() {
        writes.extend(rdma::writes(devices)?);
    }
    // Last, so that what is said for v2 in v2's words wins.
    writes.extend(unified::writes(resources)?);
    Ok(writes)
}

/// `cpu.weight` (1 to 10000) for `cpu.shares` (2 to 262144): the quadratic curve in log space through the
/// two minima, the two defaults (1024 and 100) and the two maxima, as crun 1.23 and runc 1.3.2 have it. The
/// line that was used before gave the default share a weight of 39.
pub(super) fn weight(shares: u64) -> u64 {
    if shares <= 2 {
        return 1;
    }
    if shares >= 262_144 {
        return 10_000;
    }
    let log = (shares as f64).log2();
    let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
    // The tolerance keeps rounding errors of powf from lifting an exact value such as 100 by one.
    (10f64.powf(exponent) - 1e-9).ceil() as u64
}

fn add_cpu(cpu: &LinuxCpu, read: &Read<'_>, writes: &mut Vec<Write>) -> Result<(), StepError> {
    let realtime = limits::bound("cpu.realtimeRuntime", cpu.realtime_runtime())?;
    if realtime.is_some() || limits::positive(cpu.realtime_period()).is_some() {
        let cause = "cgroup v2 has no real-time limits; leave it out";
        return Err(refused(
            STEP,
            "cpu.realtimeRuntime, cpu.realtimePeriod",
            cause,
        ));
    }
    if let Some(cpus) = limits::list("cpu.cpus", cpu.cpus())? {
        writes.push(Write::new("cpuset", "cpuset.cpus", cpus));
    }
    if let Some(mems) = limits::list("cpu.mems", cpu.mems())? {
        writes.push(Write::new("cpuset", "cpuset.mems", mems));
    }
    writes.extend(cpu.idle().map(|idle| limits::zero_lifts("cpu.idle", idle)));
    // The kernel gives an idle group a weight of its own and refuses another.
    if let Some(shares) = limits::shares(cpu).filter(|_| cpu.idle() != Some(1)) {
        writes.push(Write::new("cpu", "cpu.weight", weight(shares)));
    }
    const BURST: &str = "cpu.max.burst";
    let mut burst = cpu.burst().map(|burst| limits::zero_lifts(BURST, burst));
    if let Some(max) = cpu_max(cpu, read)? {
        if burst.is_some() {
            let now = read(BURST)?;
            writes.extend(burst.take_if(|burst| limits::burst_first(burst, now)));
        }
        writes.push(Write::new("cpu", "cpu.max", max));
    }
    writes.extend(burst);
    Ok(())
}

/// `QUOTA PERIOD`; a period alone keeps the quota, a quota alone the period.
fn cpu_max(cpu: &LinuxCpu, read: &Read<'_>) -> Result<Option<String>, StepError> {
    let quota = match limits::bound("cpu.quota", cpu.quota())? {
        Some(Bound::Unlimited) => Some("max".to_owned()),
        Some(Bound::At(quota)) => Some(quota.to_string()),
        None => None,
    };
    Ok(match (quota, limits::positive(cpu.period())) {
        (Some(quota), Some(period)) => Some(format!("{quota} {period}")),
        (Some(quota), None) => Some(quota),
        (None, Some(period)) => {
            let now = read("cpu.max")?.unwrap_or_default();
            let quota = now.split_whitespace().next().unwrap_or("max");
            Some(format!("{quota} {period}"))
        }
        (None, None) => None,
    })
}

fn add_memory(
    memory: &LinuxMemory,
    read: &Read<'_>,
    writes: &mut Vec<Write>,
) -> Result<(), StepError> {
    let memory = Memory::of(memory)?;
    memory.check_subsumed("memory.kernelTCP", memory.kernel_tcp)?;
    for (name, given) in [
        ("memory.swappiness", memory.swappiness.is_some()),
        (
            "memory.disableOOMKiller",
            memory.disable_oom_killer == Some(true),
        ),
    ] {
        if given {
            return Err(refused(
                STEP,
                name,
                "cgroup v2 has no such setting; leave it out",
            ));
        }
    }
    if memory.check_before_update {
        check_usage(&memory, read)?;
    }
    if let Some(bound) = memory.reservation {
        writes.push(Write::bound("memory", "memory.low", bound, "max"));
    }
    if let Some(bound) = swap(&memory, read)? {
        writes.push(Write::bound("memory", "memory.swap.max", bound, "max"));
    }
    if let Some(bound) = memory.limit {
        writes.push(Write::bound("memory", "memory.max", bound, "max"));
    }
    Ok(())
}

/// v2 counts swap alone, OCI memory and swap together. Where the limit is not given it is the one in force.
fn swap(memory: &Memory, read: &Read<'_>) -> Result<Option<Bound>, StepError> {
    let swap = match memory.swap {
        None if memory.no_swap => return Ok(Some(Bound::At(0))),
        None | Some(Bound::Unlimited) => return Ok(memory.swap),
        Some(Bound::At(swap)) => swap,
    };
    let limit = match memory.limit {
        Some(Bound::At(limit)) => Some(limit),
        _ => read("memory.max")?.and_then(|text| text.trim().parse().ok()),
    };
    let cause = match limit.map(|limit| (limit, swap.checked_sub(limit))) {
        Some((_, Some(swap))) => return Ok(Some(Bound::At(swap))),
        Some((limit, None)) => {
            format!("swap counts memory and swap together, and is below memory.limit {limit}")
        }
        None => "it counts memory and swap together: give memory.limit too".to_owned(),
    };
    Err(refused(STEP, "memory.swap", cause))
}

/// `checkBeforeUpdate`: v2 would kill to get below a new limit; asked so, it is refused instead.
fn check_usage(memory: &Memory, read: &Read<'_>) -> Result<(), StepError> {
    let usage = read("memory.current")?.and_then(|text| text.trim().parse::<u64>().ok());
    match (memory.limit, usage) {
        (Some(Bound::At(limit)), Some(usage)) if limit < usage => Err(refused(
            STEP,
            "memory.limit",
            format!("{usage} bytes are in use, above the new limit {limit} (checkBeforeUpdate)"),
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
