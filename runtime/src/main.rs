//! `longshore-runtime`: the small, single-threaded program that becomes a container's monitor and its init.

use std::process::ExitCode;

const HELP: &str = "\
longshore-runtime: runs one container for the longshore agent.

Usage:
  longshore-runtime monitor     Be a container's monitor. The agent starts it so, with
                                a request and three descriptors on standard input (a
                                Unix socket); by hand there is nothing to do with it.
  longshore-runtime --version   Print the version.
  longshore-runtime --help      Print this text.

A monitor is the parent of one container. It outlives the agent, stores the container's
output in log.jsonl, and writes exit.json in the run directory when the container ends.
To run containers, use `longshore agent` and `longshore run`.
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args_os()
        .skip(1)
        .map(|arg| arg.to_string_lossy().into_owned())
        .collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["monitor"] => longshore_runtime::monitor::run(),
        ["--help" | "-h" | "help"] => print(HELP),
        ["--version" | "-V"] => print(concat!(
            "longshore-runtime ",
            env!("CARGO_PKG_VERSION"),
            "\n"
        )),
        [] => refuse("no command given"),
        [command, ..] => refuse(&format!(
            "unknown command or too many arguments: `{command}`"
        )),
    }
}

fn print(text: &str) -> ExitCode {
    use std::io::Write;
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn refuse(cause: &str) -> ExitCode {
    eprintln!("error: {cause}; try `longshore-runtime --help`");
    ExitCode::from(2)
}
