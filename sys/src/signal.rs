//! signal(2): back to the defaults that a new program may expect; and signals without a name.

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::sys::signal::SigSet;

use crate::{Errno, checked};

/// Sets every signal to SIG_DFL and empties the signal mask.
///
/// execve(2) keeps ignored signals ignored and blocked ones blocked; std ignores SIGPIPE, and the monitor
/// blocks what a terminal may send it.
pub fn default_all_signals() -> Result<(), Errno> {
    for number in 1..=libc::SIGRTMAX() {
        // SAFETY: SIG_DFL installs no code of ours. For SIGKILL, SIGSTOP and the two that libc keeps to
        // itself the call fails without effect, which is what they need.
        unsafe { libc::signal(number, libc::SIG_DFL) };
    }
    SigSet::empty()
        .thread_set_mask()
        .map_err(|errno| Errno::from_raw_os_error(errno as i32))
}

/// pidfd_send_signal(2), also of the real-time signals, which have no names in rustix.
pub fn pidfd_send_signal(pidfd: BorrowedFd<'_>, number: i32) -> Result<(), Errno> {
    let info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: the descriptor is open for the call; a null siginfo makes the kernel fill in its own.
    let sent = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            number,
            info,
            0,
        )
    };
    checked(sent).map(|_| ())
}
