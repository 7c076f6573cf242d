//! The parent's side of a creation: from a plan to an init that waits before execve.
//!
//! Whoever wants a container's first process (the monitor for the agent, the commands `create` and `run`) fills
//! in a [`NewInit`] and calls [`NewInit::launch`]. On error no process of ours is left, and what else was made is the
//! caller's to undo. `init::talk` draws the protocol.
//!
//! ```text
//!   caller: record
//!     launch: cgroup, limits (v2) ─▶ clone3 ─▶ cgroup, limits (v1) ─▶ admit (systemd) ─▶ id maps ─▶ gates (v1)
//!             ─▶ hooks, when init asks ─▶ Ready
//!             (the stage, if the plan has one, comes first and enters the group; init is born where it is)
//!   caller: record the pid
//!     Door::Parent:   Init::start               (the monitor, `run`)
//!     Door::Listener: Init::leave, the caller ends; later `start` knocks at the door
//! ```
//!
//! Deliberately absent: records and files of a container (the caller's), signals (a pidfd tells of the end), and
//! any change of the caller's own namespaces.

mod door;
mod listener;
mod root;
mod user;

use std::os::fd::{AsFd, OwnedFd};

use longshore_sys::{CloneNamespace, Forked, Preserved, clone3, live_with};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, WaitIdStatus, pidfd_open, pidfd_send_signal,
    waitid,
};

use crate::StepError;
use crate::cgroup::{ContainerGroup, Entrance};
use crate::error::Context;
use crate::init::{self, Descriptors, FromInit, Shape, Sources, Talk, ToInit};
use crate::interrupt::Interrupt;
use crate::plan::{Namespace, Plan};

pub(crate) use door::{Door, NotStarted, killed, start};
pub(crate) use root::Root;

/// Makes and limits the container's group.
pub(crate) type Prepare<'a> = dyn FnMut() -> Result<(), StepError> + 'a;

/// What happens in the host's view once the container's namespaces exist and before its root does: hooks,
/// network devices. It gets init's pid.
pub(crate) type Environment<'a> = dyn FnMut(u32) -> Result<(), StepError> + 'a;

/// What a container's first process is made from.
pub(crate) struct NewInit<'a> {
    pub(crate) plan: &'a Plan,
    /// Where the first child is admitted.
    pub(crate) admission: Admission<'a>,
    /// Called once: before the clone where the first child is born in its group; otherwise while that child makes its
    /// network namespace, which takes as long.
    pub(crate) prepare: &'a mut Prepare<'a>,
    /// None: the root of the namespace that the plan joins.
    pub(crate) root: Option<Root>,
    /// A pidfd of the container's first process, if namespaces of it are joined.
    pub(crate) container: Option<OwnedFd>,
    /// Becomes standard input, output and error.
    pub(crate) stdio: [OwnedFd; 3],
    /// Become the program's.
    pub(crate) preserved: Vec<Preserved>,
    /// Where init waits for `start`.
    pub(crate) door: Door,
    /// Called at [`Step::AwaitEnvironment`](crate::plan::Step::AwaitEnvironment), if the plan has it.
    pub(crate) environment: &'a mut Environment<'a>,
    /// Ends the creation while init walks: a hook in it may hang.
    pub(crate) interrupt: Option<&'a Interrupt>,
}

/// How the first child comes into its cgroup.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Admission<'a> {
    /// The container's first process.
    First(&'a ContainerGroup),
    /// One more process of a container that runs.
    Join(&'a Entrance),
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
            admission,
            prepare,
            root,
            container,
            stdio,
            preserved,
            door,
            environment,
            interrupt,
        } = self;
        let later = match admission {
            Admission::First(group) if group.is_entered() => Some(prepare),
            _ => prepare().map(|()| None)?,
        };
        let (ours, theirs) = Talk::pair().context("make", "socket pair")?;
        let mut sources = Sources::open(&plan.opened)?;
        if let Admission::First(group) = admission {
            sources.tell_places(group.places());
        }
        user::own_pipes(plan, &stdio)?;
        let directory = match admission {
            Admission::First(group) => group.clone_fd()?,
            Admission::Join(entrance) => entrance.clone_fd()?,
        };
        let forked = clone3(&first(plan), directory.as_ref().map(AsFd::as_fd));
        match forked.map_err(not_cloned)? {
            Forked::Parent { pid, pidfd } => {
                let mut init = Init {
                    pid,
                    pidfd,
                    talk: ours,
                    terminal: None,
                };
                // The child holds the only other end: if it dies, its parent hears end of file.
                drop(theirs);
                let prepared = match later {
                    Some(prepare) => init.hear_birth().and_then(|()| prepare()),
                    None => Ok(()),
                };
                let brought =
                    prepared.and_then(|()| init.bring_up(plan, admission, environment, interrupt));
                match brought {
                    Ok(()) => Ok(init),
                    Err(error) => {
                        init.end();
                        Err(error)
                    }
                }
            }
            // Nothing of the parent's stays open in the child: not the parent's end of the talk, by whose end of
            // file it learns that it is alone, and not what others wait for the parent to close.
            Forked::Child => {
                let (kept, shape) = Descriptors {
                    stdio,
                    preserved,
                    talk: theirs,
                    root,
                    container,
                    sources,
                    door,
                }
                .pack();
                let told = (plan, shape, later.is_some());
                live_with::<(&Plan, Shape, bool)>(kept, &told, |kept, (plan, shape, tell)| {
                    init::run(plan, Descriptors::unpack(kept, shape), *tell)
                })
            }
        }
    }
}

impl Init {
    /// The kernel may leave a new child on its parent's processor for as long as the parent has something to do, though
    /// another one is idle. Whoever sleeps and is woken by the child goes on beside it.
    fn hear_birth(&self) -> Result<(), StepError> {
        match self.hear()? {
            Some(FromInit::Born) => Ok(()),
            other => Err(ended(other)),
        }
    }

    fn bring_up(
        &mut self,
        plan: &Plan,
        admission: Admission<'_>,
        environment: &mut Environment<'_>,
        interrupt: Option<&Interrupt>,
    ) -> Result<(), StepError> {
        // v2: the child was born in its group. v1: it enters as soon as it is told. It waits for systemd.
        let gates = match admission {
            Admission::First(group) => {
                group.admit(self.pid, plan.resources.as_ref())?;
                group.gates()?
            }
            Admission::Join(entrance) => {
                entrance.admit(self.pid)?;
                entrance.gates()?
            }
        };
        let staged = !plan.stage.is_empty();
        let user = |of_stage: bool| plan.user.as_ref().filter(|user| user.of_stage == of_stage);
        if let Some(user) = user(staged) {
            user::settle(self.pid, user)?;
        }
        self.talk.send_gates(gates)?;
        // The child has closed its copy by now.
        longshore_sys::start::let_go();
        if staged {
            self.become_sibling()?;
            if let Some(user) = user(false) {
                user::settle(self.pid, user)?;
            }
            self.proceed();
        }
        loop {
            if let Some(interrupt) = interrupt {
                interrupt.wait(&self.talk, PollFlags::IN, "wait for", "init")?;
            }
            let heard = self.talk.receive_with().context("hear from", "init")?;
            match heard {
                Some((FromInit::Ready, _)) => return Ok(()),
                Some((FromInit::Terminal, master)) => self.terminal = master,
                Some((FromInit::Environment, _)) => {
                    environment(self.pid)?;
                    self.proceed();
                }
                Some((FromInit::Listener, Some(descriptor))) => {
                    self.hand_over(plan, descriptor)?;
                }
                Some((FromInit::ListenerAt(number), _)) => {
                    let descriptor = listener::take(self, number)?;
                    self.hand_over(plan, descriptor)?;
                }
                other => return Err(ended(other.map(|(message, _)| message))),
            }
        }
    }

    /// At once: init may be waiting for the first answer.
    fn hand_over(&self, plan: &Plan, descriptor: OwnedFd) -> Result<(), StepError> {
        let listener = plan.listener().ok_or_else(|| {
            let cause = "its plan names no listener; this is a defect of the planner";
            StepError::refused("hand over", "seccomp listener", cause)
        })?;
        listener::hand_over(listener, descriptor, self.pid, &plan.state)
    }

    /// If the child has ended already, what it said is what matters, so an error is none.
    fn proceed(&self) {
        self.talk.send(&ToInit::Proceed).ok();
    }

    /// Up to here this is the stage. It clones init as our child, tells its pid and ends.
    fn become_sibling(&mut self) -> Result<(), StepError> {
        // Init holds the same end of the talk and waits: if the stage is killed before it could tell, there will
        // be no end of file.
        let mut fds = [
            PollFd::new(&self.talk, PollFlags::IN),
            PollFd::new(&self.pidfd, PollFlags::IN),
        ];
        rustix::io::retry_on_intr(|| poll(&mut fds, None)).context("wait for", "stage")?;
        if fds[0].revents().is_empty() {
            return Err(ended(None));
        }
        let pid = match self.hear()? {
            Some(FromInit::Cloned(pid)) => pid,
            other => return Err(ended(other)),
        };
        let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let raw = raw.ok_or_else(|| StepError::refused("clone", "init", "it has no pid"))?;
        // Our own child, which nobody has waited for: the pid is still its.
        let pidfd = pidfd_open(raw, PidfdFlags::empty()).context("open process", pid)?;
        let stage = std::mem::replace(&mut self.pidfd, pidfd);
        self.pid = pid;
        wait(&stage).context("wait for", "stage").map(drop)
    }

    fn hear(&self) -> Result<Option<FromInit>, StepError> {
        self.talk.receive().context("hear from", "init")
    }

    /// Lets an init whose door is its parent go on to execve, and returns once execve has succeeded.
    pub(crate) fn start(
        &self,
        entrypoint: &str,
        interrupt: Option<&Interrupt>,
    ) -> Result<(), StepError> {
        let started = door::order_start(&self.talk, entrypoint, interrupt);
        started.map_err(|why| why.into_error(entrypoint))
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
        wait(&self.pidfd).context("wait for", format!("process {}", self.pid))
    }
}

fn wait(pidfd: &OwnedFd) -> Result<Option<WaitIdStatus>, Errno> {
    let wait = || waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED);
    rustix::io::retry_on_intr(wait)
}

/// clone3(2) in words: EAGAIN is a limit on processes, of which there are two.
pub(crate) fn not_cloned(errno: Errno) -> StepError {
    let error = StepError::io("clone", "init", errno);
    match errno {
        Errno::AGAIN => StepError {
            cause: format!(
                "{}; a limit on processes is reached: the container's (raise it by `update --pids-limit`), or its \
                 user's (RLIMIT_NPROC)",
                error.cause
            ),
            ..error
        },
        _ => error,
    }
}

/// Why there will be no init.
fn ended(said: Option<FromInit>) -> StepError {
    match said {
        Some(FromInit::Failed(error) | FromInit::HookFailed(error)) => error,
        Some(FromInit::NotExecuted(code)) => {
            StepError::io("execute", "init", Errno::from_raw_os_error(code))
        }
        Some(_) => {
            let cause = "it said something out of order; this is a defect of init";
            StepError::refused("hear from", "init", cause)
        }
        None => {
            let cause = "it ended without a word; the memory limit may be too small";
            StepError::refused("hear from", "init", cause)
        }
    }
}

impl std::fmt::Debug for NewInit<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewInit")
            .field("admission", &self.admission)
            .field("root", &self.root)
            .field("door", &self.door)
            .finish_non_exhaustive()
    }
}

/// The namespaces of the parent's own child: init's, or of a stage at most the user namespace. Of init's the network
/// namespace is absent: init unshares it while its parent makes the group.
fn first(plan: &Plan) -> Vec<CloneNamespace> {
    match plan.stage.is_empty() {
        true => {
            let mut cloned = cloned(&plan.clone, true);
            cloned.retain(|one| *one != CloneNamespace::Network);
            cloned
        }
        false if plan.user.as_ref().is_some_and(|user| user.of_stage) => {
            vec![CloneNamespace::User]
        }
        false => Vec::new(),
    }
}

/// The namespaces that clone3 makes. The cgroup namespace is absent: init unshares it once it is in its group. So is
/// the time namespace: the stage makes it.
pub(crate) fn cloned(namespaces: &[Namespace], with_user: bool) -> Vec<CloneNamespace> {
    let one = |namespace: &Namespace| match namespace {
        Namespace::Mount => Some(CloneNamespace::Mount),
        Namespace::Pid => Some(CloneNamespace::Pid),
        Namespace::Uts => Some(CloneNamespace::Uts),
        Namespace::Ipc => Some(CloneNamespace::Ipc),
        Namespace::Network => Some(CloneNamespace::Network),
        Namespace::User => with_user.then_some(CloneNamespace::User),
        Namespace::Cgroup | Namespace::Time => None,
    };
    namespaces.iter().filter_map(one).collect()
}
