//! The agent's end of the nursery, in which monitors are made: one process, started when it is first needed.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType};

use super::creation::Binary;
use crate::error::Context;
use crate::{StepError, rights};

/// The nursery, if one runs.
#[derive(Debug, Default)]
pub(super) struct Nursery(Mutex<Option<Arc<Running>>>);

/// One that was started. It ends with its last holder: its monitors live on.
#[derive(Debug)]
pub(super) struct Running {
    group: String,
    line: OwnedFd,
    process: Child,
}

impl Nursery {
    /// Hands the other end of a request's pair to a nursery in this cgroup: to the one that runs, or to a new one
    /// if it has died, takes nothing more, or stands elsewhere. Which one has it now.
    pub(super) fn hand(
        &self,
        binary: &Binary,
        group: &str,
        requester: &UnixStream,
    ) -> Result<Arc<Running>, StepError> {
        let mut place = self.lock();
        if let Some(running) = place.as_ref().filter(|running| running.group == group) {
            match running.send(requester) {
                Ok(_) => return Ok(Arc::clone(running)),
                Err(Errno::PIPE | Errno::CONNRESET | Errno::AGAIN) => {}
                Err(errno) => return Err(StepError::io("ask", "nursery of monitors", errno)),
            }
        }
        let new = Arc::new(Running::start(binary, group)?);
        new.send(requester).context("ask", "nursery of monitors")?;
        let old = place.replace(Arc::clone(&new));
        // It is waited for once nobody has to wait for us.
        drop(place);
        drop(old);
        Ok(new)
    }

    /// The next request goes to another one than `tried`, which did not answer.
    pub(super) fn leave(&self, tried: &Arc<Running>) {
        let left = self.lock().take_if(|running| Arc::ptr_eq(running, tried));
        drop(left);
    }

    /// A panic elsewhere has left a whole value: it is replaced as one.
    fn lock(&self) -> MutexGuard<'_, Option<Arc<Running>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Running {
    /// Whether it ends within a moment: who is killed does not close all that it holds at once.
    pub(super) fn ends(&self) -> bool {
        let moment = Timespec {
            tv_sec: 1,
            tv_nsec: 0,
        };
        let mut line = [PollFd::new(&self.line, PollFlags::empty())];
        let polled = rustix::io::retry_on_intr(|| poll(&mut line, Some(&moment)));
        polled.is_err() || line[0].revents().contains(PollFlags::HUP)
    }

    /// EAGAIN: it has not read for a long time.
    fn send(&self, requester: &UnixStream) -> Result<usize, Errno> {
        rights::send(&self.line, &[0], &[requester.as_fd()], SendFlags::DONTWAIT)
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
