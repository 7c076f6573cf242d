//! Paths below a directory that must hold no symlink: openat2(2), or one component after the other where a kernel before
//! Linux 5.6, or a filter, does not know it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::classic;

/// What becomes of a mount point on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mounts {
    Enter,
    /// EXDEV.
    Refuse,
}

static MISSING: AtomicBool = AtomicBool::new(false);

/// Whether openat2(2) is missing; asks, if nobody has.
pub(crate) fn is_missing() -> bool {
    // Whatever comes of it: ENOSYS is remembered.
    openat2(CWD, Path::new("."), OFlags::PATH, ResolveFlags::empty()).ok();
    MISSING.load(Ordering::Relaxed)
}

/// openat2(2) as it is, but for calls that are interrupted by a rename. ENOSYS comes at once if it came before.
pub(crate) fn openat2(
    directory: BorrowedFd<'_>,
    path: &Path,
    flags: OFlags,
    resolve: ResolveFlags,
) -> Result<OwnedFd, Errno> {
    if MISSING.load(Ordering::Relaxed) {
        return Err(Errno::NOSYS);
    }
    loop {
        match rustix::fs::openat2(
            directory,
            path,
            flags | OFlags::CLOEXEC,
            Mode::empty(),
            resolve,
        ) {
            // The kernel could not prove that a `..` stayed inside while something was renamed: try again.
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(Errno::NOSYS) => {
                MISSING.store(true, Ordering::Relaxed);
                return Err(Errno::NOSYS);
            }
            other => return other,
        }
    }
}

/// Opens what is at `path` below `directory`. ELOOP at a symlink, ENOTDIR at a file on the way.
pub(crate) fn open(
    directory: BorrowedFd<'_>,
    path: &Path,
    flags: OFlags,
    mounts: Mounts,
) -> Result<OwnedFd, Errno> {
    let mut resolve =
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    resolve.set(ResolveFlags::NO_XDEV, mounts == Mounts::Refuse);
    let here = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    match openat2(directory, here, flags, resolve) {
        Err(Errno::NOSYS) => walk(directory, path, flags, mounts),
        other => other,
    }
}

fn walk(
    directory: BorrowedFd<'_>,
    path: &Path,
    flags: OFlags,
    mounts: Mounts,
) -> Result<OwnedFd, Errno> {
    let mount = match mounts {
        Mounts::Enter => None,
        Mounts::Refuse => Some(classic::mount_id(directory)?),
    };
    let on_the_way = OFlags::PATH | OFlags::DIRECTORY;
    let mut here = step(
        directory,
        Path::new("."),
        if path.as_os_str().is_empty() {
            flags
        } else {
            on_the_way
        },
    )?;
    let mut components = path
        .components()
        .filter(|one| *one != Component::CurDir)
        .peekable();
    while let Some(component) = components.next() {
        let Component::Normal(name) = component else {
            return Err(Errno::XDEV);
        };
        let last = components.peek().is_none();
        // As a reference first: opening may have an effect, which must not be had on another mount.
        let found = step(here.as_fd(), Path::new(name), OFlags::PATH)?;
        let kind = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&found)?.st_mode);
        if kind == rustix::fs::FileType::Symlink {
            return Err(Errno::LOOP);
        }
        if mount.is_some() && mount != Some(classic::mount_id(found.as_fd())?) {
            return Err(Errno::XDEV);
        }
        let directory = kind == rustix::fs::FileType::Directory;
        if !directory && (!last || flags.contains(OFlags::DIRECTORY)) {
            return Err(Errno::NOTDIR);
        }
        here = match last && !flags.contains(OFlags::PATH) {
            true => classic::reopen(found.as_fd(), flags & !OFlags::NOFOLLOW)?,
            false => found,
        };
    }
    Ok(here)
}

fn step(directory: BorrowedFd<'_>, name: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(directory, name, flags, Mode::empty())
}

/// A symlink in `directory`, as itself, on the same mount. For kernels without openat2(2).
pub(crate) fn open_link(directory: BorrowedFd<'_>, name: &Path) -> Result<OwnedFd, Errno> {
    let link = step(directory, name, OFlags::PATH)?;
    match classic::mount_id(link.as_fd())? == classic::mount_id(directory)? {
        true => Ok(link),
        false => Err(Errno::XDEV),
    }
}
