//! Controllers beyond CPU, memory and processes, and freezing, on the real kernel. What this host does not have is
//! tested for its refusal.

#[path = "support/groups.rs"]
mod groups;
#[path = "support/skip.rs"]
mod skip;

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};

use groups::{PATIENCE, Shell, Top, both, host, resources};
use longshore_runtime::cgroup::{ContainerGroup, Freeze, Group, Location};
use skip::skip;

/// Where a file of the group is, in whatever hierarchy.
fn find(group: &Group, name: &str) -> Option<PathBuf> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let points = text
        .lines()
        .filter(|line| line.contains(" - cgroup"))
        .filter_map(|line| line.split(' ').nth(4));
    points
        .map(|point| Path::new(point).join(group.path()).join(name))
        .find(|path| path.exists())
}

fn read(group: &Group, name: &str) -> Option<String> {
    find(group, name).map(|path| std::fs::read_to_string(path).unwrap())
}

fn page_size() -> Option<String> {
    let mut pages = std::fs::read_dir("/sys/kernel/mm/hugepages").ok()?;
    let name = pages.next()?.unwrap().file_name().into_string().unwrap();
    let kib: u64 = name
        .strip_prefix("hugepages-")?
        .strip_suffix("kB")?
        .parse()
        .ok()?;
    Some(match kib {
        _ if kib >= 1 << 20 => format!("{}GB", kib >> 20),
        _ if kib >= 1 << 10 => format!("{}MB", kib >> 10),
        _ => format!("{kib}KB"),
    })
}

#[test]
#[ignore = "needs root"]
fn huge_pages_are_limited_also_where_only_the_v2_mount_of_a_hybrid_host_can() {
    let Some(size) = page_size() else {
        return skip("the kernel has no huge pages");
    };
    let top = Top::new(host());
    let group = top.child("c");
    let shell = Shell::within(&group, "exit 5");
    let given = |limit: i64| {
        resources(&format!(
            r#"{{"hugepageLimits":[{{"pageSize":"{size}","limit":{limit}}}]}}"#
        ))
    };
    match group.apply(&given(4 << 30)) {
        Ok(()) => {}
        Err(error) => {
            assert!(error.cause.contains("hugetlb"), "{error}");
            return skip("no hierarchy has the hugetlb controller");
        }
    }
    let text = read(&group, &format!("hugetlb.{size}.max"))
        .or_else(|| read(&group, &format!("hugetlb.{size}.limit_in_bytes")));
    assert_eq!(text.as_deref().map(str::trim), Some("4294967296"));
    // Whoever was in the group before is in the directory that the limit asked for, and so is who comes later.
    let later = Shell::within(&group, "exit 6");
    for shell in [&shell, &later] {
        let groups = std::fs::read_to_string(format!("/proc/{}/cgroup", shell.0.id())).unwrap();
        let here = groups.lines().filter(|line| line.ends_with(group.path()));
        assert_eq!(here.count(), groups.lines().count(), "{groups}");
    }
    assert_eq!(shell.end().code(), Some(5));
    assert_eq!(later.end().code(), Some(6));
    top.group.kill(PATIENCE).unwrap();
    top.group.remove().unwrap();
    assert!(!top.group.exists());
}

#[test]
#[ignore = "needs root"]
fn a_device_s_ceiling_stands_in_its_file_and_zero_lifts_it() {
    let disk = std::fs::read_dir("/sys/block").unwrap().find_map(|entry| {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(path.join("dev")).ok()?;
        Some(text.trim().to_owned())
    });
    let Some(disk) = disk else {
        return skip("there is no block device");
    };
    let (major, minor) = disk.split_once(':').unwrap();
    let top = Top::new(host());
    let group = top.child("c");
    let given = |rate: u64| {
        resources(&format!(
            r#"{{"blockIO":{{"throttleReadBpsDevice":[{{"major":{major},"minor":{minor},"rate":{rate}}}]}}}}"#
        ))
    };
    let now = || {
        read(&group, "blkio.throttle.read_bps_device").unwrap_or_else(|| {
            let text = read(&group, "io.max").unwrap();
            text.replace("rbps=", "")
                .replace(" wbps=max riops=max wiops=max", "")
        })
    };
    group.apply(&given(1_048_576)).unwrap();
    assert_eq!(now().trim(), format!("{disk} 1048576"));
    group.apply(&given(0)).unwrap();
    assert_eq!(now().trim(), "");

    let missing = r#"{"blockIO":{"throttleReadBpsDevice":[{"major":241,"minor":9,"rate":1}]}}"#;
    let error = group.apply(&resources(missing)).unwrap_err();
    assert!(error.cause.contains("no such block device"), "{error}");
}

#[test]
#[ignore = "needs root"]
fn a_controller_that_the_host_lacks_is_a_named_refusal_and_nothing_if_not_asked() {
    let top = Top::new(host());
    let group = top.child("c");
    group
        .apply(&resources(
            r#"{"network":{},"rdma":{},"hugepageLimits":[],"blockIO":{}}"#,
        ))
        .unwrap();
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    if host().is_v2() || text.contains("net_cls") || text.contains(",rdma") {
        return skip("the host has these controllers");
    }
    for (json, name) in [
        (r#"{"network":{"classID":1048577}}"#, "net"),
        (r#"{"rdma":{"mlx5_1":{"hcaHandles":3}}}"#, "rdma"),
    ] {
        let error = group.apply(&resources(json)).unwrap_err();
        assert!(error.to_string().contains(name), "{error}");
    }
}

#[test]
#[ignore = "needs root"]
fn a_frozen_group_stands_still_and_goes_on_when_it_is_thawed() {
    for hierarchy in both() {
        let top = Top::new(hierarchy);
        let group = top.child("c");
        let mut shell = Shell::within(&group, "exit 5");
        assert_eq!(group.freeze_state().unwrap(), Freeze::Thawed);
        for _ in 0..2 {
            group.freeze(PATIENCE).unwrap();
            assert_eq!(group.freeze_state().unwrap(), Freeze::Frozen);
        }
        // A group below one that is frozen is not frozen by itself: thawing it would not help.
        let inner = top.hierarchy.group(&format!("{}/i", group.path())).unwrap();
        if !top.hierarchy.is_v2() {
            inner.create().unwrap();
            assert_eq!(inner.freeze_state().unwrap(), Freeze::Thawed);
        }
        shell.go();
        // Those that are told later and may run have ended, one after the other, and it has not.
        for _ in 0..20 {
            assert_eq!(Shell::new("exit 6").end().code(), Some(6));
        }
        assert!(shell.0.try_wait().unwrap().is_none());
        for _ in 0..2 {
            group.thaw().unwrap();
            assert_eq!(group.freeze_state().unwrap(), Freeze::Thawed);
        }
        assert_eq!(shell.fate().code(), Some(5));
    }
}

#[test]
#[ignore = "needs root"]
fn a_frozen_group_is_killed() {
    for hierarchy in both() {
        let top = Top::new(hierarchy);
        let group = top.child("c");
        let shell = Shell::within(&group, "sleep 1000");
        group.freeze(PATIENCE).unwrap();
        group.kill(PATIENCE).unwrap();
        assert_eq!(shell.fate().signal(), Some(9));
        group.remove().unwrap();
    }
}

/// A group that is made and undone as a container's.
struct Made(ContainerGroup);

impl Made {
    fn below(top: &Top, name: &str) -> Made {
        let path = format!("{}/{name}", top.group.path());
        let optional = false;
        Made(ContainerGroup::open(&Location::Path { path, optional }).unwrap())
    }
}

#[test]
#[ignore = "needs root"]
fn a_container_without_a_device_list_gets_its_terminal_and_no_disk() {
    let top = Top::new(host());
    let Made(made) = Made::below(&top, "c");
    made.refuse_occupied().unwrap();
    made.prepare(None).unwrap();
    let group = made.group().unwrap();
    let opens = |device: &str| {
        let script = format!("exec < {device} && exit 7");
        Shell::within(group, &script).end().code() == Some(7)
    };
    assert!(opens("/dev/null") && opens("/dev/urandom"));
    let others = [
        "/dev/kmsg",
        "/dev/loop0",
        "/dev/net/tun",
        "/dev/vda",
        "/dev/sda",
    ];
    let reachable = |path: &&&str| std::fs::File::open(path).is_ok();
    let other = others.iter().find(reachable);
    let other = other.expect("a device that every host has");
    assert!(!opens(other), "{other}");
    made.kill(PATIENCE).unwrap();
    made.remove().unwrap();
    assert!(!group.exists());
}

#[test]
#[ignore = "needs root"]
fn a_group_that_is_occupied_or_frozen_is_refused() {
    let top = Top::new(host());
    let Made(made) = Made::below(&top, "c");
    made.prepare(None).unwrap();
    made.refuse_occupied().unwrap();
    made.freeze(PATIENCE).unwrap();
    assert!(made.refuse_occupied().unwrap_err().cause.contains("frozen"));
    made.thaw().unwrap();
    let shell = Shell::within(made.group().unwrap(), "sleep 1000");
    let error = made.refuse_occupied().unwrap_err();
    assert!(error.cause.contains("another container"), "{error}");
    made.kill(PATIENCE).unwrap();
    assert_eq!(shell.fate().signal(), Some(9));
}

/// Waits until the descriptor is readable.
fn wait_for(fd: std::os::fd::BorrowedFd<'_>) {
    let mut fds = [rustix::event::PollFd::from_borrowed_fd(
        fd,
        rustix::event::PollFlags::IN,
    )];
    let patience = rustix::event::Timespec {
        tv_sec: 20,
        tv_nsec: 0,
    };
    let ready = rustix::event::poll(&mut fds, Some(&patience)).unwrap();
    assert_eq!(ready, 1, "nothing was heard");
}

#[test]
#[ignore = "needs root"]
fn an_oom_kill_is_heard_once_and_without_asking() {
    let top = Top::new(host());
    let group = top.child("c");
    group
        .apply(&resources(
            r#"{"memory":{"limit":16777216,"swap":16777216}}"#,
        ))
        .unwrap();
    let hungry = "exec dd if=/dev/zero of=/dev/null bs=64M count=1";
    // One before the watch begins is none of its business.
    assert_eq!(Shell::within(&group, hungry).end().signal(), Some(9));
    let mut watch = group.oom_watch().unwrap();
    assert_eq!(watch.look().unwrap(), 0);
    let shell = Shell::within(&group, hungry);
    let ended = std::thread::spawn(move || shell.end());
    wait_for(std::os::fd::AsFd::as_fd(&watch));
    let mut heard = watch.look().unwrap();
    assert_eq!(ended.join().unwrap().signal(), Some(9));
    heard += watch.look().unwrap();
    assert_eq!(heard, 1);
    assert_eq!(watch.finish().unwrap(), 0);
}

#[test]
#[ignore = "needs root"]
fn an_oom_kill_that_nobody_heard_is_found_at_the_end_and_a_removed_group_has_none() {
    let top = Top::new(host());
    let group = top.child("c");
    group
        .apply(&resources(
            r#"{"memory":{"limit":16777216,"swap":16777216}}"#,
        ))
        .unwrap();
    let (watch, deaf) = (group.oom_watch().unwrap(), group.oom_watch().unwrap());
    let hungry = "exec dd if=/dev/zero of=/dev/null bs=64M count=1";
    assert_eq!(Shell::within(&group, hungry).end().signal(), Some(9));
    assert_eq!(watch.finish().unwrap(), 1);
    group.remove().unwrap();
    deaf.finish().unwrap();
}

#[test]
#[ignore = "needs root"]
fn statistics_tell_what_a_group_uses() {
    let top = Top::new(host());
    let group = top.child("c");
    group
        .apply(&resources(
            r#"{"memory":{"limit":67108864},"pids":{"limit":33},"cpu":{"cpus":"0"}}"#,
        ))
        .unwrap();
    let mut shell = Shell::within(
        &group,
        "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; sleep 1000 & wait",
    );
    shell.go();
    while group.processes().unwrap().len() < 2 {
        std::thread::yield_now();
    }
    let all = group.statistics(Some(shell.0.id())).unwrap();
    assert!(
        all.cpu.usage.total > 0 && all.memory.usage.usage > 0,
        "{all:?}"
    );
    assert_eq!(all.memory.usage.limit, 67_108_864);
    assert_eq!((all.pids.current, all.pids.limit), (2, 33));
    assert_eq!(all.cpuset.cpus, [0]);
    assert!(!all.memory.raw.is_empty());
    // The devices are those of the process's network namespace, without loopback.
    let names: Vec<_> = all
        .network_interfaces
        .iter()
        .map(|device| &device.name)
        .collect();
    assert!(!names.iter().any(|name| *name == "lo"), "{names:?}");
    let json = serde_json::to_value(&all).unwrap();
    assert_eq!(json["pids"]["limit"], 33);
    group.kill(PATIENCE).unwrap();
}

#[test]
#[ignore = "needs root"]
fn an_update_changes_what_it_names_and_nothing_else() {
    let top = Top::new(host());
    let Made(made) = Made::below(&top, "c");
    let before = r#"{"memory":{"limit":67108864,"swap":134217728},"pids":{"limit":33},
        "cpu":{"quota":50000,"period":100000},
        "devices":[{"allow":false},{"allow":true,"type":"c","major":1,"minor":11,"access":"r"}]}"#;
    made.prepare(Some(&resources(before))).unwrap();
    let group = made.group().unwrap().clone();
    let shell = Shell::within(&group, "sleep 1000");
    let opens = |device: &str| {
        let script = format!("exec < {device} && exit 7");
        Shell::within(&group, &script).end().code() == Some(7)
    };
    made.update(&resources(r#"{"cpu":{"period":50000}}"#))
        .unwrap();
    made.update(&resources(
        r#"{"memory":{"limit":201326592,"swap":268435456}}"#,
    ))
    .unwrap();
    let quota = read(&group, "cpu.cfs_quota_us")
        .or_else(|| read(&group, "cpu.max"))
        .unwrap();
    assert!(quota.starts_with("50000"), "{quota}");
    let all = group.statistics(None).unwrap();
    assert_eq!(all.memory.usage.limit, 201_326_592);
    assert_eq!(all.memory.swap.limit, 268_435_456);
    assert_eq!(all.pids.limit, 33);
    assert!(opens("/dev/kmsg"));
    // Down again, in the order that the kernel needs.
    made.update(&resources(
        r#"{"memory":{"limit":33554432,"swap":33554432}}"#,
    ))
    .unwrap();
    assert_eq!(
        group.statistics(None).unwrap().memory.usage.limit,
        33_554_432
    );
    made.update(&resources(r#"{"devices":[{"allow":false}]}"#))
        .unwrap();
    assert!(!opens("/dev/kmsg") && opens("/dev/null"));
    made.kill(PATIENCE).unwrap();
    drop(shell);
    made.remove().unwrap();
}

#[test]
#[ignore = "needs root"]
fn a_container_s_group_is_ended_whether_it_is_empty_or_not() {
    let top = Top::new(host());
    let Made(made) = Made::below(&top, "c");
    made.end(PATIENCE).unwrap();
    made.prepare(None).unwrap();
    made.end(PATIENCE).unwrap();
    assert!(!made.group().unwrap().exists());
    made.prepare(None).unwrap();
    let shell = Shell::within(made.group().unwrap(), "sleep 1000");
    let below = format!("{}/below", made.group().unwrap().path());
    top.hierarchy.group(&below).unwrap().create().unwrap();
    made.end(PATIENCE).unwrap();
    assert_eq!(shell.fate().signal(), Some(9));
    assert!(!made.group().unwrap().exists());
}

/// v1 clears its exceptions when it allows all, and then gets them one by one.
#[test]
#[ignore = "needs root"]
fn a_device_that_is_denied_before_and_after_an_update_is_denied_all_the_time() {
    let top = Top::new(host());
    let Made(made) = Made::below(&top, "c");
    made.prepare(Some(&resources(r#"{"devices":[{"allow":false}]}"#)))
        .unwrap();
    // The longer the list, the longer the way to the exception that counts: /dev/kmsg.
    let mut rules = vec![r#"{"allow":true}"#.to_owned()];
    let other = |minor| format!(r#"{{"allow":false,"type":"c","major":250,"minor":{minor}}}"#);
    rules.extend((0..400).map(other));
    rules.push(r#"{"allow":false,"type":"c","major":1,"minor":11}"#.to_owned());
    let all_but = format!(r#"{{"devices":[{}]}}"#, rules.join(","));
    let script = "while :; do { true < /dev/kmsg; } 2>/dev/null && exit 7; done";
    let mut shell = Shell::within(made.group().unwrap(), script);
    shell.go();
    // v2 replaces one program by another.
    let rounds = if top.hierarchy.is_v2() { 2 } else { 20 };
    for _ in 0..rounds {
        made.update(&resources(&all_but)).unwrap();
        made.update(&resources(r#"{"devices":[{"allow":false}]}"#))
            .unwrap();
    }
    assert_eq!(made.freeze_state().unwrap(), Freeze::Thawed);
    assert!(shell.0.try_wait().unwrap().is_none(), "it was let in");
    made.kill(PATIENCE).unwrap();
    assert_eq!(shell.fate().signal(), Some(9));
    made.remove().unwrap();
}
