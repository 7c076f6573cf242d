//! mount_setattr(2).

use std::os::fd::{AsRawFd, BorrowedFd};

use crate::{Errno, checked};

/// What to change on a mount. MOUNT_ATTR_* bits and one MS_* propagation bit; zero leaves things as they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MountAttributes {
    /// MOUNT_ATTR_* to set.
    pub set: u64,
    /// MOUNT_ATTR_* to clear. To set any atime mode, clear MOUNT_ATTR__ATIME as a whole.
    pub clear: u64,
    /// MS_PRIVATE, MS_SLAVE, MS_SHARED, MS_UNBINDABLE or 0.
    pub propagation: u64,
}

/// Changes the mount that `mount` is the root of, and everything below it if `recursive`.
///
/// `mount` may be detached (fsmount(2), open_tree(2) with OPEN_TREE_CLONE). Absent: MOUNT_ATTR_IDMAP.
pub fn mount_setattr(
    mount: BorrowedFd<'_>,
    attributes: MountAttributes,
    recursive: bool,
) -> Result<(), Errno> {
    let attr = libc::mount_attr {
        attr_set: attributes.set,
        attr_clr: attributes.clear,
        propagation: attributes.propagation,
        userns_fd: 0,
    };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a NUL-terminated empty string, and `attr` outlives the call with its true size.
    checked(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            size_of_val(&attr),
        )
    })?;
    Ok(())
}
