//! `create`: a container up to the point before its program.

use super::Command;
use super::creation::{self, Manner, Starter};
use super::global::Globals;
use super::options::{Arguments, Given};
use crate::StepError;

pub(super) const COMMAND: Command = Command {
    name: "create",
    about: "Make a container that waits for start",
    details: "Everything that can fail fails here: namespaces, mounts, limits, the search for the program. No process
of this runtime stays. The spec is kept as it is now; what becomes of config.json later changes nothing.",
    options: &creation::OPTIONS,
    arguments: Arguments::ID,
    enters: true,
    run,
};

fn run(globals: &Globals, given: &Given) -> Result<u8, StepError> {
    let manner = Manner {
        starter: Starter::Another,
        detached: true,
    };
    let created = creation::create(globals, given, manner)?;
    // From here on it lives without us.
    match created.init.leave() {
        Ok(()) => Ok(0),
        Err(error) => Err(creation::undo(
            globals,
            &created.directory,
            created.record,
            created.lock,
            error,
        )),
    }
}
