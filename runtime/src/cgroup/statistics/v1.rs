//! Figures from v1's control files.

use std::collections::BTreeMap;

use super::figures::{block_v1, keyed, list, number};
use super::{Cpu, Cpuset, Hugetlb, Memory, MemoryEntry, Pids, Statistics};
use crate::StepError;

/// Whose files are read.
pub(super) const CONTROLLERS: [&str; 7] = [
    "blkio", "cpu", "cpuacct", "cpuset", "hugetlb", "memory", "pids",
];

/// `cpuacct.stat` counts USER_HZ, which the kernel's interface fixes at 100.
const TICK: u64 = 10_000_000;

/// A controller's file; None if there is none.
type Read<'a> = dyn Fn(&str, &str) -> Result<Option<String>, StepError> + 'a;

pub(super) fn statistics(read: &Read<'_>, sizes: &[String]) -> Result<Statistics, StepError> {
    Ok(Statistics {
        cpu: cpu(read)?,
        cpuset: cpuset(read)?,
        memory: memory(read)?,
        pids: Pids {
            current: figure(read, "pids", "pids.current")?,
            limit: match figure(read, "pids", "pids.max")? {
                u64::MAX => 0,
                limit => limit,
            },
        },
        blkio: blkio(read)?,
        hugetlb: hugetlb(read, sizes)?,
        ..Statistics::default()
    })
}

fn figure(read: &Read<'_>, controller: &str, file: &str) -> Result<u64, StepError> {
    let text = read(controller, file)?;
    Ok(text.as_deref().and_then(number).unwrap_or_default())
}

fn cpu(read: &Read<'_>) -> Result<Cpu, StepError> {
    let mut cpu = Cpu::default();
    let stat = keyed(&read("cpu", "cpu.stat")?.unwrap_or_default());
    let of = |key: &str| stat.get(key).copied().unwrap_or_default();
    cpu.throttling.periods = of("nr_periods");
    cpu.throttling.throttled_periods = of("nr_throttled");
    cpu.throttling.throttled_time = of("throttled_time");

    cpu.usage.total = figure(read, "cpuacct", "cpuacct.usage")?;
    let text = read("cpuacct", "cpuacct.usage_percpu")?.unwrap_or_default();
    cpu.usage.percpu = text.split_whitespace().filter_map(number).collect();
    let ticks = keyed(&read("cpuacct", "cpuacct.stat")?.unwrap_or_default());
    let of = |key: &str| ticks.get(key).map_or(0, |ticks| ticks.saturating_mul(TICK));
    cpu.usage.user = of("user");
    cpu.usage.kernel = of("system");

    // `cpu user system`, in nanoseconds.
    let text = read("cpuacct", "cpuacct.usage_all")?.unwrap_or_default();
    for line in text.lines().skip(1) {
        let mut numbers = line.split_whitespace().skip(1).map_while(number);
        if let (Some(user), Some(kernel)) = (numbers.next(), numbers.next()) {
            cpu.usage.percpu_user.push(user);
            cpu.usage.percpu_kernel.push(kernel);
        }
    }
    Ok(cpu)
}

fn cpuset(read: &Read<'_>) -> Result<Cpuset, StepError> {
    let text =
        |file: &str| read("cpuset", &format!("cpuset.{file}")).map(Option::unwrap_or_default);
    let flag = |file: &str| figure(read, "cpuset", &format!("cpuset.{file}"));
    Ok(Cpuset {
        cpus: list(&text("cpus")?),
        cpu_exclusive: flag("cpu_exclusive")?,
        mems: list(&text("mems")?),
        mem_hardwall: flag("mem_hardwall")?,
        mem_exclusive: flag("mem_exclusive")?,
        memory_migrate: flag("memory_migrate")?,
        memory_spread_page: flag("memory_spread_page")?,
        memory_spread_slab: flag("memory_spread_slab")?,
        memory_pressure: flag("memory_pressure")?,
        sched_load_balance: flag("sched_load_balance")?,
        sched_relax_domain_level: text("sched_relax_domain_level")?
            .trim()
            .parse()
            .unwrap_or_default(),
    })
}

fn memory(read: &Read<'_>) -> Result<Memory, StepError> {
    let entry = |kind: &str| -> Result<MemoryEntry, StepError> {
        let of = |what: &str| figure(read, "memory", &format!("memory.{kind}{what}"));
        Ok(MemoryEntry {
            limit: of("limit_in_bytes")?,
            usage: of("usage_in_bytes")?,
            max: of("max_usage_in_bytes")?,
            failcnt: of("failcnt")?,
        })
    };
    let raw = keyed(&read("memory", "memory.stat")?.unwrap_or_default());
    Ok(Memory {
        cache: raw.get("cache").copied().unwrap_or_default(),
        usage: entry("")?,
        swap: entry("memsw.")?,
        kernel: entry("kmem.")?,
        kernel_tcp: entry("kmem.tcp.")?,
        raw,
        psi: None,
    })
}

/// The scheduler's own counts where it keeps them, otherwise the throttling layer's.
fn blkio(read: &Read<'_>) -> Result<super::Blkio, StepError> {
    let entries = |file: &str| -> Result<Vec<super::BlkioEntry>, StepError> {
        Ok(block_v1(&read("blkio", file)?.unwrap_or_default()))
    };
    let bfq = |what: &str| entries(&format!("blkio.bfq.{what}_recursive"));
    let mut all = super::Blkio {
        io_service_bytes_recursive: bfq("io_service_bytes")?,
        io_serviced_recursive: bfq("io_serviced")?,
        io_queued_recursive: bfq("io_queued")?,
        io_service_time_recursive: bfq("io_service_time")?,
        io_wait_time_recursive: bfq("io_wait_time")?,
        io_merged_recursive: bfq("io_merged")?,
        io_time_recursive: bfq("time")?,
        sectors_recursive: bfq("sectors")?,
        psi: None,
    };
    if all.io_serviced_recursive.is_empty() {
        all.io_service_bytes_recursive = entries("blkio.throttle.io_service_bytes_recursive")?;
        all.io_serviced_recursive = entries("blkio.throttle.io_serviced_recursive")?;
    }
    Ok(all)
}

fn hugetlb(read: &Read<'_>, sizes: &[String]) -> Result<BTreeMap<String, Hugetlb>, StepError> {
    let mut all = BTreeMap::new();
    for size in sizes {
        if read("hugetlb", &format!("hugetlb.{size}.usage_in_bytes"))?.is_none() {
            continue;
        }
        let of = |what: &str| figure(read, "hugetlb", &format!("hugetlb.{size}.{what}"));
        let figures = Hugetlb {
            usage: of("usage_in_bytes")?,
            max: of("max_usage_in_bytes")?,
            failcnt: of("failcnt")?,
        };
        all.insert(size.clone(), figures);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    #[test]
    fn the_shape_is_that_of_runc() {
        let files = [
            (
                "cpu.stat",
                "nr_periods 10\nnr_throttled 3\nthrottled_time 700\n",
            ),
            ("cpuacct.usage", "3000000\n"),
            ("cpuacct.usage_percpu", "1000000 2000000 \n"),
            ("cpuacct.stat", "user 2\nsystem 1\n"),
            (
                "cpuacct.usage_all",
                "cpu user system\n0 600000 400000\n1 2000000 0\n",
            ),
            ("cpuset.cpus", "0-1\n"),
            ("cpuset.sched_relax_domain_level", "-1\n"),
            ("memory.usage_in_bytes", "4096\n"),
            ("memory.limit_in_bytes", "8192\n"),
            ("memory.memsw.usage_in_bytes", "5000\n"),
            ("memory.stat", "cache 17\nrss 18\n"),
            ("pids.current", "2\n"),
            ("pids.max", "max\n"),
            (
                "blkio.throttle.io_service_bytes_recursive",
                "8:0 Read 512\n8:0 Total 512\nTotal 512\n",
            ),
            ("hugetlb.2MB.usage_in_bytes", "2097152\n"),
            ("hugetlb.2MB.failcnt", "1\n"),
        ];
        let read = |_: &str, file: &str| {
            let found = files.iter().find(|(name, _)| *name == file);
            Ok(found.map(|(_, text)| text.to_string()))
        };
        let all = statistics(&read, &["2MB".to_owned(), "1GB".to_owned()]).unwrap();
        expect![[r#"
            {
              "cpu": {
                "usage": {
                  "total": 3000000,
                  "percpu": [
                    1000000,
                    2000000
                  ],
                  "percpu_kernel": [
                    400000,
                    0
                  ],
                  "percpu_user": [
                    600000,
                    2000000
                  ],
                  "kernel": 10000000,
                  "user": 20000000
                },
                "throttling": {
                  "periods": 10,
                  "throttledPeriods": 3,
                  "throttledTime": 700
                }
              },
              "cpuset": {
                "cpus": [
                  0,
                  1
                ],
                "cpu_exclusive": 0,
                "mem_hardwall": 0,
                "mem_exclusive": 0,
                "memory_migrate": 0,
                "memory_spread_page": 0,
                "memory_spread_slab": 0,
                "memory_pressure": 0,
                "sched_load_balance": 0,
                "sched_relax_domain_level": -1
              },
              "memory": {
                "cache": 17,
                "usage": {
                  "limit": 8192,
                  "usage": 4096,
                  "failcnt": 0
                },
                "swap": {
                  "limit": 0,
                  "usage": 5000,
                  "failcnt": 0
                },
                "kernel": {
                  "limit": 0,
                  "failcnt": 0
                },
                "kernelTCP": {
                  "limit": 0,
                  "failcnt": 0
                },
                "raw": {
                  "cache": 17,
                  "rss": 18
                }
              },
              "pids": {
                "current": 2
              },
              "blkio": {
                "ioServiceBytesRecursive": [
                  {
                    "major": 8,
                    "op": "Read",
                    "value": 512
                  },
                  {
                    "major": 8,
                    "op": "Total",
                    "value": 512
                  }
                ]
              },
              "hugetlb": {
                "2MB": {
                  "usage": 2097152,
                  "failcnt": 1
                }
              },
              "intel_rdt": {},
              "network_interfaces": []
            }"#]]
        .assert_eq(&serde_json::to_string_pretty(&all).unwrap());
    }
}
