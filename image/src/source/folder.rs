//! A folder of images (an OCI image layout): files found below one directory descriptor.
//!
//! The folder is foreign: no symbolic link is followed at any place, and only regular files are read. Who may write to
//! it may change it while it is read; what is read is verified by digest, so that changes nothing but the error.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::content::Content;

/// An open folder.
#[derive(Debug)]
pub(crate) struct Folder(OwnedFd);

impl Folder {
    /// Opens what the operator names: links on the way there are theirs.
    pub(crate) fn open(path: &Path) -> Result<Folder, String> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = rustix::fs::open(path, flags, Mode::empty());
        opened.map(Folder).map_err(|e| format!("open: {e}"))
    }

    /// A file in it; None if there is none of that name.
    pub(crate) fn file(&self, name: &str) -> Result<Option<Content>, String> {
        // A fifo would keep open(2) waiting for somebody to write.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let opened = match rustix::fs::openat2(&self.0, name, flags, Mode::empty(), resolve) {
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            Err(Errno::LOOP) => {
                return Err(format!(
                    "`{name}` is a link, or lies behind one; a file must be there"
                ));
            }
            other => other.map_err(|e| format!("open `{name}`: {e}"))?,
        };
        let stat = rustix::fs::fstat(&opened).map_err(|e| format!("stat `{name}`: {e}"))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(format!("`{name}` is no file"));
        }
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        Ok(Some(Content::part(Arc::new(File::from(opened)), 0, size)))
    }
}
