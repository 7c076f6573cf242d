//! The device list of `linux.resources.devices`: its rules.
//!
//! The rules are read in order and the last one that matches wins; what none matches is denied, also when
//! the list does not begin with "deny all". An empty list changes nothing. v1's form is `settled`,
//! v2's `device_program`.

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

use super::directory::refused;
use super::limits::STEP;
use crate::StepError;

mod settled;

pub(super) use settled::{Settled, settle, v1_writes};

/// A container's list has about 20 rules; a program of this many is still one the kernel loads.
const MAX_RULES: usize = 512;

/// Access bits, with the values of BPF_DEVCG_ACC_* (linux/bpf.h).
pub(super) const MKNOD: u8 = 1;
pub(super) const READ: u8 = 2;
pub(super) const WRITE: u8 = 4;
pub(super) const ALL: u8 = MKNOD | READ | WRITE;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Block,
    Char,
}

/// A rule, checked. None stands for any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) allow: bool,
    pub(super) kind: Option<Kind>,
    pub(super) major: Option<u32>,
    pub(super) minor: Option<u32>,
    pub(super) access: u8,
}

/// Reads the list.
pub(super) fn rules(list: &[LinuxDeviceCgroup]) -> Result<Vec<Rule>, StepError> {
    if list.len() > MAX_RULES {
        let cause = format!("{} rules are more than {MAX_RULES}", list.len());
        return Err(refused(STEP, "linux.resources.devices", cause));
    }
    list.iter()
        .enumerate()
        .map(|(at, given)| rule(at, given))
        .collect()
}

/// Devices that every container may use: all that a terminal and a C library need, and making nodes of any
/// kind, since a node that may not be opened harms nobody. `/dev/console` is not among them: a container's
/// is a pty of its own, and 5:1 would be the host's.
const EVERY_CONTAINER: [(Option<u32>, Option<u32>, u8); 9] = [
    (None, None, MKNOD),
    (Some(1), Some(3), ALL), // null
    (Some(1), Some(5), ALL), // zero
    (Some(1), Some(7), ALL), // full
    (Some(1), Some(8), ALL), // random
    (Some(1), Some(9), ALL), // urandom
    (Some(5), Some(0), ALL), // tty
    (Some(5), Some(2), ALL), // ptmx
    (Some(136), None, ALL),  // pts
];

/// A container's list: the given rules and then those of every container, which therefore hold whatever the
/// given ones say. Without given rules everything else is denied.
pub(super) fn of_container(list: &[LinuxDeviceCgroup]) -> Result<Vec<Rule>, StepError> {
    let mut all = rules(list)?;
    all.push(Rule {
        allow: true,
        kind: Some(Kind::Block),
        major: None,
        minor: None,
        access: MKNOD,
    });
    all.extend(EVERY_CONTAINER.map(|(major, minor, access)| Rule {
        allow: true,
        kind: Some(Kind::Char),
        major,
        minor,
        access,
    }));
    Ok(all)
}

fn rule(at: usize, given: &LinuxDeviceCgroup) -> Result<Rule, StepError> {
    let refuse = |cause: String| refused(STEP, subject(at), cause);
    let kind = match given.typ() {
        None | Some(LinuxDeviceType::A) => None,
        Some(LinuxDeviceType::B) => Some(Kind::Block),
        Some(LinuxDeviceType::C | LinuxDeviceType::U) => Some(Kind::Char),
        Some(LinuxDeviceType::P) => {
            return Err(refuse(
                "a FIFO is no device that a group could refuse".to_owned(),
            ));
        }
    };
    let number = |value: Option<i64>| match value {
        None | Some(-1) => Ok(None),
        // dev_t has 12 bits for the major and 20 for the minor number.
        Some(value) => match u32::try_from(value) {
            Ok(number) if number < 1 << 20 => Ok(Some(number)),
            _ => Err(refuse(format!("{value} is no device number"))),
        },
    };
    Ok(Rule {
        allow: given.allow(),
        kind,
        major: number(given.major())?,
        minor: number(given.minor())?,
        access: access(given.access().as_deref()).map_err(refuse)?,
    })
}

fn subject(at: usize) -> String {
    format!("linux.resources.devices[{at}]")
}

/// Absent means all three.
fn access(text: Option<&str>) -> Result<u8, String> {
    let text = text.filter(|text| !text.is_empty()).unwrap_or("rwm");
    text.chars().try_fold(0, |bits, letter| match letter {
        'r' => Ok(bits | READ),
        'w' => Ok(bits | WRITE),
        'm' => Ok(bits | MKNOD),
        other => Err(format!("access {other:?} is none of r, w and m")),
    })
}

/// What the rules say of one request, word for word: the judge of the tests for both versions.
#[cfg(test)]
pub(super) fn judge(rules: &[Rule], kind: Kind, major: u32, minor: u32, access: u8) -> bool {
    [MKNOD, READ, WRITE]
        .into_iter()
        .filter(|bit| access & bit != 0)
        .all(|bit| {
            let fits = |rule: &&Rule| {
                rule.kind.is_none_or(|wanted| wanted == kind)
                    && rule.major.is_none_or(|wanted| wanted == major)
                    && rule.minor.is_none_or(|wanted| wanted == minor)
                    && rule.access & bit != 0
            };
            rules.iter().rev().find(fits).is_some_and(|rule| rule.allow)
        })
}

#[cfg(test)]
pub(super) fn any_rules() -> impl proptest::strategy::Strategy<Value = Vec<Rule>> {
    use proptest::prelude::*;
    let kind = prop_oneof![Just(None), Just(Some(Kind::Block)), Just(Some(Kind::Char))];
    let number = prop_oneof![Just(None), (0u32..3).prop_map(Some)];
    let rule = (any::<bool>(), kind, number.clone(), number, 1u8..8).prop_map(
        |(allow, kind, major, minor, access)| Rule {
            allow,
            kind,
            major,
            minor,
            access,
        },
    );
    proptest::collection::vec(rule, 0..8)
}
