//! `--root`: the directory that holds the containers' state directories.

use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use super::{Lock, StateDirectory, check_id, lock};
use crate::StepError;
use crate::error::Context;

/// Where root's containers are recorded.
const SYSTEM: &str = "/run";
const NAME: &str = "longshore-runtime";

/// A `--root`. It need not exist before the first container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Root {
    path: PathBuf,
    /// Somebody named it; so if it is not there, that may be a slip of the pen.
    named: bool,
}

impl Root {
    /// The one that was asked for.
    pub(crate) fn named(path: &Path) -> Result<Root, StepError> {
        let path = std::path::absolute(path).context("find root", path.display())?;
        Ok(Root { path, named: true })
    }

    /// `/run/longshore-runtime`; without privilege on the host, one in the user's own run directory.
    pub(crate) fn by_default(rootless: bool) -> Result<Root, StepError> {
        let user = std::env::var_os("XDG_RUNTIME_DIR").filter(|path| !path.is_empty());
        let above = match (rootless, user) {
            (false, _) => PathBuf::from(SYSTEM),
            (true, Some(path)) => PathBuf::from(path),
            (true, None) => {
                return Err(StepError::refused(
                    "find root",
                    "XDG_RUNTIME_DIR",
                    "it is not set, and without privilege it holds the containers' state; set it or give --root",
                ));
            }
        };
        Ok(Root {
            path: above.join(NAME),
            named: false,
        })
    }

    /// Its path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the state directory of a new container, under its lock. mkdir(2) decides who is first.
    pub(crate) fn make(&self, id: &str) -> Result<(StateDirectory, Lock), StepError> {
        check_id(id)?;
        let path = self.path.join(id);
        let exists = || {
            let cause = "a container of this id exists; choose another id or delete that one";
            StepError::refused("create container", id, cause)
        };
        let lock = match self.lock_new(id) {
            // Held by a command on a container that is there, or on one that is being made or removed.
            Err(error) if error.errno.is_none() && path.exists() => return Err(exists()),
            other => other?,
        };
        match rustix::fs::mkdir(&path, Mode::from_raw_mode(0o700)) {
            Ok(()) => {}
            Err(Errno::EXIST) => return Err(exists()),
            Err(errno) => return Err(StepError::io("make state directory", path.display(), errno)),
        }
        let directory = StateDirectory::open(path, id)?.ok_or_else(|| missing(id))?;
        Ok((directory, lock))
    }

    /// The lock of a container that is not there yet, in a root that need not be there either.
    fn lock_new(&self, id: &str) -> Result<Lock, StepError> {
        match lock::take(&self.path, id, Duration::ZERO) {
            Err(error) if error.errno == Some(Errno::NOENT.raw_os_error()) => {
                std::fs::DirBuilder::new()
                    .mode(0o700)
                    .recursive(true)
                    .create(&self.path)
                    .context("make root", self.path.display())?;
                lock::take(&self.path, id, Duration::ZERO)
            }
            other => other,
        }
    }

    /// A container that must exist.
    pub(crate) fn open(&self, id: &str) -> Result<StateDirectory, StepError> {
        self.find(id)?.ok_or_else(|| missing(id))
    }

    /// None if there is no such container.
    pub(crate) fn find(&self, id: &str) -> Result<Option<StateDirectory>, StepError> {
        check_id(id)?;
        StateDirectory::open(self.path.join(id), id)
    }

    /// Ids of all containers, sorted; what could not be one is left out. A default root that is not there
    /// holds none; one that was named and is not there is an error.
    pub(crate) fn ids(&self) -> Result<Vec<String>, StepError> {
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = match rustix::fs::open(&self.path, flags, Mode::empty()) {
            Err(Errno::NOENT) if !self.named => return Ok(Vec::new()),
            other => other.context("open root", self.path.display())?,
        };
        let mut ids = Vec::new();
        let names =
            rustix::fs::Dir::read_from(root.as_fd()).context("list", self.path.display())?;
        for entry in names {
            let entry = entry.context("list", self.path.display())?;
            let name = entry.file_name().to_string_lossy();
            let directory = matches!(entry.file_type(), FileType::Directory | FileType::Unknown);
            if directory && check_id(&name).is_ok() {
                ids.push(name.into_owned());
            }
        }
        ids.sort();
        Ok(ids)
    }
}

/// What every command says of a container that is not there.
pub(super) fn missing(id: &str) -> StepError {
    StepError::refused(
        "open container",
        id,
        "it does not exist; `list` shows those that do",
    )
}
