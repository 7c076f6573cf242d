//! Control groups, v1, v2 and hybrid: create, limit, count, kill, remove.

use crate::StepError;
use oci_spec::runtime::LinuxResources;

/// The cgroup hierarchies of this host.
#[derive(Clone, Debug)]
pub struct Hierarchy {}

/// A group below the hierarchies' roots, named by one relative path (`longshore/tasks/ID`).
#[derive(Clone, Debug)]
pub struct Group {}

/// CPU time and memory of a group, from its own files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Nanoseconds of CPU time.
    pub cpu_ns: u64,
    /// Bytes charged now.
    pub memory_bytes: u64,
    /// Processes in the group and below.
    pub processes: u64,
}

impl Hierarchy {
    /// Reads /proc/self/mountinfo. A hybrid host counts as v1.
    pub fn of_host() -> Result<Hierarchy, StepError> {
        todo!()
    }
    /// Whether this is pure v2.
    pub fn is_v2(&self) -> bool {
        todo!()
    }
    /// Names the group at `path`, relative to the roots, without touching anything.
    pub fn group(&self, _path: &str) -> Result<Group, StepError> {
        todo!()
    }
}

impl Group {
    /// Makes the group (and its parents) in every hierarchy, on v2 enabling the controllers on the way.
    pub fn create(&self) -> Result<(), StepError> {
        todo!()
    }
    /// Writes the limits that are given; leaves the others.
    pub fn apply(&self, _resources: &LinuxResources) -> Result<(), StepError> {
        todo!()
    }
    /// Moves a process in.
    pub fn add(&self, _pid: u32) -> Result<(), StepError> {
        todo!()
    }
    /// Whether it exists in any hierarchy.
    pub fn exists(&self) -> bool {
        todo!()
    }
    /// Pids in the group and everything below it, over all hierarchies.
    pub fn processes(&self) -> Result<Vec<u32>, StepError> {
        todo!()
    }
    /// OOM kills in this group (v2 `memory.events` oom_kill, v1 `memory.oom_control` oom_kill).
    pub fn oom_kills(&self) -> Result<u64, StepError> {
        todo!()
    }
    /// Usage now.
    pub fn usage(&self) -> Result<Usage, StepError> {
        todo!()
    }
    /// Kills every process of the subtree and waits until it is proven empty (v2 `cgroup.kill` and
    /// `populated 0`; v1 freeze, SIGKILL all, thaw, until every cgroup.procs is empty). Blocks; the error
    /// after `patience` names the pids that remain.
    pub fn kill(&self, _patience: std::time::Duration) -> Result<(), StepError> {
        todo!()
    }
    /// Removes the subtree, deepest first, in every hierarchy; fine if it is gone already.
    pub fn remove(&self) -> Result<(), StepError> {
        todo!()
    }
}
