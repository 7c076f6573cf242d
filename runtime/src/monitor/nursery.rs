//! The nursery: the one process from which an agent's monitors come.
//!
//! It has been started, has entered the monitors' cgroup and has read what a monitor needs of the host, so that a
//! monitor begins with a fork: no execve, and no move between cgroups, which costs most where v1's hierarchies are
//! many or the host is busy. What monitors have in common stays common memory.
//!
//! It holds nothing that lasts. It ends when the agent hangs up, its monitors go on, and an agent that finds it gone
//! starts another. It waits for nobody: the kernel forgets its children when they end.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use longshore_sys::{
    ChildrenEnd, Forked, clone3, every_signal, exit_now, live_with, on_end_of_children,
};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::RecvFlags;

use super::monitor;
use crate::cgroup::Hierarchy;
use crate::error::Context;
use crate::{StepError, rights, wire};

/// Makes a monitor for each descriptor that arrives, until the line ends.
pub(super) fn tend(group: &str) -> Result<(), StepError> {
    let line = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)
        .context("duplicate", "standard input")?;
    let settled = settle_in().and_then(|()| enter(group));
    while let Some(requester) = next(&line)? {
        if let Err(error) = settled {
            // The next request starts a nursery that may fare better.
            refuse(requester, &error);
            return Err(error);
        }
        match clone3(&[], None) {
            // The monitor's end of the pair is the child's alone from here on.
            Ok(Forked::Parent { .. }) => {}
            Ok(Forked::Child) => live_with(vec![requester], &(), |kept, ()| {
                let requester = kept.into_iter().next().map(UnixStream::from);
                let lived = requester.is_some_and(|requester| monitor(requester).is_ok());
                exit_now(i32::from(!lived))
            }),
            Err(errno) => refuse(requester, &StepError::io("clone", "monitor", errno)),
        }
    }
    Ok(())
}

/// A session of its own, no signal that ends it, nothing held open but the line.
fn settle_in() -> Result<(), StepError> {
    every_signal().thread_block().context("block", "signals")?;
    on_end_of_children(ChildrenEnd::Unseen);
    rustix::process::setsid().context("start", "session")?;
    rustix::process::chdir(c"/").context("change directory", "/")?;
    // A monitor's socket appears with the mode that the umask leaves.
    rustix::process::umask(Mode::from_raw_mode(0o177));
    let null = rustix::fs::open(c"/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .context("open", "/dev/null")?;
    rustix::stdio::dup2_stdin(null).context("set", "standard input")
}

/// Before anything is made for a container: its limits are not its monitor's, nor its OOM.
fn enter(group: &str) -> Result<(), StepError> {
    Hierarchy::of_host()?.group(group)?.add(std::process::id())
}

/// The other end of a request's pair; None when the agent has hung up.
fn next(line: &OwnedFd) -> Result<Option<OwnedFd>, StepError> {
    loop {
        match rights::receive(line, &mut [0], RecvFlags::empty()) {
            Ok((0, _)) | Err(Errno::CONNRESET) => return Ok(None),
            // One without a descriptor asks for nothing.
            Ok((_, mut descriptors)) => {
                if let Some(requester) = descriptors.pop() {
                    return Ok(Some(requester));
                }
            }
            Err(errno) => return Err(StepError::io("hear from", "agent", errno)),
        }
    }
}

/// If the agent has ended meanwhile, nobody is left to be told.
fn refuse(requester: OwnedFd, error: &StepError) {
    wire::send_outcome(&mut UnixStream::from(requester), &Err(error.clone())).ok();
}
