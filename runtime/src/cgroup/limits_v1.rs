//! Limits as v1 control files (kernel: Documentation/admin-guide/cgroup-v1).

use oci_spec::runtime::{LinuxCpu, LinuxMemory, LinuxResources};

use super::directory::{refused, value_of};
use super::limits::{self, Bound, Memory, STEP, Write, block_io, hugetlb, network, rdma};
use crate::StepError;

/// Tells the value that a controller's file has now; None: there is no such file.
type Read<'a> = dyn Fn(&str, &str) -> Result<Option<String>, StepError> + 'a;

/// The writes for the limits that are given, in an order in which the kernel takes them.
pub(super) fn writes(resources: &LinuxResources, read: &Read<'_>) -> Result<Vec<Write>, StepError> {
    if resources
        .unified()
        .as_ref()
        .is_some_and(|map| !map.is_empty())
    {
        let cause = "its keys are files of cgroup v2, and this host is v1";
        return Err(refused(STEP, "linux.resources.unified", cause));
    }
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
        let has = |file: &str| Ok(read("blkio", file)?.is_some());
        writes.extend(block_io::writes_v1(block, &has)?);
    }
    let pages = resources.hugepage_limits().as_deref().unwrap_or_default();
    writes.extend(hugetlb::writes(pages, "limit_in_bytes", "-1")?);
    if let Some(network) = resources.network() {
        writes.extend(network::writes_v1(network)?);
    }
    if let Some(devices) = resources.rdma() {
        writes.extend(rdma::writes(devices)?);
    }
    Ok(writes)
}

fn add_cpu(cpu: &LinuxCpu, read: &Read<'_>, writes: &mut Vec<Write>) -> Result<(), StepError> {
    if let Some(cpus) = limits::list("cpu.cpus", cpu.cpus())? {
        writes.push(Write::new("cpuset", "cpuset.cpus", cpus));
    }
    if let Some(mems) = limits::list("cpu.mems", cpu.mems())? {
        writes.push(Write::new("cpuset", "cpuset.mems", mems));
    }
    // The kernel gives an idle group a share of its own and refuses another.
    if let Some(shares) = limits::shares(cpu).filter(|_| cpu.idle() != Some(1)) {
        writes.push(Write::new("cpu", "cpu.shares", shares));
    }
    writes.extend(cpu.idle().map(|idle| limits::zero_lifts("cpu.idle", idle)));
    add_realtime(cpu, writes)?;
    add_quota(cpu, read, writes)
}

fn add_realtime(cpu: &LinuxCpu, writes: &mut Vec<Write>) -> Result<(), StepError> {
    if let Some(period) = limits::positive(cpu.realtime_period()) {
        writes.push(Write::new("cpu", "cpu.rt_period_us", period));
    }
    if let Some(runtime) = limits::bound("cpu.realtimeRuntime", cpu.realtime_runtime())? {
        writes.push(Write::bound("cpu", "cpu.rt_runtime_us", runtime, "-1"));
    }
    Ok(())
}

/// Quota and period are two files, and a child's quota/period may never be above its parent's: of the two
/// half-way states the one with the smaller ratio comes first, which is never above both ends.
fn add_quota(cpu: &LinuxCpu, read: &Read<'_>, writes: &mut Vec<Write>) -> Result<(), StepError> {
    let quota = limits::bound("cpu.quota", cpu.quota())?
        .map(|bound| Write::bound("cpu", "cpu.cfs_quota_us", bound, "-1"));
    let period =
        limits::positive(cpu.period()).map(|period| Write::new("cpu", "cpu.cfs_period_us", period));
    const BURST: &str = "cpu.cfs_burst_us";
    let mut burst = cpu.burst().map(|burst| limits::zero_lifts(BURST, burst));
    if quota.is_some() && burst.is_some() {
        let now = read("cpu", BURST)?;
        writes.extend(burst.take_if(|burst| limits::burst_first(burst, now)));
    }
    let number = |file: &str| -> Result<Option<i128>, StepError> {
        Ok(read("cpu", file)?.and_then(|text| text.trim().parse().ok()))
    };
    let period_first = match (&quota, &period) {
        (Some(quota), Some(period)) => {
            let new_quota: i128 = quota.value.parse().unwrap_or(-1);
            let new_period: i128 = period.value.parse().unwrap_or(1);
            match number("cpu.cfs_quota_us")?.filter(|old| *old >= 0) {
                _ if new_quota < 0 => false,
                Some(old_quota) => match number("cpu.cfs_period_us")? {
                    // old_quota / new_period <= new_quota / old_period
                    Some(old_period) => {
                        old_quota.saturating_mul(old_period) <= new_quota.saturating_mul(new_period)
                    }
                    None => true,
                },
                None => true,
            }
        }
        _ => false,
    };
    if period_first {
        writes.extend(period.into_iter().chain(quota));
    } else {
        writes.extend(quota.into_iter().chain(period));
    }
    writes.extend(burst);
    Ok(())
}

fn add_memory(
    memory: &LinuxMemory,
    read: &Read<'_>,
    writes: &mut Vec<Write>,
) -> Result<(), StepError> {
    let memory = Memory::of(memory)?;
    add_limit_and_swap(&memory, read, writes)?;
    let bounds = [
        ("memory.soft_limit_in_bytes", memory.reservation),
        ("memory.kmem.tcp.limit_in_bytes", memory.kernel_tcp),
    ];
    for (file, bound) in bounds {
        writes.extend(bound.map(|bound| Write::bound("memory", file, bound, "-1")));
    }
    if let Some(swappiness) = memory.swappiness {
        writes.push(Write::new("memory", "memory.swappiness", swappiness));
    }
    const OOM: &str = "memory.oom_control";
    match memory.disable_oom_killer {
        Some(true) => writes.push(Write::new("memory", OOM, 1)),
        // Nearly every spec says so, and nearly every group has it so.
        Some(false) => {
            let now = read("memory", OOM)?.and_then(|text| value_of(&text, "oom_kill_disable"));
            writes.extend((now == Some(1)).then(|| Write::new("memory", OOM, 0)));
        }
        None => {}
    }
    // `checkBeforeUpdate` needs nothing: v1 itself refuses a limit below what is used (EBUSY).
    Ok(())
}

/// The kernel keeps `limit <= memsw.limit` at every moment: the order depends on the direction.
fn add_limit_and_swap(
    memory: &Memory,
    read: &Read<'_>,
    writes: &mut Vec<Write>,
) -> Result<(), StepError> {
    const SWAP: &str = "memory.memsw.limit_in_bytes";
    let swap = match (memory.limit, memory.swap) {
        (Some(Bound::Unlimited), None) => Some(Bound::Unlimited),
        (_, swap) => swap,
    };
    let limit = memory
        .limit
        .map(|bound| Write::bound("memory", "memory.limit_in_bytes", bound, "-1"));
    let swap = swap.map(|bound| Write::bound("memory", SWAP, bound, "-1"));
    let swap_first = match memory.limit {
        Some(Bound::Unlimited) => true,
        Some(Bound::At(limit)) if swap.is_some() => {
            let now = read("memory", SWAP)?.and_then(|text| text.trim().parse::<u64>().ok());
            now.is_some_and(|now| limit > now)
        }
        _ => false,
    };
    if swap_first {
        writes.extend(swap.into_iter().chain(limit));
    } else {
        writes.extend(limit.into_iter().chain(swap));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    fn check(json: &str, now: &[(&str, &str)], expected: Expect) {
        let resources: LinuxResources = serde_json::from_str(json).unwrap();
        let read = |_: &str, file: &str| {
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
    fn every_supported_limit_has_its_file() {
        check(
            r#"{"cpu":{"shares":512,"quota":50000,"period":100000,"cpus":"0-1","mems":"0"},
                "memory":{"limit":67108864,"reservation":33554432,"swap":134217728},
                "pids":{"limit":100}}"#,
            &[
                ("cpu.cfs_quota_us", "-1"),
                ("cpu.cfs_period_us", "100000"),
                ("memory.memsw.limit_in_bytes", "9223372036854771712"),
            ],
            expect![[r#"
                cpuset.cpus = 0-1
                cpuset.mems = 0
                cpu.shares = 512
                cpu.cfs_period_us = 100000
                cpu.cfs_quota_us = 50000
                memory.limit_in_bytes = 67108864
                memory.memsw.limit_in_bytes = 134217728
                memory.soft_limit_in_bytes = 33554432
                pids.max = 100
            "#]],
        );
    }

    #[test]
    fn swap_is_raised_before_memory() {
        check(
            r#"{"memory":{"limit":200,"swap":300}}"#,
            &[("memory.memsw.limit_in_bytes", "100")],
            expect![[r#"
                memory.memsw.limit_in_bytes = 300
                memory.limit_in_bytes = 200
            "#]],
        );
    }

    #[test]
    fn lifting_memory_lifts_swap() {
        check(
            r#"{"memory":{"limit":-1}}"#,
            &[("memory.memsw.limit_in_bytes", "100")],
            expect![[r#"
                memory.memsw.limit_in_bytes = -1
                memory.limit_in_bytes = -1
            "#]],
        );
    }

    #[test]
    fn the_half_way_state_with_the_smaller_ratio_comes_first() {
        // From 20/100 to 50/50: 20/50 and 50/100 are the half-way states.
        check(
            r#"{"cpu":{"quota":50000,"period":50000}}"#,
            &[
                ("cpu.cfs_quota_us", "20000"),
                ("cpu.cfs_period_us", "100000"),
            ],
            expect![[r#"
                cpu.cfs_period_us = 50000
                cpu.cfs_quota_us = 50000
            "#]],
        );
        // From 50/50 to 20/100: 20/50 and 50/100.
        check(
            r#"{"cpu":{"quota":20000,"period":100000}}"#,
            &[
                ("cpu.cfs_quota_us", "50000"),
                ("cpu.cfs_period_us", "50000"),
            ],
            expect![[r#"
                cpu.cfs_quota_us = 20000
                cpu.cfs_period_us = 100000
            "#]],
        );
    }

    #[test]
    fn zeros_and_empty_objects_mean_not_given() {
        check(
            r#"{"cpu":{"shares":0,"quota":0,"period":0,"cpus":""},"memory":{"limit":0},
                "blockIO":{"weight":0},"hugepageLimits":[],"network":{},"rdma":{},"unified":{}}"#,
            &[],
            expect![""],
        );
    }

    #[test]
    fn what_cannot_be_enforced_is_refused_by_name() {
        check(
            r#"{"unified":{"memory.high":"1"}}"#,
            &[],
            expect![[r#"
                apply limit linux.resources.unified: its keys are files of cgroup v2, and this host is v1
            "#]],
        );
        check(
            r#"{"memory":{"limit":200,"swap":100}}"#,
            &[],
            expect![[r#"
                apply limit memory.swap: swap counts memory and swap together, and is below memory.limit 200
            "#]],
        );
        check(
            r#"{"memory":{"limit":-5}}"#,
            &[],
            expect![[r#"
                apply limit memory.limit: -5 is no limit: give a positive number, or -1 for none
            "#]],
        );
        check(
            r#"{"cpu":{"cpus":"0\n1"}}"#,
            &[],
            expect![[r#"
                apply limit cpu.cpus: "0\n1" is no list such as 0-2,7
            "#]],
        );
    }

    #[test]
    fn every_other_controller_has_its_file_too() {
        check(
            r#"{"blockIO":{"weight":500,"leafWeight":100,
                    "weightDevice":[{"major":8,"minor":0,"weight":300,"leafWeight":20}],
                    "throttleReadBpsDevice":[{"major":8,"minor":0,"rate":1000}],
                    "throttleWriteIOPSDevice":[{"major":8,"minor":16,"rate":0}]},
                "hugepageLimits":[{"pageSize":"2MB","limit":0},{"pageSize":"1GB","limit":-1}],
                "network":{"classID":1048577,"priorities":[{"name":"eth0","priority":5}]},
                "rdma":{"mlx5_1":{"hcaHandles":3,"hcaObjects":10000},"mlx4_0":{"hcaObjects":7}}}"#,
            &[],
            expect![[r#"
                blkio.weight = 500
                blkio.weight_device = 8:0 300
                blkio.leaf_weight = 100
                blkio.leaf_weight_device = 8:0 20
                blkio.throttle.read_bps_device = 8:0 1000
                blkio.throttle.write_iops_device = 8:16 0
                hugetlb.2MB.limit_in_bytes = 0
                hugetlb.2MB.rsvd.limit_in_bytes = 0
                hugetlb.1GB.limit_in_bytes = -1
                hugetlb.1GB.rsvd.limit_in_bytes = -1
                net_cls.classid = 1048577
                net_prio.ifpriomap = eth0 5
                rdma.max = mlx4_0 hca_object=7
                rdma.max = mlx5_1 hca_handle=3 hca_object=10000
            "#]],
        );
    }

    #[test]
    fn weights_go_to_the_scheduler_that_is_there() {
        check(
            r#"{"blockIO":{"weight":500,"weightDevice":[{"major":8,"minor":0,"weight":300}]}}"#,
            &[("blkio.bfq.weight", "100")],
            expect![[r#"
                blkio.bfq.weight = 500
                blkio.bfq.weight_device = 8:0 300
            "#]],
        );
    }

    #[test]
    fn a_burst_that_shrinks_comes_before_the_quota() {
        for now in ["90000", "100"] {
            check(
                r#"{"cpu":{"quota":20000,"burst":10000}}"#,
                &[("cpu.cfs_burst_us", now)],
                match now {
                    "90000" => expect![[r#"
                        cpu.cfs_burst_us = 10000
                        cpu.cfs_quota_us = 20000
                    "#]],
                    _ => expect![[r#"
                        cpu.cfs_quota_us = 20000
                        cpu.cfs_burst_us = 10000
                    "#]],
                },
            );
        }
    }

    #[test]
    fn an_idle_group_has_no_shares_of_its_own() {
        check(
            r#"{"cpu":{"shares":512,"idle":1}}"#,
            &[],
            expect![[r#"
            cpu.idle = 1
        "#]],
        );
    }

    #[test]
    fn the_oom_killer_is_left_alone_where_it_is_on() {
        for disabled in ["0", "1"] {
            check(
                r#"{"memory":{"disableOOMKiller":false}}"#,
                &[(
                    "memory.oom_control",
                    &format!("oom_kill_disable {disabled}\nunder_oom 0\n"),
                )],
                match disabled {
                    "0" => expect![[r#""#]],
                    _ => expect![[r#"
                        memory.oom_control = 0
                    "#]],
                },
            );
        }
        check(
            r#"{"memory":{"disableOOMKiller":true,"kernel":9,"swap":700}}"#,
            &[],
            expect![[r#"
                memory.memsw.limit_in_bytes = 700
                memory.oom_control = 1
            "#]],
        );
    }

    #[test]
    fn values_that_are_no_limits_are_refused() {
        for (json, expected) in [
            (
                r#"{"blockIO":{"weight":5}}"#,
                expect![[r#"
                apply limit blockIO.weight: 5 is not between 10 and 1000
            "#]],
            ),
            (
                r#"{"blockIO":{"throttleReadBpsDevice":[{"major":-8,"minor":0,"rate":1}]}}"#,
                expect![[r#"
                    apply limit blockIO.throttleReadBpsDevice: -8:0 is no device number
                "#]],
            ),
            (
                r#"{"hugepageLimits":[{"pageSize":"2MB/../x","limit":0}]}"#,
                expect![[r#"
                    apply limit hugepageLimits "2MB/../x": it is no page size such as 64KB, 2MB or 1GB (/sys/kernel/mm/hugepages)
                "#]],
            ),
            (
                r#"{"hugepageLimits":[{"pageSize":"2MB","limit":-2}]}"#,
                expect![[r#"
                    apply limit hugepageLimits 2MB: -2 is no limit: give a number of bytes, or -1 for none
                "#]],
            ),
            (
                r#"{"network":{"priorities":[{"name":"a b","priority":1}]}}"#,
                expect![[r#"
                    apply limit network.priorities "a b": it is no name of a network interface
                "#]],
            ),
            (
                r#"{"rdma":{"a\nb":{"hcaObjects":1}}}"#,
                expect![[r#"
                apply limit rdma "a\nb": it is no name of an RDMA device (/sys/class/infiniband)
            "#]],
            ),
        ] {
            check(json, &[], expected);
        }
    }
}
