//! `delete`: a container and all that was made for it.
//!
//! Whatever state it was left in: whole, half-made, half-deleted. What is missing is no error, so a delete that
//! was interrupted is finished by the next one.

use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Signal, pidfd_send_signal};

use super::Command;
use super::container::{self, PATIENCE};
use super::global::Globals;
use super::options::{Arguments, Given, Opt};
use crate::StepError;
use crate::cgroup::{ContainerGroup, Driver, Location, Surroundings};
use crate::error::Context;
use crate::hooks;
use crate::resctrl;
use crate::state::{Lock, Record, StateDirectory, Status};

pub(super) const COMMAND: Command = Command {
    name: "delete",
    about: "Remove a container that is not running",
    details: "With --force a running one is killed first, and one that does not exist is no error.",
    options: &[Opt::switch(
        "force",
        "Kill what still runs; fine if there is no such container.",
    )
    .or('f')],
    arguments: Arguments::ID,
    enters: false,
    run,
};

/// How long another command on the container may take, and then its killed container's command.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);
/// Between two rounds of killing the container of a command that holds the lock.
const ROUND: Duration = Duration::from_millis(500);

fn run(globals: &Globals, given: &Given) -> Result<u8, StepError> {
    let (id, force) = (given.id()?, given.has("force"));
    let Some(directory) = globals.root()?.find(id)? else {
        return match force {
            true => Ok(0),
            false => globals.root()?.open(id).map(|_| 0),
        };
    };
    if force {
        by_force(globals, directory)?;
    } else {
        let lock = directory.lock(LOCK_PATIENCE)?;
        let record = directory.record()?;
        if let Some(record) = &record {
            refuse_running(record)?;
        }
        destroy(globals, &directory, record, lock)?;
    }
    Ok(0)
}

/// One that was created and never started is as good as stopped; whoever made a half-made one is dead, as
/// the lock proves.
fn refuse_running(record: &Record) -> Result<(), StepError> {
    let status = container::status(record)?;
    match status {
        Status::Creating | Status::Created | Status::Stopped => Ok(()),
        Status::Running | Status::Paused => {
            let cause = format!("it is {status}; kill it first, or `delete --force`");
            Err(StepError::refused("delete container", &record.id, cause))
        }
    }
}

/// A command that holds the lock loses its container, which ends that command, which gives the lock back. One
/// that still does not, say for a hook that hangs, is killed.
fn by_force(globals: &Globals, directory: StateDirectory) -> Result<(), StepError> {
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        let record = readable(globals, &directory);
        let refused = match directory.lock(Duration::ZERO) {
            // Read again: whoever held the lock until now may have written the record meanwhile.
            Ok(lock) => {
                let record = readable(globals, &directory);
                return destroy(globals, &directory, record, lock);
            }
            Err(refused) => refused,
        };
        let Some(holder) = directory.locked_by()? else {
            // Given back, or never held.
            match directory.is_in_place()? {
                // It was removed meanwhile, which is what was asked for.
                false => return Ok(()),
                true if Instant::now() >= deadline => return Err(refused),
                true => continue,
            }
        };
        if let Some(record) = &record {
            end_processes(record)?;
        }
        if Instant::now() >= deadline {
            return Err(refused);
        }
        if directory.lock(ROUND).is_err() && directory.locked_by()? == Some(holder) {
            globals.log.warning(&format!(
                "kill process {holder}, which does not let go of the container"
            ));
            super::holder::end(holder, &directory)?;
        }
    }
}

/// A damaged record must not keep a container from being removed.
fn readable(globals: &Globals, directory: &StateDirectory) -> Option<Record> {
    let error = match directory.record() {
        Ok(record) => return record,
        Err(error) => error,
    };
    globals.log.warning(&error.to_string());
    let remains = directory.remains_of_record();
    let other = remains.id.filter(|id| id != directory.id());
    let found = |id: &String| {
        globals
            .root()
            .is_ok_and(|root| matches!(root.find(id), Ok(Some(_))))
    };
    if other.is_some_and(|id| found(&id)) {
        // What it tells of is that container's, which is whole; a directory that was renamed is a container still.
        return None;
    }
    let cgroup = remains.cgroup.or_else(|| by_config(globals, directory))?;
    Some(Record {
        init: remains.init,
        ..Record::of_damaged(directory.id(), cgroup)
    })
}

/// Where the kept config.json lets the cgroup be: under the driver that is asked for now or, if there is nothing, under
/// the other one.
fn by_config(globals: &Globals, directory: &StateDirectory) -> Option<Location> {
    let spec = directory.config().ok()?;
    let path = spec.linux().as_ref()?.cgroups_path().clone();
    let own_group = match globals.rootless {
        true => super::creation::own_group(),
        false => String::new(),
    };
    let under = |driver| {
        let surroundings = Surroundings {
            driver,
            id: directory.id(),
            rootless: globals.rootless,
            own_group: &own_group,
        };
        Location::of(path.as_deref(), &surroundings).ok()
    };
    let exists = |location: &Location| {
        ContainerGroup::open(location)
            .is_ok_and(|group| group.group().is_some_and(|group| group.exists()))
    };
    let drivers = [globals.driver, Driver::Cgroupfs, Driver::Systemd];
    let mut candidates = drivers.into_iter().filter_map(under);
    candidates
        .clone()
        .find(exists)
        .or_else(|| candidates.next())
}

/// Ends what runs, removes the cgroup, tells the poststop hooks, removes the record: in this order, so that
/// whoever is interrupted can be repeated.
pub(super) fn destroy(
    globals: &Globals,
    directory: &StateDirectory,
    record: Option<Record>,
    lock: Lock,
) -> Result<(), StepError> {
    let group = match &record {
        Some(record) => Some(ContainerGroup::open(&record.cgroup)?),
        None => None,
    };
    destroy_in(globals, directory, record.zip(group), lock)
}

/// As [`destroy`], for who has the container's group open already.
pub(super) fn destroy_in(
    globals: &Globals,
    directory: &StateDirectory,
    record: Option<(Record, ContainerGroup)>,
    lock: Lock,
) -> Result<(), StepError> {
    if let Some((record, group)) = record {
        group.end(PATIENCE)?;
        end_first_process(&record)?;
        if let Some(wanted) = &record.resctrl {
            resctrl::remove(wanted, &record.id)?;
        }
        for failed in hooks::poststop(&record) {
            globals.log.complaint(&failed.to_string());
        }
    }
    directory.remove(lock)
}

/// All in the cgroup, and the first process also where it is in none, or not in it yet.
fn end_processes(record: &Record) -> Result<(), StepError> {
    ContainerGroup::open(&record.cgroup)?.kill(PATIENCE)?;
    end_first_process(record)
}

/// It may be in no group of its own.
fn end_first_process(record: &Record) -> Result<(), StepError> {
    let Some(pidfd) = record.init.map(|init| init.open()).transpose()?.flatten() else {
        return Ok(());
    };
    // It may have ended since.
    pidfd_send_signal(&pidfd, Signal::KILL).ok();
    let patience = Timespec {
        tv_sec: PATIENCE.as_secs() as i64,
        tv_nsec: 0,
    };
    let ended = poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&patience));
    match ended.context("wait for container", &record.id)? {
        0 => Err(StepError::refused(
            "kill container",
            &record.id,
            "its first process does not end; it may wait for a disk",
        )),
        _ => Ok(()),
    }
}
