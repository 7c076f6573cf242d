//! From the request to an init that waits before execve, or back to nothing.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::time::Duration;

use rustix::fs::Mode;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::umask;

use crate::StepError;
use crate::cgroup::{ContainerGroup, Group};
use crate::error::Context;
use crate::init::{self, Talk};
use crate::launch::{Admission, Door, Init, NewInit, Root};
use crate::plan::{Namespace, Plan};
use crate::record::{Phase, Process, RunDirectory, SOCKET, StateRecord, VERSION};
use crate::wire::Stream;

const PATIENCE: Duration = Duration::from_secs(10);

/// The reading ends of what it writes, or its terminal's master.
type Outputs = Vec<(Stream, OwnedFd)>;

/// A container, and all that its monitor holds of it.
#[derive(Debug)]
pub(super) struct Born {
    pub(super) state: StateRecord,
    pub(super) entrypoint: String,
    pub(super) group: Group,
    /// Its first process is that of a pid namespace.
    pub(super) own_pids: bool,
    /// A pidfd of its first process.
    pub(super) init: OwnedFd,
    /// With an init that waits. None: it was started before this monitor came, which is not its parent.
    pub(super) talk: Option<Talk>,
    pub(super) outputs: Outputs,
    pub(super) listener: UnixListener,
    /// Held for the monitor's life.
    pub(super) _lock: OwnedFd,
}

/// What a container is made from.
#[derive(Debug)]
pub(super) struct Making<'a> {
    pub(super) id: &'a str,
    pub(super) plan: &'a Plan,
    pub(super) run: &'a RunDirectory,
}

impl Making<'_> {
    /// Makes the container. Every effect is recorded before it is made; on error everything is undone.
    pub(super) fn create(self, root: OwnedFd, lock: OwnedFd) -> Result<Born, StepError> {
        let plan = self.plan;
        let group = ContainerGroup::open(&plan.cgroup)?;
        // Before the record: whoever finds the record may remove the group.
        group.refuse_occupied()?;
        let mut state = StateRecord {
            version: VERSION,
            id: self.id.to_owned(),
            cgroup: plan.cgroup.path()?.to_owned(),
            phase: Phase::Creating,
            init: None,
        };
        self.run.write_state(&state)?;
        let made = self.make(&group, root, &mut state);
        let (init, outputs, listener) = made.inspect_err(|_| undo(&group))?;
        Ok(Born {
            state,
            entrypoint: plan.entrypoint().to_owned(),
            group: group.needed("watch")?.clone(),
            own_pids: plan.clone.contains(&Namespace::Pid),
            init: init.pidfd,
            talk: Some(init.talk),
            outputs,
            listener,
            _lock: lock,
        })
    }

    fn make(
        &self,
        group: &ContainerGroup,
        root: OwnedFd,
        state: &mut StateRecord,
    ) -> Result<(Init, Outputs, UnixListener), StepError> {
        let (init, outputs) = self.launch(group, root)?;
        let announced = announce(state, &init, self.run);
        let listener = announced.inspect_err(|_| init.end())?;
        Ok((init, outputs, listener))
    }

    fn launch(&self, group: &ContainerGroup, root: OwnedFd) -> Result<(Init, Outputs), StepError> {
        let (stdout, stdout_end) = pipe_with(PipeFlags::CLOEXEC).context("make", "pipe")?;
        let (stderr, stderr_end) = pipe_with(PipeFlags::CLOEXEC).context("make", "pipe")?;
        let new = NewInit {
            plan: self.plan,
            admission: Admission::First(group),
            prepare: &mut || {
                // A container's users may read their own limits, whatever files the agent makes. A monitor has one thread.
                let before = umask(Mode::from_raw_mode(0o022));
                let prepared = group.prepare(self.plan.resources.as_ref());
                umask(before);
                prepared
            },
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
        let outputs = match init.terminal.take() {
            // A terminal's output is one stream; the pipes have lost their other ends.
            Some(master) => vec![(Stream::Terminal, master)],
            None => vec![(Stream::Stdout, stdout), (Stream::Stderr, stderr)],
        };
        Ok((init, outputs))
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
    let listener = listen(run)?;
    state.phase = Phase::Created;
    state.init = Some(Process::of_pid(init.pid)?);
    run.write_state(state)?;
    Ok(listener)
}

pub(super) fn listen(run: &RunDirectory) -> Result<UnixListener, StepError> {
    let listener = UnixListener::bind(run.socket_path()).context("listen on", SOCKET)?;
    listener
        .set_nonblocking(true)
        .context("listen on", SOCKET)?;
    Ok(listener)
}

/// What cannot be undone here is left to `delete`, which finds the group in `state.json` and says why.
fn undo(group: &ContainerGroup) {
    drop(group.end(PATIENCE));
}
