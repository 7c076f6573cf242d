//! systemd, asked over D-Bus for a transient unit around a container (org.freedesktop.systemd1(5)).
//!
//! ```text
//!   Subscribe, AddMatch ─▶ StartTransientUnit(PIDs, Slice, Delegate, limits) ─▶ job ─▶ JobRemoved(job, "done")
//!   StopUnit ─▶ job ─▶ JobRemoved; ResetFailedUnit, so that nothing of the name is left
//! ```
//! A scope exists around processes that others have made, so there is no scope before the container's first
//! process. `Delegate` leaves everything below the scope to us, and systemd's hands off our control files.
//!
//! Deliberately absent: anything asynchronous, properties that are not limits, and systemd's private socket.

use super::directory::refused;
use super::location::Unit;
use crate::StepError;

mod bus;
pub(super) mod properties;
mod wire;

use bus::{Bus, Failure};
use wire::{Kind, Message, Value, Writer};

pub(super) use wire::Property;

const NAME: &str = "org.freedesktop.systemd1";
const PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";

/// Which jobs have ended. Others may say so too; who said it is checked against who took the job.
const ENDED_JOBS: &str = "type='signal',sender='org.freedesktop.systemd1',\
                          path='/org/freedesktop/systemd1',\
                          interface='org.freedesktop.systemd1.Manager',member='JobRemoved'";

const REMEDY: &str = "the systemd driver needs a host whose PID 1 is systemd (for a user: a user session), with a \
                      D-Bus daemon; otherwise use the cgroupfs driver, without --systemd-cgroup";

/// A connection to a systemd.
#[derive(Debug)]
pub(super) struct Systemd {
    bus: Bus,
}

/// Where a user's systemd and its bus are, or the system's.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seat {
    address: String,
    uid: u32,
}

impl Systemd {
    /// Connects to the system's, or to the user's own.
    pub(super) fn connect(user: bool) -> Result<Systemd, StepError> {
        let seat = Seat::find(user);
        let mut systemd = Systemd::at(&seat.address, seat.uid).map_err(|error| StepError {
            cause: format!("{}; {REMEDY}", error.cause),
            ..error
        })?;
        systemd.subscribe()?;
        Ok(systemd)
    }

    fn at(address: &str, uid: u32) -> Result<Systemd, StepError> {
        Ok(Systemd {
            bus: Bus::connect(address, uid)?,
        })
    }

    fn subscribe(&mut self) -> Result<(), StepError> {
        let mut rule = Writer::default();
        rule.text(ENDED_JOBS);
        let add = Message {
            destination: "org.freedesktop.DBus".into(),
            path: "/org/freedesktop/DBus".into(),
            interface: "org.freedesktop.DBus".into(),
            member: "AddMatch".into(),
            signature: "s".into(),
            body: rule.finish(),
            ..Message::new(Kind::Call, 0)
        };
        let subject = "signals of systemd";
        self.bus
            .call(add)
            .map_err(|failure| explain("listen for", subject, failure))?;
        // Without a subscriber systemd announces nothing.
        self.manager("Subscribe", "", Writer::default())
            .map_err(|failure| explain("subscribe to", subject, failure))?;
        Ok(())
    }

    /// Makes the unit with the process in it and waits until systemd has done so.
    pub(super) fn start(
        &mut self,
        unit: &Unit,
        pid: u32,
        limits: &[Property],
    ) -> Result<(), StepError> {
        let mut failure = match self.try_start(unit, pid, limits) {
            Ok(()) => return Ok(()),
            Err(failure) => failure,
        };
        // An older systemd does not know every property. Those limits then stand in the control files alone.
        if is(&failure, "PropertyReadOnly") || is(&failure, "UnknownProperty") {
            failure = match self.try_start(unit, pid, &[]) {
                Ok(()) => return Ok(()),
                Err(failure) => failure,
            };
        }
        // A unit of the name that has failed before keeps the name.
        if is(&failure, "UnitExists") {
            self.forget(unit)?;
            failure = match self.try_start(unit, pid, limits) {
                Ok(()) => return Ok(()),
                Err(failure) => failure,
            };
        }
        Err(explain("start systemd unit", &unit.name, failure))
    }

    fn try_start(&mut self, unit: &Unit, pid: u32, limits: &[Property]) -> Result<(), Failure> {
        let mut properties = vec![
            (
                "Description",
                Value::Text(format!("container {}", unit.name)),
            ),
            ("DefaultDependencies", Value::Bool(false)),
        ];
        if unit.name.ends_with(".slice") {
            properties.push(("Wants", Value::Texts(vec![unit.slice.clone()])));
        } else {
            properties.push(("Slice", Value::Text(unit.slice.clone())));
            properties.push(("Delegate", Value::Bool(true)));
            properties.push(("PIDs", Value::Numbers(vec![pid])));
        }
        for accounting in [
            "MemoryAccounting",
            "CPUAccounting",
            "IOAccounting",
            "TasksAccounting",
        ] {
            properties.push((accounting, Value::Bool(true)));
        }
        properties.extend(limits.iter().cloned());
        let mut body = Writer::default();
        body.text(&unit.name)
            .text("replace")
            .properties(&properties)
            .nothing();
        self.job("StartTransientUnit", "ssa(sv)a(sa(sv))", body)
    }

    /// Moves a process into a unit that is there, or into the group `below` it (`/a/b`, or nothing).
    pub(super) fn attach(&mut self, unit: &Unit, below: &str, pid: u32) -> Result<(), StepError> {
        let mut body = Writer::default();
        body.text(&unit.name).text(below).numbers(&[pid]);
        self.manager("AttachProcessesToUnit", "ssau", body)
            .map(drop)
            .map_err(|failure| explain("move process to systemd unit", &unit.name, failure))
    }

    /// Changes limits of a unit until the next boot.
    pub(super) fn set(&mut self, unit: &Unit, limits: &[Property]) -> Result<(), StepError> {
        if limits.is_empty() {
            return Ok(());
        }
        let mut body = Writer::default();
        body.text(&unit.name).bool(true).properties(limits);
        self.manager("SetUnitProperties", "sba(sv)", body)
            .map(drop)
            .map_err(|failure| explain("set limits of systemd unit", &unit.name, failure))
    }

    /// Stops the unit, which removes it; fine if it is gone.
    pub(super) fn stop(&mut self, unit: &Unit) -> Result<(), StepError> {
        let mut body = Writer::default();
        body.text(&unit.name).text("replace");
        match self.job("StopUnit", "ss", body) {
            Ok(()) => {}
            Err(failure) if is(&failure, "NoSuchUnit") => {}
            Err(failure) => return Err(explain("stop systemd unit", &unit.name, failure)),
        }
        self.forget(unit)
    }

    /// Lets go of a unit that has failed; fine if there is none.
    fn forget(&mut self, unit: &Unit) -> Result<(), StepError> {
        let mut body = Writer::default();
        body.text(&unit.name);
        match self.manager("ResetFailedUnit", "s", body) {
            Ok(_) | Err(Failure::Refused { .. }) => Ok(()),
            Err(Failure::Broken(error)) => Err(error),
        }
    }

    /// Calls a method that gives a job, and waits for the job's end.
    fn job(&mut self, method: &str, signature: &str, body: Writer) -> Result<(), Failure> {
        let answer = self.manager(method, signature, body)?;
        let job = answer.texts().into_iter().next().unwrap_or_default();
        // On a bus anybody may send us a signal; only whoever has taken the job may say how it ended.
        let ended = |signal: &Message| {
            signal.sender == answer.sender
                && signal.interface == MANAGER
                && signal.member == "JobRemoved"
                && signal.texts().first() == Some(&job)
        };
        let signal = self.bus.signal(ended)?;
        match signal.texts().get(2).map(String::as_str) {
            Some("done" | "skipped") => Ok(()),
            result => Err(Failure::Refused {
                name: "job".to_owned(),
                text: format!("its job ended as {:?}", result.unwrap_or("unknown")),
            }),
        }
    }

    fn manager(&mut self, method: &str, signature: &str, body: Writer) -> Result<Message, Failure> {
        self.bus.call(Message {
            destination: NAME.into(),
            path: PATH.into(),
            interface: MANAGER.into(),
            member: method.into(),
            signature: signature.into(),
            body: body.finish(),
            ..Message::new(Kind::Call, 0)
        })
    }
}

/// systemd's errors are named `org.freedesktop.systemd1.X` and `org.freedesktop.DBus.Error.X`.
fn is(failure: &Failure, wanted: &str) -> bool {
    match failure {
        Failure::Refused { name, .. } => name.rsplit('.').next() == Some(wanted),
        Failure::Broken(_) => false,
    }
}

fn explain(step: &str, subject: &str, failure: Failure) -> StepError {
    match failure {
        Failure::Broken(error) => error,
        Failure::Refused { name, text } => {
            let name = name.rsplit('.').next().unwrap_or_default();
            let remedy = match name {
                "ServiceUnknown" | "NameHasNoOwner" => format!("; {REMEDY}"),
                "AccessDenied" | "InteractiveAuthorizationRequired" => {
                    "; run as root, or rootless with a user's own systemd".to_owned()
                }
                _ => String::new(),
            };
            refused(step, subject, format!("{text} ({name}){remedy}"))
        }
    }
}

impl Seat {
    fn find(user: bool) -> Seat {
        let variable = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
        let uid = host_uid(
            &std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default(),
            rustix::process::geteuid().as_raw(),
        );
        let address = match user {
            false => variable("DBUS_SYSTEM_BUS_ADDRESS")
                .unwrap_or_else(|| "unix:path=/run/dbus/system_bus_socket".to_owned()),
            true => variable("DBUS_SESSION_BUS_ADDRESS").unwrap_or_else(|| {
                let directory =
                    variable("XDG_RUNTIME_DIR").unwrap_or_else(|| format!("/run/user/{uid}"));
                format!("unix:path={directory}/bus")
            }),
        };
        Seat { address, uid }
    }
}

/// Who we are outside of our user namespace, as the bus sees us (user_namespaces(7): inside, outside, count).
fn host_uid(map: &str, uid: u32) -> u32 {
    let outside = |line: &str| {
        let mut numbers = line.split_whitespace().map_while(|word| word.parse().ok());
        let (inside, outside, count): (u32, u32, u32) =
            (numbers.next()?, numbers.next()?, numbers.next()?);
        let offset = uid.checked_sub(inside).filter(|offset| *offset < count)?;
        outside.checked_add(offset)
    };
    map.lines().find_map(outside).unwrap_or(uid)
}

/// Where the groups of a user's units begin, from the roots; the system's begin at the roots themselves.
pub(super) fn base(user: bool) -> String {
    if !user {
        return String::new();
    }
    let uid = Seat::find(true).uid;
    format!("user.slice/user-{uid}.slice/user@{uid}.service/")
}

#[cfg(test)]
mod tests;
