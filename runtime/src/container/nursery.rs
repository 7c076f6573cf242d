//! The agent's end of the nursery, in which monitors are made: one process, started when it is first needed.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Stdio};
use std::sync::{Mutex, PoisonError};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::creation::Binary;
use crate::error::Context;
use crate::{StepError, rights};

/// The nursery, if one runs.
#[derive(Debug, Default)]
pub(super) struct Nursery(Mutex<Option<Running>>);

#[derive(Debug)]
struct Running {
    group: String,
    line: OwnedFd,
    process: Child,
}

impl Nursery {
    /// Hands the other end of a request's pair to a nursery in this cgroup: to the one that runs, or to a new one
    /// if it has died or stands elsewhere.
    pub(super) fn hand(
        &self,
        binary: &Binary,
        group: &str,
        requester: UnixStream,
    ) -> Result<(), StepError> {
        // A panic elsewhere has left a whole value: it is replaced as one.
        let mut running = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(old) = running.as_ref().filter(|old| old.group == group) {
            match rights::send(&old.line, &[0], &[requester.as_fd()]) {
                Ok(_) => return Ok(()),
                Err(Errno::PIPE | Errno::CONNRESET) => {}
                Err(errno) => return Err(StepError::io("ask", "nursery of monitors", errno)),
            }
        }
        // The old one ends first: two would be no harm, but nobody would wait for it.
        *running = None;
        let new = running.insert(Running::start(binary, group)?);
        rights::send(&new.line, &[0], &[requester.as_fd()])
            .map(drop)
            .context("ask", "nursery of monitors")
    }

    /// Whether the one that was asked last has ended.
    pub(super) fn is_gone(&self) -> bool {
        let running = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        running.as_ref().is_none_or(Running::is_gone)
    }
}

impl Running {
    /// Its end of the line is closed before what lay there unread is.
    fn is_gone(&self) -> bool {
        let mut line = [PollFd::new(&self.line, PollFlags::empty())];
        let polled = poll(&mut line, Some(&Timespec::default()));
        polled.is_err() || line[0].revents().contains(PollFlags::HUP)
    }

    fn start(binary: &Binary, group: &str) -> Result<Running, StepError> {
        let (line, theirs) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .context("make", "socket pair")?;
        // posix_spawn(3), which costs the same however large the agent is.
        let process = binary
            .command()
            .args(["monitor", group])
            .env_clear()
            .stdin(theirs)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("start", "nursery of monitors")?;
        Ok(Running {
            group: group.to_owned(),
            line,
            process,
        })
    }
}

/// Its monitors live on. It has nothing to lose, so it is not waited for in patience.
impl Drop for Running {
    fn drop(&mut self) {
        // If it has ended already, only the wait is left.
        self.process.kill().ok();
        self.process.wait().ok();
    }
}
