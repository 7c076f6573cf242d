//! From the host's tree to the container's root, and what the root itself becomes.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use longshore_sys::MountAttributes;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};

use super::{attach, mask, set_attributes, set_flags};
use crate::StepError;
use crate::cgroup::mounts::unescape;
use crate::classic;
use crate::error::Context;
use crate::plan::{MountFlags, Propagation, RootChange, Spread};

const STEP: &str = "attach root";

/// Leaves a chroot that the agent may live in, then cuts the propagation of every mount in sight.
///
/// setns(2) to one's own mount namespace sets root and working directory to the namespace's root; without it
/// pivot_root would fail, because a chroot's directory is no mount point.
///
/// Where there is a workshop, neither: it stands over the namespace's root, and has cut the way to the host.
pub(in crate::init) fn isolate() -> Result<(), StepError> {
    if classic::needed() {
        return Ok(());
    }
    let own = rustix::fs::open(
        c"/proc/self/ns/mnt",
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .context("open", "/proc/self/ns/mnt")?;
    nix::sched::setns(own, nix::sched::CloneFlags::CLONE_NEWNS)
        .context("enter", "own mount namespace")?;
    let root = slash()?;
    let private = propagating(Propagation::Private);
    set_attributes(root.as_fd(), private, true).context("isolate mounts below", "/")
}

/// Attaches the detached mount over `/`, makes it the root, and lets go of everything that was there.
pub(in crate::init) fn change_root(
    root: &OwnedFd,
    spread: Spread,
    way: RootChange,
) -> Result<OwnedFd, StepError> {
    cut_off(root, spread)?;
    if way == RootChange::Chroot {
        if classic::needed() {
            let cause = "this kernel lacks the calls of Linux 5.12, without which no root is changed by chroot; use a \
                         mount namespace, and no --no-pivot";
            return Err(StepError::refused("change root", "/", cause));
        }
        detach_host()?;
    }
    attach(root.as_fd(), slash()?.as_fd()).context(STEP, "/")?;
    reroot(root, way)
}

/// Attaches the detached mount in the host's tree, where it stays until the root is changed, or for good.
pub(in crate::init) fn attach_root(
    root: &OwnedFd,
    path: &Path,
    spread: Spread,
    way: RootChange,
) -> Result<(), StepError> {
    cut_off(root, spread)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let target = rustix::fs::open(path, flags, Mode::empty()).context(STEP, path.display())?;
    attach(root.as_fd(), target.as_fd()).context(STEP, path.display())?;
    match way {
        // Where the host's mounts propagate, what is attached to them does so too.
        RootChange::Stay => cut_off(root, spread),
        RootChange::Pivot | RootChange::Chroot => Ok(()),
    }
}

/// Not shared yet: pivot_root refuses that, and nothing may reach the mount this was cloned from.
fn cut_off(root: &OwnedFd, spread: Spread) -> Result<(), StepError> {
    let first = match spread.propagation {
        Propagation::Slave => Propagation::Slave,
        _ => Propagation::Private,
    };
    set_attributes(root.as_fd(), propagating(first), true).context(STEP, "detached root mount")
}

/// Makes a mount that is attached over `/` the root. What it covers is gone, if the way is a pivot.
pub(in crate::init) fn reroot(mount: &OwnedFd, way: RootChange) -> Result<OwnedFd, StepError> {
    let left = match classic::needed() && way == RootChange::Pivot {
        true => Some(classic::carry(mount).context("change root", ".")?),
        false => None,
    };
    rustix::process::fchdir(mount).context("change directory", "root directory")?;
    match way {
        RootChange::Chroot | RootChange::Stay => {
            rustix::process::chroot(c".").context("change root", ".")?;
        }
        RootChange::Pivot => {
            // pivot_root(2) "pivot_root(\".\", \".\")": the old root ends up on top of the new one and is then detached.
            rustix::process::pivot_root(c".", c".").map_err(explain)?;
            if let Some(left) = left {
                // It stands over the old root, which would be spared.
                classic::detach(&left).context("detach workshop", ".")?;
            }
            unmount(c".", UnmountFlags::DETACH).context("detach host root", ".")?;
        }
    }
    rustix::process::chdir(c"/").context("change directory", "/")?;
    slash()
}

fn explain(errno: Errno) -> StepError {
    let error = StepError::io("pivot root", ".", errno);
    match errno {
        Errno::INVAL => StepError {
            cause: "the host runs from its initial ramfs, or a mount at / is shared; use --no-pivot in the former case"
                .into(),
            ..error
        },
        _ => error,
    }
}

/// Detaches every mount of the host's, from the last to the first, so that whoever leaves the chroot finds an empty
/// tree. What is locked in a user namespace is covered.
fn detach_host() -> Result<(), StepError> {
    let step = "detach host's mounts";
    let table = std::fs::read("/proc/self/mountinfo").context(step, "/proc/self/mountinfo")?;
    let points: Vec<PathBuf> = table
        .split(|byte| *byte == b'\n')
        .filter_map(|line| line.split(|byte| *byte == b' ').nth(4))
        .map(unescape)
        .filter(|point| point.as_os_str() != "/")
        .collect();
    for point in points.iter().rev() {
        match unmount(point, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(_) => cover(point).context(step, point.display())?,
        }
    }
    Ok(())
}

fn cover(point: &PathBuf) -> Result<(), Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let target = match rustix::fs::open(point, flags, Mode::empty()) {
        // It went with the one that it stood on.
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
        other => other?,
    };
    match attach(mask::empty_directory()?.as_fd(), target.as_fd()) {
        // A file shows nothing below it.
        Err(Errno::NOTDIR) => Ok(()),
        other => other,
    }
}

/// Sets the root mount itself read-only; what is mounted on it keeps its own flags.
pub(in crate::init) fn read_only_root() -> Result<(), StepError> {
    let flags = MountFlags::setting(libc::MOUNT_ATTR_RDONLY);
    set_flags(slash()?.as_fd(), flags, false).context("make read-only", "/")
}

/// The propagation that the root could not have while it was furnished.
pub(in crate::init) fn set_root_propagation(spread: Spread) -> Result<(), StepError> {
    let wanted = propagating(spread.propagation);
    set_attributes(slash()?.as_fd(), wanted, spread.recursive)
        .context("set root propagation", spread)
}

fn propagating(propagation: Propagation) -> MountAttributes {
    MountAttributes {
        propagation: propagation.bit(),
        ..Default::default()
    }
}

pub(in crate::init) fn slash() -> Result<OwnedFd, StepError> {
    rustix::fs::open(
        c"/",
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .context("open", "/")
}
