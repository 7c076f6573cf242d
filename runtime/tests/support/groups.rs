//! Groups for tests: made under a name of the test's own, emptied and removed when it ends, also when it fails.
#![allow(dead_code)] // Each test file uses its part.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use longshore_runtime::cgroup::{Group, Hierarchy};
use oci_spec::runtime::LinuxResources;

pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A top group that is emptied and removed when the test ends.
pub(crate) struct Top {
    pub(crate) hierarchy: Hierarchy,
    pub(crate) group: Group,
}

impl Top {
    pub(crate) fn new(hierarchy: Hierarchy) -> Top {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("longshore-test-{}-{number}", std::process::id());
        let group = hierarchy.group(&name).unwrap();
        let top = Top { hierarchy, group };
        top.group.create().unwrap();
        top
    }

    pub(crate) fn child(&self, name: &str) -> Group {
        let path = format!("{}/{name}", self.group.path());
        let group = self.hierarchy.group(&path).unwrap();
        group.create().unwrap();
        group
    }
}

impl Drop for Top {
    fn drop(&mut self) {
        let killed = self.group.kill(PATIENCE);
        let removed = self.group.remove();
        if !std::thread::panicking() {
            killed.unwrap();
            removed.unwrap();
        }
    }
}

/// A shell that runs its script only when it is told to, so that it can be put into a group first. It dies
/// with the test.
pub(crate) struct Shell(pub(crate) Child);

impl Shell {
    pub(crate) fn new(script: &str) -> Shell {
        let child = Command::new("/bin/sh")
            .args(["-c", &format!("read go; {script}")])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Shell(child)
    }

    pub(crate) fn within(group: &Group, script: &str) -> Shell {
        let shell = Shell::new(script);
        group.add(shell.0.id()).unwrap();
        shell
    }

    pub(crate) fn go(&mut self) {
        self.0.stdin.take().unwrap().write_all(b"go\n").unwrap();
    }

    /// Lets it run to its end.
    pub(crate) fn end(mut self) -> ExitStatus {
        self.go();
        self.fate()
    }

    /// How it ended, by itself or not.
    pub(crate) fn fate(mut self) -> ExitStatus {
        self.0.wait().unwrap()
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

pub(crate) fn host() -> Hierarchy {
    Hierarchy::of_host().unwrap()
}

/// The host's hierarchies and, on a hybrid host, those of its v2 mount alone.
pub(crate) fn both() -> Vec<Hierarchy> {
    let mut all = vec![host()];
    if !all[0].is_v2() {
        let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let v2: Vec<&str> = text
            .lines()
            .filter(|line| line.contains(" - cgroup2 "))
            .collect();
        all.extend(Hierarchy::of_mountinfo(v2.join("\n").as_bytes()).ok());
    }
    all
}

pub(crate) fn resources(json: &str) -> LinuxResources {
    serde_json::from_str(json).unwrap()
}

/// A control file's path where the test machines mount the hierarchies.
pub(crate) fn file(group: &Group, v1: &str, v2: &str) -> PathBuf {
    let path = match host().is_v2() {
        true => PathBuf::from("/sys/fs/cgroup").join(group.path()).join(v2),
        false => PathBuf::from("/sys/fs/cgroup")
            .join(v1.split('.').next().unwrap())
            .join(group.path())
            .join(v1),
    };
    assert!(path.exists(), "{}", path.display());
    path
}

pub(crate) fn value(group: &Group, v1: &str, v2: &str) -> String {
    let text = std::fs::read_to_string(file(group, v1, v2)).unwrap();
    text.trim().to_owned()
}
