//! Golden plans: what stands in them, and in which order.

mod labels;
mod refusals;
mod users;

use super::*;
use serde_json::{Value, json};

fn host() -> HostFacts {
    let bounding = ["CAP_CHOWN", "CAP_KILL", "CAP_NET_BIND_SERVICE"]
        .map(str::to_owned)
        .to_vec();
    let mut supported = bounding.clone();
    supported.push("CAP_SYS_ADMIN".into());
    HostFacts {
        bounding,
        supported,
        privileged: true,
        uid: 0,
        gid: 0,
        v1_hierarchies: vec!["cpu,cpuacct".into(), "name=systemd".into()],
        apparmor: false,
        selinux: false,
        initial_user_namespace: true,
        old_mount_calls: false,
    }
}

fn spec() -> Value {
    json!({
        "ociVersion": "1.2.0",
        "hostname": "box",
        "root": {"path": "x", "readonly": true},
        "process": {
            "user": {"uid": 33, "gid": 34, "additionalGids": [5]},
            "args": ["web", "--port", "80"],
            "env": ["PATH=/bin", "TOKEN=hunter2"],
            "cwd": "/srv",
            "noNewPrivileges": true,
            "oomScoreAdj": 100,
            "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 1024, "hard": 18446744073709551615u64}],
            "capabilities": {
                "bounding": ["CAP_NET_BIND_SERVICE", "CAP_CHOWN", "CAP_SYS_ADMIN"],
                "effective": ["CAP_CHOWN"],
                "permitted": ["CAP_CHOWN"],
            },
        },
        "mounts": [
            {"destination": "/proc", "type": "proc", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev", "type": "tmpfs", "options": ["nosuid", "strictatime", "mode=755"]},
            {"destination": "/data", "source": "/host/data", "options": ["rbind", "ro", "rslave"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "options": ["ro"]},
        ],
        "linux": {
            "cgroupsPath": "longshore/t1/c1",
            "namespaces": [
                {"type": "pid"}, {"type": "mount"}, {"type": "uts"}, {"type": "ipc"}, {"type": "cgroup"},
                {"type": "network", "path": "/run/netns/t1"},
            ],
            "seccomp": {"defaultAction": "SCMP_ACT_ALLOW"},
            "maskedPaths": ["/proc/kcore"],
            "readonlyPaths": ["/proc/sys"],
        },
    })
}

fn plan(change: impl FnOnce(&mut Value)) -> Result<Plan, StepError> {
    let mut spec = spec();
    change(&mut spec);
    Plan::of(&serde_json::from_value(spec).unwrap(), &host())
}

fn refusal(change: impl FnOnce(&mut Value)) -> String {
    plan(change).unwrap_err().to_string()
}

fn namespaces_of(spec: &mut Value) -> &mut Vec<Value> {
    spec["linux"]["namespaces"].as_array_mut().unwrap()
}

#[test]
fn the_whole_plan_in_order() {
    expect_test::expect![[r#"
        cgroup longshore/t1/c1
        clone pid mount uts ipc
          enter cgroup
          affinity to every CPU
          open host proc
          oom score adjustment 100
          undumpable
          join network /run/netns/t1
          new cgroup namespace
          new session keyring
          hostname box
          open host null
          open file system #0 proc
          open file system #1 tmpfs
          open tree #2 /host/data
          isolate mounts
          pivot root, rprivate
          umask 000
          attach #0, mount proc /proc rw,nosuid,nodev,noexec private, no symlink
          attach #1, mount tmpfs /dev rw,nosuid,strictatime private mode=755
          attach #2 /data ro rslave
          mount cgroup /sys/fs/cgroup ro,nosuid,nodev,noexec [cpu,cpuacct name=systemd]
          device /dev/null c 1:3 0666 0:0
          device /dev/zero c 1:5 0666 0:0
          device /dev/full c 1:7 0666 0:0
          device /dev/random c 1:8 0666 0:0
          device /dev/urandom c 1:9 0666 0:0
          device /dev/tty c 5:0 0666 0:0
          own /dev/null for host's
          symlink /dev/ptmx -> pts/ptmx
          symlink /dev/fd -> /proc/self/fd
          symlink /dev/stdin -> /proc/self/fd/0
          symlink /dev/stdout -> /proc/self/fd/1
          symlink /dev/stderr -> /proc/self/fd/2
          read-only /proc/sys
          mask /proc/kcore
          working directory /srv
          read-only root
          home of 33
          RLIMIT_NOFILE 1024 unlimited
          bounding CHOWN NET_BIND_SERVICE
          user 33 group 34 groups [5]
          umask 022
          find web in /bin
          effective CHOWN, permitted CHOWN, inheritable none, ambient none
          no new privileges
          await start
          seccomp filter, flags 0x4
          execute ["web", "--port", "80"] with PATH TOKEN
        warning: CAP_SYS_ADMIN is not this runtime's to give: left out
    "#]]
    .assert_eq(&plan(|_| {}).unwrap().to_string());
}

/// The lines of a plan that hold any of these words.
fn lines(plan: &Plan, words: &[&str]) -> String {
    let text = plan.to_string();
    let wanted = |line: &&str| words.iter().any(|word| line.contains(word));
    let kept = text.lines().filter(wanted).map(str::trim);
    kept.collect::<Vec<_>>().join("\n")
}

/// Isolation or a pivot there would be the host's.
#[test]
fn in_the_host_s_mount_namespace_nothing_of_the_host_s_tree_is_changed() {
    let plan = plan(|spec| drop(namespaces_of(spec).remove(1))).unwrap();
    for plan in [plan.clone(), plan.without_pivot()] {
        let of_root = |step: &&Step| {
            matches!(
                step,
                Step::IsolateMounts | Step::AttachRoot { .. } | Step::PivotRoot { .. }
            )
        };
        let steps: Vec<String> = plan
            .steps
            .iter()
            .filter(of_root)
            .map(Step::to_string)
            .collect();
        assert_eq!(
            steps,
            [
                "attach root x, rprivate",
                "chroot in the host's mount namespace, rprivate"
            ]
        );
        let mut plan = plan;
        assert!(plan.lasting_root().is_some());
    }
}

#[test]
fn sysctls_are_written_through_the_hosts_proc_in_the_containers_namespaces() {
    let plan = plan(|spec| {
        spec["linux"]["sysctl"] = json!({"net.core.somaxconn": "256", "kernel.sem": "1 2 3 4"});
    })
    .unwrap();
    expect_test::expect![[r#"
        open host proc
        join network /run/netns/t1 (not the host's)
        sysctl kernel/sem = 1 2 3 4
        sysctl net/core/somaxconn = 256
        pivot root, rprivate"#]]
    .assert_eq(&lines(
        &plan,
        &["host proc", "prove", "join", "sysctl ", "pivot"],
    ));
}

#[test]
fn each_hook_has_its_place() {
    let plan = plan(|spec| {
        let hook = |path: &str| json!([{"path": path}]);
        spec["hooks"] = json!({
            "prestart": hook("/1"), "createRuntime": hook("/2"), "createContainer": hook("/3"),
            "startContainer": hook("/4"), "poststart": hook("/5"), "poststop": hook("/6"),
        });
        spec["linux"]["sysctl"] = json!({"net.core.somaxconn": "256"});
    })
    .unwrap();
    expect_test::expect![[r#"
        enter cgroup
        join network /run/netns/t1 (not the host's)
        attach root x, rprivate
        umask 000
        attach #0, mount proc /proc rw,nosuid,nodev,noexec private, no symlink
        umask 022
        await environment
        createContainer hooks /3 ["/3"] with []
        sysctl net/core/somaxconn = 256
        pivot root, rprivate
        umask 000
        umask 022
        await start
        seccomp filter, flags 0x4
        startContainer hooks /4 ["/4"] with [PATH TOKEN]
        execute ["web", "--port", "80"] with PATH TOKEN
        prestart hooks /1 ["/1"] with []
        createRuntime hooks /2 ["/2"] with []
        poststart hooks /5 ["/5"] with []
        poststop hooks /6 ["/6"] with []"#]]
    .assert_eq(&lines(
        &plan,
        &[
            "join",
            "hooks",
            "environment",
            "attach root",
            "mount proc",
            "umask",
            "sysctl ",
            "pivot",
            "await",
            "enter cgroup",
            "seccomp",
            "execute",
        ],
    ));
}

#[test]
fn attributes_are_set_before_the_capabilities_go() {
    let plan = plan(|spec| {
        spec["process"]["scheduler"] = json!({"policy": "SCHED_FIFO", "priority": 10});
        spec["process"]["ioPriority"] = json!({"class": "IOPRIO_CLASS_BE", "priority": 4});
        spec["linux"]["personality"] = json!({"domain": "LINUX32"});
        spec["linux"]["memoryPolicy"] = json!({"mode": "MPOL_BIND", "nodes": "0"});
    })
    .unwrap();
    expect_test::expect![[r#"
          affinity to every CPU
          memory policy MPOL_BIND nodes 0
          scheduler SCHED_FIFO priority 10
          io priority IOPRIO_CLASS_BE 4
          personality LINUX32
          bounding CHOWN NET_BIND_SERVICE"#]]
    .assert_eq(&lines(
        &plan,
        &[
            "affinity",
            "memory p",
            "scheduler",
            "io p",
            "personality",
            "bounding C",
        ],
    ));
}

#[test]
fn without_no_new_privileges_the_filter_comes_before_the_capabilities_go() {
    let plan = plan(|spec| spec["process"]["noNewPrivileges"] = json!(false)).unwrap();
    let tail: Vec<String> = plan
        .steps
        .iter()
        .rev()
        .take(5)
        .map(Step::to_string)
        .collect();
    expect_test::expect![[r#"
        execute ["web", "--port", "80"] with PATH TOKEN
        effective CHOWN, permitted CHOWN, inheritable none, ambient none
        seccomp filter, flags 0x4
        await start
        effective CHOWN, permitted CHOWN, inheritable none, ambient none"#]]
    .assert_eq(&tail.join("\n"));
}

/// The OCI text: whatever cannot be granted is a warning.
#[test]
fn capabilities_that_the_kernel_would_refuse_are_left_out() {
    let plan = plan(|spec| {
        spec["process"]["capabilities"] = json!({
            "bounding": ["CAP_CHOWN"], "permitted": ["CAP_CHOWN"],
            "effective": ["CAP_CHOWN", "CAP_KILL"],
            "inheritable": ["CAP_KILL"], "ambient": ["CAP_CHOWN", "CAP_KILL"],
        });
    });
    let plan = plan.unwrap();
    expect_test::expect![[r#"
        bounding CHOWN
        effective CHOWN, permitted CHOWN, inheritable none, ambient none
        warning: CAP_KILL is inheritable and not bounding, which the kernel refuses: left out
        warning: CAP_KILL is effective and not permitted, which the kernel refuses: left out
        warning: CAP_KILL is ambient and not permitted, which the kernel refuses: left out
        warning: CAP_CHOWN is ambient and not inheritable, which the kernel refuses: left out"#]]
    .assert_eq(&lines(&plan, &["bounding", "effective", "ambient"]));
}

#[test]
fn a_mount_in_the_place_of_the_root_bears_no_hooks_of_the_creation() {
    let over = |kind: &'static str| {
        move |spec: &mut Value| {
            let mounts = spec["mounts"].as_array_mut().unwrap();
            mounts.push(json!({"destination": "/", "type": "tmpfs"}));
            spec["hooks"] = json!({kind: [{"path": "/bin/true"}]});
        }
    };
    for kind in ["prestart", "createRuntime", "createContainer"] {
        let refusal = refusal(over(kind));
        assert!(refusal.starts_with("plan mount /: "), "{refusal}");
    }
    assert!(plan(over("startContainer")).is_ok());
}

#[test]
fn a_filter_that_asks_is_loaded_before_start_is_awaited() {
    for (no_new_privileges, order) in [
        (true, ["effective", "no new", "seccomp", "await start"]),
        (false, ["find", "seccomp", "effective", "await start"]),
    ] {
        let plan = plan(|spec| {
            spec["process"]["noNewPrivileges"] = json!(no_new_privileges);
            spec["linux"]["seccomp"] = json!({
                "defaultAction": "SCMP_ACT_ALLOW",
                "listenerPath": "/run/agent.sock",
                "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}],
            });
        });
        let steps = plan.unwrap().steps;
        let tail = steps.iter().map(Step::to_string).collect::<Vec<_>>();
        let tail = &tail[tail.len() - 5..];
        for (step, word) in tail.iter().zip(order) {
            assert!(step.starts_with(word), "{tail:?}");
        }
        let asks = "seccomp filter, flags 0xc, asks /run/agent.sock".to_owned();
        assert!(tail.contains(&asks), "{tail:?}");
    }
}

#[test]
fn a_terminal_is_made_in_a_whole_dev_that_is_still_writable() {
    let with_terminal = |spec: &mut Value| {
        spec["process"]["terminal"] = json!(true);
        spec["process"]["consoleSize"] = json!({"height": 10, "width": 110});
    };
    let text = plan(with_terminal).unwrap().to_string();
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let at = |line: &str| lines.iter().position(|one| *one == line).expect(line);
    let terminal = at("terminal of 33, 10 rows 110 columns, /dev/console");
    assert_eq!(terminal, at("symlink /dev/stderr -> /proc/self/fd/2") + 1);
    assert!(terminal < at("read-only /proc/sys") && terminal < at("user 33 group 34 groups [5]"));
    let no_terminal =
        plan(|spec| spec["process"]["consoleSize"] = json!({"height": 1, "width": 1}));
    assert!(!no_terminal.unwrap().to_string().contains("terminal"));
}

#[test]
fn a_plan_survives_the_wire_and_shows_no_secret() {
    let plan = plan(|_| {}).unwrap();
    let text = serde_json::to_string(&plan).unwrap();
    assert_eq!(serde_json::from_str::<Plan>(&text).unwrap(), plan);
    assert!(text.contains("hunter2"), "the program needs it");
    assert!(!format!("{plan}{plan:?}{plan:#?}").contains("hunter2"));
}
