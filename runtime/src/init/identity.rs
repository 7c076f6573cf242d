//! Who the program is and what it may do: user, groups, capabilities, limits, working directory, home.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::str::FromStr;

use caps::Capability;
use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Pid, Resource, Rlimit as Limits, set_dumpable_behavior};
use rustix::thread::{CapabilitySet, CapabilitySets as KernelSets, Gid, Uid};

use super::resolve::{self, Missing};
use crate::StepError;
use crate::error::Context;
use crate::plan::{CapabilitySets, Rlimit};

/// More than any /etc/passwd that a person wrote.
const PASSWD_MAX: u64 = 1 << 20;
const LIMIT: &str = "set limit";
const ENTER: &str = "enter working directory";

pub(super) fn set_rlimit(limit: &Rlimit) -> Result<(), StepError> {
    let limits = Limits {
        current: finite(limit.soft),
        maximum: finite(limit.hard),
    };
    let resource = resource(&limit.name)?;
    let set = rustix::process::setrlimit(resource, limits);
    set.map_err(|errno| not_set(limit, rustix::process::getrlimit(resource).maximum, errno))
}

/// Raises the hard limit of `process`, None being this one, where it is lower than `limit`'s, and leaves the soft one as
/// it is: no process is hindered on its way to where it sets both. The process has its limits from this one.
pub(crate) fn make_room(process: Option<Pid>, limit: &Rlimit) -> Result<(), StepError> {
    let resource = resource(&limit.name)?;
    let now = rustix::process::getrlimit(resource);
    let wanted = finite(limit.hard);
    let enough = match (now.maximum, wanted) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(now), Some(wanted)) => now >= wanted,
    };
    if enough {
        return Ok(());
    }
    let raised = Limits {
        maximum: wanted,
        ..now
    };
    let set = rustix::process::prlimit(process, resource, raised);
    set.map(drop)
        .map_err(|errno| not_set(limit, now.maximum, errno))
}

/// setrlimit(2): EPERM where the hard limit `now` would be raised, EINVAL where it would be below the soft one.
fn not_set(limit: &Rlimit, now: Option<u64>, errno: Errno) -> StepError {
    let error = StepError::io(LIMIT, text(limit), errno);
    match (errno, now) {
        (Errno::PERM, Some(now)) => StepError {
            cause: format!(
                "{}; more than the caller's own hard limit {now} needs CAP_SYS_RESOURCE on the host: ask for at most {now} \
                 (process.rlimits; `--ulimit` of podman), or raise the caller's",
                error.cause
            ),
            ..error
        },
        _ => error,
    }
}

/// RLIM_INFINITY is no bound.
fn finite(value: u64) -> Option<u64> {
    (value != u64::MAX).then_some(value)
}

fn text(limit: &Rlimit) -> String {
    format!("{} to {}:{}", limit.name, limit.soft, limit.hard)
}

fn resource(name: &str) -> Result<Resource, StepError> {
    Ok(match name {
        "RLIMIT_AS" => Resource::As,
        "RLIMIT_CORE" => Resource::Core,
        "RLIMIT_CPU" => Resource::Cpu,
        "RLIMIT_DATA" => Resource::Data,
        "RLIMIT_FSIZE" => Resource::Fsize,
        "RLIMIT_LOCKS" => Resource::Locks,
        "RLIMIT_MEMLOCK" => Resource::Memlock,
        "RLIMIT_MSGQUEUE" => Resource::Msgqueue,
        "RLIMIT_NICE" => Resource::Nice,
        "RLIMIT_NOFILE" => Resource::Nofile,
        "RLIMIT_NPROC" => Resource::Nproc,
        "RLIMIT_RSS" => Resource::Rss,
        "RLIMIT_RTPRIO" => Resource::Rtprio,
        "RLIMIT_RTTIME" => Resource::Rttime,
        "RLIMIT_SIGPENDING" => Resource::Sigpending,
        "RLIMIT_STACK" => Resource::Stack,
        other => return Err(StepError::refused(LIMIT, other, "no such limit")),
    })
}

/// Enters the directory, made if missing, and proves that it lies inside the root: getcwd(2) of a directory
/// outside would not begin with `/` (CVE-2024-21626).
pub(super) fn enter_directory(root: BorrowedFd<'_>, path: &Path) -> Result<(), StepError> {
    let directory =
        resolve::open_or_make(root, path, Missing::Directory).context(ENTER, path.display())?;
    enter(&directory, path)
}

/// As [`enter_directory`], but nothing is made: in a container that runs, what is there is its own affair.
pub(super) fn enter_existing(root: BorrowedFd<'_>, path: &Path) -> Result<(), StepError> {
    let directory = resolve::open_with(root, path, OFlags::PATH | OFlags::DIRECTORY)
        .context(ENTER, path.display())?;
    enter(&directory, path)
}

fn enter(directory: &OwnedFd, path: &Path) -> Result<(), StepError> {
    let step = ENTER;
    rustix::process::fchdir(directory).context(step, path.display())?;
    let now = rustix::process::getcwd(Vec::new()).context(step, path.display())?;
    if !now.as_bytes().starts_with(b"/") {
        return Err(StepError::refused(
            step,
            path.display(),
            "it lies outside the container's root",
        ));
    }
    Ok(())
}

/// The home of `uid` in the container's /etc/passwd, or `/`: whatever is wrong with that file is the image's.
pub(super) fn home(root: BorrowedFd<'_>, uid: u32) -> String {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    let read = || -> Option<String> {
        let file = resolve::open_with(root, Path::new("/etc/passwd"), flags).ok()?;
        // A device or fifo there must not make init wait, nor be read for its effects.
        let kind = FileType::from_raw_mode(rustix::fs::fstat(&file).ok()?.st_mode);
        let mut text = Vec::new();
        let mut bounded = std::io::Read::take(std::fs::File::from(file), PASSWD_MAX);
        (kind == FileType::RegularFile)
            .then(|| std::io::Read::read_to_end(&mut bounded, &mut text).ok())??;
        home_in(&String::from_utf8_lossy(&text), uid)
    };
    read().unwrap_or_else(|| "/".to_owned())
}

/// passwd(5): name:password:uid:gid:gecos:home:shell, first entry of a uid wins.
fn home_in(passwd: &str, uid: u32) -> Option<String> {
    let entry = passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        (fields.len() >= 6 && fields[2].parse() == Ok(uid)).then(|| fields[5].to_owned())
    })?;
    (entry.starts_with('/') && !entry.contains('\0')).then_some(entry)
}

/// Drops from the bounding set whatever is not listed, what this build has no name for included.
pub(super) fn bound(kept: &[String]) -> Result<(), StepError> {
    let kept = bits(kept)?;
    for number in 0..u64::BITS {
        let one = CapabilitySet::from_bits_retain(1 << number);
        if kept.contains(one) {
            continue;
        }
        match rustix::thread::remove_capability_from_bounding_set(one) {
            // The kernel knows no capability of this number, nor any above it.
            Err(rustix::io::Errno::INVAL) => break,
            // Without CAP_SETPCAP nothing can be dropped, and what is not there need not be.
            Err(rustix::io::Errno::PERM)
                if rustix::thread::capability_is_in_bounding_set(one) == Ok(false) => {}
            other => {
                other.context("drop from bounding set", format!("capability {number}"))?;
            }
        }
    }
    Ok(())
}

/// `groups` is None where the user namespace forbids to set them: those of the runtime's user stay.
///
/// Changes owner of the stdio pipes (so that the program can open /dev/stdout again), then groups, gid, uid.
/// Permitted capabilities survive the change of uid, until [`set_capabilities`] sets all sets at once.
pub(super) fn become_user(uid: u32, gid: u32, groups: Option<&[u32]>) -> Result<(), StepError> {
    let owner = (Uid::from_raw(uid), Gid::from_raw(gid));
    own_pipes(owner).context("own stdio", uid)?;
    rustix::thread::set_keep_capabilities(true).context("keep capabilities", uid)?;
    if let Some(groups) = groups {
        let groups: Vec<Gid> = groups.iter().copied().map(Gid::from_raw).collect();
        rustix::thread::set_thread_groups(&groups).context("set groups", format!("{groups:?}"))?;
    }
    rustix::thread::set_thread_res_gid(owner.1, owner.1, owner.1).context("set group", gid)?;
    rustix::thread::set_thread_res_uid(owner.0, owner.0, owner.0).context("set user", uid)?;
    // The host's fs.suid_dumpable may have made it dumpable again, and it is a user now whose processes the container
    // may have others of.
    set_dumpable_behavior(DumpableBehavior::NotDumpable).context("set", "undumpable")
}

/// Only pipes: they are this container's own. The null device at 0 belongs to the host.
fn own_pipes((uid, gid): (Uid, Gid)) -> Result<(), rustix::io::Errno> {
    for stdio in [rustix::stdio::stdout(), rustix::stdio::stderr()] {
        if FileType::from_raw_mode(rustix::fs::fstat(stdio)?.st_mode) == FileType::Fifo {
            match rustix::fs::fchown(stdio, Some(uid), Some(gid)) {
                // In a user namespace, a pipe of somebody who is not mapped in it. Its parent could, and did
                // not: the pipe is not the container's own.
                Err(rustix::io::Errno::PERM | rustix::io::Errno::INVAL) => {}
                other => other?,
            }
        }
    }
    Ok(())
}

/// Raises in the effective set all that is permitted: a change of uid has emptied it.
pub(super) fn raise_permitted() -> Result<(), StepError> {
    let mut sets = rustix::thread::capabilities(None).context("read", "capabilities")?;
    sets.effective = sets.permitted;
    rustix::thread::set_capabilities(None, sets).context("raise", "permitted capabilities")
}

/// Sets effective, permitted and inheritable at once, then exactly the ambient ones asked for.
pub(super) fn set_capabilities(sets: &CapabilitySets) -> Result<(), StepError> {
    let kernel = KernelSets {
        effective: bits(&sets.effective)?,
        permitted: bits(&sets.permitted)?,
        inheritable: bits(&sets.inheritable)?,
    };
    rustix::thread::set_capabilities(None, kernel).context("set", "capabilities")?;
    rustix::thread::clear_ambient_capability_set().context("clear", "ambient capabilities")?;
    for name in &sets.ambient {
        let one = bits(std::slice::from_ref(name))?;
        rustix::thread::configure_capability_in_ambient_set(one, true)
            .context("raise ambient", name)?;
    }
    rustix::thread::set_keep_capabilities(false).context("set", "keep capabilities")
}

fn bits(names: &[String]) -> Result<CapabilitySet, StepError> {
    let mut bits = 0;
    for name in names {
        let known = Capability::from_str(name);
        bits |= known
            .map_err(|_| StepError::refused("set capability", name, "no such capability"))?
            .bitmask();
    }
    Ok(CapabilitySet::from_bits_retain(bits))
}

#[cfg(test)]
mod tests {
    use super::home_in;

    #[test]
    fn home_comes_from_the_first_entry_of_the_uid() {
        let passwd = "root:x:0:0::/root:/bin/sh\nbad\nweb:x:33:33::/srv:/bin/sh\nalso:x:33:33::/no:/bin/sh\nrel:x:5:5::no:";
        assert_eq!(home_in(passwd, 0).as_deref(), Some("/root"));
        assert_eq!(home_in(passwd, 33).as_deref(), Some("/srv"));
        assert_eq!(home_in(passwd, 5), None);
        assert_eq!(home_in(passwd, 7), None);
        assert_eq!(home_in("last:x:9:9::/last", 9).as_deref(), Some("/last"));
    }
}
