//! `pause` and `resume`: a container's processes stop where they are, and go on.

use std::time::Duration;

use super::Command;
use super::container::Container;
use super::global::Globals;
use super::options::{Arguments, Given};
use crate::StepError;
use crate::cgroup::{ContainerGroup, Freeze};
use crate::state::Status;

pub(super) const PAUSE: Command = Command {
    name: "pause",
    about: "Freeze all processes of a container",
    details: "",
    options: &[],
    arguments: Arguments::ID,
    enters: false,
    run: pause,
};

pub(super) const RESUME: Command = Command {
    name: "resume",
    about: "Let the processes of a paused container go on",
    details: "",
    options: &[],
    arguments: Arguments::ID,
    enters: false,
    run: resume,
};

/// How long another command on the container may take.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);
/// How long processes may take to stop.
const FREEZE_PATIENCE: Duration = Duration::from_secs(10);

fn pause(globals: &Globals, given: &Given) -> Result<u8, StepError> {
    let directory = globals.root()?.open(given.id()?)?;
    let _lock = directory.lock(LOCK_PATIENCE)?;
    let container = Container::of(directory)?;
    match container.status()? {
        Status::Running | Status::Created => {}
        status => return Err(refused("pause", &container, status)),
    }
    ContainerGroup::open(&container.record.cgroup)?.freeze(FREEZE_PATIENCE)?;
    Ok(0)
}

fn resume(globals: &Globals, given: &Given) -> Result<u8, StepError> {
    let directory = globals.root()?.open(given.id()?)?;
    let _lock = directory.lock(LOCK_PATIENCE)?;
    let container = Container::of(directory)?;
    let group = ContainerGroup::open(&container.record.cgroup)?;
    match container.status()? {
        Status::Paused => {}
        // A pause that never came to its end, as one of the processes could not be stopped.
        Status::Running | Status::Created if group.freeze_state()? != Freeze::Thawed => {}
        status => return Err(refused("resume", &container, status)),
    }
    group.thaw()?;
    Ok(0)
}

fn refused(verb: &str, container: &Container, status: Status) -> StepError {
    StepError::refused(
        &format!("{verb} container"),
        &container.record.id,
        format!("it is {status}"),
    )
}
