//! Stopping and continuing every process of a group's subtree: `pause` and `resume`.
//!
//! v2 tells of the end of a freeze by an event on `cgroup.events`. v1's freezer has no event and may stick in
//! FREEZING when a process forks meanwhile; it is then asked again, and thawed in between so that whatever
//! holds it up can go on. A freeze that does not come about is taken back.

use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::directory::{Directory, failed, refused, value_of};
use super::kill::wait;
use super::mounts::Layout;
use super::{Group, no_controller};
use crate::StepError;

const STEP: &str = "freeze cgroup";

/// Looks at FREEZING that share one write; then the group is thawed for a moment and asked anew.
const LOOKS: u32 = 20;

/// Between two looks at v1's freezer, which announces nothing.
const PAUSE: Duration = Duration::from_millis(1);

/// Whether a group's processes run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freeze {
    /// They run, or there is nothing that could freeze them. A group that is frozen only because one
    /// above it is counts as this: thawing it would change nothing.
    Thawed,
    /// It was ordered to freeze and some still run.
    Freezing,
    /// None runs.
    Frozen,
}

impl Group {
    /// Freezes the subtree and waits until it is frozen. After `patience` the order is taken back and the
    /// error says so. Fine if it is frozen already.
    pub fn freeze(&self, patience: Duration) -> Result<(), StepError> {
        let deadline = Instant::now() + patience;
        let (directory, frozen) = match &*self.layout {
            Layout::V1 { .. } => {
                let freezer = self.freezer()?;
                let frozen = freeze_v1(&freezer, deadline);
                (freezer, frozen)
            }
            Layout::V2 { root } => {
                let directory = self.existing(root)?;
                let frozen = freeze_v2(&directory, deadline);
                (directory, frozen)
            }
        };
        frozen.inspect_err(|_| {
            // The error that is returned already says that the group is not frozen.
            thaw_in(&directory).ok();
        })
    }

    /// Freezes it until the guard goes. None: nobody is in it, or it is frozen already and stays so.
    pub(super) fn hold_still(&self, patience: Duration) -> Result<Option<Still<'_>>, StepError> {
        if self.processes()?.is_empty() || self.freeze_state()? != Freeze::Thawed {
            return Ok(None);
        }
        self.freeze(patience)?;
        Ok(Some(Still(self)))
    }

    /// Thaws the subtree. Fine if it is not frozen, or gone: systemd removes a scope with its last process.
    pub fn thaw(&self) -> Result<(), StepError> {
        let root = match &*self.layout {
            Layout::V1 { .. } => self
                .point_of("freezer")
                .ok_or_else(|| no_controller("freezer", self.path()))?,
            Layout::V2 { root } => root,
        };
        Directory::at(root, &self.path)?
            .as_ref()
            .map_or(Ok(()), thaw_in)
    }

    /// Whether it is frozen by an order to this very group.
    pub fn freeze_state(&self) -> Result<Freeze, StepError> {
        let directory = match &*self.layout {
            Layout::V1 { .. } => match self.point_of("freezer") {
                Some(point) => Directory::at(point, &self.path)?,
                None => None,
            },
            Layout::V2 { root } => Directory::at(root, &self.path)?,
        };
        let Some(directory) = directory else {
            return Ok(Freeze::Thawed);
        };
        match &*self.layout {
            Layout::V1 { .. } => state_v1(&directory),
            Layout::V2 { .. } => state_v2(&directory),
        }
    }

    fn freezer(&self) -> Result<Directory, StepError> {
        self.controller("freezer")?
            .ok_or_else(|| no_controller("freezer", self.path()))
    }
}

/// A group that is frozen for a moment.
#[derive(Debug)]
pub(super) struct Still<'a>(&'a Group);

impl Drop for Still<'_> {
    fn drop(&mut self) {
        // A failure shows: the container is paused, which `state` tells and `resume` ends.
        self.0.thaw().ok();
    }
}

fn state_v1(freezer: &Directory) -> Result<Freeze, StepError> {
    // None: the group was removed after its directory was opened.
    let Some(state) = freezer.read("freezer.state")? else {
        return Ok(Freeze::Thawed);
    };
    let ordered = freezer.read("freezer.self_freezing")?;
    if state.trim() == "THAWED" || ordered.is_none_or(|text| text.trim() == "0") {
        return Ok(Freeze::Thawed);
    }
    match freezer.read("freezer.state")?.as_deref().map(str::trim) {
        Some("FROZEN") => Ok(Freeze::Frozen),
        Some(_) => Ok(Freeze::Freezing),
        None => Ok(Freeze::Thawed),
    }
}

fn state_v2(directory: &Directory) -> Result<Freeze, StepError> {
    let ordered = directory.read("cgroup.freeze")?;
    if ordered.is_none_or(|text| text.trim() != "1") {
        return Ok(Freeze::Thawed);
    }
    let events = directory.read("cgroup.events")?.unwrap_or_default();
    match value_of(&events, "frozen") {
        Some(1) => Ok(Freeze::Frozen),
        _ => Ok(Freeze::Freezing),
    }
}

fn freeze_v1(freezer: &Directory, deadline: Instant) -> Result<(), StepError> {
    loop {
        order(freezer, "freezer.state", "FROZEN")?;
        for _ in 0..LOOKS {
            let state = freezer.read("freezer.state")?.unwrap_or_default();
            match state.trim() {
                "FROZEN" => return Ok(()),
                "FREEZING" if Instant::now() < deadline => std::thread::sleep(PAUSE),
                _ => return Err(not_frozen(freezer)),
            }
        }
        order(freezer, "freezer.state", "THAWED")?;
        std::thread::sleep(PAUSE);
    }
}

fn freeze_v2(directory: &Directory, deadline: Instant) -> Result<(), StepError> {
    let path = directory.path().join("cgroup.events");
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let events = rustix::fs::openat(directory.fd(), "cgroup.events", flags, Mode::empty())
        .map_err(|errno| failed("open", &path, errno, ""))?;
    order(directory, "cgroup.freeze", "1")?;
    let mut buffer = [0; 128];
    loop {
        // Read before each wait: the kernel tells of a change once after each reading.
        let length = rustix::io::pread(&events, &mut buffer, 0)
            .map_err(|errno| failed("read", &path, errno, ""))?;
        let text = String::from_utf8_lossy(&buffer[..length]);
        if value_of(&text, "frozen") == Some(1) {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(not_frozen(directory));
        }
        wait(&events, PollFlags::PRI, deadline)?;
    }
}

fn order(directory: &Directory, file: &str, value: &str) -> Result<(), StepError> {
    let remedy = "ENOENT: the kernel offers no freezer for this group (v2: Linux 5.2)";
    directory.write(file, value, remedy)
}

fn not_frozen(directory: &Directory) -> StepError {
    let cause = "not all of its processes could be stopped in time, so all of them run on; one in state D \
                 (/proc/PID/status) waits for a device or a network file system";
    refused(STEP, directory.path().display(), cause)
}

/// Thaws one directory's subtree, of either version.
pub(super) fn thaw_in(directory: &Directory) -> Result<(), StepError> {
    for (file, value) in [("freezer.state", "THAWED"), ("cgroup.freeze", "0")] {
        match directory.try_write(file, value) {
            Ok(()) | Err(Errno::NOENT | Errno::NODEV) => {}
            Err(errno) => return Err(failed("thaw cgroup", directory.path(), errno, "")),
        }
    }
    Ok(())
}
