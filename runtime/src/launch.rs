//! The parent's side of a creation: from a plan to an init that waits before execve.
//!
//! Whoever wants a container's first process (the monitor for the agent, the commands `create` and `run`) fills
//! in a [`NewInit`] and calls [`NewInit::launch`]. The caller has made and limited the cgroup before; on error no
//! process of ours is left, and what else was made is the caller's to undo. `init::talk` draws the protocol.
//!
//! ```text
//!   caller: record, cgroup, limits
//!     launch: clone3 ─▶ admit (v1: pid into each hierarchy) ─▶ hooks, when init asks ─▶ Ready
//!   caller: record the pid
//!     Door::Parent:   Init::start               (the monitor, `run`)
//!     Door::Listener: Init::leave, the caller ends; later `start` knocks at the door
//! ```
//!
//! Deliberately absent: records and files of a container (the caller's), signals (a pidfd tells of the end), and
//! any change of the caller's own namespaces.

#[allow(dead_code)] // Until the commands create, start and run are there.
mod door;
mod root;

use std::os::fd::{AsFd, OwnedFd};

use longshore_sys::{CloneNamespace, Forked, clone3, live_with};
use rustix::io::Errno;
use rustix::process::{Signal, WaitId, WaitIdOptions, WaitIdStatus, pidfd_send_signal, waitid};

use crate::StepError;
use crate::cgroup::ContainerGroup;
use crate::error::Context;
use crate::init::{self, Descriptors, FromInit, Shape, Talk, ToInit};
use crate::plan::{Namespace, Plan};

#[allow(unused_imports)] // As above.
pub(crate) use door::{Door, start};
pub(crate) use root::Root;

/// What happens in the host's view once the container's namespaces exist and before its root does: hooks,
/// network devices. It gets init's pid.
pub(crate) type Environment<'a> = dyn FnMut(u32) -> Result<(), StepError> + 'a;

/// What a container's first process is made from.
pub(crate) struct NewInit<'a> {
    pub(crate) plan: &'a Plan,
    /// Where it is admitted; it has been prepared.
    pub(crate) group: &'a ContainerGroup,
    pub(crate) root: Root,
    /// Becomes standard input, output and error.
    pub(crate) stdio: [OwnedFd; 3],
    /// Where init waits for `start`.
    pub(crate) door: Door,
    /// Called at [`Step::AwaitEnvironment`](crate::plan::Step::AwaitEnvironment), if the plan has it.
    pub(crate) environment: &'a mut Environment<'a>,
}

/// Init from its parent's side: it waits before execve.
#[derive(Debug)]
pub(crate) struct Init {
    pub(crate) pid: u32,
    pub(crate) pidfd: OwnedFd,
    pub(crate) talk: Talk,
    /// The master of its terminal, if its plan has one.
    pub(crate) terminal: Option<OwnedFd>,
}

impl NewInit<'_> {
    /// Makes init and waits until all that can fail before execve has been done.
    pub(crate) fn launch(self) -> Result<Init, StepError> {
        let NewInit {
            plan,
            group,
            root,
            stdio,
            door,
            environment,
        } = self;
        let (ours, theirs) = Talk::pair().context("make", "socket pair")?;
        if let Some(path) = &plan.join_pid {
            init::enter(path.as_ref(), nix::sched::CloneFlags::CLONE_NEWPID)?;
        }
        let namespaces: Vec<CloneNamespace> =
            plan.clone.iter().copied().filter_map(cloned).collect();
        let directory = group.clone_fd()?;
        let forked = clone3(&namespaces, directory.as_ref().map(AsFd::as_fd));
        match forked.context("clone", "init")? {
            Forked::Parent { pid, pidfd } => {
                let mut init = Init {
                    pid,
                    pidfd,
                    talk: ours,
                    terminal: None,
                };
                // Init holds the only other end: if it dies, its parent hears end of file.
                drop(theirs);
                match init.bring_up(group, plan, environment) {
                    Ok(()) => Ok(init),
                    Err(error) => {
                        init.end();
                        Err(error)
                    }
                }
            }
            // Nothing of the parent's stays open in init: not the parent's end of the talk, by whose end of file
            // init learns that it is alone, and not what others wait for the parent to close.
            Forked::Child => {
                let (kept, shape) = Descriptors {
                    stdio,
                    talk: theirs,
                    root,
                    door,
                }
                .pack();
                live_with::<(&Plan, Shape)>(kept, &(plan, shape), |kept, (plan, shape)| {
                    init::run(plan, Descriptors::unpack(kept, shape))
                })
            }
        }
    }
}

#[allow(dead_code)] // As above.
impl Init {
    fn bring_up(
        &mut self,
        group: &ContainerGroup,
        plan: &Plan,
        environment: &mut Environment<'_>,
    ) -> Result<(), StepError> {
        // v2: init was born in its group. Elsewhere it waits until it has been brought in.
        group.admit(self.pid, plan.resources.as_ref())?;
        // If init has ended already, what it said is what matters.
        self.talk.send(&ToInit::Proceed).ok();
        loop {
            let heard = self.talk.receive_with().context("hear from", "init")?;
            match heard.map(|(message, descriptor)| {
                self.terminal = descriptor.or(self.terminal.take());
                message
            }) {
                Some(FromInit::Ready) => return Ok(()),
                Some(FromInit::Terminal) => {}
                Some(FromInit::Environment) => {
                    environment(self.pid)?;
                    self.talk.send(&ToInit::Proceed).ok();
                }
                Some(FromInit::Failed(error)) => return Err(error),
                Some(FromInit::NotExecuted(code)) => {
                    let errno = Errno::from_raw_os_error(code);
                    return Err(StepError::io("execute", "init", errno));
                }
                None => {
                    let cause = "it ended without a word; the memory limit may be too small";
                    return Err(StepError::refused("hear from", "init", cause));
                }
            }
        }
    }

    /// Lets an init whose door is its parent go on to execve, and returns once execve has succeeded.
    pub(crate) fn start(&self, entrypoint: &str) -> Result<(), StepError> {
        door::order_start(&self.talk, entrypoint)
    }

    /// Lets an init that waits at a listener live on without its parent. Until then it ends with its parent: what
    /// is recorded nowhere does not stay.
    pub(crate) fn leave(self) -> Result<(), StepError> {
        self.talk.send(&ToInit::Stay).context("leave", "init")
    }

    /// Kills it, if it lives, and waits for its end.
    pub(crate) fn end(&self) {
        // It may have ended already; then only the wait is left.
        pidfd_send_signal(&self.pidfd, Signal::KILL).ok();
        self.wait().ok();
    }

    /// Waits for its end.
    pub(crate) fn wait(&self) -> Result<Option<WaitIdStatus>, StepError> {
        let wait = || waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED);
        rustix::io::retry_on_intr(wait).context("wait for", format!("process {}", self.pid))
    }
}

impl std::fmt::Debug for NewInit<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewInit")
            .field("group", &self.group)
            .field("root", &self.root)
            .field("door", &self.door)
            .finish_non_exhaustive()
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
