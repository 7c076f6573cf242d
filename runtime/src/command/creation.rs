//! From a bundle to an init that waits: what `create` and `run` have in common.
//!
//! ```text
//!   read, plan ─▶ state directory, lock ─▶ config.json, state.json ─▶ cgroup ─▶ init ─▶ state.json ─▶ pid file
//! ```
//! Each effect is recorded before it is made, and init ends with its parent until the parent lets it go; so
//! whatever instant this process dies at, nothing runs that `delete --force` does not find. On error
//! everything is undone here.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use longshore_sys::Preserved;
use oci_spec::runtime::{Process, Spec};

use super::delete::destroy;
use super::global::Globals;
use super::options::{Given, Opt};
use super::preserved::{self, Activation};
use super::stdio;
use crate::StepError;
use crate::cgroup::{ContainerGroup, Location, Surroundings};
use crate::clock::rfc3339;
use crate::console::{self, ConsoleSocket};
use crate::environment::Environment;
use crate::interrupt::Interrupt;
use crate::launch::{self, Admission, Door, Init, NewInit};
use crate::notify::{self, Supervisor};
use crate::pid_file;
use crate::plan::{HostFacts, Namespace, Plan, Step, count_from_bundle};
use crate::record::{self, Phase};
use crate::spec::{self, CONFIG, Config};
use crate::state::{Lock, Record, StateDirectory, Status, VERSION};

/// Of `create` and of `run`.
pub(super) const OPTIONS: [Opt; 7] = [
    Opt::value("bundle", "DIR", "The bundle's directory (default: here).").or('b'),
    Opt::value(
        "config",
        "FILE",
        "Another name for config.json, in the bundle.",
    )
    .or('f'),
    CONSOLE_SOCKET,
    Opt::switch(
        "no-new-keyring",
        "Leave the caller's session keyring to the container.",
    ),
    Opt::switch(
        "no-pivot",
        "Leave the host's tree by chroot: for a host that runs from its initial ramfs.",
    ),
    PID_FILE,
    preserved::OPTION,
];
pub(super) const CONSOLE_SOCKET: Opt = Opt::value(
    "console-socket",
    "SOCKET",
    "Send the terminal's master to who listens there; needs process.terminal.",
);
pub(super) const PID_FILE: Opt = Opt::value("pid-file", "FILE", "Write the container's pid there.");

/// A container whose init waits. The lock is held.
#[derive(Debug)]
pub(super) struct Created {
    pub(super) directory: StateDirectory,
    pub(super) lock: Lock,
    pub(super) record: Record,
    pub(super) group: ContainerGroup,
    pub(super) init: Init,
    /// Ends what is still awaited of the creation.
    pub(super) interrupt: Interrupt,
}

/// How a container is made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Manner {
    /// Who will say `start`.
    pub(super) starter: Starter,
    /// Nobody of ours stays to hold its terminal.
    pub(super) detached: bool,
}

/// Who will say `start`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Starter {
    /// This process: `run`.
    Creator,
    /// A later one: `start`, after `create`.
    Another,
}

/// Makes a container.
pub(super) fn create(
    globals: &Globals,
    given: &Given,
    manner: Manner,
) -> Result<Created, StepError> {
    let activation = Activation::of_environment()?;
    let preserved = preserved::take(globals, given, activation.as_ref())?;
    let id = given.id()?;
    crate::state::check_id(id)?;
    let bundle = bundle(given)?;
    let mut config = read(&bundle, given)?;
    count_from_bundle(&mut config.spec, &bundle);
    let process = config.spec.process().as_ref();
    let terminal = process.and_then(Process::terminal) == Some(true);
    let socket = console_socket(given, terminal, manner.detached)?;
    let supervisor = Supervisor::of_environment();
    let supervised = supervisor.is_some();
    if let Some(supervisor) = supervisor {
        supervisor.add_to(&mut config.spec, &globals.root()?.path().join(id))?;
    }
    let root = root_of(&config.spec);
    let mut plan = plan(globals, id, &config)?;
    if given.has("no-pivot") {
        plan = plan.without_pivot();
    }
    if given.has("no-new-keyring") {
        plan.steps.retain(|step| *step != Step::NewSessionKeyring);
    }
    if let Some(activation) = activation {
        activation.announce(&mut plan);
    }
    // From here on there is something to undo.
    let interrupt = Interrupt::new()?;
    let (directory, lock) = globals.root()?.make(id)?;
    let group = match unoccupied(&plan.cgroup) {
        Ok(group) => group,
        // What is in the group is another's: nothing but the directory is undone.
        Err(error) => return Err(and_left(error, directory.remove(lock))),
    };
    if let Some(place) = plan.lasting_root() {
        match directory.make_root() {
            Ok(path) => *place = path,
            Err(error) => return Err(and_left(error, directory.remove(lock))),
        }
    }
    let mut record = record(globals, id, bundle, root, &config, &plan);
    plan.state = record.oci_state(Status::Creating, None);
    let made = Making {
        directory: &directory,
        record: &mut record,
        group: &group,
        plan: &plan,
        config: &config,
        starter: manner.starter,
        supervised,
        interrupt: &interrupt,
    }
    .make(given, socket, preserved);
    match made {
        Ok(init) => Ok(Created {
            directory,
            lock,
            record,
            group,
            init,
            interrupt,
        }),
        Err(error) => Err(undo(globals, &directory, record, lock, error)),
    }
}

/// Removes what was made, and tells the first error; what could not be removed is added to it.
pub(super) fn undo(
    globals: &Globals,
    directory: &StateDirectory,
    record: Record,
    lock: Lock,
    error: StepError,
) -> StepError {
    and_left(error, destroy(globals, directory, Some(record), lock))
}

fn and_left(error: StepError, undone: Result<(), StepError>) -> StepError {
    match undone {
        Ok(()) => error,
        Err(left) => StepError {
            cause: format!("{}; then {left}", error.cause),
            ..error
        },
    }
}

/// The group, where nobody's processes are yet. Before the container is recorded: whoever finds the record ends
/// what is in its group.
fn unoccupied(location: &Location) -> Result<ContainerGroup, StepError> {
    let group = ContainerGroup::open(location)?;
    group.refuse_occupied()?;
    Ok(group)
}

fn bundle(given: &Given) -> Result<PathBuf, StepError> {
    let path = Path::new(given.value("bundle").unwrap_or_default());
    let path = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    std::fs::canonicalize(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => StepError {
            cause: "it does not exist; make a directory with a root filesystem in it, in which \
                    `longshore-runtime spec` writes a config.json"
                .into(),
            ..StepError::io("open bundle", path.display(), error)
        },
        _ => StepError::io("open bundle", path.display(), error),
    })
}

fn read(bundle: &Path, given: &Given) -> Result<Config, StepError> {
    let name = given.value("config").filter(|name| !name.is_empty());
    spec::read_config(&bundle.join(name.map_or(Path::new(CONFIG), Path::new)))
}

/// A spec without a root was refused when it was read.
fn root_of(spec: &Spec) -> PathBuf {
    let root = spec.root().as_ref();
    root.map(|root| root.path().clone()).unwrap_or_default()
}

fn plan(globals: &Globals, id: &str, config: &Config) -> Result<Plan, StepError> {
    let own_group = if globals.rootless {
        own_group()
    } else {
        String::new()
    };
    let surroundings = Surroundings {
        driver: globals.driver,
        id,
        rootless: globals.rootless,
        own_group: &own_group,
    };
    let linux = config.spec.linux().as_ref();
    let path = linux.and_then(|linux| linux.cgroups_path().as_deref());
    let location = Location::of(path, &surroundings)?;
    let host = HostFacts::read()?;
    let plan = match config.spec.process() {
        Some(_) => Plan::in_group(&config.spec, &host, location)?,
        None => plan_without_process(&config.spec, &host, location)?,
    };
    for warning in config.warnings.iter().chain(&plan.warnings) {
        globals.log.complaint(warning);
    }
    globals.log.debug(|| plan.to_string());
    Ok(plan)
}

/// The OCI text lets a container be made without a process, which then cannot be started: init waits, and for
/// nothing.
fn plan_without_process(
    spec: &Spec,
    host: &HostFacts,
    location: Location,
) -> Result<Plan, StepError> {
    let mut nobody = Process::default();
    nobody.set_capabilities(None).set_rlimits(None);
    let mut spec = spec.clone();
    spec.set_process(Some(nobody));
    let mut plan = Plan::in_group(&spec, host, location)?;
    let of_program = |step: &Step| matches!(step, Step::FindProgram { .. } | Step::Execute { .. });
    plan.steps.retain(|step| !of_program(step));
    Ok(plan)
}

/// cgroups(7): the line `0::PATH`.
pub(super) fn own_group() -> String {
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = groups.lines().find_map(|line| line.strip_prefix("0::"));
    own.unwrap_or_default().to_owned()
}

fn record(
    globals: &Globals,
    id: &str,
    bundle: PathBuf,
    rootfs: PathBuf,
    config: &Config,
    plan: &Plan,
) -> Record {
    let annotations = config.spec.annotations().clone().unwrap_or_default();
    let entrypoint = plan.entrypoint();
    Record {
        version: VERSION,
        id: id.to_owned(),
        bundle,
        rootfs,
        annotations: annotations.into_iter().collect(),
        created: rfc3339(SystemTime::now()),
        owner: rustix::process::geteuid().as_raw(),
        rootless: globals.rootless,
        cgroup: plan.cgroup.clone(),
        phase: Phase::Creating,
        init: None,
        entrypoint: (!entrypoint.is_empty()).then(|| entrypoint.to_owned()),
        poststart: plan.hooks.poststart.clone(),
        poststop: plan.hooks.poststop.clone(),
        resctrl: plan.resctrl.clone(),
    }
}

struct Making<'a> {
    directory: &'a StateDirectory,
    record: &'a mut Record,
    group: &'a ContainerGroup,
    plan: &'a Plan,
    config: &'a Config,
    starter: Starter,
    supervised: bool,
    interrupt: &'a Interrupt,
}

impl Making<'_> {
    fn make(
        self,
        given: &Given,
        socket: Option<ConsoleSocket>,
        preserved: Vec<Preserved>,
    ) -> Result<Init, StepError> {
        let mut environment = Environment::default();
        let made = self.make_in(&mut environment, given, socket, preserved);
        made.map_err(|error| environment.undo(error))
    }

    fn make_in(
        self,
        environment: &mut Environment,
        given: &Given,
        socket: Option<ConsoleSocket>,
        preserved: Vec<Preserved>,
    ) -> Result<Init, StepError> {
        self.directory.write_config(&self.config.text)?;
        self.directory.write(self.record)?;
        if self.supervised {
            notify::make_directory(self.directory.as_fd())?;
        }
        let new = NewInit {
            plan: self.plan,
            admission: Admission::First(self.group),
            prepare: &mut || {
                self.group.prepare(self.plan.resources.as_ref())?;
                self.refuse_to_lose_processes()
            },
            root: Some(launch::Root::at(&self.record.rootfs)?),
            container: None,
            stdio: stdio::own(self.plan)?,
            preserved,
            door: match self.starter {
                Starter::Creator => Door::Parent,
                Starter::Another => Door::in_directory(self.directory.as_fd())?,
            },
            environment: &mut |pid| environment.make(self.plan, pid, self.interrupt),
            interrupt: Some(self.interrupt),
        };
        let mut init = new.launch()?;
        hand_over(&mut init, socket).inspect_err(|_| init.end())?;
        let process = record::Process::of_pid(init.pid).inspect_err(|_| init.end())?;
        self.record.init = Some(process);
        // Whoever starts it itself writes this once, when it does.
        if self.starter == Starter::Another {
            self.record.phase = Phase::Created;
            self.directory.write(self.record)?;
        }
        if let Some(path) = given.value("pid-file").filter(|path| !path.is_empty()) {
            pid_file::write(Path::new(path), init.pid).inspect_err(|_| init.end())?;
        }
        Ok(init)
    }
}

impl Making<'_> {
    /// What is in a group is found there, and what is in a pid namespace ends with its first process. What is in neither
    /// would outlive its container, and nobody could tell whose it is.
    fn refuse_to_lose_processes(&self) -> Result<(), StepError> {
        if self.plan.clone.contains(&Namespace::Pid) || !self.group.is_without() {
            return Ok(());
        }
        let cause = "it would have neither a cgroup nor a new pid namespace, and nobody could find its processes to end \
                     them; list a pid namespace without a path, or give it a cgroup that its user may make";
        Err(StepError::refused(
            "create container",
            &self.record.id,
            cause,
        ))
    }
}

/// Connected before anything is made, so that a wrong path costs nothing.
pub(super) fn console_socket(
    given: &Given,
    terminal: bool,
    detached: bool,
) -> Result<Option<ConsoleSocket>, StepError> {
    let path = given
        .value("console-socket")
        .filter(|path| !path.is_empty());
    let path = path.map(Path::new);
    console::check(detached, terminal, path)?;
    path.map(ConsoleSocket::connect).transpose()
}

/// The master of the terminal goes to the socket; without one it stays with init's parent.
pub(super) fn hand_over(init: &mut Init, socket: Option<ConsoleSocket>) -> Result<(), StepError> {
    match socket {
        Some(socket) => match init.terminal.take() {
            Some(master) => socket.send(master.as_fd()),
            None => Ok(()),
        },
        None => Ok(()),
    }
}
