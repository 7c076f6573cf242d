//! Device nodes: the spec's, and the ones that every container has.

use std::path::Path;

use oci_spec::runtime::{LinuxDevice, LinuxDeviceType};

use super::step::{DeviceKind, DeviceNode, Step};
use crate::StepError;

pub(super) fn node(device: &LinuxDevice) -> Result<DeviceNode, StepError> {
    let refused = |cause: &str| StepError::refused("plan device", device.path().display(), cause);
    let kind = match device.typ() {
        LinuxDeviceType::C | LinuxDeviceType::U => DeviceKind::Char,
        LinuxDeviceType::B => DeviceKind::Block,
        LinuxDeviceType::P => DeviceKind::Fifo,
        LinuxDeviceType::A => return Err(refused("a node's type must be one of b, c, p, u")),
    };
    let number = |value: i64| {
        u32::try_from(value).map_err(|_| refused("its major or minor number is out of range"))
    };
    Ok(DeviceNode {
        path: super::draft::absolute("device", device.path())?,
        kind,
        major: number(device.major())?,
        minor: number(device.minor())?,
        mode: device.file_mode().unwrap_or(0o666) & 0o7777,
        uid: device.uid().unwrap_or(0),
        gid: device.gid().unwrap_or(0),
    })
}

/// runtime-spec config-linux.md "Default Devices".
pub(super) fn default_devices() -> impl Iterator<Item = Step> {
    let nodes = [
        ("null", 1, 3),
        ("zero", 1, 5),
        ("full", 1, 7),
        ("random", 1, 8),
        ("urandom", 1, 9),
        ("tty", 5, 0),
    ];
    nodes.into_iter().map(|(name, major, minor)| {
        let path = Path::new("/dev").join(name);
        Step::Device(DeviceNode {
            path,
            kind: DeviceKind::Char,
            major,
            minor,
            mode: 0o666,
            uid: 0,
            gid: 0,
        })
    })
}

/// runtime-spec runtime-linux.md "Dev symbolic links", and ptmx of the container's own devpts.
pub(super) fn default_links() -> impl Iterator<Item = Step> {
    let links = [
        ("ptmx", "pts/ptmx"),
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ];
    links.into_iter().map(|(name, target)| Step::Symlink {
        path: Path::new("/dev").join(name),
        target: target.into(),
    })
}
