//! The command that holds a container's lock and does not let go, say for a hook that hangs: how it is ended.

use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process_group, pidfd_send_signal};

use crate::StepError;
use crate::error::Context;
use crate::pidfd;
use crate::proc_stat::Stat;
use crate::state::StateDirectory;

/// How long it may take to stand still; one in uninterruptible sleep is killed without that.
const PATIENCE: Duration = Duration::from_secs(1);

/// Kills it, and before it the hook that it waits for, with the hook's whole process group.
///
/// The holder is looked at again once there is a pidfd: still the holder, so the pidfd is its own and not a later process's.
pub(super) fn end(number: u32, directory: &StateDirectory) -> Result<(), StepError> {
    let Some(holder) = pidfd::open(number).context("kill process", number)? else {
        return Ok(());
    };
    if directory.locked_by()? != Some(number) {
        return Ok(());
    }
    let send = |signal| match pidfd_send_signal(&holder, signal) {
        Ok(()) | Err(Errno::SRCH) => Ok(()),
        Err(errno) => Err(StepError::io("kill process", number, errno)),
    };
    // Who stands still waits for no child, so the children's numbers stay theirs.
    send(Signal::STOP)?;
    let deadline = Instant::now() + PATIENCE;
    let stopped = || Stat::of(number).is_none_or(|stat| matches!(stat.state, 'T' | 't' | 'Z'));
    let mut still = stopped();
    while !still && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(1));
        still = stopped();
    }
    if still {
        end_groups_below(number)?;
    }
    send(Signal::KILL)
}

/// A hook leads a process group of its own.
fn end_groups_below(parent: u32) -> Result<(), StepError> {
    for entry in std::fs::read_dir("/proc").context("list", "/proc")? {
        let name = entry.context("list", "/proc")?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let leads = |stat: &Stat| stat.parent == parent && stat.group == pid;
        if Stat::of(pid).as_ref().is_some_and(leads)
            && let Some(group) = i32::try_from(pid).ok().and_then(Pid::from_raw)
        {
            // It may have ended since.
            kill_process_group(group, Signal::KILL).ok();
        }
    }
    Ok(())
}
