//! What a child does between fork(2) and execve(2) of `std::process::Command`.

use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::{Signal, getppid, set_parent_process_death_signal};

/// Lets what `command` starts end by SIGKILL with the thread that starts it, PR_SET_PDEATHSIG of prctl(2).
///
/// The kernel forgets it where the program gains privileges by being executed (a setuid bit, file capabilities), and it
/// says nothing to what the program starts itself.
pub fn end_with_parent(command: &mut Command) {
    let parent = std::process::id();
    let ask = move || {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // It may have ended before it could be asked for.
        let there = getppid().is_some_and(|now| now.as_raw_nonzero().get() as u32 == parent);
        match there {
            true => Ok(()),
            false => Err(rustix::io::Errno::SRCH.into()),
        }
    };
    // SAFETY: the child of a fork may do only what takes no lock and allocates nothing: two system calls, and an error
    // that is a number.
    unsafe { command.pre_exec(ask) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Stdio;

    #[test]
    fn a_child_ends_with_the_thread_that_started_it() {
        let mut child = std::thread::spawn(|| {
            let mut command = Command::new("/bin/sleep");
            command.arg("1000").stdin(Stdio::null());
            end_with_parent(&mut command);
            command.spawn().unwrap()
        })
        .join()
        .unwrap();
        assert!(!child.wait().unwrap().success());
    }
}
