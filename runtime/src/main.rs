//! `longshore-runtime`: runs OCI containers, as a command of its own or for the longshore agent.

use std::process::ExitCode;

use longshore_sys::Arena;

/// More than a command takes for an ordinary bundle.
#[global_allocator]
static MEMORY: Arena<{ 1 << 20 }> = Arena::new();

fn main() -> ExitCode {
    longshore_runtime::command::run(std::env::args_os().skip(1))
}
