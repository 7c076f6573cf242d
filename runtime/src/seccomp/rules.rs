//! An OCI seccomp object, checked and turned into "call number -> outcome".
//!
//! Within a call the rules are tried in the order in which the profile has them, and the first one whose
//! conditions all hold decides; if none does, the default action. (libseccomp forgets the order and lets an
//! unconditional rule swallow the others; a profile with one action per call means the same to both.)

use std::collections::BTreeMap;

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag,
    LinuxSeccompOperator, LinuxSyscall,
};

use super::{refused, syscalls};
use crate::StepError;

// SECCOMP_RET_* (linux/seccomp.h)
const KILL_PROCESS: u32 = 0x8000_0000;
const KILL_THREAD: u32 = 0;
const TRAP: u32 = 0x0003_0000;
const ERRNO: u32 = 0x0005_0000;
const TRACE: u32 = 0x7ff0_0000;
const LOG: u32 = 0x7ffc_0000;
const ALLOW: u32 = 0x7fff_0000;

/// The answer to calls that do not exist for this process.
pub(super) const NO_SUCH_CALL: u32 = ERRNO | libc::ENOSYS as u32;

/// Calls of the x32 ABI bear this bit in their number (asm/unistd.h).
#[cfg(target_arch = "x86_64")]
const X32: u32 = 0x4000_0000;

/// A call has six arguments, so this many conditions is more than any rule needs; and it keeps the
/// jumps within a rule short.
const MAX_CONDITIONS: usize = 16;

/// What happens to a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) rules: Vec<Rule>,
    /// SECCOMP_RET_* if no rule matches.
    pub(super) otherwise: u32,
}

/// An action under conditions that must all hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    /// Not empty: what has no conditions ends an outcome.
    pub(super) conditions: Vec<Condition>,
    pub(super) action: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Condition {
    /// 0 to 5.
    pub(super) argument: u8,
    pub(super) test: Test,
    pub(super) value: u64,
}

/// Comparisons of the argument with the value, unsigned and 64 bits wide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Test {
    Equal,
    NotEqual,
    Less,
    AtMost,
    AtLeast,
    Greater,
    /// Argument and value are equal in the bits of this mask.
    Masked(u64),
}

/// The whole range of call numbers as segments, ascending, neighbours different, the first one from 0.
pub(super) fn segments(profile: &LinuxSeccomp) -> Result<Vec<(u32, Outcome)>, StepError> {
    check_architectures(profile)?;
    if profile.listener_path().is_some() {
        return Err(refused(
            "listenerPath",
            "there is no SCMP_ACT_NOTIFY here; leave it out",
        ));
    }
    let default = profile.default_action();
    let otherwise = action("defaultAction", default, profile.default_errno_ret())?;
    // A call that the table does not know is newer than it. Programs are written to fall back when such a
    // call is missing, and many are not when it is forbidden; a profile that kills keeps killing.
    let unknown = match default {
        LinuxSeccompAction::ScmpActErrno => NO_SUCH_CALL,
        _ => otherwise,
    };
    let constant = |otherwise| Outcome {
        rules: Vec::new(),
        otherwise,
    };
    let mut listed = rules_by_number(profile)?;
    let mut segments = vec![(0, constant(unknown))];
    for number in syscalls::numbers() {
        let rules = listed.remove(&number).unwrap_or_default();
        segments.push((number, outcome(rules, otherwise)));
        segments.push((number + 1, constant(unknown)));
    }
    // A tracer that skips a call leaves number -1 behind, which is no call and needs no foreign answer.
    #[cfg(target_arch = "x86_64")]
    segments.extend([
        (X32, constant(NO_SUCH_CALL)),
        (u32::MAX, constant(otherwise)),
    ]);
    Ok(merge(segments))
}

/// Later entries for the same start win; equal neighbours become one.
fn merge(segments: Vec<(u32, Outcome)>) -> Vec<(u32, Outcome)> {
    let by_start: BTreeMap<u32, Outcome> = segments.into_iter().collect();
    let mut merged: Vec<(u32, Outcome)> = Vec::new();
    for (start, outcome) in by_start {
        if merged.last().is_none_or(|(_, before)| *before != outcome) {
            merged.push((start, outcome));
        }
    }
    merged
}

/// Rules in their order; the first without conditions is the end of it.
fn outcome(rules: Vec<Rule>, mut otherwise: u32) -> Outcome {
    let mut kept = Vec::new();
    for rule in rules {
        if rule.conditions.is_empty() {
            otherwise = rule.action;
            break;
        }
        kept.push(rule);
    }
    // What only repeats the last word needs no code.
    while kept.last().is_some_and(|rule| rule.action == otherwise) {
        kept.pop();
    }
    Outcome {
        rules: kept,
        otherwise,
    }
}

fn rules_by_number(profile: &LinuxSeccomp) -> Result<BTreeMap<u32, Vec<Rule>>, StepError> {
    let mut by_number: BTreeMap<u32, Vec<Rule>> = BTreeMap::new();
    for (at, entry) in profile.syscalls().iter().flatten().enumerate() {
        let rule = rule(at, entry)?;
        for name in entry.names() {
            // The specification: names that this machine does not know are passed over.
            if let Some(number) = syscalls::number(name) {
                by_number.entry(number).or_default().push(rule.clone());
            }
        }
    }
    Ok(by_number)
}

fn rule(at: usize, entry: &LinuxSyscall) -> Result<Rule, StepError> {
    let subject = format!("syscalls[{at}]");
    let args = entry.args().as_deref().unwrap_or_default();
    if args.len() > MAX_CONDITIONS {
        let cause = format!(
            "{} conditions in one rule are more than {MAX_CONDITIONS}",
            args.len()
        );
        return Err(refused(subject, cause));
    }
    let conditions = args
        .iter()
        .map(|arg| condition(&subject, arg))
        .collect::<Result<_, _>>()?;
    let action = action(&subject, entry.action(), entry.errno_ret())?;
    Ok(Rule { conditions, action })
}

fn condition(subject: &str, arg: &LinuxSeccompArg) -> Result<Condition, StepError> {
    let argument = match u8::try_from(arg.index()) {
        Ok(index) if index < 6 => index,
        _ => {
            let cause = format!("argument {} does not exist: 0 to 5 do", arg.index());
            return Err(refused(subject, cause));
        }
    };
    let (test, value) = match arg.op() {
        LinuxSeccompOperator::ScmpCmpEq => (Test::Equal, arg.value()),
        LinuxSeccompOperator::ScmpCmpNe => (Test::NotEqual, arg.value()),
        LinuxSeccompOperator::ScmpCmpLt => (Test::Less, arg.value()),
        LinuxSeccompOperator::ScmpCmpLe => (Test::AtMost, arg.value()),
        LinuxSeccompOperator::ScmpCmpGe => (Test::AtLeast, arg.value()),
        LinuxSeccompOperator::ScmpCmpGt => (Test::Greater, arg.value()),
        // seccomp_rule_add(3): here `value` is the mask and `valueTwo` what is compared under it.
        LinuxSeccompOperator::ScmpCmpMaskedEq => {
            (Test::Masked(arg.value()), arg.value_two().unwrap_or(0))
        }
    };
    Ok(Condition {
        argument,
        test,
        value,
    })
}

/// The SECCOMP_RET_* value.
fn action(subject: &str, action: LinuxSeccompAction, errno: Option<u32>) -> Result<u32, StepError> {
    let data = |most: u32| match errno.unwrap_or(libc::EPERM as u32) {
        number if number <= most => Ok(number),
        number => Err(refused(
            subject,
            format!("errnoRet {number} is above {most}"),
        )),
    };
    let value = match action {
        LinuxSeccompAction::ScmpActErrno => return Ok(ERRNO | data(4095)?), // MAX_ERRNO
        LinuxSeccompAction::ScmpActTrace => return Ok(TRACE | data(0xffff)?), // SECCOMP_RET_DATA
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => KILL_THREAD,
        LinuxSeccompAction::ScmpActKillProcess => KILL_PROCESS,
        LinuxSeccompAction::ScmpActTrap => TRAP,
        LinuxSeccompAction::ScmpActLog => LOG,
        LinuxSeccompAction::ScmpActAllow => ALLOW,
        LinuxSeccompAction::ScmpActNotify => {
            let cause = "SCMP_ACT_NOTIFY needs an agent that answers, which this runtime does not offer; \
                         use SCMP_ACT_ERRNO";
            return Err(refused(subject, cause));
        }
    };
    match errno {
        None => Ok(value),
        Some(_) => Err(refused(
            subject,
            "errnoRet goes with SCMP_ACT_ERRNO and SCMP_ACT_TRACE only",
        )),
    }
}

#[cfg(target_arch = "x86_64")]
const NATIVE: Arch = Arch::ScmpArchX86_64;
#[cfg(target_arch = "aarch64")]
const NATIVE: Arch = Arch::ScmpArchAarch64;

/// Calls of other architectures are answered with ENOSYS, listed or not: profiles usually list the 32-bit
/// siblings beside the native one. A profile without the native one was not written for this machine.
fn check_architectures(profile: &LinuxSeccomp) -> Result<(), StepError> {
    let listed = profile.architectures().as_deref().unwrap_or_default();
    let native = [NATIVE, Arch::ScmpArchNative];
    if listed.is_empty() || listed.iter().any(|arch| native.contains(arch)) {
        return Ok(());
    }
    let cause = format!("this machine's architecture is not among {listed:?}: add {NATIVE:?}");
    Err(refused("architectures", cause))
}

/// SECCOMP_FILTER_FLAG_* bits.
pub(super) fn flags(profile: &LinuxSeccomp) -> Result<u32, StepError> {
    let mut bits = 0;
    for flag in profile.flags().iter().flatten() {
        bits |= match flag {
            LinuxSeccompFilterFlag::SeccompFilterFlagTsync => 1,
            LinuxSeccompFilterFlag::SeccompFilterFlagLog => 2,
            LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => 4,
            LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => {
                let cause = "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV goes with SCMP_ACT_NOTIFY, which is not \
                             supported; leave it out";
                return Err(refused("flags", cause));
            }
        };
    }
    Ok(bits)
}
