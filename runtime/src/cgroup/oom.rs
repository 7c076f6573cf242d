//! Hearing of OOM kills when they happen, without polling.
//!
//! v2 tells of a change of `memory.events` by inotify(7), v1 of an OOM by an eventfd that is registered in
//! `cgroup.event_control`. Either is a descriptor to wait for. v1 speaks before the victim is chosen and v2 may
//! speak once for several, so [`OomWatch::look`] says how many there were since it was last asked, and
//! [`OomWatch::finish`] reads the kernel's own count at the end for what was never heard.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{Mode, OFlags, inotify};
use rustix::io::Errno;

use super::directory::failed;
use super::mounts::Layout;
use super::{Group, no_controller};
use crate::StepError;

const STEP: &str = "watch for OOM";

/// Hears of OOM kills in one group and those below it.
#[derive(Debug)]
pub struct OomWatch {
    group: Group,
    fd: OwnedFd,
    /// How many have been told of, the ones before the watch included.
    told: u64,
}

impl Group {
    /// Begins to watch. The group must exist and have the memory controller.
    pub fn oom_watch(&self) -> Result<OomWatch, StepError> {
        let fd = match &*self.layout {
            Layout::V1 { .. } => self.oom_eventfd()?,
            Layout::V2 { .. } => self.oom_inotify()?,
        };
        // After the descriptor: what happens in between is heard of twice rather than never.
        let told = self.oom_kills()?;
        Ok(OomWatch {
            group: self.clone(),
            fd,
            told,
        })
    }

    fn oom_eventfd(&self) -> Result<OwnedFd, StepError> {
        const FILE: &str = "memory.oom_control";
        let Some(directory) = self.controller("memory")? else {
            return Err(no_controller("memory", FILE));
        };
        let path = directory.path().join(FILE);
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(directory.fd(), FILE, flags, Mode::empty())
            .map_err(|errno| failed(STEP, &path, errno, ""))?;
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|errno| failed(STEP, &path, errno, ""))?;
        let order = format!("{} {}", event.as_raw_fd(), file.as_raw_fd());
        directory.write("cgroup.event_control", &order, "")?;
        Ok(event)
    }

    fn oom_inotify(&self) -> Result<OwnedFd, StepError> {
        let Layout::V2 { root } = &*self.layout else {
            return Err(no_controller("memory", "memory.events"));
        };
        let directory = self.existing(root)?;
        let path = directory.path().join("memory.events");
        let watch = || {
            let fd = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
            inotify::add_watch(&fd, &path, inotify::WatchFlags::MODIFY)?;
            Ok(fd)
        };
        watch().map_err(|errno: Errno| failed(STEP, &path, errno, ""))
    }
}

impl OomWatch {
    /// How many OOM kills there were since the last look. Call it whenever the descriptor is readable. On v1
    /// an OOM is told of that may have killed nobody here: the group's OOM killer may be disabled, or the limit
    /// is an ancestor's and the victim was elsewhere.
    pub fn look(&mut self) -> Result<u64, StepError> {
        let heard =
            drain(&self.fd).map_err(|errno| failed(STEP, self.group.path.as_ref(), errno, ""))?;
        match (&*self.group.layout, heard) {
            (_, None) => Ok(0),
            (Layout::V1 { .. }, Some(events)) => {
                // The removal of the group is an event too.
                let new = if self.group.exists() { events } else { 0 };
                self.told = self.told.saturating_add(new);
                Ok(new)
            }
            (Layout::V2 { .. }, Some(_)) => self.uncounted(),
        }
    }

    /// The last word, after the last process has ended: kills that were never told of. A group that is gone
    /// already has none.
    pub fn finish(mut self) -> Result<u64, StepError> {
        let heard = self.look()?;
        Ok(heard.saturating_add(self.uncounted()?))
    }

    fn uncounted(&mut self) -> Result<u64, StepError> {
        let now = match self.group.oom_kills() {
            Err(error) if error.errno == Some(Errno::NOENT.raw_os_error()) => return Ok(0),
            other => other?,
        };
        let new = now.saturating_sub(self.told);
        self.told = self.told.max(now);
        Ok(new)
    }
}

impl AsFd for OomWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Empties an eventfd or an inotify descriptor. None: there was nothing. For an eventfd, its count.
fn drain(fd: &OwnedFd) -> Result<Option<u64>, Errno> {
    let mut heard = None;
    let mut buffer = [0u8; 4096];
    loop {
        match rustix::io::read(fd, &mut buffer) {
            Ok(0) | Err(Errno::AGAIN) => return Ok(heard),
            Ok(length) => {
                // An eventfd's answer is one number; an inotify event is longer.
                let number = <[u8; 8]>::try_from(&buffer[..length]).map(u64::from_ne_bytes);
                let count = number.unwrap_or(1);
                heard = Some(heard.unwrap_or(0).saturating_add(count));
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}
