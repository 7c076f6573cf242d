//! From the request to an init that waits before execve, or back to nothing.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::time::Duration;

use longshore_sys::{CloneNamespace, Forked, clone3};
use nix::sched::CloneFlags;
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};

use super::null;
use crate::StepError;
use crate::cgroup::{Group, Hierarchy};
use crate::error::Context;
use crate::init::{self, FromInit, Inheritance, Talk, ToInit};
use crate::plan::{Namespace, Plan};
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

/// Makes the container. Every effect is recorded before it is made; on error everything is undone.
pub(super) fn create(
    request: &Request,
    run: &RunDirectory,
    root: OwnedFd,
    lock: OwnedFd,
) -> Result<Born, StepError> {
    let plan = &request.plan;
    let group = Hierarchy::of_host()?.group(&plan.cgroup)?;
    let mut state = StateRecord {
        version: VERSION,
        id: request.id.clone(),
        cgroup: plan.cgroup.clone(),
        phase: Phase::Creating,
        init: None,
    };
    run.write_state(&state)?;
    let made = prepare(&group, plan)
        .and_then(|()| bear(&group, plan, root))
        .and_then(|init| {
            state.phase = Phase::Created;
            match announce(&mut state, &init, run) {
                Ok(listener) => Ok((init, listener)),
                Err(error) => {
                    reap(&init);
                    Err(error)
                }
            }
        });
    let (init, listener) = made.inspect_err(|_| undo(&group))?;
    let entrypoint = plan.entrypoint().to_owned();
    Ok(Born {
        state,
        entrypoint,
        group,
        init,
        listener,
        _lock: lock,
    })
}

fn prepare(group: &Group, plan: &Plan) -> Result<(), StepError> {
    if group.exists() && !group.processes()?.is_empty() {
        return Err(StepError::refused(
            "make cgroup",
            &plan.cgroup,
            "processes of another container are in it",
        ));
    }
    group.create()?;
    plan.resources
        .as_ref()
        .map_or(Ok(()), |resources| group.apply(resources))
}

/// Clones init into the group and waits until it has walked its steps.
fn bear(group: &Group, plan: &Plan, root: OwnedFd) -> Result<Child, StepError> {
    let init = clone_init(group, plan, root)?;
    let ready = admit(group, &init);
    ready.inspect_err(|_| reap(&init))?;
    Ok(init)
}

fn clone_init(group: &Group, plan: &Plan, root: OwnedFd) -> Result<Child, StepError> {
    let (ours, theirs) = Talk::pair().context("make", "socket pair")?;
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
            // Init must not hold its parent's end: end of file is how it learns that the monitor died.
            drop(ours);
            init::run(
                plan,
                Inheritance {
                    stdin,
                    stdout: stdout_end,
                    stderr: stderr_end,
                    root,
                    talk: theirs,
                },
            )
        }
    }
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
