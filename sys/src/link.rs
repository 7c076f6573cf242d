//! netdevice(7), one operation: the loopback link of a new network namespace.

use std::os::fd::AsRawFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use crate::{Errno, checked};

/// Sets IFF_UP on `lo` of the caller's network namespace; the kernel then gives it 127.0.0.1 and ::1.
pub fn bring_up_loopback() -> Result<(), Errno> {
    let socket = socket_with(
        AddressFamily::INET,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    // SAFETY: ifreq is integers, byte arrays and one pointer that these requests do not use; zero is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    // SAFETY: SIOCGIFFLAGS reads the name (NUL-terminated, see above) and writes ifr_flags of this struct.
    let read = unsafe {
        libc::ioctl(
            socket.as_raw_fd(),
            libc::SIOCGIFFLAGS as _,
            &raw mut request,
        )
    };
    checked(read.into())?;
    // SAFETY: the call above has initialised the ifr_flags member of the union.
    unsafe { request.ifr_ifru.ifru_flags |= libc::IFF_UP as libc::c_short };
    // SAFETY: SIOCSIFFLAGS only reads the struct.
    let set = unsafe {
        libc::ioctl(
            socket.as_raw_fd(),
            libc::SIOCSIFFLAGS as _,
            &raw const request,
        )
    };
    checked(set.into())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    #[ignore = "needs root"]
    fn loopback_comes_up_in_a_new_network_namespace() {
        let up = std::thread::spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            let before = std::net::TcpListener::bind("127.0.0.1:0")
                .and_then(|to| std::net::TcpStream::connect(to.local_addr()?));
            super::bring_up_loopback().unwrap();
            let after = std::net::TcpListener::bind("127.0.0.1:0")
                .and_then(|to| std::net::TcpStream::connect(to.local_addr()?));
            (before.is_ok(), after.is_ok())
        });
        assert_eq!(up.join().unwrap(), (false, true));
    }
}
