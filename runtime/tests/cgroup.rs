//! Groups on the real kernel. Each test makes groups of its own name and removes them, also when it fails.
//!
//! On a hybrid host the tests that need no controllers run a second time on the v2 mount.

#[path = "support/groups.rs"]
mod groups;

use std::os::fd::AsRawFd;
use std::os::unix::process::ExitStatusExt;

use groups::{PATIENCE, Shell, Top, both, file, host, resources, value};
use longshore_runtime::cgroup::{Group, Hierarchy};

#[test]
#[ignore = "needs root"]
fn a_group_is_made_filled_emptied_and_removed() {
    for hierarchy in both() {
        let top = Top::new(hierarchy);
        let inner = top.child("a/b");
        inner.create().unwrap();
        assert!(inner.exists());
        let shell = Shell::within(&inner, "sleep 1000");
        assert_eq!(inner.processes().unwrap(), [shell.0.id()]);
        assert_eq!(top.group.processes().unwrap(), [shell.0.id()]);
        assert_eq!(
            inner.cgroup_fd().unwrap().map(|fd| fd.as_raw_fd() > 2),
            top.hierarchy.is_v2().then_some(true)
        );

        let busy = top.group.remove().unwrap_err();
        assert!(busy.cause.contains(&shell.0.id().to_string()), "{busy}");

        top.group.kill(PATIENCE).unwrap();
        assert_eq!(shell.fate().signal(), Some(9));
        assert!(top.group.processes().unwrap().is_empty());
        top.group.remove().unwrap();
        assert!(!top.group.exists() && !inner.exists());
        top.group.kill(PATIENCE).unwrap();
        top.group.remove().unwrap();
        assert!(top.group.processes().unwrap().is_empty());
    }
}

#[test]
#[ignore = "needs root"]
fn kill_reaches_those_who_fork_meanwhile() {
    for hierarchy in both() {
        let top = Top::new(hierarchy);
        let inner = top.child("c");
        // Bounded, so that a kill that does not work is a failed test and not a lost machine.
        let script = "i=0; while [ $i -lt 3000 ]; do sleep 1000 & i=$((i+1)); done; wait";
        let mut shell = Shell::within(&inner, script);
        shell.go();
        while inner.processes().unwrap().len() < 20 {
            std::thread::yield_now();
        }
        top.group.kill(PATIENCE).unwrap();
        assert!(inner.processes().unwrap().is_empty());
        assert_eq!(shell.fate().signal(), Some(9));
    }
}

#[test]
#[ignore = "needs root"]
fn kill_ends_a_frozen_group() {
    let top = Top::new(host());
    let inner = top.child("c");
    let shell = Shell::within(&inner, "sleep 1000");
    let lever = file(&top.group, "freezer.state", "cgroup.freeze");
    let frozen = if top.hierarchy.is_v2() { "1" } else { "FROZEN" };
    std::fs::write(&lever, frozen).unwrap();
    top.group.kill(PATIENCE).unwrap();
    assert_eq!(shell.fate().signal(), Some(9));
    if !top.hierarchy.is_v2() {
        assert_eq!(std::fs::read_to_string(&lever).unwrap().trim(), "THAWED");
    }
}

/// The test runs itself again inside of the group.
#[test]
#[ignore = "needs root"]
fn kill_refuses_a_caller_who_is_in_the_group() {
    const GROUP: &str = "LONGSHORE_TEST_GROUP";
    if let Ok(path) = std::env::var(GROUP) {
        for hierarchy in both() {
            let group = hierarchy.group(&path).unwrap();
            if group.processes().unwrap().contains(&std::process::id()) {
                let error = group.kill(PATIENCE).unwrap_err();
                assert!(error.cause.contains("the caller itself"), "{error}");
                return;
            }
        }
        panic!("not in {path}");
    }
    for hierarchy in both() {
        let top = Top::new(hierarchy);
        let inner = top.child("c");
        let program = std::env::current_exe().unwrap();
        let script = format!(
            "{GROUP}={} exec {} --exact kill_refuses_a_caller_who_is_in_the_group --include-ignored",
            top.group.path(),
            program.display()
        );
        assert!(Shell::within(&inner, &script).end().success());
    }
}

#[test]
#[ignore = "needs root"]
fn kill_of_one_group_spares_its_sibling() {
    for hierarchy in both() {
        let top = Top::new(hierarchy);
        let (doomed, spared) = (top.child("doomed"), top.child("spared"));
        let victim = Shell::within(&doomed, "sleep 1000");
        let witness = Shell::within(&spared, "exit 5");
        doomed.kill(PATIENCE).unwrap();
        doomed.remove().unwrap();
        assert_eq!(victim.fate().signal(), Some(9));
        assert!(spared.exists());
        assert_eq!(witness.end().code(), Some(5));
    }
}

#[test]
#[ignore = "needs root"]
fn remove_takes_what_a_container_made_below_however_deep() {
    for hierarchy in both() {
        let top = Top::new(hierarchy);
        for side in ["x", "y"] {
            top.child(&vec![side; 60].join("/"));
        }
        top.group.remove().unwrap();
        assert!(!top.group.exists());
    }
}

/// v1: a group that somebody made by hand has an empty cpuset, in which nobody can be, nor in one below it.
#[test]
#[ignore = "needs root"]
fn what_others_left_empty_is_filled_on_the_way() {
    let cpuset = std::path::Path::new("/sys/fs/cgroup/cpuset");
    if host().is_v2() || !cpuset.exists() {
        return println!("skipped: only a v1 cpuset begins empty");
    }
    let top = Top::new(host());
    let value = |group: &str, file: &str| {
        let path = cpuset.join(top.group.path()).join(group).join(file);
        std::fs::read_to_string(path).unwrap().trim().to_owned()
    };
    let above = cpuset.join(top.group.path());
    // Its parent would fill it otherwise.
    std::fs::write(above.join("cgroup.clone_children"), "0").unwrap();
    for name in ["bare", "ready"] {
        std::fs::create_dir(above.join(name)).unwrap();
        assert_eq!(value(name, "cpuset.cpus"), "");
    }
    // One below an empty one, and one that is there itself.
    for path in ["bare/inner", "ready"] {
        let group = top.child(path);
        for file in ["cpuset.cpus", "cpuset.mems"] {
            assert_eq!(value(path, file), value(".", file), "{path} {file}");
        }
        assert!(Shell::within(&group, "exit 0").end().success());
    }
}

#[test]
#[ignore = "needs root"]
fn limits_stand_in_the_control_files() {
    let top = Top::new(host());
    let group = top.child("c");
    let given = r#"{"cpu":{"shares":512,"quota":50000,"period":100000,"cpus":"0"},
        "memory":{"limit":67108864,"reservation":33554432,"swap":67108864},
        "pids":{"limit":33}}"#;
    for _ in 0..2 {
        group.apply(&resources(given)).unwrap();
    }
    let v2 = top.hierarchy.is_v2();
    let cpu = value(&group, "cpu.cfs_quota_us", "cpu.max");
    assert_eq!(cpu, if v2 { "50000 100000" } else { "50000" });
    let shares = value(&group, "cpu.shares", "cpu.weight");
    assert_eq!(shares, if v2 { "59" } else { "512" });
    assert_eq!(value(&group, "cpuset.cpus", "cpuset.cpus"), "0");
    let memory = value(&group, "memory.limit_in_bytes", "memory.max");
    assert_eq!(memory, "67108864");
    let swap = value(&group, "memory.memsw.limit_in_bytes", "memory.swap.max");
    assert_eq!(swap, if v2 { "0" } else { "67108864" });
    let low = value(&group, "memory.soft_limit_in_bytes", "memory.low");
    assert_eq!(low, "33554432");
    assert_eq!(value(&group, "pids.max", "pids.max"), "33");

    // Up, with swap in the way; then down to half; then away.
    group
        .apply(&resources(
            r#"{"memory":{"limit":134217728,"swap":268435456}}"#,
        ))
        .unwrap();
    group
        .apply(&resources(
            r#"{"memory":{"limit":67108864,"swap":67108864}}"#,
        ))
        .unwrap();
    group
        .apply(&resources(
            r#"{"cpu":{"quota":-1},"memory":{"limit":-1,"swap":-1},"pids":{"limit":-1}}"#,
        ))
        .unwrap();
    assert_eq!(value(&group, "pids.max", "pids.max"), "max");
    let cpu = value(&group, "cpu.cfs_quota_us", "cpu.max");
    assert_eq!(cpu, if v2 { "max 100000" } else { "-1" });
}

#[test]
#[ignore = "needs root"]
fn quotas_of_nested_groups_can_move_either_way() {
    let top = Top::new(host());
    let group = top.child("c");
    top.group
        .apply(&resources(r#"{"cpu":{"quota":50000,"period":100000}}"#))
        .unwrap();
    for (quota, period) in [
        (5000, 10000),
        (50000, 100_000),
        (10000, 50000),
        (20000, 40000),
    ] {
        let json = format!(r#"{{"cpu":{{"quota":{quota},"period":{period}}}}}"#);
        group.apply(&resources(&json)).unwrap();
    }
    let above = group.apply(&resources(r#"{"cpu":{"quota":90000,"period":100000}}"#));
    if top.hierarchy.is_v2() {
        // v2 takes it; the ancestor's quota holds all the same.
        above.unwrap();
    } else {
        let error = above.unwrap_err();
        assert_eq!(error.errno, Some(22));
        assert!(error.cause.contains("a group above allows less"), "{error}");
    }
}

#[test]
#[ignore = "needs root"]
fn an_oom_kill_counts_where_the_victim_was_also_if_the_limit_is_the_parents() {
    let top = Top::new(host());
    let (victim, sibling) = (top.child("victim"), top.child("sibling"));
    let limit = r#"{"memory":{"limit":16777216,"swap":16777216}}"#;
    top.group.apply(&resources(limit)).unwrap();
    let shell = Shell::within(&victim, "exec dd if=/dev/zero of=/dev/null bs=64M count=1");
    assert_eq!(shell.end().signal(), Some(9));
    assert_eq!(victim.oom_kills().unwrap(), 1);
    assert_eq!(top.group.oom_kills().unwrap(), 1);
    assert_eq!(sibling.oom_kills().unwrap(), 0);
}

#[test]
#[ignore = "needs root"]
fn usage_counts_cpu_time_memory_and_processes() {
    let top = Top::new(host());
    let group = top.child("c");
    let script = "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done";
    let mut shell = Shell::within(&group, &format!("{script}; sleep 1000 & wait"));
    assert_eq!(group.usage().unwrap().processes, 1);
    shell.go();
    while group.usage().unwrap().processes < 2 {
        std::thread::yield_now();
    }
    let usage = group.usage().unwrap();
    assert!(usage.cpu_ns > 0 && usage.memory_bytes > 0, "{usage:?}");
    assert!(top.group.usage().unwrap().cpu_ns >= usage.cpu_ns);
}

#[test]
#[ignore = "needs root"]
fn the_process_limit_holds() {
    let top = Top::new(host());
    let group = top.child("c");
    group.apply(&resources(r#"{"pids":{"limit":1}}"#)).unwrap();
    let shell = Shell::within(&group, "/bin/true; exit $?");
    assert_ne!(shell.end().code(), Some(0));
}

fn opens(group: &Group, device: &str) -> bool {
    let shell = Shell::within(group, &format!("exec < {device} && exit 7"));
    shell.end().code() == Some(7)
}

#[test]
#[ignore = "needs root"]
fn a_device_list_opens_what_it_allows_and_nothing_else() {
    for hierarchy in both() {
        let top = Top::new(hierarchy);
        let group = top.child("c");
        assert!(opens(&group, "/dev/zero"));
        let list = |minor: u32| {
            resources(&format!(
                r#"{{"devices":[{{"allow":false,"access":"rwm"}},
                    {{"allow":true,"type":"c","access":"m"}},
                    {{"allow":true,"type":"c","major":1,"minor":{minor},"access":"rwm"}}]}}"#
            ))
        };
        for _ in 0..2 {
            group.apply(&list(3)).unwrap();
        }
        assert!(opens(&group, "/dev/null"));
        assert!(!opens(&group, "/dev/zero"));
        // A list that is applied again replaces the one before, in both directions.
        group.apply(&list(5)).unwrap();
        assert!(!opens(&group, "/dev/null"));
        assert!(opens(&group, "/dev/zero"));
        // Other limits leave it alone, and so does a resource object without a list.
        group.apply(&resources("{}")).unwrap();
        assert!(!opens(&group, "/dev/null"));
    }
}

#[test]
#[ignore = "needs root"]
fn a_device_list_of_the_greatest_size_is_taken() {
    for hierarchy in both() {
        let top = Top::new(hierarchy);
        let rule = |minor| {
            format!(r#"{{"allow":true,"type":"c","major":9,"minor":{minor},"access":"r"}}"#)
        };
        let rules: Vec<String> = (0..512).map(rule).collect();
        let list = format!(r#"{{"devices":[{}]}}"#, rules.join(","));
        top.group.apply(&resources(&list)).unwrap();
    }
}

#[test]
#[ignore = "needs root"]
fn a_limit_whose_controller_is_missing_is_a_named_error() {
    for hierarchy in both().into_iter().skip(1) {
        let top = Top::new(hierarchy);
        let given = resources(r#"{"memory":{"limit":67108864}}"#);
        let error = top.group.apply(&given).unwrap_err();
        assert!(error.subject.ends_with("/memory.max"), "{error}");
        assert!(error.cause.contains("the memory controller"), "{error}");
        let lifted = r#"{"memory":{"limit":-1,"swap":-1},"pids":{"limit":-1}}"#;
        top.group.apply(&resources(lifted)).unwrap();
    }
}

#[test]
#[ignore = "needs root"]
fn pid_zero_is_refused() {
    let top = Top::new(host());
    assert!(top.group.add(0).is_err());
}

#[test]
fn a_path_that_could_leave_the_hierarchy_is_refused() {
    let Ok(hierarchy) = Hierarchy::of_host() else {
        return;
    };
    for path in [
        "", "/", "/a", "a/", "a//b", ".", "..", "a/../b", "a/./b", "a\nb", "a\0b",
    ] {
        let error = hierarchy.group(path).unwrap_err();
        assert_eq!(error.step, "name cgroup", "{path:?}");
    }
    assert!(hierarchy.group(&"x".repeat(256)).is_err());
    assert!(hierarchy.group("longshore/tasks/..a").is_ok());
}
