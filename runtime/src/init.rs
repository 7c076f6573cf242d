//! Init: the child of clone3 that walks a plan's steps and becomes the container's program.
//!
//! It decides nothing: the planner did. It is single-threaded, has its own copy of its parent's memory, and
//! never returns. An error crosses to the parent as a `StepError`, then init ends; the kernel undoes its mounts
//! and namespaces with it. Deliberately absent: any retry, any fallback, any reading of the image before
//! the host's tree is gone.

mod attribute;
mod build;
mod descriptors;
mod device;
mod filesystem;
mod floor;
mod identity;
mod namespace;
mod procfs;
mod program;
mod resolve;
mod sources;
mod stage;
mod talk;
mod terminal;

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use longshore_sys::{self as sys, Preserved};
use nix::sched::{CloneFlags, unshare};
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::net::SocketFlags;

use crate::StepError;
use crate::cgroup::Gate;
use crate::classic;
use crate::error::Context;
use crate::launch::{Door, Root};
use crate::plan::{
    CapabilitySets, Environment, Groups, Hook, HookKind, Namespace, Plan, RootChange, Step,
    Terminal,
};
use crate::seccomp::{self, Filter, Handover};

pub(crate) use descriptors::{Descriptors, Shape};
use procfs::Procfs;

pub(crate) use filesystem::{is_null, null_device};
pub(crate) use identity::make_room;
pub(crate) use program::explain;
pub(crate) use sources::Sources;
pub(crate) use talk::{FromInit, Talk, ToInit};

/// Walks the plan. Only ever called in the child of clone3. `tell`: its parent waits to hear of its birth.
pub(crate) fn run(plan: &Plan, descriptors: Option<Descriptors>, tell: bool) -> ! {
    let walk = AssertUnwindSafe(|| {
        let Some(descriptors) = descriptors else {
            return;
        };
        if tell {
            // A parent that is gone is noticed where its next word is awaited.
            descriptors.talk.send(&FromInit::Born).ok();
        }
        let mut walk = Walk::new(descriptors);
        if let Err(errno) = classic::settle() {
            let error = StepError::io("open", "/proc", errno);
            walk.talk
                .map(|talk| talk.send(&FromInit::Failed(error)).ok());
            return;
        }
        walk.state = plan.state.clone();
        let failed = if plan.stage.is_empty() {
            // Nobody else made it (`launch::first`), and there is time until the group is there.
            let network = plan.clone.contains(&Namespace::Network);
            let made = network.then(namespace::new_network).transpose();
            made.err().unwrap_or_else(|| walk.run(plan))
        } else {
            stage::run(&mut walk, plan)
        };
        let said = match walk.hook_failed {
            true => FromInit::HookFailed(failed),
            false => FromInit::Failed(failed),
        };
        // The parent may be gone; then nobody is left to tell.
        walk.talk.map(|talk| talk.send(&said).ok());
    });
    // Unwinding must not reach the parent's frames, of which this process has a copy.
    drop(catch_unwind(walk));
    sys::exit_now(127)
}

const LISTENER: &str = "seccomp listener";

/// What steps hand to later steps.
struct Walk {
    /// With the parent, later with whoever says `start`. None once given to execve.
    talk: Option<Talk>,
    /// None once somebody came through it.
    door: Option<Door>,
    /// None once they are standard input, output and error.
    stdio: Option<[OwnedFd; 3]>,
    /// Become the program's descriptors.
    preserved: Vec<Preserved>,
    /// None once it is the container's root.
    host_root: Option<Root>,
    /// The container's root while it stands in the host's tree, for hooks.
    attached_root: Option<OwnedFd>,
    /// The container's first process, whose namespaces are joined.
    container: Option<OwnedFd>,
    /// The user namespace forbids setgroups(2).
    setgroups_denied: bool,
    build: build::Build,
    /// The OCI state, as hooks get it.
    state: serde_json::Value,
    /// The host's procfs.
    proc: Option<Procfs>,
    home: Option<String>,
    /// What the filter asks through, if its parent takes it from here.
    #[allow(dead_code)] // Only held.
    listener: Option<OwnedFd>,
    /// What takes the place of the plan's entries of the same names.
    listen: Vec<String>,
    program: Option<CString>,
    bonds: Bonds,
    /// Whether a hook is what failed.
    hook_failed: bool,
}

/// What binds the program and would hinder init: it comes when nothing but execve is left to do.
#[derive(Default, PartialEq)]
struct Bonds {
    filter: Option<Filter>,
    /// If they come after the filter.
    capabilities: Option<CapabilitySets>,
}

impl Walk {
    fn new(descriptors: Descriptors) -> Walk {
        let Descriptors {
            stdio,
            talk,
            root,
            container,
            preserved,
            sources,
            door,
        } = descriptors;
        Walk {
            talk: Some(talk),
            door: Some(door),
            stdio: Some(stdio),
            host_root: root,
            attached_root: None,
            container,
            setgroups_denied: false,
            preserved,
            build: build::Build::new(sources),
            state: serde_json::Value::Null,
            proc: None,
            home: None,
            listener: None,
            listen: Vec::new(),
            program: None,
            bonds: Bonds::default(),
            hook_failed: false,
        }
    }

    /// Comes back only with an error: a successful walk ends in execve.
    fn run(&mut self, plan: &Plan) -> StepError {
        let walked = self
            .settle_in()
            .and_then(|()| plan.steps.iter().try_for_each(|step| self.take(step)));
        let incomplete =
            || StepError::refused("walk", "plan", "it ends without a program to execute");
        walked.err().unwrap_or_else(incomplete)
    }

    /// A session of its own, default signals, and the container's stdio.
    fn settle_in(&mut self) -> Result<(), StepError> {
        sys::default_all_signals().context("reset", "signal mask")?;
        rustix::process::setsid().context("start", "session")?;
        let Some([input, output, error]) = self.stdio.take() else {
            return Ok(());
        };
        rustix::stdio::dup2_stdin(input).context("set", "standard input")?;
        rustix::stdio::dup2_stdout(output).context("set", "standard output")?;
        rustix::stdio::dup2_stderr(error).context("set", "standard error")
    }

    fn take(&mut self, step: &Step) -> Result<(), StepError> {
        match step {
            Step::Undumpable => rustix::process::set_dumpable_behavior(
                rustix::process::DumpableBehavior::NotDumpable,
            )
            .context("set", "undumpable"),
            Step::EnterCgroup => {
                let (heard, files) = self.hear_with()?;
                match heard {
                    ToInit::Enter(paths) if paths.len() == files.len() => {
                        let mut gates = files.into_iter().zip(paths);
                        gates.try_for_each(|(file, path)| Gate::of_parts(file, path.into()).pass())
                    }
                    _ => Err(unexpected()),
                }
            }
            Step::AwaitEnvironment => {
                self.talk()?
                    .send(&FromInit::Environment)
                    .context("report", "environment")?;
                self.expect(&ToInit::Proceed)
            }
            Step::OpenProc => {
                self.proc = Some(Procfs::open()?);
                Ok(())
            }
            Step::OomScoreAdj(value) => self
                .proc()?
                .write_own("oom_score_adj", &value.to_string())
                .context("set OOM score adjustment", value),
            Step::LeaveGroups => {
                rustix::thread::set_thread_groups(&[]).context("leave", "all groups")
            }
            Step::Hooks { kind, hooks } => {
                let run = self.run_hooks(*kind, hooks);
                self.hook_failed = run.is_err();
                run
            }
            Step::Label { kind, text } => self.proc()?.write_label(*kind, text),
            Step::Sysctl { path, value } => self.proc()?.write_sysctl(path, value),
            Step::Join(joined) => namespace::join(joined, self.proc.as_ref()),
            Step::JoinContainer(namespaces) => {
                let container = self.container.take();
                let container =
                    container.ok_or_else(|| out_of_order("join", Path::new("container")))?;
                namespace::join_container(&container, namespaces)
            }
            Step::NewTimeNamespace(offsets) => namespace::new_time(offsets),
            Step::BecomeBuilder(groups) => {
                self.setgroups_denied = namespace::become_builder(self.proc.as_ref(), groups)?;
                Ok(())
            }
            Step::NewCgroupNamespace => {
                unshare(CloneFlags::CLONE_NEWCGROUP).context("unshare", "cgroup namespace")
            }
            Step::NewSessionKeyring => new_session_keyring(),
            Step::LoopbackUp => sys::bring_up_loopback().context("set up", "lo"),
            Step::Hostname(name) => {
                rustix::system::sethostname(name.as_bytes()).context("set hostname", name)
            }
            Step::Domainname(name) => {
                rustix::system::setdomainname(name.as_bytes()).context("set domainname", name)
            }
            other => self.take_mount(other),
        }
    }

    /// The steps that build the file system.
    fn take_mount(&mut self, step: &Step) -> Result<(), StepError> {
        if let Step::AttachRoot {
            path,
            propagation,
            way,
        } = step
        {
            let root = self.host_root.take();
            let root = root.ok_or_else(|| out_of_order("attach root", path))?;
            let mount = root.into_mount()?;
            self.build.attach_root(&mount, path, *propagation, *way)?;
            self.attached_root = Some(mount);
            return Ok(());
        }
        if let (Step::PivotRoot { way, .. }, Some(mount)) = (step, &self.attached_root) {
            return self.build.reenter(mount, *way);
        }
        if let Step::PivotRoot { propagation, way } = step {
            let root = self.host_root.take();
            let root = root.ok_or_else(|| out_of_order("pivot root", Path::new("/")))?;
            return self.build.enter(&root.into_mount()?, *propagation, *way);
        }
        if *step == Step::EnterRoot {
            let root = self.host_root.take();
            let root = root.ok_or_else(|| out_of_order("enter root", Path::new("/")))?;
            return self.build.reenter(&root.into_mount()?, RootChange::Stay);
        }
        if let Step::Terminal(wanted) = step {
            return self.open_terminal(wanted);
        }
        match self.build.take(step) {
            Some(taken) => taken,
            None => self.take_identity(step),
        }
    }

    /// The steps that turn init into the program.
    fn take_identity(&mut self, step: &Step) -> Result<(), StepError> {
        match step {
            Step::Attribute(wanted) => attribute::set(wanted),
            Step::MakeRoom(limit) => identity::make_room(None, limit),
            Step::Rlimit(limit) => identity::set_rlimit(limit),
            Step::WorkingDirectory(path) => {
                // No mount is made from here on.
                classic::close().context("close", "workshop for mounts")?;
                identity::enter_directory(self.root()?, path)
            }
            Step::EnterDirectory(path) => identity::enter_existing(self.root()?, path),
            Step::Listen { count, names } => {
                self.listen = listen(*count, names.as_deref());
                Ok(())
            }
            Step::Home { uid } => {
                self.home = Some(identity::home(self.root()?, *uid));
                Ok(())
            }
            Step::BoundCapabilities(kept) => identity::bound(kept),
            Step::User { uid, gid, groups } => {
                let groups = match groups {
                    Groups::Kept => None,
                    Groups::Only(none) if self.setgroups_denied && none.is_empty() => None,
                    Groups::Only(some) if self.setgroups_denied => return Err(groups_denied(some)),
                    Groups::Only(all) => Some(all.as_slice()),
                };
                identity::become_user(*uid, *gid, groups)
            }
            Step::Umask(mask) => {
                rustix::process::umask(Mode::from_raw_mode(*mask));
                Ok(())
            }
            Step::FindProgram { name, path } => {
                self.program = Some(program::find(name, path)?);
                Ok(())
            }
            Step::NoNewPrivileges => {
                rustix::thread::set_no_new_privs(true).context("set", "no_new_privs")
            }
            Step::Capabilities(sets) if self.bonds.filter.is_some() => {
                self.bonds.capabilities = Some(sets.clone());
                Ok(())
            }
            Step::Capabilities(sets) => identity::set_capabilities(sets),
            Step::Seccomp(filter) => match &filter.listener {
                Some(listener) => self.load_filter_that_asks(filter, listener.handover),
                None => {
                    self.bonds.filter = Some(filter.clone());
                    Ok(())
                }
            },
            Step::AwaitStart => self.await_start(),
            Step::Execute { args, environment } => self.execute(args, environment),
            other => Err(StepError::refused("walk", other, "no such step")),
        }
    }

    fn root(&self) -> Result<BorrowedFd<'_>, StepError> {
        self.build.root()
    }

    /// A hook of the image is bound as the program will be: by a child, as what binds hinders init.
    fn run_hooks(&self, kind: HookKind, hooks: &[Hook]) -> Result<(), StepError> {
        let pid = std::process::id();
        let run = || crate::hooks::run(kind, hooks, &self.state, Some(pid), None);
        if self.bonds == Bonds::default() {
            return run();
        }
        crate::errand::send("hooks", || bind(&self.bonds).and_then(|()| run()))?
    }

    fn proc(&self) -> Result<&Procfs, StepError> {
        self.proc
            .as_ref()
            .ok_or_else(|| out_of_order("write", Path::new("/proc")))
    }

    fn talk(&self) -> Result<&Talk, StepError> {
        self.talk
            .as_ref()
            .ok_or_else(|| out_of_order("talk", Path::new("parent")))
    }

    /// Ready; then `start` comes from the parent, or from somebody at the door once the parent is gone.
    ///
    /// That may be in a year, and whoever gets into a process that waits has what it holds: nothing of the host any more.
    fn await_start(&mut self) -> Result<(), StepError> {
        self.proc = None;
        self.attached_root = None;
        self.build = build::Build::new(Sources::default());
        self.talk()?
            .send(&FromInit::Ready)
            .context("report", "ready")?;
        match self.door.take() {
            Some(Door::Listener(listener)) => {
                self.expect(&ToInit::Stay)?;
                // Before anybody comes: the parent may wait for this end of file.
                self.talk = None;
                self.talk = Some(await_visitor(&listener)?);
                Ok(())
            }
            Some(Door::Parent) => self.expect(&ToInit::Start),
            None => Err(out_of_order("await start", Path::new("door"))),
        }
    }

    fn open_terminal(&self, wanted: &Terminal) -> Result<(), StepError> {
        let console = wanted.console.then(|| {
            self.build
                .place("bind console", Path::new(terminal::CONSOLE))
        });
        let master = terminal::open(self.root()?, wanted, console.transpose()?)?;
        self.talk()?
            .send_with(&FromInit::Terminal, master.as_fd())
            .context("hand over", "terminal")
    }

    fn expect(&self, message: &ToInit) -> Result<(), StepError> {
        match self.hear_with()? {
            (heard, _) if heard == *message => Ok(()),
            _ => Err(unexpected()),
        }
    }

    fn hear_with(&self) -> Result<(ToInit, Vec<OwnedFd>), StepError> {
        let heard = self.talk()?.receive_all();
        let gone = || StepError::refused("hear from", "its parent", "it is gone");
        heard.context("hear from", "its parent")?.ok_or_else(gone)
    }

    /// From the moment it is in force until its listener has been handed over there may be no call that it asks about.
    fn load_filter_that_asks(
        &mut self,
        filter: &Filter,
        handover: Handover,
    ) -> Result<(), StepError> {
        let load = || {
            raise_for_filter()?;
            let loaded = sys::set_mode_filter_listening(&filter.instructions, filter.flags);
            loaded.map_err(|errno| seccomp::explain(filter, errno))
        };
        let talk = self.talk()?;
        let step = "hand over";
        if handover == Handover::Taken {
            let free = rustix::io::fcntl_dupfd_cloexec(talk, 0).context(step, LISTENER)?;
            // The lowest that is free, as the listener's number will be.
            let number = free.as_raw_fd();
            drop(free);
            talk.send(&FromInit::ListenerAt(number))
                .context(step, LISTENER)?;
            // It stays open until execve: nobody tells when it has been taken.
            self.listener = Some(load()?);
            return Ok(());
        }
        let message = Talk::prepare(&FromInit::Listener, handover);
        let mut message = message.context(step, LISTENER)?;
        let listener = load()?;
        talk.send_prepared(&mut message, listener.as_fd())
            .context(step, LISTENER)
    }

    fn execute(&mut self, args: &[String], environment: &Environment) -> Result<(), StepError> {
        let program = self
            .program
            .take()
            .ok_or_else(|| out_of_order("execute", Path::new("program")))?;
        let args = strings(args.iter().cloned())?;
        let mut own = std::mem::take(&mut self.listen);
        own.extend(self.home.take().map(|home| format!("HOME={home}")));
        let own_name = |entry: &&String| own.iter().any(|own| name(own) == name(entry));
        let given = environment.0.iter().filter(|entry| !own_name(entry));
        let environment = strings(given.chain(&own).cloned())?;
        let talk = self
            .talk
            .take()
            .ok_or_else(|| out_of_order("execute", Path::new("program")))?;
        let program = sys::Program {
            path: &program,
            args: &args,
            environment: &environment,
        };
        let preserved = std::mem::take(&mut self.preserved);
        let bonds = std::mem::take(&mut self.bonds);
        // Before the filter, which may know nothing of it. Whoever started it may be gone: the program runs all the same.
        talk.send(&FromInit::Executing).ok();
        sys::exec_keeping(talk.into_fd(), preserved, &program, &bonds, bind, report)
    }
}

fn bind(bonds: &Bonds) -> Result<(), StepError> {
    bonds.filter.as_ref().map_or(Ok(()), load_filter)?;
    let sets = bonds.capabilities.as_ref();
    sets.map_or(Ok(()), identity::set_capabilities)
}

fn report(talk: OwnedFd, reason: sys::NotExecuted<StepError>) {
    let said = match reason {
        sys::NotExecuted::Unbound(error) => FromInit::Failed(error),
        sys::NotExecuted::Refused(errno) => FromInit::NotExecuted(errno.raw_os_error()),
    };
    // Its parent may be gone; then nobody is left to tell.
    Talk::from_fd(talk).send(&said).ok();
}

fn load_filter(filter: &Filter) -> Result<(), StepError> {
    raise_for_filter()?;
    sys::set_mode_filter(&filter.instructions, filter.flags).context("load", "seccomp filter")
}

/// Without no_new_privs the kernel wants CAP_SYS_ADMIN, which a change of user took out of force.
fn raise_for_filter() -> Result<(), StepError> {
    if rustix::thread::no_new_privs().context("read", "no_new_privs")? {
        return Ok(());
    }
    identity::raise_permitted()
}

/// Whoever says Start. One who leaves without it has changed nothing: the next one is awaited.
pub(crate) fn await_visitor(listener: &OwnedFd) -> Result<Talk, StepError> {
    loop {
        match rustix::net::accept_with(listener, SocketFlags::CLOEXEC) {
            Ok(visitor) => {
                let talk = Talk::from_fd(visitor);
                if let Ok(Some(ToInit::Start)) = talk.receive() {
                    return Ok(talk);
                }
            }
            Err(Errno::INTR | Errno::CONNABORTED) => {}
            Err(errno) => return Err(StepError::io("await", "start", errno)),
        }
    }
}

fn name(entry: &str) -> &str {
    entry.split_once('=').map_or(entry, |(name, _)| name)
}

/// sd_listen_fds(3) heeds the others only if the pid is its own.
fn listen(count: u32, names: Option<&str>) -> Vec<String> {
    let mut entries = vec![
        format!("LISTEN_FDS={count}"),
        format!("LISTEN_PID={}", std::process::id()),
    ];
    entries.extend(names.map(|names| format!("LISTEN_FDNAMES={names}")));
    entries
}

fn strings(texts: impl Iterator<Item = String>) -> Result<Vec<CString>, StepError> {
    let made: Result<Vec<CString>, _> = texts.map(CString::new).collect();
    // The text itself stays out of the message: it may be a secret.
    made.map_err(|_| {
        StepError::refused(
            "execute",
            "program",
            "an argument or environment entry holds a NUL byte",
        )
    })
}

fn unexpected() -> StepError {
    StepError::refused("hear from", "its parent", "an unexpected message")
}

fn out_of_order(step: &str, subject: &Path) -> StepError {
    StepError::refused(
        step,
        subject.display(),
        "the plan's steps are out of order; this is a defect of the planner",
    )
}

fn groups_denied(groups: &[u32]) -> StepError {
    let cause = "the container's user namespace forbids setgroups(2): whoever made it had no privilege; remove the \
                 additional groups";
    StepError::refused("set groups", format!("{groups:?}"), cause)
}

fn new_session_keyring() -> Result<(), StepError> {
    match sys::join_anonymous_session_keyring() {
        // A kernel without keyrings has none to share.
        Ok(()) | Err(Errno::NOSYS) => Ok(()),
        Err(errno) => Err(StepError::io("join", "new session keyring", errno)),
    }
}
