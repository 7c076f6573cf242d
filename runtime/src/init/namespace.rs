//! Namespaces that are joined or cannot be made by clone3, and becoming somebody in a user namespace.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::sched::{CloneFlags, setns, unshare};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::thread::{Gid, Uid};

use super::out_of_order;
use super::procfs::Procfs;
use crate::StepError;
use crate::error::Context;
use crate::plan::{Groups, Joined, Namespace, TimeOffsets};

const STEP: &str = "join namespace";

/// Opens and proves all, then joins one after the other: after the first, paths may mean something else. What is
/// joined is what was proven, whatever becomes of its path. `proc` is the host's.
pub(super) fn join(joined: &[Joined], proc: Option<&Procfs>) -> Result<(), StepError> {
    let open = |one: &Joined| {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let opened = rustix::fs::open(&one.path, flags, Mode::empty())
            .context("open namespace", one.path.display())?;
        if one.foreign {
            prove_foreign(proc, one, &opened)?;
        }
        Ok(opened)
    };
    let opened: Vec<OwnedFd> = joined.iter().map(open).collect::<Result<_, _>>()?;
    joined
        .iter()
        .zip(opened)
        .try_for_each(|(one, fd)| enter(one, fd))
}

/// A parameter of a namespace is written only where the container has one that is not the host's.
fn prove_foreign(
    proc: Option<&Procfs>,
    joined: &Joined,
    opened: &OwnedFd,
) -> Result<(), StepError> {
    let step = "compare namespace";
    let proc = proc.ok_or_else(|| out_of_order(step, &joined.path))?;
    let name = match joined.namespace {
        Namespace::Uts => "uts",
        Namespace::Ipc => "ipc",
        Namespace::Network => "net",
        _ => return Err(out_of_order(step, &joined.path)),
    };
    let own = proc.own_namespace(name).context(step, name)?;
    let other = rustix::fs::fstat(opened).context(step, joined.path.display())?;
    if own != other.st_ino {
        return Ok(());
    }
    let cause = "it is the host's own, and a sysctl would change it; remove the sysctl or give another namespace";
    Err(StepError::refused(step, joined.path.display(), cause))
}

fn enter(joined: &Joined, fd: OwnedFd) -> Result<(), StepError> {
    let Joined {
        namespace, path, ..
    } = joined;
    if *namespace == Namespace::Mount && is_own_mount_namespace(&fd)? {
        let cause =
            "it is the host's: the container's root would become the host's root; make a new one";
        return Err(StepError::refused(STEP, path.display(), cause));
    }
    setns(fd.as_fd(), flag(*namespace)).map_err(|errno| {
        let cause = match errno {
            nix::errno::Errno::EINVAL => {
                format!("it is no {namespace} namespace, or one that we are in already")
            }
            nix::errno::Errno::EPERM => format!("no privilege over that {namespace} namespace"),
            errno => return StepError::io(STEP, path.display(), errno),
        };
        StepError {
            errno: Some(errno as i32),
            ..StepError::refused(STEP, path.display(), cause)
        }
    })
}

/// Joins namespaces of the container that the process of this pidfd is in: all of them or none, and in the right order,
/// which is the kernel's affair.
pub(super) fn join_container(
    container: &OwnedFd,
    namespaces: &[Namespace],
) -> Result<(), StepError> {
    let all = namespaces.iter().copied().map(flag).collect();
    setns(container.as_fd(), all).map_err(|errno| {
        let cause = match errno {
            nix::errno::Errno::ESRCH => "its first process has ended",
            nix::errno::Errno::EPERM => "no privilege over its namespaces; be who made it, or root",
            errno => return StepError::io(STEP, "of container", errno),
        };
        StepError {
            errno: Some(errno as i32),
            ..StepError::refused(STEP, "of container", cause)
        }
    })
}

fn is_own_mount_namespace(fd: &OwnedFd) -> Result<bool, StepError> {
    let own = Path::new("/proc/self/ns/mnt");
    let own = rustix::fs::stat(own).context("stat", own.display())?;
    let that = rustix::fs::fstat(fd).context("stat", "mount namespace")?;
    Ok((own.st_dev, own.st_ino) == (that.st_dev, that.st_ino))
}

fn flag(namespace: Namespace) -> CloneFlags {
    match namespace {
        Namespace::Mount => CloneFlags::CLONE_NEWNS,
        Namespace::Pid => CloneFlags::CLONE_NEWPID,
        Namespace::Uts => CloneFlags::CLONE_NEWUTS,
        Namespace::Ipc => CloneFlags::CLONE_NEWIPC,
        Namespace::Network => CloneFlags::CLONE_NEWNET,
        Namespace::Cgroup => CloneFlags::CLONE_NEWCGROUP,
        Namespace::User => CloneFlags::CLONE_NEWUSER,
        // Neither nix nor libc's constants for nix have it.
        Namespace::Time => CloneFlags::from_bits_retain(libc::CLONE_NEWTIME),
    }
}

/// A network namespace for this process.
pub(super) fn new_network() -> Result<(), StepError> {
    unshare(flag(Namespace::Network)).context("unshare", "network namespace")
}

/// A time namespace for the children, its clocks set: the kernel lets nobody set them once somebody is in it.
pub(super) fn new_time(offsets: &TimeOffsets) -> Result<(), StepError> {
    unshare(flag(Namespace::Time)).context("unshare", "time namespace")?;
    let text: String = offsets
        .0
        .iter()
        .map(|(clock, seconds, nanoseconds)| format!("{clock} {seconds} {nanoseconds}\n"))
        .collect();
    if text.is_empty() {
        return Ok(());
    }
    std::fs::write("/proc/self/timens_offsets", &text).map_err(|error| {
        let cause = match error.raw_os_error() {
            Some(libc::ERANGE) => "the clock would be negative, or far in the future",
            Some(libc::EACCES | libc::EPERM) => "it needs CAP_SYS_TIME",
            _ => return StepError::io("set time offsets", text.trim_end(), error),
        };
        StepError {
            errno: error.raw_os_error(),
            ..StepError::refused("set time offsets", text.trim_end(), cause)
        }
    })
}

/// Becomes root of the user namespace that this process is in, or whoever is mapped first where root is not.
/// Tells whether the namespace forbids setgroups(2).
///
/// `proc` is the host's where /proc may be the container's by now.
pub(super) fn become_builder(proc: Option<&Procfs>, groups: &Groups) -> Result<bool, StepError> {
    let step = "become root of user namespace";
    let read = |name: &str| match proc {
        Some(proc) => proc.read_own(name),
        None => std::fs::read_to_string(Path::new("/proc/self").join(name))
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO)),
    };
    let denied = read("setgroups")
        .context("read", "setgroups")?
        .starts_with("deny");
    if let (Groups::Only(groups), false) = (groups, denied) {
        let groups: Vec<Gid> = groups.iter().copied().map(Gid::from_raw).collect();
        rustix::thread::set_thread_groups(&groups).context(step, "groups")?;
    }
    as_root_or_first(
        || read("gid_map"),
        |id| {
            let gid = Gid::from_raw(id);
            rustix::thread::set_thread_res_gid(gid, gid, gid)
        },
    )
    .context(step, "gid")?;
    as_root_or_first(
        || read("uid_map"),
        |id| {
            let uid = Uid::from_raw(id);
            rustix::thread::set_thread_res_uid(uid, uid, uid)
        },
    )
    .context(step, "uid")?;
    Ok(denied)
}

fn as_root_or_first(
    map: impl Fn() -> Result<String, Errno>,
    set: impl Fn(u32) -> Result<(), Errno>,
) -> Result<(), Errno> {
    match set(0) {
        Err(Errno::INVAL) => {}
        other => return other,
    }
    let map = map()?;
    let first = map.split_whitespace().next().and_then(|id| id.parse().ok());
    set(first.ok_or(Errno::INVAL)?)
}
