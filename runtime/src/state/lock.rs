//! The lock of a container: one command changes it at a time.
//!
//! All containers of a root share one file, of which each locks the byte that its id hashes to. The file is never
//! removed: a lock that lay in the container's own directory would have to go with it, and whoever waited for it
//! would make it again in what is being removed.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, fcntl};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::StepError;
use crate::error::Context;

/// No container's name begins with a dot.
pub(super) const FILE: &str = ".lock";
/// Between two tries. The kernel can wait for a record lock, but not with a limit of patience.
const PAUSE: Duration = Duration::from_millis(2);

/// Held as long as this lives. A process must not open the file a second time meanwhile: closing any descriptor
/// of it gives its POSIX locks back.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: OwnedFd,
}

/// Takes it. The root must be there.
pub(super) fn take(root: &Path, id: &str, patience: Duration) -> Result<Lock, StepError> {
    let deadline = Instant::now() + patience;
    let file = open(root)?;
    let wanted = byte_of(id);
    loop {
        match fcntl(file.as_fd(), FcntlArg::F_SETLK(&wanted)) {
            Ok(_) => return Ok(Lock { _file: file }),
            Err(nix::Error::EAGAIN | nix::Error::EACCES) if Instant::now() < deadline => {
                std::thread::sleep(PAUSE);
            }
            Err(nix::Error::EAGAIN | nix::Error::EACCES) => {
                let cause =
                    "another command is changing it; wait for that one, or `delete --force`";
                return Err(StepError::refused("lock container", id, cause));
            }
            Err(errno) => return Err(StepError::io("lock container", id, errno)),
        }
    }
}

/// Who holds it.
pub(super) fn holder(root: &Path, id: &str) -> Result<Option<u32>, StepError> {
    let mut lock = byte_of(id);
    fcntl(open(root)?, FcntlArg::F_GETLK(&mut lock)).context("query lock of", id)?;
    let held = i32::from(lock.l_type) != libc::F_UNLCK;
    Ok(held.then_some(lock.l_pid.max(0) as u32))
}

fn open(root: &Path) -> Result<OwnedFd, StepError> {
    let path = root.join(FILE);
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(&path, flags, Mode::from_raw_mode(0o600)).map_err(|errno| match errno {
        Errno::LOOP => StepError::refused(
            "open",
            path.display(),
            "it is a symlink; remove it, it is none of this program's",
        ),
        errno => StepError::io("open", path.display(), errno),
    })
}

/// FNV-1a of 64 bits: two ids that share a byte would only wait for each other.
pub(super) fn byte_of(id: &str) -> libc::flock {
    let hash = id.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        // Half of it: the byte and its end must be a valid off_t.
        l_start: (hash >> 2) as libc::off_t,
        l_len: 1,
        l_pid: 0,
    }
}
