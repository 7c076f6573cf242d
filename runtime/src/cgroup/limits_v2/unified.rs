//! `unified`: limits in v2's own words, a control file's name and what to write there.

use oci_spec::runtime::LinuxResources;

use super::super::directory::refused;
use super::super::limits::{STEP, Write};
use crate::StepError;

/// Controllers whose files `unified` may name.
const UNIFIED: [&str; 9] = [
    "cpu", "cpuset", "dmem", "hugetlb", "io", "memory", "misc", "pids", "rdma",
];

/// The files of cgroup v2 itself that are limits. The others are levers (`cgroup.procs`, `cgroup.kill`).
const UNIFIED_CORE: [&str; 2] = ["cgroup.max.depth", "cgroup.max.descendants"];

/// In the order of their names.
pub(super) fn writes(resources: &LinuxResources) -> Result<Vec<Write>, StepError> {
    let mut writes = Vec::new();
    let mut entries: Vec<_> = resources.unified().iter().flatten().collect();
    entries.sort();
    for (file, value) in entries {
        let controller =
            controller_of(file).map_err(|cause| refused(STEP, "linux.resources.unified", cause))?;
        // Some files take several lines, one write(2) each (io.max).
        for line in value.lines() {
            writes.push(Write::new(controller, file.clone(), line));
        }
    }
    Ok(writes)
}

fn controller_of(file: &str) -> Result<&'static str, String> {
    let valid = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if !file.bytes().all(valid) || file.contains("..") {
        return Err(format!("{file:?} is no name of a control file"));
    }
    let Some((controller, _)) = file.split_once('.') else {
        return Err(format!(
            "the specified key has not the form CONTROLLER.VALUE `{file}`"
        ));
    };
    if UNIFIED_CORE.contains(&file) {
        return Ok("cgroup");
    }
    let known = UNIFIED.into_iter().find(|name| *name == controller);
    known.ok_or_else(|| {
        format!(
            "the requested cgroup controller `{controller}` is not available; cgroup v2 has {}",
            UNIFIED.join(", ")
        )
    })
}
