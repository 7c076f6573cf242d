//! The container's root and everything mounted on it.
//!
//! Mounts are made detached (fsopen(2), fsmount(2), open_tree(2)) and attached to a descriptor that was
//! resolved inside the root, so no path is walked twice and no symlink can move a mount.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use longshore_sys::{MountAttributes, mount_setattr};
use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
    fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount,
    open_tree, unmount,
};

use super::resolve::{self, Missing};
use crate::StepError;
use crate::error::Context;
use crate::plan::{Bind, Filesystem, MountFlags, Propagation};

/// A detached mount that can be attached in several places: the first time itself, then as clones of it.
/// (Kernels before 6.15 do not clone a mount that is attached nowhere.)
#[derive(Debug)]
pub(super) struct Stamp {
    mount: OwnedFd,
    attached: bool,
}

impl Stamp {
    pub(super) fn new(mount: OwnedFd) -> Stamp {
        Stamp {
            mount,
            attached: false,
        }
    }

    fn attach(&mut self, target: BorrowedFd<'_>) -> Result<(), Errno> {
        if self.attached {
            return attach(clone(self.mount.as_fd(), false)?.as_fd(), target);
        }
        attach(self.mount.as_fd(), target)?;
        self.attached = true;
        Ok(())
    }
}

/// What masks files.
pub(super) fn open_null() -> Result<Stamp, StepError> {
    null_mount().map(Stamp::new)
}

/// The host's /dev/null as a mount of its own, proven to be the null device (CVE-2025-31133), and read-only: the
/// inode is the host's, and a container's root could change its mode and owner otherwise. A device can be written
/// to all the same.
pub(crate) fn null_mount() -> Result<OwnedFd, StepError> {
    let null = open_tree(
        CWD,
        c"/dev/null",
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC,
    )
    .context("open", "/dev/null of the host")?;
    let stat = rustix::fs::fstat(&null).context("stat", "/dev/null of the host")?;
    let is_null = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
        && stat.st_rdev == rustix::fs::makedev(1, 3);
    if !is_null {
        return Err(StepError::refused(
            "open",
            "/dev/null of the host",
            "it is not the null device (1:3)",
        ));
    }
    let sealed = MountAttributes {
        set: libc::MOUNT_ATTR_RDONLY,
        clear: 0,
        propagation: Propagation::Private.bit(),
    };
    mount_setattr(null.as_fd(), sealed, false).context("isolate", "/dev/null of the host")?;
    Ok(null)
}

/// Clones a host path for a bind mount. Symlinks in it are the host's and are followed.
pub(super) fn open_bind(source: &Path, recursive: bool) -> Result<OwnedFd, StepError> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    flags.set(OpenTreeFlags::AT_RECURSIVE, recursive);
    open_tree(CWD, source, flags).context("open bind source", source.display())
}

/// Leaves a chroot that the agent may live in, then cuts the propagation of every mount in sight.
///
/// setns(2) to one's own mount namespace sets root and working directory to the namespace's root; without it
/// pivot_root would fail, because a chroot's directory is no mount point.
pub(super) fn isolate() -> Result<(), StepError> {
    let own = rustix::fs::open(
        c"/proc/self/ns/mnt",
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .context("open", "/proc/self/ns/mnt")?;
    nix::sched::setns(own, nix::sched::CloneFlags::CLONE_NEWNS)
        .context("enter", "own mount namespace")?;
    let root = slash()?;
    let private = MountAttributes {
        propagation: Propagation::Private.bit(),
        ..Default::default()
    };
    mount_setattr(root.as_fd(), private, true).context("isolate mounts below", "/")
}

/// Attaches the detached mount over `/`, makes it the root, and lets go of everything that was there.
pub(super) fn pivot(root: &OwnedFd, propagation: Propagation) -> Result<OwnedFd, StepError> {
    let step = "attach root";
    // Private first: pivot_root refuses shared mounts, and nothing may reach the mount this was cloned from.
    let attributes = MountAttributes {
        propagation: Propagation::Private.bit(),
        ..Default::default()
    };
    let wanted = MountAttributes {
        propagation: propagation.bit(),
        ..Default::default()
    };
    let first = if propagation == Propagation::Slave {
        wanted
    } else {
        attributes
    };
    mount_setattr(root.as_fd(), first, true).context(step, "detached root mount")?;
    attach(root.as_fd(), slash()?.as_fd()).context(step, "/")?;
    rustix::process::fchdir(root).context(step, "root directory")?;
    // pivot_root(2) "pivot_root(\".\", \".\")": the old root ends up on top of the new one and is then detached.
    rustix::process::pivot_root(c".", c".").context("pivot root", ".")?;
    unmount(c".", UnmountFlags::DETACH).context("detach host root", ".")?;
    rustix::process::chdir(c"/").context("change directory", "/")?;
    let new = slash()?;
    mount_setattr(new.as_fd(), wanted, false).context("set root propagation", propagation)?;
    Ok(new)
}

pub(super) fn slash() -> Result<OwnedFd, StepError> {
    rustix::fs::open(
        c"/",
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .context("open", "/")
}

/// Mounts a new file system below the root.
pub(super) fn mount(root: BorrowedFd<'_>, wanted: &Filesystem) -> Result<(), StepError> {
    let subject = format!("{} at {}", wanted.kind, wanted.destination.display());
    let target = if wanted.real_directory {
        resolve::real_directory(root, &wanted.destination)
            .map_err(|errno| not_real(&subject, errno))?
    } else {
        resolve::open_or_make(root, &wanted.destination, Missing::Directory)
            .context("mount", &subject)?
    };
    refuse_procfs(target.as_fd(), &wanted.destination)?;
    let data: Vec<(&str, Option<&str>)> = wanted
        .data
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_deref()))
        .collect();
    let mount = detached(&wanted.kind, &data, wanted.flags).context("mount", &subject)?;
    set_propagation(mount.as_fd(), wanted.propagation).context("mount", &subject)?;
    attach(mount.as_fd(), target.as_fd()).context("mount", &subject)
}

fn not_real(subject: &str, errno: Errno) -> StepError {
    match errno {
        Errno::NOTDIR | Errno::LOOP => StepError {
            step: "mount".into(),
            subject: subject.into(),
            errno: Some(errno.raw_os_error()),
            cause:
                "the image has something other than a directory there; it must be a real directory"
                    .into(),
        },
        other => StepError::io("mount", subject, other),
    }
}

/// A mount below the container's own /proc could fake what init reads and writes there. The planner allows
/// a few files by name; a symlink elsewhere that ends in /proc is caught here.
fn refuse_procfs(target: BorrowedFd<'_>, destination: &Path) -> Result<(), StepError> {
    let statfs = rustix::fs::fstatfs(target).context("mount", destination.display())?;
    if statfs.f_type == rustix::fs::PROC_SUPER_MAGIC && !destination.starts_with("/proc") {
        return Err(StepError::refused(
            "mount",
            destination.display(),
            "it leads into /proc through a symlink",
        ));
    }
    Ok(())
}

/// A new file system, attached nowhere.
pub(super) fn detached(
    kind: &str,
    data: &[(&str, Option<&str>)],
    flags: MountFlags,
) -> Result<OwnedFd, Errno> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in data {
        match value {
            Some(value) => fsconfig_set_string(&context, *key, *value)?,
            None => fsconfig_set_flag(&context, *key)?,
        }
    }
    fsconfig_create(&context)?;
    let attributes =
        MountAttrFlags::from_bits_retain(u32::try_from(flags.set).map_err(|_| Errno::INVAL)?);
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// Attaches a cloned host path; the place is made as a file or a directory, like the source.
pub(super) fn attach_bind(
    root: BorrowedFd<'_>,
    tree: &OwnedFd,
    bind: &Bind,
) -> Result<(), StepError> {
    let subject = bind.destination.display();
    let source = rustix::fs::fstat(tree).context("bind mount", &subject)?;
    let directory = FileType::from_raw_mode(source.st_mode) == FileType::Directory;
    let missing = if directory {
        Missing::Directory
    } else {
        Missing::File
    };
    let target =
        resolve::open_or_make(root, &bind.destination, missing).context("bind mount", &subject)?;
    refuse_procfs(target.as_fd(), &bind.destination)?;
    set_propagation(tree.as_fd(), bind.propagation).context("bind mount", &subject)?;
    set_flags(tree.as_fd(), bind.flags, false).context("bind mount", &subject)?;
    attach(tree.as_fd(), target.as_fd()).context("bind mount", &subject)
}

/// Binds a path on itself, read-only with all that is mounted below it. None there: nothing to protect.
pub(super) fn read_only(root: BorrowedFd<'_>, path: &Path) -> Result<(), StepError> {
    let target = match resolve::open(root, path) {
        Err(Errno::NOENT) => return Ok(()),
        other => other.context("make read-only", path.display())?,
    };
    let protect = || {
        let tree = clone(target.as_fd(), true)?;
        let flags = MountFlags {
            set: libc::MOUNT_ATTR_RDONLY,
            clear: 0,
        };
        set_flags(tree.as_fd(), flags, true)?;
        attach(tree.as_fd(), target.as_fd())
    };
    protect().context("make read-only", path.display())
}

/// Hides a file behind the null device and a directory behind one empty read-only tmpfs. None there: nothing.
pub(super) fn mask(
    root: BorrowedFd<'_>,
    path: &Path,
    null: &mut Stamp,
    empty: &mut Option<Stamp>,
) -> Result<(), StepError> {
    let target = match resolve::open(root, path) {
        Err(Errno::NOENT) => return Ok(()),
        other => other.context("mask", path.display())?,
    };
    let kind = rustix::fs::fstat(&target).map(|stat| FileType::from_raw_mode(stat.st_mode));
    if kind.context("mask", path.display())? != FileType::Directory {
        return null.attach(target.as_fd()).context("mask", path.display());
    }
    if empty.is_none() {
        let flags = MountFlags {
            set: libc::MOUNT_ATTR_RDONLY,
            clear: 0,
        };
        let data = [("mode", Some("0555")), ("nr_inodes", Some("1"))];
        *empty = Some(Stamp::new(
            detached("tmpfs", &data, flags).context("mask", path.display())?,
        ));
    }
    let empty = empty.as_mut().expect("made just above");
    empty.attach(target.as_fd()).context("mask", path.display())
}

/// Sets the root mount itself read-only; what is mounted on it keeps its own flags.
pub(super) fn read_only_root() -> Result<(), StepError> {
    let flags = MountFlags {
        set: libc::MOUNT_ATTR_RDONLY,
        clear: 0,
    };
    set_flags(slash()?.as_fd(), flags, false).context("make read-only", "/")
}

/// Attaches a detached mount to what `target` refers to.
pub(super) fn attach(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, c"", target, c"", flags)
}

/// Binds what `source` refers to, alone and propagating nowhere, onto what `target` refers to.
pub(super) fn bind_descriptor(source: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<(), Errno> {
    let tree = clone(source, false)?;
    set_propagation(tree.as_fd(), Propagation::Private)?;
    attach(tree.as_fd(), target)
}

fn clone(path: BorrowedFd<'_>, recursive: bool) -> Result<OwnedFd, Errno> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    flags.set(OpenTreeFlags::AT_RECURSIVE, recursive);
    open_tree(path, c"", flags)
}

pub(super) fn set_flags(
    mount: BorrowedFd<'_>,
    flags: MountFlags,
    recursive: bool,
) -> Result<(), Errno> {
    if flags == MountFlags::default() {
        return Ok(());
    }
    mount_setattr(
        mount,
        MountAttributes {
            set: flags.set,
            clear: flags.clear,
            propagation: 0,
        },
        recursive,
    )
}

fn set_propagation(mount: BorrowedFd<'_>, propagation: Propagation) -> Result<(), Errno> {
    // A clone may be a peer of the host's mount; `slave` and `private` both end that.
    mount_setattr(
        mount,
        MountAttributes {
            propagation: propagation.bit(),
            ..Default::default()
        },
        true,
    )
}
