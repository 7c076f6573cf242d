//! `exec`: one more process in a container that runs.
//!
//! ```text
//!   open, plan ─▶ stage: in the container's cgroup ─▶ its namespaces ─▶ the process waits ─▶ pid file, terminal ─▶ go
//! ```
//! Until the last arrow the process has run nothing of the container's, and it ends with this one.

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::path::Path;

use longshore_sys::Preserved;
use oci_spec::runtime::Process;
use rustix::fs::{Mode, OFlags};

use super::Command;
use super::container::Container;
use super::creation;
use super::global::Globals;
use super::options::{Arguments, Given, Opt};
use super::preserved;
use crate::StepError;
use crate::cgroup::{Below, ContainerGroup};
use crate::console::ConsoleSocket;
use crate::error::Context;
use crate::foreground::Foreground;
use crate::launch::{Admission, Door, Init, NewInit, Root};
use crate::plan::{Asked, ExecUser, HostFacts, Plan, Step};
use crate::state::Status;
use crate::{pid_file, record, spec};

pub(super) const COMMAND: Command = Command {
    name: "exec",
    about: "Run one more process in a running container",
    details: "What is not said is as in the container's own process; a terminal it has only if asked for.
The exit status is the process's, or 128 and the number of the signal that ended it; 255 if it could not be run.",
    options: &[
        Opt::value("process", "FILE", "Read the whole process from a JSON file.").or('p'),
        Opt::value("cwd", "DIR", "Its working directory.").or('w'),
        Opt::value("env", "NAME=VALUE", "Add to its environment; may be repeated.").or('e'),
        Opt::switch("tty", "Give it a terminal.").or('t'),
        Opt::value("user", "UID[:GID]", "Who it runs as.").or('u'),
        Opt::value("additional-gids", "GID", "Add a supplementary group; may be repeated.").or('g'),
        Opt::value("cap", "CAPABILITY", "Add a capability; may be repeated.").or('c'),
        Opt::switch("no-new-privs", "Let it gain no privileges by execve."),
        Opt::value("apparmor", "PROFILE", "Its AppArmor profile."),
        Opt::value("process-label", "LABEL", "Its SELinux label."),
        Opt::value(
            "cgroup",
            "[CONTROLLER,...:]PATH",
            "A cgroup below the container's; may be repeated on cgroup v1.",
        ),
        Opt::switch("ignore-paused", "Do so in a paused container: it runs once that is resumed."),
        Opt::switch("detach", "Do not wait for the end.").or('d'),
        creation::PID_FILE,
        creation::CONSOLE_SOCKET,
        preserved::OPTION,
    ],
    arguments: Arguments {
        end_of_options: Some(1),
        ..Arguments::between("ID [COMMAND [ARGUMENT...]]", 1, usize::MAX)
    },
    enters: true,
    run,
};

/// Exit status of a process that could not be run, as runc has it: 1 would be the process's own.
const FAILURE: u8 = 255;

fn run(globals: &Globals, given: &Given) -> Result<u8, StepError> {
    exec(globals, given).or_else(|error| {
        globals.log.error(&error.to_string());
        Ok(FAILURE)
    })
}

fn exec(globals: &Globals, given: &Given) -> Result<u8, StepError> {
    let preserved = preserved::take(globals, given, None)?;
    let container = Container::open(globals, given.id()?)?;
    check_status(&container, given.has("ignore-paused"))?;
    let plan = plan(globals, given, &container)?;
    let terminal = plan.terminal().is_some();
    let socket = creation::console_socket(given, terminal, given.has("detach"))?;
    // Before the process is made: no signal is lost on the way to it.
    let mut foreground = (!given.has("detach")).then(Foreground::new).transpose()?;
    let mut process = launch(given, &container, &plan, preserved)?;
    let went = prepare(given, &mut process, socket, foreground.as_mut())
        .and_then(|()| process.start(plan.entrypoint(), None));
    if let Err(error) = went {
        process.end();
        return Err(error);
    }
    match foreground {
        Some(foreground) => foreground.attend(process.pidfd.as_fd(), None, &|_| {}),
        None => Ok(0),
    }
}

fn check_status(container: &Container, ignore_paused: bool) -> Result<(), StepError> {
    let cause = match container.status()? {
        Status::Created | Status::Running => return Ok(()),
        Status::Paused if ignore_paused => return Ok(()),
        Status::Paused => {
            "it is paused; resume it, or give --ignore-paused and wait until somebody does"
        }
        Status::Stopped => "it is stopped; only a running container can be joined",
        Status::Creating => "it is being created; start it first",
    };
    Err(StepError::refused(
        "exec in container",
        &container.record.id,
        cause,
    ))
}

fn plan(globals: &Globals, given: &Given, container: &Container) -> Result<Plan, StepError> {
    let spec = container.directory.config()?;
    let (asked, mut warnings) = asked(given)?;
    let (process, unknown) = asked.process(spec.process().as_ref())?;
    warnings.extend(unknown);
    let mut plan = Plan::of_exec(
        &spec,
        &process,
        &container.record.cgroup,
        &HostFacts::read()?,
    )?;
    for warning in warnings.iter().chain(&plan.warnings) {
        globals.log.complaint(warning);
    }
    plan.warnings.clear();
    let first = container.record.init.map(|init| init.pid);
    plan.state = container.record.oci_state(Status::Running, first);
    globals.log.debug(|| plan.to_string());
    Ok(plan)
}

fn asked(given: &Given) -> Result<(Asked, Vec<String>), StepError> {
    let (process, warnings): (Option<Process>, _) = match given.value("process") {
        Some(path) => spec::read_process(Path::new(path)).map(|(one, why)| (Some(one), why))?,
        None => (None, Vec::new()),
    };
    let command = given.arguments().get(1..).unwrap_or_default();
    let asked = Asked {
        process,
        args: texts("process.args", command.iter().map(OsString::as_os_str))?,
        environment: texts("--env", given.values("env"))?,
        cwd: given
            .value("cwd")
            .filter(|path| !path.is_empty())
            .map(Into::into),
        user: given
            .text("user")?
            .filter(|text| !text.is_empty())
            .map(str::parse::<ExecUser>)
            .transpose()?,
        groups: groups(given)?,
        capabilities: texts("--cap", given.values("cap"))?,
        terminal: given.has("tty"),
        no_new_privileges: given.value("no-new-privs").map(|value| value == "true"),
        apparmor_profile: given
            .text("apparmor")?
            .filter(|text| !text.is_empty())
            .map(str::to_owned),
        selinux_label: given
            .text("process-label")?
            .filter(|text| !text.is_empty())
            .map(str::to_owned),
    };
    Ok((asked, warnings))
}

fn texts<'a>(
    what: &str,
    values: impl Iterator<Item = &'a std::ffi::OsStr>,
) -> Result<Vec<String>, StepError> {
    // The text itself stays out of the message: it may be a secret.
    let text = |value: &std::ffi::OsStr| {
        let text = value.to_str().map(str::to_owned);
        text.ok_or_else(|| StepError::refused("read", what, "it is not UTF-8"))
    };
    values.map(text).collect()
}

/// As strict as a user.
fn groups(given: &Given) -> Result<Vec<u32>, StepError> {
    let group = |text: &String| {
        let group: ExecUser = text.parse()?;
        match group.gid {
            None => Ok(group.uid),
            Some(_) => Err(StepError::refused(
                "read group",
                format!("{text:?}"),
                "it must be a number",
            )),
        }
    };
    texts("--additional-gids", given.values("additional-gids"))?
        .iter()
        .map(group)
        .collect()
}

fn launch(
    given: &Given,
    container: &Container,
    plan: &Plan,
    preserved: Vec<Preserved>,
) -> Result<Init, StepError> {
    let gone = || {
        let cause = "its first process has just ended";
        StepError::refused("exec in container", &container.record.id, cause)
    };
    let first = container.record.init.ok_or_else(gone)?;
    let pidfd = first.open()?.ok_or_else(gone)?;
    let below: Vec<Below> = texts("--cgroup", given.values("cgroup"))?
        .iter()
        .map(|text| text.parse())
        .collect::<Result<_, _>>()?;
    let group = ContainerGroup::open(&container.record.cgroup)?;
    let entrance = group.entrance(&below, first.pid)?;
    let host_mounts = plan.steps.contains(&Step::EnterRoot);
    let new = NewInit {
        plan,
        admission: Admission::Join(&entrance),
        prepare: &mut || Ok(()),
        root: match host_mounts {
            true => Some(root_of(&first)?.ok_or_else(gone)?),
            false => None,
        },
        container: Some(pidfd),
        stdio: super::stdio::own(plan)?,
        preserved,
        door: Door::Parent,
        environment: &mut |_| Ok(()),
        interrupt: None,
    };
    new.launch()
}

/// The root of the container's first process. None if it has ended: then its pid may be another's by now.
fn root_of(first: &record::Process) -> Result<Option<Root>, StepError> {
    let path = format!("/proc/{}/root", first.pid);
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(&path, flags, Mode::empty()).context("open root", path)?;
    Ok(first.is_alive()?.then_some(Root::Mount(root)))
}

/// Tells where the process is, and who has its terminal.
fn prepare(
    given: &Given,
    process: &mut Init,
    socket: Option<ConsoleSocket>,
    foreground: Option<&mut Foreground>,
) -> Result<(), StepError> {
    if let Some(path) = given.value("pid-file").filter(|path| !path.is_empty()) {
        pid_file::write(Path::new(path), process.pid)?;
    }
    creation::hand_over(process, socket)?;
    match (foreground, process.terminal.take()) {
        (Some(foreground), Some(master)) => foreground.hold(master),
        _ => Ok(()),
    }
}
