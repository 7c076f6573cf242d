//! `state.json`: what is known of a container, and its status, which is computed from that and the kernel.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::StepError;
use crate::cgroup::Location;
use crate::plan::{Hook, Resctrl};
use crate::record::{Phase, Process};

/// Layout of the record. Containers outlive upgrades of the runtime.
pub(crate) const VERSION: u32 = 1;
/// The version of the OCI text that this runtime speaks.
pub(crate) const OCI_VERSION: &str = "1.3.0";

/// `state.json`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// Layout of this record.
    pub(crate) version: u32,
    /// The container's id.
    pub(crate) id: String,
    /// Absolute path.
    pub(crate) bundle: PathBuf,
    /// Absolute path of the root filesystem, for those who list containers.
    pub(crate) rootfs: PathBuf,
    /// From config.json.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) annotations: BTreeMap<String, String>,
    /// RFC 3339.
    pub(crate) created: String,
    /// Who made it.
    pub(crate) owner: u32,
    /// Whether it was made without privilege on the host.
    pub(crate) rootless: bool,
    /// The cgroup; written before the group is made.
    pub(crate) cgroup: Location,
    /// How far it has come.
    pub(crate) phase: Phase,
    /// The container's first process.
    pub(crate) init: Option<Process>,
    /// What it becomes, for messages. None: the spec has no process, and `start` is refused.
    pub(crate) entrypoint: Option<String>,
    /// What `start` runs when the program runs: kept here so that `start` need not read config.json.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) poststart: Vec<Hook>,
    /// What `delete` runs when the container is gone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) poststop: Vec<Hook>,
    /// What `delete` removes below resctrl.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) resctrl: Option<Resctrl>,
}

/// Status of the OCI text, and `paused`, as others extend it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    /// Being made.
    Creating,
    /// Init waits for `start`.
    Created,
    /// The program runs.
    Running,
    /// The program is frozen.
    Paused,
    /// Its first process has ended.
    Stopped,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Status::Creating => "creating",
            Status::Created => "created",
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Stopped => "stopped",
        })
    }
}

impl Record {
    /// What a container is taken for whose own record cannot be read: enough to remove it.
    pub(crate) fn of_damaged(id: &str, cgroup: Location) -> Record {
        Record {
            version: VERSION,
            id: id.to_owned(),
            bundle: PathBuf::new(),
            rootfs: PathBuf::new(),
            annotations: BTreeMap::new(),
            created: String::new(),
            owner: 0,
            rootless: false,
            cgroup,
            phase: Phase::Creating,
            init: None,
            entrypoint: None,
            poststart: Vec::new(),
            poststop: Vec::new(),
            resctrl: None,
        }
    }

    /// What the container does now, by its first process. `frozen` is asked only of one that lives.
    pub(crate) fn status(
        &self,
        frozen: impl FnOnce() -> Result<bool, StepError>,
    ) -> Result<Status, StepError> {
        let Some(init) = self.init else {
            return Ok(Status::Creating);
        };
        if !init.is_alive()? {
            return Ok(Status::Stopped);
        }
        Ok(match self.phase {
            Phase::Creating => Status::Creating,
            _ if frozen()? => Status::Paused,
            Phase::Created => Status::Created,
            Phase::Running => Status::Running,
        })
    }

    /// The state of the OCI text, as hooks and seccomp listeners get it. `pid` as they would see it.
    pub(crate) fn oci_state(&self, status: Status, pid: Option<u32>) -> Value {
        let mut state = json!({
            "ociVersion": OCI_VERSION,
            "id": self.id,
            "status": status.to_string(),
            "bundle": self.bundle,
        });
        if let Some(pid) = pid {
            state["pid"] = pid.into();
        }
        if !self.annotations.is_empty() {
            state["annotations"] = json!(self.annotations);
        }
        state
    }
}
