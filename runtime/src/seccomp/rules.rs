//! An OCI seccomp object, checked and turned into "call number -> outcome" for each architecture.
//!
//! The OCI text says nothing of several rules for one call. Profiles are written and tried below runtimes that use
//! libseccomp, so they mean here what they mean there:
//! - a rule with the default action is passed over;
//! - a rule without conditions decides alone, wherever it stands; of several the first;
//! - of rules with conditions the narrower is asked first ([`narrower_first`]), the profile's order decides ties;
//! - conditions of one rule must all hold, but if two of them look at the same argument, any of them suffices.
//!
//! Two differences, both to the safe side: libseccomp refuses a profile with two actions for the very same
//! condition, where here the first counts; and it lets a rule with conditions decide x86's multiplexed form of a call
//! without looking at them (see [`behind_multiplexer`]).

use std::cmp::{Ordering, Reverse};

use oci_spec::runtime::{
    LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag,
    LinuxSeccompOperator, LinuxSyscall,
};

use super::abi::{Abi, X32_BIT};
use super::syscalls::{self, ARM_PRIVATE, IPC, SOCKETCALL};
use super::{
    ALLOW, ERRNO, KILL_PROCESS, KILL_THREAD, LOG, NO_SUCH_CALL, NOTIFY, TRACE, TRAP, refused,
};
use crate::StepError;

/// More rules than a filter could hold anyway; a bound for the work on a profile that somebody made to be large.
const MAX_RULES: usize = 1 << 16;

/// The calls of one architecture.
#[derive(Debug)]
pub(super) struct Section {
    /// AUDIT_ARCH_*
    pub(super) audit: u32,
    /// The whole range of call numbers: ascending, neighbours different, the first one from 0.
    pub(super) segments: Vec<(u32, Outcome)>,
}

impl Section {
    /// What happens to a number.
    pub(super) fn outcome(&self, number: u32) -> Option<&Outcome> {
        let after = self.segments.partition_point(|(start, _)| *start <= number);
        Some(&self.segments.get(after.checked_sub(1)?)?.1)
    }
}

/// What happens to a call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    /// None is without conditions; the first that holds decides.
    pub(super) rules: Vec<Rule>,
    /// SECCOMP_RET_* if no rule matches.
    pub(super) otherwise: u32,
}

impl Outcome {
    fn constant(otherwise: u32) -> Outcome {
        let rules = Vec::new();
        Outcome { rules, otherwise }
    }
}

/// An action under conditions that must all hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    /// By argument, ascending, none twice.
    pub(super) conditions: Vec<Condition>,
    pub(super) action: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Condition {
    /// 0 to 5.
    pub(super) argument: u8,
    pub(super) test: Test,
    pub(super) value: u64,
    /// Only the lower halves are compared.
    pub(super) narrow: bool,
}

/// Comparisons of the argument with the value, unsigned.
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

/// One section for each AUDIT_ARCH_* of the ABIs, in their order.
pub(super) fn sections(profile: &LinuxSeccomp, abis: &[Abi]) -> Result<Vec<Section>, StepError> {
    let default = profile.default_action();
    let otherwise = action("defaultAction", default, profile.default_errno_ret())?;
    let rules = Rules::of(profile, otherwise, abis)?;
    let mut sections: Vec<Section> = Vec::new();
    for (at, abi) in abis.iter().enumerate() {
        let segments = rules.segments(at, default == LinuxSeccompAction::ScmpActErrno);
        match sections.iter_mut().find(|have| have.audit == abi.audit()) {
            Some(same) => same.segments.extend(segments),
            None => sections.push(Section {
                audit: abi.audit(),
                segments,
            }),
        }
    }
    if abis.contains(&Abi::X86_64) && !abis.contains(&Abi::X32) {
        close_x32(&mut sections[0].segments, otherwise);
    }
    for section in &mut sections {
        section
            .segments
            .dedup_by(|later, earlier| later.1 == earlier.1);
    }
    Ok(sections)
}

/// x32's numbers belong to another architecture. -1 is what a tracer leaves behind that skipped a call: no call,
/// and no foreign one.
fn close_x32(segments: &mut Vec<(u32, Outcome)>, otherwise: u32) {
    segments.push((X32_BIT, Outcome::constant(NO_SUCH_CALL)));
    segments.push((u32::MAX, Outcome::constant(otherwise)));
}

/// The rules of a profile, and which calls they are for.
#[derive(Debug)]
struct Rules<'a> {
    abis: &'a [Abi],
    otherwise: u32,
    rules: Vec<Rule>,
    /// Of each ABI: (key, rule). A key is a number or, above [`BEHIND`], a call behind a multiplexer.
    calls: Vec<Vec<(u32, usize)>>,
    /// Of each ABI: the largest number that the profile names, whatever it says of it.
    largest: Vec<Option<u32>>,
}

/// Keys of calls behind a multiplexer: this, the multiplexer shifted by 8, the number behind it.
const BEHIND: u32 = 0x8000_0000;

impl<'a> Rules<'a> {
    fn of(profile: &LinuxSeccomp, otherwise: u32, abis: &'a [Abi]) -> Result<Self, StepError> {
        let mut all = Rules {
            abis,
            otherwise,
            rules: Vec::new(),
            calls: vec![Vec::with_capacity(512); abis.len()],
            largest: vec![None; abis.len()],
        };
        for (at, entry) in profile.syscalls().iter().flatten().enumerate() {
            all.add(at, entry)?;
        }
        Ok(all)
    }

    fn add(&mut self, at: usize, entry: &LinuxSyscall) -> Result<(), StepError> {
        let rules = rules(at, entry)?;
        let first = self.rules.len();
        if rules
            .first()
            .is_some_and(|rule| rule.action != self.otherwise)
        {
            self.rules.extend(rules);
        }
        for name in entry.names() {
            // The specification: names that this machine does not know are passed over.
            self.name(name, first..self.rules.len());
            if self.calls.iter().any(|calls| calls.len() > MAX_RULES) {
                let cause = format!("more than {MAX_RULES} rules are more than a filter holds");
                return Err(refused(format!("syscalls[{at}]"), cause));
            }
        }
        Ok(())
    }

    fn name(&mut self, name: &str, rules: std::ops::Range<usize>) {
        let numbers = syscalls::numbers(name);
        for (at, abi) in self.abis.iter().enumerate() {
            let calls = &mut self.calls[at];
            if let Some(number) = numbers.and_then(|numbers| numbers.on(*abi)) {
                calls.extend(rules.clone().map(|rule| (number, rule)));
                if number < ARM_PRIVATE {
                    self.largest[at] = self.largest[at].max(Some(number));
                }
            }
            if *abi == Abi::X86
                && let Some((multiplexer, number)) = syscalls::multiplexed(name)
            {
                let key = BEHIND | multiplexer << 8 | number;
                calls.extend(rules.clone().map(|rule| (key, rule)));
            }
        }
    }

    /// What happens to each number of an ABI, in ascending segments.
    ///
    /// If the default action is SCMP_ACT_ERRNO, numbers above the largest that the profile names get ENOSYS, as
    /// below runc: such a call is newer than the profile, and programs are written to fall back when a call is
    /// missing, not when it is forbidden. A profile that kills keeps killing.
    fn segments(&self, at: usize, missing_above: bool) -> Vec<(u32, Outcome)> {
        let first = self.abis[at].first();
        let largest = self.largest[at].filter(|_| missing_above);
        let mut segments: Vec<(u32, Outcome)> = Vec::with_capacity(512);
        // Calls that no rule is for, from `from` to before `to`.
        let gap = |segments: &mut Vec<_>, from: u32, to: u32| {
            let missing = largest.map_or(to, |largest| largest + 1);
            let parts = [
                (from, missing.min(to), self.otherwise),
                (missing.max(from), to, NO_SUCH_CALL),
            ];
            let parts = parts.into_iter().filter(|(from, to, _)| from < to);
            segments
                .extend(parts.map(|(from, _, action)| (first + from, Outcome::constant(action))));
        };
        let mut next = 0;
        for (number, outcome) in self.outcomes(at) {
            gap(&mut segments, next, number);
            segments.push((first + number, outcome));
            next = number + 1;
        }
        gap(&mut segments, next, X32_BIT);
        segments
    }

    /// The calls of an ABI that the rules are for, ascending.
    fn outcomes(&self, at: usize) -> Vec<(u32, Outcome)> {
        let narrow = self.abis[at].is_narrow();
        let mut calls = self.calls[at].clone();
        calls.sort_unstable();
        let behind = calls.split_off(calls.partition_point(|(key, _)| *key < BEHIND));
        let mut outcomes = grouped(&calls, |rules| self.outcome(rules, narrow));
        let behind = grouped(&behind, |rules| self.outcome(rules, narrow));
        for multiplexer in [SOCKETCALL, IPC] {
            let of = |key: &u32| (key & !BEHIND) >> 8 == multiplexer;
            let calls = behind.iter().filter(|(key, _)| of(key));
            let rules: Vec<Rule> = calls
                .map(|(key, outcome)| behind_multiplexer(multiplexer, key & 0xff, outcome))
                .filter(|rule| rule.action != self.otherwise)
                .collect();
            if rules.is_empty() {
                continue;
            }
            match outcomes.binary_search_by_key(&multiplexer, |(number, _)| *number) {
                // With rules of its own; if one of them has no conditions, it decides alone.
                Ok(have) if !outcomes[have].1.rules.is_empty() => {
                    let have = &mut outcomes[have].1.rules;
                    have.extend(rules);
                    have.sort_by(narrower_first);
                }
                Ok(_) => {}
                Err(place) => {
                    let otherwise = self.otherwise;
                    outcomes.insert(place, (multiplexer, Outcome { rules, otherwise }));
                }
            }
        }
        outcomes
    }

    /// What the rules of one call come to.
    fn outcome(&self, rules: &[(u32, usize)], narrow: bool) -> Outcome {
        let rules = rules.iter().map(|(_, rule)| &self.rules[*rule]);
        if let Some(alone) = rules.clone().find(|rule| rule.conditions.is_empty()) {
            return Outcome::constant(alone.action);
        }
        let mut rules: Vec<Rule> = rules.cloned().collect();
        if narrow {
            let conditions = rules.iter_mut().flat_map(|rule| &mut rule.conditions);
            conditions.for_each(Condition::narrow);
        }
        rules.sort_by(narrower_first);
        Outcome {
            rules,
            otherwise: self.otherwise,
        }
    }
}

/// Pairs of one key, put together.
fn grouped(
    calls: &[(u32, usize)],
    outcome: impl Fn(&[(u32, usize)]) -> Outcome,
) -> Vec<(u32, Outcome)> {
    let groups = calls.chunk_by(|one, other| one.0 == other.0);
    groups.map(|group| (group[0].0, outcome(group))).collect()
}

/// The rule for a call that comes through a multiplexer. Its own arguments lie in memory, out of a filter's sight,
/// so where they would decide, the call gets the strictest of what it might get.
fn behind_multiplexer(multiplexer: u32, number: u32, outcome: &Outcome) -> Rule {
    let actions = outcome.rules.iter().map(|rule| rule.action);
    // The kernel's own order of strictness, in which SECCOMP_RET_KILL_PROCESS is negative.
    let strictest = actions
        .chain([outcome.otherwise])
        .min_by_key(|action| *action as i32);
    // ipc(2) puts a version into the upper half of its number.
    let mask = if multiplexer == IPC {
        0xffff
    } else {
        0xffff_ffff
    };
    Rule {
        conditions: vec![Condition {
            argument: 0,
            test: Test::Masked(mask),
            value: number.into(),
            narrow: true,
        }],
        action: strictest.unwrap_or(outcome.otherwise),
    }
}

/// The order in which libseccomp asks rules of one call, which is the narrower first: of two first conditions the one on
/// the higher argument; then equalities before upper bounds before lower bounds; then the lower upper bound, the
/// higher anything else; then the next condition, a rule that has none first.
fn narrower_first(one: &Rule, other: &Rule) -> Ordering {
    let rank = |condition: &Condition| {
        let value = condition.value;
        let (kind, value) = match condition.test {
            Test::Equal | Test::NotEqual | Test::Masked(_) => (0, !value),
            Test::Less | Test::AtMost => (1, value),
            Test::AtLeast | Test::Greater => (2, !value),
        };
        (Reverse(condition.argument), kind, value)
    };
    let ranks = |rule: &Rule| rule.conditions.iter().map(rank).collect::<Vec<_>>();
    ranks(one).cmp(&ranks(other))
}

impl Condition {
    fn narrow(&mut self) {
        self.narrow = true;
        self.value &= 0xffff_ffff;
        if let Test::Masked(mask) = &mut self.test {
            *mask &= 0xffff_ffff;
        }
    }
}

/// The rules of one entry: one, or one for each condition if two conditions look at the same argument.
fn rules(at: usize, entry: &LinuxSyscall) -> Result<Vec<Rule>, StepError> {
    let subject = || format!("syscalls[{at}]");
    let action = action(&subject(), entry.action(), entry.errno_ret())?;
    let args = entry.args().as_deref().unwrap_or_default();
    let mut conditions: Vec<Condition> = args
        .iter()
        .map(|arg| condition(&subject(), arg))
        .collect::<Result<_, _>>()?;
    let rule = |conditions: Vec<Condition>| Rule {
        conditions: conditions.into_iter().filter(Condition::is_one).collect(),
        action,
    };
    let mut seen = [false; 6];
    let mut repeated =
        |one: &Condition| std::mem::replace(&mut seen[usize::from(one.argument)], true);
    if conditions.iter().any(&mut repeated) {
        return Ok(conditions.into_iter().map(|one| rule(vec![one])).collect());
    }
    conditions.sort_by_key(|one| one.argument);
    Ok(vec![rule(conditions)])
}

impl Condition {
    /// Whether it can fail: one that looks at no bit is none.
    fn is_one(&self) -> bool {
        self.test != Test::Masked(0)
    }
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
            let mask = arg.value();
            (Test::Masked(mask), arg.value_two().unwrap_or(0) & mask)
        }
    };
    Ok(Condition {
        argument,
        test,
        value,
        narrow: false,
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
        LinuxSeccompAction::ScmpActNotify => NOTIFY,
    };
    match errno {
        None => Ok(value),
        Some(_) => Err(refused(
            subject,
            "errnoRet goes with SCMP_ACT_ERRNO and SCMP_ACT_TRACE only",
        )),
    }
}

/// SECCOMP_FILTER_FLAG_* bits. Without the member, SPEC_ALLOW, as below runc and crun: what the processor may guess
/// past is left to the host's own setting.
pub(super) fn flags(profile: &LinuxSeccomp) -> u32 {
    let Some(flags) = profile.flags() else {
        return super::SPEC_ALLOW;
    };
    let bits = flags.iter().map(|flag| match flag {
        LinuxSeccompFilterFlag::SeccompFilterFlagTsync => super::TSYNC,
        LinuxSeccompFilterFlag::SeccompFilterFlagLog => super::LOG_FLAG,
        LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => super::SPEC_ALLOW,
        LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => super::WAIT_KILLABLE_RECV,
    });
    bits.fold(0, |all, bit| all | bit)
}
