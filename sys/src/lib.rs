//! The kernel seam: the system calls that neither nix nor rustix offers safely, behind safe faces.
//!
//! This crate holds the only `unsafe` of the house. Kernel names are kept, and each function names its
//! man page. Descriptors come out as `OwnedFd` and go in as `BorrowedFd`; no function here decides anything.
//! Deliberately absent: whatever rustix or nix already offer (fsopen, open_tree, openat2, pidfd,
//! pivot_root, setns, capset, prctl, SCM_RIGHTS); call those directly.

#![allow(unsafe_code)] // The workspace denies it everywhere else.

pub mod bpf;

mod arena;
mod child;
mod clone;
mod exec;
mod keyring;
mod link;
mod loop_device;
mod mount;
mod pidfd;
mod schedule;
mod seccomp;
mod signal;
pub mod start;

pub use arena::Arena;
pub use child::end_with_parent;
pub use clone::{CloneNamespace, Forked, clone3, clone3_sibling, exit_now};
pub use exec::{
    NotExecuted, Preserved, Program, close_all_on_exec, duplicate_inherited, exec_keeping,
    live_with,
};
pub use keyring::join_anonymous_session_keyring;
pub use link::bring_up_loopback;
pub use loop_device::{configure_loop_device, free_loop_device, loop_device_serves};
pub use mount::{MountAttributes, map_ids, mount_setattr};
pub use pidfd::pidfd_exit_status;
pub use rustix::io::Errno;
pub use schedule::{
    SchedulingAttributes, set_io_priority, set_memory_policy, set_personality, set_scheduling,
};
pub use seccomp::{set_mode_filter, set_mode_filter_listening};
pub use signal::{
    ChildrenEnd, default_all_signals, every_signal, on_end_of_children, pidfd_send_signal,
};

/// Turns the return value of a raw system call through libc into a result.
fn checked(value: libc::c_long) -> Result<libc::c_long, Errno> {
    if value == -1 {
        let code = std::io::Error::last_os_error().raw_os_error();
        return Err(Errno::from_raw_os_error(code.unwrap_or(libc::EIO)));
    }
    Ok(value)
}
