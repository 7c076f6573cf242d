//! A regular file of a layer: created, and given its metadata, with as few system calls as it bears.
//!
//! Most files of an image belong to whoever unpacks and have a mode that no umask cuts: they are created with it, and
//! need neither chown(2) nor chmod(2).

use std::ffi::CStr;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags, XattrFlags};
use rustix::io::Errno;

use super::Fail;
use super::archive::Entry;
use super::at::{mode, owner, times};
use super::entry::{Xattr, xattr};

/// What a file gets by itself when we create it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Native {
    uid: u32,
    gid: u32,
    /// The permission bits that get through.
    bits: u32,
}

impl Native {
    /// Found by trying: a umask, a default access control list and a mount's `grpid` all have their say.
    pub(crate) fn below(dir: BorrowedFd<'_>) -> Result<Native, Fail> {
        const PROBE: &CStr = c".longshore-probe";
        let host = |call: &'static str| move |e| Fail::host(PROBE.to_bytes(), call, e);
        let probe = create(dir, PROBE.to_bytes(), 0o777).map_err(host("open"))?;
        let stat = rustix::fs::fstat(&probe).map_err(host("fstat"))?;
        rustix::fs::unlinkat(dir, PROBE, AtFlags::empty()).map_err(host("unlink"))?;
        Ok(Native {
            uid: stat.st_uid,
            gid: stat.st_gid,
            bits: stat.st_mode & 0o777,
        })
    }

    /// Whether a new file must be given to the entry's owner.
    pub(crate) fn is_foreign(&self, entry: &Entry) -> bool {
        (entry.uid, entry.gid) != (self.uid, self.gid)
    }

    fn cuts(&self, mode: u16) -> bool {
        u32::from(mode) & !self.bits != 0
    }
}

/// A new file, open for writing; EEXIST if anything has that name.
pub(crate) fn create(dir: BorrowedFd<'_>, last: &[u8], mode: u16) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    // setuid bits come last, when the bytes are in.
    let bits = Mode::from_bits_truncate(u32::from(mode & 0o777));
    rustix::fs::openat(dir, last, flags, bits)
}

/// Writes all of `bytes` at the file's position.
pub(crate) fn write_all(file: &OwnedFd, mut bytes: &[u8]) -> rustix::io::Result<()> {
    while !bytes.is_empty() {
        let written = rustix::io::retry_on_intr(|| rustix::io::write(file, bytes))?;
        bytes = &bytes[written..];
    }
    Ok(())
}

/// Gives a file that is whole the entry's owner, mode, attributes and time.
pub(crate) fn dress(file: BorrowedFd<'_>, entry: &Entry, native: Native) -> Result<(), Fail> {
    let host = |call: &'static str| move |e| Fail::host(&entry.path, call, e);
    let foreign = native.is_foreign(entry);
    // chown(2) clears setuid bits and file capabilities, so they come after it; the time comes last.
    if foreign {
        let (uid, gid) = owner(entry.uid, entry.gid);
        rustix::fs::fchown(file, uid, gid).map_err(host("fchown"))?;
    }
    if native.cuts(entry.mode) {
        rustix::fs::fchmod(file, mode(entry.mode)).map_err(host("fchmod"))?;
    }
    set_xattrs(file, entry)?;
    rustix::fs::futimens(file, &times(entry.mtime)).map_err(host("futimens"))
}

/// Sets those of the entry's extended attributes that an image may have.
pub(crate) fn set_xattrs(fd: BorrowedFd<'_>, entry: &Entry) -> Result<(), Fail> {
    for (name, value) in &entry.xattrs {
        match xattr(name, value).map_err(|cause| Fail::entry(&entry.path, cause))? {
            Xattr::Drop(reason) => {
                let name = crate::error::printable_bytes(name);
                tracing::debug!(name, reason, "extended attribute left out");
            }
            Xattr::Keep => {
                match rustix::fs::fsetxattr(fd, name.as_slice(), value, XattrFlags::empty()) {
                    // A tmpfs before Linux 6.6 has no user attributes; the image is worth more than they are.
                    Err(Errno::OPNOTSUPP) if name.starts_with(b"user.") => {
                        tracing::warn!(
                            "the store's file system holds no user attributes; one was left out"
                        );
                    }
                    other => other.map_err(|e| Fail::host(&entry.path, "setxattr", e))?,
                }
            }
        }
    }
    Ok(())
}
