//! `events`: what a container uses, and its OOM kills when they happen.
//!
//! Nothing is polled: the loop waits for the kernel's word of an OOM, for the container's end, and for the next
//! figures' time.

use std::io::Write;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::{Value, json};

use super::Command;
use super::container::Container;
use super::global::Globals;
use super::options::{Arguments, Given, Opt};
use crate::StepError;
use crate::cgroup::ContainerGroup;
use crate::error::Context;
use crate::state::Status;

pub(super) const COMMAND: Command = Command {
    name: "events",
    about: "Print a container's OOM kills and what it uses, as lines of JSON",
    details: "It ends with the container.",
    options: &[
        Opt::switch("stats", "Print what it uses now, and end."),
        Opt::value(
            "interval",
            "TIME",
            "Between two lines of figures (default: 5s), such as 500ms or 1m30s.",
        ),
    ],
    arguments: Arguments::ID,
    enters: false,
    run,
};

const INTERVAL: Duration = Duration::from_secs(5);

fn run(globals: &Globals, given: &Given) -> Result<u8, StepError> {
    let interval = match given.text("interval")? {
        Some(text) => duration(text)
            .filter(|time| !time.is_zero())
            .ok_or_else(|| {
                let cause = "it is no time such as 5s, and longer than none";
                StepError::refused("read option", format!("--interval {text}"), cause)
            })?,
        None => INTERVAL,
    };
    let container = Container::open(globals, given.id()?)?;
    let cause = match container.status()? {
        Status::Stopped => Some("it has stopped"),
        Status::Creating => Some("it is creating, and nothing runs in it"),
        Status::Created | Status::Running | Status::Paused => None,
    };
    if let Some(cause) = cause {
        let step = "watch container";
        return Err(StepError::refused(step, &container.record.id, cause));
    }
    let group = ContainerGroup::open(&container.record.cgroup)?;
    if given.has("stats") {
        print(&figures(&container, &group)?)?;
        return Ok(0);
    }
    watch(&container, &group, interval)
}

fn watch(
    container: &Container,
    group: &ContainerGroup,
    interval: Duration,
) -> Result<u8, StepError> {
    let mut oom = group.oom_watch()?;
    let init = container.record.init.map(|init| init.open()).transpose()?;
    let Some(pidfd) = init.flatten() else {
        return Ok(0);
    };
    let mut next = Instant::now() + interval;
    loop {
        let left = next.saturating_duration_since(Instant::now());
        let left = Timespec {
            tv_sec: left.as_secs() as i64,
            tv_nsec: left.subsec_nanos().into(),
        };
        let mut wanted = [
            PollFd::from_borrowed_fd(oom.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN),
        ];
        let wait = || poll(&mut wanted, Some(&left));
        rustix::io::retry_on_intr(wait).context("wait for events of", &container.record.id)?;
        let [told, ended] = wanted.map(|wanted| !wanted.revents().is_empty());
        if ended {
            // What was never heard of; if the group is gone already, so is its count.
            say_oom(container, oom.finish().unwrap_or(0))?;
            return Ok(0);
        }
        if told {
            say_oom(container, oom.look()?)?;
        }
        if Instant::now() >= next {
            match figures(container, group) {
                Ok(figures) => print(&figures)?,
                // Its group may go as soon as it has ended; the next wait tells.
                Err(error) if container.status()? != Status::Stopped => return Err(error),
                Err(_) => {}
            }
            next = Instant::now() + interval;
        }
    }
}

fn say_oom(container: &Container, kills: u64) -> Result<(), StepError> {
    for _ in 0..kills {
        print(&json!({"type": "oom", "id": container.record.id}))?;
    }
    Ok(())
}

fn figures(container: &Container, group: &ContainerGroup) -> Result<Value, StepError> {
    let statistics = group.statistics(container.record.init.map(|init| init.pid))?;
    Ok(json!({"type": "stats", "id": container.record.id, "data": statistics}))
}

/// A line at a time: who reads it must not wait for a buffer to fill.
fn print(event: &Value) -> Result<(), StepError> {
    std::io::stdout()
        .write_all(format!("{event}\n").as_bytes())
        .context("write", "standard output")
}

/// As Go writes times: numbers with units, one after the other.
fn duration(text: &str) -> Option<Duration> {
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest
            .find(|letter: char| letter.is_ascii_digit())
            .unwrap_or(rest.len());
        let seconds = match &rest[..unit] {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        total = total.checked_add(Duration::try_from_secs_f64(number * seconds).ok()?)?;
        rest = &rest[unit..];
    }
    (!text.is_empty()).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_go_writes_them() {
        for (text, milliseconds) in [
            ("5s", 5000),
            ("500ms", 500),
            ("1m30s", 90_000),
            ("1.5s", 1500),
            ("0s", 0),
        ] {
            assert_eq!(
                duration(text),
                Some(Duration::from_millis(milliseconds)),
                "{text}"
            );
        }
        for bad in ["", "5", "s", "-1s", "5 s", "1d", "1e400s"] {
            assert_eq!(duration(bad), None, "{bad:?}");
        }
    }
}
