//! A container as most commands meet it: open, recorded, in some state.

use std::os::fd::AsFd;
use std::time::Duration;

use longshore_sys::pidfd_send_signal;
use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType};
use rustix::io::Errno;
use serde_json::{Value, json};

use super::global::Globals;
use crate::StepError;
use crate::cgroup::{ContainerGroup, Freeze};
use crate::notify::{Notify, Supervisor};
use crate::pid_namespace;
use crate::state::{OCI_VERSION, Record, StateDirectory, Status};

/// How long killed processes may take to be gone; one in uninterruptible sleep takes as long as its disk.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// A container that is recorded.
#[derive(Debug)]
pub(super) struct Container {
    pub(super) directory: StateDirectory,
    pub(super) record: Record,
}

impl Container {
    /// It must exist, and its record must be whole.
    pub(super) fn open(globals: &Globals, id: &str) -> Result<Container, StepError> {
        Container::of(globals.root()?.open(id)?)
    }

    /// As `open`, once the directory is open.
    pub(super) fn of(directory: StateDirectory) -> Result<Container, StepError> {
        let record = directory.record()?.ok_or_else(|| {
            StepError::refused(
                "open container",
                directory.id(),
                "whoever made it died before it recorded anything; `delete --force` removes it",
            )
        })?;
        Ok(Container { directory, record })
    }

    /// What it does now.
    pub(super) fn status(&self) -> Result<Status, StepError> {
        status(&self.record)
    }

    /// Sends a signal to the first process, and never to a later one of its pid.
    pub(super) fn signal(&self, signal: i32) -> Result<(), StepError> {
        let Some(init) = self.record.init else {
            return Ok(());
        };
        let Some(pidfd) = init.open()? else {
            return Ok(());
        };
        match pidfd_send_signal(pidfd.as_fd(), signal) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(errno) => Err(StepError::io("signal container", &self.record.id, errno)),
        }
    }

    /// All of its processes: those in its cgroup or, where the host gave it none, in its pid namespace.
    pub(super) fn processes(&self, group: &ContainerGroup) -> Result<Vec<u32>, StepError> {
        match (group.group(), &self.record.init) {
            (Some(group), _) if group.exists() => group.processes(),
            (_, Some(init)) if self.has_own_pids() => pid_namespace::members(init),
            (_, Some(init)) if init.is_alive()? => Err(StepError::refused(
                "find processes of",
                &self.record.id,
                "it has neither a cgroup nor a pid namespace of its own, by which they could be told",
            )),
            _ => Ok(Vec::new()),
        }
    }

    /// Whether the end of the first process is the end of all, by pid_namespaces(7).
    pub(super) fn has_own_pids(&self) -> bool {
        let Ok(spec) = self.directory.config() else {
            return false;
        };
        let linux = spec.linux().as_ref();
        let listed = linux.and_then(|linux| linux.namespaces().as_ref());
        let own = |namespace: &LinuxNamespace| {
            let path = namespace.path().as_ref();
            namespace.typ() == LinuxNamespaceType::Pid
                && path.is_none_or(|path| path.as_os_str().is_empty())
        };
        listed.is_some_and(|listed| listed.iter().any(own))
    }

    /// Listens to what the program will say to this process's supervisor, if there is one and the container was made
    /// for one.
    pub(super) fn listen(&self) -> Result<Option<Notify>, StepError> {
        match (Supervisor::of_environment(), self.record.init) {
            (Some(supervisor), Some(init)) => {
                Notify::listen(&supervisor, self.directory.as_fd(), init.pid)
            }
            _ => Ok(None),
        }
    }

    /// As `state` and `list` print it.
    pub(super) fn to_json(&self, status: Status) -> Value {
        let Record {
            id,
            bundle,
            rootfs,
            created,
            annotations,
            owner,
            ..
        } = &self.record;
        let init = self.record.init.filter(|_| status != Status::Stopped);
        let mut state = json!({
            "ociVersion": OCI_VERSION,
            "id": id,
            "pid": init.map_or(0, |init| init.pid),
            "status": status.to_string(),
            "bundle": bundle,
            "rootfs": rootfs,
            "created": created,
            "owner": user_name(*owner),
        });
        if !annotations.is_empty() {
            state["annotations"] = json!(annotations);
        }
        state
    }
}

/// What a container does now.
pub(super) fn status(record: &Record) -> Result<Status, StepError> {
    let frozen = || {
        let group = ContainerGroup::open(&record.cgroup)?;
        Ok(group.freeze_state()? == Freeze::Frozen)
    };
    record.status(frozen)
}

/// The name of a user of the host, or `#UID`.
fn user_name(uid: u32) -> String {
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    });
    name.unwrap_or_else(|| format!("#{uid}"))
}
