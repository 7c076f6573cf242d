//! The limits of a task's cgroup and of a container's cgroup below it.

use longshore_engine::{ContainerSpec, TaskSpec};
use oci_spec::runtime::{
    LinuxCpu, LinuxDeviceCgroup, LinuxDeviceType, LinuxMemory, LinuxPids, LinuxResources,
};

/// Microseconds over which a task's CPU quota is counted.
const PERIOD: u64 = 100_000;
/// The kernel's smallest quota, in microseconds.
const LEAST_QUOTA: u64 = 1_000;
/// The kernel's smallest and largest `cpu.shares`; ECS counts 0 as the smallest.
const SHARES: std::ops::RangeInclusive<u64> = 2..=262_144;
/// Processes and threads of one task; of one container the same, so that a fork bomb meets the first
/// bound in its own cgroup. ECS has one such number for each host (ECS_TASK_PIDS_LIMIT).
const PIDS: i64 = 4096;

/// Docker's rules besides the default deny: make any node, use these few. Without its 5:1: with CAP_MKNOD, which
/// every container has, that is the host's own console.
const DEVICES: [(LinuxDeviceType, Option<i64>, Option<i64>, &str); 10] = [
    (LinuxDeviceType::C, None, None, "m"),
    (LinuxDeviceType::B, None, None, "m"),
    (LinuxDeviceType::C, Some(1), Some(3), "rwm"), // null
    (LinuxDeviceType::C, Some(1), Some(5), "rwm"), // zero
    (LinuxDeviceType::C, Some(1), Some(7), "rwm"), // full
    (LinuxDeviceType::C, Some(1), Some(8), "rwm"), // random
    (LinuxDeviceType::C, Some(1), Some(9), "rwm"), // urandom
    (LinuxDeviceType::C, Some(5), Some(0), "rwm"), // tty
    (LinuxDeviceType::C, Some(5), Some(2), "rwm"), // ptmx
    (LinuxDeviceType::C, Some(136), None, "rwm"),  // pts
];

/// The task's own limits: a hard quota and a hard memory limit where the task has a size. Its weight
/// among the host's tasks is its size or the sum over its containers.
pub(crate) fn of_task(task: &TaskSpec) -> LinuxResources {
    let mut cpu = LinuxCpu::default();
    let of_containers = || {
        task.containers
            .iter()
            .map(|c| u64::from(c.cpu.max(2)))
            .sum()
    };
    cpu.set_shares(Some(shares(task.cpu.map_or_else(of_containers, u64::from))));
    if let Some(units) = task.cpu {
        let quota = (u64::from(units) * PERIOD / 1024).max(LEAST_QUOTA);
        cpu.set_quota(i64::try_from(quota).ok())
            .set_period(Some(PERIOD));
    }
    let mut memory = LinuxMemory::default();
    memory.set_limit(task.memory.map(bytes));
    let mut resources = LinuxResources::default();
    resources
        .set_cpu(Some(cpu))
        .set_memory(task.memory.map(|_| memory))
        .set_pids(Some(pids()));
    resources
}

/// A container's limits: a weight among its siblings, hard and soft memory limits, and devices.
pub(super) fn of_container(container: &ContainerSpec) -> LinuxResources {
    let mut cpu = LinuxCpu::default();
    cpu.set_shares(Some(shares(u64::from(container.cpu))));
    let mut memory = LinuxMemory::default();
    memory
        .set_limit(container.memory.map(bytes))
        .set_reservation(container.memory_reservation.map(bytes));
    let limited = container.memory.is_some() || container.memory_reservation.is_some();
    let mut resources = LinuxResources::default();
    resources
        .set_devices(Some(devices(container.privileged)))
        .set_cpu(Some(cpu))
        .set_memory(limited.then_some(memory))
        .set_pids(Some(pids()));
    resources
}

fn devices(privileged: bool) -> Vec<LinuxDeviceCgroup> {
    let mut everything = LinuxDeviceCgroup::default();
    everything
        .set_allow(privileged)
        .set_access(Some("rwm".to_owned()));
    let mut rules = vec![everything];
    if !privileged {
        rules.extend(DEVICES.map(|(typ, major, minor, access)| {
            let mut rule = LinuxDeviceCgroup::default();
            rule.set_allow(true)
                .set_typ(Some(typ))
                .set_major(major)
                .set_minor(minor)
                .set_access(Some(access.to_owned()));
            rule
        }));
    }
    rules
}

fn pids() -> LinuxPids {
    let mut pids = LinuxPids::default();
    pids.set_limit(PIDS);
    pids
}

fn shares(units: u64) -> u64 {
    units.clamp(*SHARES.start(), *SHARES.end())
}

fn bytes(mib: u64) -> i64 {
    i64::try_from(mib.saturating_mul(1 << 20)).unwrap_or(i64::MAX)
}
