//! `start`: lets a container that was created run its program.

use std::os::fd::AsFd;
use std::time::Duration;

use super::container::Container;
use super::global::Globals;
use super::options::{Arguments, Given};
use super::run::warn;
use super::{Command, creation};
use crate::StepError;
use crate::hooks;
use crate::interrupt::Interrupt;
use crate::launch::{self, NotStarted};
use crate::notify::Notify;
use crate::record::{Phase, Process};
use crate::state::Status;

pub(super) const COMMAND: Command = Command {
    name: "start",
    about: "Run the program of a container that was created",
    details: "It returns once the program runs, or tells why it does not. If NOTIFY_SOCKET was set at create and is set now,
it returns once the program has said there that it is ready, or has ended.",
    options: &[],
    arguments: Arguments::ID,
    enters: false,
    run,
};

/// How long another command on the container may take.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);

fn run(globals: &Globals, given: &Given) -> Result<u8, StepError> {
    let directory = globals.root()?.open(given.id()?)?;
    let lock = directory.lock(LOCK_PATIENCE)?;
    let mut container = Container::of(directory)?;
    let refuse = |cause: String| {
        Err(StepError::refused(
            "start container",
            &container.record.id,
            cause,
        ))
    };
    match container.status()? {
        Status::Created => {}
        Status::Stopped => return refuse("it has stopped; delete it and create it again".into()),
        Status::Creating => {
            return refuse("whoever made it died before it was done; delete it".into());
        }
        Status::Paused => return refuse("it is paused; resume it first".into()),
        Status::Running => return refuse("it is running already".into()),
    }
    let Some(entrypoint) = container.record.entrypoint.clone() else {
        return refuse("its config.json has no process; create one that has".into());
    };
    let notify = warn(globals, container.listen()).flatten();
    // Before it is told: what may run is never recorded as what only waits.
    container.record.phase = Phase::Running;
    container.directory.write(&container.record)?;
    let interrupt = Interrupt::new()?;
    let started = launch::start(container.directory.as_fd(), &entrypoint, &interrupt);
    let started = started
        .and_then(|()| hooks::poststart(&container.record, &interrupt).map_err(NotStarted::Hook));
    match started {
        Ok(()) => {}
        // The OCI text: a failing hook of either kind ends the container, and there is nothing left to delete.
        Err(NotStarted::Hook(error)) => {
            let Container { directory, record } = container;
            return Err(creation::undo(globals, &directory, record, lock, error));
        }
        Err(NotStarted::Failed(error)) => return Err(error),
        Err(NotStarted::Gone) => {
            let cause = "its first process has ended; delete it";
            let id = &container.record.id;
            return Err(StepError::refused("start container", id, cause));
        }
    }
    // It runs, whatever becomes of its supervisor; others may signal, update or delete it meanwhile.
    drop((lock, interrupt));
    if let Some(notify) = notify {
        warn(globals, wait(&notify, container.record.init));
    }
    Ok(0)
}

/// Until the program is ready or has ended.
fn wait(notify: &Notify, init: Option<Process>) -> Result<(), StepError> {
    match init.map(|init| init.open()).transpose()?.flatten() {
        Some(pidfd) => notify.wait(pidfd.as_fd()),
        None => Ok(()),
    }
}
