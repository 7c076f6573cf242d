//! seccomp(2), SECCOMP_SET_MODE_FILTER.

use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use crate::{Errno, checked};

/// Without SECCOMP_FILTER_FLAG_NEW_LISTENER, whose descriptor only [`set_mode_filter_listening`] returns.
const PLAIN_FLAGS: libc::c_ulong = libc::SECCOMP_FILTER_FLAG_TSYNC
    | libc::SECCOMP_FILTER_FLAG_LOG
    | libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW;

const LISTENING_FLAGS: libc::c_ulong = PLAIN_FLAGS
    | libc::SECCOMP_FILTER_FLAG_NEW_LISTENER
    | libc::SECCOMP_FILTER_FLAG_TSYNC_ESRCH
    | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;

/// Loads a classic BPF program, (code, jt, jf, k) per instruction, for this thread and its children.
///
/// Needs CAP_SYS_ADMIN or no_new_privs. EINVAL for an empty or too long program, for one the kernel's
/// checker rejects, and for flags other than TSYNC, LOG and SPEC_ALLOW; ESRCH if TSYNC failed.
pub fn set_mode_filter(instructions: &[(u16, u8, u8, u32)], flags: u32) -> Result<(), Errno> {
    match set(instructions, flags.into(), PLAIN_FLAGS)? {
        0 => Ok(()),
        // With TSYNC: the thread that could not follow.
        _ => Err(Errno::SRCH),
    }
}

/// The same with SECCOMP_FILTER_FLAG_NEW_LISTENER, which must be among the flags; TSYNC_ESRCH and WAIT_KILLABLE_RECV
/// (Linux 5.19) may be. Returns the descriptor of seccomp_unotify(2), close-on-exec.
///
/// From here on any call of this thread that the filter asks about waits until the descriptor's owner answers.
pub fn set_mode_filter_listening(
    instructions: &[(u16, u8, u8, u32)],
    flags: u32,
) -> Result<OwnedFd, Errno> {
    let flags = libc::c_ulong::from(flags);
    let without_esrch = libc::SECCOMP_FILTER_FLAG_TSYNC & flags != 0
        && libc::SECCOMP_FILTER_FLAG_TSYNC_ESRCH & flags == 0;
    if flags & libc::SECCOMP_FILTER_FLAG_NEW_LISTENER == 0 || without_esrch {
        return Err(Errno::INVAL);
    }
    let descriptor = set(instructions, flags, LISTENING_FLAGS)?;
    let descriptor = RawFd::try_from(descriptor).map_err(|_| Errno::BADF)?;
    // SAFETY: with NEW_LISTENER the kernel returns a new descriptor, which nobody else knows of. With TSYNC it could
    // return a thread's id instead, but not with TSYNC_ESRCH, which was asked for.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

fn set(
    instructions: &[(u16, u8, u8, u32)],
    flags: libc::c_ulong,
    allowed: libc::c_ulong,
) -> Result<libc::c_long, Errno> {
    let mut program: Vec<libc::sock_filter> = instructions
        .iter()
        .map(|&(code, jt, jf, k)| libc::sock_filter { code, jt, jf, k })
        .collect();
    let length = libc::c_ushort::try_from(program.len()).map_err(|_| Errno::INVAL)?;
    if flags & !allowed != 0 {
        return Err(Errno::INVAL);
    }
    let fprog = libc::sock_fprog {
        len: length,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: `fprog` points to `length` initialised instructions, which live until the kernel has copied
    // them. A filter can make later calls of this thread fail or kill it, but cannot touch its memory.
    let returned = checked(unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const fprog,
        )
    });
    // Freeing them could be a system call that the filter asks about; the caller is not through yet.
    std::mem::forget(program);
    returned
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_would_misread_is_refused() {
        let allow = (0x06, 0, 0, 0x7fff_0000);
        assert_eq!(set_mode_filter(&vec![allow; 70_000], 0), Err(Errno::INVAL));
        assert_eq!(set_mode_filter(&[], 0), Err(Errno::INVAL));
        let new_listener = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER as u32;
        assert_eq!(set_mode_filter(&[allow], new_listener), Err(Errno::INVAL));
        for flags in [0, new_listener | 1, new_listener | 1 << 20] {
            let refused = set_mode_filter_listening(&[allow], flags);
            assert_eq!(refused.err(), Some(Errno::INVAL), "{flags:#x}");
        }
    }

    #[test]
    fn a_filter_is_in_force_for_its_thread() {
        let filtered = std::thread::spawn(|| {
            rustix::thread::set_no_new_privs(true)?;
            // if nr == getppid { errno 7 } else { allow }
            let getppid = libc::SYS_getppid as u32;
            let program = [
                (0x20, 0, 0, 0),
                (0x15, 0, 1, getppid),
                (0x06, 0, 0, 0x0005_0007),
                (0x06, 0, 0, 0x7fff_0000),
            ];
            set_mode_filter(&program, 0)?;
            // SAFETY: getppid has no arguments and no precondition.
            checked(unsafe { libc::syscall(libc::SYS_getppid) })
        });
        assert_eq!(filtered.join().unwrap(), Err(Errno::from_raw_os_error(7)));
    }
}
