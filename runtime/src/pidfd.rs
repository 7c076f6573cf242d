//! Pidfds of processes that may have ended, by their numbers.

use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// None if no process has the number. Whose it is now is for the caller to find out, who has the pidfd by then.
///
/// Kernels before 6.15 say EINVAL, not ESRCH, for a process that was waited for a moment ago while somebody else still
/// looks at it, through /proc for instance (pidfd_open(2)). A thread's number, their other reason, is no process's either.
pub(crate) fn open(number: u32) -> Result<Option<OwnedFd>, Errno> {
    let Some(pid) = i32::try_from(number).ok().and_then(Pid::from_raw) else {
        return Ok(None);
    };
    match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(pidfd) => Ok(Some(pidfd)),
        Err(Errno::SRCH | Errno::INVAL | Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_one_and_what_is_none_has_none() {
        assert!(open(std::process::id()).unwrap().is_some());
        let mut child = std::process::Command::new("/bin/true").spawn().unwrap();
        let number = child.id();
        assert!(open(number).unwrap().is_some(), "a zombie is a process");
        child.wait().unwrap();
        for none in [0, number, u32::MAX] {
            assert!(open(none).unwrap().is_none(), "{none}");
        }
        std::thread::spawn(|| {
            let thread = u32::try_from(nix::unistd::gettid().as_raw()).unwrap();
            assert!(open(thread).unwrap().is_none());
        })
        .join()
        .unwrap();
    }
}
