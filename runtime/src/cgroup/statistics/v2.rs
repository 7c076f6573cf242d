//! Figures from v2's control files, under the names that v1 gave them.

use std::collections::BTreeMap;

use super::figures::{block_v2, keyed, list, number, pressure};
use super::{Blkio, Cpu, Cpuset, Hugetlb, Memory, MemoryEntry, Pids, Statistics};
use crate::StepError;

/// A file; None if there is none.
type Read<'a> = dyn Fn(&str) -> Result<Option<String>, StepError> + 'a;

pub(super) fn statistics(read: &Read<'_>, sizes: &[String]) -> Result<Statistics, StepError> {
    let text = |file: &str| read(file).map(Option::unwrap_or_default);
    let io = text("io.stat")?;
    Ok(Statistics {
        cpu: cpu(read)?,
        cpuset: Cpuset {
            cpus: list(&text("cpuset.cpus.effective")?),
            mems: list(&text("cpuset.mems.effective")?),
            ..Cpuset::default()
        },
        memory: memory(read)?,
        pids: Pids {
            current: figure(read, "pids.current")?,
            limit: match figure(read, "pids.max")? {
                u64::MAX => 0,
                limit => limit,
            },
        },
        blkio: Blkio {
            io_service_bytes_recursive: block_v2(&io, "rbytes", "wbytes"),
            io_serviced_recursive: block_v2(&io, "rios", "wios"),
            psi: stall(read, "io.pressure")?,
            ..Blkio::default()
        },
        hugetlb: hugetlb(read, sizes)?,
        ..Statistics::default()
    })
}

fn figure(read: &Read<'_>, file: &str) -> Result<u64, StepError> {
    let text = read(file)?;
    Ok(text.as_deref().and_then(number).unwrap_or_default())
}

/// A kernel may have PSI compiled in and switched off; then reading fails, and there are no figures.
fn stall(read: &Read<'_>, file: &str) -> Result<Option<super::Pressure>, StepError> {
    match read(file) {
        Ok(text) => Ok(text.as_deref().and_then(pressure)),
        Err(error) if error.errno == Some(libc::EOPNOTSUPP) => Ok(None),
        Err(error) => Err(error),
    }
}

fn cpu(read: &Read<'_>) -> Result<Cpu, StepError> {
    let stat = keyed(&read("cpu.stat")?.unwrap_or_default());
    let of = |key: &str| stat.get(key).copied().unwrap_or_default();
    let nanoseconds = |key: &str| of(key).saturating_mul(1000);
    let mut cpu = Cpu {
        psi: stall(read, "cpu.pressure")?,
        ..Cpu::default()
    };
    cpu.usage.total = nanoseconds("usage_usec");
    cpu.usage.user = nanoseconds("user_usec");
    cpu.usage.kernel = nanoseconds("system_usec");
    cpu.throttling.periods = of("nr_periods");
    cpu.throttling.throttled_periods = of("nr_throttled");
    cpu.throttling.throttled_time = nanoseconds("throttled_usec");
    Ok(cpu)
}

fn memory(read: &Read<'_>) -> Result<Memory, StepError> {
    let raw = keyed(&read("memory.stat")?.unwrap_or_default());
    let events = keyed(&read("memory.events")?.unwrap_or_default());
    let usage = MemoryEntry {
        limit: figure(read, "memory.max")?,
        usage: figure(read, "memory.current")?,
        max: figure(read, "memory.peak")?,
        failcnt: events.get("max").copied().unwrap_or_default(),
    };
    Ok(Memory {
        cache: raw.get("file").copied().unwrap_or_default(),
        swap: MemoryEntry {
            limit: figure(read, "memory.swap.max")?.saturating_add(usage.limit),
            usage: figure(read, "memory.swap.current")?.saturating_add(usage.usage),
            ..MemoryEntry::default()
        },
        usage,
        raw,
        psi: stall(read, "memory.pressure")?,
        ..Memory::default()
    })
}

pub(super) fn hugetlb(
    read: &Read<'_>,
    sizes: &[String],
) -> Result<BTreeMap<String, Hugetlb>, StepError> {
    let mut all = BTreeMap::new();
    for size in sizes {
        let current = read(&format!("hugetlb.{size}.current"))?;
        let Some(usage) = current.as_deref().and_then(number) else {
            continue;
        };
        let events = keyed(&read(&format!("hugetlb.{size}.events"))?.unwrap_or_default());
        let figures = Hugetlb {
            usage,
            failcnt: events.get("max").copied().unwrap_or_default(),
            ..Hugetlb::default()
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
                "usage_usec 3000\nuser_usec 2000\nsystem_usec 1000\nnr_periods 4\nthrottled_usec 5\n",
            ),
            (
                "cpu.pressure",
                "some avg10=1.50 avg60=0.00 avg300=0.25 total=77\n",
            ),
            ("cpuset.cpus.effective", "0-1\n"),
            ("memory.current", "4096\n"),
            ("memory.max", "8192\n"),
            ("memory.swap.max", "max\n"),
            ("memory.swap.current", "4\n"),
            ("memory.events", "low 0\nhigh 0\nmax 6\noom 1\noom_kill 1\n"),
            ("memory.stat", "anon 1\nfile 17\n"),
            ("pids.current", "2\n"),
            ("pids.max", "100\n"),
            (
                "io.stat",
                "8:0 rbytes=512 wbytes=0 rios=1 wios=0 dbytes=9 dios=9\n",
            ),
            ("hugetlb.2MB.current", "0\n"),
            ("hugetlb.2MB.events", "max 2\n"),
        ];
        let read = |file: &str| {
            let found = files.iter().find(|(name, _)| *name == file);
            Ok(found.map(|(_, text)| text.to_string()))
        };
        let all = statistics(&read, &["2MB".to_owned(), "1GB".to_owned()]).unwrap();
        expect![[r#"
            {
              "cpu": {
                "usage": {
                  "total": 3000000,
                  "kernel": 1000000,
                  "user": 2000000
                },
                "throttling": {
                  "periods": 4,
                  "throttledTime": 5000
                },
                "psi": {
                  "some": {
                    "avg10": 1.5,
                    "avg60": 0.0,
                    "avg300": 0.25,
                    "total": 77
                  },
                  "full": {
                    "avg10": 0.0,
                    "avg60": 0.0,
                    "avg300": 0.0,
                    "total": 0
                  }
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
                "sched_relax_domain_level": 0
              },
              "memory": {
                "cache": 17,
                "usage": {
                  "limit": 8192,
                  "usage": 4096,
                  "failcnt": 6
                },
                "swap": {
                  "limit": 18446744073709551615,
                  "usage": 4100,
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
                  "anon": 1,
                  "file": 17
                }
              },
              "pids": {
                "current": 2,
                "limit": 100
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
                    "op": "Write"
                  }
                ],
                "ioServicedRecursive": [
                  {
                    "major": 8,
                    "op": "Read",
                    "value": 1
                  },
                  {
                    "major": 8,
                    "op": "Write"
                  }
                ]
              },
              "hugetlb": {
                "2MB": {
                  "failcnt": 2
                }
              },
              "intel_rdt": {},
              "network_interfaces": []
            }"#]]
        .assert_eq(&serde_json::to_string_pretty(&all).unwrap());
    }
}
