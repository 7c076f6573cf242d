//! Control groups, v1, v2 and hybrid: create, limit, count, kill, remove.
//!
//! A group is one relative path that stands for one directory on v2 and for one directory per hierarchy
//! on v1, `name=systemd` included, so that a container's processes are in one place everywhere. Nothing is
//! remembered here: every call looks at the kernel anew, may be repeated, and may be made by any process.
//!
//! Groups nest: a task's group carries the task's limits and holds the containers' groups. On v2 a
//! group that has children can hold no processes of its own.
//!
//! | where | what | touches |
//! |---|---|---|
//! | `location`, `limits*`, `devices`, `mounts` | what follows from a spec and a host | nothing: golden tests |
//! | `container` | a container's group by its driver | |
//! | `create`, `apply`, `kill`, `freeze`, `oom` | acts on a group | the kernel |
//! | `statistics` | what it uses | the kernel, through pure readings |
//! | `systemd` | transient units | systemd, over D-Bus |
//! | `device_program` | v2's device list | the kernel, by bpf(2) |
//!
//! A hybrid host counts as v1; see `apply` for what its v2 mount is good for.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::FileType;
use rustix::io::Errno;

use self::directory::{Directory, failed, is_absent, refused, value_of};
use self::mounts::Layout;
use crate::StepError;

mod apply;
mod container;
mod create;
mod device_program;
mod devices;
mod directory;
mod entrance;
mod freeze;
mod gate;
mod kill;
mod limits;
mod limits_v1;
mod limits_v2;
mod location;
pub(crate) mod mounts;
mod oom;
mod statistics;
mod systemd;

pub use container::ContainerGroup;
pub use entrance::{Below, Entrance};
pub use freeze::Freeze;
pub(crate) use gate::Gate;
pub use location::{Driver, Location, Surroundings, Unit};
pub use oom::OomWatch;
pub use statistics::{Interface, Statistics};

/// The kernel lists a process of a foreign pid namespace as 0, which as a pid would mean ourselves.
const MISSING_PROCESS: &str = "a process of a pid namespace that is not below ours is in the group; \
                               act from the pid namespace of the host";

/// linux/magic.h
const CGROUP_SUPER_MAGIC: rustix::fs::FsWord = 0x0027_e0eb;
const CGROUP2_SUPER_MAGIC: rustix::fs::FsWord = 0x6367_7270;

/// The cgroup hierarchies of this host.
#[derive(Clone, Debug)]
pub struct Hierarchy {
    layout: Arc<Layout>,
}

/// A group below the hierarchies' roots, named by one relative path (`longshore/task/ID`).
#[derive(Clone, Debug)]
pub struct Group {
    layout: Arc<Layout>,
    path: String,
}

/// Where a group is in one v1 hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The hierarchy's controllers, and its name as `name=...`.
    pub(crate) names: Vec<String>,
    /// The group's directory.
    pub(crate) path: PathBuf,
}

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
    /// Looks where distributions mount the hierarchies, and in the table of all mounts only if one is elsewhere: that
    /// table is long on a host of many containers. A hybrid host counts as v1.
    pub fn of_host() -> Result<Hierarchy, StepError> {
        let read = |path: &str| {
            crate::kernel_text::read(path)
                .map_err(|errno| failed("read", Path::new(path), errno, "mount /proc"))
        };
        let own = read("/proc/self/cgroup")?;
        match mounts::standard(&own, version) {
            Some(layout) => Ok(Hierarchy {
                layout: Arc::new(layout),
            }),
            None => Hierarchy::of_mountinfo(&read("/proc/self/mountinfo")?),
        }
    }

    /// As `of_host`, from a mountinfo text (proc(5)). Mounts that another mount hides are left out.
    pub fn of_mountinfo(text: &[u8]) -> Result<Hierarchy, StepError> {
        match mounts::layout(mounts::parse(text), is_visible) {
            Some(layout) => Ok(Hierarchy {
                layout: Arc::new(layout),
            }),
            None => Err(refused(
                "find cgroups",
                "/proc/self/mountinfo",
                "no cgroup hierarchy with limits is mounted: mount -t cgroup2 none /sys/fs/cgroup",
            )),
        }
    }

    /// Whether this is pure v2.
    pub fn is_v2(&self) -> bool {
        matches!(*self.layout, Layout::V2 { .. })
    }

    /// Names the group at `path`, relative to the roots, without touching anything. The path must have
    /// components and none of them may be empty, `.` or `..`: no group outside is ever named by it.
    pub fn group(&self, path: &str) -> Result<Group, StepError> {
        let named = |part: &str| {
            let dots = matches!(part, "" | "." | "..");
            !dots && part.len() <= 255 && !part.contains(|c: char| c.is_control())
        };
        if path.len() > 2048 || !path.split('/').all(named) {
            let cause = "it must be relative, without `..`, empty components or control characters, each \
                         component at most 255 bytes long";
            return Err(refused("name cgroup", format!("{path:?}"), cause));
        }
        Ok(Group {
            layout: self.layout.clone(),
            path: path.to_owned(),
        })
    }
}

/// Of which version the root of a hierarchy at this place is, if it is one. A group that is mounted there, as in a
/// container, is none.
fn version(place: &Path) -> Option<mounts::Version> {
    // kernfs numbers its inodes from the root.
    const ROOT: u64 = 1;
    let stat = rustix::fs::lstat(place).ok()?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory || stat.st_ino != ROOT {
        return None;
    }
    match rustix::fs::statfs(place).ok()?.f_type {
        CGROUP_SUPER_MAGIC => Some(mounts::Version::V1),
        CGROUP2_SUPER_MAGIC => Some(mounts::Version::V2),
        _ => None,
    }
}

/// The kernel's own answer on whether another mount lies on top.
fn is_visible(mount: &mounts::Mount) -> bool {
    rustix::fs::stat(&mount.point).is_ok_and(|stat| {
        let device = stat.st_dev;
        (rustix::fs::major(device), rustix::fs::minor(device)) == mount.device
    })
}

impl Group {
    /// The path relative to the roots, as it was given.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// v2: the group's directory, for CLONE_INTO_CGROUP of clone3(2). None on v1, where a process enters
    /// by `gates` or `add`. The group must exist.
    pub fn cgroup_fd(&self) -> Result<Option<OwnedFd>, StepError> {
        match &*self.layout {
            Layout::V1 { .. } => Ok(None),
            Layout::V2 { root } => Ok(Some(self.existing(root)?.into_fd())),
        }
    }

    /// Moves a process in (v1: in every hierarchy, one after the other). On error it may be in some of
    /// them already: end it.
    pub fn add(&self, pid: u32) -> Result<(), StepError> {
        if pid == 0 {
            let cause = "pid 0 would mean the caller itself: give its pid";
            return Err(refused("add process to cgroup", &self.path, cause));
        }
        for root in self.roots() {
            let remedy = "ESRCH: the process has ended; ENOENT: the group does not exist; EBUSY: the group has children (v2) \
                          and a process must enter one of those; ENOSPC: its cpuset is empty";
            match directory::write_at(&root.join(&self.path), "cgroup.procs", &pid.to_string()) {
                Ok(()) => {}
                Err(Errno::NOENT) if self.is_optional(root) => {}
                Err(errno) => {
                    let file = root.join(&self.path).join("cgroup.procs");
                    let step = format!("write \"{pid}\" to");
                    return Err(failed(&step, &file, errno, remedy));
                }
            }
        }
        Ok(())
    }

    /// v1: the way into every hierarchy for a process that moves itself. Empty on v2.
    pub(crate) fn gates(&self) -> Result<Vec<Gate>, StepError> {
        if self.is_v2() {
            return Ok(Vec::new());
        }
        let gate = |root: &PathBuf| {
            let of_v2 = self.is_optional(root);
            match Gate::open(&root.join(&self.path), Gate::name(of_v2)) {
                Err(error) if of_v2 && is_absent(&error) => None,
                other => Some(other),
            }
        };
        self.roots().into_iter().filter_map(gate).collect()
    }

    /// Whether its host is pure v2.
    pub fn is_v2(&self) -> bool {
        matches!(*self.layout, Layout::V2 { .. })
    }

    /// See [`ContainerGroup::places`].
    fn places(&self) -> Vec<Place> {
        let Layout::V1 { hierarchies, .. } = &*self.layout else {
            return Vec::new();
        };
        let place = |(point, names): &(PathBuf, Vec<String>)| Place {
            names: names.clone(),
            path: point.join(&self.path),
        };
        hierarchies.iter().map(place).collect()
    }

    /// Whether it exists in any hierarchy. If the kernel does not let us look, it counts as existing: what
    /// is not proven to be gone is not gone.
    pub fn exists(&self) -> bool {
        self.directories().map_or(true, |found| !found.is_empty())
    }

    /// Pids in the group and everything below it, over all hierarchies, sorted. A group that does not exist
    /// has none.
    pub fn processes(&self) -> Result<Vec<u32>, StepError> {
        let mut pids = Vec::new();
        for directory in self.directories()? {
            pids.extend(directory.processes()?);
        }
        pids.sort_unstable();
        pids.dedup();
        match pids.first() {
            Some(0) => Err(refused("list processes of", &self.path, MISSING_PROCESS)),
            _ => Ok(pids),
        }
    }

    /// Processes of this group and of the groups below it that the OOM killer has killed, also when the
    /// limit that was hit is an ancestor's: the kernel charges the event to the victim's own group.
    ///
    /// v2: `oom_kill` of `memory.events`, which counts descendants, also removed ones, unless the mount has
    /// `memory_localevents` or the kernel is older than 5.2: then as v1. v1: the sum of `oom_kill` of `memory.oom_control` over
    /// the subtree as it is now, so a child that is removed takes its count along: read before `remove`.
    pub fn oom_kills(&self) -> Result<u64, StepError> {
        match &*self.layout {
            Layout::V1 { .. } => match self.controller("memory")? {
                Some(directory) => directory.sum("memory.oom_control", "oom_kill"),
                None => Err(no_controller("memory", "memory.oom_control")),
            },
            Layout::V2 { root } => {
                let directory = self.existing(root)?;
                let kills = |text: &str| value_of(text, "oom_kill");
                let all = number(&directory, "memory.events", "memory", kills)?;
                let own = directory.read("memory.events.local")?;
                // Where there are more than the group's own, descendants are counted.
                match own.as_deref().and_then(kills) {
                    Some(own) if all > own => Ok(all),
                    Some(_) => directory.sum("memory.events.local", "oom_kill"),
                    None => directory.sum("memory.events", "oom_kill"),
                }
            }
        }
    }

    /// Usage now.
    pub fn usage(&self) -> Result<Usage, StepError> {
        let whole = |text: &str| text.trim().parse().ok();
        let (cpu_ns, memory_bytes) = match &*self.layout {
            Layout::V1 { .. } => {
                let file = |controller: &str, file: &str| match self.controller(controller)? {
                    Some(directory) => number(&directory, file, controller, whole),
                    None => Err(no_controller(controller, file)),
                };
                (
                    file("cpuacct", "cpuacct.usage")?,
                    file("memory", "memory.usage_in_bytes")?,
                )
            }
            Layout::V2 { root } => {
                let directory = self.existing(root)?;
                let microseconds = |text: &str| value_of(text, "usage_usec");
                (
                    number(&directory, "cpu.stat", "cpu", microseconds)?.saturating_mul(1000),
                    number(&directory, "memory.current", "memory", whole)?,
                )
            }
        };
        Ok(Usage {
            cpu_ns,
            memory_bytes,
            processes: self.processes()?.len() as u64,
        })
    }

    /// Kills every process of the subtree and waits until it is proven empty (v2 `cgroup.kill` and
    /// `populated 0`; v1 freeze, SIGKILL all, thaw, until every cgroup.procs is empty). Blocks; the error
    /// after `patience` names the pids that remain. Fine if the group is empty or gone already.
    pub fn kill(&self, patience: Duration) -> Result<(), StepError> {
        let deadline = Instant::now() + patience;
        match &*self.layout {
            Layout::V1 { .. } => {
                let freezer = match self.point_of("freezer") {
                    Some(point) => Directory::at(point, &self.path)?,
                    None => None,
                };
                kill::kill_v1(self, freezer.as_ref(), deadline)
            }
            Layout::V2 { root } => match Directory::at(root, &self.path)? {
                Some(directory) => kill::kill_v2(self, &directory, deadline),
                None => Ok(()),
            },
        }
    }

    /// Removes the subtree, deepest first, in every hierarchy; fine if it is gone already. EBUSY is borne
    /// for a second, as processes leave their group a little after their death; a group that holds live
    /// ones is an error that names them.
    pub fn remove(&self) -> Result<(), StepError> {
        for point in self.roots() {
            let path = point.join(&self.path);
            match rustix::fs::rmdir(&path) {
                Ok(()) | Err(Errno::NOENT) => {}
                // It has children, or somebody is in it, or leaves it just now.
                Err(_) => self.remove_subtree(point)?,
            }
        }
        Ok(())
    }

    /// Removes it where nobody is in it and nothing is below it; whether nothing of it is left. What remains
    /// is in as many hierarchies as before: the first one that is occupied ends the attempt, and a process is in
    /// all of them.
    pub(crate) fn remove_if_empty(&self) -> bool {
        self.roots().into_iter().all(|point| {
            let removed = rustix::fs::rmdir(point.join(&self.path));
            matches!(removed, Ok(()) | Err(Errno::NOENT))
        })
    }

    fn remove_subtree(&self, point: &Path) -> Result<(), StepError> {
        let (above, name) = match self.path.rsplit_once('/') {
            Some((above, name)) => (Some(above), name),
            None => (None, self.path.as_str()),
        };
        let parent = match above {
            Some(above) => Directory::at(point, above)?,
            None => Some(Directory::root(point)?),
        };
        parent.map_or(Ok(()), |parent| parent.remove(name))
    }

    /// Every root below which the group may have a directory; the last one of a hybrid host is v2's.
    fn roots(&self) -> Vec<&PathBuf> {
        self.layout.roots()
    }

    /// Whether the group is there only if a limit has asked for it.
    fn is_optional(&self, root: &Path) -> bool {
        matches!(&*self.layout, Layout::V1 { unified: Some(unified), .. } if unified == root)
    }

    /// The group's directories, where it exists.
    fn directories(&self) -> Result<Vec<Directory>, StepError> {
        self.roots()
            .into_iter()
            .filter_map(|point| Directory::at(point, &self.path).transpose())
            .collect()
    }

    fn existing(&self, root: &Path) -> Result<Directory, StepError> {
        Directory::at(root, &self.path)?.ok_or_else(|| {
            let path = root.join(&self.path);
            failed("open cgroup", &path, Errno::NOENT, "create the group first")
        })
    }

    fn point_of(&self, controller: &str) -> Option<&Path> {
        let Layout::V1 { hierarchies, .. } = &*self.layout else {
            return None;
        };
        let holds = |names: &[String]| names.iter().any(|name| name == controller);
        let (point, _) = hierarchies.iter().find(|(_, names)| holds(names))?;
        Some(point)
    }

    /// v1: the group's directory in the controller's hierarchy; None if no hierarchy has the controller.
    fn controller(&self, controller: &str) -> Result<Option<Directory>, StepError> {
        self.point_of(controller)
            .map(|point| self.existing(point))
            .transpose()
    }
}

fn no_controller(controller: &str, subject: &str) -> StepError {
    let cause = format!(
        "no mounted v1 hierarchy has the {controller} controller: mount one, or boot with cgroup v2"
    );
    refused("find controller for", subject, cause)
}

/// A number out of a control file.
fn number(
    directory: &Directory,
    file: &str,
    controller: &str,
    parse: impl Fn(&str) -> Option<u64>,
) -> Result<u64, StepError> {
    let path = directory.path().join(file);
    let text = directory.read(file)?.ok_or_else(|| {
        let remedy = format!("the {controller} controller is not enabled for this group");
        failed("read", &path, Errno::NOENT, &remedy)
    })?;
    parse(&text).ok_or_else(|| {
        refused(
            "read",
            path.display(),
            "the kernel's answer has no such number",
        )
    })
}
