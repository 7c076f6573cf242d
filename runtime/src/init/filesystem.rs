//! The container's root and everything mounted on it.
//!
//! Mounts are made detached (fsopen(2), fsmount(2), open_tree(2)) and attached to a descriptor that was
//! resolved inside the root, so no path is walked twice and no symlink can move a mount.

mod bind;
mod cgroup;
mod copy_up;
mod idmap;
mod mask;
mod new;
mod root;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use longshore_sys::{MountAttributes, mount_setattr};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use crate::StepError;
use crate::classic;
use crate::error::Context;
use crate::plan::{MountFlags, Propagation, Spread};

pub(super) use bind::{Tree, attach_bind, clone_path, open_bind};
pub(super) use cgroup::{cgroup_view, open_cgroups};
pub(super) use idmap::Maps;
pub(super) use mask::{hide, mask, open_null, read_only};
pub(crate) use mask::{is_null, null_device};
pub(super) use new::{attach_filesystem, detached, mount, open_filesystem, remount, seal};
pub(super) use root::{
    attach_root, change_root, isolate, read_only_root, reroot, set_root_propagation, slash,
};

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

    /// The mount, which was attached nowhere yet.
    pub(super) fn into_mount(self) -> OwnedFd {
        self.mount
    }
}

/// Attaches a detached mount to what `target` refers to.
pub(super) fn attach(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<(), Errno> {
    if classic::needed() {
        return classic::attach(mount, target);
    }
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, c"", target, c"", flags)
}

pub(super) fn clone(path: BorrowedFd<'_>, recursive: bool) -> Result<OwnedFd, Errno> {
    if classic::needed() {
        return classic::clone(path, recursive);
    }
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
    set(mount, flags, 0, recursive)
}

/// Flags and propagation of a mount and of those below it, in as few calls as possible.
///
/// A clone may be a peer of the host's mount; every propagation but `shared` ends that for the whole tree.
fn configure(
    mount: BorrowedFd<'_>,
    spread: Spread,
    tree: MountFlags,
    flags: MountFlags,
) -> Result<(), Errno> {
    let (below, own) = match (spread.propagation, spread.recursive) {
        (Propagation::Unbindable, false) => {
            (Propagation::Private.bit(), Propagation::Unbindable.bit())
        }
        (Propagation::Shared, false) => (0, Propagation::Shared.bit()),
        (propagation, _) => (propagation.bit(), 0),
    };
    set(mount, tree, below, true)?;
    let flags = if flags == tree {
        MountFlags::default()
    } else {
        flags
    };
    set(mount, flags, own, false)
}

fn set(
    mount: BorrowedFd<'_>,
    flags: MountFlags,
    propagation: u64,
    recursive: bool,
) -> Result<(), Errno> {
    if flags == MountFlags::default() && propagation == 0 {
        return Ok(());
    }
    let attributes = MountAttributes {
        set: flags.set,
        clear: flags.clear,
        propagation,
    };
    set_attributes(mount, attributes, recursive)
}

/// As mount_setattr(2).
pub(super) fn set_attributes(
    mount: BorrowedFd<'_>,
    attributes: MountAttributes,
    recursive: bool,
) -> Result<(), Errno> {
    match classic::needed() {
        true => classic::set(mount, attributes, recursive),
        false => mount_setattr(mount, attributes, recursive),
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

/// Binds what `source` refers to, alone and propagating nowhere, onto what `target` refers to.
pub(super) fn bind_descriptor(source: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<(), Errno> {
    let tree = clone(source, false)?;
    let none = MountFlags::default();
    configure(tree.as_fd(), Spread::default(), none, none)?;
    attach(tree.as_fd(), target)
}
