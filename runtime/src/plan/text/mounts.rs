//! The text of the steps that build the file system.

use std::fmt::{self, Formatter};

use crate::plan::mounts::{Ids, MountFlags, MountMap};
use crate::plan::step::{
    Bind, CgroupView, DeviceKind, DeviceNode, Filesystem, Remount, RootChange, Source, Step,
};
use crate::plan::user::IdRange;

/// None: it is no such step.
pub(super) fn fmt(step: &Step, f: &mut Formatter<'_>) -> Option<fmt::Result> {
    Some(match step {
        Step::OpenBind(source) => write!(f, "{source}"),
        Step::OpenFilesystem { slot, filesystem } => {
            write!(f, "open file system #{slot} {}", filesystem.kind)
        }
        Step::OpenCgroups(hierarchies) => write!(f, "open own cgroups [{}]", version(hierarchies)),
        Step::MakeDevices(nodes) => write!(f, "make {} devices", nodes.len()),
        Step::OpenDevice(device) => write!(f, "open {device}"),
        Step::AttachRoot {
            path, propagation, ..
        } => {
            write!(f, "attach root {}, {propagation}", path.display())
        }
        Step::PivotRoot { propagation, way } => match way {
            RootChange::Pivot => write!(f, "pivot root, {propagation}"),
            RootChange::Chroot => write!(f, "detach the host's mounts, chroot, {propagation}"),
            RootChange::Stay => write!(f, "chroot in the host's mount namespace, {propagation}"),
        },
        Step::Mount(filesystem) => write!(f, "{filesystem}"),
        Step::AttachFilesystem { slot, filesystem } => write!(f, "attach #{slot}, {filesystem}"),
        Step::MountCgroup(view) => write!(f, "{view}"),
        Step::Remount(remount) => write!(f, "{remount}"),
        Step::AttachBind(bind) => write!(f, "{bind}"),
        Step::Device(device) => write!(f, "{device}"),
        Step::BindDevice(device) => write!(f, "bind {device}"),
        Step::FindDevice(device) => write!(f, "find {device}"),
        Step::RealDev => write!(f, "require a real /dev"),
        Step::OwnNull => write!(f, "own /dev/null for host's"),
        Step::Symlink { path, target } => write!(f, "symlink {} -> {target}", path.display()),
        Step::Hide(path) => write!(f, "hide {}", path.display()),
        Step::Seal => write!(f, "seal read-only mounts"),
        Step::RootPropagation(spread) => write!(f, "root {spread}"),
        _ => return None,
    })
}

fn version(hierarchies: &[String]) -> String {
    match hierarchies {
        [] => "cgroup2".to_owned(),
        named => named.join(" "),
    }
}

/// What the mounts below get, where it is not nothing.
fn tree(flags: MountFlags) -> String {
    if flags == MountFlags::default() {
        return String::new();
    }
    format!(" (below: {flags})")
}

fn data(f: &mut Formatter<'_>, data: &[(String, Option<String>)]) -> fmt::Result {
    for (key, value) in data {
        match value {
            Some(value) => write!(f, " {key}={value}")?,
            None => write!(f, " {key}")?,
        }
    }
    Ok(())
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let tree = if self.recursive { "tree " } else { "" };
        write!(f, "open {tree}#{} {}", self.slot, self.path.display())?;
        if self.copy_symlink {
            write!(f, ", a symlink as such")?;
        } else if !self.follow {
            write!(f, ", symlink not followed")?;
        }
        match &self.map {
            Some(map) => write!(f, ", {map}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for MountMap {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let list = |ranges: &[IdRange]| {
            let range = |range: &IdRange| {
                let IdRange {
                    inside,
                    outside,
                    count,
                } = range;
                format!("{inside}:{outside}:{count}")
            };
            ranges.iter().map(range).collect::<Vec<_>>().join(",")
        };
        let below = if self.recursive {
            ", with all below"
        } else {
            ""
        };
        match &self.ids {
            Ids::Ranges { uids, gids } => {
                write!(f, "users {} groups {}{below}", list(uids), list(gids))
            }
            Ids::Namespace(path) => write!(f, "ids of {}{below}", path.display()),
        }
    }
}

impl fmt::Display for Filesystem {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Filesystem {
            kind,
            destination,
            flags,
            propagation,
            ..
        } = self;
        write!(
            f,
            "mount {kind} {} {flags} {propagation}",
            destination.display()
        )?;
        if let Some(source) = self.source.as_ref().filter(|source| *source != kind) {
            write!(f, " from {source}")?;
        }
        data(f, &self.data)?;
        if let Some(label) = &self.label {
            write!(f, ", its top labelled {label}")?;
        }
        let marks = [
            (self.real_directory, ", no symlink"),
            (self.copy_up, ", with a copy of what is there"),
            (self.sealed, ", read-only later"),
        ];
        let mut asked = marks.iter().filter(|(asked, _)| *asked);
        asked.try_for_each(|(_, mark)| f.write_str(mark))
    }
}

impl fmt::Display for CgroupView {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let CgroupView {
            destination,
            flags,
            hierarchies,
            cloned,
            data: options,
        } = self;
        let verb = if *cloned { "attach own" } else { "mount" };
        let version = version(hierarchies);
        write!(
            f,
            "{verb} cgroup {} {flags} [{version}]",
            destination.display()
        )?;
        data(f, options)
    }
}

impl fmt::Display for Remount {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (destination, flags) = (self.destination.display(), self.flags);
        write!(f, "remount {destination} {flags}{}", tree(self.tree))?;
        data(f, &self.data)
    }
}

impl fmt::Display for Bind {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (destination, flags) = (self.destination.display(), self.flags);
        let (below, spread) = (tree(self.tree), self.propagation);
        write!(
            f,
            "attach #{} {destination} {flags}{below} {spread}",
            self.slot
        )?;
        if !self.follow {
            write!(f, ", symlink not followed")?;
        }
        Ok(())
    }
}

impl fmt::Display for DeviceNode {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            DeviceKind::Char => "c",
            DeviceKind::Block => "b",
            DeviceKind::Fifo => "p",
        };
        let DeviceNode {
            path,
            major,
            minor,
            mode,
            uid,
            gid,
            ..
        } = self;
        let path = path.display();
        write!(
            f,
            "device {path} {kind} {major}:{minor} {mode:04o} {uid}:{gid}"
        )
    }
}
