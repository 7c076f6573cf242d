//! A task as the journal keeps it: plain, versioned data, separate from the engine's own state.
//!
//! A new field gets a serde default, so that an older agent's rows stay readable; a change of
//! meaning raises [`TaskRecord::VERSION`] and is translated in `restore`.

use serde::{Deserialize, Serialize};

use crate::spec::{PortBinding, TaskId, TaskSpec};
use crate::vocabulary::{Exit, Failure, ImageFacts, StopCode, Timestamp};

/// One row of the agent's journal. Serialize it as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskRecord {
    /// Layout of this record.
    pub version: u32,
    /// What was asked for.
    pub spec: TaskSpec,
    /// How far the task has come.
    pub phase: PhaseRecord,
    /// Why it stops, once that is decided.
    pub stop: Option<StopRecord>,
    /// When what happened.
    pub times: Times,
    /// The containers in the spec's order.
    pub containers: Vec<ContainerRecord>,
}

impl TaskRecord {
    /// The layout that this code writes.
    pub const VERSION: u32 = 1;

    /// The task's id.
    pub fn id(&self) -> &TaskId {
        &self.spec.id
    }
}

/// How far a task has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PhaseRecord {
    /// Accepted; waits for CPU, memory or ports of this host.
    Waiting,
    /// `Prepare` is under way.
    Preparing,
    /// Its containers are on their way up, running, or on their way down.
    Active,
    /// Every container has ended; `Teardown` is under way.
    TearingDown,
    /// Nothing of it is left on this host.
    Stopped,
}

/// Why a task stops. Decided once, never changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopRecord {
    /// ECS stopCode.
    pub code: StopCode,
    /// ECS stoppedReason.
    pub reason: String,
}

/// The times that ECS reports of a task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Times {
    /// When the first pull began.
    pub pull_started: Option<Timestamp>,
    /// When the last pull ended.
    pub pull_stopped: Option<Timestamp>,
    /// When the task became RUNNING.
    pub started: Option<Timestamp>,
    /// When stopping was decided.
    pub stopping: Option<Timestamp>,
    /// When the first essential container ended.
    pub execution_stopped: Option<Timestamp>,
    /// When the task became STOPPED.
    pub stopped: Option<Timestamp>,
}

/// One container of a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerRecord {
    /// How far it has come.
    pub progress: Progress,
    /// Its image, once pulled.
    pub image: Option<ImageFacts>,
    /// Its published ports, once attached.
    pub bindings: Vec<PortBinding>,
    /// How its process ended, once known.
    pub exit: Option<Exit>,
    /// What kept it from running.
    pub failure: Option<Failure>,
}

/// How far a container has come; each step but the resting ones names the effect under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Progress {
    /// Nothing asked for yet.
    Waiting,
    /// `Pull` is under way.
    Pulling,
    /// `AttachNetwork` is under way.
    Attaching,
    /// `Create` is under way.
    Creating,
    /// `Start` is under way.
    Starting,
    /// Its program runs.
    Running,
    /// Its program runs and was sent the stop signal; SIGKILL follows at that time.
    Stopping(Timestamp),
    /// It was killed; if it has not ended by then, it is killed again.
    Killed(Timestamp),
    /// It has ended after it ran.
    Ended,
    /// It never ran and never will.
    NeverRan,
}

impl Progress {
    /// Whether it has come to rest for good.
    pub(crate) fn is_over(self) -> bool {
        matches!(self, Progress::Ended | Progress::NeverRan)
    }
}
