//! `longshore-runtime`: runs OCI containers, as a command of its own or for the longshore agent.

use std::process::ExitCode;

fn main() -> ExitCode {
    longshore_runtime::command::run(std::env::args_os().skip(1))
}
