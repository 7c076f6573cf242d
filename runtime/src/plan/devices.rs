//! Device nodes and links: the spec's, and the ones that every container has.
//!
//! What stands at /dev decides: into a file system of the container's own, or the image's directory, nodes are made;
//! a bind of somebody else's /dev is left as it is. In a user namespace no node can be made: each is a bind of one that
//! the parent made, or of the host's own where the parent is not privileged either.

use std::path::Path;

use oci_spec::runtime::{Linux, LinuxDevice, LinuxDeviceType};

use super::mounts::{Around, Ids};
use super::step::{DeviceKind, DeviceNode, Step};
use super::user::outside;
use crate::StepError;

/// runtime-spec config-linux.md "Default Devices".
const DEFAULT: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

/// runtime-spec runtime-linux.md "Dev symbolic links", and ptmx of the container's own devpts.
const LINKS: [(&str, &str); 5] = [
    ("ptmx", "pts/ptmx"),
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
];

/// What stands at /dev.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dev {
    /// A file system of the container's own.
    Own,
    /// Nothing: the image's directory.
    Image,
    /// A bind of somebody else's.
    Bound,
}

/// The steps for devices.
#[derive(Debug, Default)]
pub(super) struct Devices {
    /// Walked by the parent.
    pub(super) before: Vec<Step>,
    /// Walked by init before the pivot.
    pub(super) open: Vec<Step>,
    /// Walked by init after the mounts.
    pub(super) make: Vec<Step>,
}

impl Devices {
    /// `attach` are the steps of the mounts.
    pub(super) fn of(
        linux: &Linux,
        attach: &[Step],
        around: &Around,
    ) -> Result<Devices, StepError> {
        let dev = dev(attach);
        let mut planned = Devices::default();
        if dev == Dev::Image {
            planned.make.push(Step::RealDev);
        }
        let nodes = nodes(linux, dev)?;
        let (here, there): (Vec<_>, Vec<_>) = nodes
            .into_iter()
            .partition(|node| !(dev == Dev::Bound && node.path.starts_with("/dev")));
        planned.make.extend(there.into_iter().map(Step::FindDevice));
        if around.user {
            planned.bind(here, around)?;
        } else {
            planned.make.extend(here.into_iter().map(Step::Device));
        }
        planned
            .make
            .extend((dev == Dev::Own).then_some(Step::OwnNull));
        if dev != Dev::Bound {
            planned
                .make
                .extend(LINKS.map(|(name, target)| Step::Symlink {
                    path: Path::new("/dev").join(name),
                    target: target.into(),
                }));
        }
        Ok(planned)
    }

    fn bind(&mut self, nodes: Vec<DeviceNode>, around: &Around) -> Result<(), StepError> {
        let (fifos, devices): (Vec<_>, Vec<_>) = nodes
            .into_iter()
            .partition(|node| node.kind == DeviceKind::Fifo);
        self.make.extend(fifos.into_iter().map(Step::Device));
        let parent = around.parent_opens;
        if parent && around.makes_nodes {
            let made: Result<Vec<_>, _> =
                devices.iter().map(|node| of_host(node, around)).collect();
            self.before.push(Step::MakeDevices(made?));
        } else {
            let list = if parent {
                &mut self.before
            } else {
                &mut self.open
            };
            list.extend(devices.iter().cloned().map(Step::OpenDevice));
        }
        self.make.extend(devices.into_iter().map(Step::BindDevice));
        Ok(())
    }
}

/// The last mount at /dev counts.
fn dev(attach: &[Step]) -> Dev {
    let at = Path::new("/dev");
    let of = |step: &Step| match step {
        Step::Mount(fs) | Step::AttachFilesystem { filesystem: fs, .. } if fs.destination == at => {
            Some(Dev::Own)
        }
        Step::AttachBind(bind) if bind.destination == at => Some(Dev::Bound),
        _ => None,
    };
    attach.iter().rev().find_map(of).unwrap_or(Dev::Image)
}

/// The default ones, then the spec's; one of the spec's at the place of a default one replaces it.
fn nodes(linux: &Linux, dev: Dev) -> Result<Vec<DeviceNode>, StepError> {
    let mut nodes: Vec<DeviceNode> = Vec::new();
    if dev != Dev::Bound {
        nodes.extend(DEFAULT.map(|(name, major, minor)| DeviceNode {
            path: Path::new("/dev").join(name),
            kind: DeviceKind::Char,
            major,
            minor,
            mode: 0o666,
            uid: 0,
            gid: 0,
        }));
    }
    for device in linux.devices().iter().flatten() {
        let node = node(device)?;
        match nodes.iter_mut().find(|known| known.path == node.path) {
            Some(known) => *known = node,
            None => nodes.push(node),
        }
    }
    Ok(nodes)
}

fn node(device: &LinuxDevice) -> Result<DeviceNode, StepError> {
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
    let path = super::draft::absolute("device", device.path())?;
    Ok(DeviceNode {
        // Free of a slash at its end.
        path: path.components().collect(),
        kind,
        major: number(device.major())?,
        minor: number(device.minor())?,
        mode: device.file_mode().unwrap_or(0o666) & 0o7777,
        uid: device.uid().unwrap_or(0),
        gid: device.gid().unwrap_or(0),
    })
}

/// Its owner as the host counts.
fn of_host(node: &DeviceNode, around: &Around) -> Result<DeviceNode, StepError> {
    let Some(Ids::Ranges { uids, gids }) = &around.ids else {
        // The maps of a namespace that is joined are not in the spec.
        return Ok(node.clone());
    };
    let refused = || {
        let cause = "the container's user namespace does not have its owner or group";
        StepError::refused("plan device", node.path.display(), cause)
    };
    // Where nobody is root, what belongs to root belongs to the host's.
    let of_host = |ranges, id| outside(ranges, id).or((id == 0).then_some(0));
    Ok(DeviceNode {
        uid: of_host(uids, node.uid).ok_or_else(refused)?,
        gid: of_host(gids, node.gid).ok_or_else(refused)?,
        ..node.clone()
    })
}
