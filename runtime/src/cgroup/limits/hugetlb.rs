//! `hugepageLimits` as control files. Here 0 is a limit, namely none at all; -1 lifts.
//!
//! Pages that are in use and pages that are only reserved have a file each; both get the limit. The second
//! came with Linux 5.7 and may be missing.

use oci_spec::runtime::LinuxHugepageLimit;

use super::super::directory::refused;
use super::{Bound, STEP, Write};
use crate::StepError;

/// `file` and `lift` are the version's words: `limit_in_bytes` and -1, `max` and `max`.
pub(in crate::cgroup) fn writes(
    limits: &[LinuxHugepageLimit],
    file: &str,
    lift: &str,
) -> Result<Vec<Write>, StepError> {
    let mut writes = Vec::new();
    for given in limits {
        let size = given.page_size();
        if !is_size(size) {
            let cause = "it is no page size such as 64KB, 2MB or 1GB (/sys/kernel/mm/hugepages)";
            return Err(refused(STEP, format!("hugepageLimits {size:?}"), cause));
        }
        let bound = match given.limit() {
            -1 => Bound::Unlimited,
            limit => Bound::At(u64::try_from(limit).map_err(|_| {
                let cause = format!("{limit} is no limit: give a number of bytes, or -1 for none");
                refused(STEP, format!("hugepageLimits {size}"), cause)
            })?),
        };
        writes.push(Write::bound(
            "hugetlb",
            format!("hugetlb.{size}.{file}"),
            bound,
            lift,
        ));
        writes.push(Write {
            lifts: true,
            ..Write::bound(
                "hugetlb",
                format!("hugetlb.{size}.rsvd.{file}"),
                bound,
                lift,
            )
        });
    }
    Ok(writes)
}

/// The text becomes a part of a file's name.
fn is_size(text: &str) -> bool {
    let number = ["KB", "MB", "GB"]
        .iter()
        .find_map(|unit| text.strip_suffix(unit));
    number.is_some_and(|number| {
        (1..=10).contains(&number.len())
            && !number.starts_with('0')
            && number.bytes().all(|byte| byte.is_ascii_digit())
    })
}
