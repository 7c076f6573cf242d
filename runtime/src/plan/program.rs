//! The program, its environment and its limits.

use std::collections::HashMap;

use oci_spec::runtime::Process;

use super::step::{Environment, Rlimit, Step};
use crate::StepError;

/// What a program without PATH gets to be looked up in, as login(1) sets it for root.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The program and what surrounds it.
#[derive(Debug)]
pub(super) struct Program {
    pub(super) args: Vec<String>,
    pub(super) environment: Environment,
    pub(super) path: String,
    pub(super) needs_home: bool,
}

impl Program {
    pub(super) fn of(process: &Process) -> Result<Program, StepError> {
        let args = process.args().clone().unwrap_or_default();
        if args.first().is_none_or(String::is_empty) {
            return Err(StepError::refused(
                "plan entrypoint",
                "process.args",
                "there is no program to run; give the container a command or the image an entrypoint",
            ));
        }
        if args.iter().any(|arg| arg.contains('\0')) {
            return Err(StepError::refused(
                "plan entrypoint",
                "process.args",
                "an argument holds a NUL byte",
            ));
        }
        let environment = environment(process.env().as_deref().unwrap_or_default())?;
        let value = |wanted: &str| {
            let find = |entry: &String| {
                entry
                    .split_once('=')
                    .filter(|(name, _)| *name == wanted)
                    .map(|(_, value)| value.to_owned())
            };
            environment.0.iter().find_map(find)
        };
        let path = value("PATH").unwrap_or_else(|| DEFAULT_PATH.to_owned());
        let needs_home = value("HOME").is_none_or(|home| home.is_empty());
        Ok(Program {
            args,
            path,
            needs_home,
            environment,
        })
    }
}

/// Each name once, the last value at the first place. Messages never hold a value: it may be a secret.
fn environment(entries: &[String]) -> Result<Environment, StepError> {
    let mut kept: Vec<(&str, &str)> = Vec::new();
    // An image may bring hundreds of thousands: each is looked up, none is searched for.
    let mut places: HashMap<&str, usize> = HashMap::new();
    for (index, entry) in entries.iter().enumerate() {
        let pair = entry
            .split_once('=')
            .filter(|(name, _)| !name.is_empty() && !entry.contains('\0'));
        let Some((name, value)) = pair else {
            return Err(StepError::refused(
                "plan environment",
                format!("process.env[{index}]"),
                "an entry must read NAME=value and hold no NUL byte",
            ));
        };
        match places.insert(name, kept.len()) {
            Some(place) => {
                kept[place].1 = value;
                places.insert(name, place);
            }
            None => kept.push((name, value)),
        }
    }
    Ok(Environment(
        kept.into_iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect(),
    ))
}

pub(super) fn rlimits(process: &Process) -> Result<Vec<Step>, StepError> {
    let mut steps: Vec<Step> = Vec::new();
    for limit in process.rlimits().iter().flatten() {
        let name = limit.typ().to_string();
        if limit.soft() > limit.hard() {
            return Err(StepError::refused(
                "plan rlimit",
                name,
                "the soft limit is above the hard one",
            ));
        }
        if steps
            .iter()
            .any(|step| matches!(step, Step::Rlimit(known) if known.name == name))
        {
            return Err(StepError::refused(
                "plan rlimit",
                name,
                "it is listed twice",
            ));
        }
        steps.push(Step::Rlimit(Rlimit {
            name,
            soft: limit.soft(),
            hard: limit.hard(),
        }));
    }
    Ok(steps)
}

/// What whoever still has the right does, so that init can set the limits of a process in a user namespace, where it
/// may only lower.
pub(super) fn room(process: &Process) -> Result<Vec<Step>, StepError> {
    let room = |step: Step| match step {
        Step::Rlimit(limit) => Step::MakeRoom(limit),
        other => other,
    };
    Ok(rlimits(process)?.into_iter().map(room).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_counts_once_with_its_last_value() {
        let entries = ["A=1", "B=2", "A=3", "C=", "A=4"].map(str::to_owned);
        assert_eq!(environment(&entries).unwrap().0, ["A=4", "B=2", "C="]);
        let many: Vec<String> = (0..100_000).map(|n| format!("{n:06}=")).collect();
        // A search for each among all would take this test minutes.
        assert_eq!(environment(&many).unwrap().0.len(), many.len());
    }
}
