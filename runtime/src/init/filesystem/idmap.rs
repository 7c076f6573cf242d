//! Id-mapped mounts: a user namespace that carries the map, and MOUNT_ATTR_IDMAP.
//!
//! The kernel takes the map of a mount from a user namespace. One that nobody lives in cannot be made: a short-lived
//! process is born in it, its maps are written from outside, and the descriptor outlives it.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use longshore_sys::{CloneNamespace, Forked, clone3, exit_now, map_ids};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{WaitId, WaitIdOptions, waitid};

use crate::StepError;
use crate::error::Context;
use crate::plan::{IdRange, Ids, MountMap};

const STEP: &str = "map ids of";

/// The user namespaces made so far: mounts often share a map.
#[derive(Debug, Default)]
pub(in crate::init) struct Maps(Vec<(Ids, OwnedFd)>);

impl Maps {
    /// Maps a detached mount; `source` is for messages.
    pub(super) fn apply(
        &mut self,
        mount: &OwnedFd,
        map: &MountMap,
        source: &Path,
    ) -> Result<(), StepError> {
        let namespace = self.namespace(&map.ids)?;
        map_ids(mount.as_fd(), namespace.as_fd(), map.recursive).map_err(|errno| {
            let error = StepError::io(STEP, source.display(), errno);
            let cause = match errno {
                Errno::INVAL => {
                    "its file system does not offer id-mapped mounts; give the files to the ids themselves"
                }
                Errno::PERM => {
                    "it is id-mapped already, or this user may not map it: root on the host is needed"
                }
                _ => return error,
            };
            StepError {
                cause: cause.into(),
                ..error
            }
        })
    }

    fn namespace(&mut self, ids: &Ids) -> Result<&OwnedFd, StepError> {
        let known = self.0.iter().position(|(known, _)| known == ids);
        let at = match known {
            Some(at) => at,
            None => {
                self.0.push((ids.clone(), make(ids)?));
                self.0.len() - 1
            }
        };
        Ok(&self.0[at].1)
    }
}

fn make(ids: &Ids) -> Result<OwnedFd, StepError> {
    let (uids, gids) = match ids {
        Ids::Namespace(path) => return open(path).context("open user namespace", path.display()),
        Ids::Ranges { uids, gids } => (uids, gids),
    };
    let subject = "user namespace for an id-mapped mount";
    let (waits, holds) = pipe_with(PipeFlags::CLOEXEC).context("make", subject)?;
    match clone3(&[CloneNamespace::User], None).context("make", subject)? {
        Forked::Child => {
            // Until its maker closes the other end, or dies.
            drop(holds);
            rustix::io::read(&waits, &mut [0]).ok();
            exit_now(0)
        }
        Forked::Parent { pid, pidfd } => {
            let made = write(pid, uids, gids)
                .and_then(|()| open(Path::new(&format!("/proc/{pid}/ns/user"))));
            drop(holds);
            let end = || waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED);
            rustix::io::retry_on_intr(end).context("end", subject)?;
            made.context("make", subject)
        }
    }
}

fn write(pid: u32, uids: &[IdRange], gids: &[IdRange]) -> Result<(), Errno> {
    for (name, ranges) in [("uid_map", uids), ("gid_map", gids)] {
        let line =
            |range: &IdRange| format!("{} {} {}\n", range.inside, range.outside, range.count);
        let text: String = ranges.iter().map(line).collect();
        let file = rustix::fs::open(
            format!("/proc/{pid}/{name}"),
            OFlags::WRONLY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        // The kernel takes a map in one write or not at all.
        rustix::io::write(&file, text.as_bytes())?;
    }
    Ok(())
}

fn open(path: &Path) -> Result<OwnedFd, Errno> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
}
