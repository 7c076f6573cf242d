//! A container seen from outside: create it, start it, signal it, wait for it, delete it.
//!
//! Every call is blocking and may be made by any process that may read the run directory: the
//! truth lives in the monitor and in the directory, not in this object.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;
use serde::{Deserialize, Serialize};

use crate::StepError;

/// The runtime binary, opened once.
#[derive(Debug)]
pub struct Runtime {}

/// All that a new container needs.
#[derive(Debug)]
pub struct Launch<'a> {
    /// The container's id; also the name of its run directory.
    pub id: &'a str,
    /// The OCI spec. `linux.cgroupsPath` is relative to the hierarchies' roots; the runtime makes that
    /// group, applies `linux.resources`, and a network namespace `path` is joined. `root.path` is ignored.
    pub spec: &'a Spec,
    /// The root filesystem: a detached mount (fsmount(2) or open_tree(2)) that init attaches.
    pub root: OwnedFd,
    /// `<run root>/containers/<id>`: made here, 0700.
    pub run_dir: &'a Path,
    /// Where the monitor writes `log.jsonl` and its rotations; made here, 0700.
    pub log_dir: &'a Path,
    /// The group for the monitor itself, relative to the roots; must exist.
    pub monitor_cgroup: &'a str,
}

/// A container by its run directory.
#[derive(Clone, Debug)]
pub struct Container {
    /// Its run directory.
    pub run_dir: PathBuf,
}

/// OCI runtime status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// `create` has not ended (or died on the way): delete it and create again.
    Creating,
    /// Init waits before execve.
    Created {
        /// Pid of init on the host.
        pid: u32,
    },
    /// The user's program runs.
    Running {
        /// Pid on the host.
        pid: u32,
    },
    /// Ended.
    Stopped(ExitRecord),
    /// The monitor died and left no exit record.
    MonitorLost,
}

/// `exit.json` in the run directory, written by the monitor (fsync, rename) before anyone is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// Layout of this record.
    pub version: u32,
    /// Exit status, or 128 + signal.
    pub code: i32,
    /// OOM kills counted in the container's cgroup.
    pub oom_kills: u64,
    /// Whether execve ever succeeded.
    pub started: bool,
    /// Milliseconds since the epoch.
    pub finished_at: u64,
}

impl Runtime {
    /// Opens the `longshore-runtime` binary.
    pub fn open(_binary: &Path) -> Result<Runtime, StepError> {
        todo!()
    }
    /// Starts a monitor, which makes the container up to the point before execve. If a live one of this id
    /// is there already, that one is returned; a half-made one is removed first. On error nothing is left.
    pub fn create(&self, _launch: Launch<'_>) -> Result<Container, StepError> {
        todo!()
    }
}

impl Container {
    /// The container in this run directory; None if there is none.
    pub fn open(_run_dir: &Path) -> Option<Container> {
        todo!()
    }
    /// What it is doing.
    pub fn state(&self) -> Result<State, StepError> {
        todo!()
    }
    /// Lets init go on to execve and returns once execve has succeeded; again on a running one: Ok.
    pub fn start(&self) -> Result<(), StepError> {
        todo!()
    }
    /// Sends a signal to the first process, through its pidfd; Ok if it has ended already.
    pub fn signal(&self, _signal: i32) -> Result<(), StepError> {
        todo!()
    }
    /// A socket that reaches end of file when the exit record is written or the monitor is lost: for the
    /// caller to wait on, in whatever way it waits.
    pub fn subscribe(&self) -> Result<UnixStream, StepError> {
        todo!()
    }
    /// The exit record, if it is there.
    pub fn exit_record(&self) -> Result<Option<ExitRecord>, StepError> {
        todo!()
    }
    /// Kills what still runs (by cgroup), ends the monitor, removes the cgroup and the run directory. Logs stay.
    pub fn delete(&self) -> Result<(), StepError> {
        todo!()
    }
}
