//! `ps`: a container's processes, as ps(1) of the host sees them.

use std::process::{Command as Program, Stdio};

use super::container::Container;
use super::global::Globals;
use super::options::{Arguments, Given, Opt};
use super::{Command, answer, list};
use crate::StepError;
use crate::cgroup::ContainerGroup;
use crate::error::Context;

pub(super) const COMMAND: Command = Command {
    name: "ps",
    about: "List the processes of a container",
    details: "What follows the id are options of ps(1), `-ef` if there are none; its lines that are not of the
container are left out. Their output must have a column PID.",
    options: &[
        Opt::value("format", "FORMAT", "table (default), or json: an array of pids.").or('f'),
    ],
    arguments: Arguments {
        end_of_options: Some(1),
        ..Arguments::between("ID [PS OPTION...]", 1, usize::MAX)
    },
    enters: false,
    run,
};

fn run(globals: &Globals, given: &Given) -> Result<u8, StepError> {
    let as_json = list::is_json(given)?;
    let container = Container::open(globals, given.id()?)?;
    let group = ContainerGroup::open(&container.record.cgroup)?;
    let pids = container.processes(&group)?;
    if as_json {
        let text = serde_json::to_string(&pids).unwrap_or_default();
        return answer(&format!("{text}\n"));
    }
    let options = &given.arguments()[1..];
    let mut program = Program::new("ps");
    match options {
        [] => program.arg("-ef"),
        options => program.args(options),
    };
    let output = program.stdin(Stdio::null()).output().context("run", "ps")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(StepError::refused("run", "ps", said));
    }
    answer(&keep(&String::from_utf8_lossy(&output.stdout), &pids)?)
}

/// The heading, and the lines of these processes.
fn keep(output: &str, pids: &[u32]) -> Result<String, StepError> {
    let heading = output.lines().next().unwrap_or_default();
    let column = heading.split_whitespace().position(|name| name == "PID");
    let column = column.ok_or_else(|| {
        let cause = "its output has no column PID; choose other options";
        StepError::refused("read output of", "ps", cause)
    })?;
    let ours = |line: &&str| {
        let pid = line.split_whitespace().nth(column);
        pid.and_then(|pid| pid.parse().ok())
            .is_some_and(|pid| pids.contains(&pid))
    };
    let lines = output.lines().skip(1).filter(ours);
    Ok(std::iter::once(heading)
        .chain(lines)
        .map(|line| format!("{line}\n"))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lines_of_the_container_are_kept() {
        let output = "UID PID CMD\nroot 1 init 7\nroot 7 sleep\nroot x odd\n\n";
        assert_eq!(keep(output, &[7]).unwrap(), "UID PID CMD\nroot 7 sleep\n");
        assert!(keep("UID CMD\n", &[7]).is_err());
    }
}
