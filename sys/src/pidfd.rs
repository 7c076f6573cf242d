//! What a pidfd tells of its process besides that it has ended: how.

use std::os::fd::{AsRawFd, BorrowedFd};

use crate::{Errno, checked};

/// The wait status of an ended process that its parent has waited for, whoever that was (PIDFD_GET_INFO,
/// Linux 6.15). None: it has not come to that yet, or the kernel does not keep it.
pub fn pidfd_exit_status(pidfd: BorrowedFd<'_>) -> Result<Option<i32>, Errno> {
    // SAFETY: the struct is plain integers; all zero means "nothing asked for".
    let mut info: libc::pidfd_info = unsafe { std::mem::zeroed() };
    info.mask = libc::PIDFD_INFO_EXIT.into();
    // SAFETY: the descriptor is open for the call, and the number of the call tells the kernel the struct's size.
    let asked = unsafe { libc::ioctl(pidfd.as_raw_fd(), libc::PIDFD_GET_INFO, &raw mut info) };
    checked(asked.into())?;
    let told = info.mask & u64::from(libc::PIDFD_INFO_EXIT) != 0;
    Ok(told.then_some(info.exit_code))
}
