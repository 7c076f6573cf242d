//! loop(4): a file as a block device.

use std::os::fd::{AsRawFd, BorrowedFd};

use crate::{Errno, checked};

const LOOP_GET_STATUS64: libc::Ioctl = 0x4C05;
const LOOP_CONFIGURE: libc::Ioctl = 0x4C0A;
const LOOP_CTL_GET_FREE: libc::Ioctl = 0x4C82;
/// The device lets go of its file when its last user is gone: a mount, or a descriptor.
const LO_FLAGS_AUTOCLEAR: u32 = 4;

/// `struct loop_info64` of linux/loop.h.
#[repr(C)]
#[derive(Clone, Copy)]
struct Info {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

const NOTHING: Info = Info {
    device: 0,
    inode: 0,
    rdevice: 0,
    offset: 0,
    size_limit: 0,
    number: 0,
    encrypt_type: 0,
    encrypt_key_size: 0,
    flags: 0,
    file_name: [0; 64],
    crypt_name: [0; 64],
    encrypt_key: [0; 32],
    init: [0; 2],
};

/// `struct loop_config` of linux/loop.h.
#[repr(C)]
struct Config {
    fd: u32,
    block_size: u32,
    info: Info,
    reserved: [u64; 8],
}

/// The number N of a /dev/loopN that serves no file just now. Another process may be quicker: then
/// [`configure_loop_device`] says EBUSY, and the next number is to be asked for.
///
/// `control` is /dev/loop-control. EPERM or EACCES without CAP_SYS_ADMIN.
pub fn free_loop_device(control: BorrowedFd<'_>) -> Result<u32, Errno> {
    // SAFETY: this request takes no argument.
    let number = checked(libc::c_long::from(unsafe {
        libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE)
    }))?;
    u32::try_from(number).map_err(|_| Errno::OVERFLOW)
}

/// Lets `device` serve `file`, whole, to be read and written, until the last who uses the device is gone. Needs Linux 5.8.
///
/// EBUSY if it serves a file already; EBADF if `file` cannot be written.
pub fn configure_loop_device(device: BorrowedFd<'_>, file: BorrowedFd<'_>) -> Result<(), Errno> {
    let config = Config {
        fd: u32::try_from(file.as_raw_fd()).map_err(|_| Errno::BADF)?,
        block_size: 0,
        info: Info {
            flags: LO_FLAGS_AUTOCLEAR,
            ..NOTHING
        },
        reserved: [0; 8],
    };
    // SAFETY: `config` has the layout that the request reads, and outlives the call.
    checked(libc::c_long::from(unsafe {
        libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE, &raw const config)
    }))?;
    Ok(())
}

/// Device and inode (stat(2)) of the file that `device` serves; None if it serves none.
pub fn loop_device_serves(device: BorrowedFd<'_>) -> Result<Option<(u64, u64)>, Errno> {
    let mut info = NOTHING;
    // SAFETY: `info` has the layout that the request fills, and outlives the call.
    let told = checked(libc::c_long::from(unsafe {
        libc::ioctl(device.as_raw_fd(), LOOP_GET_STATUS64, &raw mut info)
    }));
    match told {
        Ok(_) => Ok(Some((info.device, info.inode))),
        Err(Errno::NXIO) => Ok(None),
        Err(errno) => Err(errno),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// loop.h, 64-bit.
    #[test]
    fn the_kernel_s_layouts() {
        assert_eq!(size_of::<Info>(), 232);
        assert_eq!(size_of::<Config>(), 304);
    }
}
