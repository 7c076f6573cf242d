//! Every limit of `linux.resources` in its control file, when a container is made and after an update, on whichever
//! version of cgroups the host has. A file that the kernel does not offer is named and passed over.

#[path = "support/groups.rs"]
mod groups;
#[path = "support/skip.rs"]
mod skip;

use std::path::{Path, PathBuf};

use groups::{PATIENCE, Top, host, resources};
use longshore_runtime::cgroup::{ContainerGroup, Group, Location};
use skip::skip;

/// A resource object with two values, and what one file of the group says for each of them. No file: not in this
/// version.
struct Row {
    given: &'static str,
    values: [&'static str; 2],
    v1: Option<(&'static str, [&'static str; 2])>,
    v2: Option<(&'static str, [&'static str; 2])>,
}

const fn row(
    given: &'static str,
    values: [&'static str; 2],
    v1: Option<(&'static str, [&'static str; 2])>,
    v2: Option<(&'static str, [&'static str; 2])>,
) -> Row {
    Row {
        given,
        values,
        v1,
        v2,
    }
}

/// `@` in an object stands for the value, `DISK` for a block device's numbers.
const ROWS: [Row; 30] = [
    row(
        r#"{"cpu":{"shares":@}}"#,
        ["512", "1024"],
        Some(("cpu.shares", ["512", "1024"])),
        Some(("cpu.weight", ["59", "100"])),
    ),
    row(
        r#"{"cpu":{"quota":@,"period":50000}}"#,
        ["20000", "-1"],
        Some(("cpu.cfs_quota_us", ["20000", "-1"])),
        Some(("cpu.max", ["20000 50000", "max 50000"])),
    ),
    row(
        r#"{"cpu":{"period":@}}"#,
        ["50000", "20000"],
        Some(("cpu.cfs_period_us", ["50000", "20000"])),
        Some(("cpu.max", ["max 50000", "max 20000"])),
    ),
    row(
        r#"{"cpu":{"quota":20000,"period":50000,"burst":@}}"#,
        ["10000", "0"],
        Some(("cpu.cfs_burst_us", ["10000", "0"])),
        Some(("cpu.max.burst", ["10000", "0"])),
    ),
    row(
        r#"{"cpu":{"idle":@}}"#,
        ["1", "0"],
        Some(("cpu.idle", ["1", "0"])),
        Some(("cpu.idle", ["1", "0"])),
    ),
    row(
        r#"{"cpu":{"cpus":"@"}}"#,
        ["0-1", "0"],
        Some(("cpuset.cpus", ["0-1", "0"])),
        Some(("cpuset.cpus", ["0-1", "0"])),
    ),
    row(
        r#"{"cpu":{"mems":"@"}}"#,
        ["0", "0"],
        Some(("cpuset.mems", ["0", "0"])),
        Some(("cpuset.mems", ["0", "0"])),
    ),
    row(
        r#"{"memory":{"limit":@}}"#,
        ["67108864", "-1"],
        Some(("memory.limit_in_bytes", ["67108864", "9223372036854771712"])),
        Some(("memory.max", ["67108864", "max"])),
    ),
    row(
        r#"{"memory":{"reservation":@}}"#,
        ["33554432", "16777216"],
        Some(("memory.soft_limit_in_bytes", ["33554432", "16777216"])),
        Some(("memory.low", ["33554432", "16777216"])),
    ),
    row(
        r#"{"memory":{"limit":67108864,"swap":@}}"#,
        ["134217728", "67108864"],
        Some(("memory.memsw.limit_in_bytes", ["134217728", "67108864"])),
        Some(("memory.swap.max", ["67108864", "0"])),
    ),
    row(
        r#"{"memory":{"swappiness":@}}"#,
        ["10", "90"],
        Some(("memory.swappiness", ["10", "90"])),
        None,
    ),
    row(
        r#"{"memory":{"disableOOMKiller":@}}"#,
        ["true", "false"],
        Some((
            "memory.oom_control",
            ["oom_kill_disable 1", "oom_kill_disable 0"],
        )),
        None,
    ),
    row(
        r#"{"memory":{"limit":67108864,"kernelTCP":@}}"#,
        ["67108864", "-1"],
        Some((
            "memory.kmem.tcp.limit_in_bytes",
            ["67108864", "9223372036854771712"],
        )),
        None,
    ),
    row(
        r#"{"pids":{"limit":@}}"#,
        ["33", "-1"],
        Some(("pids.max", ["33", "max"])),
        Some(("pids.max", ["33", "max"])),
    ),
    row(
        r#"{"blockIO":{"weight":@}}"#,
        ["500", "100"],
        Some(("blkio.bfq.weight", ["500", "100"])),
        Some(("io.bfq.weight", ["default 500", "default 100"])),
    ),
    row(
        r#"{"blockIO":{"weight":@}}"#,
        ["500", "10"],
        None,
        Some(("io.weight", ["default 4950", "default 1"])),
    ),
    row(
        r#"{"blockIO":{"throttleReadBpsDevice":[{DISK,"rate":@}]}}"#,
        ["1048576", "2097152"],
        Some(("blkio.throttle.read_bps_device", [" 1048576", " 2097152"])),
        Some(("io.max", ["rbps=1048576", "rbps=2097152"])),
    ),
    row(
        r#"{"blockIO":{"throttleWriteBpsDevice":[{DISK,"rate":@}]}}"#,
        ["1048576", "2097152"],
        Some(("blkio.throttle.write_bps_device", [" 1048576", " 2097152"])),
        Some(("io.max", ["wbps=1048576", "wbps=2097152"])),
    ),
    row(
        r#"{"blockIO":{"throttleReadIOPSDevice":[{DISK,"rate":@}]}}"#,
        ["1000", "2000"],
        Some(("blkio.throttle.read_iops_device", [" 1000", " 2000"])),
        Some(("io.max", ["riops=1000", "riops=2000"])),
    ),
    row(
        r#"{"blockIO":{"throttleWriteIOPSDevice":[{DISK,"rate":@}]}}"#,
        ["1000", "2000"],
        Some(("blkio.throttle.write_iops_device", [" 1000", " 2000"])),
        Some(("io.max", ["wiops=1000", "wiops=2000"])),
    ),
    row(
        r#"{"hugepageLimits":[{"pageSize":"2MB","limit":@}]}"#,
        ["4194304", "2097152"],
        Some(("hugetlb.2MB.limit_in_bytes", ["4194304", "2097152"])),
        Some(("hugetlb.2MB.max", ["4194304", "2097152"])),
    ),
    row(
        r#"{"network":{"classID":@}}"#,
        ["1048577", "1048578"],
        Some(("net_cls.classid", ["1048577", "1048578"])),
        None,
    ),
    row(
        r#"{"network":{"priorities":[{"name":"lo","priority":@}]}}"#,
        ["5", "6"],
        Some(("net_prio.ifpriomap", ["lo 5", "lo 6"])),
        None,
    ),
    row(
        r#"{"unified":{"memory.high":"@"}}"#,
        ["33554432", "max"],
        None,
        Some(("memory.high", ["33554432", "max"])),
    ),
    row(
        r#"{"unified":{"memory.min":"@"}}"#,
        ["4194304", "0"],
        None,
        Some(("memory.min", ["4194304", "0"])),
    ),
    row(
        r#"{"unified":{"memory.oom.group":"@"}}"#,
        ["1", "0"],
        None,
        Some(("memory.oom.group", ["1", "0"])),
    ),
    row(
        r#"{"unified":{"cpu.weight.nice":"@"}}"#,
        ["5", "0"],
        None,
        Some(("cpu.weight.nice", ["5", "0"])),
    ),
    row(
        r#"{"unified":{"pids.max":"@"}}"#,
        ["12", "max"],
        None,
        Some(("pids.max", ["12", "max"])),
    ),
    row(
        r#"{"unified":{"cgroup.max.descendants":"@"}}"#,
        ["7", "max"],
        None,
        Some(("cgroup.max.descendants", ["7", "max"])),
    ),
    row(
        r#"{"unified":{"cpuset.cpus.partition":"@"}}"#,
        ["member", "member"],
        None,
        Some(("cpuset.cpus.partition", ["member", "member"])),
    ),
];

/// Where a file of the group is, in whatever hierarchy; None: this kernel has none.
fn find(group: &Group, name: &str) -> Option<PathBuf> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mut paths = text
        .lines()
        .filter(|line| line.contains(" - cgroup"))
        .filter_map(|line| line.split(' ').nth(4))
        .map(|point| Path::new(point).join(group.path()).join(name));
    paths.find(|path| path.exists())
}

fn disk() -> Option<String> {
    std::fs::read_dir("/sys/block").ok()?.find_map(|entry| {
        let text = std::fs::read_to_string(entry.ok()?.path().join("dev")).ok()?;
        let (major, minor) = text.trim().split_once(':')?;
        Some(format!(r#""major":{major},"minor":{minor}"#))
    })
}

fn made(top: &Top, name: &str) -> ContainerGroup {
    let path = format!("{}/{name}", top.group.path());
    let optional = false;
    ContainerGroup::open(&Location::Path { path, optional }).unwrap()
}

#[test]
#[ignore = "needs root"]
fn every_limit_stands_in_its_file_when_it_is_given_and_after_an_update() {
    let top = Top::new(host());
    let probe = made(&top, "probe");
    probe.prepare(None).unwrap();
    let disk = disk();
    let mut wrong = Vec::new();
    for (number, row) in ROWS.iter().enumerate() {
        let version = match top.hierarchy.is_v2() {
            true => &row.v2,
            false => &row.v1,
        };
        let Some((file, wanted)) = version else {
            continue;
        };
        if find(probe.group().unwrap(), file).is_none() {
            skip(&format!("{} (this kernel has no {file})", row.given));
            continue;
        }
        if row.given.contains("DISK") && disk.is_none() {
            skip(&format!("{} (no block device)", row.given));
            continue;
        }
        let json = |value: &str| {
            let text = row.given.replace('@', value);
            resources(&text.replace("DISK", disk.as_deref().unwrap_or_default()))
        };
        let container = made(&top, &format!("c{number}"));
        let group = container.group().unwrap();
        let says = |wanted: &str| {
            let text = std::fs::read_to_string(find(group, file).unwrap()).unwrap();
            let fits = text.lines().any(|line| line == wanted)
                || (wanted.starts_with(' ') || wanted.contains('=')) && text.contains(wanted);
            (!fits).then(|| format!("{}: {file} is {text:?} and not {wanted:?}", row.given))
        };
        let mut act = |done: Result<(), longshore_runtime::StepError>, wanted: &str| match done {
            Ok(()) => wrong.extend(says(wanted)),
            Err(error) => wrong.push(format!("{}: {error}", row.given)),
        };
        act(container.prepare(Some(&json(row.values[0]))), wanted[0]);
        act(container.update(&json(row.values[1])), wanted[1]);
        container.end(PATIENCE).unwrap();
    }
    probe.end(PATIENCE).unwrap();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// What one version has and the other has not is refused by name.
#[test]
#[ignore = "needs root"]
fn a_limit_of_the_other_version_is_refused_by_name() {
    let top = Top::new(host());
    let container = made(&top, "c");
    let refused: &[(&str, &str)] = match top.hierarchy.is_v2() {
        true => &[
            (r#"{"memory":{"swappiness":10}}"#, "swappiness"),
            (
                r#"{"memory":{"disableOOMKiller":true}}"#,
                "disableOOMKiller",
            ),
            (r#"{"network":{"classID":7}}"#, "network"),
            (r#"{"cpu":{"realtimeRuntime":7}}"#, "realtime"),
            (r#"{"unified":{"nothing.max":"1"}}"#, "nothing"),
        ],
        false => &[(r#"{"unified":{"memory.high":"100"}}"#, "unified")],
    };
    for (json, words) in refused {
        let error = container.prepare(Some(&resources(json))).unwrap_err();
        assert!(error.to_string().contains(words), "{json}: {error}");
        container.end(PATIENCE).unwrap();
    }
}

/// A task's group holds the containers' groups: its limits hold for all of them, and it counts them together.
#[test]
#[ignore = "needs root"]
fn a_group_of_containers_limits_and_counts_them_together() {
    let top = Top::new(host());
    let task = made(&top, "task");
    task.prepare(Some(&resources(
        r#"{"pids":{"limit":2},"memory":{"limit":67108864}}"#,
    )))
    .unwrap();
    let containers = ["task/a", "task/b"].map(|name| made(&top, name));
    let shells = containers.each_ref().map(|container| {
        container
            .prepare(Some(&resources(r#"{"pids":{"limit":9}}"#)))
            .unwrap();
        groups::Shell::within(container.group().unwrap(), "/bin/true; exit $?")
    });
    let all = task.statistics(None).unwrap();
    assert_eq!((all.pids.current, all.pids.limit), (2, 2));
    // There is no third process; when one of the two has gone, there is.
    let [first, second] = shells;
    assert_ne!(first.end().code(), Some(0));
    assert_eq!(second.end().code(), Some(0));
    task.freeze(PATIENCE).unwrap();
    task.thaw().unwrap();
    containers[0].end(PATIENCE).unwrap();
    assert!(containers[1].group().unwrap().exists());
    task.end(PATIENCE).unwrap();
    assert!(!containers[1].group().unwrap().exists());
}
