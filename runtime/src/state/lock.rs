//! The lock of a container: one command changes it at a time.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, fcntl};
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::StateDirectory;
use crate::StepError;
use crate::error::Context;

pub(super) const FILE: &str = "lock";
/// Between two tries. The kernel can wait for a record lock, but not with a limit of patience.
const PAUSE: Duration = Duration::from_millis(2);

/// Held as long as this lives. A process must not open the lock's file a second time meanwhile: closing any
/// descriptor of it gives a POSIX lock back.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: OwnedFd,
}

/// Takes it.
pub(super) fn take(directory: &StateDirectory, patience: Duration) -> Result<Lock, StepError> {
    let deadline = Instant::now() + patience;
    loop {
        let file = open(directory, OFlags::CREATE)?;
        match rustix::fs::fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) if is_in_place(directory, &file)? => return Ok(Lock { _file: file }),
            // Whoever held it removed the container.
            Ok(()) => return Err(super::root::missing(directory.id())),
            Err(Errno::AGAIN | Errno::ACCESS) if Instant::now() < deadline => {
                std::thread::sleep(PAUSE);
            }
            Err(Errno::AGAIN | Errno::ACCESS) => {
                let cause =
                    "another command is changing it; wait for that one, or `delete --force`";
                return Err(StepError::refused("lock container", directory.id(), cause));
            }
            Err(errno) => return Err(StepError::io("lock container", directory.id(), errno)),
        }
    }
}

/// Who holds it.
pub(super) fn holder(directory: &StateDirectory) -> Result<Option<u32>, StepError> {
    let file = match open(directory, OFlags::empty()) {
        Err(error) if error.errno == Some(Errno::NOENT.raw_os_error()) => return Ok(None),
        other => other?,
    };
    let mut lock = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    fcntl(file.as_fd(), FcntlArg::F_GETLK(&mut lock)).context("query lock of", directory.id())?;
    let held = i32::from(lock.l_type) != libc::F_UNLCK;
    Ok(held.then_some(lock.l_pid.max(0) as u32))
}

/// The file that was locked is still the directory's: otherwise the container was removed meanwhile.
fn is_in_place(directory: &StateDirectory, file: &OwnedFd) -> Result<bool, StepError> {
    let ours = rustix::fs::fstat(file).context("lock container", directory.id())?;
    match rustix::fs::statat(directory.as_fd(), FILE, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(there) => Ok((there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(StepError::io("lock container", directory.id(), errno)),
    }
}

fn open(directory: &StateDirectory, extra: OFlags) -> Result<OwnedFd, StepError> {
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC | extra;
    rustix::fs::openat(directory.as_fd(), FILE, flags, Mode::from_raw_mode(0o600)).map_err(
        |errno| match errno {
            // The directory itself is gone.
            Errno::NOENT if extra.contains(OFlags::CREATE) => super::root::missing(directory.id()),
            errno => StepError::io("open lock of", directory.id(), errno),
        },
    )
}
