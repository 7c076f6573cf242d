//! Entries that are neither files nor directories: symbolic links, hard links, and what mknod(2) makes.

use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Mode};
use rustix::io::Errno;

use super::Tree;
use crate::unpack::Fail;
use crate::unpack::archive::Entry;
use crate::unpack::at::{At, Dir, is_whiteout, mode, open_beneath, owner, times};
use crate::unpack::entry::Name;

impl Tree {
    pub(super) fn symlink(
        &mut self,
        at: &At<'_>,
        entry: &Entry,
        target: &[u8],
    ) -> Result<(), Fail> {
        if target.is_empty() || target.len() > 4095 || target.contains(&0) {
            return Err(Fail::entry(
                at.path,
                "its link target is empty, too long or holds a NUL byte",
            ));
        }
        self.replacing(at, "symlink", || {
            rustix::fs::symlinkat(target, at.dir, at.last)
        })?;
        self.owner_and_time(at, entry)
    }

    pub(super) fn hardlink(&mut self, at: &At<'_>, name: &Name, target: &[u8]) -> Result<(), Fail> {
        let refuse = |cause: String| Fail::entry(at.path, cause);
        let to = Name::parse(target)
            .map_err(|cause| refuse(format!("as a hard link's target, {cause}")))?;
        if to.is_root() || to == *name {
            return Err(refuse("it is a hard link to itself or to the root".into()));
        }
        let shown = crate::error::printable_bytes(target);
        let (above, last) = to.split();
        let known = self.parents.iter().find(|(path, _)| path == above);
        let dir = match known {
            Some((_, dir)) => Arc::clone(dir),
            None => match open_beneath(&self.root, above) {
                Err(Errno::NOENT | Errno::NOTDIR) => return self.link_below(at, name, &to),
                Err(Errno::XDEV | Errno::LOOP) => {
                    return Err(refuse(format!(
                        "its hard link target `{shown}` climbs out of the layer"
                    )));
                }
                other => {
                    let dir = other.and_then(Dir::new);
                    Arc::new(dir.map_err(at.host("openat2"))?)
                }
            },
        };
        let from = At {
            dir: dir.fd.as_fd(),
            inode: dir.inode,
            path: at.path,
            last,
        };
        self.wait_for(&from)?;
        match from.stat()? {
            None => return self.link_below(at, name, &to),
            Some(stat) if is_whiteout(&stat) => {
                return Err(refuse(format!(
                    "its hard link target `{shown}` is removed by this very layer"
                )));
            }
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

    /// The target is not in this layer: whoever stacks the layers knows whether one below has it.
    fn link_below(&mut self, at: &At<'_>, name: &Name, to: &Name) -> Result<(), Fail> {
        if at.stat()?.is_some() {
            let name =
                std::ffi::CString::new(at.last).map_err(|_| Fail::entry(at.path, "bad name"))?;
            self.writers.settle()?;
            crate::remove::remove_tree(at.dir, &name).map_err(at.host("remove"))?;
            self.parents.clear();
        }
        // A link to a link is a link to the same file.
        let target = match self.links_below.get(to.bytes()) {
            Some(target) => target.clone(),
            None => to.bytes().to_vec(),
        };
        self.keep_name(name.bytes().len() + target.len() + 64)?;
        self.links_below.insert(name.bytes().to_vec(), target);
        Ok(())
    }

    pub(super) fn node(
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
        let (uid, gid) = owner(entry.uid, entry.gid);
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::chownat(at.dir, at.last, uid, gid, flags).map_err(at.host("chown"))?;
        // Follows links by nature, but this name was made as a node in the line above.
        rustix::fs::chmodat(at.dir, at.last, mode(entry.mode), AtFlags::empty())
            .map_err(at.host("chmod"))?;
        rustix::fs::utimensat(at.dir, at.last, &times(entry.mtime), flags)
            .map_err(at.host("utimensat"))
    }

    fn owner_and_time(&self, at: &At<'_>, entry: &Entry) -> Result<(), Fail> {
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        if self.native.is_foreign(entry) {
            let (uid, gid) = owner(entry.uid, entry.gid);
            rustix::fs::chownat(at.dir, at.last, uid, gid, flags).map_err(at.host("chown"))?;
        }
        rustix::fs::utimensat(at.dir, at.last, &times(entry.mtime), flags)
            .map_err(at.host("utimensat"))
    }
}
