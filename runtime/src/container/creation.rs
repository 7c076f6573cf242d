//! Asking for a monitor: the runtime binary, executed from a clone that nobody can write to.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use longshore_sys::{MountAttributes, mount_setattr};
use oci_spec::runtime::{LinuxNamespaceType, Spec};
use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};

use serde_json::{Value, json};

use super::nursery::{Nursery, Running};
use super::{Container, Launch, State};
use crate::StepError;
use crate::error::Context;
use crate::plan::{HostFacts, Plan};
use crate::record::{Phase, RunDirectory};
use crate::state::{self, OCI_VERSION, Status};
use crate::wire::{self, Errand, Kept, Outcome, Request};

/// How long a creation may take, slow disks and busy cgroup hierarchies included.
const PATIENCE: Duration = Duration::from_secs(60);

/// The runtime binary, opened once, and the process that its monitors come from.
#[derive(Debug)]
pub struct Runtime {
    binary: Binary,
    host: HostFacts,
    nursery: Nursery,
}

/// The binary in a read-only mount that is attached nowhere: a container that reaches it through
/// /proc/PID/exe cannot write to it (CVE-2019-5736), and it needs no copy.
#[derive(Debug)]
pub(super) struct Binary(OwnedFd);

impl Binary {
    pub(super) fn command(&self) -> Command {
        let mut command = Command::new(format!("/proc/self/fd/{}", self.0.as_raw_fd()));
        command.arg0("longshore-runtime");
        command
    }
}

/// What was made.
#[derive(Debug)]
pub struct Created {
    /// The container.
    pub container: Container,
    /// What its spec asked for and this host cannot give, where the OCI text says "warn and go on".
    pub warnings: Vec<String>,
}

impl Runtime {
    /// Opens the `longshore-runtime` binary.
    pub fn open(binary: &Path) -> Result<Runtime, StepError> {
        let step = "open runtime binary";
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let clone = open_tree(CWD, binary, flags).context(step, binary.display())?;
        let stat = rustix::fs::fstat(&clone).context(step, binary.display())?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile
            || stat.st_mode & 0o111 == 0
        {
            return Err(StepError::refused(
                step,
                binary.display(),
                "it is not an executable file",
            ));
        }
        let propagation = rustix::mount::MountPropagationFlags::PRIVATE.bits().into();
        let sealed = MountAttributes {
            set: libc::MOUNT_ATTR_RDONLY,
            clear: 0,
            propagation,
        };
        mount_setattr(clone.as_fd(), sealed, false).context(step, binary.display())?;
        Ok(Runtime {
            binary: Binary(clone),
            host: HostFacts::read()?,
            nursery: Nursery::default(),
        })
    }

    /// Starts a monitor, which makes the container up to the point before execve. If one of this id is there
    /// already that came to the end of its creation, it is returned, whatever it did since; a half-made one is
    /// removed first. On error nothing is left.
    pub fn create(&self, launch: Launch<'_>) -> Result<Created, StepError> {
        state::check_id(launch.id)?;
        refuse_surroundings(launch.spec)?;
        let mut plan = Plan::of(launch.spec, &self.host)?;
        plan.state = oci_state(&launch);
        let container = Container {
            run_dir: launch.run_dir.to_owned(),
        };
        let warnings = plan.warnings.clone();
        if exists_whole(&container)? {
            return Ok(Created {
                container,
                warnings,
            });
        }
        container.delete()?;
        make_directory(launch.run_dir)?;
        match self.launch(launch, plan) {
            Ok(()) => Ok(Created {
                container,
                warnings,
            }),
            Err(error) => {
                // The monitor has undone what it could; this also undoes what a dead one left.
                let undone = container.delete();
                Err(undone.map_or_else(
                    |left| StepError {
                        cause: format!("{}; then {left}", error.cause),
                        ..error.clone()
                    },
                    |()| error.clone(),
                ))
            }
        }
    }

    fn launch(&self, launch: Launch<'_>, plan: Plan) -> Result<(), StepError> {
        let made_logs = make_directory(launch.log_dir)?;
        let request = Request {
            id: launch.id.into(),
            run_dir: open_directory(launch.run_dir)?,
            log_dir: open_directory(launch.log_dir)?,
            errand: Errand::Create {
                plan: Box::new(plan),
                root: launch.root,
            },
        };
        let outcome = self.ask_for_monitor(&request, launch.monitor_cgroup);
        if outcome.is_err() && made_logs {
            // Only an empty one goes: a log that says why it failed stays.
            rustix::fs::rmdir(launch.log_dir).ok();
        }
        outcome
    }

    /// Has a container that lost its monitor, and that was watched, taken over by another one. Refused if it needs
    /// none: it was never started, or has ended and left its record. On error the container is as it was.
    pub fn take_over(
        &self,
        container: &Container,
        kept: Kept,
        log_dir: &Path,
        monitor_cgroup: &str,
    ) -> Result<(), StepError> {
        let name = container.run_dir.file_name().unwrap_or_default();
        let request = Request {
            id: name.to_string_lossy().into_owned(),
            run_dir: open_directory(&container.run_dir)?,
            log_dir: open_directory(log_dir)?,
            errand: Errand::TakeOver(kept),
        };
        self.ask_for_monitor(&request, monitor_cgroup)
    }

    /// Asks a second time if the nursery died with the request in its hands: what has been sent is no proof that it
    /// lives.
    fn ask_for_monitor(&self, request: &Request, group: &str) -> Result<(), StepError> {
        let answered = match self.ask_once(request, group)? {
            (None, asked) if asked.ends() => self.ask_once(request, group)?.0,
            (answered, _) => answered,
        };
        let lost = "it ended without an answer; find out who kills processes of the host";
        answered.unwrap_or_else(|| Err(StepError::refused("hear from", "monitor", lost)))
    }

    /// None: whoever had the request is gone. With the nursery that was asked.
    fn ask_once(
        &self,
        request: &Request,
        group: &str,
    ) -> Result<(Option<Outcome>, Arc<Running>), StepError> {
        let (mut ours, theirs) = UnixStream::pair().context("make", "socket pair")?;
        ours.set_read_timeout(Some(PATIENCE))
            .context("set", "read timeout")?;
        ours.set_write_timeout(Some(PATIENCE))
            .context("set", "write timeout")?;
        let asked = self.nursery.hand(&self.binary, group, &theirs)?;
        // The nursery's, or its monitor's, is the only one now: its end is theirs.
        drop(theirs);
        let gone = [Errno::PIPE, Errno::CONNRESET].map(|errno| Some(errno.raw_os_error()));
        let answered = match wire::send_request(&mut ours, request) {
            Err(error) if gone.contains(&error.errno) => Ok(None),
            sent => sent.and_then(|()| wire::receive_outcome(&mut ours)),
        };
        match answered {
            Ok(answered) => Ok((answered, asked)),
            Err(error) => {
                self.nursery.leave(&asked);
                Err(error)
            }
        }
    }
}

/// What needs a hand on the host when a container begins and ends is for the commands, which have one: a monitor
/// may die before its container does.
fn refuse_surroundings(spec: &Spec) -> Result<(), StepError> {
    let linux = spec.linux().as_ref();
    let devices = linux.and_then(|linux| linux.net_devices().as_ref());
    let namespaces = linux.and_then(|linux| linux.namespaces().as_deref());
    let mut namespaces = namespaces.unwrap_or_default().iter();
    let asked = [
        (
            !namespaces.any(|namespace| namespace.typ() == LinuxNamespaceType::Mount),
            "root in the host's mount namespace",
        ),
        (spec.hooks().is_some(), "hooks"),
        (
            devices.is_some_and(|all| !all.is_empty()),
            "linux.netDevices",
        ),
        (
            linux.is_some_and(|linux| linux.intel_rdt().is_some()),
            "linux.intelRdt",
        ),
    ];
    match asked.into_iter().find(|(asked, _)| *asked) {
        None => Ok(()),
        Some((_, name)) => {
            let cause =
                "an agent's container has none; only the commands `create` and `run` do this";
            Err(StepError::refused("create", name, cause))
        }
    }
}

/// Of a container whose bundle is its run directory; its pid is added when it has one.
fn oci_state(launch: &Launch<'_>) -> Value {
    let annotations = launch.spec.annotations().as_ref();
    json!({
        "ociVersion": OCI_VERSION,
        "id": launch.id,
        "status": Status::Creating.to_string(),
        "bundle": launch.run_dir,
        "annotations": annotations.cloned().unwrap_or_default(),
    })
}

/// Whether a container that was made to the end is there. One that never ran and has lost its monitor
/// counts as half-made: its init has ended too, and nobody has seen it do anything.
fn exists_whole(container: &Container) -> Result<bool, StepError> {
    let Some(run) = RunDirectory::open(&container.run_dir)? else {
        return Ok(false);
    };
    Ok(match container.state()? {
        State::Creating => false,
        State::MonitorLost => run
            .state()?
            .is_some_and(|state| state.phase == Phase::Running),
        State::Created { .. } | State::Running { .. } | State::Stopped(_) => true,
    })
}

/// Makes it and its parents, 0700; whether this call did.
fn make_directory(path: &Path) -> Result<bool, StepError> {
    let mut builder = std::fs::DirBuilder::new();
    builder.mode(0o700);
    if let Some(parent) = path.parent() {
        builder
            .recursive(true)
            .create(parent)
            .context("make directory", parent.display())?;
    }
    match builder.recursive(false).create(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(StepError::io("make directory", path.display(), error)),
    }
}

fn open_directory(path: &Path) -> Result<OwnedFd, StepError> {
    rustix::fs::open(
        path,
        OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .context("open directory", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[ignore = "needs root"]
    fn the_binary_cannot_be_written_to_through_its_clone() {
        let directory = tempfile::tempdir().unwrap();
        let binary = directory.path().join("binary");
        std::fs::copy("/bin/true", &binary).unwrap();
        let runtime = Runtime::open(&binary).unwrap();
        let path = format!("/proc/self/fd/{}", runtime.binary.0.as_raw_fd());
        let opened = std::fs::OpenOptions::new().write(true).open(&path);
        assert_eq!(opened.unwrap_err().raw_os_error(), Some(libc::EROFS));
        assert!(
            std::fs::OpenOptions::new()
                .write(true)
                .open(&binary)
                .is_ok()
        );
        assert!(Command::new(&path).status().unwrap().success());
        assert!(Runtime::open(directory.path()).is_err());
    }
}
