//! `start`: lets a container that was created run its program.

use std::os::fd::AsFd;
use std::time::Duration;

use super::container::Container;
use super::global::Globals;
use super::options::{Arguments, Given};
use super::{Command, creation};
use crate::StepError;
use crate::hooks;
use crate::launch;
use crate::record::Phase;
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
    let directory = globals.root.open(given.id()?)?;
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
    // Whatever can fail comes first: a container that still waits is recorded as one.
    let notify = container.listen()?;
    // Before it is told: what may run is never recorded as what only waits.
    container.record.phase = Phase::Running;
    container.directory.write(&container.record)?;
    let started =
        launch::start(container.directory.as_fd(), &entrypoint).and_then(|started| match started {
            Some(()) => hooks::poststart(&container.record).map(Some),
            None => Ok(None),
        });
    match started {
        Ok(Some(())) => {
            if let (Some(notify), Some(init)) = (notify, container.record.init)
                && let Some(pidfd) = init.open()?
            {
                notify.wait(pidfd.as_fd())?;
            }
            Ok(0)
        }
        // The OCI text: a failing hook of either kind ends the container, and there is nothing left to delete.
        Err(error) if hooks::is_from_hook(&error) => {
            let Container { directory, record } = container;
            Err(creation::undo(globals, &directory, record, lock, error))
        }
        Err(error) => Err(error),
        Ok(None) => Err(StepError::refused(
            "start container",
            &container.record.id,
            "its first process has ended; delete it",
        )),
    }
}
