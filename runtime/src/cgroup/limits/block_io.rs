//! `blockIO` as v1 and v2 control files: proportional weights, and ceilings for each device.
//!
//! | resource | v1 | v2 |
//! |---|---|---|
//! | `weight`, `weightDevice` | `blkio.weight` or `blkio.bfq.weight` | `io.bfq.weight`, otherwise `io.weight` on its own scale |
//! | `leafWeight` | `blkio.leaf_weight` | refused: v2 has none |
//! | `throttle...` | `blkio.throttle.*` | `io.max` |
//!
//! 0 means "no limit" for a rate and "not given" for a weight. Which of the schedulers' files there is, is the
//! kernel's to say: without a scheduler that knows weights there is none, and a weight is refused by name.

use oci_spec::runtime::{LinuxBlockIo, LinuxThrottleDevice, LinuxWeightDevice};

use super::super::directory::refused;
use super::{STEP, Write};
use crate::StepError;

/// The range that OCI gives to weights.
const WEIGHTS: std::ops::RangeInclusive<u16> = 10..=1000;

/// The four kinds of ceilings: the field's name, v1's file, v2's key.
const THROTTLES: [(&str, &str, &str); 4] = [
    (
        "throttleReadBpsDevice",
        "blkio.throttle.read_bps_device",
        "rbps",
    ),
    (
        "throttleWriteBpsDevice",
        "blkio.throttle.write_bps_device",
        "wbps",
    ),
    (
        "throttleReadIOPSDevice",
        "blkio.throttle.read_iops_device",
        "riops",
    ),
    (
        "throttleWriteIOPSDevice",
        "blkio.throttle.write_iops_device",
        "wiops",
    ),
];

/// `has` tells whether the group has a file of the blkio controller.
pub(in crate::cgroup) fn writes_v1(
    block: &LinuxBlockIo,
    has: &dyn Fn(&str) -> Result<bool, StepError>,
) -> Result<Vec<Write>, StepError> {
    let mut writes = Vec::new();
    let (weight, devices) = (weight_of(block)?, weight_devices(block)?);
    if weight.is_some() || devices.iter().any(|device| device.weight.is_some()) {
        let (own, device) = match has("blkio.bfq.weight")? && !has("blkio.weight")? {
            true => ("blkio.bfq.weight", "blkio.bfq.weight_device"),
            false => ("blkio.weight", "blkio.weight_device"),
        };
        writes.extend(weight.map(|weight| Write::new("blkio", own, weight)));
        let line = |of: &Device| Some(Write::new("blkio", device, of.line(of.weight?)));
        writes.extend(devices.iter().filter_map(line));
    }
    let leaf = checked("leafWeight", block.leaf_weight())?;
    writes.extend(leaf.map(|weight| Write::new("blkio", "blkio.leaf_weight", weight)));
    for device in &devices {
        let line = device.leaf.map(|weight| device.line(weight));
        writes.extend(line.map(|line| Write::new("blkio", "blkio.leaf_weight_device", line)));
    }
    for ((name, file, _), ceilings) in THROTTLES.into_iter().zip(ceilings(block)) {
        for ceiling in ceilings {
            let (device, rate) = (Device::of(name, ceiling)?, ceiling.rate());
            writes.push(Write::new("blkio", file, device.line(rate)));
        }
    }
    Ok(writes)
}

/// `has` tells whether the group has a file.
pub(in crate::cgroup) fn writes_v2(
    block: &LinuxBlockIo,
    has: &dyn Fn(&str) -> Result<bool, StepError>,
) -> Result<Vec<Write>, StepError> {
    let mut writes = Vec::new();
    let (weight, devices) = (weight_of(block)?, weight_devices(block)?);
    let leaf = checked("leafWeight", block.leaf_weight())?;
    if leaf.is_some() || devices.iter().any(|device| device.leaf.is_some()) {
        let cause = "cgroup v2 has no weight for a group's own processes; leave it out";
        return Err(refused(STEP, "blockIO.leafWeight", cause));
    }
    if weight.is_some() || devices.iter().any(|device| device.weight.is_some()) {
        let bfq = has("io.bfq.weight")?;
        let file = if bfq { "io.bfq.weight" } else { "io.weight" };
        let scale = |weight: u16| if bfq { weight.into() } else { widened(weight) };
        writes.extend(weight.map(|weight| Write::new("io", file, scale(weight))));
        let line = |of: &Device| Some(Write::new("io", file, of.line(scale(of.weight?))));
        writes.extend(devices.iter().filter_map(line));
    }
    for ((name, _, key), ceilings) in THROTTLES.into_iter().zip(ceilings(block)) {
        for ceiling in ceilings {
            let device = Device::of(name, ceiling)?;
            let line = match ceiling.rate() {
                0 => device.line(format_args!("{key}=max")),
                rate => device.line(format_args!("{key}={rate}")),
            };
            writes.push(Write::new("io", "io.max", line));
        }
    }
    Ok(writes)
}

/// From 10..1000 to v2's 1..10000, end to end.
fn widened(weight: u16) -> u64 {
    1 + (u64::from(weight) - 10) * 9999 / 990
}

/// A device with its weights.
struct Device {
    major: i64,
    minor: i64,
    weight: Option<u16>,
    leaf: Option<u16>,
}

impl Device {
    fn of(name: &str, ceiling: &LinuxThrottleDevice) -> Result<Device, StepError> {
        Device {
            major: ceiling.major(),
            minor: ceiling.minor(),
            weight: None,
            leaf: None,
        }
        .checked(name)
    }

    fn checked(self, name: &str) -> Result<Device, StepError> {
        if self.major >= 0 && self.minor >= 0 {
            return Ok(self);
        }
        let cause = format!("{}:{} is no device number", self.major, self.minor);
        Err(refused(STEP, format!("blockIO.{name}"), cause))
    }

    fn line(&self, value: impl std::fmt::Display) -> String {
        format!("{}:{} {value}", self.major, self.minor)
    }
}

fn weight_of(block: &LinuxBlockIo) -> Result<Option<u16>, StepError> {
    checked("weight", block.weight())
}

fn weight_devices(block: &LinuxBlockIo) -> Result<Vec<Device>, StepError> {
    let device = |given: &LinuxWeightDevice| {
        Device {
            major: given.major(),
            minor: given.minor(),
            weight: checked("weightDevice.weight", given.weight())?,
            leaf: checked("weightDevice.leafWeight", given.leaf_weight())?,
        }
        .checked("weightDevice")
    };
    let list = block.weight_device().iter().flatten();
    list.map(device).collect()
}

fn checked(name: &str, weight: Option<u16>) -> Result<Option<u16>, StepError> {
    match weight {
        None | Some(0) => Ok(None),
        Some(weight) if WEIGHTS.contains(&weight) => Ok(Some(weight)),
        Some(weight) => {
            let cause = format!("{weight} is not between 10 and 1000");
            Err(refused(STEP, format!("blockIO.{name}"), cause))
        }
    }
}

/// In the order of `THROTTLES`.
fn ceilings(block: &LinuxBlockIo) -> [&[LinuxThrottleDevice]; 4] {
    [
        block.throttle_read_bps_device(),
        block.throttle_write_bps_device(),
        block.throttle_read_iops_device(),
        block.throttle_write_iops_device(),
    ]
    .map(|list| list.as_deref().unwrap_or_default())
}
