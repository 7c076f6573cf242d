//! The options before the command's name.

use std::path::Path;

use super::log::{Format, Log};
use super::options::{Given, Opt};
use crate::StepError;
use crate::cgroup::Driver;
use crate::state::Root;

pub(super) const OPTIONS: [Opt; 9] = [
    Opt::value(
        "root",
        "DIR",
        "Where containers are recorded (default: /run/longshore-runtime, or $XDG_RUNTIME_DIR/longshore-runtime).",
    ),
    Opt::value("log", "FILE", "Append errors and warnings to this file."),
    Opt::value("log-format", "FORMAT", "How: text (default) or json."),
    Opt::switch(
        "debug",
        "Log what is planned, too; without --log on standard error.",
    ),
    Opt::value(
        "cgroup-manager",
        "DRIVER",
        "Who makes cgroups: cgroupfs (default), systemd, or disabled.",
    ),
    Opt::switch("systemd-cgroup", "The same as --cgroup-manager systemd."),
    Opt::value(
        "rootless",
        "WHEN",
        "Bear a host that refuses cgroups: true, false, or auto (default).",
    ),
    Opt::value(
        "criu",
        "PATH",
        "Refused: only checkpoint and restore would use it, and they are not supported.",
    ),
    Opt::switch("version", "Print the version.").or('v'),
];

/// What they mean.
#[derive(Debug)]
pub(crate) struct Globals {
    /// As [`Globals::root`] gives it.
    root: Result<Root, StepError>,
    /// Where to say what happened.
    pub(crate) log: Log,
    /// Who makes cgroups.
    pub(crate) driver: Driver,
    /// Whether there is no privilege on the host, so that what the host refuses may be done without.
    pub(crate) rootless: bool,
}

impl Globals {
    pub(super) fn of(given: &Given) -> Result<Globals, StepError> {
        let refuse = |option: &str, value: &str, cause: &str| {
            StepError::refused("read option", format!("--{option} {value}"), cause)
        };
        let format = match given.text("log-format")? {
            None | Some("text" | "") => Format::Text,
            Some("json") => Format::Json,
            Some(other) => return Err(refuse("log-format", other, "it is none of text and json")),
        };
        let path = given.value("log").filter(|path| !path.is_empty());
        let log = Log::open(path.map(Path::new), format, given.has("debug"))?;
        if let Some(path) = given.text("criu")? {
            let cause = "checkpoint and restore are not supported; leave the option out";
            return Err(refuse("criu", path, cause));
        }
        let rootless = match given.text("rootless")? {
            None | Some("auto" | "") => is_rootless(),
            Some("true") => true,
            Some("false") => false,
            Some(other) => {
                let cause = "it is none of true, false and auto";
                return Err(refuse("rootless", other, cause));
            }
        };
        let driver = match given.text("cgroup-manager")? {
            None if given.has("systemd-cgroup") => Driver::Systemd,
            None => Driver::default(),
            Some(name) => name.parse()?,
        };
        let root = match given.value("root").filter(|path| !path.is_empty()) {
            Some(path) => Root::named(Path::new(path)),
            None => Root::by_default(has_own_run_directory()),
        };
        Ok(Globals {
            root,
            log,
            driver,
            rootless,
        })
    }

    /// Where containers are recorded. That there is no such place concerns only the commands that need one.
    pub(super) fn root(&self) -> Result<&Root, StepError> {
        self.root.as_ref().map_err(StepError::clone)
    }
}

/// Root on the host, and not in a user namespace that somebody without privilege made.
fn is_rootless() -> bool {
    !rustix::process::geteuid().is_root() || in_user_namespace()
}

/// user_namespaces(7): the initial one maps every id to itself.
fn in_user_namespace() -> bool {
    let map = crate::kernel_text::read_string("/proc/self/uid_map").unwrap_or_default();
    let numbers: Vec<&str> = map.split_whitespace().collect();
    !map.is_empty() && numbers != ["0", "0", "4294967295"]
}

/// Whether state belongs into $XDG_RUNTIME_DIR: to a user, and to a user who calls themselves root in a user
/// namespace. There $USER tells whether it is root's own.
fn has_own_run_directory() -> bool {
    if !rustix::process::geteuid().is_root() {
        return true;
    }
    let set = std::env::var_os("XDG_RUNTIME_DIR").is_some_and(|path| !path.is_empty());
    set && std::env::var_os("USER").is_none_or(|user| user != "root") && in_user_namespace()
}
