//! Reading numbers out of control files' texts. Texts come from the kernel; what is not a number counts as
//! missing.

use std::collections::BTreeMap;

use super::{BlkioEntry, Pressure, Stall};

/// A single number; `max` is the largest.
pub(super) fn number(text: &str) -> Option<u64> {
    match text.trim() {
        "max" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}

/// Lines of `KEY NUMBER`.
pub(super) fn keyed(text: &str) -> BTreeMap<String, u64> {
    let line = |line: &str| {
        let (key, value) = line.split_once(' ')?;
        Some((key.to_owned(), value.trim().parse().ok()?))
    };
    text.lines().filter_map(line).collect()
}

/// `0-2,7`; not more than a kernel has CPUs.
pub(in crate::cgroup) fn list(text: &str) -> Vec<u16> {
    const MOST: usize = 8192;
    let mut all = Vec::new();
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<u16>(), last.parse::<u16>()) {
            all.extend((first..=last).take(MOST.saturating_sub(all.len())));
        }
    }
    all
}

/// v1's blkio lines: `8:0 Read 4096`. The sums (`Total`) at the end of a file belong to no device.
pub(super) fn block_v1(text: &str) -> Vec<BlkioEntry> {
    let line = |line: &str| {
        let mut words = line.split_whitespace();
        let (major, minor) = device(words.next()?)?;
        let (op, value) = match (words.next()?, words.next()) {
            (op, Some(value)) => (op.to_owned(), value),
            (value, None) => (String::new(), value),
        };
        Some(BlkioEntry {
            major,
            minor,
            op,
            value: value.parse().ok()?,
        })
    };
    text.lines().filter_map(line).collect()
}

/// v2's io.stat: `8:0 rbytes=4096 wbytes=0 ...`; the entries of two keys, as reads and writes.
pub(super) fn block_v2(text: &str, read: &str, write: &str) -> Vec<BlkioEntry> {
    let mut entries = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let Some((major, minor)) = words.next().and_then(device) else {
            continue;
        };
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            let op = match key {
                _ if key == read => "Read",
                _ if key == write => "Write",
                _ => continue,
            };
            entries.extend(value.parse().ok().map(|value| BlkioEntry {
                major,
                minor,
                op: op.to_owned(),
                value,
            }));
        }
    }
    entries
}

fn device(text: &str) -> Option<(u64, u64)> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`, and the same for `full`.
pub(super) fn pressure(text: &str) -> Option<Pressure> {
    let mut pressure = Pressure::default();
    let mut found = false;
    for line in text.lines() {
        let (kind, rest) = line.split_once(' ')?;
        let stall = match kind {
            "some" => &mut pressure.some,
            "full" => &mut pressure.full,
            _ => continue,
        };
        found = true;
        for (key, value) in rest.split(' ').filter_map(|word| word.split_once('=')) {
            set(stall, key, value);
        }
    }
    found.then_some(pressure)
}

fn set(stall: &mut Stall, key: &str, value: &str) {
    // `parse` takes `inf` and `nan`, which JSON cannot say.
    let share = value
        .parse()
        .ok()
        .filter(|value: &f64| value.is_finite())
        .unwrap_or_default();
    match key {
        "avg10" => stall.avg10 = share,
        "avg60" => stall.avg60 = share,
        "avg300" => stall.avg300 = share,
        "total" => stall.total = value.parse().unwrap_or_default(),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lists_have_ranges() {
        assert_eq!(list("0-2,7\n"), [0, 1, 2, 7]);
        assert!(list("\n").is_empty() && list("a-b").is_empty());
        assert!(list("0-65535,0-65535").len() <= 8192);
    }

    proptest! {
        #[test]
        fn no_text_makes_the_readers_panic(text in "[0-9a-z:= .\\n-]{0,80}") {
            drop((number(&text), keyed(&text), list(&text), pressure(&text)));
            drop((block_v1(&text), block_v2(&text, "rbytes", "wbytes")));
        }
    }
}
