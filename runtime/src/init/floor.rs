//! The mounts of the container by the places that the spec gave them.
//!
//! An image's symlink can lead a mount to another place than its spec says: over /dev, say. What is made later (device
//! nodes, links, the console) must not land in what stands there then, which may be a volume of the host's. So the
//! place of each is found from the mount that the spec put there, by its descriptor, and the walk leaves that mount
//! no more. Deliberately absent: files and directories that mounts need to stand on, which may be in a volume.

use std::ffi::OsStr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::resolve::{self, Held};
use crate::StepError;
use crate::error::Context;

/// The mounts in the order in which they were attached.
#[derive(Debug, Default)]
pub(super) struct Floors(Vec<(PathBuf, OwnedFd)>);

/// Where something is to be made.
#[derive(Debug)]
pub(super) struct Place<'a> {
    /// On the mount where the spec's text has it.
    pub(super) directory: Held<'a>,
    pub(super) name: &'a OsStr,
    /// For messages.
    pub(super) path: &'a Path,
}

impl Floors {
    /// Nobody asks for what a mount covers.
    pub(super) fn lay(&mut self, place: &Path, mount: OwnedFd) {
        self.0.retain(|(covered, _)| !covered.starts_with(place));
        self.0.push((place.to_owned(), mount));
    }

    /// The directory for the last component of `path`, made if missing. `step` is for messages.
    pub(super) fn place<'a>(
        &'a self,
        root: BorrowedFd<'_>,
        path: &'a Path,
        step: &str,
    ) -> Result<Place<'a>, StepError> {
        let find = || {
            let name = path.file_name().ok_or(Errno::INVAL)?;
            let above = path.parent().unwrap_or(Path::new("/"));
            let floor = self.0.iter().rev();
            let floor = floor.map(|(place, mount)| (above.strip_prefix(place), mount));
            let floor = floor.filter_map(|(rest, mount)| Some((rest.ok()?, mount)));
            let directory = match { floor }.next() {
                Some((rest, mount)) => resolve::make_below(mount, rest),
                None => resolve::make_on_root(root, above).map(Held::Own),
            };
            Ok((directory?, name))
        };
        match find() {
            Ok((directory, name)) => Ok(Place {
                directory,
                name,
                path,
            }),
            Err(errno @ (Errno::XDEV | Errno::LOOP)) => Err(StepError {
                errno: Some(errno.raw_os_error()),
                ..StepError::refused(step, path.display(), IN_THE_WAY)
            }),
            Err(errno) => Err(errno).context(step, path.display()),
        }
    }
}

const IN_THE_WAY: &str = "a symlink of the image, or a mount that one led there, is in its way; \
                          remove the link, or name the place that it leads to";
