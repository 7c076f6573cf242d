//! `update`: other limits for a container that lives.

use std::time::Duration;

use oci_spec::runtime::LinuxResources;
use serde_json::{Map, Value, json};

use super::Command;
use super::container::Container;
use super::global::Globals;
use super::options::{Arguments, Given, Opt};
use crate::StepError;
use crate::cgroup::ContainerGroup;
use crate::plan::Resctrl;
use crate::state::Status;
use crate::{resctrl, spec};

pub(super) const COMMAND: Command = Command {
    name: "update",
    about: "Change the limits of a container",
    details: "What is not given stays as it is. --resources reads an object like linux.resources of config.json, and
then no other option counts: {\"memory\": {\"limit\": 33554432}, \"pids\": {\"limit\": 20}}.
BYTES may end in k, m or g; -1 takes a limit away; --pids-limit 0 changes nothing.",
    options: &[
        Opt::value("resources", "FILE", "Read the limits from a file, or `-`: standard input.").or('r'),
        Opt::value("memory", "BYTES", "Memory."),
        Opt::value("memory-reservation", "BYTES", "Memory below which nothing is reclaimed under pressure."),
        Opt::value("memory-swap", "BYTES", "Memory and swap together."),
        Opt::value("cpu-share", "SHARES", "Weight of CPU time, 2 to 262144; 1024 is usual."),
        Opt::value("cpu-quota", "MICROSECONDS", "CPU time in each period."),
        Opt::value("cpu-period", "MICROSECONDS", "Length of a period."),
        Opt::value("cpu-burst", "MICROSECONDS", "CPU time that may be saved up."),
        Opt::value("cpu-idle", "0|1", "1: run only when nobody else wants the CPU."),
        Opt::value("cpu-rt-period", "MICROSECONDS", "Length of a real-time period (v1)."),
        Opt::value("cpu-rt-runtime", "MICROSECONDS", "Real-time CPU time in each period (v1)."),
        Opt::value("cpuset-cpus", "LIST", "CPUs, such as 0-2,4."),
        Opt::value("cpuset-mems", "LIST", "Memory nodes."),
        Opt::value("pids-limit", "NUMBER", "Processes."),
        Opt::value("blkio-weight", "WEIGHT", "Weight of block I/O, 10 to 1000."),
        Opt::value("l3-cache-schema", "LINE", "Line of its resctrl class for the cache, such as L3:0=f;1=f."),
        Opt::value("mem-bw-schema", "LINE", "Line of its resctrl class for memory bandwidth, such as MB:0=50."),
    ],
    arguments: Arguments::ID,
    enters: false,
    run,
};

/// How long another command on the container may take.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);

/// How an option's text is read.
#[derive(Clone, Copy)]
enum Kind {
    Bytes,
    Number,
    List,
}

/// Options, and where in `linux.resources` each of them belongs.
const PLACES: [(&str, Kind, &str, &str); 14] = [
    ("memory", Kind::Bytes, "memory", "limit"),
    ("memory-reservation", Kind::Bytes, "memory", "reservation"),
    ("memory-swap", Kind::Bytes, "memory", "swap"),
    ("cpu-share", Kind::Number, "cpu", "shares"),
    ("cpu-quota", Kind::Number, "cpu", "quota"),
    ("cpu-period", Kind::Number, "cpu", "period"),
    ("cpu-burst", Kind::Number, "cpu", "burst"),
    ("cpu-idle", Kind::Number, "cpu", "idle"),
    ("cpu-rt-period", Kind::Number, "cpu", "realtimePeriod"),
    ("cpu-rt-runtime", Kind::Number, "cpu", "realtimeRuntime"),
    ("cpuset-cpus", Kind::List, "cpu", "cpus"),
    ("cpuset-mems", Kind::List, "cpu", "mems"),
    ("pids-limit", Kind::Number, "pids", "limit"),
    ("blkio-weight", Kind::Number, "blockIO", "weight"),
];

fn run(globals: &Globals, given: &Given) -> Result<u8, StepError> {
    let directory = globals.root()?.open(given.id()?)?;
    let _lock = directory.lock(LOCK_PATIENCE)?;
    let container = Container::of(directory)?;
    let cause = match container.status()? {
        Status::Stopped => Some("it has stopped and has no limits any more"),
        Status::Creating => Some("it is creating: whoever made it died before it was done"),
        Status::Created | Status::Running | Status::Paused => None,
    };
    if let Some(cause) = cause {
        let step = "update container";
        return Err(StepError::refused(step, &container.record.id, cause));
    }
    let resources = match given.value("resources") {
        Some(path) if path == "-" => {
            let input = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3);
            let input = input.map_err(|errno| StepError::io("read", "standard input", errno))?;
            let text = spec::read_stream(input.into(), "standard input")?;
            spec::parse_resources(&text, "standard input")?
        }
        Some(path) => {
            let text = spec::read_bounded(path.as_ref())?;
            spec::parse_resources(&text, &path.to_string_lossy())?
        }
        None => of_options(given)?,
    };
    let lines = schemata(given)?;
    if !lines.is_empty() {
        resctrl::update(
            container.record.resctrl.as_ref(),
            &container.record.id,
            &lines,
        )?;
    }
    ContainerGroup::open(&container.record.cgroup)?.update(&resources)?;
    Ok(0)
}

/// Lines for the container's resctrl class, by the rules of `linux.intelRdt`.
fn schemata(given: &Given) -> Result<Vec<String>, StepError> {
    let line = |name| given.text(name).map(|line| line.unwrap_or_default());
    Resctrl::lines(line("l3-cache-schema")?, line("mem-bw-schema")?)
}

fn of_options(given: &Given) -> Result<LinuxResources, StepError> {
    let mut resources = Map::new();
    for (name, kind, controller, field) in PLACES {
        let Some(text) = given.text(name)?.filter(|text| !text.is_empty()) else {
            continue;
        };
        // What callers pass on that mean no change. In an object, where each field was written on purpose, it is a limit.
        if (name, text) == ("pids-limit", "0") {
            continue;
        }
        let refuse =
            |cause: &str| StepError::refused("read option", format!("--{name} {text}"), cause);
        let value = match kind {
            Kind::Bytes => json!(bytes(text).ok_or_else(|| refuse("it is no number of bytes"))?),
            Kind::Number => {
                let number = text.parse::<i64>();
                json!(number.map_err(|_| refuse("it is no whole number"))?)
            }
            Kind::List => json!(text),
        };
        let place = resources.entry(controller).or_insert_with(|| json!({}));
        place[field] = value;
    }
    let text = Value::from(resources).to_string();
    spec::parse_resources(text.as_bytes(), "options")
}

/// `-1`, or a number with a suffix that multiplies by 1024 so many times; a last `b` means nothing.
fn bytes(text: &str) -> Option<i64> {
    if text == "-1" {
        return Some(-1);
    }
    let lower = text.to_ascii_lowercase();
    let bare = lower
        .strip_suffix("ib")
        .or(lower.strip_suffix('b'))
        .unwrap_or(&lower);
    let (digits, power) = match bare.chars().last()? {
        'k' => (&bare[..bare.len() - 1], 10),
        'm' => (&bare[..bare.len() - 1], 20),
        'g' => (&bare[..bare.len() - 1], 30),
        't' => (&bare[..bare.len() - 1], 40),
        _ => (bare, 0),
    };
    let number: i64 = digits
        .trim_end()
        .parse()
        .ok()
        .filter(|number| *number >= 0)?;
    number.checked_mul(1 << power)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_may_have_a_suffix() {
        for (text, number) in [
            ("0", 0),
            ("4096", 4096),
            ("1k", 1024),
            ("1K", 1024),
            ("2kb", 2048),
            ("1MiB", 1 << 20),
            ("3g", 3 << 30),
            ("-1", -1),
        ] {
            assert_eq!(bytes(text), Some(number), "{text}");
        }
        for bad in ["", "b", "k", "-2", "1x", "1.5g", "9999999999999g"] {
            assert_eq!(bytes(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn options_become_resources() {
        let words = [
            "--memory",
            "1m",
            "--cpuset-cpus=0-1",
            "--pids-limit",
            "-1",
            "c",
        ];
        let given = Given::of(
            COMMAND.options,
            &COMMAND.arguments,
            words.into_iter().map(Into::into),
        )
        .unwrap();
        let resources = of_options(&given).unwrap();
        assert_eq!(resources.memory().unwrap().limit(), Some(1 << 20));
        assert_eq!(resources.pids().unwrap().limit(), -1);
        assert_eq!(
            resources.cpu().clone().unwrap().cpus().as_deref(),
            Some("0-1")
        );
        assert!(resources.block_io().is_none());
        let words = ["--pids-limit", "0", "c"].into_iter().map(Into::into);
        let given = Given::of(COMMAND.options, &COMMAND.arguments, words).unwrap();
        assert!(of_options(&given).unwrap().pids().is_none());
    }

    #[test]
    fn every_option_has_its_place() {
        let placed = |option: &&Opt| PLACES.iter().any(|(name, ..)| *name == option.name);
        assert_eq!(COMMAND.options.iter().filter(placed).count(), PLACES.len());
        // --resources, and two that are no resources of a cgroup.
        assert_eq!(COMMAND.options.len(), PLACES.len() + 3);
    }
}
