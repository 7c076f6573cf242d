//! Which capabilities a container's processes may hold.

use std::str::FromStr;

use longshore_engine::Failure;
use oci_spec::runtime::Capability;

use super::{Inputs, impossible};

/// What Docker gives every container: enough for the programs that images carry, nothing that
/// reaches out of the container.
const DEFAULT: [Capability; 14] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setpcap,
    Capability::NetBindService,
    Capability::NetRaw,
    Capability::SysChroot,
    Capability::Mknod,
    Capability::AuditWrite,
    Capability::Setfcap,
];

/// Every capability by its number, as in `linux/capability.h`.
const BY_NUMBER: [Capability; 41] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::DacReadSearch,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setpcap,
    Capability::LinuxImmutable,
    Capability::NetBindService,
    Capability::NetBroadcast,
    Capability::NetAdmin,
    Capability::NetRaw,
    Capability::IpcLock,
    Capability::IpcOwner,
    Capability::SysModule,
    Capability::SysRawio,
    Capability::SysChroot,
    Capability::SysPtrace,
    Capability::SysPacct,
    Capability::SysAdmin,
    Capability::SysBoot,
    Capability::SysNice,
    Capability::SysResource,
    Capability::SysTime,
    Capability::SysTtyConfig,
    Capability::Mknod,
    Capability::Lease,
    Capability::AuditWrite,
    Capability::AuditControl,
    Capability::Setfcap,
    Capability::MacOverride,
    Capability::MacAdmin,
    Capability::Syslog,
    Capability::WakeAlarm,
    Capability::BlockSuspend,
    Capability::AuditRead,
    Capability::Perfmon,
    Capability::Bpf,
    Capability::CheckpointRestore,
];

/// The capabilities of a mask as `/proc/PID/status` writes it (`CapBnd`).
pub(crate) fn from_mask(mask: u64) -> Vec<Capability> {
    let held = |(number, capability): (usize, &Capability)| {
        (mask >> number & 1 == 1).then_some(*capability)
    };
    BY_NUMBER.iter().enumerate().filter_map(held).collect()
}

/// The container's set, in the kernel's order, as Docker computes it: privileged has all that the
/// host can give; `ALL` stands for every one; what is dropped by name wins over `ALL` added.
pub(super) fn of(inputs: &Inputs<'_>) -> Result<Vec<Capability>, Failure> {
    let host = &inputs.host.capabilities;
    if inputs.container.privileged {
        return Ok(host.clone());
    }
    let (add_all, add) = parse(inputs, &inputs.container.cap_add)?;
    let (drop_all, drop) = parse(inputs, &inputs.container.cap_drop)?;
    let wanted = |capability: &Capability| {
        if add_all {
            !drop.contains(capability)
        } else if drop_all {
            add.contains(capability)
        } else {
            add.contains(capability) || (DEFAULT.contains(capability) && !drop.contains(capability))
        }
    };
    if let Some(beyond) = add.iter().find(|c| !host.contains(c)) {
        let cause = format!("this host cannot give CAP_{beyond}: the agent does not hold it");
        return Err(impossible("add capability", inputs.container, &cause));
    }
    Ok(BY_NUMBER
        .into_iter()
        .filter(|c| host.contains(c) && wanted(c))
        .collect())
}

/// Whether the list has `ALL`, and its capabilities by name.
fn parse(inputs: &Inputs<'_>, names: &[String]) -> Result<(bool, Vec<Capability>), Failure> {
    let mut all = false;
    let mut named = Vec::new();
    for name in names {
        let upper = name.to_ascii_uppercase();
        let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
        if bare == "ALL" {
            all = true;
            continue;
        }
        let capability = Capability::from_str(bare).map_err(|_| {
            let cause = format!("{name:?} is no capability of capabilities(7)");
            impossible("read capabilities", inputs.container, &cause)
        })?;
        named.push(capability);
    }
    Ok((all, named))
}
