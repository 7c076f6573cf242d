//! How a process moves itself into a v1 group.
//!
//! Whoever moves another process by `cgroup.procs` holds a lock against every fork, exec and exit on the host, and
//! the first one to take it waits for an RCU grace period: milliseconds, for a start that takes fewer. A thread that
//! moves itself by `tasks` cannot fork, exec or end meanwhile, so the kernel (since 5.16) takes no lock for it. A
//! process that has just been cloned has one thread. So its parent opens the files, by the parent's rights, and the
//! child writes; decision 0015.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};

use super::directory::{Directory, failed};
use crate::StepError;

/// A group's `tasks`, open: whoever has one thread and writes into it is in the group.
#[derive(Debug)]
pub(crate) struct Gate {
    file: OwnedFd,
    /// For messages only.
    path: PathBuf,
}

impl Gate {
    /// `group` is a directory that has no symbolic link in its path, as `Directory::at` would open it.
    pub(super) fn open(group: &Path, file: &str) -> Result<Gate, StepError> {
        let path = group.join(file);
        let flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        match rustix::fs::openat(CWD, &path, flags, Mode::empty()) {
            Ok(file) => Ok(Gate { file, path }),
            Err(errno) => Err(failed("open", &path, errno, "")),
        }
    }

    /// As `open`, for a group that was opened by a way on which nobody could stand.
    pub(super) fn of(group: &Directory, file: &str) -> Result<Gate, StepError> {
        let path = group.path().join(file);
        match group.open_to_write(file) {
            Ok(file) => Ok(Gate { file, path }),
            Err(errno) => Err(failed("open", &path, errno, "")),
        }
    }

    /// Moves the calling thread into the group.
    pub(crate) fn pass(self) -> Result<(), StepError> {
        let remedy = "ENODEV: the group has been removed; ENOSPC: its cpuset is empty; EBUSY: the group has children (v2) and \
                      a process must enter one of those";
        match rustix::io::retry_on_intr(|| rustix::io::write(&self.file, b"0")) {
            Ok(_) => Ok(()),
            Err(errno) => Err(failed("enter cgroup by", &self.path, errno, remedy)),
        }
    }

    /// For the way into another process.
    pub(crate) fn into_parts(self) -> (OwnedFd, PathBuf) {
        (self.file, self.path)
    }

    /// As it came out of `into_parts`.
    pub(crate) fn of_parts(file: OwnedFd, path: PathBuf) -> Gate {
        Gate { file, path }
    }

    /// What a hierarchy calls the file: v2 has none for threads alone.
    pub(super) fn name(of_v2: bool) -> &'static str {
        match of_v2 {
            true => "cgroup.procs",
            false => "tasks",
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::super::Hierarchy;
    use super::*;

    fn cgroups(of: &str) -> String {
        std::fs::read_to_string(format!("/proc/{of}/cgroup")).unwrap()
    }

    #[test]
    #[ignore = "needs root"]
    fn a_thread_that_passes_is_in_the_group_and_no_other_one_is() {
        let host = Hierarchy::of_host().unwrap();
        if host.is_v2() {
            return;
        }
        let name = format!("longshore-gate-{}", std::process::id());
        let group = host.group(&name).unwrap();
        group.create().unwrap();
        let gates = group.gates().unwrap();
        let places = gates.len();
        let passed = std::thread::spawn(|| {
            gates.into_iter().try_for_each(Gate::pass).unwrap();
            cgroups("thread-self")
        });
        let inside = passed.join().unwrap();
        let late = group.gates().unwrap();
        group.remove().unwrap();
        assert_eq!(inside.matches(&format!(":/{name}\n")).count(), places);
        assert!(!cgroups("self").contains(&name));
        for gate in late {
            let refused = gate.pass().unwrap_err();
            assert_eq!(refused.errno, Some(Errno::NODEV.raw_os_error()));
            assert!(refused.subject.ends_with(&format!("{name}/tasks")));
        }
    }
}
