//! Making a group: its directories, and what each needs before limits and processes can come.

use std::path::Path;

use rustix::io::Errno;

use super::Group;
use super::directory::{Directory, Maker, failed, read_at, write_at};
use super::mounts::Layout;
use crate::StepError;

/// Controllers that a v2 group hands down to its children, where the host has them: those that a spec can limit
/// by and that statistics are read from.
const HANDED_DOWN: [&str; 8] = [
    "cpu", "cpuset", "hugetlb", "io", "memory", "misc", "pids", "rdma",
];

/// What a v1 cpuset needs before anybody can enter.
const CPUSET: [&str; 2] = ["cpuset.cpus", "cpuset.mems"];

impl Group {
    /// Makes the group (and its parents) in every hierarchy, on v2 enabling the controllers on the way.
    pub fn create(&self) -> Result<(), StepError> {
        match &*self.layout {
            Layout::V1 { hierarchies, .. } => {
                let mut maker = Maker::default();
                hierarchies.iter().try_for_each(|(point, names)| {
                    // Most parents are there and complete; where one is not, the long way knows what to do.
                    match make_v1(&point.join(&self.path), names, &mut maker) {
                        Ok(true) => Ok(()),
                        Ok(false) | Err(_) => self.create_v1(point),
                    }
                })
            }
            Layout::V2 { root } => self.create_v2(root),
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

    pub(super) fn create_v2(&self, root: &Path) -> Result<(), StepError> {
        let mut boundary = Boundary::Unknown;
        let mut here = Directory::root(root)?;
        for (depth, name) in self.path.split('/').enumerate() {
            let missing = missing_controllers(&here)?;
            if !missing.is_empty() && boundary.allows(root, &self.path, depth)? {
                hand_down(&here, &missing)?;
            }
            here = here.make(name)?.0;
        }
        Ok(())
    }
}

/// Where the part of the tree begins that is ours to configure.
enum Boundary {
    /// Nobody has asked yet; most often all controllers are there and nobody needs to.
    Unknown,
    /// The number of path components from the root to the deepest group that its owner has delegated; 0 if
    /// none is: then nobody else claims the tree.
    At(usize),
}

impl Boundary {
    /// systemd marks a group that it delegates with an attribute. What is above such a group is systemd's own
    /// (its single-writer rule), and it would take controllers away again that others enabled there.
    fn allows(&mut self, root: &Path, path: &str, depth: usize) -> Result<bool, StepError> {
        let at = match self {
            Boundary::At(at) => *at,
            Boundary::Unknown => {
                let at = delegated(root, path)?;
                *self = Boundary::At(at);
                at
            }
        };
        Ok(depth >= at)
    }
}

fn delegated(root: &Path, path: &str) -> Result<usize, StepError> {
    let mut here = Directory::root(root)?;
    let mut deepest = 0;
    for (above, name) in path.split('/').enumerate() {
        match here.open(name)? {
            Some(child) => here = child,
            None => break,
        }
        if here.is_delegated() {
            deepest = above + 1;
        }
    }
    Ok(deepest)
}

/// v1: makes a group below one that is there, and gives it what its controllers need. If that cannot be done in a few
/// calls, nothing is done.
fn make_v1(group: &Path, controllers: &[String], maker: &mut Maker) -> Result<bool, Errno> {
    let has = |wanted: &str| controllers.iter().any(|name| name == wanted);
    if !maker.make(group)? {
        return Ok(!has("cpuset") && !has("memory"));
    }
    let furnish = || {
        if has("cpuset") {
            let parent = group.parent().ok_or(Errno::INVAL)?;
            for file in CPUSET {
                // An empty one is refused here (ENOSPC or EINVAL) or lets nobody in; the long way fills it first.
                match read_at(parent, file)?.trim() {
                    "" => return Err(Errno::INVAL),
                    value => write_at(group, file, value)?,
                }
            }
        }
        match has("memory").then(|| read_at(group, "memory.use_hierarchy")) {
            Some(Ok(flag)) if flag.trim() == "0" => Err(Errno::INVAL),
            Some(Err(errno)) if errno != Errno::NOENT => Err(errno),
            _ => Ok(()),
        }
    };
    let furnished = furnish();
    if furnished.is_err() {
        rustix::fs::rmdir(group)?;
    }
    furnished.map(|()| true)
}

/// v1: a new cpuset is empty and lets nobody in; the parent's values are copied, as `clone_children` does.
fn inherit_cpuset(parent: &Directory, child: &Directory) -> Result<(), StepError> {
    for file in CPUSET {
        let empty = child.read(file)?.is_some_and(|text| text.trim().is_empty());
        if empty {
            let value = parent.read(file)?.unwrap_or_default();
            child.write(file, value.trim(), "")?;
        }
    }
    Ok(())
}

/// v2: what a group has itself and does not hand down yet.
fn missing_controllers(group: &Directory) -> Result<Vec<&'static str>, StepError> {
    let text = |file: &str| group.read(file).map(Option::unwrap_or_default);
    let (available, enabled) = (text("cgroup.controllers")?, text("cgroup.subtree_control")?);
    let has = |text: &str, name: &str| text.split_whitespace().any(|word| word == name);
    Ok(HANDED_DOWN
        .into_iter()
        .filter(|name| has(&available, name) && !has(&enabled, name))
        .collect())
}

/// v2: enables controllers in `cgroup.subtree_control`, all at once or, if the kernel refuses one of them, as
/// many as it takes. A limit that would need a missing one is refused by name when it is applied.
fn hand_down(group: &Directory, names: &[&str]) -> Result<(), StepError> {
    let enable = |names: &[&str]| {
        let value = names.iter().map(|name| format!("+{name} "));
        group.try_write("cgroup.subtree_control", value.collect::<String>().trim())
    };
    let refusal = match enable(names) {
        // Above a delegated group nothing is ours to change.
        Ok(()) | Err(Errno::ACCESS | Errno::PERM | Errno::ROFS) => return Ok(()),
        Err(errno) => errno,
    };
    if names.iter().filter(|name| enable(&[name]).is_ok()).count() > 0 {
        return Ok(());
    }
    let remedy = "EBUSY: on cgroup v2 a group with processes of its own cannot hand down controllers; move \
                  them into a child group (systemd: a service with Delegate=yes and DelegateSubgroup=)";
    let path = group.path().join("cgroup.subtree_control");
    Err(failed("enable controllers in", &path, refusal, remedy))
}
