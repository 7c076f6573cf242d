//! Device nodes and links.
//!
//! In a user namespace nobody can make a node. There each is a bind of one that the parent made with the host's
//! rights, on a file system of its own, or of the host's.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use longshore_sys::MountAttributes;
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Stat, Uid};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};

use super::filesystem::{attach, clone, clone_path, detached, set_attributes};
use super::floor::Place;
use super::resolve::{self, Missing};
use crate::StepError;
use crate::error::Context;
use crate::plan::{DeviceKind, DeviceNode, MountFlags, Propagation};

/// Makes a node and proves that what stands there afterwards is it. The mode is exact: umask is zero.
pub(super) fn node(place: &Place<'_>, device: &DeviceNode) -> Result<(), StepError> {
    let subject = device.path.display();
    let (directory, name) = (&place.directory, place.name);
    let made = match make(directory.as_fd(), name, device) {
        Ok(()) => true,
        // One that the image brings may stay; whether it is the same is seen below.
        Err(Errno::EXIST) => false,
        Err(errno) => return Err(StepError::io("make device", &subject, errno)),
    };
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let found = rustix::fs::openat(directory, name, flags, Mode::empty())
        .context("open device", &subject)?;
    let stat = prove(&found, device)?;
    if !made || (stat.st_uid, stat.st_gid) == (device.uid, device.gid) {
        return Ok(());
    }
    own(&found, device).context("own device", &subject)
}

fn make(directory: BorrowedFd<'_>, name: &OsStr, device: &DeviceNode) -> Result<(), Errno> {
    let mode = Mode::from_raw_mode(device.mode);
    rustix::fs::mknodat(directory, name, kind(device), mode, number(device))
}

fn own(node: &OwnedFd, device: &DeviceNode) -> Result<(), Errno> {
    let (uid, gid) = (Uid::from_raw(device.uid), Gid::from_raw(device.gid));
    rustix::fs::chownat(node, c"", Some(uid), Some(gid), AtFlags::EMPTY_PATH)
}

fn kind(device: &DeviceNode) -> FileType {
    match device.kind {
        DeviceKind::Char => FileType::CharacterDevice,
        DeviceKind::Block => FileType::BlockDevice,
        DeviceKind::Fifo => FileType::Fifo,
    }
}

fn number(device: &DeviceNode) -> u64 {
    match device.kind {
        DeviceKind::Fifo => 0,
        _ => rustix::fs::makedev(device.major, device.minor),
    }
}

fn is(stat: &Stat, device: &DeviceNode) -> bool {
    let same = device.kind == DeviceKind::Fifo || stat.st_rdev == number(device);
    FileType::from_raw_mode(stat.st_mode) == kind(device) && same
}

fn prove(file: &OwnedFd, device: &DeviceNode) -> Result<Stat, StepError> {
    let (step, subject) = ("make device", device.path.display());
    let stat = rustix::fs::fstat(file).context(step, &subject)?;
    match is(&stat, device) {
        true => Ok(stat),
        false => Err(StepError::refused(
            step,
            subject,
            "something else stands there already",
        )),
    }
}

/// Proves that a device of the host's, whose /dev the container sees, is there.
pub(super) fn find(root: BorrowedFd<'_>, device: &DeviceNode) -> Result<(), StepError> {
    let subject = device.path.display();
    let found = resolve::open(root, &device.path).context("find device", subject)?;
    prove(&found, device).map(drop)
}

/// A node is about to be made in the image's own /dev: a symlink there could lead anywhere in the image, and what
/// is made there stays (CVE-2026-41579).
pub(super) fn require_real_dev(root: BorrowedFd<'_>) -> Result<(), StepError> {
    let real = resolve::real_directory(root, Path::new("/dev"));
    real.map(drop)
        .map_err(|errno| resolve::not_real("furnish", "/dev", errno))
}

/// Device nodes that somebody with the host's rights has made or opened, in the order in which they are bound.
#[derive(Debug)]
pub(super) enum Nodes {
    /// A file system that holds them, named by their numbers in the order.
    Cabinet {
        mount: OwnedFd,
        bound: usize,
        all: usize,
    },
    /// Each as a detached mount.
    Clones(VecDeque<OwnedFd>),
}

/// Makes nodes with the host's rights; where even those do not suffice, clones the host's.
pub(super) fn make_nodes(devices: &[DeviceNode]) -> Result<Nodes, StepError> {
    let cabinet = || {
        // Init, who is nobody on it, must find what is on it.
        let mount = detached("tmpfs", &[("mode", Some("0711"))], MountFlags::default())?;
        for (name, device) in devices.iter().enumerate() {
            let name = name.to_string();
            make(mount.as_fd(), OsStr::new(&name), device)?;
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            own(
                &rustix::fs::openat(&mount, name.as_str(), flags, Mode::empty())?,
                device,
            )?;
            // This process has a umask.
            let mode = Mode::from_raw_mode(device.mode);
            rustix::fs::chmodat(&mount, name.as_str(), mode, AtFlags::empty())?;
        }
        Ok(mount)
    };
    match cabinet() {
        Ok(mount) => Ok(Nodes::Cabinet {
            mount,
            bound: 0,
            all: devices.len(),
        }),
        Err(Errno::PERM) => devices
            .iter()
            .map(open_node)
            .collect::<Result<_, _>>()
            .map(Nodes::Clones),
        Err(errno) => Err(StepError::io("make", "devices", errno)),
    }
}

/// Clones a node of the host, which stands at the same path there.
pub(super) fn open_node(device: &DeviceNode) -> Result<OwnedFd, StepError> {
    let (step, subject) = ("open device", device.path.display());
    let clone = clone_path(&device.path, false, true).context(step, &subject)?;
    let stat = rustix::fs::fstat(&clone).context(step, &subject)?;
    match is(&stat, device) {
        true => Ok(clone),
        false => {
            let cause = "the host has another device there, and a user namespace cannot make one";
            Err(StepError::refused(step, subject, cause))
        }
    }
}

/// Binds the next of `nodes`.
pub(super) fn bind(
    root: BorrowedFd<'_>,
    place: &Place<'_>,
    device: &DeviceNode,
    nodes: &mut Nodes,
) -> Result<(), StepError> {
    let (step, subject) = ("bind device", device.path.display());
    let target = resolve::open_or_make_in(place.directory.as_fd(), place.name, Missing::File);
    let target = target.context(step, &subject)?;
    let stat = rustix::fs::fstat(&target).context(step, &subject)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        prove(&target, device)?;
    }
    let mut attach_next = || {
        let node = next(root, nodes)?.ok_or(Errno::NOENT)?;
        let flags = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NOEXEC;
        let attributes = MountAttributes {
            set: flags,
            propagation: Propagation::Private.bit(),
            ..Default::default()
        };
        set_attributes(node.as_fd(), attributes, false)?;
        attach(node.as_fd(), target.as_fd())?;
        close_cabinet(root, nodes)
    };
    attach_next().context(step, subject)
}

/// The next node as a detached mount. The cabinet stands over `/` meanwhile, where nobody resolves anything: kernels
/// before 6.15 clone only what is attached.
fn next(root: BorrowedFd<'_>, nodes: &mut Nodes) -> Result<Option<OwnedFd>, Errno> {
    let (mount, bound) = match nodes {
        Nodes::Clones(clones) => return Ok(clones.pop_front()),
        Nodes::Cabinet { bound, all, .. } if bound == all => return Ok(None),
        Nodes::Cabinet { mount, bound, .. } => (mount, bound),
    };
    if *bound == 0 {
        attach(mount.as_fd(), root)?;
    }
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let node = rustix::fs::openat(mount, bound.to_string(), flags, Mode::empty())?;
    *bound += 1;
    clone(node.as_fd(), false).map(Some)
}

/// After the last one.
fn close_cabinet(root: BorrowedFd<'_>, nodes: &Nodes) -> Result<(), Errno> {
    match nodes {
        Nodes::Cabinet { mount, bound, all } if bound == all => {
            rustix::process::fchdir(mount)?;
            unmount(c".", UnmountFlags::DETACH)?;
            rustix::process::fchdir(root)
        }
        _ => Ok(()),
    }
}

/// Where standard input, output or error is the null device of the host, the container's own takes its place: through
/// the host's, a container's root could change its mode and owner. What is opened is the node that was made a moment
/// ago, in a /dev that is the container's own, and it is proven to be one.
pub(super) fn own_null(place: &Place<'_>) -> Result<(), StepError> {
    let (step, path) = ("open null device", place.path);
    let is = |fd: BorrowedFd<'_>| is_null(fd).context(step, path.display());
    let [input, output, error] = [
        is(rustix::stdio::stdin())?,
        is(rustix::stdio::stdout())?,
        is(rustix::stdio::stderr())?,
    ];
    if !(input || output || error) {
        return Ok(());
    }
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NOCTTY | OFlags::CLOEXEC;
    let null = rustix::fs::openat(&place.directory, place.name, flags, Mode::empty())
        .context(step, path.display())?;
    if !is(null.as_fd())? {
        return Err(StepError::refused(
            step,
            path.display(),
            "it is not the null device (1:3)",
        ));
    }
    if input {
        rustix::stdio::dup2_stdin(&null).context(step, path.display())?;
    }
    if output {
        rustix::stdio::dup2_stdout(&null).context(step, path.display())?;
    }
    if error {
        rustix::stdio::dup2_stderr(&null).context(step, path.display())?;
    }
    Ok(())
}

fn is_null(fd: BorrowedFd<'_>) -> Result<bool, Errno> {
    let stat = rustix::fs::fstat(fd)?;
    let device = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice;
    Ok(device && stat.st_rdev == rustix::fs::makedev(1, 3))
}

/// Makes a symlink; what is in its place is removed first, unless it is a directory.
pub(super) fn link(place: &Place<'_>, target: &OsStr) -> Result<(), StepError> {
    let (directory, name) = (&place.directory, place.name);
    let link = || rustix::fs::symlinkat(target, directory, name);
    let made = match link() {
        Err(Errno::EXIST) => {
            rustix::fs::unlinkat(directory, name, AtFlags::empty())
                .context("replace", place.path.display())?;
            link()
        }
        other => other,
    };
    made.context("make link", place.path.display())
}
