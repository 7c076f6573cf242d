//! Making a group: its directories, and what each needs before limits and processes can come.

use std::path::Path;

use rustix::io::Errno;

use super::Group;
use super::directory::{Directory, failed};
use super::mounts::Layout;
use crate::StepError;

/// Controllers that a v2 group hands down to its children, where the host has them.
const HANDED_DOWN: [&str; 4] = ["cpu", "cpuset", "memory", "pids"];

impl Group {
    /// Makes the group (and its parents) in every hierarchy, on v2 enabling the controllers on the way.
    pub fn create(&self) -> Result<(), StepError> {
        match &*self.layout {
            Layout::V1 { hierarchies, .. } => hierarchies
                .iter()
                .try_for_each(|(point, _)| self.create_v1(point)),
            Layout::V2 { root, .. } => self.create_v2(root),
        }
    }

    fn create_v1(&self, point: &Path) -> Result<(), StepError> {
        let mut here = Directory::root(point)?;
        for name in self.path.split('/') {
            let (child, new) = here.make(name)?;
            inherit_cpuset(&here, &child)?;
            if new
                && child
                    .read("memory.use_hierarchy")?
                    .is_some_and(|flag| flag.trim() == "0")
            {
                let remedy = "without it a task's limit would not hold for its containers";
                child.write("memory.use_hierarchy", "1", remedy)?;
            }
            here = child;
        }
        Ok(())
    }

    fn create_v2(&self, root: &Path) -> Result<(), StepError> {
        let mut here = Directory::root(root)?;
        for name in self.path.split('/') {
            hand_down_controllers(&here)?;
            here = here.make(name)?.0;
        }
        Ok(())
    }
}

/// v1: a new cpuset is empty and lets nobody in; the parent's values are copied, as `clone_children` does.
fn inherit_cpuset(parent: &Directory, child: &Directory) -> Result<(), StepError> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let empty = child.read(file)?.is_some_and(|text| text.trim().is_empty());
        if empty {
            let value = parent.read(file)?.unwrap_or_default();
            child.write(file, value.trim(), "")?;
        }
    }
    Ok(())
}

/// v2: enables in a group's `cgroup.subtree_control` what it has itself and its children need.
fn hand_down_controllers(group: &Directory) -> Result<(), StepError> {
    let words = |file: &str| -> Result<Vec<String>, StepError> {
        let text = group.read(file)?.unwrap_or_default();
        Ok(text.split_whitespace().map(str::to_owned).collect())
    };
    let (available, enabled) = (
        words("cgroup.controllers")?,
        words("cgroup.subtree_control")?,
    );
    let missing: Vec<_> = HANDED_DOWN
        .into_iter()
        .filter(|name| available.iter().any(|have| have == name))
        .filter(|name| !enabled.iter().any(|have| have == name))
        .map(|name| format!("+{name}"))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let remedy = "EBUSY: on cgroup v2 a group with processes of its own cannot hand down controllers; move \
                  them into a child group (systemd: a service with Delegate=yes and DelegateSubgroup=)";
    let value = missing.join(" ");
    match group.try_write("cgroup.subtree_control", &value) {
        // Above a delegated group nothing is ours to change. The group goes without these controllers, and a
        // limit that would need one is refused by name when it is applied.
        Ok(()) | Err(Errno::ACCESS | Errno::PERM | Errno::ROFS) => Ok(()),
        Err(errno) => {
            let step = format!("write {value:?} to");
            let path = group.path().join("cgroup.subtree_control");
            Err(failed(&step, &path, errno, remedy))
        }
    }
}
