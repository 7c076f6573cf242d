//! Writing limits into a group's control files.
//!
//! On a hybrid host a controller that no v1 hierarchy has may be on the v2 mount. The group gets a directory
//! there as soon as a limit asks for one, and its processes are moved in.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use oci_spec::runtime::LinuxResources;
use rustix::io::Errno;

use super::devices::{self, Rule};
use super::directory::{Directory, failed};
use super::limits::{Write, is_given};
use super::mounts::Layout;
use super::systemd::properties::PERIOD;
use super::{Group, device_program, limits_v1, limits_v2, no_controller};
use crate::StepError;

/// How long processes may take to stand still while their device list is changed.
const STILL_PATIENCE: Duration = Duration::from_secs(10);

impl Group {
    /// Writes the limits that are given; leaves the others. What this host cannot enforce is an error that
    /// names the limit; everything that can be refused without the kernel is refused before the first write.
    ///
    /// CPU and memory values of 0 mean "not given", -1 means "no limit". The device list is applied as a
    /// whole: what it does not allow is denied; an empty list or none leaves the devices as they are. On v1
    /// it cannot change its default once the group has children.
    pub fn apply(&self, resources: &LinuxResources) -> Result<(), StepError> {
        let rules = devices::rules(resources.devices().as_deref().unwrap_or_default())?;
        self.check_devices(&rules)?;
        self.apply_limits(resources)?;
        self.apply_devices(&rules)
    }

    /// All but the device list.
    pub(super) fn apply_limits(&self, resources: &LinuxResources) -> Result<(), StepError> {
        match &*self.layout {
            Layout::V1 { .. } => self.apply_v1(resources),
            Layout::V2 { root } => apply_v2(resources, &self.existing(root)?),
        }
    }

    /// Whether this host's version can say the list.
    pub(super) fn check_devices(&self, rules: &[Rule]) -> Result<(), StepError> {
        match &*self.layout {
            Layout::V1 { .. } => devices::settle(rules).map(drop),
            Layout::V2 { .. } => Ok(()),
        }
    }

    pub(super) fn apply_devices(&self, rules: &[Rule]) -> Result<(), StepError> {
        match &*self.layout {
            _ if rules.is_empty() => Ok(()),
            Layout::V1 { .. } => self.apply_devices_v1(&devices::settle(rules)?),
            Layout::V2 { root } => device_program::attach(&self.existing(root)?, rules),
        }
    }

    /// The writes that `apply_limits` would make, and the CPU period in force. The group need not exist.
    pub(super) fn limits(
        &self,
        resources: &LinuxResources,
    ) -> Result<(Vec<Write>, u64), StepError> {
        let open = |root: &Path| Directory::at(root, &self.path);
        match &*self.layout {
            Layout::V1 { .. } => {
                let read = |controller: &str, file: &str| match self.point_of(controller) {
                    Some(point) => open(point)?.map_or(Ok(None), |group| group.read(file)),
                    None => Ok(None),
                };
                let period = read("cpu", "cpu.cfs_period_us")?;
                let period = period.and_then(|text| text.trim().parse().ok());
                let writes = limits_v1::writes(resources, &read)?;
                Ok((writes, period.unwrap_or(PERIOD)))
            }
            Layout::V2 { root } => {
                let group = open(root)?;
                let read = |file: &str| match &group {
                    Some(group) => group.read(file),
                    None => Ok(None),
                };
                let period = read("cpu.max")?;
                let period = period.and_then(|text| text.split_whitespace().nth(1)?.parse().ok());
                let writes = limits_v2::writes(resources, &read)?;
                Ok((writes, period.unwrap_or(PERIOD)))
            }
        }
    }

    fn apply_v1(&self, resources: &LinuxResources) -> Result<(), StepError> {
        let open = Opened::default();
        let (here, beside) = self.share_out(resources)?;
        let here = here.as_ref().unwrap_or(resources);
        let read = |controller: &str, file: &str| match self.point_of(controller) {
            Some(point) => open.group(self, point)?.read(file),
            None => Ok(None),
        };
        let writes = limits_v1::writes(here, &read)?;
        for write in &writes {
            match self.point_of(write.controller) {
                Some(point) => write_limit(&*open.group(self, point)?, write)?,
                None if write.lifts => {}
                None => return Err(no_controller(write.controller, &write.file)),
            }
        }
        match beside {
            Some((resources, root)) => apply_v2(&resources, &self.beside(root)?),
            None => Ok(()),
        }
    }

    /// What is given for controllers that only the v2 mount of a hybrid host has, taken out of the rest.
    /// `None` in the first place: nothing was taken out.
    #[allow(clippy::type_complexity)] // Two halves of one object; names would not tell more.
    fn share_out(
        &self,
        resources: &LinuxResources,
    ) -> Result<(Option<LinuxResources>, Option<(LinuxResources, &Path)>), StepError> {
        let Layout::V1 {
            unified: Some(root),
            ..
        } = &*self.layout
        else {
            return Ok((None, None));
        };
        let given = [
            ("blkio", "io", is_given(resources.block_io())),
            ("hugetlb", "hugetlb", resources.hugepage_limits().is_some()),
            ("rdma", "rdma", is_given(resources.rdma())),
            ("memory", "memory", is_given(resources.memory())),
            ("pids", "pids", resources.pids().is_some()),
        ];
        let homeless = |(v1, _, given): &(&str, &str, bool)| *given && self.point_of(v1).is_none();
        if !given.iter().any(homeless) {
            return Ok((None, None));
        }
        let text = Directory::root(root)?
            .read("cgroup.controllers")?
            .unwrap_or_default();
        let (mut here, mut beside) = (resources.clone(), LinuxResources::default());
        for (_, v2, _) in given.iter().filter(|entry| homeless(entry)) {
            if text.split_whitespace().any(|name| name == *v2) {
                give_over(v2, &mut here, &mut beside);
            }
        }
        Ok((Some(here), Some((beside, root))))
    }

    /// The group's directory on the v2 mount of a hybrid host, with all of its processes in it.
    fn beside(&self, root: &Path) -> Result<Directory, StepError> {
        self.create_v2(root)?;
        let directory = self.existing(root)?;
        for pid in self.processes()? {
            match directory.try_write("cgroup.procs", &pid.to_string()) {
                Ok(()) | Err(Errno::SRCH) => {}
                Err(errno) => {
                    let path = directory.path().join("cgroup.procs");
                    return Err(failed("move process to", &path, errno, ""));
                }
            }
        }
        Ok(directory)
    }

    fn apply_devices_v1(&self, wanted: &devices::Settled) -> Result<(), StepError> {
        let Some(directory) = self.controller("devices")? else {
            return Err(no_controller("devices", "linux.resources.devices"));
        };
        let list = directory.read("devices.list")?.unwrap_or_default();
        let writes = devices::v1_writes(&list, wanted);
        // Between "allow all" and the last exception a process could open what it may not.
        let opens = writes.len() > 1 && writes[0].0 == "devices.allow";
        // The kernel drops the exceptions of "allow all" one by one before it denies.
        let closes = list.trim() == "a *:* rwm" && !writes.is_empty();
        let _still = match (opens || closes) && !directory.processes()?.is_empty() {
            true => self.hold_still(STILL_PATIENCE)?,
            false => None,
        };
        let remedy = "EPERM: the group above does not allow it; EINVAL: the group has children";
        // Each rule is a write of its own; there are a dozen, most of them for the same file.
        let mut open: Option<(&str, OwnedFd)> = None;
        let mut try_write = |file: &'static str, line: &str| {
            let fd = match open.take() {
                Some((name, fd)) if name == file => fd,
                _ => directory.open_to_write(file)?,
            };
            let (_, fd) = open.insert((file, fd));
            rustix::io::write(&*fd, line.as_bytes())
        };
        let written = writes.iter().try_for_each(|(file, line)| {
            try_write(file, line).map(drop).map_err(|errno| {
                let step = format!("write {line:?} to");
                failed(&step, &directory.path().join(file), errno, remedy)
            })
        });
        if opens && written.is_err() {
            // Half of the exceptions would be none.
            directory.write("devices.deny", "a", "")?;
        }
        written
    }
}

/// The group's directories that one `apply` needs, each opened once.
#[derive(Default)]
struct Opened(RefCell<BTreeMap<PathBuf, Rc<Directory>>>);

impl Opened {
    fn group(&self, group: &Group, point: &Path) -> Result<Rc<Directory>, StepError> {
        if let Some(directory) = self.0.borrow().get(point) {
            return Ok(directory.clone());
        }
        let directory = Rc::new(group.existing(point)?);
        self.0
            .borrow_mut()
            .insert(point.to_owned(), directory.clone());
        Ok(directory)
    }
}

fn give_over(controller: &str, from: &mut LinuxResources, to: &mut LinuxResources) {
    match controller {
        "io" => to.set_block_io(from.block_io_mut().take()),
        "hugetlb" => to.set_hugepage_limits(from.hugepage_limits_mut().take()),
        "rdma" => to.set_rdma(from.rdma_mut().take()),
        "memory" => to.set_memory(from.memory_mut().take()),
        "pids" => to.set_pids(from.pids_mut().take()),
        _ => to,
    };
}

fn apply_v2(resources: &LinuxResources, directory: &Directory) -> Result<(), StepError> {
    let writes = limits_v2::writes(resources, &|file| directory.read(file))?;
    writes
        .iter()
        .try_for_each(|write| write_limit(directory, write))
}

fn write_limit(directory: &Directory, write: &Write) -> Result<(), StepError> {
    match directory.try_write(&write.file, &write.value) {
        Ok(()) => Ok(()),
        Err(Errno::NOENT) if write.lifts || is_moot(write) => Ok(()),
        Err(errno) => {
            let step = format!("write {:?} to", write.value);
            let remedy = limit_remedy(errno, write);
            Err(failed(
                &step,
                &directory.path().join(&*write.file),
                errno,
                &remedy,
            ))
        }
    }
}

/// A kernel that does not account swap has no such file; where there is no swap, nobody uses any.
fn is_moot(write: &Write) -> bool {
    let no_swap = write.file == "memory.swap.max" && write.value == "0";
    no_swap && !has_swap(&std::fs::read_to_string("/proc/swaps").unwrap_or_default())
}

/// proc(5): a line for each area, after the headings. A kernel without swap has no such file.
fn has_swap(swaps: &str) -> bool {
    swaps.lines().count() > 1
}

fn limit_remedy(errno: Errno, write: &Write) -> String {
    let controller = write.controller;
    match errno {
        Errno::NOENT if write.file.contains("memsw") || write.file.contains("swap") => {
            "this kernel does not account swap: boot with swapaccount=1, or give no swap limit"
                .to_owned()
        }
        Errno::NODEV if controller == "net_prio" => {
            "the host's own network namespace has no interface of this name".to_owned()
        }
        Errno::NODEV | Errno::NXIO => "there is no such block device".to_owned(),
        Errno::OPNOTSUPP if controller == "io" || controller == "blkio" => {
            "the device's I/O scheduler does not take it".to_owned()
        }
        Errno::NOENT => format!(
            "the {controller} controller or this file of it is not available to the group: enable it in the \
             groups above (systemd: Delegate=yes) or boot without cgroup_disable={controller}"
        ),
        Errno::BUSY => {
            "more than that is in use already, or the new CPUs or nodes are in use".to_owned()
        }
        Errno::INVAL => {
            "the value is out of range, or a group above allows less (v1: quota/period)".to_owned()
        }
        Errno::RANGE => "the value is out of range".to_owned(),
        Errno::ACCESS => {
            "a group above does not have these CPUs or nodes, or it is read-only".to_owned()
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swap_that_nobody_has_needs_no_limit() {
        let headings = "Filename\tType\tSize\tUsed\tPriority\n";
        assert!(!has_swap("") && !has_swap(headings));
        assert!(has_swap(&format!("{headings}/dev/vdb partition 1 0 -2\n")));
    }
}
