//! Limits as v2 control files (kernel: Documentation/admin-guide/cgroup-v2.rst).

use oci_spec::runtime::{LinuxCpu, LinuxMemory, LinuxResources};

use super::directory::refused;
use super::limits::{self, Bound, Memory, STEP, Write, block_io, hugetlb, network, rdma};
use crate::StepError;

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
    add_unified(resources, &mut writes)?;
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

/// Controllers whose files `unified` may name.
const UNIFIED: [&str; 9] = [
    "cpu", "cpuset", "dmem", "hugetlb", "io", "memory", "misc", "pids", "rdma",
];

/// The files of cgroup v2 itself that are limits. The others are levers (`cgroup.procs`, `cgroup.kill`).
const UNIFIED_CORE: [&str; 2] = ["cgroup.max.depth", "cgroup.max.descendants"];

fn add_unified(resources: &LinuxResources, writes: &mut Vec<Write>) -> Result<(), StepError> {
    let mut entries: Vec<_> = resources.unified().iter().flatten().collect();
    entries.sort();
    for (file, value) in entries {
        let controller = unified_controller(file)
            .map_err(|cause| refused(STEP, "linux.resources.unified", cause))?;
        // Some files take several lines, one write(2) each (io.max).
        for line in value.lines() {
            writes.push(Write::new(controller, file.clone(), line));
        }
    }
    Ok(())
}

fn unified_controller(file: &str) -> Result<&'static str, String> {
    let valid = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if !file.bytes().all(valid) || file.contains("..") {
        return Err(format!("{file:?} is no name of a control file"));
    }
    let Some((controller, _)) = file.split_once('.') else {
        return Err(format!(
            "the specified key has not the form CONTROLLER.VALUE `{file}`"
        ));
    };
    if UNIFIED_CORE.contains(&file) {
        return Ok("cgroup");
    }
    let known = UNIFIED.into_iter().find(|name| *name == controller);
    known.ok_or_else(|| {
        format!(
            "the requested cgroup controller `{controller}` is not available; cgroup v2 has {}",
            UNIFIED.join(", ")
        )
    })
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
                apply limit linux.resources.unified: the requested cgroup controller `cgroup` is not available; cgroup v2 has cpu, cpuset, dmem, hugetlb, io, memory, misc, pids, rdma
            "#]],
        );
        check(
            r#"{"unified":{"memory/../x.y":"1"}}"#,
            &[],
            expect![[r#"
                apply limit linux.resources.unified: "memory/../x.y" is no name of a control file
            "#]],
        );
    }

    #[test]
    fn every_other_controller_has_its_file_too() {
        check(
            r#"{"blockIO":{"weight":500,"weightDevice":[{"major":8,"minor":0,"weight":10}],
                    "throttleReadBpsDevice":[{"major":8,"minor":0,"rate":1000}],
                    "throttleWriteIOPSDevice":[{"major":8,"minor":16,"rate":0}]},
                "hugepageLimits":[{"pageSize":"2MB","limit":0},{"pageSize":"1GB","limit":-1}],
                "rdma":{"mlx5_1":{"hcaHandles":3,"hcaObjects":10000}},
                "unified":{"misc.max":"sgx_epc 5","cgroup.max.depth":"3"}}"#,
            &[],
            expect![[r#"
                io.weight = 4950
                io.weight = 8:0 1
                io.max = 8:0 rbps=1000
                io.max = 8:16 wiops=max
                hugetlb.2MB.max = 0
                hugetlb.2MB.rsvd.max = 0
                hugetlb.1GB.max = max
                hugetlb.1GB.rsvd.max = max
                rdma.max = mlx5_1 hca_handle=3 hca_object=10000
                cgroup.max.depth = 3
                misc.max = sgx_epc 5
            "#]],
        );
    }

    #[test]
    fn weights_go_to_the_scheduler_that_is_there() {
        check(
            r#"{"blockIO":{"weight":500,"weightDevice":[{"major":8,"minor":0,"weight":300}]}}"#,
            &[("io.bfq.weight", "default 100")],
            expect![[r#"
                io.bfq.weight = 500
                io.bfq.weight = 8:0 300
            "#]],
        );
    }

    #[test]
    fn swap_alone_counts_from_the_limit_in_force() {
        let now = [("memory.max", "300\n")];
        check(
            r#"{"memory":{"swap":500}}"#,
            &now,
            expect![[r#"
            memory.swap.max = 200
        "#]],
        );
        check(
            r#"{"memory":{"swap":200}}"#,
            &now,
            expect![[r#"
            apply limit memory.swap: swap counts memory and swap together, and is below memory.limit 300
        "#]],
        );
        check(
            r#"{"memory":{"swap":0}}"#,
            &now,
            expect![[r#"
            memory.swap.max = 0
        "#]],
        );
        check(
            r#"{"memory":{"swap":0,"limit":100}}"#,
            &now,
            expect![[r#"
                memory.max = 100
            "#]],
        );
    }

    #[test]
    fn a_burst_that_shrinks_comes_before_the_quota() {
        let json = r#"{"cpu":{"quota":20000,"burst":10000}}"#;
        check(
            json,
            &[("cpu.max.burst", "90000")],
            expect![[r#"
            cpu.max.burst = 10000
            cpu.max = 20000
        "#]],
        );
        check(
            json,
            &[("cpu.max.burst", "100")],
            expect![[r#"
            cpu.max = 20000
            cpu.max.burst = 10000
        "#]],
        );
        check(
            r#"{"cpu":{"burst":0}}"#,
            &[],
            expect![[r#"
            cpu.max.burst = 0
        "#]],
        );
    }

    #[test]
    fn what_v2_has_not_is_refused_by_name() {
        for (json, expected) in [
            (
                r#"{"network":{"classID":7}}"#,
                expect![[r#"
                apply limit linux.resources.network: cgroup v2 has no network classes and priorities; leave it out
            "#]],
            ),
            (
                r#"{"blockIO":{"leafWeight":70}}"#,
                expect![[r#"
                apply limit blockIO.leafWeight: cgroup v2 has no weight for a group's own processes; leave it out
            "#]],
            ),
            (
                r#"{"cpu":{"realtimeRuntime":70}}"#,
                expect![[r#"
                apply limit cpu.realtimeRuntime, cpu.realtimePeriod: cgroup v2 has no real-time limits; leave it out
            "#]],
            ),
            (
                r#"{"unified":{"NOT-A-KEY":"1"}}"#,
                expect![[r#"
                apply limit linux.resources.unified: the specified key has not the form CONTROLLER.VALUE `NOT-A-KEY`
            "#]],
            ),
            (
                r#"{"unified":{"foo.bar":"1"}}"#,
                expect![[r#"
                apply limit linux.resources.unified: the requested cgroup controller `foo` is not available; cgroup v2 has cpu, cpuset, dmem, hugetlb, io, memory, misc, pids, rdma
            "#]],
            ),
            (
                r#"{"unified":{"cgroup.kill":"1"}}"#,
                expect![[r#"
                apply limit linux.resources.unified: the requested cgroup controller `cgroup` is not available; cgroup v2 has cpu, cpuset, dmem, hugetlb, io, memory, misc, pids, rdma
            "#]],
            ),
        ] {
            check(json, &[], expected);
        }
    }
}
