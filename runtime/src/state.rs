//! The state directory of the command line: what is known of a container that no process of ours watches.
//!
//! | file          | says |
//! |---------------|------|
//! | `state.json`  | the cgroup (before it is made), the phase, the first process |
//! | `config.json` | the spec as it was at `create`, whatever the bundle says later |
//! | `start.sock`  | where the waiting init hears `start` |
//! | `root`        | where the root is mounted of a container that has no mount namespace of its own |
//!
//! The directory's name is the container's id, and mkdir(2) makes it unique. `state.json` appears by rename.
//! Beside the directories lies `.lock`, of which a command that changes a container locks that container's byte. It
//! is a POSIX record lock: it ends with its process and an init that is cloned meanwhile does not inherit it; so a
//! container that is being made is told from one whose maker died.
//! Whether a container still runs is never written down: it is asked of the kernel.

mod damaged;
mod id;
mod lock;
mod record;
mod root;

use std::ffi::CStr;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};

use crate::StepError;
use crate::error::Context;
use crate::record::{read_record, write_record};
use crate::spec;

pub(crate) use damaged::Remains;
pub(crate) use id::check_id;
pub(crate) use lock::Lock;
pub(crate) use record::{OCI_VERSION, Record, Status, VERSION};
pub(crate) use root::Root;

const STATE: &str = "state.json";
const ROOT: &str = "root";
/// Annotations are part of it, and nobody bounds those but the size of a config.json.
const STATE_MAX: u64 = 32 << 20;

/// The open state directory of one container.
#[derive(Debug)]
pub(crate) struct StateDirectory {
    id: String,
    path: PathBuf,
    fd: OwnedFd,
}

impl StateDirectory {
    /// None if it is not there. A symlink in its place is an error.
    fn open(path: PathBuf, id: &str) -> Result<Option<StateDirectory>, StepError> {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::open(&path, flags, Mode::empty()) {
            Ok(fd) => Ok(Some(StateDirectory {
                id: id.to_owned(),
                path,
                fd,
            })),
            Err(Errno::NOENT) => Ok(None),
            Err(Errno::NOTDIR | Errno::LOOP) => Err(StepError::refused(
                "open state of",
                id,
                format!(
                    "{} is no directory; remove what is there by hand",
                    path.display()
                ),
            )),
            Err(errno) => Err(StepError::io("open state of", id, errno)),
        }
    }

    /// The container's id.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    #[cfg(test)]
    /// Its path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// `state.json`; None if the maker died before it was written.
    pub(crate) fn record(&self) -> Result<Option<Record>, StepError> {
        let record: Option<Record> = read_record(self.as_fd(), &self.path, STATE, STATE_MAX)?;
        match record {
            Some(Record { version, .. }) if version != VERSION => {
                let cause = format!(
                    "its version {version} is not {VERSION}; use the longshore-runtime that made it"
                );
                let subject = format!("{}/{STATE}", self.path.display());
                Err(StepError::refused("read", subject, cause))
            }
            // A copy of another's, whom no command on this one may reach.
            Some(Record { id, .. }) if id != self.id => {
                let cause = format!(
                    "it is the record of container {id:?}; `delete --force` removes the copy"
                );
                let subject = format!("{}/{STATE}", self.path.display());
                Err(StepError::refused("read", subject, cause))
            }
            other => Ok(other),
        }
    }

    /// What a `state.json` that cannot be read still tells.
    pub(crate) fn remains_of_record(&self) -> Remains {
        let mut text = Vec::new();
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        if let Ok(file) = rustix::fs::openat(&self.fd, STATE, flags, Mode::empty()) {
            // As much of it as can be read.
            let mut file = std::fs::File::from(file).take(STATE_MAX);
            file.read_to_end(&mut text).ok();
        }
        Remains::of(&text)
    }

    /// Replaces `state.json`. No fsync: after a power failure no process is left to be told about.
    pub(crate) fn write(&self, record: &Record) -> Result<(), StepError> {
        write_record(self.as_fd(), &self.path, STATE, record, false)
    }

    /// The spec as it was at `create`.
    pub(crate) fn config(&self) -> Result<oci_spec::runtime::Spec, StepError> {
        let subject = format!("{}/{}", self.path.display(), spec::CONFIG);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.fd, spec::CONFIG, flags, Mode::empty())
            .context("open", &subject)?;
        let text = spec::read_stream(file.into(), &subject)?;
        spec::parse_kept(&text, &subject)
    }

    /// Keeps the spec. Once, under the lock of `create`.
    pub(crate) fn write_config(&self, text: &[u8]) -> Result<(), StepError> {
        let subject = format!("{}/{}", self.path.display(), spec::CONFIG);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.fd, spec::CONFIG, flags, Mode::from_raw_mode(0o600))
            .context("write", &subject)?;
        std::fs::File::from(file)
            .write_all(text)
            .context("write", subject)
    }

    /// Makes a place for a root that is mounted in the host's mount namespace; [`StateDirectory::remove`] unmounts it.
    pub(crate) fn make_root(&self) -> Result<PathBuf, StepError> {
        let path = self.path.join(ROOT);
        rustix::fs::mkdirat(&self.fd, ROOT, Mode::from_raw_mode(0o700))
            .context("make", path.display())?;
        Ok(path)
    }

    /// Takes the lock, waiting for at most `patience` for a command that holds it.
    pub(crate) fn lock(&self, patience: std::time::Duration) -> Result<Lock, StepError> {
        let lock = lock::take(self.root(), &self.id, patience)?;
        // Whoever held it may have removed the container.
        match self.is_in_place()? {
            true => Ok(lock),
            false => Err(root::missing(&self.id)),
        }
    }

    /// The pid of the process that holds the lock, if one does.
    pub(crate) fn locked_by(&self) -> Result<Option<u32>, StepError> {
        lock::holder(self.root(), &self.id)
    }

    fn root(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("/"))
    }

    /// The directory of this name is still the one that was opened: nobody has removed the container.
    pub(crate) fn is_in_place(&self) -> Result<bool, StepError> {
        let ours = rustix::fs::fstat(&self.fd).context("query state of", &self.id)?;
        match rustix::fs::lstat(&self.path) {
            Ok(there) => Ok((there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(StepError::io("query state of", &self.id, errno)),
        }
    }

    /// Removes the directory and all in it, under the lock.
    pub(crate) fn remove(&self, lock: Lock) -> Result<(), StepError> {
        self.empty(self.as_fd(), &self.path)?;
        let removed = forgive_missing(rustix::fs::rmdir(&self.path));
        // Held until nothing is left.
        drop(lock);
        removed.context("remove", self.path.display())
    }

    /// Everything below goes. Nothing outside is reached: no symlink is followed, and what is mounted is unmounted.
    fn empty(&self, directory: BorrowedFd<'_>, path: &Path) -> Result<(), StepError> {
        let names = rustix::fs::Dir::read_from(directory).context("list", path.display())?;
        for entry in names {
            let entry = entry.context("list", path.display())?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            if entry.file_type() == FileType::Directory {
                let path = path.join(name.to_string_lossy().as_ref());
                let inner = open_without_mounts(directory, name, &path)?;
                self.empty(inner.as_fd(), &path)?;
                self.unlink(directory, name, AtFlags::REMOVEDIR)?;
            } else {
                self.unlink(directory, name, AtFlags::empty())?;
            }
        }
        Ok(())
    }

    fn unlink(
        &self,
        directory: BorrowedFd<'_>,
        name: impl rustix::path::Arg,
        flags: AtFlags,
    ) -> Result<(), StepError> {
        forgive_missing(rustix::fs::unlinkat(directory, name, flags))
            .context("remove from", self.path.display())
    }
}

impl AsFd for StateDirectory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A directory that nothing is mounted on any more.
fn open_without_mounts(
    directory: BorrowedFd<'_>,
    name: &CStr,
    path: &Path,
) -> Result<OwnedFd, StepError> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let within = ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS;
    loop {
        match rustix::fs::openat2(directory, name, flags, Mode::empty(), within) {
            Err(Errno::XDEV) => unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)
                .context("unmount", path.display())?,
            // A rename elsewhere on the host may have got in between.
            Err(Errno::AGAIN) => {}
            other => return other.context("open", path.display()),
        }
    }
}

fn forgive_missing(result: Result<(), Errno>) -> Result<(), Errno> {
    match result {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests;
