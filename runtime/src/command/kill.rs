//! `kill`: a signal for a container's first process, or for all of them.

use std::os::fd::{AsFd, OwnedFd};

use longshore_sys::pidfd_send_signal;
use rustix::io::Errno;

use super::Command;
use super::container::{Container, PATIENCE};
use super::global::Globals;
use super::options::{Arguments, Given, Opt};
use crate::StepError;
use crate::cgroup::{ContainerGroup, Freeze, Group};
use crate::error::Context;
use crate::pidfd;
use crate::state::Status;

pub(super) const COMMAND: Command = Command {
    name: "kill",
    about: "Send a signal to a container",
    details: "SIGNAL is a name (KILL, SIGKILL, RTMIN+1) or a number; TERM if it is left out; 0 only asks whether there is
somebody to be signalled. The first process
of a pid namespace ignores what it has no handler for, KILL and STOP excepted.
Without a pid namespace of its own, KILL reaches every process in the container's cgroup.
A container that has stopped is an error, unless --all or KILL finds processes that it left.",
    options: &[
        Opt::switch("all", "To every process in the container's cgroup or, without one, pid namespace; also once its first one has ended.").or('a'),
    ],
    arguments: Arguments::between("ID [SIGNAL]", 1, 2),
    enters: false,
    run,
};

/// The number that is no signal.
const PROBE: i32 = 0;

fn run(globals: &Globals, given: &Given) -> Result<u8, StepError> {
    let id = given.id()?;
    let signal = match given.arguments().get(1) {
        Some(text) => signal(&text.to_string_lossy())?,
        None => libc::SIGTERM,
    };
    let container = Container::open(globals, id)?;
    let status = container.status()?;
    // kill(2): nothing is sent, and what would refuse a signal refuses this.
    if signal == PROBE && status != Status::Stopped && status != Status::Creating {
        return Ok(0);
    }
    let group = ContainerGroup::open(&container.record.cgroup)?;
    let all = given.has("all")
        || (signal == libc::SIGKILL && !container.has_own_pids() && is_populated(&group)?);
    if all {
        signal_all(&container, &group, signal)?;
        // Without a cgroup, and before init is in it.
        if status != Status::Stopped {
            container.signal(signal)?;
        }
    } else {
        if matches!(status, Status::Stopped | Status::Creating) {
            let cause = format!("it is {status} and not running");
            return Err(StepError::refused("kill container", id, cause));
        }
        container.signal(signal)?;
    }
    // v1 keeps even SIGKILL from who is frozen.
    if signal == libc::SIGKILL && group.freeze_state()? != Freeze::Thawed {
        group.thaw()?;
    }
    Ok(0)
}

fn is_populated(group: &ContainerGroup) -> Result<bool, StepError> {
    let processes = group.group().map(Group::processes).transpose()?;
    Ok(processes.is_some_and(|processes| !processes.is_empty()))
}

/// How many pidfds are open at once: a group of thousands must not exhaust RLIMIT_NOFILE.
const BATCH: usize = 128;

fn signal_all(container: &Container, group: &ContainerGroup, signal: i32) -> Result<(), StepError> {
    if signal == libc::SIGKILL && !group.is_without() {
        return group.kill(PATIENCE);
    }
    for batch in container.processes(group)?.chunks(BATCH) {
        let open = |number: &u32| {
            let pidfd = pidfd::open(*number).context("signal process", number);
            pidfd.map(|pidfd| Some((*number, pidfd?))).transpose()
        };
        let opened: Vec<(u32, OwnedFd)> =
            batch.iter().filter_map(open).collect::<Result<_, _>>()?;
        // Whoever is in the container still, now that there is a pidfd, is who was opened, and no later process of its pid.
        let still = container.processes(group)?;
        for (number, pidfd) in opened {
            if still.binary_search(&number).is_err() {
                continue;
            }
            match pidfd_send_signal(pidfd.as_fd(), signal) {
                // It ended meanwhile.
                Ok(()) | Err(Errno::SRCH) => {}
                Err(errno) => return Err(StepError::io("signal process", number, errno)),
            }
        }
    }
    Ok(())
}

/// signal(7), with or without `SIG`, in any case, or a number.
fn signal(text: &str) -> Result<i32, StepError> {
    let refuse = || {
        let cause = "there is no such signal; give a name like TERM or a number";
        StepError::refused("read signal", format!("{text:?}"), cause)
    };
    let number = match text.parse::<i32>() {
        Ok(number) => number,
        Err(_) => named(&text.to_ascii_uppercase()).ok_or_else(refuse)?,
    };
    match (PROBE..=libc::SIGRTMAX()).contains(&number) {
        true => Ok(number),
        false => Err(refuse()),
    }
}

fn named(name: &str) -> Option<i32> {
    let name = name.strip_prefix("SIG").unwrap_or(name);
    let real_time = |base: i32, offset: &str| match offset {
        "" => Some(base),
        offset => offset.parse::<i32>().ok().map(|offset| base + offset),
    };
    if let Some(offset) = name.strip_prefix("RTMIN") {
        return real_time(libc::SIGRTMIN(), offset);
    }
    if let Some(offset) = name.strip_prefix("RTMAX") {
        return real_time(libc::SIGRTMAX(), offset);
    }
    let alias = match name {
        "CLD" => "CHLD",
        "IOT" => "ABRT",
        "POLL" => "IO",
        name => name,
    };
    let signal: nix::sys::signal::Signal = format!("SIG{alias}").parse().ok()?;
    Some(signal as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_many_names() {
        for (text, number) in [
            ("9", 9),
            ("KILL", 9),
            ("SIGKILL", 9),
            ("sigterm", 15),
            ("CLD", 17),
            ("SIGRTMIN+1", libc::SIGRTMIN() + 1),
            ("RTMAX-1", libc::SIGRTMAX() - 1),
            ("RTMIN", libc::SIGRTMIN()),
            ("37", 37),
            ("0", 0),
        ] {
            assert_eq!(signal(text).unwrap(), number, "{text}");
        }
        for bad in [
            "",
            "-1",
            "65",
            "SIG",
            "TERMINATE",
            "RTMIN+99",
            "RTMAX+1",
            "9 ",
        ] {
            assert!(signal(bad).is_err(), "{bad:?}");
        }
    }
}
