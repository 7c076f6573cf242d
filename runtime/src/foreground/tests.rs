//! The foreground with real processes; what needs a terminal or signals is tested with the whole program.

use std::process::{Command, Stdio};

use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::*;

#[allow(clippy::zombie_processes)] // The foreground waits for it.
fn attend(script: &str) -> u8 {
    let foreground = Foreground::new().unwrap();
    let child = Command::new("/bin/sh")
        .args(["-c", script])
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).unwrap();
    foreground.attend(pidfd.as_fd(), None, &|_| {}).unwrap()
}

#[test]
fn the_exit_status_is_as_a_shell_counts_it() {
    assert_eq!(attend("exit 42"), 42);
    assert_eq!(attend("kill -9 $$"), 137);
    // One that has ended before anybody looks.
    assert_eq!(attend("true"), 0);
}
