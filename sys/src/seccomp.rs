//! seccomp(2), SECCOMP_SET_MODE_FILTER.

use crate::{Errno, checked};

/// Filters that ask for a notification descriptor would return it here; nobody could answer, so: refused.
const ALLOWED_FLAGS: libc::c_ulong = libc::SECCOMP_FILTER_FLAG_TSYNC
    | libc::SECCOMP_FILTER_FLAG_LOG
    | libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW;

/// Loads a classic BPF program, (code, jt, jf, k) per instruction, for this thread and its children.
///
/// Needs CAP_SYS_ADMIN or no_new_privs. EINVAL for an empty or too long program, for one the kernel's
/// checker rejects, and for flags other than TSYNC, LOG and SPEC_ALLOW.
pub fn set_mode_filter(instructions: &[(u16, u8, u8, u32)], flags: u32) -> Result<(), Errno> {
    let mut program: Vec<libc::sock_filter> = instructions
        .iter()
        .map(|&(code, jt, jf, k)| libc::sock_filter { code, jt, jf, k })
        .collect();
    let length = libc::c_ushort::try_from(program.len()).map_err(|_| Errno::INVAL)?;
    let flags = libc::c_ulong::from(flags);
    if flags & !ALLOWED_FLAGS != 0 {
        return Err(Errno::INVAL);
    }
    let fprog = libc::sock_fprog {
        len: length,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: `fprog` points to `length` initialised instructions, which live until the kernel has copied
    // them. A filter can make later calls of this thread fail or kill it, but cannot touch its memory.
    checked(unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const fprog,
        )
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_would_misread_is_refused() {
        let allow = (0x06, 0, 0, 0x7fff_0000);
        assert_eq!(set_mode_filter(&vec![allow; 70_000], 0), Err(Errno::INVAL));
        assert_eq!(set_mode_filter(&[], 0), Err(Errno::INVAL));
        let new_listener = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER as u32;
        assert_eq!(set_mode_filter(&[allow], new_listener), Err(Errno::INVAL));
    }

    #[test]
    fn a_filter_is_in_force_for_its_thread() {
        let filtered = std::thread::spawn(|| {
            rustix::thread::set_no_new_privs(true)?;
            // if nr == getppid { errno 7 } else { allow }
            let getppid = libc::SYS_getppid as u32;
            let program = [
                (0x20, 0, 0, 0),
                (0x15, 0, 1, getppid),
                (0x06, 0, 0, 0x0005_0007),
                (0x06, 0, 0, 0x7fff_0000),
            ];
            set_mode_filter(&program, 0)?;
            // SAFETY: getppid has no arguments and no precondition.
            checked(unsafe { libc::syscall(libc::SYS_getppid) })
        });
        assert_eq!(filtered.join().unwrap(), Err(Errno::from_raw_os_error(7)));
    }
}
