//! `rdma`: how many handles and objects of an RDMA device a group may hold; one file in both versions.

use std::collections::HashMap;

use oci_spec::runtime::LinuxRdma;

use super::super::directory::refused;
use super::{STEP, Write};
use crate::StepError;

/// What is not given stays as it is.
pub(in crate::cgroup) fn writes(
    devices: &HashMap<String, LinuxRdma>,
) -> Result<Vec<Write>, StepError> {
    let mut devices: Vec<_> = devices.iter().collect();
    devices.sort_by_key(|(name, _)| *name);
    let mut writes = Vec::new();
    for (name, limits) in devices {
        if name.is_empty() || name.len() > 64 || !name.bytes().all(|byte| byte.is_ascii_graphic()) {
            let cause = "it is no name of an RDMA device (/sys/class/infiniband)";
            return Err(refused(STEP, format!("rdma {name:?}"), cause));
        }
        let keys = [
            ("hca_handle", limits.hca_handles()),
            ("hca_object", limits.hca_objects()),
        ];
        let line: String = keys
            .into_iter()
            .filter_map(|(key, limit)| Some(format!(" {key}={}", limit?)))
            .collect();
        if !line.is_empty() {
            writes.push(Write::new("rdma", "rdma.max", format!("{name}{line}")));
        }
    }
    Ok(writes)
}
