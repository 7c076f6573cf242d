//! The limits of an OCI `linux.resources` object, read strictly: what v1 and v2 share.
//!
//! A limit that is given and cannot be enforced is refused by name, never passed over. Two habits of the
//! field are kept: 0 means "not given" for CPU and memory values (Docker and podman write it so), and -1
//! means "no limit". What the specification has retired, `memory.kernel`, is passed over.
//!
//! Everything here and below is pure: from a resource object and what the control files say now, to the writes
//! that follow. `apply` carries them out.

use std::borrow::Cow;

use oci_spec::runtime::{LinuxCpu, LinuxMemory, LinuxResources};
use serde::Serialize;
use serde_json::Value;

use super::directory::refused;
use crate::StepError;

pub(super) mod block_io;
pub(super) mod hugetlb;
pub(super) mod network;
pub(super) mod rdma;

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
    pub(super) fn new(
        controller: &'static str,
        file: impl Into<Cow<'static, str>>,
        value: impl ToString,
    ) -> Write {
        Write {
            controller,
            file: file.into(),
            value: value.to_string(),
            lifts: false,
        }
    }

    /// `lift` is the file's word for "no limit".
    pub(super) fn bound(
        controller: &'static str,
        file: impl Into<Cow<'static, str>>,
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

/// `pids.limit`: 0 is a limit here and means that only the first process may live, as in runc 1.4. An object without
/// a limit is taken out when a spec is read.
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
    pub(super) disable_oom_killer: Option<bool>,
    /// `swap` is 0 where no `limit` is: no swap at all.
    pub(super) no_swap: bool,
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
            disable_oom_killer: memory.disable_oom_killer(),
            no_swap: memory.swap() == Some(0) && matches!(memory.limit(), None | Some(0)),
            check_before_update: memory.check_before_update().unwrap_or(false),
        };
        read.check_swap()?;
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
            // What the limit is now, is for the version to find out.
            (None, _) => return Ok(()),
            (Some(Bound::At(limit)), _) => {
                format!("swap counts memory and swap together, and is below memory.limit {limit}")
            }
            (Some(Bound::Unlimited), _) => {
                "it counts memory and swap together, and memory.limit is -1".to_owned()
            }
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

/// `cpu.burst` and `cpu.idle`: 0 is a value, and the same as a file that does not exist.
pub(super) fn zero_lifts(file: &'static str, value: impl ToString) -> Write {
    let write = Write::new("cpu", file, value);
    Write {
        lifts: write.value == "0",
        ..write
    }
}

/// A burst may not be above the quota: a smaller one comes before the quota, a greater one after.
pub(super) fn burst_first(burst: &Write, now: Option<String>) -> bool {
    let number = |text: &str| text.trim().parse::<u64>().ok();
    now.as_deref().and_then(number) > number(&burst.value)
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
