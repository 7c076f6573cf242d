//! Where one more process enters a running container's group: `exec`, and its `--cgroup`.
//!
//! A container may have groups of its own below its group. A caller names one by a path below the container's, on v1
//! also per controller; nobody gets out of the container's group by it. Without a name it is the container's group, but
//! on v2 a group whose controllers are handed down holds no processes: then it is the one that init is in. The same
//! holds for the v2 mount of a hybrid host, if a limit made a group there.

use std::fmt;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use rustix::io::Errno;

use super::container::{ContainerGroup, denied};
use super::directory::{Directory, failed, refused};
use super::location::{Location, Unit};
use super::mounts::Layout;
use super::systemd::Systemd;
use super::{Gate, Group, Hierarchy};
use crate::StepError;

const STEP: &str = "name cgroup below the container's";

/// `[CONTROLLER,...:]PATH`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Below {
    /// Empty: all hierarchies.
    controllers: Vec<String>,
    /// Relative to the container's group; empty is that group.
    path: String,
}

impl FromStr for Below {
    type Err = StepError;

    fn from_str(text: &str) -> Result<Below, StepError> {
        let (controllers, path) = match text.split_once(':') {
            Some((names, path)) => (names.split(',').map(str::to_owned).collect(), path),
            None => (Vec::new(), text),
        };
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        let bad = |part: &&str| matches!(*part, "." | "..") || part.contains(char::is_control);
        if path.is_empty() || parts.iter().any(bad) || controllers.iter().any(String::is_empty) {
            let cause =
                "it must read PATH or CONTROLLER,...:PATH, and the path leads nowhere but down";
            return Err(refused(STEP, format!("{text:?}"), cause));
        }
        Ok(Below {
            controllers,
            path: parts.join("/"),
        })
    }
}

/// Where one process enters; nothing has been touched yet.
#[derive(Debug)]
pub struct Entrance {
    /// The root of a hierarchy, and the group's path below it.
    groups: Vec<(PathBuf, String)>,
    /// The last of them is on the v2 mount of a hybrid host.
    beside: bool,
    /// The process is born in its group.
    born: bool,
    /// The container can do without a group.
    optional: bool,
    /// A unit of a user's own systemd: it may move processes where the user may not.
    unit: Option<Unit>,
}

impl ContainerGroup {
    /// For a process that joins the container whose first process is `init`.
    pub fn entrance(&self, below: &[Below], init: u32) -> Result<Entrance, StepError> {
        let Some(group) = self.group() else {
            return match below.first() {
                None => Ok(Entrance {
                    groups: Vec::new(),
                    beside: false,
                    born: false,
                    optional: true,
                    unit: None,
                }),
                Some(below) => Err(refused(STEP, below, "the container has no cgroup")),
            };
        };
        let mut beside = false;
        let groups = match &*group.layout {
            Layout::V1 {
                hierarchies,
                unified,
            } => {
                let mut groups = v1(group, hierarchies, below)?;
                if let Some(root) = unified
                    && Directory::at(root, &group.path)?.is_some()
                {
                    groups.push((root.clone(), or_of_init(group, root, init)?));
                    beside = true;
                }
                groups
            }
            Layout::V2 { root } => vec![(root.clone(), v2(group, root, below, init)?)],
        };
        let unit = match self.location() {
            Location::Unit(unit) if unit.user => Some(unit.clone()),
            _ => None,
        };
        Ok(Entrance {
            groups,
            beside,
            born: group.is_v2() && unit.is_none(),
            optional: self.is_optional() && below.is_empty(),
            unit,
        })
    }
}

impl Entrance {
    /// For CLONE_INTO_CGROUP; None where the process enters by `gates` or `admit`.
    pub fn clone_fd(&self) -> Result<Option<OwnedFd>, StepError> {
        match self.groups.first().filter(|_| self.born) {
            Some(group) => Ok(self.open(group)?.map(Directory::into_fd)),
            None => Ok(None),
        }
    }

    /// By which the process moves itself in, once it is told to.
    pub(crate) fn gates(&self) -> Result<Vec<Gate>, StepError> {
        if self.born || self.unit.is_some() {
            return Ok(Vec::new());
        }
        let mut gates = Vec::with_capacity(self.groups.len());
        for (index, group) in self.groups.iter().enumerate() {
            let of_v2 = self.beside && index + 1 == self.groups.len();
            if let Some(directory) = self.open(group)? {
                gates.push(Gate::of(&directory, Gate::name(of_v2))?);
            }
        }
        Ok(gates)
    }

    /// Moves a process in that cannot do so itself: a user's, who comes from outside of what their systemd governs,
    /// such as from a session. On error it may be in some hierarchies already: end it.
    pub fn admit(&self, pid: u32) -> Result<(), StepError> {
        let Some(unit) = self.unit.as_ref().filter(|_| !self.born) else {
            return Ok(());
        };
        for group in &self.groups {
            let Some(directory) = self.open(group)? else {
                continue;
            };
            let remedy = "ENOSPC: its cpuset is empty; ESRCH: the process has ended";
            match directory.write("cgroup.procs", &pid.to_string(), remedy) {
                Err(error) if denied(&error) => {
                    return Systemd::connect(true)?.attach(unit, below_unit(unit, &group.1), pid);
                }
                written => written?,
            }
        }
        Ok(())
    }

    fn open(&self, (root, path): &(PathBuf, String)) -> Result<Option<Directory>, StepError> {
        match Directory::root(root)?.open(path)? {
            None if !self.optional => {
                let remedy = "the container has no such group";
                Err(failed(
                    "enter cgroup",
                    &root.join(path),
                    Errno::NOENT,
                    remedy,
                ))
            }
            other => Ok(other),
        }
    }
}

/// What follows the unit's name in the path of a group, as systemd wants to hear it.
fn below_unit<'a>(unit: &Unit, path: &'a str) -> &'a str {
    path.split_once(&unit.name).map_or("", |(_, below)| below)
}

fn v1(
    group: &Group,
    hierarchies: &[(PathBuf, Vec<String>)],
    below: &[Below],
) -> Result<Vec<(PathBuf, String)>, StepError> {
    let known = |name: &String| hierarchies.iter().any(|(_, names)| names.contains(name));
    for one in below {
        if let Some(unknown) = one.controllers.iter().find(|name| !known(name)) {
            let cause = "unknown controller: no hierarchy of this host has it";
            return Err(refused(STEP, unknown, cause));
        }
    }
    let of_hierarchy = |(point, names): &(PathBuf, Vec<String>)| {
        let named = |one: &&Below| {
            one.controllers.is_empty() || one.controllers.iter().any(|name| names.contains(name))
        };
        let path = below
            .iter()
            .rfind(named)
            .map_or("", |one| one.path.as_str());
        (point.clone(), join(&group.path, path))
    };
    Ok(hierarchies.iter().map(of_hierarchy).collect())
}

fn v2(group: &Group, root: &Path, below: &[Below], init: u32) -> Result<String, StepError> {
    match below {
        [] => Ok(or_of_init(group, root, init)?),
        [one] if one.controllers.is_empty() => Ok(join(&group.path, &one.path)),
        [one, ..] => Err(refused(
            STEP,
            one,
            "cgroup v2 has one hierarchy: give one path and no controllers",
        )),
    }
}

/// The container's group, or the one below it that its first process is in.
fn or_of_init(group: &Group, root: &Path, init: u32) -> Result<String, StepError> {
    let own = group.path.clone();
    let Some(directory) = Directory::root(root)?.open(&own)? else {
        return Ok(own);
    };
    let handed_down = directory
        .read("cgroup.subtree_control")?
        .unwrap_or_default();
    if handed_down.trim().is_empty() {
        return Ok(own);
    }
    let text = std::fs::read_to_string(format!("/proc/{init}/cgroup")).unwrap_or_default();
    let of_init = text.lines().find_map(|line| line.strip_prefix("0::/"));
    let inside = |path: &&str| {
        let rest = path.strip_prefix(&own);
        rest.is_some_and(|rest| rest.starts_with('/'))
    };
    let found = of_init.filter(inside).unwrap_or(&own).to_owned();
    // The kernel marks a removed group; its name would be another group's.
    Hierarchy::of_host()?.group(&found).map(|group| group.path)
}

fn join(group: &str, below: &str) -> String {
    match below {
        "" => group.to_owned(),
        below => format!("{group}/{below}"),
    }
}

impl fmt::Display for Below {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.controllers.is_empty() {
            write!(f, "{}:", self.controllers.join(","))?;
        }
        write!(f, "/{}", self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_leaves_the_containers_group() {
        for bad in [
            "",
            "..",
            "a/../..",
            "memory:..",
            "memory:",
            ":a",
            "cpu,:a",
            "./a",
            "a\nb",
        ] {
            assert!(bad.parse::<Below>().is_err(), "{bad:?}");
        }
        for (good, shown) in [
            ("/", "/"),
            ("a/b", "/a/b"),
            ("//a/", "/a"),
            ("memory:sub", "memory:/sub"),
            ("cpu,cpuacct:/", "cpu,cpuacct:/"),
            ("..a", "/..a"),
        ] {
            assert_eq!(good.parse::<Below>().unwrap().to_string(), shown);
        }
    }

    #[test]
    fn each_controller_has_its_own_path_on_v1() {
        let hierarchies: Vec<(PathBuf, Vec<String>)> = [
            ("/cg/memory", vec!["memory"]),
            ("/cg/cpu", vec!["cpu", "cpuacct"]),
            ("/cg/pids", vec!["pids"]),
        ]
        .map(|(point, names)| (point.into(), names.into_iter().map(str::to_owned).collect()))
        .into();
        let group = Group {
            layout: std::sync::Arc::new(Layout::V1 {
                hierarchies: hierarchies.clone(),
                unified: None,
            }),
            path: "c1".into(),
        };
        let paths = |below: &[&str]| {
            let below: Vec<Below> = below.iter().map(|text| text.parse().unwrap()).collect();
            let groups = v1(&group, &hierarchies, &below)?;
            Ok::<_, StepError>(groups.into_iter().map(|(_, path)| path).collect::<Vec<_>>())
        };
        assert_eq!(paths(&[]).unwrap(), ["c1", "c1", "c1"]);
        assert_eq!(paths(&["sub"]).unwrap(), ["c1/sub", "c1/sub", "c1/sub"]);
        let two = paths(&["memory:m", "cpuacct:c/d"]).unwrap();
        assert_eq!(two, ["c1/m", "c1/c/d", "c1"]);
        let refused = paths(&["whaaat:/"]).unwrap_err().to_string();
        assert!(refused.contains("unknown controller"), "{refused}");
    }
}
