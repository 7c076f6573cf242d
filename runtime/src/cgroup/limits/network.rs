//! `network`: the class id and the priorities that v1's net_cls and net_prio put on packets. v2 has no such
//! controllers, and a value that is given there is refused by name.

use oci_spec::runtime::LinuxNetwork;

use super::super::directory::refused;
use super::{STEP, Write, is_given};
use crate::StepError;

/// IFNAMSIZ without its NUL.
const INTERFACE_MAX: usize = 15;

pub(in crate::cgroup) fn writes_v1(network: &LinuxNetwork) -> Result<Vec<Write>, StepError> {
    let class = network.class_id().filter(|class| *class != 0);
    let mut writes: Vec<Write> = class
        .map(|class| Write::new("net_cls", "net_cls.classid", class))
        .into_iter()
        .collect();
    for given in network.priorities().iter().flatten() {
        let name = given.name();
        let plain = |byte: u8| byte.is_ascii_graphic() && byte != b'/';
        if name.is_empty() || name.len() > INTERFACE_MAX || !name.bytes().all(plain) {
            let cause = "it is no name of a network interface";
            return Err(refused(STEP, format!("network.priorities {name:?}"), cause));
        }
        let line = format!("{name} {}", given.priority());
        writes.push(Write::new("net_prio", "net_prio.ifpriomap", line));
    }
    Ok(writes)
}

pub(in crate::cgroup) fn refuse_v2(network: &LinuxNetwork) -> Result<(), StepError> {
    match is_given(network) {
        false => Ok(()),
        true => Err(refused(
            STEP,
            "linux.resources.network",
            "cgroup v2 has no network classes and priorities; leave it out",
        )),
    }
}
