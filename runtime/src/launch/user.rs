//! What a parent does to a child in a new user namespace: its maps, and what the child has lost the right to.

use std::fmt::Write;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use rustix::fs::{FileType, Gid, Uid};
use rustix::process::Pid;

use crate::StepError;
use crate::error::Context;
use crate::init;
use crate::plan::{IdRange, Mapper, Plan, Step, UserNamespace, outside};

/// Writes the maps of a child that waits, then does what is the parent's. The child must be dumpable: otherwise
/// its files in /proc are root's.
pub(super) fn settle(pid: u32, user: &UserNamespace) -> Result<(), StepError> {
    match user.mapper {
        Mapper::Privileged => write_maps(pid, user)?,
        Mapper::OwnIds => {
            // Without this the kernel lets no unprivileged process map a group: by leaving one, it could gain
            // what that group is kept from.
            write(pid, "setgroups", "deny")?;
            write_maps(pid, user)?;
        }
        Mapper::Helpers => {
            map_by("newuidmap", pid, &user.uids)?;
            map_by("newgidmap", pid, &user.gids)?;
        }
    }
    user.by_parent.iter().try_for_each(|step| match step {
        Step::OomScoreAdj(value) => write(pid, "oom_score_adj", &value.to_string()),
        Step::MakeRoom(limit) => {
            let process = i32::try_from(pid).ok().and_then(Pid::from_raw);
            init::make_room(process, limit)
        }
        other => Err(StepError::refused(
            "do for init",
            other,
            "this is no step of a parent; it is a defect of the planner",
        )),
    })
}

/// Gives the pipes among init's output to the program's user, so that it can open /dev/stdout again: in the user
/// namespace, where their owner is nobody, init could not.
pub(super) fn own_pipes(plan: &Plan, stdio: &[OwnedFd; 3]) -> Result<(), StepError> {
    let of_program = plan.steps.iter().find_map(|step| match step {
        Step::User { uid, gid, .. } => Some((*uid, *gid)),
        _ => None,
    });
    let (Some(user), Some((uid, gid))) = (&plan.user, of_program) else {
        return Ok(());
    };
    let owner = (outside(&user.uids, uid), outside(&user.gids, gid));
    let (Some(uid), Some(gid), Mapper::Privileged) = (owner.0, owner.1, user.mapper) else {
        return Ok(());
    };
    for pipe in &stdio[1..] {
        let stat = rustix::fs::fstat(pipe).context("stat", "output pipe")?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Fifo {
            rustix::fs::fchown(pipe, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
                .context("own", "output pipe")?;
        }
    }
    Ok(())
}

fn write_maps(pid: u32, user: &UserNamespace) -> Result<(), StepError> {
    write(pid, "uid_map", &lines(&user.uids))?;
    write(pid, "gid_map", &lines(&user.gids))
}

fn lines(ranges: &[IdRange]) -> String {
    let mut text = String::new();
    for range in ranges {
        // Writing to a String cannot fail.
        writeln!(text, "{} {} {}", range.inside, range.outside, range.count).ok();
    }
    text
}

fn write(pid: u32, name: &str, text: &str) -> Result<(), StepError> {
    let path = format!("/proc/{pid}/{name}");
    std::fs::write(&path, text).map_err(|error| {
        let cause = match (name, error.raw_os_error()) {
            ("oom_score_adj", Some(libc::EACCES | libc::EPERM)) => {
                "lowering it needs CAP_SYS_RESOURCE; remove process.oomScoreAdj or raise it"
            }
            ("uid_map" | "gid_map", Some(libc::EPERM)) => {
                "the ids outside are not all ours to map; see user_namespaces(7)"
            }
            _ => return StepError::io("write", format!("{name} of init"), error),
        };
        StepError {
            errno: error.raw_os_error(),
            ..StepError::refused("write", format!("{name} of init"), cause)
        }
    })
}

/// newuidmap(1), newgidmap(1): set-user-ID programs that check /etc/subuid and /etc/subgid.
fn map_by(helper: &str, pid: u32, ranges: &[IdRange]) -> Result<(), StepError> {
    let numbers = ranges
        .iter()
        .flat_map(|range| [range.inside, range.outside, range.count]);
    let output = Command::new(helper)
        .arg(pid.to_string())
        .args(numbers.map(|number| number.to_string()))
        .stdin(Stdio::null())
        .output();
    let output = output.map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            let cause = "it is not installed, and without privilege more than one's own id can be mapped by nobody \
                         else; install Debian's uidmap or map one id";
            StepError::refused("run", helper, cause)
        }
        _ => StepError::io("run", helper, error),
    })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let cause = format!(
        "it ended with {}: {}; see /etc/subuid and /etc/subgid",
        output.status,
        said.trim_end()
    );
    Err(StepError::refused("run", helper, cause))
}
