//! mount_setattr(2): attributes, propagation, and id-mapped mounts.

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
/// `mount` may be detached (fsmount(2), open_tree(2) with OPEN_TREE_CLONE). For MOUNT_ATTR_IDMAP see [`map_ids`].
pub fn mount_setattr(
    mount: BorrowedFd<'_>,
    attributes: MountAttributes,
    recursive: bool,
) -> Result<(), Errno> {
    let attr = libc::mount_attr {
        attr_set: attributes.set & !libc::MOUNT_ATTR_IDMAP,
        attr_clr: attributes.clear,
        propagation: attributes.propagation,
        userns_fd: 0,
    };
    set(mount, attr, recursive)
}

/// MOUNT_ATTR_IDMAP: ids of files on the detached `mount` are seen through the map of a user namespace.
///
/// EPERM if the mount is attached or mapped already, or the namespace is the initial one; EINVAL if the file system
/// does not offer it.
pub fn map_ids(
    mount: BorrowedFd<'_>,
    user_namespace: BorrowedFd<'_>,
    recursive: bool,
) -> Result<(), Errno> {
    let attr = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: u64::try_from(user_namespace.as_raw_fd()).map_err(|_| Errno::BADF)?,
    };
    set(mount, attr, recursive)
}

fn set(mount: BorrowedFd<'_>, attr: libc::mount_attr, recursive: bool) -> Result<(), Errno> {
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
