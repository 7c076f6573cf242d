//! A container seen from outside: create it, start it, signal it, wait for it, delete it.
//!
//! Every call is blocking and may be made by any process that may read the run directory: the
//! truth lives in the monitor and in the directory, not in this object.

mod creation;
mod deletion;
mod nursery;

use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use oci_spec::runtime::Spec;
use rustix::io::Errno;
use rustix::net::RecvFlags;
use serde::{Deserialize, Serialize};

use crate::error::Context;
use crate::record::{self, Phase, RunDirectory};
use crate::wire::{Answer, Call, LINE_MAX, Verb};
use crate::{StepError, rights};

pub use crate::wire::Kept;
pub use creation::{Created, Runtime};

/// How long a living monitor may take to answer; it never waits for the container's program.
const PATIENCE: Duration = Duration::from_secs(30);

/// All that a new container needs.
pub struct Launch<'a> {
    /// The container's id; also the name of its run directory.
    pub id: &'a str,
    /// The OCI spec. `linux.cgroupsPath` is relative to the hierarchies' roots; the runtime makes that
    /// group, applies `linux.resources`, and a network namespace `path` is joined. `root.path` is ignored.
    pub spec: &'a Spec,
    /// The root filesystem: a detached mount (fsmount(2) or open_tree(2)) that init attaches.
    pub root: OwnedFd,
    /// `<run root>/containers/<id>`: made here, 0700.
    pub run_dir: &'a Path,
    /// Where the monitor writes `log.jsonl` and its rotations; made here, 0700.
    pub log_dir: &'a Path,
    /// The group for the monitor itself, relative to the roots; must exist.
    pub monitor_cgroup: &'a str,
}

/// The spec stays out: its environment may hold secrets.
impl std::fmt::Debug for Launch<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Launch")
            .field("id", &self.id)
            .field("run_dir", &self.run_dir)
            .finish_non_exhaustive()
    }
}

/// A container by its run directory.
#[derive(Clone, Debug)]
pub struct Container {
    /// Its run directory.
    pub run_dir: PathBuf,
}

/// OCI runtime status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// `create` has not ended (or died on the way): delete it and create again.
    Creating,
    /// Init waits before execve.
    Created {
        /// Pid of init on the host.
        pid: u32,
    },
    /// The user's program runs.
    Running {
        /// Pid on the host.
        pid: u32,
    },
    /// Ended.
    Stopped(ExitRecord),
    /// The monitor died and left no exit record.
    MonitorLost,
}

/// `exit.json` in the run directory, written by the monitor (fsync, rename) before anyone is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// Layout of this record.
    pub version: u32,
    /// Exit status, or 128 + signal. None: the monitor that was its parent is lost, and the kernel does not tell.
    pub code: Option<i32>,
    /// OOM kills counted in the container's cgroup.
    pub oom_kills: u64,
    /// Whether execve ever succeeded.
    pub started: bool,
    /// Milliseconds since the epoch.
    pub finished_at: u64,
}

impl Container {
    /// The container in this run directory; None if there is none.
    pub fn open(run_dir: &Path) -> Option<Container> {
        run_dir.is_dir().then(|| Container {
            run_dir: run_dir.to_owned(),
        })
    }

    /// What it is doing, from its files and its monitor's lock. `Running` counts from the moment that
    /// `start` was accepted. A container whose run directory is gone is an error.
    pub fn state(&self) -> Result<State, StepError> {
        let run = self.directory()?;
        let monitor = run.monitor()?;
        // The exit record is read after the lock: a monitor that ended in between has written it.
        if let Some(exit) = run.exit()? {
            return Ok(State::Stopped(exit));
        }
        let Some(state) = run.state()? else {
            return Ok(State::Creating);
        };
        let pid = state.init.map_or(0, |init| init.pid);
        Ok(match (state.phase, monitor) {
            (Phase::Creating, _) => State::Creating,
            (_, None) => State::MonitorLost,
            (Phase::Created, Some(_)) => State::Created { pid },
            (Phase::Running, Some(_)) => State::Running { pid },
        })
    }

    /// Lets init go on to execve and returns once execve has succeeded; again on one that was started: Ok,
    /// even if it has ended since.
    pub fn start(&self) -> Result<(), StepError> {
        let Some((_, answer)) = self.call(Verb::Start)? else {
            return match self.exit_record()? {
                Some(exit) if exit.started => Ok(()),
                Some(_) => Err(self.refused("start", "it ended before it was started; delete it")),
                None => Err(self.refused("start", "its monitor is lost; delete it")),
            };
        };
        answer.error.map_or(Ok(()), Err)
    }

    /// Sends a signal to the first process, through a pidfd; Ok if it has ended already. This needs no
    /// monitor. Note pid_namespaces(7): the first process of a pid namespace ignores signals that it has
    /// no handler for, SIGKILL and SIGSTOP excepted.
    pub fn signal(&self, signal: i32) -> Result<(), StepError> {
        let run = self.directory()?;
        let state = run.state()?.filter(|_| matches!(run.exit(), Ok(None)));
        let Some(init) = state.and_then(|state| state.init) else {
            return Ok(());
        };
        let number = rustix::process::Signal::from_named_raw(signal)
            .ok_or_else(|| self.refused("signal", format!("there is no signal {signal}")))?;
        let Some(pidfd) = init.open()? else {
            return Ok(());
        };
        match rustix::process::pidfd_send_signal(pidfd, number) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(errno) => Err(StepError::io("signal", self.run_dir.display(), errno)),
        }
    }

    /// A socket that reaches end of file when the exit record is written or the monitor is lost: for the
    /// caller to wait on, in whatever way it waits.
    pub fn subscribe(&self) -> Result<UnixStream, StepError> {
        match self.call(Verb::Subscribe)? {
            Some((stream, Answer { error: None, .. })) => Ok(stream),
            Some((
                _,
                Answer {
                    error: Some(error), ..
                },
            )) => Err(error),
            // It has ended already: a socket whose other end is closed says the same.
            None => UnixStream::pair()
                .map(|(ours, _)| ours)
                .context("subscribe", self.run_dir.display()),
        }
    }

    /// As `subscribe`, and with what it takes to have the container taken over if the monitor is lost: see
    /// [`Runtime::take_over`]. Keep it as long as the socket is open; None if the container has ended already.
    pub fn watch(&self) -> Result<(UnixStream, Option<Kept>), StepError> {
        match self.call_for(Verb::Watch)? {
            Some((
                _,
                Answer {
                    error: Some(error), ..
                },
                _,
            )) => Err(error),
            Some((stream, answer, descriptors)) => {
                Ok((stream, Kept::of(&answer.streams, descriptors)))
            }
            None => self.subscribe().map(|stream| (stream, None)),
        }
    }

    /// A socket that is the other end of the container's terminal: read its output from now on, write to type. Whoever
    /// does not keep up reading is let go; closing it detaches and ends nothing. Refused if it has no terminal, or if
    /// its monitor is one of a version that knows no such call: that one hangs up.
    pub fn attach(&self) -> Result<UnixStream, StepError> {
        match self.call(Verb::Attach)? {
            Some((stream, Answer { error: None, .. })) => Ok(stream),
            Some((
                _,
                Answer {
                    error: Some(error), ..
                },
            )) => Err(error),
            None => Err(self.refused("attach to", "it has ended, or its monitor is too old")),
        }
    }

    /// Sets the size of the container's terminal; its foreground processes get SIGWINCH.
    pub fn resize(&self, rows: u16, columns: u16) -> Result<(), StepError> {
        match self.call(Verb::Resize { rows, columns })? {
            Some((_, answer)) => answer.error.map_or(Ok(()), Err),
            None => Err(self.refused("resize", "it has ended, or its monitor is too old")),
        }
    }

    /// The exit record, if it is there.
    pub fn exit_record(&self) -> Result<Option<ExitRecord>, StepError> {
        self.directory()?.exit()
    }

    /// Kills what still runs (by cgroup), ends the monitor, removes the cgroup and the run directory. Logs
    /// stay. May be repeated after it failed or its caller died on the way; Ok if nothing is there.
    pub fn delete(&self) -> Result<(), StepError> {
        deletion::delete(&self.run_dir)
    }

    fn directory(&self) -> Result<RunDirectory, StepError> {
        RunDirectory::open(&self.run_dir)?
            .ok_or_else(|| self.refused("open", "there is no such container"))
    }

    fn refused(&self, step: &str, cause: impl Into<String>) -> StepError {
        StepError::refused(step, self.run_dir.display(), cause)
    }

    fn call(&self, verb: Verb) -> Result<Option<(UnixStream, Answer)>, StepError> {
        let called = self.call_for(verb)?;
        Ok(called.map(|(stream, answer, _)| (stream, answer)))
    }

    /// Asks the monitor; None if there is none, or it ended without an answer.
    fn call_for(&self, verb: Verb) -> Result<Option<Called>, StepError> {
        let run = self.directory()?;
        let stream = match UnixStream::connect(run.socket_path()) {
            Ok(stream) => stream,
            Err(error) if is_gone(&error) => return Ok(None),
            Err(error) => {
                return Err(StepError::io(
                    "connect to",
                    self.run_dir.join(record::SOCKET).display(),
                    error,
                ));
            }
        };
        match ask(&stream, verb) {
            Ok(answer) => Ok(answer.map(|(answer, descriptors)| (stream, answer, descriptors))),
            Err(error) if is_gone(&error) => Ok(None),
            Err(error) => Err(StepError::io(
                "ask monitor of",
                self.run_dir.display(),
                error,
            )),
        }
    }
}

/// The connection, what was answered, and what came with the answer.
type Called = (UnixStream, Answer, Vec<OwnedFd>);

fn ask(mut stream: &UnixStream, verb: Verb) -> std::io::Result<Option<(Answer, Vec<OwnedFd>)>> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut line = serde_json::to_vec(&Call {
        version: record::VERSION,
        verb,
    })?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let (answer, descriptors) = read_line(stream)?;
    stream.set_read_timeout(None)?;
    if answer.is_empty() {
        return Ok(None);
    }
    Ok(Some((serde_json::from_slice(&answer)?, descriptors)))
}

/// Looks before it takes: what follows the line is no part of it, but a terminal's output.
fn read_line(stream: &UnixStream) -> std::io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let (mut line, mut descriptors) = (Vec::new(), Vec::new());
    let mut bytes = [0; 512];
    while line.len() < LINE_MAX && line.last() != Some(&b'\n') {
        let (seen, _) = rights::receive(stream, &mut bytes, RecvFlags::PEEK)?;
        let newline = bytes[..seen].iter().position(|byte| *byte == b'\n');
        let wanted = newline.map_or(seen, |at| at + 1);
        if wanted == 0 {
            break;
        }
        let (taken, came) = rights::receive(stream, &mut bytes[..wanted], RecvFlags::empty())?;
        line.extend_from_slice(&bytes[..taken]);
        descriptors.extend(came);
    }
    Ok((line, descriptors))
}

/// Nobody listens, or whoever did has ended.
fn is_gone(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionRefused, ConnectionReset, NotFound};
    matches!(
        error.kind(),
        NotFound | ConnectionRefused | ConnectionReset | BrokenPipe
    )
}
