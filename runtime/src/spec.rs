//! Reading `config.json`, and the rules of the OCI text that need no look at the host.
//!
//! The text is hostile until it is a [`Spec`]: it has a bound on its size, serde_json one on its depth, and
//! whatever the text has that this runtime does not know is left alone, as the OCI text demands. A field
//! of the wrong type is an error that names its place (`linux.namespaces[2].type`). A capability that nobody
//! knows is left out with a warning: the one case where the OCI text wants a value ignored.
//!
//! What the OCI text leaves to the author and the types here do not, `linux` and `process.user`, is read as if it
//! said nothing. Deliberately absent: all other defaults, and everything that depends on the host; see
//! [`crate::plan`].

mod place;
mod words;

use std::io::Read;
use std::path::Path;

use oci_spec::runtime::{Capability, LinuxResources, Process, Spec};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::StepError;
use crate::error::Context;
use words::plain;

/// Name of the file in a bundle.
pub(crate) const CONFIG: &str = "config.json";
/// The largest known have half a megabyte.
const SIZE_MAX: u64 = 16 << 20;
/// What a capability set is called, wherever one stands.
const CAPABILITY_SETS: [&str; 5] = [
    "bounding",
    "effective",
    "inheritable",
    "permitted",
    "ambient",
];

/// The names of the OCI text, and what the crate of types calls them.
const SCHEDULER_FLAGS: [(&str, &str); 2] = [
    ("SCHED_FLAG_RESET_ON_FORK", "SCHED_RESET_ON_FORK"),
    ("SCHED_FLAG_DL_OVERRUN", "SCHED_FLAG_D_L_OVERRUN"),
];

/// A spec as it was read.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// What it says.
    pub(crate) spec: Spec,
    /// What was left out, in words for a log.
    pub(crate) warnings: Vec<String>,
    /// The bytes it was read from: a container keeps these, whatever happens to the bundle.
    pub(crate) text: Vec<u8>,
}

/// Reads a `config.json`.
pub(crate) fn read_config(path: &Path) -> Result<Config, StepError> {
    let text = read_bounded(path).map_err(|error| match error.errno {
        Some(errno) if errno == Errno::NOENT.raw_os_error() => StepError {
            cause:
                "it does not exist; `longshore-runtime spec --bundle DIR` writes one to begin with"
                    .into(),
            ..error
        },
        _ => error,
    })?;
    let subject = path.display().to_string();
    let (spec, warnings) = spec_of(&text, &subject)?;
    Ok(Config {
        spec,
        warnings,
        text,
    })
}

/// The spec that a text is, and what was left out of it. `subject` names the text in errors.
pub fn spec_of(text: &[u8], subject: &str) -> Result<(Spec, Vec<String>), StepError> {
    let (mut spec, warnings) = parse_spec(text, subject)?;
    check(&spec, subject)?;
    let linux = spec.linux_mut().as_mut();
    if let Some(resources) = linux.and_then(|linux| linux.resources_mut().as_mut()) {
        leave_out_empty_pids(resources, text, "/linux/resources/pids/limit");
    }
    Ok((spec, warnings))
}

/// Reads a spec that a container has kept: it was checked when the container was made.
pub(crate) fn parse_kept(text: &[u8], subject: &str) -> Result<Spec, StepError> {
    parse_spec(text, subject).map(|(spec, _)| spec)
}

/// The OCI text asks no spec for `linux`: without it nothing is isolated, limited or hidden.
fn parse_spec(text: &[u8], subject: &str) -> Result<(Spec, Vec<String>), StepError> {
    let (mut spec, warnings): (Spec, _) = parse(text, subject)?;
    if spec.linux().is_none() {
        // Not its default, which lists what its authors found useful.
        spec.set_linux(serde_json::from_str("{}").ok());
    }
    Ok((spec, warnings))
}

/// Reads the `Process` object that `exec --process` names, and what was left out of it.
pub(crate) fn read_process(path: &Path) -> Result<(Process, Vec<String>), StepError> {
    parse(&read_bounded(path)?, &path.display().to_string())
}

/// Reads the `LinuxResources` object that `update --resources` names.
pub(crate) fn parse_resources(text: &[u8], subject: &str) -> Result<LinuxResources, StepError> {
    let (mut resources, _) = parse(text, subject)?;
    leave_out_empty_pids(&mut resources, text, "/pids/limit");
    Ok(resources)
}

/// `"pids": {}` means no limit, but its type here has a 0 in it, which is a limit.
fn leave_out_empty_pids(resources: &mut LinuxResources, text: &[u8], limit: &str) {
    let zero = resources.pids().is_some_and(|pids| pids.limit() == 0);
    let given =
        || serde_json::from_slice::<Value>(text).is_ok_and(|all| all.pointer(limit).is_some());
    if zero && !given() {
        resources.set_pids(None);
    }
}

/// A file's bytes, if they are not too many.
pub(crate) fn read_bounded(path: &Path) -> Result<Vec<u8>, StepError> {
    let subject = path.display();
    // O_NONBLOCK: a fifo in the place of the file must not hold the runtime.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = rustix::fs::openat(CWD, path, flags, Mode::empty()).context("open", &subject)?;
    read_stream(file.into(), &subject.to_string())
}

/// As [`read_bounded`], from what is open already.
pub(crate) fn read_stream(file: std::fs::File, subject: &str) -> Result<Vec<u8>, StepError> {
    // Large enough for most, so that it is read at once.
    let mut text = Vec::with_capacity(64 << 10);
    file.take(SIZE_MAX + 1)
        .read_to_end(&mut text)
        .context("read", subject)?;
    if text.len() as u64 > SIZE_MAX {
        let cause = format!("it has more than {SIZE_MAX} bytes; make it smaller");
        return Err(StepError::refused("read", subject, cause));
    }
    Ok(text)
}

fn parse<T: DeserializeOwned>(text: &[u8], subject: &str) -> Result<(T, Vec<String>), StepError> {
    // serde takes an array for a struct, field by field.
    if text.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[') {
        return Err(StepError::refused("read", subject, "it is no JSON object"));
    }
    match serde_json::from_slice(text) {
        Ok(parsed) => Ok((parsed, Vec::new())),
        // Only now is it worth the time to learn where, and whether an unknown capability is all.
        Err(error) => parse_again(text, subject, &error),
    }
}

fn parse_again<T: DeserializeOwned>(
    text: &[u8],
    subject: &str,
    error: &serde_json::Error,
) -> Result<(T, Vec<String>), StepError> {
    let refuse = |cause: String| StepError::refused("read", subject, cause);
    if error.to_string().starts_with("trailing characters") {
        return Err(refuse("there is text after the JSON object".into()));
    }
    let refusal = || refuse(explained::<T>(text, error, error.to_string()));
    let Ok(mut value) = serde_json::from_slice::<Value>(text) else {
        return Err(refusal());
    };
    let mut unknown = Vec::new();
    if !mend(&mut value, &mut unknown) {
        return Err(refusal());
    }
    unknown.sort();
    unknown.dedup();
    let mended = value.to_string();
    let parsed = serde_json::from_str(&mended).map_err(|error| {
        // The position is one in a text that nobody has seen.
        refuse(explained::<T>(
            mended.as_bytes(),
            &error,
            without_position(&error),
        ))
    })?;
    let warnings = unknown
        .iter()
        .map(|name| format!("{subject}: capability {name:?} is unknown: left out"));
    Ok((parsed, warnings.collect()))
}

/// What was said of the text, behind the path of the place where it went wrong.
fn explained<T: DeserializeOwned>(text: &[u8], error: &serde_json::Error, said: String) -> String {
    let said = plain(text, &said);
    match path::<T>(text, error) {
        path if path.is_empty() => said,
        path => format!("{path}: {said}"),
    }
}

/// The path of the place where it went wrong. What a type's own code refuses has no position until somebody looks at what
/// comes next; behind an object's last member that is the object's end, so that the object would be named. With one more
/// member behind it, it is the member.
fn path<T: DeserializeOwned>(text: &[u8], error: &serde_json::Error) -> String {
    let position = (error.line(), error.column());
    if let Some(longer) = place::with_one_more_member(text, position)
        && let Err(again) = serde_json::from_slice::<T>(&longer)
        && without_position(&again) == without_position(error)
    {
        return place::place(&longer, (again.line(), again.column()));
    }
    place::place(text, position)
}

/// An error without its position.
fn without_position(error: &serde_json::Error) -> String {
    let said = error.to_string();
    let position = format!(" at line {} column {}", error.line(), error.column());
    said.strip_suffix(&position).unwrap_or(&said).to_owned()
}

/// Makes of a valid object what the types of this program take; whether anything had to be changed.
fn mend(value: &mut Value, unknown: &mut Vec<String>) -> bool {
    // A spec has a process; else this may be one.
    let process = match value.get("process").is_some() {
        true => value.get_mut("process"),
        false => Some(value),
    };
    let Some(Value::Object(process)) = process else {
        return false;
    };
    let mut changed = false;
    // The OCI text asks a process for its working directory alone; 0 is what it says of uid and gid.
    let any = ["cwd", "args"].iter().any(|key| process.contains_key(*key));
    if any && !process.contains_key("user") {
        process.insert("user".into(), json!({"uid": 0, "gid": 0}));
        changed = true;
    }
    if let Some(capabilities) = process.get_mut("capabilities") {
        leave_out_unknown_capabilities(capabilities, unknown);
        changed |= !unknown.is_empty();
    }
    let flags = process
        .get_mut("scheduler")
        .and_then(|scheduler| scheduler.get_mut("flags"));
    for flag in flags.and_then(Value::as_array_mut).into_iter().flatten() {
        let renamed = SCHEDULER_FLAGS
            .iter()
            .find(|(name, _)| flag.as_str() == Some(name));
        if let Some((_, ours)) = renamed {
            *flag = Value::from(*ours);
            changed = true;
        }
    }
    // An empty list of CPUs says nothing.
    if let Some(Value::Object(affinity)) = process.get_mut("execCPUAffinity") {
        let before = affinity.len();
        affinity.retain(|_, cpus| cpus.as_str() != Some(""));
        changed |= affinity.len() != before;
    }
    changed
}

fn leave_out_unknown_capabilities(capabilities: &mut Value, unknown: &mut Vec<String>) {
    let Some(sets) = capabilities.as_object_mut() else {
        return;
    };
    for set in CAPABILITY_SETS {
        let Some(Value::Array(names)) = sets.get_mut(set) else {
            continue;
        };
        names.retain(|name| {
            let known = serde_json::from_value::<Capability>(name.clone()).is_ok();
            match name.as_str() {
                Some(name) if !known => {
                    unknown.push(name.to_owned());
                    false
                }
                _ => true,
            }
        });
    }
}

/// What the OCI text demands of every configuration and the planner has no use for.
fn check(spec: &Spec, subject: &str) -> Result<(), StepError> {
    let refuse = |place: &str, cause: &str| {
        Err(StepError::refused(
            "read",
            subject,
            format!("{place}: {cause}"),
        ))
    };
    match spec.root() {
        None => return refuse("root", "the spec must have it"),
        Some(root) if root.path().as_os_str().is_empty() => {
            return refuse("root.path", "it must name a directory");
        }
        Some(_) => {}
    }
    if spec.annotations().iter().any(|all| all.contains_key("")) {
        return refuse("annotations", "a key must not be empty");
    }
    Ok(())
}

#[cfg(test)]
mod tests;
