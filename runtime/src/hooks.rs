//! Running hooks: programs of the host or of the container that a spec names.
//!
//! ```text
//!   state JSON ──▶ stdin ┌──────┐ stdout and stderr ──▶ the end of it is quoted if the hook fails
//!                        │ hook │ its own process group, its own environment, nothing else open
//!                        └──────┘ exit 0, or: stop here
//! ```
//! A hook is waited for by pidfd. At its timeout its whole process group is killed. One that does not read its
//! standard input is none the worse for it, and one that leaves a process behind that holds its output is not
//! waited for. A hook on the host ends with the runtime that waits for it, however that ends; what such a hook has
//! started itself does so only if `delete --force` is what ends the runtime. What it wrote is the hook's and may be a container's: it is bounded, and no control character of it
//! gets through. Deliberately absent: a search in PATH, a shell, any environment of the runtime's own.

use std::fmt::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, SigmaskHow};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use serde_json::Value;

use crate::StepError;
use crate::error::Context;
use crate::interrupt::Interrupt;
use crate::plan::{Hook, HookKind};
use crate::state::{Record, Status};

/// How much of the end of a hook's output an error quotes.
const QUOTE: usize = 1024;
const STEP: &str = "run hook";

/// Runs hooks in their order; the first that fails is the last. `state` is the container's OCI state, in which the
/// status of that time and the pid are set here. An interrupt is a failure of the hook that runs then.
pub(crate) fn run(
    kind: HookKind,
    hooks: &[Hook],
    state: &Value,
    pid: Option<u32>,
    interrupt: Option<&Interrupt>,
) -> Result<(), StepError> {
    if hooks.is_empty() {
        return Ok(());
    }
    keep_descriptors_from(kind)?;
    let text = state_text(kind, state, pid);
    let directory = directory(kind, state);
    hooks
        .iter()
        .try_for_each(|hook| one(kind, hook, &text, directory, interrupt))
}

/// Runs hooks in their order, whether they fail or not: what failed, as warnings.
fn run_all(kind: HookKind, hooks: &[Hook], state: &Value) -> Vec<StepError> {
    if hooks.is_empty() {
        return Vec::new();
    }
    if let Err(error) = keep_descriptors_from(kind) {
        return vec![error];
    }
    let text = state_text(kind, state, None);
    let directory = directory(kind, state);
    let each = hooks
        .iter()
        .map(|hook| one(kind, hook, &text, directory, None));
    each.filter_map(Result::err).collect()
}

/// What `start` runs when the program runs.
pub(crate) fn poststart(record: &Record, interrupt: &Interrupt) -> Result<(), StepError> {
    let pid = record.init.map(|init| init.pid);
    let state = record.oci_state(Status::Running, None);
    let hooks = &record.poststart;
    run(HookKind::Poststart, hooks, &state, pid, Some(interrupt))
}

/// What `delete` runs when the container is gone; what failed.
pub(crate) fn poststop(record: &Record) -> Vec<StepError> {
    let state = record.oci_state(Status::Stopped, None);
    run_all(HookKind::Poststop, &record.poststop, &state)
}

/// A caller of this runtime may have left descriptors open that it never meant for a hook. In init there are none:
/// it has closed all that is not its own, and its own are close-on-exec.
fn keep_descriptors_from(kind: HookKind) -> Result<(), StepError> {
    match kind {
        HookKind::CreateContainer | HookKind::StartContainer => Ok(()),
        _ => longshore_sys::close_all_on_exec().context(STEP, "close on exec"),
    }
}

fn state_text(kind: HookKind, state: &Value, pid: Option<u32>) -> Vec<u8> {
    let mut state = state.clone();
    state["status"] = kind.status().into();
    if let Some(state) = state.as_object_mut() {
        match pid {
            Some(pid) => drop(state.insert("pid".into(), pid.into())),
            None => drop(state.remove("pid")),
        }
    }
    state.to_string().into_bytes()
}

/// The bundle, wherever it is in sight; a hook in the container begins in its program's working directory.
fn directory(kind: HookKind, state: &Value) -> Option<&Path> {
    let bundle = state["bundle"].as_str().map(Path::new);
    bundle.filter(|_| kind != HookKind::StartContainer)
}

fn one(
    kind: HookKind,
    hook: &Hook,
    state: &[u8],
    directory: Option<&Path>,
    interrupt: Option<&Interrupt>,
) -> Result<(), StepError> {
    let fail = |cause: String| StepError::refused(STEP, hook.path.display(), cause);
    let io = |error: std::io::Error| StepError {
        cause: format!("{kind} hook could not be run: {error}"),
        ..StepError::io(STEP, hook.path.display(), error)
    };
    let (mut child, output) = spawn(kind, hook, directory).map_err(io)?;
    let watch = Watch::new(&mut child, output, hook.timeout, interrupt);
    let watched = watch.and_then(|watch| watch.finish(state));
    let (outcome, output) = match watched {
        Ok(watched) => watched,
        Err(errno) => {
            end(&mut child);
            return Err(io(errno.into()));
        }
    };
    let why = match outcome {
        Outcome::Ended => None,
        Outcome::Late => {
            let seconds = hook.timeout.unwrap_or_default();
            Some(format!("took longer than {seconds} s"))
        }
        Outcome::Interrupted => interrupt.map(|interrupt| format!("was {}", interrupt.take())),
    };
    if let Some(why) = why {
        end(&mut child);
        let said = quote(&output);
        return Err(fail(format!("{kind} hook {why} and was killed{said}")));
    }
    let status = child.wait().map_err(io)?;
    if status.success() {
        return Ok(());
    }
    Err(fail(format!(
        "{kind} hook failed with {}{}",
        describe(status),
        quote(&output)
    )))
}

/// The hook, and what it writes: both streams in one pipe, so that all comes in the order in which it was written.
fn spawn(
    kind: HookKind,
    hook: &Hook,
    directory: Option<&Path>,
) -> std::io::Result<(Child, OwnedFd)> {
    let mut command = Command::new(&hook.path);
    let (output, ends) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let error_end = rustix::io::fcntl_dupfd_cloexec(&ends, 3)?;
    let arg0 = hook.args.first().map_or("", String::as_str);
    command
        .arg0(arg0)
        .args(hook.args.iter().skip(1))
        .env_clear()
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(ends)
        .stderr(error_end);
    for entry in &hook.environment.0 {
        let (name, value) = entry.split_once('=').unwrap_or((entry, ""));
        command.env(name, value);
    }
    if let Some(directory) = directory {
        command.current_dir(directory);
    }
    // Those in the container are in its cgroup and its pid namespace, and under its filter, which may know nothing of this.
    if !matches!(kind, HookKind::CreateContainer | HookKind::StartContainer) {
        longshore_sys::end_with_parent(&mut command);
    }
    Ok((command.spawn()?, output))
}

/// How it came to an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// By itself.
    Ended,
    /// Not in its time.
    Late,
    /// Somebody wants the runtime to end.
    Interrupted,
}

/// A hook that is running.
struct Watch<'a> {
    pidfd: OwnedFd,
    /// None once all was written, or the hook will not read.
    input: Option<OwnedFd>,
    /// None at end of file.
    output: Option<OwnedFd>,
    deadline: Option<Instant>,
    interrupt: Option<&'a Interrupt>,
}

impl<'a> Watch<'a> {
    fn new(
        child: &mut Child,
        output: OwnedFd,
        timeout: Option<u64>,
        interrupt: Option<&'a Interrupt>,
    ) -> Result<Watch<'a>, Errno> {
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let pidfd = pidfd_open(pid.ok_or(Errno::SRCH)?, PidfdFlags::empty())?;
        let input = child.stdin.take().map(OwnedFd::from);
        for pipe in input.iter().chain([&output]) {
            rustix::io::ioctl_fionbio(pipe, true)?;
        }
        let deadline =
            timeout.and_then(|timeout| Instant::now().checked_add(Duration::from_secs(timeout)));
        Ok(Watch {
            pidfd,
            input,
            output: Some(output),
            deadline,
            interrupt,
        })
    }

    /// Until the hook has ended, or has to; and the end of what it wrote.
    fn finish(mut self, mut state: &[u8]) -> Result<(Outcome, Vec<u8>), Errno> {
        let mut output = Vec::new();
        loop {
            let Some(remaining) = self.remaining() else {
                return Ok((Outcome::Late, output));
            };
            let [ended, input, written, interrupted] = self.poll(remaining)?;
            if input {
                self.feed(&mut state);
            }
            if written || ended {
                self.drain(&mut output);
            }
            if ended {
                return Ok((Outcome::Ended, output));
            }
            if interrupted {
                return Ok((Outcome::Interrupted, output));
            }
        }
    }

    /// None: the time is over. Some(None): it has no end.
    fn remaining(&self) -> Option<Option<Timespec>> {
        let Some(deadline) = self.deadline else {
            return Some(None);
        };
        let left = deadline
            .checked_duration_since(Instant::now())
            .filter(|left| !left.is_zero())?;
        let timespec = Timespec {
            tv_sec: left.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        Some(Some(timespec))
    }

    /// Whether the hook has ended, takes input, has written; whether there is an interrupt.
    fn poll(&self, timeout: Option<Timespec>) -> Result<[bool; 4], Errno> {
        let mut fds = vec![PollFd::new(&self.pidfd, PollFlags::IN)];
        fds.extend(
            self.input
                .iter()
                .map(|pipe| PollFd::new(pipe, PollFlags::OUT)),
        );
        fds.extend(
            self.output
                .iter()
                .map(|pipe| PollFd::new(pipe, PollFlags::IN)),
        );
        let interrupt = self.interrupt.iter();
        fds.extend(interrupt.map(|interrupt| PollFd::new(interrupt, PollFlags::IN)));
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok([false; 4]),
            Err(errno) => return Err(errno),
        }
        let mut ready = fds.iter().map(|fd| !fd.revents().is_empty());
        let mut next = |present: bool| present && ready.next().unwrap_or(false);
        Ok([
            next(true),
            next(self.input.is_some()),
            next(self.output.is_some()),
            next(self.interrupt.is_some()),
        ])
    }

    fn feed(&mut self, state: &mut &[u8]) {
        let Some(pipe) = &self.input else { return };
        match write_quietly(pipe, state) {
            Ok(length) => *state = &state[length..],
            Err(Errno::AGAIN | Errno::INTR) => return,
            // Whether it reads is its own affair.
            Err(_) => *state = &[],
        }
        if state.is_empty() {
            self.input = None;
        }
    }

    /// Takes what is there and keeps the end of it.
    fn drain(&mut self, kept: &mut Vec<u8>) {
        let mut buffer = [0; 4096];
        // Not to end of file: somebody else may write for ever.
        for _ in 0..64 {
            let Some(pipe) = &self.output else { return };
            match rustix::io::read(pipe, &mut buffer) {
                Ok(0) => self.output = None,
                Ok(length) => {
                    kept.extend_from_slice(&buffer[..length]);
                    let surplus = kept.len().saturating_sub(QUOTE);
                    kept.drain(..surplus);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Err(_) => self.output = None,
            }
        }
    }
}

/// write(2) whose SIGPIPE ends nobody: whoever runs hooks may have the default handlers already that its program
/// is to find. The signal is held back, and taken where the pipe was broken.
fn write_quietly(pipe: &OwnedFd, bytes: &[u8]) -> Result<usize, Errno> {
    let plain = |errno: nix::errno::Errno| Errno::from_raw_os_error(errno as i32);
    let mut broken = SigSet::empty();
    broken.add(nix::sys::signal::Signal::SIGPIPE);
    let before = broken
        .thread_swap_mask(SigmaskHow::SIG_BLOCK)
        .map_err(plain)?;
    let written = rustix::io::write(pipe, bytes);
    if written == Err(Errno::PIPE) {
        broken.wait().map_err(plain)?;
    }
    before.thread_set_mask().map_err(plain)?;
    written
}

/// Kills the hook with its process group and waits for it.
fn end(child: &mut Child) {
    if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        kill_process_group(group, Signal::KILL).ok();
    }
    // It may have left the group that it was put into.
    child.kill().ok();
    child.wait().ok();
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, signal) => format!("signal {}", signal.unwrap_or_default()),
    }
}

/// The end of a hook's output for a message of one line, without anything that a terminal or a log would obey.
fn quote(output: &[u8]) -> String {
    let text = String::from_utf8_lossy(output);
    let mut quoted = String::new();
    for letter in text.trim().chars() {
        if letter.is_control() {
            write!(quoted, "{}", letter.escape_default()).ok();
        } else {
            quoted.push(letter);
        }
    }
    if quoted.is_empty() {
        quoted
    } else {
        format!(": {quoted}")
    }
}

#[cfg(test)]
mod tests;
