//! A host for container tests: a mount namespace, a cgroup parent and directories of each test's own, and
//! the proof at the end that nothing was left.
//!
//! The root file system is a detached tmpfs, filled through its descriptor: it is seen nowhere and is gone
//! with its last user.
#![allow(dead_code)] // Each test file uses its part.

pub(crate) mod bundle;
pub(crate) mod cli;
pub(crate) mod commands;
pub(crate) mod driver;
pub(crate) mod lines;
pub(crate) mod program;
pub(crate) mod skip;

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use longshore_runtime::StepError;
use longshore_runtime::cgroup::{Group, Hierarchy};
use longshore_runtime::container::{Container, Launch, Runtime, State};
use longshore_sys::{MountAttributes, mount_setattr};
use oci_spec::runtime::Spec;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount,
    fsopen,
};
use serde_json::{Value, json};

pub(crate) const BUSYBOX: &str = "/bin/busybox";
pub(crate) const APPLETS: [&str; 24] = [
    "sh", "true", "false", "cat", "echo", "id", "env", "pwd", "sleep", "ls", "touch", "kill",
    "hostname", "ip", "head", "dd", "mount", "readlink", "stat", "grep", "umask", "wc", "seq",
    "tail",
];

/// How long a test waits for what must come. Far more than it takes, also in an emulated guest: who waits in vain fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

static NUMBER: AtomicU32 = AtomicU32::new(0);

pub(crate) struct Host {
    pub(crate) runtime: Runtime,
    pub(crate) directory: tempfile::TempDir,
    pub(crate) cgroup: String,
    mounts: String,
}

impl Host {
    pub(crate) fn new() -> Host {
        own_mount_namespace();
        Host::here()
    }

    /// In the mount namespace and root directory that the thread is in.
    pub(crate) fn here() -> Host {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let cgroup = format!("longshore-test-{}-{number}", std::process::id());
        let host = Host {
            runtime: Runtime::open(Path::new(env!("CARGO_BIN_EXE_longshore-runtime")))
                .expect("root and a 5.12 kernel"),
            directory: tempfile::tempdir().unwrap(),
            mounts: mounts(),
            cgroup,
        };
        host.group("monitor").create().unwrap();
        host
    }

    pub(crate) fn group(&self, name: &str) -> Group {
        let path = if name.is_empty() {
            self.cgroup.clone()
        } else {
            format!("{}/{name}", self.cgroup)
        };
        Hierarchy::of_host().unwrap().group(&path).unwrap()
    }

    pub(crate) fn run_dir(&self) -> PathBuf {
        self.directory.path().join("containers/c1")
    }

    pub(crate) fn log_dir(&self) -> PathBuf {
        self.directory.path().join("logs/c1")
    }

    pub(crate) fn container(&self) -> Container {
        Container {
            run_dir: self.run_dir(),
        }
    }

    pub(crate) fn create(&self, spec: &Spec, root: Root) -> Result<Container, StepError> {
        let monitor_cgroup = self.monitor_cgroup();
        let created = self.runtime.create(Launch {
            id: "c1",
            spec,
            root: root.mount,
            run_dir: &self.run_dir(),
            log_dir: &self.log_dir(),
            monitor_cgroup: &monitor_cgroup,
        });
        created.map(|created| created.container)
    }

    pub(crate) fn monitor_cgroup(&self) -> String {
        format!("{}/monitor", self.cgroup)
    }

    /// The monitors that live. The nursery, from which they come, is this process's own child.
    pub(crate) fn monitors(&self) -> Vec<u32> {
        let mut pids = self.group("monitor").processes().unwrap();
        pids.retain(|pid| !is_own_child(*pid));
        pids
    }

    /// Runs a program to its end: its exit record and all of its output.
    pub(crate) fn run(&self, spec: &Spec, root: Root) -> (Exit, String) {
        let container = self.create(spec, root).unwrap();
        container.start().unwrap();
        let exit = wait(&container);
        let output = self.output();
        container.delete().unwrap();
        (exit, output)
    }

    /// Runs a shell command in an unchanged spec.
    pub(crate) fn shell(&self, command: &str) -> (Exit, String) {
        self.run(
            &self.spec(&["/bin/sh", "-c", command], |_| {}),
            Root::busybox(),
        )
    }

    /// What is in the log so far.
    pub(crate) fn output(&self) -> String {
        let text = std::fs::read_to_string(self.log_dir().join("log.jsonl")).unwrap_or_default();
        let entry = |line: &str| {
            serde_json::from_str::<Value>(line).unwrap()["log"]
                .as_str()
                .unwrap()
                .to_owned()
        };
        // The monitor may be in the midst of a line.
        let lines = text.split_inclusive('\n');
        lines
            .filter(|line| line.ends_with('\n'))
            .map(entry)
            .collect()
    }

    pub(crate) fn spec(&self, args: &[&str], change: impl FnOnce(&mut Value)) -> Spec {
        let mut spec = base_spec(args, &format!("{}/c1", self.cgroup));
        change(&mut spec);
        serde_json::from_value(spec).unwrap()
    }

    /// Pids whose cgroup is this test's, monitors and zombies included, the nursery not.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let pids = std::fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
        let ours = |pid: &u32| {
            std::fs::read_to_string(format!("/proc/{pid}/cgroup"))
                .is_ok_and(|text| text.contains(&format!("{}/", self.cgroup)))
        };
        pids.filter(ours)
            .filter(|pid| !is_own_child(*pid))
            .collect()
    }

    /// Nothing of the container is left but its log.
    pub(crate) fn assert_nothing_left(&self) {
        assert!(!self.run_dir().exists(), "the run directory is left");
        assert!(!self.group("c1").exists(), "the cgroup is left");
        eventually("no process is left", || self.processes().is_empty());
        assert_eq!(mounts(), self.mounts, "mounts are left");
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let deleted = self.container().delete();
        if !std::thread::panicking() {
            deleted.unwrap();
            self.assert_nothing_left();
        }
        let removed = self
            .group("")
            .kill(Duration::from_secs(10))
            .and_then(|()| self.group("").remove());
        if !std::thread::panicking() {
            removed.unwrap();
        }
    }
}

/// Waits for a condition that the kernel brings about by itself, such as a dead monitor leaving /proc.
pub(crate) fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = std::time::Instant::now() + PATIENCE;
    while !condition() {
        assert!(std::time::Instant::now() < deadline, "not in time: {what}");
        std::thread::yield_now();
    }
}

/// Whether a process sleeps in one of these system calls (proc_pid_syscall(5)): in another, it is still on its way.
pub(crate) fn sleeps_in(pid: u32, calls: &[libc::c_long]) -> bool {
    let call = std::fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap_or_default();
    let number = call
        .split(' ')
        .next()
        .and_then(|number| number.parse().ok());
    number.is_some_and(|number| calls.contains(&number))
}

pub(crate) fn is_own_child(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let parent = stat
        .rsplit_once(')')
        .and_then(|(_, rest)| rest.split_whitespace().nth(1));
    parent == Some(std::process::id().to_string().as_str())
}

/// How a container ended that its own monitor saw end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exit {
    pub(crate) code: i32,
    pub(crate) started: bool,
    pub(crate) oom_kills: u64,
}

/// Waits for the end of a container, then reads its record.
pub(crate) fn wait(container: &Container) -> Exit {
    let mut end = container.subscribe().unwrap();
    assert_eq!(end.read(&mut [0]).unwrap(), 0);
    let record = container
        .exit_record()
        .unwrap()
        .expect("a record, as the monitor has ended");
    assert_eq!(container.state().unwrap(), State::Stopped(record));
    Exit {
        code: record.code.expect("a code, as its parent has waited"),
        started: record.started,
        oom_kills: record.oom_kills,
    }
}

/// A root file system.
pub(crate) struct Root {
    pub(crate) mount: OwnedFd,
}

impl Root {
    pub(crate) fn empty() -> Root {
        let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
        fsconfig_set_string(&context, "mode", "0755").unwrap();
        fsconfig_create(&context).unwrap();
        let mount = fsmount(
            &context,
            FsMountFlags::FSMOUNT_CLOEXEC,
            MountAttrFlags::empty(),
        )
        .unwrap();
        Root { mount }
    }

    /// A static busybox and its links, /etc/passwd, and nothing else.
    pub(crate) fn busybox() -> Root {
        assert!(
            Path::new(BUSYBOX).exists(),
            "install Debian's busybox-static"
        );
        let root = Root::empty();
        for directory in ["bin", "etc", "tmp"] {
            std::fs::create_dir(root.path(directory)).unwrap();
        }
        program::install(BUSYBOX, root.path("bin/busybox"));
        for applet in APPLETS {
            std::os::unix::fs::symlink("busybox", root.path("bin").join(applet)).unwrap();
        }
        std::fs::write(
            root.path("etc/passwd"),
            "root:x:0:0::/root:/bin/sh\nweb:x:33:33::/srv/web:/bin/sh\n",
        )
        .unwrap();
        root
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.mount.as_raw_fd())).join(name)
    }
}

fn mounts() -> String {
    std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap()
}

/// The test's thread gets a mount namespace of its own, so that no other program's mounts disturb the count.
pub(crate) fn own_mount_namespace() {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).expect("root");
    let root = rustix::fs::openat(CWD, "/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
    let private = MountAttributes {
        propagation: libc::MS_PRIVATE,
        ..Default::default()
    };
    mount_setattr(root.as_fd(), private, true).unwrap();
}

pub(crate) fn write(path: PathBuf, text: &str, mode: u32) {
    std::fs::write(&path, text).unwrap();
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(mode);
    File::open(path)
        .unwrap()
        .set_permissions(permissions)
        .unwrap();
}

pub(crate) fn base_spec(args: &[&str], cgroup: &str) -> Value {
    let capabilities = [
        "CAP_CHOWN",
        "CAP_DAC_OVERRIDE",
        "CAP_KILL",
        "CAP_SETGID",
        "CAP_SETUID",
        "CAP_NET_BIND_SERVICE",
    ];
    json!({
        "ociVersion": "1.2.0",
        "hostname": "box",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": args,
            "env": ["PATH=/bin"],
            "cwd": "/",
            "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
        },
        "root": {"path": "ignored"},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid", "noexec", "nodev", "ro"]},
        ],
        "linux": {
            "cgroupsPath": cgroup,
            "resources": {},
            "namespaces": [
                {"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, {"type": "cgroup"}
            ],
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/scsi", "/proc/acpi", "/sys/firmware", "/proc/nothing"],
            "readonlyPaths": ["/proc/bus", "/proc/sys", "/proc/sysrq-trigger", "/proc/nothing"],
        },
    })
}
