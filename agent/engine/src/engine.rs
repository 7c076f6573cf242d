//! All tasks of the host: routes events, shares capacity out, and remembers what it has asked for.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::capacity::{Capacity, Need};
use crate::record::{PhaseRecord, Progress, TaskRecord};
use crate::spec::{PortBinding, TaskId, TaskSpec};
use crate::task::{Due, Task};
use crate::vocabulary::{ContainerKey, Effect, Event, Status, TaskReport, Timestamp};

/// See the crate's documentation.
#[derive(Debug)]
pub struct Engine {
    capacity: Capacity,
    tasks: BTreeMap<TaskId, Task>,
    /// Tasks that wait for capacity, in their order of arrival.
    waiting: VecDeque<TaskId>,
    /// What each task's present state calls for and was put in the queue already.
    asked: BTreeMap<TaskId, Vec<Due>>,
    queue: VecDeque<(TaskId, Due)>,
    dirty: BTreeSet<TaskId>,
}

impl Engine {
    /// An engine over what the journal holds; no records on a new host.
    ///
    /// Effects that were under way are asked for again. Before draining them, feed what the run
    /// directories show: `Exited` for each container whose exit record is there (or whose monitor is
    /// lost), nothing for one that still lives.
    pub fn restore(capacity: Capacity, records: Vec<TaskRecord>) -> Engine {
        let mut engine = Engine {
            capacity,
            tasks: BTreeMap::new(),
            waiting: VecDeque::new(),
            asked: BTreeMap::new(),
            queue: VecDeque::new(),
            dirty: BTreeSet::new(),
        };
        for record in records {
            let id = record.id().clone();
            if record.phase == PhaseRecord::Waiting {
                engine.waiting.push_back(id.clone());
            }
            engine.tasks.insert(id.clone(), Task::restore(record));
            engine.dirty.insert(id.clone());
            engine.ask(&id);
        }
        engine
    }

    /// Takes one event. Late and repeated events change nothing.
    pub fn handle(&mut self, now: Timestamp, event: Event) {
        match event {
            Event::Run(spec) => self.run(now, *spec),
            Event::Stop { task, reason } => self.with(&task, |t| t.on_stop(now, reason)),
            Event::Prepared(task) => self.with(&task, |t| t.on_prepared(now)),
            Event::PrepareFailed(task, failure) => {
                self.with(&task, |t| t.on_prepare_failed(now, failure))
            }
            Event::PullStarted(at) => self.with(&at.task, |t| t.on_pull_started(now)),
            Event::Pulled(at, image) => self.with(&at.task, |t| t.on_pulled(now, at.index, image)),
            Event::PullFailed(at, f) => self.with(&at.task, |t| {
                t.on_step_failed(now, at.index, Progress::Pulling, f)
            }),
            Event::NetworkAttached(at, ports) => {
                self.with(&at.task, |t| t.on_attached(now, at.index, ports))
            }
            Event::NetworkFailed(at, f) => {
                self.with(&at.task, |t| {
                    t.on_step_failed(now, at.index, Progress::Attaching, f)
                });
            }
            Event::Created(at) => self.with(&at.task, |t| t.on_created(now, at.index)),
            Event::CreateFailed(at, f) => {
                self.with(&at.task, |t| {
                    t.on_step_failed(now, at.index, Progress::Creating, f)
                });
            }
            Event::Started(at) => self.with(&at.task, |t| t.on_started(now, at.index)),
            Event::StartFailed(at, f) => {
                self.with(&at.task, |t| {
                    t.on_step_failed(now, at.index, Progress::Starting, f)
                });
            }
            Event::Exited(at, exit) => self.with(&at.task, |t| t.on_exited(now, at.index, exit)),
            Event::TornDown(task) => self.with(&task, |t| t.on_torn_down(now)),
            Event::TeardownFailed(task, _) => self.with(&task, |t| t.on_teardown_failed(now)),
            Event::ReportStored(task) => self.forget(&task),
        }
        self.admit(now);
    }

    /// Lets time pass: stop timeouts and pauses that have run out.
    pub fn tick(&mut self, now: Timestamp) {
        let ids: Vec<TaskId> = self.tasks.keys().cloned().collect();
        for id in ids {
            if self
                .tasks
                .get_mut(&id)
                .is_some_and(|task| task.on_time(now))
            {
                self.dirty.insert(id.clone());
                self.ask(&id);
            }
        }
        self.admit(now);
    }

    /// The earliest time at which `tick` has something to do.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        self.tasks.values().filter_map(Task::deadline).min()
    }

    /// A task that changed since it was last named here: persist `record(id)` (or delete the row, if that
    /// is None) and send `report(id)`, before running any effect.
    pub fn next_dirty(&mut self) -> Option<TaskId> {
        self.dirty.pop_first()
    }

    /// The next thing to do.
    pub fn next_effect(&mut self) -> Option<Effect> {
        while let Some((id, due)) = self.queue.pop_front() {
            // What a later event has made pointless was never handed out, so dropping it is free.
            if self
                .asked
                .get(&id)
                .is_some_and(|asked| asked.contains(&due))
            {
                return Some(due.effect);
            }
        }
        None
    }

    /// The record to persist; None once the task is forgotten.
    pub fn record(&self, task: &TaskId) -> Option<TaskRecord> {
        self.tasks.get(task).map(|t| t.record().clone())
    }

    /// The level snapshot to send.
    pub fn report(&self, task: &TaskId) -> Option<TaskReport> {
        self.tasks.get(task).map(Task::report)
    }

    /// The task's spec.
    pub fn spec(&self, task: &TaskId) -> Option<&TaskSpec> {
        self.tasks.get(task).map(Task::spec)
    }

    /// Every task on this host, also stopped ones whose report is not stored yet.
    pub fn tasks(&self) -> impl Iterator<Item = &TaskId> {
        self.tasks.keys()
    }

    /// `<task id>-<10 digits>`: the container's id below the runtime, the same after each restart.
    pub fn runtime_id(&self, container: &ContainerKey) -> Option<String> {
        let task = self.tasks.get(&container.task)?;
        (container.index < task.spec().containers.len()).then(|| task.runtime_id(container.index))
    }

    /// Published ports of a container, once attached.
    pub fn bindings(&self, container: &ContainerKey) -> &[PortBinding] {
        self.tasks
            .get(&container.task)
            .map_or(&[], |task| task.bindings(container.index))
    }

    fn run(&mut self, now: Timestamp, spec: TaskSpec) {
        if self.tasks.contains_key(&spec.id) {
            return;
        }
        let id = spec.id.clone();
        let refusal = self.capacity.refusal(&Need::of(&spec));
        let mut task = Task::new(spec);
        match refusal {
            Some(failure) => task.refuse(now, failure),
            None => self.waiting.push_back(id.clone()),
        }
        self.tasks.insert(id.clone(), task);
        self.dirty.insert(id.clone());
        self.ask(&id);
    }

    /// Lets in, in order of arrival, every waiting task that fits; one that does not fit holds up no other.
    fn admit(&mut self, _now: Timestamp) {
        self.waiting.retain(|id| {
            self.tasks
                .get(id)
                .is_some_and(|task| task.phase() == PhaseRecord::Waiting)
        });
        if self.waiting.is_empty() {
            return;
        }
        let mut held = self.held();
        let mut admitted = Vec::new();
        for id in &self.waiting {
            let Some(task) = self.tasks.get_mut(id) else {
                continue;
            };
            let need = Need::of(task.spec());
            if self.capacity.admits(&held, &need) {
                held.add(&need);
                task.admit();
                admitted.push(id.clone());
            }
        }
        for id in admitted {
            self.waiting.retain(|waiting| *waiting != id);
            self.dirty.insert(id.clone());
            self.ask(&id);
        }
    }

    /// What every admitted task holds until it is STOPPED.
    fn held(&self) -> Need {
        let mut held = Need::default();
        for task in self.tasks.values() {
            if !matches!(task.phase(), PhaseRecord::Waiting | PhaseRecord::Stopped) {
                held.add(&Need::of(task.spec()));
            }
        }
        held
    }

    fn forget(&mut self, id: &TaskId) {
        if self
            .tasks
            .get(id)
            .is_some_and(|task| task.status() == Status::Stopped)
        {
            self.tasks.remove(id);
            self.asked.remove(id);
            self.dirty.insert(id.clone());
        }
    }

    fn with(&mut self, id: &TaskId, change: impl FnOnce(&mut Task)) {
        let Some(task) = self.tasks.get_mut(id) else {
            return;
        };
        let before = task.record().clone();
        change(task);
        if *task.record() != before {
            self.dirty.insert(id.clone());
        }
        self.ask(id);
    }

    /// Queues what the task's state calls for and was not asked for yet.
    fn ask(&mut self, id: &TaskId) {
        let Some(task) = self.tasks.get(id) else {
            return;
        };
        let due = task.due();
        let asked = self.asked.entry(id.clone()).or_default();
        for one in &due {
            if !asked.contains(one) {
                self.queue.push_back((id.clone(), one.clone()));
            }
        }
        *asked = due;
    }
}
