//! `state`: what a container does now, as the OCI text demands it.

use super::container::Container;
use super::global::Globals;
use super::options::{Arguments, Given};
use super::{Command, answer};
use crate::StepError;

pub(super) const COMMAND: Command = Command {
    name: "state",
    about: "Print the state of a container as JSON",
    details: "`status` is creating, created, running, paused or stopped; `pid` is 0 once it has stopped.",
    options: &[],
    arguments: Arguments::ID,
    enters: false,
    run,
};

fn run(globals: &Globals, given: &Given) -> Result<u8, StepError> {
    let container = Container::open(globals, given.id()?)?;
    let state = container.to_json(container.status()?);
    let text = serde_json::to_string_pretty(&state).unwrap_or_default();
    answer(&format!("{text}\n"))
}
