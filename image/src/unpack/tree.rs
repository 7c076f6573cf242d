//! The files of a layer, written below one directory descriptor.
//!
//! Every parent is resolved by openat2(2) with RESOLVE_BENEATH: a symbolic link that stays inside the layer is
//! followed, one that leaves it (absolute, or by `..`) is an error that names the entry. The last component is
//! never followed. The tree belongs to this thread alone until it is published, so nothing races.
//!
//! Whiteouts become what overlayfs reads: a character device 0:0, or `trusted.overlay.opaque=y` on the
//! directory.

mod parents;

use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, XattrFlags, makedev};
use rustix::io::Errno;

use super::archive::{Archive, Entry, Kind, Time};
use super::at::{At, BENEATH, depth, is_whiteout, make_opaque, mode, open_beneath, owner, times};
use super::entry::{Name, Role, Xattr, role, xattr};
use super::{Fail, Outline};

/// A tree in the making.
pub(crate) struct Tree {
    root: OwnedFd,
    /// The parent of the last entry; archives are mostly in directory order.
    last_parent: Option<(Vec<u8>, Rc<OwnedFd>)>,
    /// Mode and time of directories, set at the end: a later entry changes the time, and a read-only mode
    /// would shut out an unprivileged unpacker.
    directories: Vec<(Name, Mode, Time)>,
    names_left: usize,
    implied: BTreeSet<Vec<u8>>,
    outline: Outline,
}

impl Tree {
    pub(crate) fn new(root: OwnedFd, directory_names: usize) -> Tree {
        Tree {
            root,
            last_parent: None,
            directories: Vec::new(),
            names_left: directory_names,
            implied: BTreeSet::new(),
            outline: Outline::default(),
        }
    }

    /// Adds one entry; a file's bytes are taken from `archive`.
    pub(crate) fn add<R: std::io::BufRead>(
        &mut self,
        entry: &Entry,
        archive: &mut Archive<R>,
    ) -> Result<(), Fail> {
        let refuse = |cause: String| Fail::entry(&entry.path, cause);
        let name = Name::parse(&entry.path).map_err(refuse)?;
        if name.is_root() {
            return self.root_entry(entry);
        }
        let parent = self.parent(&name, &entry.path)?;
        let at = At {
            dir: parent.as_fd(),
            path: &entry.path,
            last: name.split().1,
        };
        match role(&name).map_err(refuse)? {
            Role::Opaque if name.split().0.is_empty() => {
                self.outline.opaque_root = true;
                Ok(())
            }
            Role::Opaque => make_opaque(&at, at.dir),
            Role::Whiteout(target) => self.whiteout(&At { last: target, ..at }),
            Role::Plain => self.plain(&at, &name, entry, archive),
        }
    }

    fn plain<R: std::io::BufRead>(
        &mut self,
        at: &At<'_>,
        name: &Name,
        entry: &Entry,
        archive: &mut Archive<R>,
    ) -> Result<(), Fail> {
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
        let mut directories = std::mem::take(&mut self.directories);
        // The deepest first: after its mode is set a directory may not be entered again.
        directories.sort_by_key(|(name, _, _)| std::cmp::Reverse(depth(name)));
        for (name, mode, time) in directories {
            let Some(dir) = self.directory_again(&name)? else {
                continue;
            };
            let host = |call: &'static str| {
                let name = &name;
                move |e| Fail::host(name.bytes(), call, e)
            };
            rustix::fs::fchmod(&dir, mode).map_err(host("fchmod"))?;
            rustix::fs::futimens(&dir, &times(time)).map_err(host("futimens"))?;
        }
        self.outline.implied = self.implied.iter().map(hex::encode).collect();
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
        self.owner_and_xattrs(self.root.as_fd(), entry)?;
        self.remember(Name::parse(b"").map_err(Fail::content)?, entry)
    }

    fn remember(&mut self, name: Name, entry: &Entry) -> Result<(), Fail> {
        let cost = name.bytes().len() + 64;
        self.names_left = self
            .names_left
            .checked_sub(cost)
            .ok_or_else(|| Fail::content("the layer has too many directories"))?;
        self.directories.push((name, mode(entry), entry.mtime));
        Ok(())
    }

    // --- the kinds of entries ---

    fn directory(&mut self, at: &At<'_>, name: &Name, entry: &Entry) -> Result<(), Fail> {
        let before = at.stat()?;
        let is_dir = before
            .as_ref()
            .is_some_and(|s| FileType::from_raw_mode(s.st_mode) == FileType::Directory);
        if !is_dir {
            if before.is_some() {
                at.unlink()?;
                self.last_parent = None;
            }
            at.mkdir(0o700)?;
        }
        let dir = at.open_dir()?;
        if before.is_some_and(|s| is_whiteout(&s)) {
            make_opaque(at, dir.as_fd())?;
        }
        self.implied.remove(name.bytes());
        self.owner_and_xattrs(dir.as_fd(), entry)?;
        self.remember(name.clone(), entry)
    }

    fn file<R: std::io::BufRead>(
        &mut self,
        at: &At<'_>,
        entry: &Entry,
        archive: &mut Archive<R>,
    ) -> Result<(), Fail> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let create = || rustix::fs::openat(at.dir, at.last, flags, Mode::RUSR | Mode::WUSR);
        let file = self.replacing(at, "open", create)?;
        loop {
            let piece = archive.data()?;
            if piece.is_empty() {
                break;
            }
            let written = rustix::io::retry_on_intr(|| rustix::io::write(&file, piece))
                .map_err(at.host("write"))?;
            archive.consume(written);
        }
        // chown(2) clears setuid bits and file capabilities, so they come after it; the time comes last.
        self.chown(file.as_fd(), entry)?;
        rustix::fs::fchmod(&file, mode(entry)).map_err(at.host("fchmod"))?;
        self.xattrs(file.as_fd(), entry)?;
        rustix::fs::futimens(&file, &times(entry.mtime)).map_err(at.host("futimens"))
    }

    fn symlink(&mut self, at: &At<'_>, entry: &Entry, target: &[u8]) -> Result<(), Fail> {
        if target.is_empty() || target.len() > 4095 || target.contains(&0) {
            return Err(Fail::entry(
                at.path,
                "its link target is empty, too long or holds a NUL byte",
            ));
        }
        self.replacing(at, "symlink", || {
            rustix::fs::symlinkat(target, at.dir, at.last)
        })?;
        self.last_parent = None;
        self.metadata_by_name(at, entry)
    }

    fn hardlink(&mut self, at: &At<'_>, name: &Name, target: &[u8]) -> Result<(), Fail> {
        let refuse = |cause: String| Fail::entry(at.path, cause);
        let to = Name::parse(target)
            .map_err(|cause| refuse(format!("as a hard link's target, {cause}")))?;
        if to.is_root() || to == *name {
            return Err(refuse("it is a hard link to itself or to the root".into()));
        }
        let shown = crate::error::printable_bytes(target);
        let (above, last) = to.split();
        let below_only = || {
            refuse(format!(
                "its hard link target `{shown}` is not in this layer; links into lower layers are not supported, \
                 build the image with both names in one layer"
            ))
        };
        let dir = match open_beneath(&self.root, above) {
            Err(Errno::NOENT | Errno::NOTDIR) => return Err(below_only()),
            Err(Errno::XDEV | Errno::LOOP) => {
                return Err(refuse(format!(
                    "its hard link target `{shown}` climbs out of the layer"
                )));
            }
            other => other.map_err(at.host("openat2"))?,
        };
        let from = At {
            dir: dir.as_fd(),
            path: at.path,
            last,
        };
        match from.stat()? {
            None => return Err(below_only()),
            Some(stat) if is_whiteout(&stat) => return Err(below_only()),
            Some(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                return Err(refuse(format!(
                    "its hard link target `{shown}` is a directory"
                )));
            }
            Some(_) => {}
        }
        self.replacing(at, "link", || {
            rustix::fs::linkat(from.dir, from.last, at.dir, at.last, AtFlags::empty())
        })
    }

    fn node(
        &mut self,
        at: &At<'_>,
        entry: &Entry,
        kind: FileType,
        device: u64,
    ) -> Result<(), Fail> {
        let bits = Mode::from_bits_truncate(0o600);
        self.replacing(at, "mknod", || {
            rustix::fs::mknodat(at.dir, at.last, kind, bits, device)
        })?;
        let (uid, gid) = owner(entry);
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::chownat(at.dir, at.last, uid, gid, flags).map_err(at.host("chown"))?;
        // Follows links by nature, but this name was made as a node in the line above.
        rustix::fs::chmodat(at.dir, at.last, mode(entry), AtFlags::empty())
            .map_err(at.host("chmod"))?;
        rustix::fs::utimensat(at.dir, at.last, &times(entry.mtime), flags)
            .map_err(at.host("utimensat"))
    }

    /// A whiteout hides only what lies in layers below: what this layer itself has under that name stays, and
    /// a directory then hides the one below.
    fn whiteout(&mut self, at: &At<'_>) -> Result<(), Fail> {
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

    // --- metadata ---

    fn owner_and_xattrs(&self, fd: BorrowedFd<'_>, entry: &Entry) -> Result<(), Fail> {
        self.chown(fd, entry)?;
        self.xattrs(fd, entry)
    }

    fn chown(&self, fd: BorrowedFd<'_>, entry: &Entry) -> Result<(), Fail> {
        let (uid, gid) = owner(entry);
        rustix::fs::fchown(fd, uid, gid).map_err(|e| Fail::host(&entry.path, "fchown", e))
    }

    fn metadata_by_name(&self, at: &At<'_>, entry: &Entry) -> Result<(), Fail> {
        let (uid, gid) = owner(entry);
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::chownat(at.dir, at.last, uid, gid, flags).map_err(at.host("chown"))?;
        rustix::fs::utimensat(at.dir, at.last, &times(entry.mtime), flags)
            .map_err(at.host("utimensat"))
    }

    fn xattrs(&self, fd: BorrowedFd<'_>, entry: &Entry) -> Result<(), Fail> {
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
                crate::remove::remove_tree(at.dir, &name).map_err(at.host("remove"))?;
                self.last_parent = None;
                create().map_err(at.host(call))
            }
            other => other.map_err(at.host(call)),
        }
    }
}

impl std::fmt::Debug for Tree {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tree")
            .field("outline", &self.outline)
            .finish_non_exhaustive()
    }
}
