//! A container's group by its driver: what creation, `exec`, `kill`, `delete` and the monitor call.
//!
//! ```text
//!   open ─▶ refuse_occupied ─▶ (record the location) ─▶ prepare ─▶ clone3(clone_fd) ─▶ admit ─▶ Enter
//!                                                       clone3 ─▶ prepare ─▶ gates ─▶ Enter      (is_entered)
//!                                                                     delete: kill ─▶ remove
//! ```
//! Under cgroupfs `prepare` makes the group and writes the limits, the process is born in it on v2
//! (`clone_fd`) and moves itself in on v1 (`gates`). systemd makes a scope only around a living process, so there
//! `admit` does it all; the process waits meanwhile, and nothing of the container has run.
//!
//! Nothing is remembered between calls: each of them may be made by another process.

use std::os::fd::OwnedFd;
use std::time::Duration;

use oci_spec::runtime::LinuxResources;
use rustix::io::Errno;

use super::devices::{self, Rule};
use super::directory::{is_absent, refused};
use super::location::{Location, Unit};
use super::systemd::{self, Property, Systemd};
use super::{Freeze, Gate, Group, Hierarchy, OomWatch, Place, Statistics};
use crate::StepError;

/// Why a user's container may have none, and how it gets one.
const GONE_WITHOUT: &str = "the host let its user make no cgroup for it; have root give the user one, name a group \
                            below that in linux.cgroupsPath, and create the container anew (with systemd and cgroup \
                            v2, `--systemd-cgroup` does it)";

/// A container's group, or its absence.
#[derive(Clone, Debug)]
pub struct ContainerGroup {
    location: Location,
    /// None if the driver is disabled.
    group: Option<Group>,
}

impl ContainerGroup {
    /// Finds where the group is or will be. Nothing is made.
    pub fn open(location: &Location) -> Result<ContainerGroup, StepError> {
        let group = match location {
            Location::Path { path, .. } => Some(Hierarchy::of_host()?.group(path)?),
            Location::Unit(unit) => {
                let path = format!("{}{}", systemd::base(unit.user), unit.path()?);
                Some(Hierarchy::of_host()?.group(&path)?)
            }
            Location::Disabled => None,
        };
        Ok(ContainerGroup {
            location: location.clone(),
            group,
        })
    }

    /// Where it is, as it was opened.
    pub(crate) fn location(&self) -> &Location {
        &self.location
    }

    /// The group in the hierarchies. None if the driver is disabled. It may not exist: ask it.
    pub fn group(&self) -> Option<&Group> {
        self.group.as_ref()
    }

    /// v1: where the group's directory is in each hierarchy, by the names of its controllers.
    pub(crate) fn places(&self) -> Vec<Place> {
        self.group.as_ref().map(Group::places).unwrap_or_default()
    }

    /// Whether nobody asked for the group, so that the container may do without.
    pub(super) fn is_optional(&self) -> bool {
        matches!(self.location, Location::Path { optional: true, .. })
    }

    /// Refuses a group that holds somebody's processes or is frozen. To be called before the container is
    /// recorded, because whoever finds the record may kill what is in the group.
    pub fn refuse_occupied(&self) -> Result<(), StepError> {
        let Some(group) = self.group.as_ref().filter(|group| group.exists()) else {
            return Ok(());
        };
        let cause = if !group.processes()?.is_empty() {
            "processes of another container are in it; give each container a cgroup of its own"
        } else if group.freeze_state()? != Freeze::Thawed {
            "it is frozen, and the container would never start; thaw or remove it first"
        } else {
            return Ok(());
        };
        Err(refused("make cgroup", group.path(), cause))
    }

    /// Whether the container's first process moves itself in by `gates`. Then it may be there before its group is.
    pub(crate) fn is_entered(&self) -> bool {
        let by_hand = matches!(self.location, Location::Path { .. });
        by_hand && self.group.as_ref().is_some_and(|group| !group.is_v2())
    }

    /// Makes the group and writes its limits, where that needs no process: before the clone, if the process is born in it.
    pub fn prepare(&self, resources: Option<&LinuxResources>) -> Result<(), StepError> {
        match (&self.location, &self.group) {
            (Location::Path { optional, .. }, Some(group)) => {
                let made = group.create().and_then(|()| limit(group, resources));
                match made {
                    Err(error) if *optional && forbidden(&error) => {
                        self.go_without(resources, error)
                    }
                    other => other,
                }
            }
            (Location::Unit(unit), Some(group)) => {
                // What can be refused before there is a process.
                properties(group, resources)?;
                Systemd::connect(unit.user).map(drop)
            }
            _ => refuse_limits(resources),
        }
    }

    /// A user's container needs no group if it asks for no limits.
    fn go_without(
        &self,
        resources: Option<&LinuxResources>,
        error: StepError,
    ) -> Result<(), StepError> {
        // What was made of it on the way; a leftover is one that `remove` finds again.
        self.remove().ok();
        match asks_for_limits(resources) {
            true => Err(error),
            false => Ok(()),
        }
    }

    /// Whether the container goes without a group: the driver is disabled, or the host has refused the one that nobody
    /// asked for. To be asked once it was prepared.
    pub(crate) fn is_without(&self) -> bool {
        match &self.group {
            None => true,
            Some(group) => self.is_optional() && !group.exists(),
        }
    }

    /// For CLONE_INTO_CGROUP; None where processes enter by `gates` or `admit`.
    pub fn clone_fd(&self) -> Result<Option<OwnedFd>, StepError> {
        let (tolerant, group) = match (&self.location, &self.group) {
            (Location::Path { optional, .. }, Some(group)) => (*optional, group),
            // There is none before the scope, but `exec` finds it.
            (Location::Unit(Unit { user: false, .. }), Some(group)) => (true, group),
            _ => return Ok(None),
        };
        match group.cgroup_fd() {
            Err(error) if tolerant && is_absent(&error) => Ok(None),
            other => other,
        }
    }

    /// By which the container's first process moves itself in, once it is told to. Empty where it is born in
    /// its group or enters by `admit`.
    pub(crate) fn gates(&self) -> Result<Vec<Gate>, StepError> {
        match (&self.location, &self.group) {
            (Location::Path { optional, .. }, Some(group)) => match group.gates() {
                Err(error) if *optional && is_absent(&error) => Ok(Vec::new()),
                other => other,
            },
            _ => Ok(Vec::new()),
        }
    }

    /// Brings the container's first process in where only systemd can; it waits meanwhile. To be called once after
    /// the clone: where the process is born in its group or has gates to it, there is nothing to do. `resources` are
    /// those that `prepare` was given.
    pub fn admit(&self, pid: u32, resources: Option<&LinuxResources>) -> Result<(), StepError> {
        match (&self.location, &self.group) {
            (Location::Unit(unit), Some(group)) => {
                let limits = properties(group, resources)?;
                Systemd::connect(unit.user)?.start(unit, pid, &limits)?;
                if !group.is_v2() {
                    // On v1 systemd keeps only some of the hierarchies.
                    group.create()?;
                    group.add(pid)?;
                } else if unit.name.ends_with(".slice") {
                    group.add(pid)?;
                }
                limit(group, resources)
            }
            _ => Ok(()),
        }
    }

    /// Kills every process in it and proves it; see [`Group::kill`]. Without a group there is nothing to
    /// do: the caller ends the first process itself.
    pub fn kill(&self, patience: Duration) -> Result<(), StepError> {
        self.group
            .as_ref()
            .map_or(Ok(()), |group| group.kill(patience))
    }

    /// Kills and removes. A group that is empty already, as most are by then, is removed at once: that a
    /// hierarchy lets go of it proves it empty better than a look into it.
    pub fn end(&self, patience: Duration) -> Result<(), StepError> {
        let by_hand = !matches!(self.location, Location::Unit(_));
        if let Some(group) = self.group.as_ref().filter(|_| by_hand)
            && group.remove_if_empty()
        {
            return Ok(());
        }
        self.kill(patience)?;
        self.remove()
    }

    /// Removes it; fine if it is gone or was never made.
    pub fn remove(&self) -> Result<(), StepError> {
        let Some(group) = &self.group else {
            return Ok(());
        };
        if let Location::Unit(unit) = &self.location {
            match Systemd::connect(unit.user) {
                Ok(mut systemd) => systemd.stop(unit)?,
                // Without systemd there is no unit either, and a group that is left is found below.
                Err(error) if group.exists() => return Err(error),
                Err(_) => return Ok(()),
            }
        }
        group.remove()
    }

    /// Writes what is named and leaves the rest as it is (`update`). A device list that is given replaces the
    /// one before.
    pub fn update(&self, resources: &LinuxResources) -> Result<(), StepError> {
        let group = self.needed("update")?;
        let rules = match resources.devices() {
            Some(list) => devices::of_container(list)?,
            None => Vec::new(),
        };
        group.check_devices(&rules)?;
        if let Location::Unit(unit) = &self.location {
            let limits = properties(group, Some(resources))?;
            Systemd::connect(unit.user)?.set(unit, &limits)?;
        }
        group.apply_limits(resources)?;
        limit_devices(group, &rules)
    }

    /// See [`Group::statistics`].
    pub fn statistics(&self, process: Option<u32>) -> Result<Statistics, StepError> {
        self.needed("read statistics of")?.statistics(process)
    }

    /// See [`Group::oom_watch`].
    pub fn oom_watch(&self) -> Result<OomWatch, StepError> {
        self.needed("watch for OOM in")?.oom_watch()
    }

    /// See [`Group::freeze`].
    pub fn freeze(&self, patience: Duration) -> Result<(), StepError> {
        self.needed("freeze")?.freeze(patience)
    }

    /// See [`Group::thaw`].
    pub fn thaw(&self) -> Result<(), StepError> {
        self.needed("thaw")?.thaw()
    }

    /// Whether it is frozen; without a group it never is.
    pub fn freeze_state(&self) -> Result<Freeze, StepError> {
        self.group
            .as_ref()
            .map_or(Ok(Freeze::Thawed), Group::freeze_state)
    }

    /// The group, or the reason why `verb` cannot be done without one.
    pub fn needed(&self, verb: &str) -> Result<&Group, StepError> {
        match &self.group {
            None => {
                let cause =
                    "the container was made without a cgroup; use the cgroupfs or systemd driver";
                Err(refused(verb, "container", cause))
            }
            Some(_) if self.is_without() => Err(refused(verb, "container", GONE_WITHOUT)),
            Some(group) => Ok(group),
        }
    }
}

/// The limits as systemd is told them.
fn properties(
    group: &Group,
    resources: Option<&LinuxResources>,
) -> Result<Vec<Property>, StepError> {
    match resources {
        Some(resources) => {
            let (writes, period) = group.limits(resources)?;
            Ok(systemd::properties::of(&writes, period))
        }
        None => Ok(Vec::new()),
    }
}

/// A new container's limits and device list; it has a list even if its spec has none.
fn limit(group: &Group, resources: Option<&LinuxResources>) -> Result<(), StepError> {
    let list = resources.and_then(|resources| resources.devices().as_deref());
    let rules = devices::of_container(list.unwrap_or_default())?;
    group.check_devices(&rules)?;
    if let Some(resources) = resources {
        group.apply_limits(resources)?;
    }
    limit_devices(group, &rules)
}

/// In a user namespace nobody may restrict devices, and nobody may make any: there the list goes without saying.
fn limit_devices(group: &Group, rules: &[Rule]) -> Result<(), StepError> {
    match group.apply_devices(rules) {
        Err(error) if denied(&error) && is_unprivileged() => Ok(()),
        other => other,
    }
}

/// user_namespaces(7): the first namespace maps all ids onto themselves. What cannot be read counts as it.
fn is_unprivileged() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let first = map.split_whitespace().eq(["0", "0", "4294967295"]) || map.is_empty();
    !first || !rustix::process::geteuid().is_root()
}

pub(super) fn denied(error: &StepError) -> bool {
    let codes = [Errno::ACCESS, Errno::PERM].map(Errno::raw_os_error);
    error.errno.is_some_and(|errno| codes.contains(&errno))
}

fn forbidden(error: &StepError) -> bool {
    is_absent(error) || denied(error) || error.errno == Some(Errno::ROFS.raw_os_error())
}

fn refuse_limits(resources: Option<&LinuxResources>) -> Result<(), StepError> {
    if !asks_for_limits(resources) {
        return Ok(());
    }
    let cause = "without a cgroup no limit can be enforced; use the cgroupfs or systemd driver";
    Err(refused("apply limit", "linux.resources", cause))
}

/// Devices alone do not count: a list is in every default spec, and a user's container makes no device nodes.
fn asks_for_limits(resources: Option<&LinuxResources>) -> bool {
    let Some(resources) = resources else {
        return false;
    };
    let mut rest = resources.clone();
    rest.set_devices(None);
    super::limits::is_given(&rest)
}
