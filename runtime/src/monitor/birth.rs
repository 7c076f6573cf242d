//! From the request to an init that waits before execve, or back to nothing.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use longshore_sys::{CloneNamespace, Forked, clone3};
use nix::sched::CloneFlags;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};

use crate::StepError;
use crate::cgroup::{Group, Hierarchy};
use crate::error::Context;
use crate::init::{self, FromInit, Inheritance, Talk, ToInit};
use crate::plan::Namespace;
use crate::record::{Phase, Process, RunDirectory, StateRecord, VERSION};
use crate::wire::Request;

const PATIENCE: Duration = Duration::from_secs(10);

/// A container whose init waits, and all that its monitor holds of it.
#[derive(Debug)]
pub(super) struct Born {
    pub(super) state: StateRecord,
    pub(super) entrypoint: String,
    pub(super) group: Group,
    pub(super) init: Child,
    pub(super) listener: UnixListener,
    /// Held for the monitor's life.
    pub(super) _lock: OwnedFd,
}

/// Init from its parent's side.
#[derive(Debug)]
pub(super) struct Child {
    pub(super) pid: u32,
    pub(super) pidfd: OwnedFd,
    pub(super) talk: Talk,
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
}

/// What a container is made from.
#[derive(Debug)]
pub(super) struct Making<'a> {
    pub(super) request: &'a Request,
    pub(super) run: &'a RunDirectory,
    /// Init closes its copy, so that the requester sees the end of file of a monitor that died.
    pub(super) requester: &'a mut Option<UnixStream>,
}

impl Making<'_> {
    /// Makes the container. Every effect is recorded before it is made; on error everything is undone.
    pub(super) fn create(mut self, root: OwnedFd, lock: OwnedFd) -> Result<Born, StepError> {
        let plan = &self.request.plan;
        let group = Hierarchy::of_host()?.group(&plan.cgroup)?;
        // Before the record: whoever finds the record may remove the group.
        refuse_occupied(&group)?;
        let mut state = StateRecord {
            version: VERSION,
            id: self.request.id.clone(),
            cgroup: plan.cgroup.clone(),
            phase: Phase::Creating,
            init: None,
        };
        self.run.write_state(&state)?;
        let made = self.make(&group, root, &mut state);
        let (init, listener) = made.inspect_err(|_| undo(&group))?;
        let entrypoint = self.request.plan.entrypoint().to_owned();
        Ok(Born {
            state,
            entrypoint,
            group,
            init,
            listener,
            _lock: lock,
        })
    }

    fn make(
        &mut self,
        group: &Group,
        root: OwnedFd,
        state: &mut StateRecord,
    ) -> Result<(Child, UnixListener), StepError> {
        group.create()?;
        if let Some(resources) = &self.request.plan.resources {
            group.apply(resources)?;
        }
        let init = self.clone_init(group, root)?;
        let announced = admit(group, &init).and_then(|()| announce(state, &init, self.run));
        let listener = announced.inspect_err(|_| reap(&init))?;
        Ok((init, listener))
    }

    fn clone_init(&mut self, group: &Group, root: OwnedFd) -> Result<Child, StepError> {
        let plan = &self.request.plan;
        let (ours, talk) = Talk::pair().context("make", "socket pair")?;
        let (stdout, stdout_end) = pipe_with(PipeFlags::CLOEXEC).context("make", "pipe")?;
        let (stderr, stderr_end) = pipe_with(PipeFlags::CLOEXEC).context("make", "pipe")?;
        let stdin = null()?;
        if let Some(path) = &plan.join_pid {
            init::enter(path.as_ref(), CloneFlags::CLONE_NEWPID)?;
        }
        let namespaces: Vec<CloneNamespace> = plan
            .clone
            .iter()
            .filter_map(|namespace| cloned(*namespace))
            .collect();
        let directory = group.cgroup_fd()?;
        match clone3(&namespaces, directory.as_ref().map(AsFd::as_fd)).context("clone", "init")? {
            Forked::Parent { pid, pidfd } => Ok(Child {
                pid,
                pidfd,
                talk: ours,
                stdout,
                stderr,
            }),
            Forked::Child => {
                // Init must not hold its parent's ends: end of file is how each side learns that the
                // monitor died.
                drop((ours, self.requester.take()));
                let stdio = [stdin, stdout_end, stderr_end];
                init::run(plan, Inheritance { stdio, root, talk })
            }
        }
    }
}

/// The container's standard input. Not the monitor's own: through that one a container's root could change
/// the mode and owner of the host's /dev/null.
fn null() -> Result<OwnedFd, StepError> {
    let mount = init::null_mount()?;
    let path = format!("/proc/self/fd/{}", mount.as_raw_fd());
    rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .context("open", "/dev/null")
}

fn refuse_occupied(group: &Group) -> Result<(), StepError> {
    if !group.exists() || group.processes()?.is_empty() {
        return Ok(());
    }
    let cause = "processes of another container are in it; give each container a cgroup of its own";
    Err(StepError::refused("make cgroup", group.path(), cause))
}

/// The cgroup namespace is absent: init unshares it once it is in its group.
fn cloned(namespace: Namespace) -> Option<CloneNamespace> {
    match namespace {
        Namespace::Mount => Some(CloneNamespace::Mount),
        Namespace::Pid => Some(CloneNamespace::Pid),
        Namespace::Uts => Some(CloneNamespace::Uts),
        Namespace::Ipc => Some(CloneNamespace::Ipc),
        Namespace::Network => Some(CloneNamespace::Network),
        Namespace::Cgroup => None,
    }
}

/// v2: init was born in its group. v1: it waits until its pid is written into each hierarchy.
fn admit(group: &Group, init: &Child) -> Result<(), StepError> {
    if group.cgroup_fd()?.is_none() {
        group.add(init.pid)?;
    }
    // If init has ended already, what it said is what matters.
    init.talk.send(&ToInit::Proceed).ok();
    match init.talk.receive().context("hear from", "init")? {
        Some(FromInit::Ready) => Ok(()),
        Some(FromInit::Failed(error)) => Err(error),
        Some(FromInit::NotExecuted(code)) => Err(StepError::io(
            "execute",
            "init",
            Errno::from_raw_os_error(code),
        )),
        None => Err(StepError::refused(
            "hear from",
            "init",
            "it ended without a word; the memory limit may be too small",
        )),
    }
}

/// Opens the door, then says that the container is there.
fn announce(
    state: &mut StateRecord,
    init: &Child,
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

fn reap(init: &Child) {
    // It may have ended already; then only the wait is left.
    pidfd_send_signal(&init.pidfd, Signal::KILL).ok();
    waitid(WaitId::PidFd(init.pidfd.as_fd()), WaitIdOptions::EXITED).ok();
}

/// What cannot be undone here is left to `delete`, which finds the group in `state.json` and says why.
fn undo(group: &Group) {
    drop(group.kill(PATIENCE).and_then(|()| group.remove()));
}
