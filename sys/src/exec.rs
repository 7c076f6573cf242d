//! close_range(2), as the beginning of a forked child's life and as one step with execve(2), so that nothing
//! of the parent's is open in the child and nothing of ours in the new program.

use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::{Errno, checked, exit_now};

const KEPT: libc::c_int = 3;
/// The first that is not standard input, output or error.
const FIRST: libc::c_uint = 3;

/// Closes every descriptor above 2 except `keep`, which becomes 3 and close-on-exec, and executes `path`.
///
/// The rest is closed *before* execve, not by close-on-exec: execve of `/proc/self/fd/N` would otherwise
/// reach our files (CVE-2024-21626). If execve fails, `report` gets `keep` and the errno, then the process
/// ends with status 127. `report` is a plain function: a closure could hold a descriptor closed here.
pub fn exec_keeping(
    keep: OwnedFd,
    path: &CStr,
    args: &[CString],
    environment: &[CString],
    report: fn(OwnedFd, Errno),
) -> ! {
    let (kept, isolated) = isolate(keep);
    let errno = match isolated {
        Ok(()) => match nix::unistd::execve(path, args, environment) {
            Ok(never) => match never {},
            Err(errno) => Errno::from_raw_os_error(errno as i32),
        },
        Err(errno) => errno,
    };
    report(kept, errno);
    exit_now(127)
}

/// Closes every descriptor above 2 except `kept`, then goes on with `life`, which never returns.
///
/// For a child of [`clone3`](crate::clone3), which has copies of all that its parent holds: locks, log files,
/// connections whose end of file somebody waits for. `life` is a plain function, and no owner of a descriptor
/// is comparable, so `data` cannot hold one that is closed here.
pub fn live_with<D: PartialEq + ?Sized>(
    kept: Vec<OwnedFd>,
    data: &D,
    life: fn(Vec<OwnedFd>, &D) -> !,
) -> ! {
    let mut numbers: Vec<libc::c_uint> = kept
        .iter()
        .filter_map(|fd| libc::c_uint::try_from(fd.as_raw_fd()).ok())
        .filter(|number| *number >= FIRST)
        .collect();
    numbers.sort_unstable();
    let mut from = FIRST;
    for number in numbers {
        if from < number {
            close_all(from, number - 1);
        }
        from = number + 1;
    }
    close_all(from, libc::c_uint::MAX);
    life(kept, data)
}

/// Its error would be EINVAL for an empty range, which no caller asks for, or ENOSYS before Linux 5.9.
fn close_all(first: libc::c_uint, last: libc::c_uint) {
    // SAFETY: the caller never returns to whoever owns a descriptor of this range, so no owner runs again.
    unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
}

fn isolate(keep: OwnedFd) -> (OwnedFd, Result<(), Errno>) {
    let kept = if keep.as_raw_fd() == KEPT {
        keep
    } else {
        // SAFETY: dup3 replaces whatever 3 was. Its owner, if any, is never used again: `exec_keeping` does
        // not return, so no caller's code or destructor runs, and `report` cannot capture an owner.
        if let Err(errno) = checked(unsafe {
            libc::syscall(libc::SYS_dup3, keep.as_raw_fd(), KEPT, libc::O_CLOEXEC)
        }) {
            return (keep, Err(errno));
        }
        // `keep` itself is closed below with the others; dropping it here would be a second owner's close.
        std::mem::forget(keep);
        // SAFETY: dup3 has just made 3, and no other owner of it can run (see above).
        unsafe { OwnedFd::from_raw_fd(KEPT) }
    };
    // SAFETY: as above: no owner of any of these descriptors ever runs again.
    let closed =
        checked(unsafe { libc::syscall(libc::SYS_close_range, KEPT + 1, libc::c_uint::MAX, 0) });
    let closed = closed.and_then(|_| rustix::io::fcntl_setfd(&kept, rustix::io::FdFlags::CLOEXEC));
    (kept, closed)
}
