//! `run`: create, start, wait, delete.

use std::os::fd::AsFd;

use super::Command;
use super::creation::{self, Created, Manner, Starter};
use super::delete::{destroy, destroy_in};
use super::global::Globals;
use super::options::{Arguments, Given, Opt, joined};
use crate::StepError;
use crate::cgroup::ContainerGroup;
use crate::foreground::Foreground;
use crate::hooks;
use crate::notify::{Notify, Supervisor};
use crate::record::Phase;
use crate::state::StateDirectory;

pub(super) const COMMAND: Command = Command {
    name: "run",
    about: "Create a container, run it to its end, and delete it",
    details: "The exit status is the program's, or 128 and the number of the signal that ended it.
With --detach the command returns once the program runs, and the container stays until `delete`.",
    options: &joined::<7, 3, 10>(
        creation::OPTIONS,
        [
            Opt::switch("detach", "Do not wait for the end.").or('d'),
            Opt::switch(
                "no-subreaper",
                "Adopt no orphans of the container; this runtime never does.",
            ),
            Opt::switch("keep", "Do not delete the container when it has ended."),
        ],
    ),
    arguments: Arguments::ID,
    enters: true,
    run,
};

fn run(globals: &Globals, given: &Given) -> Result<u8, StepError> {
    let manner = Manner {
        starter: Starter::Creator,
        detached: given.has("detach"),
    };
    // Before anything is made: a signal that comes meanwhile is for the container.
    let mut foreground = match manner.detached {
        true => None,
        false => Some(Foreground::new()?),
    };
    let mut created = creation::create(globals, given, manner)?;
    let notify = listen(globals, &created);
    if let Err(error) = start(&mut created, foreground.as_mut()) {
        created.init.end();
        let Created {
            directory,
            record,
            lock,
            interrupt: _held,
            ..
        } = created;
        return Err(creation::undo(globals, &directory, record, lock, error));
    }
    let Created {
        directory,
        lock,
        init,
        group,
        interrupt,
        ..
    } = created;
    // Others may signal, update or delete it meanwhile; and signals are the container's.
    drop((lock, interrupt));
    let Some(foreground) = foreground else {
        if let Some(notify) = notify {
            warn(globals, notify.wait(init.pidfd.as_fd()));
        }
        return Ok(0);
    };
    let status = foreground.attend(init.pidfd.as_fd(), notify, &|error| {
        globals.log.warning(&error.to_string())
    })?;
    if !given.has("keep") {
        remove(globals, &directory, group)?;
    }
    Ok(status)
}

/// Fine if somebody else has deleted it as soon as it had ended, or to end it.
fn remove(
    globals: &Globals,
    directory: &StateDirectory,
    group: ContainerGroup,
) -> Result<(), StepError> {
    match directory.lock(super::container::PATIENCE) {
        Ok(lock) => match directory.record()? {
            Some(record) if record.cgroup == *group.location() => {
                destroy_in(globals, directory, Some((record, group)), lock)
            }
            record => destroy(globals, directory, record, lock),
        },
        Err(_) if !directory.is_in_place()? => Ok(()),
        Err(error) => Err(error),
    }
}

/// Before the program runs. A supervisor that cannot be reached is no fault of the container's.
fn listen(globals: &Globals, created: &Created) -> Option<Notify> {
    let supervisor = Supervisor::of_environment()?;
    let listening = Notify::listen(&supervisor, created.directory.as_fd(), created.init.pid);
    warn(globals, listening).flatten()
}

pub(super) fn warn<T>(globals: &Globals, outcome: Result<T, StepError>) -> Option<T> {
    outcome
        .map_err(|error| globals.log.warning(&error.to_string()))
        .ok()
}

fn start(created: &mut Created, foreground: Option<&mut Foreground>) -> Result<(), StepError> {
    if let (Some(foreground), Some(master)) = (foreground, created.init.terminal.take()) {
        foreground.hold(master)?;
    }
    created.record.phase = Phase::Running;
    created.directory.write(&created.record)?;
    let Some(entrypoint) = &created.record.entrypoint else {
        let cause = "its config.json has no process; write one";
        return Err(StepError::refused(
            "start container",
            &created.record.id,
            cause,
        ));
    };
    created.init.start(entrypoint, Some(&created.interrupt))?;
    hooks::poststart(&created.record, &created.interrupt)
}
