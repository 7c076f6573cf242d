//! Device nodes, links and the cgroup view: what stands below the mounts.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use super::filesystem::{attach, detached, set_flags};
use super::resolve::{self, Missing};
use crate::StepError;
use crate::error::Context;
use crate::plan::{DeviceKind, DeviceNode, MountFlags};

/// Makes a node and proves that what stands there afterwards is it. The mode is exact: umask is zero.
pub(super) fn node(root: BorrowedFd<'_>, device: &DeviceNode) -> Result<(), StepError> {
    let subject = device.path.display();
    let (directory, name) = resolve::parent(root, &device.path).context("make device", &subject)?;
    let kind = match device.kind {
        DeviceKind::Char => FileType::CharacterDevice,
        DeviceKind::Block => FileType::BlockDevice,
        DeviceKind::Fifo => FileType::Fifo,
    };
    let number = rustix::fs::makedev(device.major, device.minor);
    match rustix::fs::mknodat(
        &directory,
        name,
        kind,
        Mode::from_raw_mode(device.mode),
        number,
    ) {
        // A spec may repeat a default device; whether it is the same is seen below.
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(StepError::io("make device", &subject, errno)),
    }
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let made = rustix::fs::openat(&directory, name, flags, Mode::empty())
        .context("open device", &subject)?;
    let stat = rustix::fs::fstat(&made).context("stat device", &subject)?;
    let same_number = kind == FileType::Fifo || stat.st_rdev == number;
    if FileType::from_raw_mode(stat.st_mode) != kind || !same_number {
        return Err(StepError::refused(
            "make device",
            &subject,
            "something else stands there already",
        ));
    }
    let (uid, gid) = (Uid::from_raw(device.uid), Gid::from_raw(device.gid));
    rustix::fs::chownat(&made, c"", Some(uid), Some(gid), AtFlags::EMPTY_PATH)
        .context("own device", &subject)
}

/// Where standard input, output or error is the null device of the host, the container's own takes its place: through
/// the host's, a container's root could change its mode and owner. What is opened is the node that was made a moment
/// ago, in a /dev that is the container's own, and it is proven to be one.
pub(super) fn own_null(root: BorrowedFd<'_>) -> Result<(), StepError> {
    let (step, path) = ("open null device", Path::new("/dev/null"));
    let is = |fd: BorrowedFd<'_>| is_null(fd).context(step, path.display());
    let [input, output, error] = [
        is(rustix::stdio::stdin())?,
        is(rustix::stdio::stdout())?,
        is(rustix::stdio::stderr())?,
    ];
    if !(input || output || error) {
        return Ok(());
    }
    let (directory, name) = resolve::parent(root, path).context(step, path.display())?;
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NOCTTY | OFlags::CLOEXEC;
    let null =
        rustix::fs::openat(&directory, name, flags, Mode::empty()).context(step, path.display())?;
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
pub(super) fn link(root: BorrowedFd<'_>, path: &Path, target: &str) -> Result<(), StepError> {
    let (directory, name) = resolve::parent(root, path).context("make link", path.display())?;
    match rustix::fs::unlinkat(&directory, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(errno) => return Err(StepError::io("replace", path.display(), errno)),
    }
    rustix::fs::symlinkat(target, &directory, name).context("make link", path.display())
}

/// The container's cgroups, seen from its cgroup namespace: one cgroup2 mount, or on v1 a tmpfs with a mount
/// for each hierarchy and links from the names of controllers that share one (`cpu` -> `cpu,cpuacct`).
pub(super) fn cgroup_view(
    root: BorrowedFd<'_>,
    destination: &Path,
    flags: MountFlags,
    hierarchies: &[String],
) -> Result<(), StepError> {
    let subject = destination.display();
    let target = resolve::open_or_make(root, destination, Missing::Directory)
        .context("mount cgroup", &subject)?;
    if hierarchies.is_empty() {
        let view = detached("cgroup2", &[], flags).context("mount cgroup", &subject)?;
        return attach(view.as_fd(), target.as_fd()).context("mount cgroup", &subject);
    }
    let writable = MountFlags {
        set: flags.set & !libc::MOUNT_ATTR_RDONLY,
        clear: flags.clear,
    };
    let frame =
        detached("tmpfs", &[("mode", Some("0755"))], writable).context("mount cgroup", &subject)?;
    attach(frame.as_fd(), target.as_fd()).context("mount cgroup", &subject)?;
    for hierarchy in hierarchies {
        v1_hierarchy(frame.as_fd(), hierarchy, flags).context("mount cgroup", hierarchy)?;
    }
    set_flags(frame.as_fd(), flags, false).context("make read-only", &subject)
}

fn v1_hierarchy(frame: BorrowedFd<'_>, hierarchy: &str, flags: MountFlags) -> Result<(), Errno> {
    let named = hierarchy.strip_prefix("name=");
    let directory = named.unwrap_or(hierarchy);
    let target = resolve::real_directory(frame, Path::new(directory))?;
    let data: Vec<(&str, Option<&str>)> = match named {
        Some(name) => vec![("none", None), ("name", Some(name))],
        None => hierarchy
            .split(',')
            .map(|controller| (controller, None))
            .collect(),
    };
    attach(detached("cgroup", &data, flags)?.as_fd(), target.as_fd())?;
    if directory.contains(',') {
        for controller in directory.split(',') {
            rustix::fs::symlinkat(directory, frame, controller)?;
        }
    }
    Ok(())
}
