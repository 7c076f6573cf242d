//! Resource objects, and the writes that follow.

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
