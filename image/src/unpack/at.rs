//! Where an entry goes, and the system calls on its name: below a directory descriptor, the last component never
//! followed.

use std::ffi::CString;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

use super::Fail;
use super::archive::Time;
use super::entry::Name;

/// An open directory of the layer. Its inode tells it from others, whichever way it was reached.
#[derive(Debug)]
pub(crate) struct Dir {
    pub(crate) fd: OwnedFd,
    pub(crate) inode: u64,
}

impl Dir {
    pub(crate) fn new(fd: OwnedFd) -> rustix::io::Result<Dir> {
        let inode = rustix::fs::fstat(&fd)?.st_ino;
        Ok(Dir { fd, inode })
    }
}

/// Where an entry goes: its name in its parent, and the name that errors tell.
pub(crate) struct At<'a> {
    pub(crate) dir: BorrowedFd<'a>,
    pub(crate) inode: u64,
    /// As in the archive.
    pub(crate) path: &'a [u8],
    pub(crate) last: &'a [u8],
}

impl At<'_> {
    pub(crate) fn host(&self, call: &'static str) -> impl Fn(Errno) -> Fail + use<'_> {
        move |e| Fail::host(self.path, call, e)
    }

    pub(crate) fn stat(&self) -> Result<Option<Stat>, Fail> {
        match rustix::fs::statat(self.dir, self.last, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(Fail::host(self.path, "stat", e)),
        }
    }

    pub(crate) fn unlink(&self) -> Result<(), Fail> {
        rustix::fs::unlinkat(self.dir, self.last, AtFlags::empty()).map_err(self.host("unlink"))
    }

    pub(crate) fn mkdir(&self, bits: u32) -> Result<(), Fail> {
        rustix::fs::mkdirat(self.dir, self.last, Mode::from_bits_truncate(bits))
            .map_err(self.host("mkdir"))
    }

    pub(crate) fn link_target(&self) -> Result<Vec<u8>, Fail> {
        let target = rustix::fs::readlinkat(self.dir, self.last, Vec::new());
        target
            .map(CString::into_bytes)
            .map_err(self.host("readlink"))
    }

    pub(crate) fn open_dir(&self) -> Result<OwnedFd, Fail> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(self.dir, self.last, flags, Mode::empty()).map_err(self.host("open"))
    }
}

pub(crate) const BENEATH: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);

pub(crate) fn open_beneath(root: &OwnedFd, path: &[u8]) -> rustix::io::Result<OwnedFd> {
    let path = if path.is_empty() { b"." } else { path };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat2(root, path, flags, Mode::empty(), BENEATH)
}

pub(crate) fn unresolvable(path: &[u8], parent: &[u8], errno: Errno) -> Fail {
    let parent = crate::error::printable_bytes(parent);
    match errno {
        Errno::XDEV | Errno::LOOP => Fail::entry(
            path,
            format!("it climbs out of the layer through a symbolic link in `{parent}`"),
        ),
        Errno::NOENT | Errno::NOTDIR => {
            Fail::entry(path, format!("its parent `{parent}` is no directory"))
        }
        other => Fail::host(path, "openat2", other),
    }
}

pub(crate) fn make_opaque(at: &At<'_>, dir: BorrowedFd<'_>) -> Result<(), Fail> {
    rustix::fs::fsetxattr(dir, c"trusted.overlay.opaque", b"y", XattrFlags::empty())
        .map_err(at.host("setxattr trusted.overlay.opaque"))
}

pub(crate) fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

pub(crate) fn depth(name: &Name) -> usize {
    if name.is_root() {
        return 0;
    }
    1 + name.bytes().iter().filter(|b| **b == b'/').count()
}

pub(crate) fn mode(bits: u16) -> Mode {
    Mode::from_bits_truncate(u32::from(bits))
}

pub(crate) fn owner(uid: u32, gid: u32) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
}

pub(crate) fn times(time: Time) -> Timestamps {
    let time = Timespec {
        tv_sec: time.seconds,
        tv_nsec: i64::from(time.nanoseconds),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}
