//! The files of a layer, written below one directory descriptor.
//!
//! Every parent is resolved by openat2(2) with RESOLVE_BENEATH: a symbolic link that stays inside the layer is
//! followed, one that leaves it (absolute, or by `..`) is an error that names the entry. The last component is
//! never followed. The tree belongs to its unpacker alone until it is published, so nothing races.
//!
//! Whiteouts become what overlayfs reads: a character device 0:0, or `trusted.overlay.opaque=y` on the
//! directory.
//!
//! Owners, modes and times of directories are set at the end: a later entry changes the time, a read-only mode would
//! shut out an unprivileged unpacker, and on a file system with `grpid` files would inherit the group.

mod links;
mod parents;

use std::collections::{BTreeMap, BTreeSet};
use std::io::BufRead;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{FileType, Mode, OFlags, makedev};
use rustix::io::Errno;

use super::archive::{Archive, Entry, Kind, Time};
use super::at::{At, BENEATH, Dir, depth, is_whiteout, make_opaque, mode, owner, times};
use super::entry::{Name, Role, role};
use super::file::{Native, create, dress, set_xattrs};
use super::writers::{Job, SMALL, Writers};
use super::{Bounds, Fail, Outline};

/// A tree in the making.
pub(crate) struct Tree {
    root: OwnedFd,
    native: Native,
    /// Directories that entries went into lately, the last one first; archives are mostly in directory order.
    parents: Vec<(Vec<u8>, Arc<Dir>)>,
    directories: Vec<Described>,
    names_left: usize,
    /// Bytes that sparse files may still claim.
    holes_left: u64,
    implied: BTreeSet<Vec<u8>>,
    links_below: BTreeMap<Vec<u8>, Vec<u8>>,
    outline: Outline,
    writers: Writers,
}

/// What the archive says of a directory.
struct Described {
    name: Name,
    mode: u16,
    uid: u32,
    gid: u32,
    mtime: Time,
}

impl Tree {
    pub(crate) fn new(root: OwnedFd, bounds: &Bounds) -> Result<Tree, Fail> {
        Ok(Tree {
            native: Native::below(root.as_fd())?,
            root,
            parents: Vec::new(),
            directories: Vec::new(),
            names_left: bounds.directory_names,
            holes_left: bounds.bytes,
            implied: BTreeSet::new(),
            links_below: BTreeMap::new(),
            outline: Outline::default(),
            writers: Writers::default(),
        })
    }

    /// Adds one entry; a file's bytes are taken from `archive`.
    pub(crate) fn add<R: BufRead>(
        &mut self,
        entry: Entry,
        archive: &mut Archive<R>,
    ) -> Result<(), Fail> {
        let refuse = |cause: String| Fail::entry(&entry.path, cause);
        let name = Name::parse(&entry.path).map_err(refuse)?;
        if name.is_root() {
            return self.root_entry(&entry);
        }
        let parent = self.parent(&name, &entry.path)?;
        let role = role(&name).map_err(refuse)?;
        if let (Role::Plain, Kind::File { size }) = (&role, &entry.kind)
            && *size <= SMALL
            && entry.sparse.is_none()
            && self.writers.have_time()
        {
            return self.small_file(&parent, &name, entry, archive);
        }
        let at = At {
            dir: parent.fd.as_fd(),
            inode: parent.inode,
            path: &entry.path,
            last: name.split().1,
        };
        match role {
            Role::Opaque if name.split().0.is_empty() => {
                self.outline.opaque_root = true;
                Ok(())
            }
            Role::Opaque => make_opaque(&at, at.dir),
            Role::Whiteout(target) => self.whiteout(&At { last: target, ..at }),
            Role::Plain => self.plain(&at, &name, &entry, archive),
        }
    }

    fn plain<R: BufRead>(
        &mut self,
        at: &At<'_>,
        name: &Name,
        entry: &Entry,
        archive: &mut Archive<R>,
    ) -> Result<(), Fail> {
        self.wait_for(at)?;
        self.links_below.remove(name.bytes());
        match &entry.kind {
            Kind::Directory => self.directory(at, name, entry),
            Kind::File { .. } => self.file(at, entry, archive),
            Kind::Symlink(target) => self.symlink(at, entry, target),
            Kind::Hardlink(target) => self.hardlink(at, name, target),
            Kind::Fifo => self.node(at, entry, FileType::Fifo, 0),
            Kind::Character { major: 0, minor: 0 } => Err(Fail::entry(
                &entry.path,
                "character device 0:0 is overlayfs's mark for a removed file",
            )),
            Kind::Character { major, minor } => self.node(
                at,
                entry,
                FileType::CharacterDevice,
                makedev(*major, *minor),
            ),
            Kind::Block { major, minor } => {
                self.node(at, entry, FileType::BlockDevice, makedev(*major, *minor))
            }
        }
    }

    /// Sets what was left to the end and tells what the layers below must know.
    pub(crate) fn finish(mut self) -> Result<Outline, Fail> {
        self.writers.settle()?;
        let mut directories = std::mem::take(&mut self.directories);
        // The deepest first: after its mode is set a directory may not be entered again.
        directories.sort_by_key(|described| std::cmp::Reverse(depth(&described.name)));
        for described in directories {
            let name = &described.name;
            let Some(dir) = self.directory_again(name)? else {
                continue;
            };
            let host = |call: &'static str| move |e| Fail::host(name.bytes(), call, e);
            let (uid, gid) = owner(described.uid, described.gid);
            rustix::fs::fchown(&dir, uid, gid).map_err(host("fchown"))?;
            rustix::fs::fchmod(&dir, mode(described.mode)).map_err(host("fchmod"))?;
            rustix::fs::futimens(&dir, &times(described.mtime)).map_err(host("futimens"))?;
        }
        self.outline.implied = self.implied.iter().map(hex::encode).collect();
        let links = self.links_below.iter();
        self.outline.links_below = links
            .map(|(name, target)| (hex::encode(name), hex::encode(target)))
            .collect();
        Ok(self.outline)
    }

    /// The directory of that name, unless a later entry put something else in its place.
    fn directory_again(&self, name: &Name) -> Result<Option<OwnedFd>, Fail> {
        let path = if name.is_root() { b"." } else { name.bytes() };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat2(&self.root, path, flags, Mode::empty(), BENEATH) {
            Ok(dir) => Ok(Some(dir)),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => Ok(None),
            Err(e) => Err(Fail::host(name.bytes(), "openat2", e)),
        }
    }

    fn root_entry(&mut self, entry: &Entry) -> Result<(), Fail> {
        if entry.kind != Kind::Directory {
            return Err(Fail::entry(
                &entry.path,
                "the layer's root must be a directory",
            ));
        }
        self.outline.has_root = true;
        set_xattrs(self.root.as_fd(), entry)?;
        self.remember(Name::parse(b"").map_err(Fail::content)?, entry)
    }

    fn remember(&mut self, name: Name, entry: &Entry) -> Result<(), Fail> {
        self.keep_name(name.bytes().len() + 64)?;
        self.directories.push(Described {
            name,
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            mtime: entry.mtime,
        });
        Ok(())
    }

    /// Names that are kept until the layer's end are bounded.
    fn keep_name(&mut self, cost: usize) -> Result<(), Fail> {
        self.names_left = self
            .names_left
            .checked_sub(cost)
            .ok_or_else(|| Fail::content("the layer has too many directories"))?;
        Ok(())
    }

    // --- the kinds of entries ---

    fn directory(&mut self, at: &At<'_>, name: &Name, entry: &Entry) -> Result<(), Fail> {
        let made = rustix::fs::mkdirat(at.dir, at.last, Mode::RWXU);
        match made {
            Ok(()) => {}
            Err(Errno::EXIST) => self.directory_instead(at)?,
            Err(e) => return Err(Fail::host(at.path, "mkdir", e)),
        }
        if !entry.xattrs.is_empty() {
            set_xattrs(at.open_dir()?.as_fd(), entry)?;
        }
        self.implied.remove(name.bytes());
        self.remember(name.clone(), entry)
    }

    /// Something has the directory's name already: it may stay if it is one.
    fn directory_instead(&mut self, at: &At<'_>) -> Result<(), Fail> {
        let before = at.stat()?;
        let is_dir = before
            .as_ref()
            .is_some_and(|s| FileType::from_raw_mode(s.st_mode) == FileType::Directory);
        if is_dir {
            return Ok(());
        }
        at.unlink()?;
        self.parents.clear();
        at.mkdir(0o700)?;
        if before.is_some_and(|s| is_whiteout(&s)) {
            make_opaque(at, at.open_dir()?.as_fd())?;
        }
        Ok(())
    }

    /// A file for the writers, or for us if its name is taken.
    fn small_file<R: BufRead>(
        &mut self,
        parent: &Arc<Dir>,
        name: &Name,
        entry: Entry,
        archive: &mut Archive<R>,
    ) -> Result<(), Fail> {
        let last = name.split().1;
        let at = At {
            dir: parent.fd.as_fd(),
            inode: parent.inode,
            path: &entry.path,
            last,
        };
        if self.writers.is_due(at.inode, last) || at.stat()?.is_some() {
            return self.plain(&at, name, &entry, archive);
        }
        self.links_below.remove(name.bytes());
        let mut data = Vec::new();
        loop {
            let piece = archive.data()?;
            if piece.is_empty() {
                break;
            }
            data.extend_from_slice(piece);
            let len = piece.len();
            archive.consume(len);
        }
        self.writers.push(Job {
            dir: Arc::clone(parent),
            last: last.to_vec(),
            entry,
            data,
            native: self.native,
        })
    }

    fn file<R: BufRead>(
        &mut self,
        at: &At<'_>,
        entry: &Entry,
        archive: &mut Archive<R>,
    ) -> Result<(), Fail> {
        let file = self.replacing(at, "open", || create(at.dir, at.last, entry.mode))?;
        match &entry.sparse {
            None => copy(at, &file, u64::MAX, archive)?,
            Some(sparse) => {
                self.holes_left = self.holes_left.checked_sub(sparse.size).ok_or_else(|| {
                    Fail::entry(at.path, "the layer's sparse files are too large; refused")
                })?;
                for piece in &sparse.pieces {
                    rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(piece.at))
                        .map_err(at.host("lseek"))?;
                    copy(at, &file, piece.len, archive)?;
                }
                rustix::fs::ftruncate(&file, sparse.size).map_err(at.host("ftruncate"))?;
            }
        }
        dress(file.as_fd(), entry, self.native)
    }

    /// A whiteout hides only what lies in layers below: what this layer itself has under that name stays, and
    /// a directory then hides the one below.
    fn whiteout(&mut self, at: &At<'_>) -> Result<(), Fail> {
        self.wait_for(at)?;
        match at.stat()? {
            None => {
                rustix::fs::mknodat(at.dir, at.last, FileType::CharacterDevice, Mode::empty(), 0)
                    .map_err(at.host("mknod of the whiteout"))
            }
            Some(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                make_opaque(at, at.open_dir()?.as_fd())
            }
            Some(_) => Ok(()),
        }
    }

    /// What the writers have not written yet of that name is there afterwards.
    fn wait_for(&mut self, at: &At<'_>) -> Result<(), Fail> {
        match self.writers.is_due(at.inode, at.last) {
            true => self.writers.settle(),
            false => Ok(()),
        }
    }

    /// Creates, and where something has that name already, removes it and creates again: in a layer the later
    /// entry of a name counts.
    fn replacing<T>(
        &mut self,
        at: &At<'_>,
        call: &'static str,
        create: impl Fn() -> rustix::io::Result<T>,
    ) -> Result<T, Fail> {
        match create() {
            Err(Errno::EXIST) => {
                let name = std::ffi::CString::new(at.last)
                    .map_err(|_| Fail::entry(at.path, "bad name"))?;
                // What is removed may be a directory with files that are still to be written.
                self.writers.settle()?;
                crate::remove::remove_tree(at.dir, &name).map_err(at.host("remove"))?;
                self.parents.clear();
                create().map_err(at.host(call))
            }
            other => other.map_err(at.host(call)),
        }
    }
}

/// Writes at most `most` of the current entry's bytes.
fn copy<R: BufRead>(
    at: &At<'_>,
    file: &OwnedFd,
    mut most: u64,
    archive: &mut Archive<R>,
) -> Result<(), Fail> {
    while most > 0 {
        let piece = archive.data()?;
        if piece.is_empty() {
            break;
        }
        let len = usize::try_from(most).map_or(piece.len(), |most| most.min(piece.len()));
        let written = rustix::io::retry_on_intr(|| rustix::io::write(file, &piece[..len]))
            .map_err(at.host("write"))?;
        archive.consume(written);
        most -= written as u64;
    }
    Ok(())
}

impl std::fmt::Debug for Tree {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tree")
            .field("outline", &self.outline)
            .finish_non_exhaustive()
    }
}
