//! The container's view of its cgroups.
//!
//! In a cgroup namespace of its own the container gets new mounts, which begin at its own groups. Without one such a
//! mount would show the host's groups, so clones of its own are attached in their place. v2 is one mount; v1 is a tmpfs
//! with a mount for each hierarchy and links from the names of controllers that share one (`cpu` -> `cpu,cpuacct`).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::{Stamp, attach, configure, detached, set_flags};
use crate::StepError;
use crate::cgroup::Place;
use crate::cgroup::mounts::{Kind, Mount, parse};
use crate::error::Context;
use crate::init::resolve::{self, Missing};
use crate::kernel_text;
use crate::plan::{CgroupView, MountFlags, Spread};

/// Clones this process's own group of each hierarchy; None for one that is not mounted. No hierarchy: v2.
///
/// `known` is where its parent has put it. That is everywhere or, for a user who may make no groups, nowhere.
pub(in crate::init) fn open_cgroups(
    hierarchies: &[String],
    known: &[Place],
) -> Result<Vec<Option<Stamp>>, StepError> {
    let place = |hierarchy: &String| {
        let has = |place: &Place, name: &str| place.names.iter().any(|own| own == name);
        let holds = |place: &&Place| hierarchy.split(',').all(|name| has(place, name));
        open(&known.iter().find(holds)?.path).ok()
    };
    let all: Option<Vec<OwnedFd>> = hierarchies.iter().map(place).collect();
    match all.filter(|all| !all.is_empty()) {
        Some(all) => Ok(all
            .into_iter()
            .map(|mount| Some(Stamp::new(mount)))
            .collect()),
        None => look_for_cgroups(hierarchies),
    }
}

fn look_for_cgroups(hierarchies: &[String]) -> Result<Vec<Option<Stamp>>, StepError> {
    let step = "open own cgroup";
    let file = "/proc/self/cgroup";
    let groups = kernel_text::read_string(file).context(step, file)?;
    let file = "/proc/self/mountinfo";
    let table = kernel_text::read(file).context(step, file)?;
    let mounts = parse(&table);
    let unified = [String::new()];
    let wanted = match hierarchies {
        [] => &unified[..],
        named => named,
    };
    wanted
        .iter()
        .map(|hierarchy| match place(&groups, &mounts, hierarchy) {
            Some(path) => open(&path)
                .map(|mount| Some(Stamp::new(mount)))
                .context(step, path.display()),
            None => Ok(None),
        })
        .collect()
}

/// The path of this process's group; `hierarchy` as in /proc/self/cgroup.
fn place(groups: &str, mounts: &[Mount], hierarchy: &str) -> Option<PathBuf> {
    let group = groups.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        (fields.next()? == hierarchy).then(|| fields.next())?
    })?;
    let holds = |mount: &&Mount| match &mount.kind {
        Kind::V1(names) => {
            !hierarchy.is_empty()
                && hierarchy
                    .split(',')
                    .all(|name| names.iter().any(|known| known == name))
        }
        Kind::V2 => hierarchy.is_empty(),
    };
    // The kernel shows a group outside of what is mounted with `..`: no mount has it.
    let inside = |mount: &Mount| {
        let rest = Path::new(group).strip_prefix(&mount.root).ok()?;
        Some(mount.point.join(rest))
    };
    mounts.iter().filter(holds).find_map(inside)
}

fn open(path: &Path) -> Result<OwnedFd, Errno> {
    super::clone_path(path, false, true)
}

/// Attaches the view. `cloned` are the clones of [`open_cgroups`], where there is no cgroup namespace.
pub(in crate::init) fn cgroup_view(
    root: BorrowedFd<'_>,
    view: &CgroupView,
    cloned: &mut [Option<Stamp>],
) -> Result<(), StepError> {
    let (step, subject) = ("mount cgroup", view.destination.display());
    let target = resolve::open_or_make(root, &view.destination, Missing::Directory)
        .context(step, &subject)?;
    super::refuse_procfs(target.as_fd(), &view.destination)?;
    if view.hierarchies.is_empty() {
        let whole = || match (view.cloned, cloned) {
            (false, _) => {
                let data: Vec<_> = view.data.iter().map(pair).collect();
                let new = detached("cgroup2", &data, view.flags)?;
                attach(new.as_fd(), target.as_fd())
            }
            (true, [Some(own)]) => attach_clone(own, target.as_fd(), view.flags),
            (true, _) => Err(Errno::NOENT),
        };
        return whole().context(step, subject);
    }
    let writable = view.flags.without(libc::MOUNT_ATTR_RDONLY);
    let frame = detached("tmpfs", &[("mode", Some("0755"))], writable).context(step, &subject)?;
    attach(frame.as_fd(), target.as_fd()).context(step, &subject)?;
    let mut own = cloned.iter_mut();
    for hierarchy in &view.hierarchies {
        let clone = match view.cloned {
            false => None,
            true => match own.next().and_then(Option::as_mut) {
                Some(clone) => Some(clone),
                None => continue,
            },
        };
        v1_hierarchy(frame.as_fd(), hierarchy, view.flags, clone).context(step, hierarchy)?;
    }
    set_flags(frame.as_fd(), view.flags, false).context("make read-only", &subject)
}

fn pair((name, value): &(String, Option<String>)) -> (&str, Option<&str>) {
    (name, value.as_deref())
}

fn v1_hierarchy(
    frame: BorrowedFd<'_>,
    hierarchy: &str,
    flags: MountFlags,
    clone: Option<&mut Stamp>,
) -> Result<(), Errno> {
    let named = hierarchy.strip_prefix("name=");
    let directory = named.unwrap_or(hierarchy);
    let target = resolve::real_directory(frame, Path::new(directory))?;
    let data: Vec<(&str, Option<&str>)> = match named {
        Some(name) => vec![("none", None), ("name", Some(name))],
        None => hierarchy
            .split(',')
            .map(|controller| (controller, None))
            .collect(),
    };
    match clone {
        Some(clone) => attach_clone(clone, target.as_fd(), flags)?,
        None => attach(detached("cgroup", &data, flags)?.as_fd(), target.as_fd())?,
    }
    if directory.contains(',') {
        for controller in directory.split(',') {
            rustix::fs::symlinkat(directory, frame, controller)?;
        }
    }
    Ok(())
}

fn attach_clone(own: &mut Stamp, target: BorrowedFd<'_>, flags: MountFlags) -> Result<(), Errno> {
    let alone = Spread {
        recursive: true,
        ..Spread::default()
    };
    configure(own.mount.as_fd(), alone, flags, flags)?;
    own.attach(target)
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1: &[u8] = b"31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
        32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpuacct,cpu\n\
        35 31 0:32 /docker/x /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
        40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
        41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
    const GROUPS: &str =
        "4:memory:/docker/x/c1\n3:cpu,cpuacct:/a:b/c1\n2:name=systemd:/../c1\n0::/c2\n";

    #[test]
    fn each_hierarchy_s_own_group_is_found() {
        let mounts = parse(V1);
        let find = |hierarchy| place(GROUPS, &mounts, hierarchy);
        let path = |text: &str| Some(PathBuf::from(text));
        assert_eq!(
            find("cpu,cpuacct"),
            path("/sys/fs/cgroup/cpu,cpuacct/a:b/c1")
        );
        assert_eq!(find("memory"), path("/sys/fs/cgroup/memory/c1"));
        assert_eq!(find(""), path("/sys/fs/cgroup/unified/c2"));
        assert_eq!(find("pids"), None);
    }
}
