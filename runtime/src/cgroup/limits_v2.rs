//! Limits as v2 control files (kernel: Documentation/admin-guide/cgroup-v2.rst).

use std::borrow::Cow;

use oci_spec::runtime::{LinuxCpu, LinuxMemory, LinuxResources};

use super::directory::refused;
use super::limits::{self, Bound, Memory, STEP, Write};
use crate::StepError;

/// Tells the value that a file has now; None: there is no such file.
type Read<'a> = dyn Fn(&str) -> Result<Option<String>, StepError> + 'a;

/// The writes for the limits that are given.
pub(super) fn writes(resources: &LinuxResources, read: &Read<'_>) -> Result<Vec<Write>, StepError> {
    limits::refuse_unsupported(resources)?;
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
    // Last, so that what is said for v2 in v2's words wins.
    add_unified(resources, &mut writes)?;
    Ok(writes)
}

/// `cpu.weight` (1 to 10000) for `cpu.shares` (2 to 262144): the quadratic curve in log space through the
/// two minima, the two defaults (1024 and 100) and the two maxima, as crun 1.23 and runc 1.3.2 have it. The
/// line that was used before gave the default share a weight of 39.
fn weight(shares: u64) -> u64 {
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
    if let Some(idle) = cpu.idle() {
        writes.push(Write {
            lifts: idle == 0,
            ..Write::new("cpu", "cpu.idle", idle)
        });
    }
    if let Some(shares) = limits::shares(cpu) {
        writes.push(Write::new("cpu", "cpu.weight", weight(shares)));
    }
    if let Some(max) = cpu_max(cpu, read)? {
        writes.push(Write::new("cpu", "cpu.max", max));
    }
    if let Some(burst) = limits::positive(cpu.burst()) {
        writes.push(Write::new("cpu", "cpu.max.burst", burst));
    }
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
        ("memory.disableOOMKiller", memory.disable_oom_killer),
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
    if let Some(bound) = swap(&memory) {
        writes.push(Write::bound("memory", "memory.swap.max", bound, "max"));
    }
    if let Some(bound) = memory.limit {
        writes.push(Write::bound("memory", "memory.max", bound, "max"));
    }
    Ok(())
}

/// v2 counts swap alone, OCI memory and swap together; `Memory` guarantees `limit <= swap`.
fn swap(memory: &Memory) -> Option<Bound> {
    match (memory.limit, memory.swap?) {
        (Some(Bound::At(limit)), Bound::At(swap)) => Some(Bound::At(swap - limit)),
        (_, bound) => Some(bound),
    }
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

/// Controllers whose files `unified` may name; `cgroup.*` files are no limits but levers of ours.
const UNIFIED: [&str; 8] = [
    "cpu", "cpuset", "hugetlb", "io", "memory", "misc", "pids", "rdma",
];

fn add_unified(resources: &LinuxResources, writes: &mut Vec<Write>) -> Result<(), StepError> {
    let mut entries: Vec<_> = resources.unified().iter().flatten().collect();
    entries.sort();
    for (file, value) in entries {
        let controller = file.split('.').next().unwrap_or_default();
        let known = UNIFIED.iter().find(|name| **name == controller);
        let plain = file.contains('.') && !file.contains(['/', '\0']);
        let Some(controller) = known.filter(|_| plain) else {
            let cause = format!(
                "{file:?} is no file of a v2 controller ({})",
                UNIFIED.join(", ")
            );
            return Err(refused(STEP, "linux.resources.unified", cause));
        };
        // Some files take several lines, one write(2) each (io.max).
        for line in value.lines() {
            writes.push(Write {
                controller,
                file: Cow::Owned(file.clone()),
                value: line.to_owned(),
                lifts: false,
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    fn check(json: &str, now: &[(&str, &str)], expected: Expect) {
        let resources: LinuxResources = serde_json::from_str(json).unwrap();
        let read = |file: &str| {
            let found = now.iter().find(|(name, _)| *name == file);
            Ok(found.map(|(_, value)| value.to_string()))
        };
        let text = match writes(&resources, &read) {
            Ok(writes) => writes
                .iter()
                .map(|write| format!("{} = {}\n", write.file, write.value))
                .collect(),
            Err(error) => format!("{error}\n"),
        };
        expected.assert_eq(&text);
    }

    #[test]
    fn shares_become_weights_on_the_curve_of_runc_and_crun() {
        let weights: Vec<u64> = [1, 2, 10, 256, 512, 1024, 2048, 10240, 262_144, u64::MAX]
            .map(weight)
            .to_vec();
        assert_eq!(weights[..2], [1, 1]);
        assert_eq!(weight(1024), 100);
        assert_eq!(weights[8..], [10_000, 10_000]);
        assert!(weights.is_sorted());
        let all: Vec<u64> = (2..262_144).map(weight).collect();
        assert!(all.is_sorted() && all.iter().all(|weight| (1..=10_000).contains(weight)));
    }

    #[test]
    fn every_supported_limit_has_its_file() {
        check(
            r#"{"cpu":{"shares":1024,"quota":50000,"period":100000,"cpus":"0-1","mems":"0","burst":9},
                "memory":{"limit":67108864,"reservation":33554432,"swap":134217728},
                "pids":{"limit":100},"unified":{"memory.high":"60000000"}}"#,
            &[],
            expect![[r#"
                cpuset.cpus = 0-1
                cpuset.mems = 0
                cpu.weight = 100
                cpu.max = 50000 100000
                cpu.max.burst = 9
                memory.low = 33554432
                memory.swap.max = 67108864
                memory.max = 67108864
                pids.max = 100
                memory.high = 60000000
            "#]],
        );
    }

    #[test]
    fn unlimited_is_max() {
        check(
            r#"{"cpu":{"quota":-1},"memory":{"limit":-1,"swap":-1},"pids":{"limit":-1}}"#,
            &[],
            expect![[r#"
                cpu.max = max
                memory.swap.max = max
                memory.max = max
                pids.max = max
            "#]],
        );
    }

    #[test]
    fn no_swap_is_a_swap_of_zero_and_no_pids_leaves_one() {
        check(
            r#"{"memory":{"limit":100,"swap":100},"pids":{"limit":0}}"#,
            &[],
            expect![[r#"
                memory.swap.max = 0
                memory.max = 100
                pids.max = 1
            "#]],
        );
    }

    #[test]
    fn a_period_alone_keeps_the_quota() {
        check(
            r#"{"cpu":{"period":50000}}"#,
            &[("cpu.max", "30000 100000\n")],
            expect![[r#"
                cpu.max = 30000 50000
            "#]],
        );
    }

    #[test]
    fn what_cannot_be_enforced_is_refused_by_name() {
        check(
            r#"{"memory":{"limit":100,"swappiness":10}}"#,
            &[],
            expect![[r#"
                apply limit memory.swappiness: cgroup v2 has no such setting; leave it out
            "#]],
        );
        check(
            r#"{"memory":{"swap":10}}"#,
            &[],
            expect![[r#"
                apply limit memory.swap: it counts memory and swap together: give memory.limit too
            "#]],
        );
        check(
            r#"{"memory":{"limit":100,"checkBeforeUpdate":true}}"#,
            &[("memory.current", "4096\n")],
            expect![[r#"
                apply limit memory.limit: 4096 bytes are in use, above the new limit 100 (checkBeforeUpdate)
            "#]],
        );
        check(
            r#"{"unified":{"cgroup.procs":"1"}}"#,
            &[],
            expect![[r#"
                apply limit linux.resources.unified: "cgroup.procs" is no file of a v2 controller (cpu, cpuset, hugetlb, io, memory, misc, pids, rdma)
            "#]],
        );
        check(
            r#"{"unified":{"memory/../x.y":"1"}}"#,
            &[],
            expect![[r#"
                apply limit linux.resources.unified: "memory/../x.y" is no file of a v2 controller (cpu, cpuset, hugetlb, io, memory, misc, pids, rdma)
            "#]],
        );
    }
}
