//! The container's root, as its parent hands it over.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};

use crate::StepError;
use crate::classic;
use crate::error::Context;

/// Where the container's root comes from.
#[derive(Debug)]
pub(crate) enum Root {
    /// A detached mount.
    Mount(OwnedFd),
    /// A path that init clones: the parent may not (it has no CAP_SYS_ADMIN), init may, in its user namespace; or the
    /// kernel knows no mount that is attached nowhere.
    Path(PathBuf),
}

impl Root {
    /// The directory at `path` with the mounts below it, cloned as a detached mount where this process may.
    pub(crate) fn at(path: &Path) -> Result<Root, StepError> {
        if classic::needed() {
            return Ok(Root::Path(path.to_owned()));
        }
        match clone(path) {
            Ok(mount) => Ok(Root::Mount(mount)),
            Err(Errno::PERM) => Ok(Root::Path(path.to_owned())),
            Err(errno) => Err(errno).context("open root", path.display()),
        }
    }

    /// The detached mount, in init.
    pub(crate) fn into_mount(self) -> Result<OwnedFd, StepError> {
        match self {
            Root::Mount(mount) => Ok(mount),
            Root::Path(path) => clone(&path).context("open root", path.display()),
        }
    }
}

fn clone(path: &Path) -> Result<OwnedFd, Errno> {
    if classic::needed() {
        return classic::clone_path(path, true, true);
    }
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE;
    open_tree(CWD, path, flags)
}
