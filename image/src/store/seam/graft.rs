//! What a layer has behind a symbolic link of a layer below, put where the link leads.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Stat, Uid, XattrFlags};
use rustix::io::Errno;

use super::resolve::{kind_of, open, resolve};
use super::{COPIES_MAX, Seam, Source, copy_attributes, join, said, split, times};
use crate::error::printable_bytes;
use crate::remove::names;

impl Seam<'_> {
    /// Shows the link of the layers below at `link` again, and puts what the layer has there where it leads.
    pub(super) fn graft_link(&mut self, link: &[u8]) -> Result<(), String> {
        let to = resolve(self.below.as_fd(), link)?;
        let (above, last) = split(link);
        self.directory(above)?;
        let below = open(self.below.as_fd(), above).map_err(|e| said(link, "open", e))?;
        self.copy(below.as_fd(), last, link)?;
        self.graft(link, &to)
    }

    /// Puts the layer's directory `from` at `to`.
    fn graft(&mut self, from: &[u8], to: &[u8]) -> Result<(), String> {
        if !matches!(
            kind_of(self.below.as_fd(), to),
            None | Some(FileType::Directory)
        ) {
            return Err(format!(
                "the layer has entries below `{}`, which a layer below has as a link to `{}`, and that is no directory; \
                 push the image again",
                printable_bytes(from),
                printable_bytes(to)
            ));
        }
        self.moved.insert(from.to_vec(), to.to_vec());
        self.directory(to)?;
        for name in self.copy_leaves(from, to)? {
            let (inner, place) = (join(from, &name), join(to, &name));
            if self.implied.contains(&inner) {
                let place = resolve(self.below.as_fd(), &place)?;
                self.graft(&inner, &place)?;
            } else {
                self.graft_described(&inner, &place)?;
            }
        }
        Ok(())
    }

    /// The same for a directory that the layer describes: it stands there whatever is below.
    fn graft_described(&mut self, from: &[u8], to: &[u8]) -> Result<(), String> {
        self.directory_from(to, Source::Own(from.to_vec()))?;
        self.keep_opaque(from, to)?;
        for name in self.copy_leaves(from, to)? {
            self.graft_described(&join(from, &name), &join(to, &name))?;
        }
        Ok(())
    }

    /// Copies what the layer's directory `from` has besides directories; the names of those. They are entered after this
    /// has closed its own: an image that nests them deep must not cost as many descriptors.
    fn copy_leaves(&mut self, from: &[u8], to: &[u8]) -> Result<Vec<Vec<u8>>, String> {
        let own = open(self.own.as_fd(), from).map_err(|e| said(from, "open", e))?;
        let mut directories = Vec::new();
        for name in names(own.as_fd()).map_err(|e| said(from, "read", e))? {
            let name = name.to_bytes();
            let stat = rustix::fs::statat(&own, name, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|e| said(&join(from, name), "stat", e))?;
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => directories.push(name.to_vec()),
                _ => self.copy(own.as_fd(), name, &join(to, name))?,
            }
        }
        Ok(directories)
    }

    /// A directory that hides those below it hides them in its new place too.
    fn keep_opaque(&self, from: &[u8], place: &[u8]) -> Result<(), String> {
        const OPAQUE: &std::ffi::CStr = c"trusted.overlay.opaque";
        let error = |e| said(place, "copy of its opaque mark", e);
        let from = open(self.own.as_fd(), from).map_err(error)?;
        let mut value = [0; 8];
        match rustix::fs::fgetxattr(&from, OPAQUE, &mut value) {
            Ok(_) => {}
            Err(Errno::NODATA | Errno::OPNOTSUPP) => return Ok(()),
            Err(e) => return Err(error(e)),
        }
        let to = open(self.fs.as_fd(), place).map_err(error)?;
        rustix::fs::fsetxattr(&to, OPAQUE, b"y", XattrFlags::empty()).map_err(error)
    }

    /// Copies what is no directory, with all that it has, to `place` in the seam.
    pub(super) fn copy(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &[u8],
        place: &[u8],
    ) -> Result<(), String> {
        let error = |call: &'static str| move |e| said(place, call, e);
        let stat =
            rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).map_err(error("stat"))?;
        if stat.st_nlink > 1 {
            if let Some(known) = self.names.get(&stat.st_ino).cloned() {
                return self.same_file(&known, place);
            }
            self.names.insert(stat.st_ino, place.to_vec());
        }
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::RegularFile {
            return self.copy_file(dir, name, place, &stat);
        }
        let (fs, last) = self.at(place)?;
        match kind {
            FileType::Symlink => {
                let target =
                    rustix::fs::readlinkat(dir, name, Vec::new()).map_err(error("readlink"))?;
                rustix::fs::symlinkat(&target, &fs, last).map_err(error("symlink"))?;
            }
            _ => {
                rustix::fs::mknodat(&fs, last, kind, Mode::empty(), stat.st_rdev)
                    .map_err(error("mknod"))?;
                let bits = Mode::from_bits_truncate(stat.st_mode & 0o7777);
                // Follows links by nature, but this name was made as a node in the line above.
                rustix::fs::chmodat(&fs, last, bits, AtFlags::empty()).map_err(error("chmod"))?;
            }
        }
        let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::chownat(&fs, last, Some(uid), Some(gid), flags).map_err(error("chown"))?;
        rustix::fs::utimensat(&fs, last, &times(&stat), flags).map_err(error("utimensat"))
    }

    fn copy_file(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &[u8],
        place: &[u8],
        stat: &Stat,
    ) -> Result<(), String> {
        let error = |call: &'static str| move |e| said(place, call, e);
        let size = u64::try_from(stat.st_size).unwrap_or(u64::MAX);
        *self.copies_left = self.copies_left.checked_sub(size).ok_or_else(|| {
            format!(
                "a copy of `{}` would be needed, and so would be copies of more than {COPIES_MAX} bytes of this image; \
                 push it with fewer hard links into other layers",
                printable_bytes(place)
            )
        })?;
        let (fs, last) = self.at(place)?;
        let read = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let from = rustix::fs::openat(dir, name, read, Mode::empty()).map_err(error("open"))?;
        let write =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let to =
            rustix::fs::openat(&fs, last, write, Mode::RUSR | Mode::WUSR).map_err(error("open"))?;
        let (mut source, mut target) = (File::from(from), File::from(to));
        // copy_file_range(2) where the kernel has it.
        std::io::copy(&mut source, &mut target)
            .map_err(|e| format!("copy of `{}`: {e}", printable_bytes(place)))?;
        let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
        rustix::fs::fchown(&target, Some(uid), Some(gid)).map_err(error("fchown"))?;
        let bits = Mode::from_bits_truncate(stat.st_mode & 0o7777);
        rustix::fs::fchmod(&target, bits).map_err(error("fchmod"))?;
        copy_attributes(source.as_fd(), target.as_fd()).map_err(error("copy of its attributes"))?;
        rustix::fs::futimens(&target, &times(stat)).map_err(error("futimens"))
    }
}
