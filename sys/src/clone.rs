//! clone3(2) as a fork: a child with new namespaces, a pidfd, and on cgroup v2 a group from birth.
//!
//! Only the fork-like use exists here, for a child or a sibling. CLONE_VM and a stack of one's own are absent,
//! and so is CLONE_NEWTIME: the offsets of a time namespace can only be written before anybody is in it.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::sched::CloneFlags;

use crate::{Errno, checked};

/// libc's constant has overflowed its type (libc issue 3584).
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// A namespace that clone3 makes for the child.
///
/// The cgroup namespace is absent on purpose: with CLONE_INTO_CGROUP its root would be the *parent's*
/// group (copy_namespaces runs before the child is moved), so the child calls unshare(2) for it later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloneNamespace {
    /// CLONE_NEWNS
    Mount,
    /// CLONE_NEWPID
    Pid,
    /// CLONE_NEWUTS
    Uts,
    /// CLONE_NEWIPC
    Ipc,
    /// CLONE_NEWNET
    Network,
    /// CLONE_NEWUSER, which owns the others
    User,
}

impl CloneNamespace {
    fn flag(self) -> u64 {
        let flag = match self {
            CloneNamespace::Mount => libc::CLONE_NEWNS,
            CloneNamespace::Pid => libc::CLONE_NEWPID,
            CloneNamespace::Uts => libc::CLONE_NEWUTS,
            CloneNamespace::Ipc => libc::CLONE_NEWIPC,
            CloneNamespace::Network => libc::CLONE_NEWNET,
            CloneNamespace::User => libc::CLONE_NEWUSER,
        };
        flag as u64
    }
}

/// Which side of the fork this is.
#[derive(Debug)]
pub enum Forked {
    /// The caller, with its child.
    Parent {
        /// The child's pid in the caller's pid namespace.
        pid: u32,
        /// Refers to the child even after it has ended and its pid was taken by another.
        pidfd: OwnedFd,
    },
    /// The child. It has copies of the parent's memory and descriptors.
    Child,
}

/// Forks with clone3(2), CLONE_PIDFD always, CLONE_INTO_CGROUP if `cgroup` is an open cgroup v2 directory.
///
/// A forked child of a multi-threaded process may use async-signal-safe functions only, so this refuses
/// with EBUSY when the caller has more than one thread.
pub fn clone3(
    namespaces: &[CloneNamespace],
    cgroup: Option<BorrowedFd<'_>>,
) -> Result<Forked, Errno> {
    clone3_with(namespaces, cgroup, 0)
}

/// As [`clone3`], with CLONE_PARENT: the child is one of the caller's own parent, who has to wait for it.
///
/// EINVAL if the caller is the first process of a pid namespace, which has nobody to give the child to.
pub fn clone3_sibling(namespaces: &[CloneNamespace]) -> Result<Forked, Errno> {
    clone3_with(namespaces, None, libc::CLONE_PARENT as u64)
}

fn clone3_with(
    namespaces: &[CloneNamespace],
    cgroup: Option<BorrowedFd<'_>>,
    flags: u64,
) -> Result<Forked, Errno> {
    prove_single_threaded()?;
    let mut pidfd: RawFd = -1;
    // SAFETY: clone_args is plain integers; all zero means "nothing asked for".
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = namespaces
        .iter()
        .fold(libc::CLONE_PIDFD as u64 | flags, |all, one| {
            all | one.flag()
        });
    args.pidfd = &raw mut pidfd as u64;
    // A child of the parent's inherits the caller's own signal; the kernel refuses another.
    if flags & libc::CLONE_PARENT as u64 == 0 {
        args.exit_signal = libc::SIGCHLD as u64;
    }
    if let Some(group) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = group.as_raw_fd() as u64;
    }
    let pid = match call(&mut args) {
        // Before Linux 5.3, and where a filter that cannot read the arguments lets clone(2) pass alone.
        Err(Errno::NOSYS) => old_clone(&args, &mut pidfd)?,
        other => other?,
    };
    if pid == 0 {
        return Ok(Forked::Child);
    }
    // SAFETY: CLONE_PIDFD made the kernel store a new descriptor there, which nobody else knows of.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Forked::Parent {
        pid: pid as u32,
        pidfd,
    })
}
fn call(args: &mut libc::clone_args) -> Result<libc::c_long, Errno> {
    // SAFETY: no CLONE_VM, so parent and child share no memory, and stack = 0 lets the child go on with its
    // copy of this stack, as fork does. `args` and what its `pidfd` points to outlive the call and the size is the
    // struct's. `prove_single_threaded` has shown that this is the only thread, and no other can appear meanwhile as
    // only a running thread starts one: no lock of libc or std is held by somebody who does not exist in the child.
    checked(unsafe { libc::syscall(libc::SYS_clone3, &raw mut *args, size_of_val(args)) })
}

/// The same by clone(2). Into a cgroup the parent brings its child, which waits until it is spoken to.
fn old_clone(args: &libc::clone_args, pidfd: &mut RawFd) -> Result<libc::c_long, Errno> {
    let flags = (args.flags & !CLONE_INTO_CGROUP) | args.exit_signal;
    // SAFETY: as in `call`: a stack of null is the caller's own, copied. With CLONE_PIDFD the third argument is where
    // the descriptor is stored, on every architecture; the flags ask for nothing that the last two would be for.
    let pid = checked(unsafe {
        let none = std::ptr::null_mut::<libc::c_void>();
        libc::syscall(libc::SYS_clone, flags, none, &raw mut *pidfd, none, none)
    })?;
    if pid != 0 && args.flags & CLONE_INTO_CGROUP != 0 {
        // SAFETY: the caller of `clone3_with` lent it for the time of the call.
        let group = unsafe { BorrowedFd::borrow_raw(args.cgroup as RawFd) };
        let brought = rustix::fs::openat(
            group,
            c"cgroup.procs",
            rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        )
        .and_then(|file| rustix::io::write(file, pid.to_string().as_bytes()));
        if let Err(errno) = brought {
            // SAFETY: the kernel has just stored it, and nobody else knows of it.
            let child = unsafe { OwnedFd::from_raw_fd(*pidfd) };
            rustix::process::pidfd_send_signal(&child, rustix::process::Signal::KILL).ok();
            let id = rustix::process::WaitId::PidFd(child.as_fd());
            rustix::process::waitid(id, rustix::process::WaitIdOptions::EXITED).ok();
            return Err(errno);
        }
    }
    Ok(pid)
}

/// unshare(2): CLONE_THREAD changes nothing in a process of one thread and is EINVAL in any other. Where a
/// filter keeps unshare away, /proc tells the same in four calls.
fn prove_single_threaded() -> Result<(), Errno> {
    match nix::sched::unshare(CloneFlags::CLONE_THREAD) {
        Ok(()) => return Ok(()),
        Err(nix::errno::Errno::EINVAL) => return Err(Errno::BUSY),
        Err(_) => {}
    }
    let tasks = std::fs::read_dir("/proc/self/task").map_err(|_| Errno::NOSYS)?;
    match tasks.count() {
        1 => Ok(()),
        _ => Err(Errno::BUSY),
    }
}

/// _exit(2): ends a forked child without running the parent's destructors or exit handlers a second time.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit has no precondition and does not return.
    unsafe { libc::_exit(code) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_threads_cannot_fork() {
        // The test harness has a thread for this test and one of its own.
        assert_eq!(clone3(&[], None).err(), Some(Errno::BUSY));
    }
}
