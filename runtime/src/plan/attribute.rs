//! What the kernel keeps of a process beside its credentials: scheduler, priorities, affinity, personality.
//!
//! Source: runtime-spec config.md "Linux Process", config-linux.md "Memory policy" and "Personality". All of it
//! survives execve(2). Rules that the kernel answers with a bare EINVAL are checked here, with a reason.

use std::fmt;

use oci_spec::runtime::{
    IOPriorityClass, Linux, LinuxMemoryPolicy, LinuxPersonality, LinuxPersonalityDomain,
    LinuxSchedulerFlag, LinuxSchedulerPolicy, MemoryPolicyFlagType, MemoryPolicyModeType, Process,
    Scheduler,
};
use serde::{Deserialize, Serialize};

use super::ranges;
use crate::StepError;

/// One attribute of a process, by the kernel's names and numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Attribute {
    /// sched_setaffinity(2): the CPUs, or every CPU of the cgroup if None.
    Affinity(Option<Vec<u32>>),
    /// set_mempolicy(2)
    MemoryPolicy(MemoryPolicy),
    /// sched_setattr(2)
    Scheduler(Scheduling),
    /// ioprio_set(2)
    IoPriority {
        /// IOPRIO_CLASS_*
        class: u8,
        /// 0, the highest, to 7.
        level: u8,
    },
    /// personality(2)
    Personality(u32),
}

/// What set_mempolicy(2) takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryPolicy {
    /// MPOL_*
    pub mode: i32,
    /// MPOL_F_*
    pub flags: i32,
    /// The nodes.
    pub nodes: Vec<u32>,
}

/// What sched_setattr(2) takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scheduling {
    /// SCHED_*
    pub policy: u32,
    /// SCHED_FLAG_*
    pub flags: u64,
    /// -20 to 19
    pub nice: i32,
    /// 1 to 99 for SCHED_FIFO and SCHED_RR, otherwise 0.
    pub priority: u32,
    /// Nanoseconds, SCHED_DEADLINE only.
    pub runtime: u64,
    /// Nanoseconds, SCHED_DEADLINE only.
    pub deadline: u64,
    /// Nanoseconds, SCHED_DEADLINE only; 0 is the deadline's.
    pub period: u64,
}

/// PER_LINUX32 of personality(2).
const PER_LINUX32: u32 = 8;
/// Each policy's number in linux/sched.h.
const POLICIES: [(&str, u32); 7] = [
    ("SCHED_OTHER", 0),
    ("SCHED_FIFO", 1),
    ("SCHED_RR", 2),
    ("SCHED_BATCH", 3),
    ("SCHED_ISO", 4),
    ("SCHED_IDLE", 5),
    ("SCHED_DEADLINE", 6),
];
const FIFO: u32 = 1;
const RR: u32 = 2;
const DEADLINE: u32 = 6;
/// Each mode's number in linux/mempolicy.h.
const MODES: [(&str, i32); 7] = [
    ("MPOL_DEFAULT", 0),
    ("MPOL_PREFERRED", 1),
    ("MPOL_BIND", 2),
    ("MPOL_INTERLEAVE", 3),
    ("MPOL_LOCAL", 4),
    ("MPOL_PREFERRED_MANY", 5),
    ("MPOL_WEIGHTED_INTERLEAVE", 6),
];

/// Attributes of a container's or an exec's process but its affinity, which comes earlier: a deadline is refused to
/// a process that may not run everywhere.
pub(super) fn of(linux: &Linux, process: &Process) -> Result<Vec<Attribute>, StepError> {
    let mut wanted = Vec::new();
    if let Some(policy) = linux.memory_policy() {
        wanted.push(Attribute::MemoryPolicy(memory_policy(policy)?));
    }
    if let Some(scheduler) = process.scheduler() {
        wanted.push(Attribute::Scheduler(scheduling(scheduler)?));
    }
    if let Some(priority) = process.io_priority() {
        let level = u8::try_from(priority.priority())
            .ok()
            .filter(|level| *level <= 7);
        let level =
            level.ok_or_else(|| refused("ioPriority", "the priority must lie between 0 and 7"))?;
        let class = match priority.class() {
            IOPriorityClass::IoprioClassRt => 1,
            IOPriorityClass::IoprioClassBe => 2,
            IOPriorityClass::IoprioClassIdle => 3,
        };
        wanted.push(Attribute::IoPriority { class, level });
    }
    if let Some(personality) = linux.personality() {
        wanted.push(Attribute::Personality(domain(personality)?));
    }
    Ok(wanted)
}

/// The affinity of an exec's process: before it enters the container's cgroup, and after.
pub(super) fn of_exec(
    process: &Process,
) -> Result<(Option<Attribute>, Option<Attribute>), StepError> {
    let read = |name: &str, list: Option<&String>| {
        let list = list.filter(|list| !list.trim().is_empty());
        let cpus = list.map(|list| ranges::parse(name, list)).transpose()?;
        Ok::<_, StepError>(cpus.map(|cpus| Attribute::Affinity(Some(cpus))))
    };
    let given = process.exec_cpu_affinity().as_ref();
    let initial = given.and_then(|given| given.initial().as_ref());
    let entered = given.and_then(|given| given.cpu_affinity_final().as_ref());
    let initial = read("execCPUAffinity.initial", initial)?;
    let entered = read("execCPUAffinity.final", entered)?;
    // Where only the first is given, the kernel decides what becomes of it in the cgroup.
    let unpinned = initial.is_none().then_some(Attribute::Affinity(None));
    Ok((initial, entered.or(unpinned)))
}

fn refused(subject: &str, cause: impl Into<String>) -> StepError {
    StepError::refused("plan", subject, cause)
}

fn scheduling(wanted: &Scheduler) -> Result<Scheduling, StepError> {
    let scheduling = Scheduling {
        policy: policy(*wanted.policy()),
        flags: wanted
            .flags()
            .iter()
            .flatten()
            .fold(0, |all, one| all | flag(*one)),
        nice: wanted.nice().unwrap_or(0),
        priority: u32::try_from(wanted.priority().unwrap_or(0)).unwrap_or(u32::MAX),
        runtime: wanted.runtime().unwrap_or(0),
        deadline: wanted.deadline().unwrap_or(0),
        period: wanted.period().unwrap_or(0),
    };
    match check(&scheduling) {
        Some(cause) => Err(refused("sched_setattr", cause)),
        None => Ok(scheduling),
    }
}

/// What the kernel computes with, kernel/sched/deadline.c: less is lost in rounding, more does not fit.
const DEADLINE_NANOSECONDS: std::ops::RangeInclusive<u64> = 1 << 10..=(1 << 63) - 1;

/// What is wrong with it, in words.
fn check(wanted: &Scheduling) -> Option<&'static str> {
    let real_time = matches!(wanted.policy, FIFO | RR);
    if !(-20..=19).contains(&wanted.nice) {
        return Some("`nice` must lie between -20 and 19");
    }
    if real_time && !(1..=99).contains(&wanted.priority) {
        return Some("`SCHED_FIFO` and `SCHED_RR` require a `priority` between 1 and 99");
    }
    if !real_time && wanted.priority != 0 {
        return Some("a `priority` is for `SCHED_FIFO` and `SCHED_RR` only");
    }
    if wanted.policy != DEADLINE {
        let given = wanted.runtime != 0 || wanted.deadline != 0 || wanted.period != 0;
        return given.then_some("`runtime`, `deadline` and `period` are for `SCHED_DEADLINE` only");
    }
    if wanted.runtime == 0 {
        return Some("`SCHED_DEADLINE` requires `runtime`");
    }
    if wanted.deadline == 0 {
        return Some("`SCHED_DEADLINE` requires `deadline`");
    }
    if !DEADLINE_NANOSECONDS.contains(&wanted.runtime) {
        return Some("`SCHED_DEADLINE` runtime must be between 1024 and 2^63 - 1 nanoseconds");
    }
    if wanted.runtime > wanted.deadline {
        return Some("`SCHED_DEADLINE` runtime must be <= `deadline`");
    }
    let ordered = wanted.period == 0 || wanted.deadline <= wanted.period;
    (!ordered).then_some("`SCHED_DEADLINE` deadline must be <= `period`")
}

fn policy(policy: LinuxSchedulerPolicy) -> u32 {
    match policy {
        LinuxSchedulerPolicy::SchedOther => 0,
        LinuxSchedulerPolicy::SchedFifo => FIFO,
        LinuxSchedulerPolicy::SchedRr => RR,
        LinuxSchedulerPolicy::SchedBatch => 3,
        LinuxSchedulerPolicy::SchedIso => 4,
        LinuxSchedulerPolicy::SchedIdle => 5,
        LinuxSchedulerPolicy::SchedDeadline => DEADLINE,
    }
}

/// The flag's bit in linux/sched.h.
fn flag(flag: LinuxSchedulerFlag) -> u64 {
    match flag {
        LinuxSchedulerFlag::SchedResetOnFork => 0x01,
        LinuxSchedulerFlag::SchedFlagReclaim => 0x02,
        LinuxSchedulerFlag::SchedFlagDLOverrun => 0x04,
        LinuxSchedulerFlag::SchedFlagKeepPolicy => 0x08,
        LinuxSchedulerFlag::SchedFlagKeepParams => 0x10,
        LinuxSchedulerFlag::SchedFlagUtilClampMin => 0x20,
        LinuxSchedulerFlag::SchedFlagUtilClampMax => 0x40,
    }
}

fn memory_policy(wanted: &LinuxMemoryPolicy) -> Result<MemoryPolicy, StepError> {
    let mode = match wanted.mode() {
        MemoryPolicyModeType::MpolDefault => 0,
        MemoryPolicyModeType::MpolPreferred => 1,
        MemoryPolicyModeType::MpolBind => 2,
        MemoryPolicyModeType::MpolInterleave => 3,
        MemoryPolicyModeType::MpolLocal => 4,
        MemoryPolicyModeType::MpolPreferredMany => 5,
        MemoryPolicyModeType::MpolWeightedInterleave => 6,
    };
    let list = wanted
        .nodes()
        .as_deref()
        .filter(|list| !list.trim().is_empty());
    let nodes = list.map(|list| ranges::parse("memoryPolicy.nodes", list));
    let nodes = nodes.transpose()?.unwrap_or_default();
    let flags = wanted.flags().iter().flatten().fold(0, |all, one| {
        all | match one {
            MemoryPolicyFlagType::MpolFStaticNodes => 1 << 15,
            MemoryPolicyFlagType::MpolFRelativeNodes => 1 << 14,
            MemoryPolicyFlagType::MpolFNumaBalancing => 1 << 13,
        }
    });
    let name = wanted.mode().to_string();
    match wanted.mode() {
        MemoryPolicyModeType::MpolDefault | MemoryPolicyModeType::MpolLocal
            if !nodes.is_empty() =>
        {
            Err(refused("memoryPolicy", format!("`{name}` takes no nodes")))
        }
        MemoryPolicyModeType::MpolBind
        | MemoryPolicyModeType::MpolInterleave
        | MemoryPolicyModeType::MpolWeightedInterleave
        | MemoryPolicyModeType::MpolPreferredMany
            if nodes.is_empty() =>
        {
            Err(refused(
                "memoryPolicy",
                format!("`{name}` needs at least one node"),
            ))
        }
        _ => Ok(MemoryPolicy { mode, flags, nodes }),
    }
}

fn domain(wanted: &LinuxPersonality) -> Result<u32, StepError> {
    if let Some(flag) = wanted.flags().iter().flatten().next() {
        let cause = format!("the OCI text knows no flag, `{flag}` included; remove it");
        return Err(refused("personality", cause));
    }
    Ok(match wanted.domain() {
        LinuxPersonalityDomain::PerLinux => 0,
        LinuxPersonalityDomain::PerLinux32 => PER_LINUX32,
    })
}

impl fmt::Display for Attribute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Attribute::Affinity(None) => write!(f, "affinity to every CPU"),
            Attribute::Affinity(Some(cpus)) => write!(f, "affinity to CPU {}", ranges::text(cpus)),
            Attribute::MemoryPolicy(policy) => write!(f, "memory policy {policy}"),
            Attribute::Scheduler(scheduling) => write!(f, "scheduler {scheduling}"),
            Attribute::IoPriority { class, level } => {
                let name = ["NONE", "RT", "BE", "IDLE"];
                let name = name.get(usize::from(*class)).unwrap_or(&"?");
                write!(f, "io priority IOPRIO_CLASS_{name} {level}")
            }
            Attribute::Personality(0) => write!(f, "personality LINUX"),
            Attribute::Personality(PER_LINUX32) => write!(f, "personality LINUX32"),
            Attribute::Personality(other) => write!(f, "personality {other:#x}"),
        }
    }
}

impl fmt::Display for MemoryPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = MODES.iter().find(|(_, mode)| *mode == self.mode);
        write!(f, "{}", name.map_or("MPOL_?", |(name, _)| name))?;
        if self.flags != 0 {
            write!(f, " flags {:#x}", self.flags)?;
        }
        if !self.nodes.is_empty() {
            write!(f, " nodes {}", ranges::text(&self.nodes))?;
        }
        Ok(())
    }
}

impl fmt::Display for Scheduling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = POLICIES.iter().find(|(_, policy)| *policy == self.policy);
        write!(f, "{}", name.map_or("SCHED_?", |(name, _)| name))?;
        if self.flags != 0 {
            write!(f, " flags {:#x}", self.flags)?;
        }
        match self.policy {
            FIFO | RR => write!(f, " priority {}", self.priority),
            DEADLINE => write!(f, " {}/{}/{} ns", self.runtime, self.deadline, self.period),
            _ => write!(f, " nice {}", self.nice),
        }
    }
}

#[cfg(test)]
mod tests;
