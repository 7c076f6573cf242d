//! Moving network devices of the host into a container's network namespace, with their addresses.
//!
//! The mover is a child of its own: it opens a socket in the host's namespace, enters the container's, opens another
//! there and speaks to both; so its parent never leaves its namespaces. What was moved is told to the parent, which
//! gives it back if the creation fails later. When the container's namespace ends, the kernel returns physical
//! devices to the host and destroys the others; the OCI text forbids to do more, so `delete` does nothing here.

mod netlink;

use std::os::fd::{AsFd, OwnedFd};

use nix::sched::{CloneFlags, setns};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use self::netlink::{Address, Link, Netlink};
use crate::error::Context;
use crate::plan::NetworkDevice;
use crate::{StepError, errand};

const STEP: &str = "move network device";
const MOVER: &str = "mover of network devices";
const STEP_BACK: &str = "give back network device";

/// A device that was moved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Moved {
    host: String,
    index: u32,
    /// Whether it was up on the host.
    up: bool,
    /// Those that it had there and moved with it.
    addresses: Vec<Address>,
}

/// Devices of the host in a container's namespace. While this is held, so is the namespace.
#[derive(Debug)]
pub(crate) struct Lent {
    namespace: OwnedFd,
    moved: Vec<Moved>,
}

/// Moves the devices into the network namespace of a process. On error none is moved.
pub(crate) fn lend(devices: &[NetworkDevice], pid: u32) -> Result<Option<Lent>, StepError> {
    if devices.is_empty() {
        return Ok(None);
    }
    let path = format!("/proc/{pid}/ns/net");
    let namespace = open(&path)?;
    let own = open("/proc/self/ns/net")?;
    if identity(&namespace)? == identity(&own)? {
        let cause = "the container's network namespace is the host's own; give it another";
        return Err(StepError::refused(STEP, &devices[0].host, cause));
    }
    let (moved, error): (_, Option<StepError>) = errand::send(MOVER, || {
        let mut moved = Vec::new();
        let error = there(devices, &namespace, &mut moved).err();
        (moved, error)
    })?;
    let lent = Lent { namespace, moved };
    match error {
        None => Ok(Some(lent)),
        Some(error) => Err(lent.give_back(error)),
    }
}

impl Lent {
    /// Gives all back that can be; the creation failed with `error`, to which is added what could not.
    pub(crate) fn give_back(self, error: StepError) -> StepError {
        if self.moved.is_empty() {
            return error;
        }
        let home = open("/proc/self/ns/net");
        let back = home.and_then(|home| {
            let failed = errand::send(MOVER, || back(&self, &home).err())?;
            failed.map_or(Ok(()), Err)
        });
        match back {
            Ok(()) => error,
            Err(left) => StepError {
                cause: format!("{}; then {left}", error.cause),
                ..error
            },
        }
    }
}

fn open(path: &str) -> Result<OwnedFd, StepError> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .context("open namespace", path)
}

fn identity(namespace: &OwnedFd) -> Result<(u64, u64), StepError> {
    let stat = rustix::fs::fstat(namespace).context("compare namespace", "network")?;
    Ok((stat.st_dev, stat.st_ino))
}

/// A socket at home, and one in the namespace, which this process is in afterwards.
fn both(namespace: &OwnedFd) -> Result<(Netlink, Netlink), StepError> {
    let home = Netlink::open().context("open", "netlink socket")?;
    setns(namespace, CloneFlags::CLONE_NEWNET).context("join namespace", "network")?;
    let there = Netlink::open().context("open", "netlink socket")?;
    Ok((home, there))
}

fn there(
    devices: &[NetworkDevice],
    namespace: &OwnedFd,
    moved: &mut Vec<Moved>,
) -> Result<(), StepError> {
    let (home, there) = both(namespace)?;
    for device in devices {
        let link = home
            .link(&device.host)
            .map_err(|errno| explain(device, errno))?;
        let addresses = home.addresses(link.index).context(STEP, &device.host)?;
        let before = there.links().context(STEP, &device.host)?;
        let given = home.give_away(link.index, namespace.as_fd(), &device.name);
        // The kernel moves first and names then: one that it could not name may have moved all the same.
        let arrived = arrived(&there, &before);
        if let Ok(arrived) = &arrived {
            moved.push(Moved {
                host: device.host.clone(),
                index: arrived.index,
                up: link.up,
                addresses: addresses.clone(),
            });
        }
        given.map_err(|errno| explain(device, errno))?;
        let arrived = arrived.context(STEP, &device.host)?;
        for address in &addresses {
            there
                .add_address(arrived.index, address)
                .context("keep address of", &device.host)?;
        }
        there
            .set_up(arrived.index)
            .context("set up", &device.host)?;
    }
    Ok(())
}

/// The device that was not there before: its number may be another here, and its name one that the kernel chose.
fn arrived(there: &Netlink, before: &[Link]) -> Result<Link, Errno> {
    let known = |link: &Link| before.iter().any(|one| one.index == link.index);
    there
        .links()?
        .into_iter()
        .find(|link| !known(link))
        .ok_or(Errno::NODEV)
}

fn back(lent: &Lent, home_namespace: &OwnedFd) -> Result<(), StepError> {
    let (home, there) = both(&lent.namespace)?;
    for moved in lent.moved.iter().rev() {
        there
            .give_away(moved.index, home_namespace.as_fd(), &moved.host)
            .context(STEP_BACK, &moved.host)?;
        let link = home.link(&moved.host).context(STEP_BACK, &moved.host)?;
        for address in &moved.addresses {
            home.add_address(link.index, address)
                .context(STEP_BACK, &moved.host)?;
        }
        if moved.up {
            home.set_up(link.index).context(STEP_BACK, &moved.host)?;
        }
    }
    Ok(())
}

fn explain(device: &NetworkDevice, errno: Errno) -> StepError {
    let cause = match errno {
        Errno::NODEV => "the host has no such device; check its name".to_owned(),
        Errno::EXIST => format!(
            "the container has a device of the name `{}` already; choose another",
            device.name
        ),
        Errno::INVAL => "the kernel lets no such device leave its network namespace".to_owned(),
        Errno::PERM => {
            "not permitted; only a runtime with CAP_NET_ADMIN on the host can do it".to_owned()
        }
        other => return StepError::io(STEP, &device.host, other),
    };
    StepError {
        errno: Some(errno.raw_os_error()),
        ..StepError::refused(STEP, &device.host, cause)
    }
}
