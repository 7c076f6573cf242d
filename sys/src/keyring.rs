//! keyctl(2), one operation of it.

use crate::{Errno, checked};

const KEYCTL_JOIN_SESSION_KEYRING: libc::c_long = 1;

/// Gives this process a new, empty session keyring, so that it does not possess its parent's keys.
/// ENOSYS where the kernel has no keyrings.
pub fn join_anonymous_session_keyring() -> Result<(), Errno> {
    let name: *const libc::c_char = std::ptr::null();
    // SAFETY: a null name asks for an anonymous keyring; no memory is read or written.
    checked(unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, name) })?;
    Ok(())
}
