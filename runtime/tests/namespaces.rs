//! User and time namespaces, and every namespace joined by its path.

mod support;

use std::os::unix::fs::MetadataExt;
use std::process::{Child, Command, Stdio};

use longshore_runtime::container::Container;
use serde_json::{Value, json};
use support::{Host, Root, wait};

/// A process in new namespaces, for others to join; it ends with its standard input.
struct Holder(Child);

impl Holder {
    fn new(unshare: &[&str]) -> Holder {
        let mut child = Command::new("unshare")
            .args(unshare)
            .args(["/bin/busybox", "sh", "-c", "echo ready; read end"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = [0; 6];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut ready).unwrap();
        Holder(child)
    }

    /// Its own, or with `--fork` its child's: the first process of its pid and time namespace.
    fn path(&self, namespace: &str) -> String {
        format!("/proc/{}/ns/{namespace}", self.0.id())
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        self.0.wait().unwrap();
    }
}

fn namespaces(spec: &mut Value) -> &mut Vec<Value> {
    spec["linux"]["namespaces"].as_array_mut().unwrap()
}

/// Takes the place of the one of the same type, or comes after the others.
fn set_namespace(spec: &mut Value, namespace: Value) {
    let all = namespaces(spec);
    match all.iter_mut().find(|one| one["type"] == namespace["type"]) {
        Some(one) => *one = namespace,
        None => all.push(namespace),
    }
}

fn map(spec: &mut Value, ranges: &[(u32, u32, u32)]) {
    set_namespace(spec, json!({"type": "user"}));
    let lines: Vec<Value> = ranges
        .iter()
        .map(|(inside, outside, count)| json!({"containerID": inside, "hostID": outside, "size": count}))
        .collect();
    spec["linux"]["uidMappings"] = json!(lines);
    spec["linux"]["gidMappings"] = json!(lines);
}

/// A root that is not the user namespace's own: what shall be mounted needs a place that is there.
fn root() -> Root {
    let root = Root::busybox();
    std::fs::create_dir(root.path("dev")).unwrap();
    root
}

/// Only what these tests need.
fn bare(spec: &mut Value) {
    spec["mounts"] = json!([{"destination": "/dev", "type": "tmpfs", "source": "tmpfs"}]);
    spec["linux"]["maskedPaths"] = json!([]);
    spec["linux"]["readonlyPaths"] = json!([]);
}

fn inode(path: &str) -> u64 {
    std::fs::metadata(path).unwrap().ino()
}

/// The first process of a created container.
fn init_of(container: &Container) -> u32 {
    match container.state().unwrap() {
        longshore_runtime::container::State::Created { pid } => pid,
        other => panic!("{other:?}"),
    }
}

#[test]
#[ignore = "needs root"]
fn a_user_namespace_maps_several_ranges() {
    let host = Host::new();
    let root = root();
    let path = root.path("tmp");
    std::os::unix::fs::chown(&path, Some(100_000), Some(100_000)).unwrap();
    let outside = rustix::io::fcntl_dupfd_cloexec(&root.mount, 3).unwrap();
    let spec = host.spec(
        &[
            "/bin/sh",
            "-c",
            "id -u; id -g; touch /tmp/made; stat -c %u:%g /tmp/made",
        ],
        |spec| {
            map(spec, &[(0, 100_000, 10), (20, 200_000, 5)]);
            bare(spec);
            spec["process"]["user"] = json!({"uid": 0, "gid": 22});
        },
    );
    let container = host.create(&spec, root).unwrap();
    let pid = init_of(&container);
    let fields = |name: &str| -> Vec<u32> {
        let text = std::fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap();
        text.split_whitespace()
            .map(|word| word.parse().unwrap())
            .collect()
    };
    assert_eq!(fields("uid_map"), [0, 100_000, 10, 20, 200_000, 5]);
    assert_eq!(fields("gid_map"), [0, 100_000, 10, 20, 200_000, 5]);
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(
        status.contains("Uid:\t100000\t100000\t100000\t100000"),
        "{status}"
    );
    assert!(
        status.contains("Gid:\t200002\t200002\t200002\t200002"),
        "{status}"
    );
    assert!(
        status.contains("Groups:\t \n"),
        "the host's groups are gone: {status}"
    );
    container.start().unwrap();
    assert_eq!(wait(&container).code, 0);
    assert_eq!(host.output(), "0\n22\n0:22\n");
    use std::os::fd::AsRawFd;
    let made = format!("/proc/self/fd/{}/tmp/made", outside.as_raw_fd());
    let made = std::fs::metadata(made).unwrap();
    assert_eq!((made.uid(), made.gid()), (100_000, 200_002));
}

#[test]
#[ignore = "needs root"]
fn a_user_namespace_without_root_is_built_by_whoever_is_mapped() {
    let host = Host::new();
    let spec = host.spec(&["/bin/id", "-u"], |spec| {
        map(spec, &[(1000, 100_000, 1)]);
        bare(spec);
        spec["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    });
    let (exit, output) = host.run(&spec, root());
    assert_eq!((exit.code, output.as_str()), (0, "1000\n"));
}

#[test]
#[ignore = "needs root"]
fn capabilities_of_a_user_namespace_reach_nothing_of_the_host() {
    let host = Host::new();
    let spec = host.spec(&["/bin/sleep", "1000"], |spec| {
        map(spec, &[(0, 100_000, 10)]);
        bare(spec);
        let all = json!(["CAP_SYS_ADMIN", "CAP_SYS_RESOURCE", "CAP_SYS_PTRACE"]);
        for set in ["bounding", "effective", "permitted"] {
            spec["process"]["capabilities"][set] = all.clone();
        }
    });
    let container = host.create(&spec, root()).unwrap();
    let status = std::fs::read_to_string(format!("/proc/{}/status", init_of(&container))).unwrap();
    // CAP_SYS_RESOURCE is not in this host's bounding set, and in a new user namespace nobody misses it.
    assert!(status.contains("CapEff:\t0000000001280000"), "{status}");
    container.delete().unwrap();
}

#[test]
#[ignore = "needs root"]
fn the_oom_score_of_a_user_namespace_is_set_by_the_parent() {
    let host = Host::new();
    let spec = host.spec(&["/bin/sleep", "1000"], |spec| {
        map(spec, &[(0, 100_000, 10)]);
        bare(spec);
        spec["process"]["oomScoreAdj"] = json!(321);
    });
    let container = host.create(&spec, root()).unwrap();
    let score = format!("/proc/{}/oom_score_adj", init_of(&container));
    assert_eq!(std::fs::read_to_string(score).unwrap().trim(), "321");
    container.delete().unwrap();
}

/// The maps are written, and something was joined that belongs to the host: init comes from a stage.
#[test]
#[ignore = "needs root"]
fn a_new_user_namespace_joins_a_network_of_the_host_s() {
    let host = Host::new();
    let holder = Holder::new(&["--net"]);
    let spec = host.spec(&["/bin/sleep", "1000"], |spec| {
        map(spec, &[(0, 100_000, 10)]);
        bare(spec);
        set_namespace(spec, json!({"type": "network", "path": holder.path("net")}));
    });
    let container = host.create(&spec, root()).unwrap();
    let pid = init_of(&container);
    assert_eq!(
        inode(&format!("/proc/{pid}/ns/net")),
        inode(&holder.path("net"))
    );
    assert_ne!(
        inode(&format!("/proc/{pid}/ns/user")),
        inode("/proc/self/ns/user")
    );
    let group = host.group("c1");
    assert_eq!(
        group.processes().unwrap(),
        [pid],
        "the stage has ended and init is in the group"
    );
    container.start().unwrap();
    container.delete().unwrap();
}

#[test]
#[ignore = "needs root"]
fn every_namespace_is_joined_by_its_path() {
    let host = Host::new();
    let holder = Holder::new(&[
        "--pid", "--net", "--ipc", "--uts", "--cgroup", "--mount", "--time",
    ]);
    // Its children are in the pid and time namespaces, itself is not: somebody must be.
    for (kind, file) in [
        ("network", "net"),
        ("ipc", "ipc"),
        ("uts", "uts"),
        ("cgroup", "cgroup"),
        ("mount", "mnt"),
    ] {
        let path = holder.path(file);
        let spec = host.spec(&["/bin/sleep", "1000"], |spec| {
            set_namespace(spec, json!({"type": kind, "path": path}));
            if kind == "uts" {
                spec["hostname"] = json!("joined");
            }
        });
        let container = host.create(&spec, root()).unwrap();
        let pid = init_of(&container);
        assert_eq!(
            inode(&format!("/proc/{pid}/ns/{file}")),
            inode(&path),
            "{kind}"
        );
        container.start().unwrap();
        container.delete().unwrap();
    }
}

#[test]
#[ignore = "needs root"]
fn pid_time_and_user_namespaces_are_joined_by_their_paths() {
    let host = Host::new();
    let first = host.spec(&["/bin/sleep", "1000"], |spec| {
        map(spec, &[(0, 100_000, 10)]);
        bare(spec);
        set_namespace(spec, json!({"type": "time"}));
    });
    let first = host.create(&first, root()).unwrap();
    let holder = init_of(&first);
    let other = Host::here();
    for kinds in [&["pid"][..], &["time"], &["user"], &["pid", "time", "user"]] {
        let spec = other.spec(&["/bin/sh", "-c", "echo $$; id -u"], |spec| {
            bare(spec);
            for kind in kinds {
                let path = format!("/proc/{holder}/ns/{kind}");
                set_namespace(spec, json!({"type": kind, "path": path}));
            }
        });
        let container = other.create(&spec, root()).unwrap();
        let pid = init_of(&container);
        for kind in kinds {
            let (here, there) = (
                format!("/proc/{pid}/ns/{kind}"),
                format!("/proc/{holder}/ns/{kind}"),
            );
            assert_eq!(inode(&here), inode(&there), "{kinds:?}");
        }
        assert_eq!(other.group("c1").processes().unwrap(), [pid]);
        container.start().unwrap();
        assert_eq!(wait(&container).code, 0);
        let output = other.output();
        let own_pid = !kinds.contains(&"pid");
        assert_eq!(output.starts_with("1\n"), own_pid, "{kinds:?}: {output}");
        assert!(output.ends_with("\n0\n"), "{kinds:?}: {output}");
        container.delete().unwrap();
        std::fs::remove_dir_all(other.log_dir()).unwrap();
    }
    first.delete().unwrap();
}

#[test]
#[ignore = "needs root"]
fn a_time_namespace_has_its_own_clocks() {
    let host = Host::new();
    let spec = host.spec(&["/bin/cat", "/proc/uptime", "/proc/self/timens_offsets"], |spec| {
        set_namespace(spec, json!({"type": "time"}));
        spec["linux"]["timeOffsets"] = json!({"boottime": {"secs": 1_000_000_000}, "monotonic": {"secs": 7, "nanosecs": 9}});
    });
    let (exit, output) = host.run(&spec, root());
    assert_eq!(exit.code, 0, "{output}");
    let uptime: f64 = output.split('.').next().unwrap().parse().unwrap();
    assert!(uptime >= 1e9, "{output}");
    let words: Vec<&str> = output.split_whitespace().skip(2).collect();
    assert_eq!(
        words,
        ["monotonic", "7", "9", "boottime", "1000000000", "0"]
    );
}

#[test]
#[ignore = "needs root"]
fn a_clock_that_cannot_be_is_refused() {
    let host = Host::new();
    let spec = host.spec(&["/bin/true"], |spec| {
        set_namespace(spec, json!({"type": "time"}));
        spec["linux"]["timeOffsets"] = json!({"boottime": {"secs": -1_000_000_000_000i64}});
    });
    let error = host.create(&spec, root()).unwrap_err();
    assert_eq!(error.step, "set time offsets");
    assert!(error.cause.contains("negative"), "{error}");
    host.assert_nothing_left();
}

#[test]
#[ignore = "needs root"]
fn the_host_s_own_mount_namespace_is_never_joined() {
    let host = Host::new();
    let spec = host.spec(&["/bin/true"], |spec| {
        let path = format!("/proc/{}/ns/mnt", std::process::id());
        // The monitor is in the thread's, which is not the process's: name it by the thread.
        let thread = rustix::thread::gettid().as_raw_nonzero();
        let path = path.replace("/ns", &format!("/task/{thread}/ns"));
        set_namespace(spec, json!({"type": "mount", "path": path}));
    });
    let error = host.create(&spec, root()).unwrap_err();
    assert!(error.cause.contains("the host's root"), "{error}");
    host.assert_nothing_left();
}

#[test]
#[ignore = "needs root"]
fn a_namespace_of_another_type_is_refused_and_leaves_nothing() {
    let host = Host::new();
    for (kind, file) in [
        ("pid", "net"),
        ("user", "net"),
        ("time", "net"),
        ("ipc", "net"),
    ] {
        let spec = host.spec(&["/bin/true"], |spec| {
            let path = format!("/proc/{}/ns/{file}", std::process::id());
            set_namespace(spec, json!({"type": kind, "path": path}));
        });
        let error = host.create(&spec, root()).unwrap_err();
        assert!(
            error.cause.contains(&format!("it is no {kind} namespace")),
            "{error}"
        );
        host.assert_nothing_left();
    }
}

/// A waiting init has nothing open but what it needs: no lock, no directory, no socket of its maker's.
#[test]
#[ignore = "needs root"]
fn a_waiting_init_holds_nothing_of_its_makers() {
    let host = Host::new();
    let container = host
        .create(&host.spec(&["/bin/true"], |_| {}), root())
        .unwrap();
    let fds = format!("/proc/{}/fd", init_of(&container));
    let mut open: Vec<String> = std::fs::read_dir(fds)
        .unwrap()
        .map(|entry| std::fs::read_link(entry.unwrap().path()).unwrap())
        .map(|path| path.to_string_lossy().into_owned())
        .collect();
    open.sort();
    let kinds = |prefix: &str| open.iter().filter(|path| path.starts_with(prefix)).count();
    assert_eq!((kinds("socket:"), kinds("pipe:")), (1, 2), "{open:?}");
    let host_path = |path: &&String| path.starts_with(host.directory.path().to_str().unwrap());
    assert_eq!(open.iter().find(host_path), None, "{open:?}");
    assert!(
        !open
            .iter()
            .any(|path| path.contains("pidfd") || path.contains("cgroup")),
        "{open:?}"
    );
    container.delete().unwrap();
}

/// The parent makes room, as the namespace has no right to; init sets exactly what is wanted, when nothing of its own
/// is hindered by it any more.
#[test]
#[ignore = "needs root"]
fn limits_of_a_user_namespace_are_exactly_those_of_the_spec() {
    let host = Host::new();
    let own = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let hard = own.maximum.unwrap_or(u64::MAX);
    for (soft, hard) in [(hard, hard), (7, 8)] {
        let script = "ulimit -Sn; ulimit -Hn";
        let spec = host.spec(&["/bin/sh", "-c", script], |spec| {
            bare(spec);
            map(spec, &[(0, 100_000, 10)]);
            let limit = json!({"type": "RLIMIT_NOFILE", "soft": soft, "hard": hard});
            spec["process"]["rlimits"] = json!([limit]);
        });
        let (_, output) = host.run(&spec, root());
        assert_eq!(output, format!("{soft}\n{hard}\n"));
        std::fs::remove_dir_all(host.log_dir()).unwrap();
    }
}

/// One that an unprivileged user made, and root joins.
#[test]
#[ignore = "needs root"]
fn where_groups_cannot_be_set_none_are_taken_along_and_none_can_be_added() {
    let host = Host::new();
    // This thread's alone: libc's call would set those of all tests.
    rustix::thread::set_thread_groups(&[rustix::process::Gid::from_raw(54321)]).unwrap();
    let holder = Holder::new(&["--user", "--map-root-user"]);
    let path = holder.path("user");
    let join = |groups: &'static [u32]| {
        let path = path.clone();
        move |spec: &mut Value| {
            bare(spec);
            set_namespace(spec, json!({"type": "user", "path": path}));
            spec["process"]["user"]["additionalGids"] = json!(groups);
        }
    };
    let spec = host.spec(&["/bin/true"], join(&[0]));
    let refused = host.create(&spec, root()).err().unwrap();
    assert!(refused.cause.contains("forbids setgroups"), "{refused}");
    let spec = host.spec(&["/bin/sleep", "1000"], join(&[]));
    let container = host.create(&spec, root()).unwrap();
    let status = std::fs::read_to_string(format!("/proc/{}/status", init_of(&container))).unwrap();
    let groups = status.lines().find(|line| line.starts_with("Groups:"));
    assert_eq!(groups.unwrap().trim(), "Groups:");
    container.start().unwrap();
    container.delete().unwrap();
    drop(holder);
}
