//! Attributes of the process that execve(2) leaves alone: see [`crate::plan::Attribute`].

use longshore_sys as sys;
use rustix::io::Errno;
use rustix::thread::CpuSet;

use crate::StepError;
use crate::error::Context;
use crate::plan::Attribute;

/// Sets one attribute of this process.
pub(super) fn set(attribute: &Attribute) -> Result<(), StepError> {
    let done = match attribute {
        Attribute::Affinity(cpus) => affinity(cpus.as_deref()),
        Attribute::MemoryPolicy(policy) => {
            sys::set_memory_policy(policy.mode | policy.flags, &policy.nodes)
        }
        Attribute::Scheduler(wanted) => sys::set_scheduling(&sys::SchedulingAttributes {
            policy: wanted.policy,
            flags: wanted.flags,
            nice: wanted.nice,
            priority: wanted.priority,
            runtime: wanted.runtime,
            deadline: wanted.deadline,
            period: wanted.period,
        }),
        Attribute::IoPriority { class, level } => sys::set_io_priority(*class, *level),
        Attribute::Personality(persona) => sys::set_personality(*persona),
    };
    match (done, attribute) {
        (Err(errno @ Errno::PERM), Attribute::Scheduler(wanted)) if wanted.priority > 0 => {
            // sched(7): with real-time groups (cgroup v1), each group above must have some too.
            let cause = "not permitted: it needs CAP_SYS_NICE, and a cgroup with real time; set linux.resources.cpu.realtimeRuntime";
            Err(StepError {
                errno: Some(errno.raw_os_error()),
                ..StepError::refused("set", attribute, cause)
            })
        }
        (done, _) => done.context("set", attribute),
    }
}

/// Every CPU: whatever the runtime itself was pinned to does not pin the container; its cpuset alone does.
fn affinity(cpus: Option<&[u32]>) -> Result<(), Errno> {
    let mut set = CpuSet::new();
    match cpus {
        Some(cpus) => cpus.iter().for_each(|cpu| set.set(*cpu as usize)),
        None => (0..CpuSet::MAX_CPU).for_each(|cpu| set.set(cpu)),
    }
    rustix::thread::sched_setaffinity(None, &set)
}
