//! The driver: owns the engine alone, waits for whatever comes first, and carries out what the engine
//! decides. It decides nothing itself.
//!
//! ```text
//!   events of effects ─┐                     ┌─▶ journal   (before anything else)
//!   the link's wishes ─┼─▶ engine.handle ──▶ ├─▶ link.report, board
//!   time ──────────────┘                     └─▶ effects, each a task of its own
//! ```
//!
//! While the journal cannot be written, no effect runs and nothing is reported: the driver tries
//! again until it can. Containers go on meanwhile.

mod desired;

use std::collections::{HashMap, HashSet, VecDeque};
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use longshore_engine::{
    ContainerKey, Effect, Engine, Event, TaskId, TaskReport, TaskSpec, Timestamp,
};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};

use crate::board::{Board, Contact, Notice};
use crate::journal::{Accepted, Batch, Identity, Journal};
use crate::link::FromControl;

/// What carries effects out: the real host, or a fake.
pub(crate) trait World: Send + Sync + 'static {
    /// Carries out one effect; the event it ends in, if it ends in one. May tell of progress on the way.
    fn perform(
        self: Arc<Self>,
        order: Order,
        progress: mpsc::Sender<Event>,
    ) -> impl Future<Output = Option<Event>> + Send;

    /// Waits for the end of a container that exists.
    fn watch(self: Arc<Self>, target: Target) -> impl Future<Output = Event> + Send;
}

/// The way to the control plane, as far as the driver walks it. No call waits.
pub(crate) trait Upstream: Send + 'static {
    fn report(&self, report: TaskReport);
    fn forget(&self, task: &TaskId);
    fn acknowledge(&self, task: &TaskId, generation: u64, result: Result<(), String>);
    fn ask_orphans(&self, tasks: Vec<TaskId>);
}

/// One effect with all it has to know of its task.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    pub(crate) effect: Effect,
    pub(crate) task: Arc<TaskSpec>,
    /// In the spec's order.
    pub(crate) targets: Vec<Target>,
}

/// One container as the host knows it.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) key: ContainerKey,
    pub(crate) runtime_id: String,
    /// Digest of its image's manifest, once pulled.
    pub(crate) image_digest: Option<String>,
}

impl Order {
    /// The container that a container's effect is about.
    pub(crate) fn target(&self, key: &ContainerKey) -> Option<&Target> {
        self.targets.get(key.index)
    }
}

/// How many ended tasks are remembered so that a desired set that was on its way when the task's end was
/// stored does not start it again.
const FORGOTTEN: usize = 1024;
/// The longest sleep: a deadline is wall-clock time, which may be set forward.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);
/// The pause after a failed commit.
const JOURNAL_PAUSE: Duration = Duration::from_secs(1);

/// All that a driver starts with.
#[derive(Debug)]
pub(crate) struct Start<W, U> {
    pub(crate) engine: Engine,
    pub(crate) journal: Journal,
    pub(crate) world: Arc<W>,
    pub(crate) upstream: U,
    pub(crate) from_control: mpsc::Receiver<FromControl>,
    pub(crate) accepted: Option<Accepted>,
    pub(crate) board: Board,
    /// Containers that live and are to be watched.
    pub(crate) alive: Vec<ContainerKey>,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Driver<W, U> {
    engine: Engine,
    journal: Arc<Journal>,
    world: Arc<W>,
    upstream: U,
    from_control: mpsc::Receiver<FromControl>,
    events: mpsc::Receiver<Event>,
    sender: mpsc::Sender<Event>,
    running: JoinSet<()>,
    /// Pulls that were begun; their task's teardown cuts them off, for a registry may take for ever.
    pulls: HashMap<ContainerKey, AbortHandle>,
    watched: HashSet<ContainerKey>,
    accepted: Option<Accepted>,
    forgotten: VecDeque<TaskId>,
    board: Board,
    /// What this turn has to make durable besides the records.
    facts: Batch,
    /// What to tell once this turn is durable.
    answers: Vec<Answer>,
}

/// What is told to the control plane after the commit.
#[derive(Debug)]
enum Answer {
    Wish(TaskId, u64, Result<(), String>),
    Orphans(Vec<TaskId>),
}

impl<W: World, U: Upstream> Driver<W, U> {
    pub(crate) fn new(start: Start<W, U>) -> Driver<W, U> {
        let (sender, events) = mpsc::channel(1024);
        let mut driver = Driver {
            engine: start.engine,
            journal: Arc::new(start.journal),
            world: start.world,
            upstream: start.upstream,
            from_control: start.from_control,
            events,
            sender,
            running: JoinSet::new(),
            pulls: HashMap::new(),
            watched: HashSet::new(),
            accepted: start.accepted,
            forgotten: VecDeque::new(),
            board: start.board,
            facts: Batch::default(),
            answers: Vec::new(),
        };
        for key in start.alive {
            driver.watch(&key);
        }
        driver
    }

    /// Runs until `shutdown` turns true, its sender is gone, or the link has ended; gives the upstream back.
    pub(crate) async fn run(mut self, mut shutdown: watch::Receiver<bool>) -> U {
        let mut stop = std::pin::pin!(async move {
            // An error means that the sender is gone, which ends the agent as well.
            drop(shutdown.wait_for(|stop| *stop).await);
        });
        self.engine.tick(now());
        loop {
            tokio::select! {
                () = &mut stop => break,
                () = self.turn() => {}
            }
            let sleep = self.sleep();
            tokio::select! {
                () = &mut stop => break,
                message = self.from_control.recv() => match message {
                    Some(message) => self.absorb(message),
                    None => break,
                },
                Some(event) = self.events.recv() => self.handle(event),
                Some(_) = self.running.join_next(), if !self.running.is_empty() => {}
                () = tokio::time::sleep(sleep) => self.engine.tick(now()),
            }
            self.drain();
        }
        self.upstream
    }

    /// Takes what else is there already, so that one commit serves all of it.
    fn drain(&mut self) {
        while let Ok(event) = self.events.try_recv() {
            self.handle(event);
        }
        while self.running.try_join_next().is_some() {}
    }

    fn handle(&mut self, event: Event) {
        let follow = match &event {
            Event::Created(key) | Event::Started(key) => Some(key.clone()),
            Event::Exited(key, _) => {
                self.watched.remove(key);
                None
            }
            Event::TeardownFailed(task, failure) => {
                tracing::error!(%task, "{failure}; trying again");
                None
            }
            _ => None,
        };
        self.engine.handle(now(), event);
        if let Some(key) = follow {
            self.watch(&key);
        }
    }

    fn absorb(&mut self, message: FromControl) {
        match message {
            FromControl::Connected {
                instance_arn,
                cluster,
            } => {
                let identity = Identity {
                    instance_arn,
                    cluster,
                };
                tracing::info!(
                    arn = identity.instance_arn,
                    "connected to the control plane"
                );
                self.board.set_contact(Contact::Connected);
                self.board.set_identity(identity.clone());
                self.facts.identity = Some(identity);
            }
            FromControl::Disconnected { why } => {
                tracing::warn!("control plane not connected: {why}; tasks go on");
                self.board.set_contact(Contact::Lost(why));
            }
            FromControl::Desired {
                store_id,
                generation,
                wishes,
            } => self.desired(
                Accepted {
                    store_id,
                    generation,
                },
                wishes,
            ),
            FromControl::StopOrphan(task) => {
                let reason = "The control plane does not know this task".to_owned();
                self.handle(Event::Stop { task, reason });
            }
            FromControl::ReportStored(task) => self.handle(Event::ReportStored(task)),
        }
    }

    /// Makes durable what has changed, tells it, then asks the world for what follows.
    async fn turn(&mut self) {
        let mut changed = Vec::new();
        while let Some(id) = self.engine.next_dirty() {
            changed.push(id);
        }
        let mut batch = std::mem::take(&mut self.facts);
        for id in &changed {
            match self.engine.record(id) {
                Some(record) => batch.records.push(record),
                None => batch.forgotten.push(id.clone()),
            }
        }
        if !batch.is_empty() {
            self.commit(batch).await;
        }
        for id in &changed {
            self.publish(id);
        }
        // The engine names each restored task as changed before its first turn.
        self.board.set_complete();
        for answer in std::mem::take(&mut self.answers) {
            match answer {
                Answer::Wish(task, generation, result) => {
                    self.upstream.acknowledge(&task, generation, result);
                }
                Answer::Orphans(tasks) => self.upstream.ask_orphans(tasks),
            }
        }
        while let Some(effect) = self.engine.next_effect() {
            self.perform(effect);
        }
    }

    /// Returns when the batch is durable; tries for ever, because nothing may be said or done before.
    async fn commit(&self, batch: Batch) {
        let batch = Arc::new(batch);
        loop {
            let (journal, rows) = (Arc::clone(&self.journal), Arc::clone(&batch));
            let why = match tokio::task::spawn_blocking(move || journal.commit(&rows)).await {
                Ok(Ok(())) => break,
                Ok(Err(e)) => chain(&e),
                Err(e) => format!("write journal: {e}"),
            };
            if self.board.journal_trouble().is_none() {
                tracing::error!(
                    "{why}; nothing is started, stopped or reported until it can be written"
                );
            }
            self.board.set_journal_trouble(Some(why));
            tokio::time::sleep(JOURNAL_PAUSE).await;
        }
        if self.board.journal_trouble().is_some() {
            tracing::info!("the journal can be written again");
            self.board.set_journal_trouble(None);
        }
    }

    fn publish(&mut self, id: &TaskId) {
        let (report, spec) = (self.engine.report(id), self.engine.spec(id));
        let (Some(report), Some(spec)) = (report, spec) else {
            self.upstream.forget(id);
            self.board.post(id, None);
            self.forgotten.truncate(FORGOTTEN - 1);
            self.forgotten.push_front(id.clone());
            return;
        };
        let notice = Notice {
            spec: spec.clone(),
            report: report.clone(),
        };
        self.board.post(id, Some(notice));
        self.upstream.report(report);
    }

    fn perform(&mut self, effect: Effect) {
        let Some(order) = self.order(effect) else {
            return;
        };
        if let Effect::Teardown(task) = &order.effect {
            self.cut_off_pulls(task);
        }
        let pulled = match &order.effect {
            Effect::Pull(key) => Some(key.clone()),
            _ => None,
        };
        let (world, sender) = (Arc::clone(&self.world), self.sender.clone());
        let handle = self.running.spawn(async move {
            tracing::debug!(effect = ?order.effect, "effect");
            if let Some(event) = world.perform(order, sender.clone()).await {
                // The driver is gone only when the agent ends; the journal knows what to ask again.
                drop(sender.send(event).await);
            }
        });
        if let Some(key) = pulled {
            self.pulls.insert(key, handle);
        }
    }

    /// What such a pull would have ended in matters no more.
    fn cut_off_pulls(&mut self, task: &TaskId) {
        self.pulls.retain(|key, pull| {
            if key.task == *task {
                pull.abort();
            }
            key.task != *task && !pull.is_finished()
        });
    }

    fn watch(&mut self, key: &ContainerKey) {
        let Some(target) = self.target(key) else {
            return;
        };
        if !self.watched.insert(key.clone()) {
            return;
        }
        let (world, sender) = (Arc::clone(&self.world), self.sender.clone());
        self.running.spawn(async move {
            let event = world.watch(target).await;
            drop(sender.send(event).await);
        });
    }

    fn order(&self, effect: Effect) -> Option<Order> {
        let id = match &effect {
            Effect::Prepare(task) | Effect::Teardown(task) => task,
            Effect::Pull(key)
            | Effect::AttachNetwork(key)
            | Effect::Create(key)
            | Effect::Start(key)
            | Effect::Signal(key, _)
            | Effect::Kill(key) => &key.task,
        };
        let task = Arc::new(self.engine.spec(id)?.clone());
        let key = |index| ContainerKey {
            task: id.clone(),
            index,
        };
        let targets = (0..task.containers.len())
            .map(|index| self.target(&key(index)))
            .collect::<Option<_>>()?;
        Some(Order {
            effect,
            task,
            targets,
        })
    }

    fn target(&self, key: &ContainerKey) -> Option<Target> {
        let report = self.engine.report(&key.task)?;
        let container = report.containers.into_iter().nth(key.index)?;
        Some(Target {
            key: key.clone(),
            runtime_id: container.runtime_id,
            image_digest: container.image_digest,
        })
    }

    fn sleep(&self) -> Duration {
        let until = |deadline: Timestamp| deadline.0.saturating_sub(now().0);
        self.engine.next_deadline().map_or(LONGEST_SLEEP, |at| {
            Duration::from_millis(until(at)).min(LONGEST_SLEEP)
        })
    }
}

/// The wall clock in the engine's terms.
pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// An error and its causes in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

#[cfg(test)]
pub(crate) mod tests;
