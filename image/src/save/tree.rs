//! A layer's tree as a tar archive: what `unpack` made of an archive becomes one again, from which it would make the
//! same.
//!
//! Overlayfs's marks become whiteouts (OCI image specification, "Layer"), directories that the first archive used
//! without describing them are not described here either, and a file with several names is written once and linked.
//! Names of a directory are taken in order of their bytes, so that the same tree is the same archive.
//!
//! What cannot come back: the order of entries, their access times, times of directories that the first archive did
//! not describe, and attributes that were left out when the layer was unpacked.

use std::collections::{BTreeSet, HashMap};
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::tar::{Writer, member};
use crate::error::printable_bytes;
use crate::remove::names;
use crate::unpack::Outline;
use crate::unpack::archive::{Entry, Kind, Time};
use crate::unpack::at::is_whiteout;

/// Names that are in memory at once, in bytes: of directories on the way down, and of files with several names.
const NAMES_MAX: usize = 512 * 1024 * 1024;
/// What a name costs besides its bytes.
const NAME_COST: usize = 64;

/// Writes the layer whose tree is `root`, without an end mark. The error tells the entry. Blocking.
pub(super) fn write<W: Write>(
    root: OwnedFd,
    outline: &Outline,
    out: &mut Writer<W>,
) -> Result<(), String> {
    let implied: Result<BTreeSet<Vec<u8>>, _> = outline.implied.iter().map(hex::decode).collect();
    let mut walk = Walk {
        implied: implied.map_err(|e| format!("the layer's record is bad: {e}"))?,
        first_names: HashMap::new(),
        names_left: NAMES_MAX,
        out,
    };
    if outline.has_root {
        let stat = rustix::fs::fstat(&root).map_err(|e| host(b".", "stat", e))?;
        let entry = described(
            b"./",
            Kind::Directory,
            &stat,
            attributes(b".", root.as_fd())?,
        );
        walk.add(&entry, io::empty())?;
    }
    if outline.opaque_root {
        walk.mark(b"", b".wh..wh..opq")?;
    }
    walk.directory(root.as_fd(), &mut Vec::new())?;
    walk.links_below(outline)
}

struct Walk<'a, W> {
    implied: BTreeSet<Vec<u8>>,
    /// Of files with several names: inode number and the name that was written.
    first_names: HashMap<u64, Vec<u8>>,
    names_left: usize,
    out: &'a mut Writer<W>,
}

impl<W: Write> Walk<'_, W> {
    /// Hard links to files of layers below, which the tree itself does not have.
    fn links_below(&mut self, outline: &Outline) -> Result<(), String> {
        let decode = |name: &String| {
            hex::decode(name).map_err(|e| format!("the layer's record is bad: {e}"))
        };
        for (name, target) in &outline.links_below {
            let entry = Entry {
                path: decode(name)?,
                kind: Kind::Hardlink(decode(target)?),
                ..member("", Kind::Fifo)
            };
            self.add(&entry, io::empty())?;
        }
        Ok(())
    }

    fn directory(&mut self, dir: BorrowedFd<'_>, path: &mut Vec<u8>) -> Result<(), String> {
        // A descriptor of its own: reading moves it.
        let again = open_dir(dir, c".").map_err(|e| host(path, "open", e))?;
        let mut all = names(again.as_fd()).map_err(|e| host(path, "read", e))?;
        drop(again);
        all.sort_unstable();
        let cost = all
            .iter()
            .map(|name| name.as_bytes().len() + NAME_COST)
            .sum();
        self.take(cost, path)?;
        let len = path.len();
        for name in &all {
            if len > 0 {
                path.push(b'/');
            }
            path.extend_from_slice(name.as_bytes());
            self.one(dir, name, path)?;
            path.truncate(len);
        }
        self.names_left += cost;
        Ok(())
    }

    fn one(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &CString,
        path: &mut Vec<u8>,
    ) -> Result<(), String> {
        let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|e| host(path, "stat", e))?;
        if name.as_bytes().starts_with(b".wh.") {
            let shown = printable_bytes(path);
            return Err(format!(
                "`{shown}` has a name that means a whiteout in an archive; the layer is damaged, pull the image again"
            ));
        }
        if is_whiteout(&stat) {
            return self.mark(path, &[b".wh.", name.as_bytes()].concat());
        }
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::Directory {
            return self.one_directory(dir, name, path, &stat);
        }
        if let Some(first) = self.first_names.get(&stat.st_ino) {
            let entry = described(path, Kind::Hardlink(first.clone()), &stat, Vec::new());
            return self.add(&entry, io::empty());
        }
        if stat.st_nlink > 1 {
            self.take(path.len() + NAME_COST, path)?;
            self.first_names.insert(stat.st_ino, path.clone());
        }
        match kind {
            FileType::RegularFile => self.one_file(dir, name, path),
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(dir, name, Vec::new());
                let target = target.map_err(|e| host(path, "readlink", e))?;
                self.bare(path, Kind::Symlink(target.into_bytes()), &stat)
            }
            FileType::Fifo => self.bare(path, Kind::Fifo, &stat),
            FileType::CharacterDevice => {
                let (major, minor) = device(&stat);
                self.bare(path, Kind::Character { major, minor }, &stat)
            }
            FileType::BlockDevice => {
                let (major, minor) = device(&stat);
                self.bare(path, Kind::Block { major, minor }, &stat)
            }
            _ => {
                let shown = printable_bytes(path);
                Err(format!(
                    "`{shown}` is of a kind that no layer has; the layer is damaged, pull the image again"
                ))
            }
        }
    }

    fn one_directory(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &CStr,
        path: &mut Vec<u8>,
        stat: &Stat,
    ) -> Result<(), String> {
        let below = open_dir(dir, name).map_err(|e| host(path, "open", e))?;
        if !self.implied.contains(path.as_slice()) {
            let attributes = attributes(path, below.as_fd())?;
            let named = [path.as_slice(), b"/"].concat();
            self.add(
                &described(&named, Kind::Directory, stat, attributes),
                io::empty(),
            )?;
        }
        if is_opaque(below.as_fd()).map_err(|e| host(path, "getxattr", e))? {
            let len = path.len();
            path.extend_from_slice(b"/.");
            self.mark(path, b".wh..wh..opq")?;
            path.truncate(len);
        }
        self.directory(below.as_fd(), path)
    }

    fn one_file(&mut self, dir: BorrowedFd<'_>, name: &CStr, path: &[u8]) -> Result<(), String> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NOATIME | OFlags::CLOEXEC;
        let file = rustix::fs::openat(dir, name, flags, Mode::empty())
            .map_err(|e| host(path, "open", e))?;
        let stat = rustix::fs::fstat(&file).map_err(|e| host(path, "stat", e))?;
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let entry = described(
            path,
            Kind::File { size },
            &stat,
            attributes(path, file.as_fd())?,
        );
        self.add(&entry, File::from(file))
    }

    /// What has no bytes and no attributes.
    fn bare(&mut self, path: &[u8], kind: Kind, stat: &Stat) -> Result<(), String> {
        self.add(&described(path, kind, stat, Vec::new()), io::empty())
    }

    /// An empty file that is a mark, beside `path`.
    fn mark(&mut self, path: &[u8], name: &[u8]) -> Result<(), String> {
        let mut entry = member("", Kind::File { size: 0 });
        entry.mode = 0;
        entry.path = match path.iter().rposition(|b| *b == b'/') {
            Some(end) => [&path[..=end], name].concat(),
            None => name.to_vec(),
        };
        self.add(&entry, io::empty())
    }

    fn add(&mut self, entry: &Entry, data: impl io::Read) -> Result<(), String> {
        self.out.entry(entry, data).map_err(|e| {
            let shown = printable_bytes(&entry.path);
            format!("write `{shown}`: {e}")
        })
    }

    fn take(&mut self, cost: usize, path: &[u8]) -> Result<(), String> {
        let left = self.names_left.checked_sub(cost);
        self.names_left = left.ok_or_else(|| {
            let shown = printable_bytes(path);
            format!("the layer has too many names in one directory, or too many hard links, at `{shown}`")
        })?;
        Ok(())
    }
}

/// Names and values.
type Attributes = Vec<(Vec<u8>, Vec<u8>)>;

fn described(path: &[u8], kind: Kind, stat: &Stat, xattrs: Attributes) -> Entry {
    Entry {
        path: path.to_vec(),
        kind,
        mode: (stat.st_mode & 0o7777) as u16,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: Time {
            seconds: stat.st_mtime,
            nanoseconds: u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
        },
        xattrs,
        sparse: None,
    }
}

fn device(stat: &Stat) -> (u32, u32) {
    (
        rustix::fs::major(stat.st_rdev),
        rustix::fs::minor(stat.st_rdev),
    )
}

/// The image's own attributes, in order of their names: what `unpack` keeps.
fn attributes(path: &[u8], fd: BorrowedFd<'_>) -> Result<Attributes, String> {
    let list = match whole(|buffer| rustix::fs::flistxattr(fd, buffer)) {
        Err(Errno::OPNOTSUPP) => Vec::new(),
        other => other.map_err(|e| host(path, "listxattr", e))?,
    };
    let is_images = |name: &&[u8]| name.starts_with(b"user.") || *name == b"security.capability";
    let mut found = Vec::new();
    for name in list.split(|b| *b == 0).filter(is_images) {
        let value = whole(|buffer| rustix::fs::fgetxattr(fd, name, buffer));
        let value = value.map_err(|e| host(path, "getxattr", e))?;
        found.push((name.to_vec(), value));
    }
    found.sort();
    Ok(found)
}

/// What a call that fills a buffer has to say: most often little, at most 64 KiB (XATTR_LIST_MAX, XATTR_SIZE_MAX).
fn whole(
    mut call: impl FnMut(&mut [u8]) -> rustix::io::Result<usize>,
) -> rustix::io::Result<Vec<u8>> {
    let mut few = [0; 512];
    match call(&mut few) {
        Ok(len) => Ok(few[..len].to_vec()),
        Err(Errno::RANGE) => {
            let mut many = vec![0; 64 * 1024];
            let len = call(&mut many)?;
            many.truncate(len);
            Ok(many)
        }
        Err(e) => Err(e),
    }
}

fn is_opaque(fd: BorrowedFd<'_>) -> rustix::io::Result<bool> {
    let mut value = [0; 8];
    match rustix::fs::fgetxattr(fd, c"trusted.overlay.opaque", &mut value) {
        Ok(len) => Ok(value[..len] == *b"y"),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(false),
        Err(e) => Err(e),
    }
}

fn open_dir(dir: BorrowedFd<'_>, name: &CStr) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::empty())
}

fn host(path: &[u8], call: &str, errno: Errno) -> String {
    format!("{call} of `{}`: {errno}", printable_bytes(path))
}
