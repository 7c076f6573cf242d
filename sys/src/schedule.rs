//! How the kernel schedules the calling process: sched_setattr(2), ioprio_set(2), set_mempolicy(2), personality(2).
//!
//! All of it survives execve(2). CPU affinity is absent: rustix has it.

use crate::{Errno, checked};

/// What sched_setattr(2) takes, by the kernel's names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SchedulingAttributes {
    /// SCHED_OTHER, SCHED_FIFO, ...
    pub policy: u32,
    /// SCHED_FLAG_*
    pub flags: u64,
    /// For SCHED_OTHER and SCHED_BATCH.
    pub nice: i32,
    /// For SCHED_FIFO and SCHED_RR.
    pub priority: u32,
    /// Nanoseconds, for SCHED_DEADLINE.
    pub runtime: u64,
    /// Nanoseconds, for SCHED_DEADLINE.
    pub deadline: u64,
    /// Nanoseconds, for SCHED_DEADLINE.
    pub period: u64,
}

/// `struct sched_attr` of Linux 5.3 and later (SCHED_ATTR_SIZE_VER1).
#[repr(C)]
struct SchedAttr {
    size: u32,
    sched_policy: u32,
    sched_flags: u64,
    sched_nice: i32,
    sched_priority: u32,
    sched_runtime: u64,
    sched_deadline: u64,
    sched_period: u64,
    sched_util_min: u32,
    sched_util_max: u32,
}

/// sched_setattr(2) for the calling thread.
pub fn set_scheduling(wanted: &SchedulingAttributes) -> Result<(), Errno> {
    let attr = SchedAttr {
        size: size_of::<SchedAttr>() as u32,
        sched_policy: wanted.policy,
        sched_flags: wanted.flags,
        sched_nice: wanted.nice,
        sched_priority: wanted.priority,
        sched_runtime: wanted.runtime,
        sched_deadline: wanted.deadline,
        sched_period: wanted.period,
        sched_util_min: 0,
        sched_util_max: 0,
    };
    // SAFETY: `attr` says its own size, has no padding and outlives the call, which only reads it.
    checked(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attr, 0) })?;
    Ok(())
}

const IOPRIO_WHO_PGRP: libc::c_int = 2;
const IOPRIO_CLASS_SHIFT: u32 = 13;

/// ioprio_set(2) for the caller's process group. `class` is IOPRIO_CLASS_*, `level` 0 to 7.
pub fn set_io_priority(class: u8, level: u8) -> Result<(), Errno> {
    let priority = (libc::c_int::from(class) << IOPRIO_CLASS_SHIFT) | libc::c_int::from(level);
    // SAFETY: three integers; no memory is read or written.
    checked(unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PGRP, 0, priority) })?;
    Ok(())
}

/// set_mempolicy(2) for the calling thread. `mode` is MPOL_* with MPOL_F_* flags; no nodes: a null mask.
pub fn set_memory_policy(mode: i32, nodes: &[u32]) -> Result<(), Errno> {
    const BITS: usize = libc::c_ulong::BITS as usize;
    let words = nodes
        .iter()
        .max()
        .map_or(0, |last| *last as usize / BITS + 1);
    let mut mask = vec![0 as libc::c_ulong; words];
    for node in nodes {
        mask[*node as usize / BITS] |= 1 << (*node as usize % BITS);
    }
    let pointer = if mask.is_empty() {
        std::ptr::null()
    } else {
        mask.as_ptr()
    };
    // One more than there are bits: the kernel takes one off before it reads (get_nodes in mm/mempolicy.c).
    let bits = if mask.is_empty() { 0 } else { words * BITS + 1 };
    // SAFETY: the kernel reads at most `bits - 1` bits, which is exactly what `mask` holds, or nothing if null.
    checked(unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, pointer, bits) })?;
    Ok(())
}

/// personality(2): the execution domain of the calling process, such as PER_LINUX32.
pub fn set_personality(persona: u32) -> Result<(), Errno> {
    // SAFETY: one integer; it changes how later system calls of this process behave (uname's machine, for the
    // domains that callers use), and no memory.
    checked(unsafe { libc::syscall(libc::SYS_personality, libc::c_ulong::from(persona)) })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In a thread of its own, as each of these is the thread's.
    fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
        std::thread::spawn(work).join().unwrap()
    }

    #[test]
    fn a_nice_value_and_a_policy_come_back() {
        let (set, stat) = apart(|| {
            let wanted = SchedulingAttributes {
                policy: libc::SCHED_BATCH as u32,
                nice: 7,
                ..Default::default()
            };
            (
                set_scheduling(&wanted),
                std::fs::read_to_string("/proc/thread-self/stat").unwrap(),
            )
        });
        assert_eq!(set, Ok(()));
        let fields: Vec<&str> = stat
            .rsplit_once(')')
            .unwrap()
            .1
            .split_whitespace()
            .collect();
        // proc_pid_stat(5): nice is field 19, policy field 41; the first here is field 3.
        assert_eq!((fields[16], fields[38]), ("7", "3"));
    }

    #[test]
    fn what_the_kernel_does_not_know_is_an_error() {
        let unknown = SchedulingAttributes {
            policy: 99,
            ..Default::default()
        };
        assert_eq!(apart(move || set_scheduling(&unknown)), Err(Errno::INVAL));
        assert_eq!(apart(|| set_io_priority(7, 0)), Err(Errno::INVAL));
        assert_eq!(apart(|| set_memory_policy(99, &[])), Err(Errno::INVAL));
    }

    #[test]
    fn a_memory_policy_reads_exactly_its_mask() {
        // MPOL_BIND to node 0, which every machine has; to a node that none has.
        assert_eq!(apart(|| set_memory_policy(2, &[0])), Ok(()));
        assert!(apart(|| set_memory_policy(2, &[1023])).is_err());
        assert_eq!(apart(|| set_memory_policy(0, &[])), Ok(()));
    }
}
