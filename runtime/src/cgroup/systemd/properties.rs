//! Limits as properties of a unit (systemd.resource-control(5)): a pure reading of the writes that the control
//! files get.
//!
//! systemd writes its own idea of a unit's limits whenever it looks at the unit again (`daemon-reload`), so it must
//! know every limit that it can know. What it cannot (huge pages, burst, RDMA, devices by program) stands in the
//! control files alone, which it then leaves as they are.

use super::super::limits::Write;
use super::super::statistics::figures::list;
use super::wire::{Property, Value};

/// systemd's word for "no limit".
const INFINITY: u64 = u64::MAX;

/// The kernel's period where none was set.
pub(in crate::cgroup) const PERIOD: u64 = 100_000;

/// systemd keeps quotas in steps of 10 ms for each second and would round down.
const STEP: u64 = 10_000;

/// Properties for `writes`. `period` is the CPU period in force, for a quota that is given alone.
pub(in crate::cgroup) fn of(writes: &[Write], period: u64) -> Vec<Property> {
    let mut properties: Vec<Property> = writes.iter().filter_map(property).collect();
    let file = |name: &str| writes.iter().rev().find(|write| write.file == name);
    let v2 = file("cpu.max").map(|write| write.value.as_str());
    let v1 = file("cpu.cfs_quota_us").map(|write| write.value.as_str());
    let given = file("cpu.cfs_period_us").and_then(|write| write.value.parse().ok());
    if let Some(text) = v2.or(v1) {
        let mut words = text.split_whitespace();
        let quota = words.next().and_then(amount);
        let period = words.next().and_then(amount).or(given).unwrap_or(period);
        properties.push((
            "CPUQuotaPerSecUSec",
            Value::U64(per_second(quota.unwrap_or(INFINITY), period)),
        ));
        properties.push(("CPUQuotaPeriodUSec", Value::U64(period)));
    }
    properties
}

fn property(write: &Write) -> Option<Property> {
    let name = match &*write.file {
        "cpu.weight" => "CPUWeight",
        "cpu.shares" => "CPUShares",
        "memory.max" => "MemoryMax",
        "memory.high" => "MemoryHigh",
        "memory.low" => "MemoryLow",
        "memory.min" => "MemoryMin",
        "memory.swap.max" => "MemorySwapMax",
        "memory.limit_in_bytes" => "MemoryLimit",
        "pids.max" => "TasksMax",
        "io.weight" => "IOWeight",
        "blkio.weight" => "BlockIOWeight",
        "cpuset.cpus" => return Some(("AllowedCPUs", mask(&write.value))),
        "cpuset.mems" => return Some(("AllowedMemoryNodes", mask(&write.value))),
        "io.max" => return ceiling(&write.value),
        _ => return None,
    };
    Some((name, Value::U64(amount(&write.value)?)))
}

/// `max` and -1 are v2's and v1's words for "no limit". A line for one device is no amount.
fn amount(text: &str) -> Option<u64> {
    match text.trim() {
        "max" | "-1" => Some(INFINITY),
        number => number.parse().ok(),
    }
}

fn per_second(quota: u64, period: u64) -> u64 {
    if quota == INFINITY || period == 0 {
        return INFINITY;
    }
    let exact = u128::from(quota) * 1_000_000 / u128::from(period);
    u64::try_from(exact.next_multiple_of(STEP.into())).unwrap_or(INFINITY)
}

/// A bit for each CPU or node, the lowest first.
fn mask(text: &str) -> Value {
    let mut bytes = Vec::new();
    for number in list(text) {
        let at = usize::from(number / 8);
        if bytes.len() <= at {
            bytes.resize(at + 1, 0u8);
        }
        bytes[at] |= 1 << (number % 8);
    }
    Value::Bytes(bytes)
}

/// `8:0 rbps=1000`
fn ceiling(text: &str) -> Option<Property> {
    let (device, limit) = text.split_once(' ')?;
    let (key, value) = limit.split_once('=')?;
    let name = match key {
        "rbps" => "IOReadBandwidthMax",
        "wbps" => "IOWriteBandwidthMax",
        "riops" => "IOReadIOPSMax",
        "wiops" => "IOWriteIOPSMax",
        _ => return None,
    };
    let path = format!("/dev/block/{device}");
    Some((name, Value::Amounts(vec![(path, amount(value)?)])))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::{limits_v1, limits_v2};
    use expect_test::{Expect, expect};
    use oci_spec::runtime::LinuxResources;

    fn check(json: &str, v2: bool, expected: Expect) {
        let resources: LinuxResources = serde_json::from_str(json).unwrap();
        let writes = match v2 {
            true => limits_v2::writes(&resources, &|_| Ok(None)),
            false => limits_v1::writes(&resources, &|_, _| Ok(None)),
        };
        let lines = of(&writes.unwrap(), PERIOD);
        let text: String = lines
            .iter()
            .map(|(name, value)| format!("{name} {value:?}\n"))
            .collect();
        expected.assert_eq(&text);
    }

    #[test]
    fn v2_limits_are_properties() {
        check(
            r#"{"cpu":{"shares":1024,"quota":50000,"period":25000,"cpus":"0-1,9","mems":"0"},
                "memory":{"limit":1000,"reservation":500,"swap":-1},"pids":{"limit":-1},
                "blockIO":{"weight":500,
                    "throttleReadBpsDevice":[{"major":8,"minor":0,"rate":1000}]},
                "unified":{"memory.high":"900","cpu.max.burst":"5"}}"#,
            true,
            expect![[r#"
                AllowedCPUs Bytes([3, 2])
                AllowedMemoryNodes Bytes([1])
                CPUWeight U64(100)
                MemoryLow U64(500)
                MemorySwapMax U64(18446744073709551615)
                MemoryMax U64(1000)
                TasksMax U64(18446744073709551615)
                IOWeight U64(4950)
                IOReadBandwidthMax Amounts([("/dev/block/8:0", 1000)])
                MemoryHigh U64(900)
                CPUQuotaPerSecUSec U64(2000000)
                CPUQuotaPeriodUSec U64(25000)
            "#]],
        );
    }

    #[test]
    fn a_quota_alone_counts_in_the_period_in_force_and_is_rounded_up() {
        check(
            r#"{"cpu":{"quota":33333}}"#,
            true,
            expect![[r#"
            CPUQuotaPerSecUSec U64(340000)
            CPUQuotaPeriodUSec U64(100000)
        "#]],
        );
        check(
            r#"{"cpu":{"quota":-1}}"#,
            true,
            expect![[r#"
            CPUQuotaPerSecUSec U64(18446744073709551615)
            CPUQuotaPeriodUSec U64(100000)
        "#]],
        );
    }

    #[test]
    fn what_is_said_in_v2_s_words_wins() {
        check(
            r#"{"cpu":{"shares":2},"unified":{"cpu.weight":"1234","cpu.max":"max 10000"}}"#,
            true,
            expect![[r#"
                CPUWeight U64(1)
                CPUWeight U64(1234)
                CPUQuotaPerSecUSec U64(18446744073709551615)
                CPUQuotaPeriodUSec U64(10000)
            "#]],
        );
    }

    #[test]
    fn v1_limits_are_properties() {
        check(
            r#"{"cpu":{"shares":512,"quota":50000,"period":50000},
                "memory":{"limit":1000},"pids":{"limit":7},"blockIO":{"weight":500}}"#,
            false,
            expect![[r#"
                CPUShares U64(512)
                MemoryLimit U64(1000)
                TasksMax U64(7)
                BlockIOWeight U64(500)
                CPUQuotaPerSecUSec U64(1000000)
                CPUQuotaPeriodUSec U64(50000)
            "#]],
        );
    }
}
