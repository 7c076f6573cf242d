//! From the request to an init that waits before execve, or back to nothing.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::time::Duration;

use rustix::pipe::{PipeFlags, pipe_with};

use crate::StepError;
use crate::cgroup::{ContainerGroup, Group};
use crate::error::Context;
use crate::init;
use crate::launch::{Admission, Door, Init, NewInit, Root};
use crate::record::{Phase, Process, RunDirectory, StateRecord, VERSION};
use crate::wire::Request;

const PATIENCE: Duration = Duration::from_secs(10);

/// A container whose init waits, and all that its monitor holds of it.
#[derive(Debug)]
pub(super) struct Born {
    pub(super) state: StateRecord,
    pub(super) entrypoint: String,
    pub(super) group: Group,
    pub(super) child: Child,
    pub(super) listener: UnixListener,
    /// Held for the monitor's life.
    pub(super) _lock: OwnedFd,
}

/// Init and the other ends of its output.
#[derive(Debug)]
pub(super) struct Child {
    pub(super) init: Init,
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
    /// Whether `stdout` is the master of its terminal.
    pub(super) terminal: bool,
}

/// What a container is made from.
#[derive(Debug)]
pub(super) struct Making<'a> {
    pub(super) request: &'a Request,
    pub(super) run: &'a RunDirectory,
}

impl Making<'_> {
    /// Makes the container. Every effect is recorded before it is made; on error everything is undone.
    pub(super) fn create(mut self, root: OwnedFd, lock: OwnedFd) -> Result<Born, StepError> {
        let plan = &self.request.plan;
        let group = ContainerGroup::open(&plan.cgroup)?;
        // Before the record: whoever finds the record may remove the group.
        group.refuse_occupied()?;
        let mut state = StateRecord {
            version: VERSION,
            id: self.request.id.clone(),
            cgroup: plan.cgroup.path()?.to_owned(),
            phase: Phase::Creating,
            init: None,
        };
        self.run.write_state(&state)?;
        let made = self.make(&group, root, &mut state);
        let (child, listener) = made.inspect_err(|_| undo(&group))?;
        let entrypoint = self.request.plan.entrypoint().to_owned();
        Ok(Born {
            state,
            entrypoint,
            group: group.needed("watch")?.clone(),
            child,
            listener,
            _lock: lock,
        })
    }

    fn make(
        &mut self,
        group: &ContainerGroup,
        root: OwnedFd,
        state: &mut StateRecord,
    ) -> Result<(Child, UnixListener), StepError> {
        group.prepare(self.request.plan.resources.as_ref())?;
        let child = self.launch(group, root)?;
        let announced = announce(state, &child.init, self.run);
        let listener = announced.inspect_err(|_| child.init.end())?;
        Ok((child, listener))
    }

    fn launch(&self, group: &ContainerGroup, root: OwnedFd) -> Result<Child, StepError> {
        let (stdout, stdout_end) = pipe_with(PipeFlags::CLOEXEC).context("make", "pipe")?;
        let (stderr, stderr_end) = pipe_with(PipeFlags::CLOEXEC).context("make", "pipe")?;
        let new = NewInit {
            plan: &self.request.plan,
            admission: Admission::First(group),
            root: Some(Root::Mount(root)),
            container: None,
            stdio: [null()?, stdout_end, stderr_end],
            preserved: Vec::new(),
            door: Door::Parent,
            // The agent's plans have nothing for their parent to do then.
            environment: &mut |_| Ok(()),
            interrupt: None,
        };
        let mut init = new.launch()?;
        // A terminal's output is one stream; the pipes have lost their other ends.
        let terminal = init.terminal.is_some();
        let stdout = init.terminal.take().unwrap_or(stdout);
        Ok(Child {
            init,
            stdout,
            stderr,
            terminal,
        })
    }
}

/// The container's standard input. Not the monitor's own: through that one a container's root could change
/// the mode and owner of the host's /dev/null.
fn null() -> Result<OwnedFd, StepError> {
    init::null_device()
}

/// Opens the door, then says that the container is there.
fn announce(
    state: &mut StateRecord,
    init: &Init,
    run: &RunDirectory,
) -> Result<UnixListener, StepError> {
    let listener = UnixListener::bind(run.socket_path()).context("listen on", "monitor.sock")?;
    listener
        .set_nonblocking(true)
        .context("listen on", "monitor.sock")?;
    state.phase = Phase::Created;
    state.init = Some(Process::of_pid(init.pid)?);
    run.write_state(state)?;
    Ok(listener)
}

/// What cannot be undone here is left to `delete`, which finds the group in `state.json` and says why.
fn undo(group: &ContainerGroup) {
    drop(group.end(PATIENCE));
}
