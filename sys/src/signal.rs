//! signal(2): back to the defaults that a new program may expect.

use nix::sys::signal::SigSet;

use crate::Errno;

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
