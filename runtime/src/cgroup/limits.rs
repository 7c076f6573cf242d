//! The limits of an OCI `linux.resources` object, read strictly: what v1 and v2 share.
//!
//! A limit that is given and cannot be enforced is refused by name, never passed over. Two habits of the
//! field are kept: 0 means "not given" for CPU and memory values (Docker and podman write it so), and -1
//! means "no limit".
//!
//! Deliberately absent: block I/O, huge pages, network classes and RDMA. They are refused when given.

use std::borrow::Cow;

use oci_spec::runtime::{LinuxCpu, LinuxMemory, LinuxResources};
use serde::Serialize;
use serde_json::Value;

use super::directory::refused;
use crate::StepError;

/// The step that every refusal here names.
pub(super) const STEP: &str = "apply limit";

/// One value for one control file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Write {
    /// Whose file it is.
    pub(super) controller: &'static str,
    /// The file's name.
    pub(super) file: Cow<'static, str>,
    /// What to write.
    pub(super) value: String,
    /// Whether the value means "no limit": then a file that does not exist is as good.
    pub(super) lifts: bool,
}

impl Write {
    pub(super) fn new(controller: &'static str, file: &'static str, value: impl ToString) -> Write {
        Write {
            controller,
            file: Cow::Borrowed(file),
            value: value.to_string(),
            lifts: false,
        }
    }

    /// `lift` is the file's word for "no limit".
    pub(super) fn bound(
        controller: &'static str,
        file: &'static str,
        bound: Bound,
        lift: &str,
    ) -> Write {
        match bound {
            Bound::Unlimited => Write {
                lifts: true,
                ..Write::new(controller, file, lift)
            },
            Bound::At(value) => Write::new(controller, file, value),
        }
    }
}

/// A limit that is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bound {
    /// -1.
    Unlimited,
    /// Bytes or microseconds or processes.
    At(u64),
}

/// 0 and absence: not given; -1: unlimited; below: refused.
pub(super) fn bound(name: &str, value: Option<i64>) -> Result<Option<Bound>, StepError> {
    match value {
        None | Some(0) => Ok(None),
        Some(-1) => Ok(Some(Bound::Unlimited)),
        Some(value) => match u64::try_from(value) {
            Ok(value) => Ok(Some(Bound::At(value))),
            Err(_) => Err(refused(
                STEP,
                name,
                format!("{value} is no limit: give a positive number, or -1 for none"),
            )),
        },
    }
}

/// `pids.limit`: 0 is a limit here and means that only the first process may live, as in runc 1.4.
pub(super) fn pids(resources: &LinuxResources) -> Result<Option<Bound>, StepError> {
    match resources.pids().as_ref().map(|pids| pids.limit()) {
        None => Ok(None),
        Some(0) => Ok(Some(Bound::At(1))),
        Some(limit) => bound("pids.limit", Some(limit)),
    }
}

/// `memory` with its values related to each other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Memory {
    pub(super) limit: Option<Bound>,
    pub(super) reservation: Option<Bound>,
    /// Memory and swap together, as OCI has it; never below `limit`.
    pub(super) swap: Option<Bound>,
    pub(super) kernel_tcp: Option<Bound>,
    pub(super) swappiness: Option<u64>,
    pub(super) disable_oom_killer: bool,
    pub(super) check_before_update: bool,
}

impl Memory {
    pub(super) fn of(memory: &LinuxMemory) -> Result<Memory, StepError> {
        let read = Memory {
            limit: bound("memory.limit", memory.limit())?,
            reservation: bound("memory.reservation", memory.reservation())?,
            swap: bound("memory.swap", memory.swap())?,
            kernel_tcp: bound("memory.kernelTCP", memory.kernel_tcp())?,
            swappiness: memory.swappiness(),
            disable_oom_killer: memory.disable_oom_killer().unwrap_or(false),
            check_before_update: memory.check_before_update().unwrap_or(false),
        };
        read.check_swap()?;
        // The specification has retired `kernel`; it is read for that one check.
        #[allow(deprecated)]
        let kernel = bound("memory.kernel", memory.kernel())?;
        read.check_subsumed("memory.kernel", kernel)?;
        if memory.use_hierarchy() == Some(false) {
            let cause = "a group's limit always holds for the groups below it; leave it out";
            return Err(refused(STEP, "memory.useHierarchy", cause));
        }
        Ok(read)
    }

    fn check_swap(&self) -> Result<(), StepError> {
        let cause = match (self.limit, self.swap) {
            (_, None | Some(Bound::Unlimited)) => return Ok(()),
            (Some(Bound::At(limit)), Some(Bound::At(swap))) if limit <= swap => return Ok(()),
            (Some(Bound::At(limit)), _) => {
                format!("swap counts memory and swap together, and is below memory.limit {limit}")
            }
            _ => "it counts memory and swap together: give memory.limit too".to_owned(),
        };
        Err(refused(STEP, "memory.swap", cause))
    }

    /// Kernel memory has no limit of its own any more, but counts towards `memory.limit`: a value that is
    /// not below that one is kept by it.
    pub(super) fn check_subsumed(&self, name: &str, value: Option<Bound>) -> Result<(), StepError> {
        match (value, self.limit) {
            (None | Some(Bound::Unlimited), _) => Ok(()),
            (Some(Bound::At(value)), Some(Bound::At(limit))) if limit <= value => Ok(()),
            _ => Err(refused(
                STEP,
                name,
                "this kernel has no such limit of its own; memory.limit bounds kernel memory too",
            )),
        }
    }
}

/// CPU values above 0.
pub(super) fn positive(value: Option<u64>) -> Option<u64> {
    value.filter(|value| *value != 0)
}

/// Shares within what the kernel takes (`cpu.shares` of v1 is from 2 to 262144).
pub(super) fn shares(cpu: &LinuxCpu) -> Option<u64> {
    positive(cpu.shares()).map(|shares| shares.clamp(2, 262_144))
}

/// A list of CPUs or memory nodes as cpuset(7) writes it; the kernel judges the rest.
pub(super) fn list<'a>(
    name: &str,
    value: &'a Option<String>,
) -> Result<Option<&'a str>, StepError> {
    let Some(list) = value.as_deref().filter(|list| !list.is_empty()) else {
        return Ok(None);
    };
    let known = |byte: u8| byte.is_ascii_digit() || b",-:/".contains(&byte);
    if list.len() > 4096 || !list.bytes().all(known) {
        return Err(refused(
            STEP,
            name,
            format!("{list:?} is no list such as 0-2,7"),
        ));
    }
    Ok(Some(list))
}

/// Refuses what is given and not built.
pub(super) fn refuse_unsupported(resources: &LinuxResources) -> Result<(), StepError> {
    for (name, given) in [
        ("blockIO", is_given(resources.block_io())),
        ("hugepageLimits", is_given(resources.hugepage_limits())),
        ("network", is_given(resources.network())),
        ("rdma", is_given(resources.rdma())),
    ] {
        if given {
            let cause = "this runtime cannot enforce it; leave it out";
            return Err(refused(STEP, format!("linux.resources.{name}"), cause));
        }
    }
    Ok(())
}

/// Empty objects and zeros are what clients write when they mean nothing.
pub(super) fn is_given(value: &impl Serialize) -> bool {
    fn any(value: &Value) -> bool {
        match value {
            Value::Null => false,
            Value::Number(number) => number.as_f64() != Some(0.0),
            Value::Array(items) => items.iter().any(any),
            Value::Object(fields) => fields.values().any(any),
            Value::Bool(_) | Value::String(_) => true,
        }
    }
    serde_json::to_value(value).map_or(true, |value| any(&value))
}
