//! Writing limits into a group's control files.

use oci_spec::runtime::LinuxResources;
use rustix::io::Errno;

use super::directory::{Directory, failed};
use super::limits::Write;
use super::mounts::Layout;
use super::{Group, device_program, devices, limits_v1, limits_v2, no_controller};
use crate::StepError;

impl Group {
    /// Writes the limits that are given; leaves the others. What this host cannot enforce is an error that
    /// names the limit; everything that can be refused without the kernel is refused before the first write.
    ///
    /// CPU and memory values of 0 mean "not given", -1 means "no limit". The device list is applied as a
    /// whole: what it does not allow is denied; an empty list or none leaves the devices as they are. On v1
    /// it cannot change its default once the group has children.
    pub fn apply(&self, resources: &LinuxResources) -> Result<(), StepError> {
        let list = resources.devices().as_deref().unwrap_or_default();
        let rules = devices::rules(list)?;
        match &*self.layout {
            Layout::V1 { .. } => {
                let settled = devices::settle(&rules)?;
                let read = |controller: &str, file: &str| {
                    let directory = self.controller(controller)?;
                    directory.map_or(Ok(None), |directory| directory.read(file))
                };
                for write in limits_v1::writes(resources, &read)? {
                    self.write_v1(&write)?;
                }
                match rules.is_empty() {
                    true => Ok(()),
                    false => self.apply_devices_v1(&settled),
                }
            }
            Layout::V2 { root, .. } => {
                let directory = self.existing(root)?;
                for write in limits_v2::writes(resources, &|file| directory.read(file))? {
                    write_limit(&directory, &write)?;
                }
                match rules.is_empty() {
                    true => Ok(()),
                    false => device_program::attach(&directory, &rules),
                }
            }
        }
    }

    fn write_v1(&self, write: &Write) -> Result<(), StepError> {
        match self.controller(write.controller)? {
            Some(directory) => write_limit(&directory, write),
            None if write.lifts => Ok(()),
            None => Err(no_controller(write.controller, &write.file)),
        }
    }

    fn apply_devices_v1(&self, wanted: &devices::Settled) -> Result<(), StepError> {
        let Some(directory) = self.controller("devices")? else {
            return Err(no_controller("devices", "linux.resources.devices"));
        };
        let list = directory.read("devices.list")?.unwrap_or_default();
        for (file, line) in devices::v1_writes(&list, wanted) {
            let remedy = "EPERM: the group above does not allow it; EINVAL: the group has children";
            directory.write(file, &line, remedy)?;
        }
        Ok(())
    }
}

fn write_limit(directory: &Directory, write: &Write) -> Result<(), StepError> {
    match directory.try_write(&write.file, &write.value) {
        Ok(()) => Ok(()),
        Err(Errno::NOENT) if write.lifts => Ok(()),
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

fn limit_remedy(errno: Errno, write: &Write) -> String {
    let controller = write.controller;
    match errno {
        Errno::NOENT if write.file.contains("memsw") || write.file.contains("swap") => {
            "this kernel does not account swap: boot with swapaccount=1, or give no swap limit"
                .to_owned()
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
