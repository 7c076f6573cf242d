//! `run`: create, start, wait, delete.

use rustix::process::WaitIdStatus;

use super::Command;
use super::creation::{self, Created, Starter};
use super::delete::destroy;
use super::global::Globals;
use super::options::{Arguments, Given, Opt};
use crate::StepError;
use crate::record::Phase;

pub(super) const COMMAND: Command = Command {
    name: "run",
    about: "Create a container, run it to its end, and delete it",
    details: "The exit status is the program's, or 128 and the number of the signal that ended it.
With --detach the command returns once the program runs, and the container stays until `delete`.",
    options: &[
        creation::BUNDLE,
        creation::FILE,
        creation::PID_FILE,
        Opt::switch("detach", "Do not wait for the end.").or('d'),
        Opt::switch("keep", "Do not delete the container when it has ended."),
    ],
    arguments: Arguments::ID,
    run,
};

fn run(globals: &Globals, given: &Given) -> Result<u8, StepError> {
    let mut created = creation::create(globals, given, Starter::Creator)?;
    if let Err(error) = start(&mut created) {
        created.init.end();
        let Created {
            directory,
            record,
            lock,
            ..
        } = created;
        return Err(creation::undo(&directory, record, lock, error));
    }
    if given.has("detach") {
        return Ok(0);
    }
    let Created {
        directory,
        lock,
        init,
        ..
    } = created;
    // Others may signal, update or delete it meanwhile.
    drop(lock);
    let status = init.wait()?;
    if !given.has("keep") {
        let lock = directory.lock(super::container::PATIENCE)?;
        let record = directory.record()?;
        destroy(&directory, record, lock)?;
    }
    Ok(exit_status(status))
}

fn start(created: &mut Created) -> Result<(), StepError> {
    created.record.phase = Phase::Running;
    created.directory.write(&created.record)?;
    let entrypoint = created.record.entrypoint.clone().unwrap_or_default();
    created.init.start(&entrypoint)
}

fn exit_status(status: Option<WaitIdStatus>) -> u8 {
    let signal = status.and_then(|status| status.terminating_signal());
    let code = status.and_then(|status| status.exit_status());
    let code = code.or(signal.map(|signal| 128 + signal)).unwrap_or(255);
    code.try_into().unwrap_or(255)
}
