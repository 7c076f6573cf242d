use std::collections::HashSet;
use std::sync::Mutex;

use longshore_engine::{
    Capacity, Exit, Failure, ImageFacts, Progress, Status, StopCode, TaskRecord,
};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::*;
use crate::link::Wish;
use crate::sample;

/// A host where everything works, at once, but for what the test says.
#[derive(Debug, Default)]
pub(crate) struct Fake {
    /// Tasks whose pull never ends.
    stuck: HashSet<TaskId>,
    /// Tasks whose containers end by themselves.
    short: HashSet<TaskId>,
    /// Containers that were signalled or killed, with who waits for that.
    ended: Mutex<HashSet<ContainerKey>>,
    woken: tokio::sync::Notify,
    performed: Mutex<Vec<Effect>>,
    /// Told when a pull that never ends was cut off.
    cut_off: Arc<tokio::sync::Notify>,
}

struct Pulling(Arc<tokio::sync::Notify>);

impl Drop for Pulling {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

impl World for Fake {
    async fn perform(self: Arc<Self>, order: Order, _: mpsc::Sender<Event>) -> Option<Event> {
        self.performed.lock().unwrap().push(order.effect.clone());
        let facts = ImageFacts {
            digest: "sha256:0".to_owned(),
            stop_signal: 15,
        };
        Some(match order.effect.clone() {
            Effect::Prepare(task) => Event::Prepared(task),
            Effect::Pull(key) if self.stuck.contains(&key.task) => {
                let _pulling = Pulling(Arc::clone(&self.cut_off));
                std::future::pending().await
            }
            Effect::Pull(key) => Event::Pulled(key, facts),
            Effect::AttachNetwork(key) => Event::NetworkAttached(key, Vec::new()),
            Effect::Create(key) => {
                let target = order.target(&key).unwrap();
                assert_eq!(target.image_digest.as_deref(), Some("sha256:0"));
                Event::Created(key)
            }
            Effect::Start(key) => Event::Started(key),
            Effect::Signal(key, _) | Effect::Kill(key) => {
                self.ended.lock().unwrap().insert(key);
                self.woken.notify_waiters();
                return None;
            }
            Effect::Teardown(task) => Event::TornDown(task),
        })
    }

    async fn watch(self: Arc<Self>, target: Target) -> Event {
        loop {
            let woken = self.woken.notified();
            let signalled = self.ended.lock().unwrap().contains(&target.key);
            if signalled || self.short.contains(&target.key.task) {
                let exit = Exit {
                    code: Some(if signalled { 143 } else { 7 }),
                    oom_killed: false,
                    at: now(),
                };
                return Event::Exited(target.key, exit);
            }
            woken.await;
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Told {
    Report(TaskId, Status),
    Forget(TaskId),
    Answer(TaskId, u64, Result<(), String>),
    Orphans(Vec<TaskId>),
}

#[derive(Debug)]
pub(crate) struct Recorder(UnboundedSender<Told>);

impl Upstream for Recorder {
    fn report(&self, report: TaskReport) {
        self.0
            .send(Told::Report(report.task, report.status))
            .unwrap();
    }
    fn forget(&self, task: &TaskId) {
        self.0.send(Told::Forget(task.clone())).unwrap();
    }
    fn acknowledge(&self, task: &TaskId, generation: u64, result: Result<(), String>) {
        self.0
            .send(Told::Answer(task.clone(), generation, result))
            .unwrap();
    }
    fn ask_orphans(&self, tasks: Vec<TaskId>) {
        self.0.send(Told::Orphans(tasks)).unwrap();
    }
}

/// A driver that runs, and what it tells.
pub(crate) struct Agent<W> {
    pub(crate) control: mpsc::Sender<FromControl>,
    told: UnboundedReceiver<Told>,
    pub(crate) board: Board,
    pub(crate) world: Arc<W>,
    stop: watch::Sender<bool>,
    driver: tokio::task::JoinHandle<Recorder>,
}

pub(crate) fn capacity() -> Capacity {
    Capacity {
        cpu: 4096,
        memory: 4096,
        reserved_ports: Default::default(),
    }
}

impl Agent<Fake> {
    /// An agent on the fake host, over the journal in `dir`.
    fn start(dir: &tempfile::TempDir, world: Fake) -> Agent<Fake> {
        let (journal, found) = Journal::open(&dir.path().join("agent.redb")).unwrap();
        let alive = running(&found.records);
        let engine = Engine::restore(capacity(), found.records);
        Agent::drive(engine, journal, Arc::new(world), found.accepted, alive)
    }
}

impl<W: World> Agent<W> {
    pub(crate) fn drive(
        engine: Engine,
        journal: Journal,
        world: Arc<W>,
        accepted: Option<Accepted>,
        alive: Vec<ContainerKey>,
    ) -> Agent<W> {
        let (control, from_control) = mpsc::channel(16);
        let (sender, told) = unbounded_channel();
        let (stop, stopped) = watch::channel(false);
        let board = Board::default();
        let driver = Driver::new(Start {
            engine,
            journal,
            world: Arc::clone(&world),
            upstream: Recorder(sender),
            from_control,
            accepted,
            board: board.clone(),
            alive,
        });
        let driver = tokio::spawn(driver.run(stopped));
        Agent {
            control,
            told,
            board,
            world,
            stop,
            driver,
        }
    }

    /// Stops the driver as a shutdown does; tasks go on.
    pub(crate) async fn stop(self) {
        self.stop.send_replace(true);
        drop(self.driver.await.unwrap());
    }

    pub(crate) async fn want(&self, store: &str, generation: u64, wishes: Vec<Wish>) {
        let desired = FromControl::Desired {
            store_id: store.to_owned(),
            generation,
            wishes,
        };
        self.control.send(desired).await.unwrap();
    }

    /// Waits until this is told; what was told before it.
    pub(crate) async fn until(&mut self, wanted: &Told) -> Vec<Told> {
        let mut before = Vec::new();
        let wait = async {
            loop {
                let told = self.told.recv().await.expect("the driver runs");
                if told == *wanted {
                    return;
                }
                before.push(told);
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(20), wait).await;
        assert!(waited.is_ok(), "{wanted:?} was not told, but {before:?}");
        before
    }
}

fn running(records: &[TaskRecord]) -> Vec<ContainerKey> {
    let keys = records.iter().flat_map(|record| {
        let containers = record.containers.iter().enumerate();
        containers
            .filter(|(_, c)| c.progress == Progress::Running)
            .map(|(index, _)| ContainerKey {
                task: record.id().clone(),
                index,
            })
    });
    keys.collect()
}

fn run(n: u32) -> Wish {
    let spec = TaskSpec {
        id: sample::id(n),
        ..sample::task()
    };
    Wish { spec, stop: None }
}

fn stop(n: u32) -> Wish {
    Wish {
        stop: Some("enough".to_owned()),
        ..run(n)
    }
}

fn report(n: u32, status: Status) -> Told {
    Told::Report(sample::id(n), status)
}

#[tokio::test]
async fn a_task_runs_stops_and_is_forgotten_once_its_end_is_stored() {
    let dir = tempfile::tempdir().unwrap();
    let mut agent = Agent::start(&dir, Fake::default());
    agent.want("s", 1, vec![run(1)]).await;
    agent.until(&Told::Answer(sample::id(1), 1, Ok(()))).await;
    agent.until(&report(1, Status::Running)).await;
    agent.want("s", 2, vec![stop(1)]).await;
    agent.until(&report(1, Status::Stopped)).await;
    let notice = agent.board.task(&sample::id(1)).unwrap();
    assert_eq!(notice.report.containers[0].exit_code, Some(143));
    assert_eq!(
        notice.report.stop,
        Some((StopCode::UserInitiated, "enough".to_owned()))
    );
    let stored = FromControl::ReportStored(sample::id(1));
    agent.control.send(stored).await.unwrap();
    agent.until(&Told::Forget(sample::id(1))).await;
    assert!(agent.board.task(&sample::id(1)).is_none());

    // The set that was on its way when the end was stored does not start it again.
    agent.want("s", 2, vec![run(1)]).await;
    let before = agent.until(&Told::Answer(sample::id(1), 2, Ok(()))).await;
    assert!(before.is_empty(), "{before:?}");
    agent.stop().await;
    let (_, found) = Journal::open(&dir.path().join("agent.redb")).unwrap();
    assert!(found.records.is_empty());
}

#[tokio::test]
async fn a_stuck_task_stalls_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let mut agent = Agent::start(
        &dir,
        Fake {
            stuck: HashSet::from([sample::id(1)]),
            short: HashSet::from([sample::id(2)]),
            ..Fake::default()
        },
    );
    agent.want("s", 1, vec![run(1), run(2)]).await;
    agent.until(&report(2, Status::Stopped)).await;
    agent.want("s", 2, vec![stop(1)]).await;
    agent.until(&report(1, Status::Stopped)).await;
    // It would have kept its turn from the pulls of other tasks.
    let cut_off = agent.world.cut_off.notified();
    let waited = tokio::time::timeout(Duration::from_secs(20), cut_off).await;
    assert!(waited.is_ok(), "the stopped task's pull goes on");
}

#[tokio::test]
async fn an_older_set_of_the_same_store_is_ignored() {
    let dir = tempfile::tempdir().unwrap();
    let mut agent = Agent::start(&dir, Fake::default());
    agent.want("s", 5, vec![run(1)]).await;
    agent.until(&report(1, Status::Running)).await;
    agent.want("s", 4, vec![stop(1)]).await;
    agent.want("s", 5, vec![run(1), run(2)]).await;
    let before = agent.until(&report(2, Status::Running)).await;
    assert!(
        !before.contains(&Told::Answer(sample::id(1), 4, Ok(()))),
        "{before:?}"
    );
    assert_eq!(
        agent.board.task(&sample::id(1)).unwrap().report.status,
        Status::Running
    );
}

#[tokio::test]
async fn what_the_set_does_not_list_is_asked_about_and_stopped_only_on_a_verdict() {
    let dir = tempfile::tempdir().unwrap();
    let mut agent = Agent::start(&dir, Fake::default());
    agent.want("s", 1, vec![run(1)]).await;
    agent.until(&report(1, Status::Running)).await;
    // Another store knows nothing yet: it learns from this host, and is not asked.
    agent.want("restored", 1, vec![run(2)]).await;
    let before = agent.until(&report(2, Status::Running)).await;
    assert!(!before.iter().any(|told| matches!(told, Told::Orphans(_))));
    agent.want("restored", 2, vec![run(2)]).await;
    agent.until(&Told::Orphans(vec![sample::id(1)])).await;
    assert_eq!(
        agent.board.task(&sample::id(1)).unwrap().report.status,
        Status::Running
    );
    let verdict = FromControl::StopOrphan(sample::id(1));
    agent.control.send(verdict).await.unwrap();
    agent.until(&report(1, Status::Stopped)).await;
}

#[tokio::test]
async fn a_wish_that_cannot_be_met_is_refused_and_the_others_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut agent = Agent::start(&dir, Fake::default());
    let mut twins = run(1);
    twins.spec.containers.push(sample::container("web"));
    let mut idle = run(2);
    idle.spec.containers[0].essential = false;
    agent.want("s", 1, vec![twins, idle, run(3)]).await;
    let before = agent.until(&report(3, Status::Running)).await;
    let refused = |n: u32, why: &str| {
        before.iter().any(|told| {
            matches!(told, Told::Answer(id, 1, Err(text)) if *id == sample::id(n) && text.contains(why))
        })
    };
    assert!(
        refused(1, "two containers are called \"web\""),
        "{before:?}"
    );
    assert!(
        refused(2, "none of its containers is essential"),
        "{before:?}"
    );
    assert_eq!(agent.board.tasks().len(), 1);
}

#[tokio::test]
async fn a_task_that_shall_stop_before_it_came_is_proven_gone_and_reported() {
    let dir = tempfile::tempdir().unwrap();
    let mut agent = Agent::start(&dir, Fake::default());
    agent.want("s", 1, vec![stop(1)]).await;
    agent.until(&report(1, Status::Stopped)).await;
    let performed = agent.world.performed.lock().unwrap().clone();
    let torn_down = Effect::Teardown(sample::id(1));
    assert!(performed.contains(&torn_down), "{performed:?}");
    assert!(
        !performed.iter().any(|e| matches!(e, Effect::Create(_))),
        "{performed:?}"
    );
}

#[tokio::test]
async fn a_restart_takes_up_what_runs_and_reports_it_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut agent = Agent::start(&dir, Fake::default());
    agent.want("s", 1, vec![run(1)]).await;
    agent.until(&report(1, Status::Running)).await;
    agent.stop().await;

    let mut agent = Agent::start(&dir, Fake::default());
    agent.until(&report(1, Status::Running)).await;
    assert!(
        agent.world.performed.lock().unwrap().is_empty(),
        "a running task needs nothing"
    );
    // The generation is remembered as well.
    agent.want("s", 0, vec![stop(1)]).await;
    agent.want("s", 2, vec![stop(1)]).await;
    let before = agent.until(&report(1, Status::Stopped)).await;
    assert!(
        !before.contains(&Told::Answer(sample::id(1), 0, Ok(()))),
        "{before:?}"
    );
}

#[test]
fn an_error_is_told_with_its_causes() {
    let inner = std::io::Error::other("disk full");
    let error = anyhow::Error::new(inner).context("write journal");
    assert_eq!(chain(error.as_ref()), "write journal: disk full");
    let failure = Failure {
        name: "X".to_owned(),
        message: "y".to_owned(),
    };
    assert_eq!(failure.to_string(), "X: y");
}
