//! Removing a container, whatever state it was left in: whole, half-made, or half-deleted.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Signal, pidfd_send_signal};

use crate::StepError;
use crate::cgroup::{Group, Hierarchy};
use crate::error::Context;
use crate::pidfd;
use crate::record::RunDirectory;

/// How long killed processes may take to be gone; one in uninterruptible sleep takes as long as its disk.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long a monitor may take to read the last log lines and write the exit record.
const MONITOR_PATIENCE: Duration = Duration::from_secs(5);

pub(super) fn delete(path: &Path) -> Result<(), StepError> {
    let deadline = Instant::now() + PATIENCE;
    while let Some(run) = RunDirectory::open(path)? {
        // Processes first: a monitor that sees its container end keeps the log whole and ends by itself. One that
        // has recorded the end has killed them.
        if run.exit()?.is_none()
            && let Some(group) = group(&run)?
        {
            group.kill(PATIENCE)?;
        }
        end_monitor(&run, path)?;
        // From here no monitor can take the directory; what is recorded now is all there is.
        let _lock = match run.lock_as_remover() {
            Ok(lock) => lock,
            // A monitor or another remover was faster: begin again.
            Err(Errno::AGAIN | Errno::ACCESS | Errno::NOENT) if Instant::now() < deadline => {
                continue;
            }
            Err(errno) => return Err(StepError::io("lock run directory", path.display(), errno)),
        };
        if let Some(group) = group(&run)?.filter(|group| !group.remove_if_empty()) {
            group.kill(PATIENCE)?;
            group.remove()?;
        }
        if run.remove()? {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(StepError::refused(
                "remove",
                path.display(),
                "new files keep appearing in it",
            ));
        }
    }
    Ok(())
}

fn group(run: &RunDirectory) -> Result<Option<Group>, StepError> {
    let Some(state) = run.state()? else {
        return Ok(None);
    };
    Hierarchy::of_host()?.group(&state.cgroup).map(Some)
}

/// Waits for the monitor to end, then kills it. A monitor that is still creating never ends by itself.
fn end_monitor(run: &RunDirectory, path: &Path) -> Result<(), StepError> {
    let Some(pidfd) = monitor(run)? else {
        return Ok(());
    };
    let created = run.state()?.is_some_and(|state| state.init.is_some());
    if created && ended(&pidfd, MONITOR_PATIENCE).context("wait for monitor of", path.display())? {
        return Ok(());
    }
    match pidfd_send_signal(&pidfd, Signal::KILL) {
        Ok(()) | Err(Errno::SRCH) => {}
        Err(errno) => return Err(StepError::io("kill monitor of", path.display(), errno)),
    }
    if ended(&pidfd, PATIENCE).context("wait for monitor of", path.display())? {
        return Ok(());
    }
    Err(StepError::refused(
        "kill monitor of",
        path.display(),
        "it does not end; it may wait for a disk",
    ))
}

/// The living monitor. Its pid is read again after the pidfd was opened: still the holder of the lock, so
/// the pidfd is its own and not a later process's.
fn monitor(run: &RunDirectory) -> Result<Option<OwnedFd>, StepError> {
    let Some(number) = run.monitor()? else {
        return Ok(None);
    };
    let pidfd = pidfd::open(number).context("open monitor", number)?;
    Ok(match run.monitor()? == Some(number) {
        true => pidfd,
        false => None,
    })
}

fn ended(pidfd: &OwnedFd, patience: Duration) -> Result<bool, Errno> {
    let deadline = Instant::now() + patience;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec {
            tv_sec: left.as_secs() as i64,
            tv_nsec: left.subsec_nanos().into(),
        };
        match poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&left)) {
            Ok(count) => return Ok(count > 0),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}
