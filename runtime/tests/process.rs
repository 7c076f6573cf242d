//! What the kernel keeps of a container's process: scheduler, priorities, affinity, policies, and the kernel
//! parameters of its namespaces.

mod support;

use serde_json::{Value, json};
use support::{Host, Root};

/// Runs a shell command in a changed spec.
fn shell(host: &Host, command: &str, change: impl FnOnce(&mut Value)) -> String {
    let spec = host.spec(&["/bin/sh", "-c", command], change);
    let (exit, output) = host.run(&spec, Root::busybox());
    assert_eq!(exit.code, 0, "{output}");
    output
}

fn refusal(host: &Host, change: impl FnOnce(&mut Value)) -> String {
    let spec = host.spec(&["/bin/true"], change);
    let error = host.create(&spec, Root::busybox()).unwrap_err();
    host.assert_nothing_left();
    error.to_string()
}

/// proc_pid_stat(5), counted from 1.
fn stat_field(stat: &str, field: usize) -> String {
    let after_name = stat.rsplit_once(')').unwrap().1;
    after_name
        .split_whitespace()
        .nth(field - 3)
        .unwrap()
        .to_owned()
}

#[test]
#[ignore = "needs root"]
fn every_scheduling_policy_that_the_kernel_has() {
    let host = Host::new();
    let own = rustix::process::getpriority_process(None)
        .unwrap()
        .to_string();
    let grouped = std::path::Path::new("/sys/fs/cgroup/cpu/cpu.rt_runtime_us").exists();
    for (scheduler, policy, priority, nice) in [
        (json!({"policy": "SCHED_OTHER", "nice": 5}), "0", "0", "5"),
        (
            json!({"policy": "SCHED_FIFO", "priority": 10}),
            "1",
            "10",
            "0",
        ),
        (json!({"policy": "SCHED_RR", "priority": 7}), "2", "7", "0"),
        (json!({"policy": "SCHED_BATCH", "nice": -3}), "3", "0", "-3"),
        // Nothing is said of its nice value: it is the caller's.
        (json!({"policy": "SCHED_IDLE"}), "5", "0", &own),
    ] {
        let change = |spec: &mut Value| spec["process"]["scheduler"] = scheduler.clone();
        if grouped && priority != "0" {
            // No group has real time on this kernel until each above it has got some.
            let refused = refusal(&host, change);
            assert!(refused.contains("cpu.realtimeRuntime"), "{refused}");
            continue;
        }
        let stat = shell(&host, "cat /proc/1/stat", change);
        assert_eq!(stat_field(&stat, 41), policy, "{scheduler}");
        assert_eq!(stat_field(&stat, 40), priority, "{scheduler}");
        if priority == "0" {
            assert_eq!(stat_field(&stat, 19), nice, "{scheduler}");
        }
    }
    let refused = refusal(&host, |spec| {
        spec["process"]["scheduler"] = json!({"policy": "SCHED_ISO"});
    });
    assert!(refused.contains("scheduler SCHED_ISO"), "{refused}");
}

#[test]
#[ignore = "needs root"]
fn a_deadline_is_set() {
    let host = Host::new();
    let spec = host.spec(&["/bin/cat", "/proc/1/stat"], |spec| {
        spec["process"]["scheduler"] = json!({
            "policy": "SCHED_DEADLINE", "runtime": 10_000_000, "deadline": 20_000_000, "period": 20_000_000,
        });
    });
    let (exit, stat) = host.run(&spec, Root::busybox());
    assert_eq!((exit.code, stat_field(&stat, 41).as_str()), (0, "6"));
}

#[test]
#[ignore = "needs root"]
fn io_priority_reaches_the_program() {
    let host = Host::new();
    let root = Root::busybox();
    std::os::unix::fs::symlink("busybox", root.path("bin/ionice")).unwrap();
    let spec = host.spec(&["/bin/ionice", "-p", "1"], |spec| {
        spec["process"]["ioPriority"] = json!({"class": "IOPRIO_CLASS_BE", "priority": 3});
    });
    let (_, output) = host.run(&spec, root);
    assert_eq!(output, "best-effort: prio 3\n");
}

#[test]
#[ignore = "needs root"]
fn personality_and_memory_policy_reach_the_program() {
    let host = Host::new();
    let root = Root::busybox();
    std::os::unix::fs::symlink("busybox", root.path("bin/uname")).unwrap();
    let spec = host.spec(
        &["/bin/sh", "-c", "uname -m; head -n 1 /proc/self/numa_maps"],
        |spec| {
            spec["linux"]["personality"] = json!({"domain": "LINUX32"});
            spec["linux"]["memoryPolicy"] = json!({"mode": "MPOL_BIND", "nodes": "0"});
        },
    );
    let (_, output) = host.run(&spec, root);
    assert!(output.starts_with("i686\n"), "{output}");
    assert!(output.contains(" bind:0 "), "{output}");
}

/// The runtime's own pinning is not the container's.
#[test]
#[ignore = "needs root"]
fn a_pinned_runtime_does_not_pin_its_containers() {
    let host = Host::new();
    let all = rustix::thread::sched_getaffinity(None).unwrap();
    let mut one = rustix::thread::CpuSet::new();
    one.set((0..1024).find(|cpu| all.is_set(*cpu)).unwrap());
    rustix::thread::sched_setaffinity(None, &one).unwrap();
    let output = shell(&host, "grep Cpus_allowed: /proc/1/status", |_| {});
    let mask = output.split_whitespace().last().unwrap().replace(',', "");
    let count: u32 = mask
        .chars()
        .map(|digit| digit.to_digit(16).unwrap().count_ones())
        .sum();
    let online = std::fs::read_to_string("/sys/devices/system/cpu/online").unwrap();
    assert!(count > 1 || online.trim() == "0", "{output} of {online}");
}

#[test]
#[ignore = "needs root"]
fn sysctls_are_the_containers_own_and_not_the_hosts() {
    let host = Host::new();
    let read = |name: &str| std::fs::read_to_string(format!("/proc/sys/{name}")).unwrap();
    let before = (read("kernel/shmmni"), read("kernel/domainname"));
    let output = shell(
        &host,
        "cd /proc/sys; cat kernel/shmmni fs/mqueue/msg_max kernel/domainname net/ipv4/ip_forward; cat net/core/somaxconn",
        |spec| {
            spec["linux"]["sysctl"] = json!({
                "kernel.shmmni": "99", "fs.mqueue.msg_max": "7", "kernel.domainname": "inside",
                "net.ipv4.ip_forward": "1", "net/core/somaxconn": "77",
            });
        },
    );
    assert_eq!(output, "99\n7\ninside\n1\n77\n");
    assert_eq!((read("kernel/shmmni"), read("kernel/domainname")), before);
}

#[test]
#[ignore = "needs root"]
fn a_sysctl_of_a_joined_namespace_that_is_the_hosts_is_refused() {
    let host = Host::new();
    let before = std::fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap();
    let join = |path: String| {
        move |spec: &mut Value| {
            let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
            let network = namespaces.iter_mut().find(|one| one["type"] == "network");
            network.unwrap()["path"] = json!(path);
            spec["linux"]["sysctl"] = json!({"net.core.somaxconn": "78"});
        }
    };
    // The thread's, which is the monitor's: another name of the namespace changes nothing.
    let own = format!(
        "/proc/{}/task/{}/ns/net",
        std::process::id(),
        rustix::thread::gettid()
    );
    let refused = refusal(&host, join(own));
    assert!(refused.contains("the host's own"), "{refused}");
    assert_eq!(
        std::fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap(),
        before
    );
    let other = std::thread::spawn(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        std::fs::File::open("/proc/thread-self/ns/net").unwrap()
    });
    let other = other.join().unwrap();
    let path = format!(
        "/proc/{}/fd/{}",
        std::process::id(),
        std::os::fd::AsRawFd::as_raw_fd(&other)
    );
    let output = shell(&host, "cat /proc/sys/net/core/somaxconn", join(path));
    assert_eq!(output, "78\n");
}

/// CVE-2025-52881 and its ancestors: what the runtime writes below /proc must arrive in the kernel, whatever the
/// image and the spec put over /proc.
#[test]
#[ignore = "needs root"]
fn a_faked_proc_does_not_catch_what_the_runtime_writes() {
    let host = Host::new();
    // The image's /proc is a directory with such files, and no procfs is mounted on it.
    let root = Root::busybox();
    std::fs::create_dir_all(root.path("proc/sys/net/core")).unwrap();
    std::fs::write(root.path("proc/sys/net/core/somaxconn"), "").unwrap();
    let spec = host.spec(
        &["/bin/sh", "-c", "mkdir /real; mount -t proc proc /real; cat /real/sys/net/core/somaxconn /real/1/oom_score_adj; wc -c < /proc/sys/net/core/somaxconn"],
        |spec| {
            spec["mounts"].as_array_mut().unwrap().retain(|mount| mount["destination"] != "/proc");
            for path in ["maskedPaths", "readonlyPaths"] {
                spec["linux"][path] = json!([]);
            }
            for set in ["bounding", "effective", "permitted"] {
                spec["process"]["capabilities"][set] = json!(["CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE"]);
            }
            spec["linux"]["sysctl"] = json!({"net.core.somaxconn": "79"});
            spec["process"]["oomScoreAdj"] = json!(321);
        },
    );
    std::os::unix::fs::symlink("busybox", root.path("bin/mkdir")).unwrap();
    let (_, output) = host.run(&spec, root);
    assert_eq!(output, "79\n321\n0\n");
}

/// The same from the other side: something lies over a file of the host's own /proc.
#[test]
#[ignore = "needs root"]
fn a_file_over_the_hosts_proc_is_not_taken_for_the_kernels() {
    let host = Host::new();
    let fake = tempfile::NamedTempFile::new().unwrap();
    // Of all that a container may set, this file is the same one in every namespace.
    let place = "/proc/sys/kernel/domainname";
    rustix::mount::mount_bind(fake.path(), place).unwrap();
    let spec = host.spec(&["/bin/true"], |spec| {
        spec["linux"]["sysctl"] = json!({"kernel.domainname": "caught"});
    });
    let error = host.create(&spec, Root::busybox()).unwrap_err();
    rustix::mount::unmount(place, rustix::mount::UnmountFlags::DETACH).unwrap();
    assert!(error.cause.contains("mounted over it"), "{error}");
    assert_eq!(std::fs::read_to_string(fake.path()).unwrap(), "");
}

/// An OOM score that nobody asked for stays what it was.
#[test]
#[ignore = "needs root"]
fn an_oom_score_that_is_not_set_is_inherited() {
    let host = Host::new();
    let before = std::fs::read_to_string("/proc/self/oom_score_adj").unwrap();
    assert_eq!(shell(&host, "cat /proc/self/oom_score_adj", |_| {}), before);
}

#[test]
#[ignore = "needs root"]
fn a_profile_and_a_label_of_mounts_do_not_stop_a_container_on_a_host_without_the_module() {
    let host = Host::new();
    let apparmor = std::path::Path::new("/sys/module/apparmor").exists();
    let selinux = std::path::Path::new("/sys/fs/selinux/enforce").exists();
    if apparmor || selinux {
        return support::skip::skip("the host has a security module");
    }
    shell(&host, "true", |spec| {
        spec["process"]["apparmorProfile"] = json!("acme_secure_profile");
        spec["linux"]["mountLabel"] = json!("system_u:object_r:svirt_sandbox_file_t:s0:c715,c811");
    });
}

#[test]
#[ignore = "needs root"]
fn limits_are_exactly_those_of_the_spec() {
    let host = Host::new();
    let output = shell(&host, "cat /proc/self/limits", |spec| {
        spec["process"]["rlimits"] = json!([
            {"type": "RLIMIT_NOFILE", "soft": 32, "hard": 64},
            {"type": "RLIMIT_FSIZE", "soft": 4096, "hard": 8192},
            {"type": "RLIMIT_NPROC", "soft": 50, "hard": 60},
        ]);
    });
    for (name, soft, hard) in [
        ("Max open files", 32, 64),
        ("Max file size", 4096, 8192),
        ("Max processes", 50, 60),
    ] {
        let line = output.lines().find(|line| line.starts_with(name)).unwrap();
        let words: Vec<&str> = line[name.len()..].split_whitespace().collect();
        assert_eq!(words[..2], [soft.to_string(), hard.to_string()], "{line}");
    }
}
