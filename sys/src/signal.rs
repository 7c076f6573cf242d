//! signal(2): back to the defaults that a new program may expect; and signals without a name.

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::sys::signal::SigSet;

use crate::{Errno, checked};

/// _NSIG of the architectures that this runs on.
const KERNEL_SIGNALS: i32 = 64;

/// Sets every signal to SIG_DFL and empties the signal mask.
///
/// execve(2) keeps ignored signals ignored and blocked ones blocked; std ignores SIGPIPE, and the monitor
/// blocks what a terminal may send it.
pub fn default_all_signals() -> Result<(), Errno> {
    // SIG_DFL, no flags and no mask are all zero, whatever the architecture makes of the kernel's struct sigaction.
    let default = [0u64; 4];
    let old = std::ptr::null_mut::<u64>();
    for number in 1..=KERNEL_SIGNALS {
        // SAFETY: SIG_DFL installs no code of ours, and `default` is as long as the struct is anywhere. For SIGKILL and
        // SIGSTOP the call fails without effect, which is what they need. Not libc's function: it keeps two or
        // three signals to itself, which a program of another libc may be using.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                number,
                default.as_ptr(),
                old,
                size_of::<u64>(),
            )
        };
    }
    SigSet::empty()
        .thread_set_mask()
        .map_err(|errno| Errno::from_raw_os_error(errno as i32))
}

/// Every signal that the kernel has, also those that libc keeps to itself.
pub fn every_signal() -> SigSet {
    // SAFETY: sigset_t is a set of bits, and all of them may be set: the kernel ignores SIGKILL and SIGSTOP in a mask,
    // and what libc must not have blocked it takes out itself.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        std::ptr::write_bytes(&raw mut set, 0xff, 1);
        SigSet::from_sigset_t_unchecked(set)
    }
}

/// What becomes of a child that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChildrenEnd {
    /// It is gone at once, and nobody can wait for it.
    Unseen,
    /// It stays until it is waited for.
    AwaitWait,
}

/// Sets what becomes of this process's children when they end, and of those of its children.
pub fn on_end_of_children(end: ChildrenEnd) {
    let disposition = match end {
        ChildrenEnd::Unseen => libc::SIG_IGN,
        ChildrenEnd::AwaitWait => libc::SIG_DFL,
    };
    // SAFETY: neither disposition installs code of ours; for SIGCHLD the call cannot fail.
    unsafe { libc::signal(libc::SIGCHLD, disposition) };
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
