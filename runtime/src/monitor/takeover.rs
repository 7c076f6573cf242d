//! A second monitor for a container whose first one was killed.
//!
//! It is not the container's parent: it hears of the end by the pidfd, and of how it ended from the kernel, where
//! that keeps it (PIDFD_GET_INFO, Linux 6.15) once the new parent, the host's init, has waited for the process.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::AtFlags;
use rustix::io::Errno;

use super::birth::{Born, listen};
use crate::StepError;
use crate::cgroup::Hierarchy;
use crate::error::Context;
use crate::record::{Phase, RunDirectory, SOCKET};
use crate::wire::Kept;

/// How long the new parent may take to wait for the process.
const REAPING: Duration = Duration::from_secs(2);
/// Between two looks, should the kernel not tell of that moment.
const PAUSE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 20_000_000,
};

/// Takes the place of the monitor that was lost. Refused if the container has not run or has been seen to end: it
/// then needs none.
pub(super) fn take_over(
    id: &str,
    run: &RunDirectory,
    kept: Kept,
    lock: OwnedFd,
) -> Result<Born, StepError> {
    let refused = |cause| StepError::refused("take over", id, cause);
    let state = run
        .state()?
        .filter(|state| state.phase == Phase::Running)
        .ok_or_else(|| refused("it was never started; delete it"))?;
    if run.exit()?.is_some() {
        return Err(refused("it has ended, and its exit record is there"));
    }
    match rustix::fs::unlinkat(run, SOCKET, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(errno) => return Err(StepError::io("remove", SOCKET, errno)),
    }
    Ok(Born {
        group: Hierarchy::of_host()?.group(&state.cgroup)?,
        listener: listen(run)?,
        state,
        entrypoint: String::new(),
        // Nobody has recorded it.
        own_pids: false,
        init: kept.init,
        talk: None,
        outputs: kept.outputs,
        _lock: lock,
    })
}

/// The wait status of an ended process that is not this one's child; None if nobody can tell.
pub(super) fn exit_status(pidfd: &OwnedFd) -> Option<i32> {
    let deadline = Instant::now() + REAPING;
    loop {
        let status = longshore_sys::pidfd_exit_status(std::os::fd::AsFd::as_fd(pidfd));
        match status {
            Ok(None) if Instant::now() < deadline => {}
            other => return other.ok().flatten(),
        }
        // Nothing asked for: only the hang-up that says it was waited for.
        let mut fds = [PollFd::new(pidfd, PollFlags::empty())];
        rustix::io::retry_on_intr(|| poll(&mut fds, Some(&PAUSE)))
            .context("poll", "pidfd")
            .ok()?;
    }
}
