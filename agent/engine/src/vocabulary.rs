//! What can happen to a task (events), what the engine asks for (effects) and what it tells
//! (reports). Closed enums: nothing else ever arrives or leaves.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::spec::{PortBinding, TaskId, TaskSpec};

/// Milliseconds since the Unix epoch, given by the caller with every event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// This time plus `by`.
    pub fn after(self, by: Duration) -> Timestamp {
        Timestamp(
            self.0
                .saturating_add(u64::try_from(by.as_millis()).unwrap_or(u64::MAX)),
        )
    }
}

/// One container of one task.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContainerKey {
    /// The task.
    pub task: TaskId,
    /// Index into [`TaskSpec::containers`].
    pub index: usize,
}

/// A failure as its reader sees it: an ECS error name and one sentence.
///
/// `name` is one of Amazon's agent (`CannotPullContainerError`, `CannotCreateContainerError`,
/// `CannotStartContainerError`, `ContainerNetworkingError`, `ResourceInitializationError`,
/// `HostConfigError`), `message` holds step, subject and remedy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Error name as ECS writes it.
    pub name: String,
    /// Step, subject, cause, remedy.
    pub message: String,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.name, self.message)
    }
}

/// How a container ended, read from its monitor's exit record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// `wait(2)` exit status, or 128 + signal. None: unknown, the monitor was lost.
    pub code: Option<i32>,
    /// The kernel's OOM killer killed a process of the container's cgroup (from `memory.events`
    /// or v1's `memory.oom_control`, never guessed).
    pub oom_killed: bool,
    /// When the process ended.
    pub at: Timestamp,
}

/// Facts of a pulled image that the engine keeps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageFacts {
    /// Digest of the manifest, `sha256:...`.
    pub digest: String,
    /// The image's `StopSignal` as a number; SIGTERM unless the image says otherwise.
    pub stop_signal: i32,
}

/// Something happened: in the world, or in the control plane's wishes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The control plane wants this task to run. Repeats change nothing.
    Run(Box<TaskSpec>),
    /// The control plane wants this task stopped. Repeats change nothing. An unknown task is ignored.
    Stop {
        /// Which.
        task: TaskId,
        /// `stoppedReason` to report.
        reason: String,
    },
    /// [`Effect::Prepare`] ended well.
    Prepared(TaskId),
    /// [`Effect::Prepare`] failed.
    PrepareFailed(TaskId, Failure),
    /// The pull has begun (it may have waited behind others); only for the report's timestamp.
    PullStarted(ContainerKey),
    /// [`Effect::Pull`] ended well.
    Pulled(ContainerKey, ImageFacts),
    /// [`Effect::Pull`] failed for good.
    PullFailed(ContainerKey, Failure),
    /// [`Effect::AttachNetwork`] ended well.
    NetworkAttached(ContainerKey, Vec<PortBinding>),
    /// [`Effect::AttachNetwork`] failed.
    NetworkFailed(ContainerKey, Failure),
    /// [`Effect::Create`] ended well: init waits before execve.
    Created(ContainerKey),
    /// [`Effect::Create`] failed.
    CreateFailed(ContainerKey, Failure),
    /// [`Effect::Start`] ended well: execve succeeded.
    Started(ContainerKey),
    /// [`Effect::Start`] failed.
    StartFailed(ContainerKey, Failure),
    /// The monitor's exit record is there. May arrive at any time after `Created`.
    Exited(ContainerKey, Exit),
    /// [`Effect::Teardown`] ended well: cgroup empty and removed, mounts, network, directories gone.
    TornDown(TaskId),
    /// [`Effect::Teardown`] failed; the engine asks again after a pause, for ever.
    TeardownFailed(TaskId, Failure),
    /// The control plane has stored the task's STOPPED report: the record can go.
    ReportStored(TaskId),
}

/// Something the driver must do. Every effect ends in exactly one event of the same name's
/// family, except where it says otherwise, and bears being run twice.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Check the host's policy, make the task's cgroup and directories.
    Prepare(TaskId),
    /// Make the container's image available.
    Pull(ContainerKey),
    /// Give the container its network namespace and published ports (also for mode none).
    AttachNetwork(ContainerKey),
    /// Mount the root, write the OCI spec, create the container.
    Create(ContainerKey),
    /// Let the created container's init go on to execve.
    Start(ContainerKey),
    /// Send a signal to the container's first process. Ends in no event; `Exited` follows in time.
    Signal(ContainerKey, i32),
    /// Kill every process of the container. Ends in no event; `Exited` follows in time.
    Kill(ContainerKey),
    /// Remove everything the task has on this host. Kills what still runs.
    Teardown(TaskId),
}

/// ECS task and container statuses that this agent reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Status {
    /// Nothing runs yet.
    Pending,
    /// Every container has started (or, for a container, it has).
    Running,
    /// On the way down; resources are still held.
    Stopping,
    /// Proven gone: the cgroup is empty.
    Stopped,
}

/// ECS `stopCode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum StopCode {
    /// A container could not be brought to RUNNING.
    TaskFailedToStart,
    /// An essential container stopped.
    EssentialContainerExited,
    /// Asked for by StopTask.
    UserInitiated,
}

/// A level snapshot of one task for the control plane: complete, so that a lost one heals itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskReport {
    /// Which task.
    pub task: TaskId,
    /// Its ARN.
    pub arn: String,
    /// Its status.
    pub status: Status,
    /// Why it stopped or stops.
    pub stop: Option<(StopCode, String)>,
    /// When the first pull began.
    pub pull_started_at: Option<Timestamp>,
    /// When the last pull ended.
    pub pull_stopped_at: Option<Timestamp>,
    /// When the task became RUNNING.
    pub started_at: Option<Timestamp>,
    /// When stopping began.
    pub stopping_at: Option<Timestamp>,
    /// When the first essential container ended.
    pub execution_stopped_at: Option<Timestamp>,
    /// When the task became STOPPED.
    pub stopped_at: Option<Timestamp>,
    /// The containers in the spec's order.
    pub containers: Vec<ContainerReport>,
}

/// One container in a [`TaskReport`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerReport {
    /// Its name.
    pub name: String,
    /// Its id below the runtime: the task's id, a dash and ten digits.
    pub runtime_id: String,
    /// Its status.
    pub status: Status,
    /// Exit code, if it ran and the code is known.
    pub exit_code: Option<i32>,
    /// Error name and sentence.
    pub reason: Option<String>,
    /// Digest of the image's manifest.
    pub image_digest: Option<String>,
    /// Published ports.
    pub bindings: Vec<PortBinding>,
}
