//! What a layer needs of those below it, as one small directory tree that is stacked right above the layer.
//!
//! - A directory that the archive uses without describing it looks as the layers below have it.
//! - Where a layer below has a symbolic link on the way to an entry, the writer of the archive meant what the link leads
//!   to: what the layer has there is grafted onto that place, and the link shows again.
//! - A hard link to a file of a layer below brings that file up, under both names.
//!
//! A seam depends on all that is below and is named by the chain ID (OCI image spec, "Layer ChainID"). Nothing in it
//! is shared with the layer's own tree: who removes one does not touch the other. Absent on purpose: links in the layers
//! below that are followed out of the image; they are resolved in it, as a container would see them.

mod graft;
mod resolve;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Gid, Mode, Stat, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::layers;
use super::layout::Layout;
use super::stack::Floor;
use crate::error::{ImageError, printable_bytes};
use crate::unpack::Outline;
use resolve::{exists, kind_of, open, resolve};

/// Bytes that all seams of one image may copy: a few that link to large files would otherwise fill a disk, for holes are
/// copied as zeros, and each layer may want the same file again.
pub(super) const COPIES_MAX: u64 = 1024 * 1024 * 1024;

/// Where a directory of the seam has its metadata from.
#[derive(Clone, Debug, PartialEq)]
enum Source {
    /// The directory of that name in the layer.
    Own(Vec<u8>),
    /// The one in the layers below.
    Below,
    /// Nobody knows it.
    Unknown,
}

/// A seam in the making. Names are paths below the image's root.
struct Seam<'a> {
    fs: OwnedFd,
    own: OwnedFd,
    below: OwnedFd,
    implied: BTreeSet<Vec<u8>>,
    directories: BTreeMap<Vec<u8>, Source>,
    /// Directories of the layer that a symbolic link below moves, and where to.
    moved: HashMap<Vec<u8>, Vec<u8>>,
    /// Grafted files with several names, by inode.
    names: HashMap<u64, Vec<u8>>,
    /// Files of the layers below that were brought up under another name only.
    raised: HashMap<Vec<u8>, Vec<u8>>,
    copies_left: &'a mut u64,
}

/// Makes the seam of the layer whose tree is `own`, above what `below` shows, and publishes it at `path`; copies at most
/// `copies_left` bytes and counts them there. Blocking.
pub(super) fn make(
    layout: &Layout,
    own: &Floor,
    outline: &Outline,
    below: OwnedFd,
    path: &str,
    copies_left: &mut u64,
) -> Result<(), ImageError> {
    let error = |cause: String| ImageError::new("stack layers", &own.path, cause);
    let ingest = layout.ingest()?;
    let decode = |name: &String| hex::decode(name).map_err(|e| layout.error("read", &own.path, e));
    let implied: Result<BTreeSet<_>, _> = outline.implied.iter().map(decode).collect();
    let mut links = Vec::new();
    for (name, target) in &outline.links_below {
        links.push((decode(name)?, decode(target)?));
    }
    let mut seam = Seam {
        fs: ingest.mkdir(c"fs", Mode::from_bits_truncate(0o755))?,
        own: layout.directory(&own.path)?,
        below,
        implied: implied?,
        directories: BTreeMap::new(),
        moved: HashMap::new(),
        names: HashMap::new(),
        raised: HashMap::new(),
        copies_left,
    };
    seam.lay_implied().map_err(error)?;
    for (name, target) in &links {
        seam.link(name, target).map_err(error)?;
    }
    seam.dress().map_err(error)?;
    layers::publish(layout, ingest, path, Outline::default())
}

impl Seam<'_> {
    fn lay_implied(&mut self) -> Result<(), String> {
        for name in self.implied.clone() {
            if self.place_of(&name) != name {
                continue;
            }
            match resolve::first_link(self.below.as_fd(), &name)? {
                None => self.directory(&name)?,
                Some(link) => self.graft_link(&link)?,
            }
        }
        Ok(())
    }

    /// Where a name of the layer is in the image.
    fn place_of(&self, name: &[u8]) -> Vec<u8> {
        // The longest first: what is moved inside of what is moved.
        let above: Vec<&[u8]> = prefixes(name).collect();
        let moved = above.iter().rev().find_map(|from| {
            let to = self.moved.get(*from)?;
            Some([to, &name[from.len()..]].concat())
        });
        moved.unwrap_or_else(|| name.to_vec())
    }

    /// Makes a directory and those above it; which source it has is decided once.
    fn directory(&mut self, name: &[u8]) -> Result<(), String> {
        for prefix in prefixes(name) {
            if self.directories.contains_key(prefix) {
                continue;
            }
            let known_below = kind_of(self.below.as_fd(), prefix) == Some(FileType::Directory);
            let described = kind_of(self.own.as_fd(), prefix) == Some(FileType::Directory)
                && !self.implied.contains(prefix);
            let source = match (described, known_below) {
                (true, _) => Source::Own(prefix.to_vec()),
                (false, true) => Source::Below,
                (false, false) => Source::Unknown,
            };
            self.directory_from(prefix, source)?;
        }
        Ok(())
    }

    fn directory_from(&mut self, name: &[u8], source: Source) -> Result<(), String> {
        if self.directories.insert(name.to_vec(), source).is_none() {
            let (above, last) = self.at(name)?;
            rustix::fs::mkdirat(&above, last, Mode::RWXU).map_err(|e| said(name, "mkdir", e))?;
        }
        Ok(())
    }

    /// A hard link to what is not in the layer.
    fn link(&mut self, name: &[u8], target: &[u8]) -> Result<(), String> {
        let name = self.place_of(name);
        let (above, last) = split(target);
        let target = join(&resolve(self.below.as_fd(), above)?, last);
        self.directory(split(&name).0)?;
        if !exists(self.fs.as_fd(), &target) {
            match kind_of(self.below.as_fd(), &target) {
                None | Some(FileType::Directory) => {
                    return Err(format!(
                        "`{}` is a hard link to `{}`, which is no file of this layer nor of those below; push the \
                         image again",
                        printable_bytes(&name),
                        printable_bytes(&target)
                    ));
                }
                Some(_) => return self.raise(&name, &target),
            }
        }
        self.same_file(&target, &name)
    }

    /// Brings a file of the layers below up, and gives it one more name. Where the layer itself has removed or replaced
    /// the first name, it gets the second only.
    fn raise(&mut self, name: &[u8], target: &[u8]) -> Result<(), String> {
        if let Some(first) = self.raised.get(target).cloned() {
            return self.same_file(&first, name);
        }
        let below =
            open(self.below.as_fd(), split(target).0).map_err(|e| said(target, "open", e))?;
        if exists(self.own.as_fd(), target) {
            self.copy(below.as_fd(), split(target).1, name)?;
            self.raised.insert(target.to_vec(), name.to_vec());
            return Ok(());
        }
        self.directory(split(target).0)?;
        self.copy(below.as_fd(), split(target).1, target)?;
        self.same_file(target, name)
    }

    fn same_file(&self, known: &[u8], name: &[u8]) -> Result<(), String> {
        let (from, known) = self.at(known)?;
        let (to, last) = self.at(name)?;
        let linked = rustix::fs::linkat(&from, known, &to, last, AtFlags::empty());
        linked.map_err(|e| said(name, "link", e))
    }

    /// Where a name of the seam is: its directory, no link on the way followed, and its last component. A link of the layer's
    /// own that was grafted into the seam leads nowhere from here.
    fn at<'n>(&self, name: &'n [u8]) -> Result<(OwnedFd, &'n [u8]), String> {
        let (above, last) = split(name);
        let above = open(self.fs.as_fd(), above).map_err(|e| said(name, "open above", e))?;
        Ok((above, last))
    }

    /// Gives all directories their metadata, the inner ones first, so that the times of the outer ones stay.
    fn dress(&self) -> Result<(), String> {
        for (name, source) in self.directories.iter().rev() {
            let target = open(self.fs.as_fd(), name).map_err(|e| said(name, "open", e))?;
            let from = match source {
                Source::Own(own) => open(self.own.as_fd(), own),
                Source::Below => open(self.below.as_fd(), name),
                Source::Unknown => {
                    let bits = Mode::from_bits_truncate(0o755);
                    rustix::fs::fchmod(&target, bits).map_err(|e| said(name, "fchmod", e))?;
                    continue;
                }
            };
            from.and_then(|from| copy_metadata(from.as_fd(), target.as_fd()))
                .map_err(|e| said(name, "copy of its metadata", e))?;
        }
        Ok(())
    }
}

fn said(name: &[u8], call: &str, errno: Errno) -> String {
    format!("{call} of `{}`: {errno}", printable_bytes(name))
}

/// Parent and last component; the parent of a name in the root is empty.
fn split(name: &[u8]) -> (&[u8], &[u8]) {
    match name.iter().rposition(|b| *b == b'/') {
        Some(at) => (&name[..at], &name[at + 1..]),
        None => (b"", name),
    }
}

fn join(above: &[u8], last: &[u8]) -> Vec<u8> {
    match above.is_empty() {
        true => last.to_vec(),
        false => [above, b"/", last].concat(),
    }
}

/// `a`, `a/b`, `a/b/c` of `a/b/c`; none of the root.
fn prefixes(name: &[u8]) -> impl Iterator<Item = &[u8]> {
    let ends = name
        .iter()
        .enumerate()
        .filter(|(_, b)| **b == b'/')
        .map(|(at, _)| at);
    let all = ends.chain([name.len()]).map(|end| &name[..end]);
    all.filter(|prefix| !prefix.is_empty())
}

fn copy_metadata(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> rustix::io::Result<()> {
    let stat = rustix::fs::fstat(from)?;
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    rustix::fs::fchown(to, Some(uid), Some(gid))?;
    rustix::fs::fchmod(to, Mode::from_bits_truncate(stat.st_mode & 0o7777))?;
    copy_attributes(from, to)?;
    rustix::fs::futimens(to, &times(&stat))
}

/// Only the image's own: the marks of overlayfs must not be repeated in a seam.
fn copy_attributes(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> rustix::io::Result<()> {
    let mut names = vec![0; 64 * 1024];
    let len = rustix::fs::flistxattr(from, &mut names)?;
    for name in names[..len]
        .split(|b| *b == 0)
        .filter(|n| n.starts_with(b"user.") || *n == b"security.capability")
    {
        let mut value = vec![0; 64 * 1024];
        let len = rustix::fs::fgetxattr(from, name, &mut value)?;
        rustix::fs::fsetxattr(to, name, &value[..len], XattrFlags::empty())?;
    }
    Ok(())
}

fn times(stat: &Stat) -> Timestamps {
    Timestamps {
        last_access: Timespec {
            tv_sec: stat.st_atime,
            tv_nsec: stat.st_atime_nsec as _,
        },
        last_modification: Timespec {
            tv_sec: stat.st_mtime,
            tv_nsec: stat.st_mtime_nsec as _,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_come_from_the_top() {
        let all: Vec<&[u8]> = prefixes(b"a/bc/d").collect();
        assert_eq!(all, [&b"a"[..], b"a/bc", b"a/bc/d"]);
        assert_eq!(prefixes(b"").count(), 0);
    }
}
