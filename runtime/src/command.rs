//! The command line: runc's, so that whoever drives that runtime can drive this one.
//!
//! One file per command; each is a [`Command`]: its words, its options, and a function. Global options stand
//! before the command's name, a command's own anywhere after it. An option that is accepted has its effect;
//! every other is refused by name. A failure prints one line on standard error, `error: ...`, and ends with
//! exit status 1; a success prints nothing there.
//!
//! Deliberately absent: checkpoint and restore, whose images would be CRIU's and not ours.

mod container;
mod create;
mod creation;
mod delete;
mod events;
mod exec;
mod features;
mod global;
mod holder;
mod kill;
mod list;
mod log;
mod options;
mod pause;
mod preserved;
mod ps;
mod run;
mod seal;
mod spec;
mod start;
mod state;
mod stdio;
mod update;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use longshore_sys::{ChildrenEnd, on_end_of_children};

use crate::StepError;

use global::Globals;
use options::{Arguments, Given, Opt};

/// A command of the table.
#[derive(Debug)]
pub(crate) struct Command {
    /// Its name.
    name: &'static str,
    /// What it does, in one line without a full stop.
    about: &'static str,
    /// What one should know to use it.
    details: &'static str,
    /// Its options.
    options: &'static [Opt],
    /// Its arguments.
    arguments: Arguments,
    /// Whether it makes a process inside a container, and therefore runs sealed.
    enters: bool,
    /// Does it; gives the exit status.
    run: fn(&Globals, &Given) -> Result<u8, StepError>,
}

const COMMANDS: [&Command; 15] = [
    &create::COMMAND,
    &start::COMMAND,
    &run::COMMAND,
    &exec::COMMAND,
    &state::COMMAND,
    &kill::COMMAND,
    &delete::COMMAND,
    &list::COMMAND,
    &ps::COMMAND,
    &pause::PAUSE,
    &pause::RESUME,
    &update::COMMAND,
    &events::COMMAND,
    &spec::COMMAND,
    &features::COMMAND,
];

/// Refused by name: a caller that tries one learns why.
const REFUSED: [&str; 2] = ["checkpoint", "restore"];

/// Exit status of every failure, as runc has it.
const FAILURE: u8 = 1;

/// Runs the program: `arguments` without its own name.
pub fn run(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    // A caller that ignores SIGCHLD bequeaths that, and the kernel would forget our children before they are waited for.
    on_end_of_children(ChildrenEnd::AwaitWait);
    let mut arguments = arguments.peekable();
    let globals = match Given::global(&global::OPTIONS, &mut arguments) {
        Ok(given) if given.wants_help() => return print(&help()),
        Ok(given) if given.has("version") => return print(&version()),
        Ok(given) => given,
        Err(misuse) => return refuse(&misuse, ""),
    };
    let Some(name) = arguments.next() else {
        return print(&help());
    };
    let name = name.to_string_lossy();
    match name.as_ref() {
        "monitor" => {
            let group = arguments.next().unwrap_or_default();
            return match arguments.peek() {
                None => crate::monitor::run(&group.to_string_lossy()),
                Some(_) => refuse(&unknown(&name), ""),
            };
        }
        "help" => return print(&help()),
        _ => {}
    }
    let Some(command) = COMMANDS.iter().find(|command| command.name == name) else {
        return refuse(&unknown(&name), "");
    };
    let given = match Given::of(command.options, &command.arguments, arguments) {
        Ok(given) if given.wants_help() => return print(&command.help()),
        Ok(given) => given,
        Err(misuse) => return refuse(&misuse, command.name),
    };
    command.execute(&globals, &given)
}

fn unknown(name: &str) -> String {
    if REFUSED.contains(&name) {
        return format!("`{name}` is not supported: this runtime saves no process images");
    }
    format!("unknown command or too many arguments: `{name}`")
}

/// A misuse: nothing was done.
fn refuse(misuse: &str, command: &str) -> ExitCode {
    let space = if command.is_empty() { "" } else { " " };
    let hint = format!("{misuse}; try `longshore-runtime{space}{command} --help`");
    log::Log::default().error(&hint);
    ExitCode::from(FAILURE)
}

fn print(text: &str) -> ExitCode {
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(FAILURE),
    }
}

/// The result of a command, on standard output.
fn answer(text: &str) -> Result<u8, StepError> {
    let written = std::io::stdout().write_all(text.as_bytes());
    written.map_err(|error| StepError::io("write", "standard output", error))?;
    Ok(0)
}

/// What callers parse: `NAME version X`, then `key: value` lines, then what was built in.
fn version() -> String {
    format!(
        "longshore-runtime version {}\ncommit: unknown\nspec: {}\n\
         +SYSTEMD +SELINUX +APPARMOR +CAP +SECCOMP +EBPF\n",
        env!("CARGO_PKG_VERSION"),
        crate::state::OCI_VERSION
    )
}

fn help() -> String {
    let mut text = String::from(
        "\
longshore-runtime: runs OCI containers from bundles.

Usage: longshore-runtime [GLOBAL OPTION...] COMMAND [OPTION...] [ARGUMENT...]

A bundle is a directory that holds config.json and a root filesystem. To see a container's life:
  mkdir -p bundle/rootfs/bin && cp /bin/busybox bundle/rootfs/bin/sh
  longshore-runtime spec --bundle bundle        Write a config.json to begin with.
  longshore-runtime run --bundle bundle first   Create it, start it, wait, delete it.

Commands (`longshore-runtime COMMAND --help` tells more):
",
    );
    for command in COMMANDS {
        text += &format!("  {:<10} {}.\n", command.name, command.about);
    }
    text += "  monitor    Be a container's parent for `longshore agent`, which starts it so.\n";
    text += "\nGlobal options:\n";
    text += &options_help(&global::OPTIONS);
    text
}

impl Command {
    fn execute(&self, globals: &Given, given: &Given) -> ExitCode {
        let failed = |log: &log::Log, error: StepError| {
            log.error(&error.to_string());
            ExitCode::from(FAILURE)
        };
        let sealed = if self.enters { seal::seal() } else { Ok(()) };
        let globals = match sealed.and_then(|()| Globals::of(globals)) {
            Ok(globals) => globals,
            Err(error) => return failed(&log::Log::default(), error),
        };
        match (self.run)(&globals, given) {
            Ok(status) => ExitCode::from(status),
            Err(error) => failed(&globals.log, error),
        }
    }

    fn help(&self) -> String {
        let Command {
            name,
            about,
            details,
            options,
            arguments,
            ..
        } = self;
        let shown = [
            format!("Usage: longshore-runtime [GLOBAL OPTION...] {name}"),
            if options.is_empty() {
                ""
            } else {
                "[OPTION...]"
            }
            .into(),
            arguments.shown.into(),
        ];
        let usage: Vec<&str> = shown.iter().map(String::as_str).collect();
        let usage = usage.join(" ").replace("  ", " ");
        let mut text = format!("{}\n\n{about}.\n", usage.trim_end());
        if !details.is_empty() {
            text += &format!("\n{}\n", details.trim_matches('\n'));
        }
        if !options.is_empty() {
            text += &format!("\nOptions:\n{}", options_help(options));
        }
        text
    }
}

fn options_help(options: &[Opt]) -> String {
    let mut text = String::new();
    for option in options {
        let letter = option.letter.map(|letter| format!("-{letter}, "));
        let value = option.value.map(|value| format!(" {value}"));
        let left = format!(
            "{:>4}--{}{}",
            letter.unwrap_or_default(),
            option.name,
            value.unwrap_or_default()
        );
        text += &format!("  {left:<30} {}\n", option.help);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_letters_are_unique() {
        let tables = COMMANDS.iter().map(|command| command.options);
        for options in tables.chain([&global::OPTIONS[..]]) {
            for (at, option) in options.iter().enumerate() {
                let same = |other: &Opt| {
                    other.name == option.name
                        || (other.letter.is_some() && other.letter == option.letter)
                };
                assert!(!options[at + 1..].iter().any(same), "{}", option.name);
            }
        }
    }

    #[test]
    fn help_names_every_option() {
        for command in COMMANDS {
            let text = command.help();
            assert!(text.contains(command.name) && text.contains(command.arguments.shown));
            for option in command.options {
                assert!(text.contains(&format!("--{}", option.name)), "{text}");
            }
            assert!(help().contains(command.about));
        }
    }
}
