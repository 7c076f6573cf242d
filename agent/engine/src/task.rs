//! One task's machine: its containers' steps up and down, and why it stops.
//!
//! It knows nothing of other tasks; what they share (capacity) is the engine's. Every change of state
//! happens in one of the `on_*` methods or in `advance`, and `due` names the effects that the present
//! state calls for, so that a restart asks again for exactly what was under way.

use crate::record::{ContainerRecord, PhaseRecord, Progress, StopRecord, TaskRecord, Times};
use crate::spec::{ContainerSpec, PortBinding, TaskSpec};
use crate::vocabulary::{
    ContainerKey, ContainerReport, Effect, Exit, Failure, ImageFacts, Status, StopCode, TaskReport,
    Timestamp,
};
use std::time::Duration;

const SIGTERM: i32 = 15;
/// A container that survives SIGKILL (uninterruptible sleep) is killed again after this pause.
const KILL_AGAIN: Duration = Duration::from_secs(10);
/// A failed teardown is tried again after this pause, for ever: STOPPED is never guessed.
const TEARDOWN_AGAIN: Duration = Duration::from_secs(5);

/// The kernel killed a process of the container because it used more memory than its limit.
const OUT_OF_MEMORY: &str = "OutOfMemoryError: Container killed due to memory usage";
/// The end was found, not seen.
const MONITOR_LOST: &str = "exit code unknown: monitor lost";

/// An effect that a state calls for. `turn` tells a repetition from the first time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Due {
    pub(crate) effect: Effect,
    pub(crate) turn: u64,
}

impl Due {
    fn once(effect: Effect) -> Due {
        Due { effect, turn: 0 }
    }
}

/// One task.
#[derive(Debug)]
pub(crate) struct Task {
    record: TaskRecord,
    /// When to try the teardown again; not persisted, because a restart tries again at once.
    teardown_again: Option<Timestamp>,
}

impl Task {
    pub(crate) fn new(spec: TaskSpec) -> Task {
        let blank = ContainerRecord {
            progress: Progress::Waiting,
            image: None,
            bindings: Vec::new(),
            exit: None,
            failure: None,
        };
        let containers = vec![blank; spec.containers.len()];
        let record = TaskRecord {
            version: TaskRecord::VERSION,
            spec,
            phase: PhaseRecord::Waiting,
            stop: None,
            times: Times::default(),
            containers,
        };
        Task {
            record,
            teardown_again: None,
        }
    }

    pub(crate) fn restore(record: TaskRecord) -> Task {
        Task {
            record,
            teardown_again: None,
        }
    }

    pub(crate) fn record(&self) -> &TaskRecord {
        &self.record
    }

    pub(crate) fn spec(&self) -> &TaskSpec {
        &self.record.spec
    }

    pub(crate) fn phase(&self) -> PhaseRecord {
        self.record.phase
    }

    pub(crate) fn bindings(&self, index: usize) -> &[PortBinding] {
        self.record
            .containers
            .get(index)
            .map_or(&[], |c| &c.bindings)
    }

    // ── the task's own steps ────────────────────────────────────────────────────────────────────

    /// Capacity has been reserved.
    pub(crate) fn admit(&mut self) {
        self.record.phase = PhaseRecord::Preparing;
    }

    /// This host can never carry it.
    pub(crate) fn refuse(&mut self, now: Timestamp, failure: Failure) {
        self.stop(now, StopCode::TaskFailedToStart, failure.to_string());
        self.advance(now);
    }

    pub(crate) fn on_stop(&mut self, now: Timestamp, reason: String) {
        self.stop(now, StopCode::UserInitiated, reason);
        self.advance(now);
    }

    pub(crate) fn on_prepared(&mut self, now: Timestamp) {
        if self.record.phase == PhaseRecord::Preparing {
            self.record.phase = PhaseRecord::Active;
            self.advance(now);
        }
    }

    pub(crate) fn on_prepare_failed(&mut self, now: Timestamp, failure: Failure) {
        if self.record.phase == PhaseRecord::Preparing {
            self.record.phase = PhaseRecord::Active;
            self.stop(now, StopCode::TaskFailedToStart, failure.to_string());
            self.advance(now);
        }
    }

    pub(crate) fn on_torn_down(&mut self, now: Timestamp) {
        if self.record.phase == PhaseRecord::TearingDown {
            self.record.phase = PhaseRecord::Stopped;
            self.record.times.stopped = Some(now);
        }
    }

    pub(crate) fn on_teardown_failed(&mut self, now: Timestamp) {
        if self.record.phase == PhaseRecord::TearingDown {
            self.teardown_again = Some(now.after(TEARDOWN_AGAIN));
        }
    }

    // ── a container's steps ─────────────────────────────────────────────────────────────────────

    pub(crate) fn on_pull_started(&mut self, now: Timestamp) {
        self.record.times.pull_started.get_or_insert(now);
    }

    pub(crate) fn on_pulled(&mut self, now: Timestamp, index: usize, image: ImageFacts) {
        if self.leave(index, Progress::Pulling, Progress::Attaching) {
            self.record.containers[index].image = Some(image);
            self.pull_ended(now);
            self.advance(now);
        }
    }

    pub(crate) fn on_attached(&mut self, now: Timestamp, index: usize, bindings: Vec<PortBinding>) {
        if self.leave(index, Progress::Attaching, Progress::Creating) {
            self.record.containers[index].bindings = bindings;
            self.advance(now);
        }
    }

    pub(crate) fn on_created(&mut self, now: Timestamp, index: usize) {
        if self.leave(index, Progress::Creating, Progress::Starting) {
            self.advance(now);
        }
    }

    pub(crate) fn on_started(&mut self, now: Timestamp, index: usize) {
        if !self.leave(index, Progress::Starting, Progress::Running) {
            return;
        }
        let all_started = |c: &ContainerRecord| {
            matches!(
                c.progress,
                Progress::Running | Progress::Stopping(_) | Progress::Killed(_)
            ) || c.progress.is_over()
        };
        if self.record.stop.is_none() && self.record.containers.iter().all(all_started) {
            self.record.times.started.get_or_insert(now);
        }
        // A very short program may have ended before the news of its start arrived.
        if let Some(exit) = self.record.containers[index].exit {
            self.ended(now, index, exit);
        }
        self.advance(now);
    }

    /// Any of pull, attach, create or start failed: `at` is the step that the failure belongs to.
    pub(crate) fn on_step_failed(
        &mut self,
        now: Timestamp,
        index: usize,
        at: Progress,
        failure: Failure,
    ) {
        if !self.leave(index, at, Progress::NeverRan) {
            return;
        }
        if at == Progress::Pulling {
            self.pull_ended(now);
        }
        let reason = failure.to_string();
        self.record.containers[index].exit = None;
        self.record.containers[index].failure = Some(failure);
        if self.container_spec(index).essential {
            self.stop(now, StopCode::TaskFailedToStart, reason);
        }
        self.note_started(now);
        self.advance(now);
    }

    pub(crate) fn on_exited(&mut self, now: Timestamp, index: usize, exit: Exit) {
        let Some(container) = self.record.containers.get_mut(index) else {
            return;
        };
        match container.progress {
            // The end of `Create` or `Start` is still to come, and says whether it ever ran.
            Progress::Creating | Progress::Starting => container.exit = Some(exit),
            Progress::Running | Progress::Stopping(_) | Progress::Killed(_) => {
                self.ended(now, index, exit);
                self.advance(now);
            }
            Progress::Waiting
            | Progress::Pulling
            | Progress::Attaching
            | Progress::Ended
            | Progress::NeverRan => {}
        }
    }

    /// Lets stop timeouts and pauses run out.
    pub(crate) fn on_time(&mut self, now: Timestamp) -> bool {
        let mut changed = false;
        for container in &mut self.record.containers {
            if let Progress::Stopping(at) | Progress::Killed(at) = container.progress
                && at <= now
            {
                container.progress = Progress::Killed(now.after(KILL_AGAIN));
                changed = true;
            }
        }
        if self.teardown_again.is_some_and(|at| at <= now) {
            self.teardown_again = None;
            changed = true;
        }
        changed
    }

    /// The earliest time at which `on_time` has something to do.
    pub(crate) fn deadline(&self) -> Option<Timestamp> {
        let of_container = |c: &ContainerRecord| match c.progress {
            Progress::Stopping(at) | Progress::Killed(at) => Some(at),
            _ => None,
        };
        self.record
            .containers
            .iter()
            .filter_map(of_container)
            .chain(self.teardown_again)
            .min()
    }

    // ── what follows from a state ───────────────────────────────────────────────────────────────

    /// The effects that the present state calls for. Asked for again after a restart; the engine filters
    /// out those it has already handed over.
    pub(crate) fn due(&self) -> Vec<Due> {
        let id = &self.record.spec.id;
        match self.record.phase {
            PhaseRecord::Waiting | PhaseRecord::Stopped => Vec::new(),
            PhaseRecord::Preparing => vec![Due::once(Effect::Prepare(id.clone()))],
            PhaseRecord::TearingDown if self.teardown_again.is_some() => Vec::new(),
            PhaseRecord::TearingDown => vec![Due::once(Effect::Teardown(id.clone()))],
            PhaseRecord::Active => (0..self.record.containers.len())
                .filter_map(|i| self.due_of(i))
                .collect(),
        }
    }

    fn due_of(&self, index: usize) -> Option<Due> {
        let key = ContainerKey {
            task: self.record.spec.id.clone(),
            index,
        };
        let container = &self.record.containers[index];
        match container.progress {
            Progress::Pulling => Some(Due::once(Effect::Pull(key))),
            Progress::Attaching => Some(Due::once(Effect::AttachNetwork(key))),
            Progress::Creating => Some(Due::once(Effect::Create(key))),
            Progress::Starting => Some(Due::once(Effect::Start(key))),
            Progress::Stopping(_) => {
                let signal = container
                    .image
                    .as_ref()
                    .map_or(SIGTERM, |image| image.stop_signal);
                Some(Due::once(Effect::Signal(key, signal)))
            }
            Progress::Killed(again) => Some(Due {
                effect: Effect::Kill(key),
                turn: again.0,
            }),
            Progress::Waiting | Progress::Running | Progress::Ended | Progress::NeverRan => None,
        }
    }

    /// Moves every container and the task as far as the wish and the facts allow.
    fn advance(&mut self, now: Timestamp) {
        if self.record.stop.is_some() {
            self.wind_down(now);
        } else if self.record.phase == PhaseRecord::Active {
            for container in &mut self.record.containers {
                if container.progress == Progress::Waiting {
                    container.progress = Progress::Pulling;
                }
            }
        }
    }

    fn wind_down(&mut self, now: Timestamp) {
        for (container, spec) in self
            .record
            .containers
            .iter_mut()
            .zip(&self.record.spec.containers)
        {
            match container.progress {
                // A pull belongs to the host's image store, not to the task: nobody waits for it.
                Progress::Waiting | Progress::Pulling => container.progress = Progress::NeverRan,
                Progress::Running => {
                    container.progress = Progress::Stopping(now.after(spec.stop_timeout))
                }
                // `Attaching`, `Creating`, `Starting`: their ends are near, and a teardown beside them would race.
                _ => {}
            }
        }
        // An effect that has ended is not followed by the next one: `leave` has moved the container on to a
        // step that was not asked for yet, so it can end here without a race.
        if !self.record.containers.iter().all(|c| c.progress.is_over()) {
            return;
        }
        match self.record.phase {
            PhaseRecord::Active => self.record.phase = PhaseRecord::TearingDown,
            // Nothing was ever made for it, so there is nothing to prove gone.
            PhaseRecord::Waiting => {
                self.record.phase = PhaseRecord::Stopped;
                self.record.times.stopped = Some(now);
            }
            PhaseRecord::Preparing | PhaseRecord::TearingDown | PhaseRecord::Stopped => {}
        }
    }

    /// Moves a container from `from` to `to`; while the task stops, to its end instead. False if it is not
    /// at `from`: the event is late or a repetition, and changes nothing.
    fn leave(&mut self, index: usize, from: Progress, to: Progress) -> bool {
        let stopping = self.record.stop.is_some();
        let Some(container) = self.record.containers.get_mut(index) else {
            return false;
        };
        if container.progress != from {
            return false;
        }
        let would_ask_for_more = matches!(
            to,
            Progress::Attaching | Progress::Creating | Progress::Starting
        );
        container.progress = if stopping && would_ask_for_more {
            Progress::NeverRan
        } else {
            to
        };
        true
    }

    fn ended(&mut self, now: Timestamp, index: usize, exit: Exit) {
        let container = &mut self.record.containers[index];
        container.progress = Progress::Ended;
        container.exit = Some(exit);
        if self.container_spec(index).essential {
            self.record.times.execution_stopped.get_or_insert(exit.at);
            self.stop(
                now,
                StopCode::EssentialContainerExited,
                "Essential container in task exited".into(),
            );
        }
    }

    /// A container that never ran may have been the last that RUNNING waited for.
    fn note_started(&mut self, now: Timestamp) {
        let up = |c: &ContainerRecord| c.progress == Progress::Running || c.progress.is_over();
        if self.record.stop.is_none() && self.record.containers.iter().all(up) {
            self.record.times.started.get_or_insert(now);
        }
    }

    /// The first reason to stop stays the reason.
    fn stop(&mut self, now: Timestamp, code: StopCode, reason: String) {
        if self.record.stop.is_none() && self.record.phase != PhaseRecord::Stopped {
            self.record.stop = Some(StopRecord { code, reason });
            self.record.times.stopping = Some(now);
        }
    }

    fn pull_ended(&mut self, now: Timestamp) {
        let pulling =
            |c: &ContainerRecord| matches!(c.progress, Progress::Waiting | Progress::Pulling);
        if !self.record.containers.iter().any(pulling) {
            self.record.times.pull_stopped = Some(now);
        }
    }

    fn container_spec(&self, index: usize) -> &ContainerSpec {
        &self.record.spec.containers[index]
    }

    // ── what the world may know ─────────────────────────────────────────────────────────────────

    pub(crate) fn status(&self) -> Status {
        match (
            self.record.phase,
            &self.record.stop,
            self.record.times.started,
        ) {
            (PhaseRecord::Stopped, ..) => Status::Stopped,
            (_, Some(_), _) => Status::Stopping,
            (_, None, Some(_)) => Status::Running,
            (_, None, None) => Status::Pending,
        }
    }

    pub(crate) fn report(&self) -> TaskReport {
        let TaskRecord {
            spec,
            stop,
            times,
            containers,
            ..
        } = &self.record;
        let container = |index: usize, c: &ContainerRecord| ContainerReport {
            name: spec.containers[index].name.clone(),
            runtime_id: self.runtime_id(index),
            status: self.container_status(c),
            exit_code: c.exit.and_then(|exit| exit.code),
            reason: reason_of(c),
            image_digest: c.image.as_ref().map(|image| image.digest.clone()),
            bindings: c.bindings.clone(),
        };
        TaskReport {
            task: spec.id.clone(),
            arn: spec.arn.clone(),
            status: self.status(),
            stop: stop.as_ref().map(|s| (s.code, s.reason.clone())),
            pull_started_at: times.pull_started,
            pull_stopped_at: times.pull_stopped,
            started_at: times.started,
            stopping_at: times.stopping,
            execution_stopped_at: times.execution_stopped,
            stopped_at: times.stopped,
            containers: containers
                .iter()
                .enumerate()
                .map(|(i, c)| container(i, c))
                .collect(),
        }
    }

    /// A container is STOPPED as soon as its process has ended; one that never ran, when its task is.
    fn container_status(&self, container: &ContainerRecord) -> Status {
        match container.progress {
            Progress::Running | Progress::Stopping(_) | Progress::Killed(_) => Status::Running,
            Progress::Ended | Progress::NeverRan => Status::Stopped,
            _ => Status::Pending,
        }
    }

    /// `<task id>-<10 digits>`: nine from the container's name and one from its place, so that it is the
    /// same after each restart and unique within the task (which has at most ten containers).
    pub(crate) fn runtime_id(&self, index: usize) -> String {
        let name = &self.record.spec.containers[index].name;
        // FNV-1a: a stable spread of names over numbers; nothing here is a secret or needs to resist attack.
        let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| {
            (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)
        });
        format!(
            "{}-{:09}{}",
            self.record.spec.id,
            hash % 1_000_000_000,
            index % 10
        )
    }
}

fn reason_of(container: &ContainerRecord) -> Option<String> {
    if let Some(failure) = &container.failure {
        return Some(failure.to_string());
    }
    let exit = container.exit?;
    // As Docker's OOMKilled, on which ECS's agent goes: any process of the container, whatever the first one made of it.
    let killed = exit.oom_killed.then_some(OUT_OF_MEMORY);
    let unknown = exit.code.is_none().then_some(MONITOR_LOST);
    let said: Vec<&str> = killed.into_iter().chain(unknown).collect();
    (!said.is_empty()).then(|| said.join("; "))
}
