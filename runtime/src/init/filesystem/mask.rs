//! Masked and read-only paths.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use longshore_sys::MountAttributes;
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use super::{Stamp, attach, bind, clone, detached, set_attributes, set_flags};
use crate::StepError;
use crate::error::Context;
use crate::init::resolve;
use crate::plan::{MountFlags, Propagation};

/// What masks files.
pub(in crate::init) fn open_null() -> Result<Stamp, StepError> {
    null_mount().map(Stamp::new)
}

/// The host's /dev/null as a mount of its own, proven to be the null device (CVE-2025-31133), and read-only: the
/// inode is the host's, and a container's root could change its mode and owner otherwise. A device can be written
/// to all the same.
pub(in crate::init) fn null_mount() -> Result<OwnedFd, StepError> {
    let subject = "/dev/null of the host";
    let null = bind::clone_path(Path::new("/dev/null"), false, true).context("open", subject)?;
    if !is_null(null.as_fd()).context("stat", subject)? {
        let cause = "it is not the null device (1:3)";
        return Err(StepError::refused("open", subject, cause));
    }
    let sealed = MountAttributes {
        set: libc::MOUNT_ATTR_RDONLY,
        clear: 0,
        propagation: Propagation::Private.bit(),
    };
    set_attributes(null.as_fd(), sealed, false).context("isolate", subject)?;
    Ok(null)
}

/// The null device opened through such a mount: what a container gets in the place of the host's own.
pub(crate) fn null_device() -> Result<OwnedFd, StepError> {
    let mount = null_mount()?;
    let path = format!("/proc/self/fd/{}", mount.as_raw_fd());
    rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .context("open", "/dev/null")
}

/// Whether a descriptor is the null device.
pub(crate) fn is_null(descriptor: BorrowedFd<'_>) -> Result<bool, Errno> {
    let stat = rustix::fs::fstat(descriptor)?;
    Ok(
        FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
            && stat.st_rdev == rustix::fs::makedev(1, 3),
    )
}

/// Binds a path on itself, read-only with all that is mounted below it. None there: nothing to protect.
pub(in crate::init) fn read_only(root: BorrowedFd<'_>, path: &Path) -> Result<(), StepError> {
    let Some(target) = find(root, path, "make read-only")? else {
        return Ok(());
    };
    let protect = || {
        let tree = clone(target.as_fd(), true)?;
        set_flags(
            tree.as_fd(),
            MountFlags::setting(libc::MOUNT_ATTR_RDONLY),
            true,
        )?;
        attach(tree.as_fd(), target.as_fd())
    };
    protect().context("make read-only", path.display())
}

/// Hides a file behind the null device and a directory behind one empty read-only tmpfs. None there: nothing.
pub(in crate::init) fn mask(
    root: BorrowedFd<'_>,
    path: &Path,
    null: &mut Stamp,
    empty: &mut Option<Stamp>,
) -> Result<(), StepError> {
    let Some(target) = find(root, path, "mask")? else {
        return Ok(());
    };
    let kind = rustix::fs::fstat(&target).map(|stat| FileType::from_raw_mode(stat.st_mode));
    if kind.context("mask", path.display())? != FileType::Directory {
        return null.attach(target.as_fd()).context("mask", path.display());
    }
    cover(&target, path, empty)
}

/// Hides a directory. None there: nothing.
pub(in crate::init) fn hide(
    root: BorrowedFd<'_>,
    path: &Path,
    empty: &mut Option<Stamp>,
) -> Result<(), StepError> {
    match find(root, path, "hide")? {
        Some(target) => cover(&target, path, empty),
        None => Ok(()),
    }
}

/// None if there is nothing, which includes a path through something that is no directory. Any other error is one:
/// what cannot be looked at now might be later.
fn find(root: BorrowedFd<'_>, path: &Path, step: &str) -> Result<Option<OwnedFd>, StepError> {
    match resolve::open(root, path) {
        Ok(found) => Ok(Some(found)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(errno) => Err(StepError::io(step, path.display(), errno)),
    }
}

fn cover(target: &OwnedFd, path: &Path, empty: &mut Option<Stamp>) -> Result<(), StepError> {
    let made = match empty.take() {
        Some(made) => made,
        None => Stamp::new(empty_directory().context("mask", path.display())?),
    };
    let empty = empty.insert(made);
    empty.attach(target.as_fd()).context("mask", path.display())
}

/// One superblock for all of them.
pub(super) fn empty_directory() -> Result<OwnedFd, Errno> {
    let data = [("mode", Some("0555")), ("nr_inodes", Some("1"))];
    detached("tmpfs", &data, MountFlags::setting(libc::MOUNT_ATTR_RDONLY))
}
