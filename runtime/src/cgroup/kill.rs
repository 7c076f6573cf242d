//! Ends every process of a group's subtree and proves it.
//!
//! v2 does it in one write (`cgroup.kill`, Linux 5.14), also for processes that are being forked meanwhile,
//! and proves it by `populated 0`. v1 has nothing of the kind: the subtree is frozen so that nobody forks,
//! everyone gets SIGKILL, the thaw lets it act, and all is repeated until every hierarchy's subtree is empty.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::Signal;

use super::directory::{Directory, failed, refused, value_of};
use super::{Group, MISSING_PROCESS};
use crate::{StepError, pidfd};

const STEP: &str = "kill cgroup";

/// How many pidfds are open at once: a group of thousands must not exhaust RLIMIT_NOFILE.
const BATCH: usize = 128;

/// How long freezing may take. A process in vfork(2) cannot freeze before its child has called execve; what
/// is frozen by then is enough for this round.
const FREEZE_PATIENCE: Duration = Duration::from_millis(100);

/// Between two looks where the kernel announces nothing: a dead process leaves its group a moment after its
/// pidfd has told of its death, and v1's freezer has no event at all.
const PAUSE: Duration = Duration::from_millis(1);

/// How long v2 may wait for an event before the order is repeated: a process that was moved into the group
/// after the order has not heard it.
const REPEAT: Duration = Duration::from_millis(200);

/// v2: `cgroup.kill` and `populated 0`.
pub(super) fn kill_v2(group: &Group, top: &Directory, deadline: Instant) -> Result<(), StepError> {
    refuse_suicide(group, &top.processes()?)?;
    let events = top.path().join("cgroup.events");
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let fd = match rustix::fs::openat(top.fd(), "cgroup.events", flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(()),
        other => other.map_err(|errno| failed("open", &events, errno, ""))?,
    };
    let gone = |errno: Errno| matches!(errno, Errno::NOENT | Errno::NODEV);
    let mut buffer = [0; 128];
    loop {
        // Read before each wait: the kernel tells of a change once after each reading.
        let length = match rustix::io::pread(&fd, &mut buffer, 0) {
            Err(errno) if gone(errno) => return Ok(()),
            other => other.map_err(|errno| failed("read", &events, errno, ""))?,
        };
        let text = String::from_utf8_lossy(&buffer[..length]);
        if value_of(&text, "populated") == Some(0) {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(survivors(group));
        }
        match top.try_write("cgroup.kill", "1") {
            Ok(()) => {}
            Err(Errno::NOENT) if top.read("cgroup.procs")?.is_none() => return Ok(()),
            Err(errno) if gone(errno) => {
                let remedy = "it needs Linux 5.14 or newer";
                return Err(failed(STEP, &top.path().join("cgroup.kill"), errno, remedy));
            }
            Err(errno) => return Err(failed(STEP, top.path(), errno, "")),
        }
        wait(&fd, PollFlags::PRI, deadline.min(Instant::now() + REPEAT))?;
    }
}

/// v1: freeze, SIGKILL, thaw, until every hierarchy's subtree is empty. `freezer` is the group's directory
/// where the freezer controller is mounted; without it the rounds may need to be more.
pub(super) fn kill_v1(
    group: &Group,
    freezer: Option<&Directory>,
    deadline: Instant,
) -> Result<(), StepError> {
    for round in 0u64.. {
        let pids = group.processes()?;
        if pids.is_empty() {
            // Left frozen by someone, the group would hold whoever enters it next.
            return freezer.map_or(Ok(()), thaw);
        }
        refuse_suicide(group, &pids)?;
        if Instant::now() >= deadline {
            return Err(survivors(group));
        }
        if round > 0 {
            std::thread::sleep(PAUSE);
        }
        let waiting = {
            let _frozen = freezer.map(Frozen::new).transpose()?;
            signal_all(group)?
        };
        for pidfd in &waiting {
            wait(pidfd, PollFlags::IN, deadline)?;
        }
    }
    Err(survivors(group))
}

/// The caller would freeze or kill itself half-way.
fn refuse_suicide(group: &Group, pids: &[u32]) -> Result<(), StepError> {
    if !pids.contains(&std::process::id()) {
        return Ok(());
    }
    let cause = "the caller itself is in it: move out of the group first";
    Err(refused(STEP, group.path(), cause))
}

/// Sends SIGKILL to all who are in the group now; returns pidfds to wait for, not more than a batch.
fn signal_all(group: &Group) -> Result<Vec<OwnedFd>, StepError> {
    let pids = group.processes()?;
    let mut waiting = Vec::new();
    for batch in pids.chunks(BATCH) {
        let opened: Vec<_> = batch
            .iter()
            // Whatever fails here shows in the next round, which finds it in the group still.
            .filter_map(|pid| Some((pid, pidfd::open(*pid).ok()??)))
            .collect();
        // A pid may have been reused between the list and the pidfd. One that is listed after its pidfd was
        // opened either is the process of that pidfd, or that one is dead and the signal harms nobody.
        let still = group.processes()?;
        waiting.clear();
        for (pid, pidfd) in opened {
            if still.binary_search(pid).is_err() {
                continue;
            }
            match rustix::process::pidfd_send_signal(&pidfd, Signal::KILL) {
                Ok(()) => waiting.push(pidfd),
                Err(Errno::SRCH) => {}
                Err(errno) => {
                    return Err(refused_signal(group, *pid, errno));
                }
            }
        }
    }
    Ok(waiting)
}

fn refused_signal(group: &Group, pid: u32, errno: Errno) -> StepError {
    StepError {
        step: STEP.to_owned(),
        subject: group.path().to_owned(),
        errno: Some(errno.raw_os_error()),
        cause: format!("SIGKILL to process {pid}: {}", std::io::Error::from(errno)),
    }
}

/// A frozen subtree of the v1 freezer; thaws when it goes, whatever happened meanwhile.
struct Frozen<'a>(&'a Directory);

impl Frozen<'_> {
    fn new(freezer: &Directory) -> Result<Frozen<'_>, StepError> {
        let frozen = Frozen(freezer);
        let deadline = Instant::now() + FREEZE_PATIENCE;
        loop {
            // Written again at each look: a freezer that sticks in FREEZING takes it up anew.
            match freezer.try_write("freezer.state", "FROZEN") {
                Ok(()) => {}
                Err(Errno::NOENT | Errno::NODEV) => return Ok(frozen),
                Err(errno) => return Err(failed("freeze cgroup", freezer.path(), errno, "")),
            }
            let state = freezer.read("freezer.state")?.unwrap_or_default();
            if state.trim() != "FREEZING" || Instant::now() >= deadline {
                return Ok(frozen);
            }
            std::thread::sleep(PAUSE);
        }
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        // A failure shows: the frozen processes do not die, and `kill` names them at the deadline.
        drop(thaw(self.0));
    }
}

fn thaw(freezer: &Directory) -> Result<(), StepError> {
    match freezer.try_write("freezer.state", "THAWED") {
        Ok(()) | Err(Errno::NOENT | Errno::NODEV) => Ok(()),
        Err(errno) => Err(failed("thaw cgroup", freezer.path(), errno, "")),
    }
}

/// Waits until the descriptor tells something or the deadline is there, whichever is first.
pub(super) fn wait(fd: &OwnedFd, events: PollFlags, deadline: Instant) -> Result<(), StepError> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        let mut fds = [PollFd::from_borrowed_fd(fd.as_fd(), events)];
        match rustix::event::poll(&mut fds, Some(&timeout)) {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(errno) => {
                let cause = std::io::Error::from(errno).to_string();
                return Err(refused(STEP, "poll(2)", cause));
            }
        }
    }
}

fn survivors(group: &Group) -> StepError {
    let cause = match group.processes() {
        Ok(pids) => format!(
            "processes {pids:?} are still alive; one in state D (/proc/PID/status) waits for a device or a \
             network file system and dies when that answers"
        ),
        Err(error) if error.cause == MISSING_PROCESS => MISSING_PROCESS.to_owned(),
        Err(error) => format!("processes are still alive, and listing them failed: {error}"),
    };
    refused(STEP, group.path(), cause)
}
