//! `tmpcopyup`: what the image has at a place, copied onto the tmpfs that covers it.
//!
//! Everything goes through descriptors, no symlink is followed and no mount crossed. Modes, owners, times and file
//! capabilities come along. Deliberately absent: hard links (each name gets a copy), sockets, and other attributes.

use std::ffi::{CStr, OsStr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, Uid,
    XattrFlags,
};
use rustix::io::Errno;

use crate::beneath;

/// Directories within directories; two descriptors are open for each.
const DEPTH_MAX: usize = 128;
/// struct vfs_ns_cap_data is 24 bytes.
const CAPABILITY_MAX: usize = 64;

/// Copies the contents of a directory into another, which gets its owner.
pub(super) fn copy(from: &OwnedFd, to: &OwnedFd) -> Result<(), Errno> {
    contents(from.as_fd(), to.as_fd(), DEPTH_MAX)?;
    own(to.as_fd(), &rustix::fs::fstat(from)?)
}

fn contents(from: BorrowedFd<'_>, to: BorrowedFd<'_>, depth: usize) -> Result<(), Errno> {
    let depth = depth.checked_sub(1).ok_or(Errno::NAMETOOLONG)?;
    let listed = rustix::fs::openat(
        from,
        c".",
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    for entry in Dir::read_from(&listed)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match on_mount(from, name, flags) {
            Ok(found) => entry_to(from, name, &found, to, depth)?,
            // A mount point, or it is gone.
            Err(Errno::XDEV | Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// EXDEV at a mount point.
fn on_mount(from: BorrowedFd<'_>, name: &CStr, flags: OFlags) -> Result<OwnedFd, Errno> {
    let path = Path::new(OsStr::from_bytes(name.to_bytes()));
    match beneath::openat2(from, path, flags, ResolveFlags::NO_XDEV) {
        Err(Errno::NOSYS) => beneath::open_link(from, path),
        other => other,
    }
}

fn entry_to(
    from: BorrowedFd<'_>,
    name: &CStr,
    found: &OwnedFd,
    to: BorrowedFd<'_>,
    depth: usize,
) -> Result<(), Errno> {
    let stat = rustix::fs::fstat(found)?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    let private = Mode::from_raw_mode(0o700);
    match kind {
        FileType::Directory => {
            rustix::fs::mkdirat(to, name, private)?;
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let made = rustix::fs::openat(to, name, flags, Mode::empty())?;
            contents(found.as_fd(), made.as_fd(), depth)?;
            own(made.as_fd(), &stat)?;
        }
        FileType::RegularFile => file(from, name, &stat, to)?,
        FileType::Symlink => {
            let text = rustix::fs::readlinkat(found, c"", Vec::new())?;
            rustix::fs::symlinkat(text, to, name)?;
            let (uid, gid) = owner(&stat);
            rustix::fs::chownat(to, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        }
        FileType::Fifo | FileType::CharacterDevice | FileType::BlockDevice => {
            match rustix::fs::mknodat(to, name, kind, private, stat.st_rdev) {
                // A user namespace may make no device.
                Err(Errno::PERM) => return Ok(()),
                other => other?,
            }
        }
        _ => return Ok(()),
    }
    finish(to, name, &stat, kind)
}

fn file(from: BorrowedFd<'_>, name: &CStr, stat: &Stat, to: BorrowedFd<'_>) -> Result<(), Errno> {
    let flags =
        OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let source = rustix::fs::openat(from, name, flags, Mode::empty())?;
    let opened = rustix::fs::fstat(&source)?;
    if (opened.st_dev, opened.st_ino) != (stat.st_dev, stat.st_ino) {
        return Err(Errno::STALE);
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let made = rustix::fs::openat(to, name, flags, Mode::from_raw_mode(0o600))?;
    let (mut source, mut made) = (std::fs::File::from(source), std::fs::File::from(made));
    std::io::copy(&mut source, &mut made).map_err(errno)?;
    own(made.as_fd(), stat)?;
    // After the change of owner, which takes it away.
    let mut capability = [0; CAPABILITY_MAX];
    let name = c"security.capability";
    if let Ok(length) = rustix::fs::fgetxattr(&source, name, &mut capability[..]) {
        let value = capability.get(..length).ok_or(Errno::RANGE)?;
        rustix::fs::fsetxattr(&made, name, value, XattrFlags::empty())?;
    }
    Ok(())
}

fn errno(error: std::io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}

fn owner(stat: &Stat) -> (Uid, Gid) {
    (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid))
}

fn own(file: BorrowedFd<'_>, stat: &Stat) -> Result<(), Errno> {
    let (uid, gid) = owner(stat);
    rustix::fs::chownat(file, c"", Some(uid), Some(gid), AtFlags::EMPTY_PATH)
}

/// Mode and times, which what was done before has changed. Nobody else sees this file system yet, so the name
/// still means what was made.
fn finish(to: BorrowedFd<'_>, name: &CStr, stat: &Stat, kind: FileType) -> Result<(), Errno> {
    if kind != FileType::Symlink {
        if !matches!(kind, FileType::Directory | FileType::RegularFile) {
            let (uid, gid) = owner(stat);
            rustix::fs::chownat(to, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        }
        let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
        rustix::fs::chmodat(to, name, mode, AtFlags::empty())?;
    }
    let time = |seconds: i64, nanoseconds: u64| Timespec {
        tv_sec: seconds,
        tv_nsec: i64::try_from(nanoseconds).unwrap_or(0),
    };
    let times = Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    };
    rustix::fs::utimensat(to, name, &times, AtFlags::SYMLINK_NOFOLLOW)
}
