//! Random worlds on virtual time: effects end well, badly, late or twice, the agent crashes at any
//! moment, and after every event the invariants hold.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use longshore_engine::*;
use proptest::prelude::*;

const CAPACITY: u32 = 1024;

fn id(n: u8) -> TaskId {
    TaskId::try_from(format!("{n:032x}")).unwrap()
}

fn spec(n: u8, containers: u8, cpu: u32) -> TaskSpec {
    let container = |i: u8| ContainerSpec {
        name: format!("c{i}"),
        image: "app".into(),
        essential: i == 0,
        cpu: 1,
        memory: Some(8),
        memory_reservation: None,
        entry_point: None,
        command: None,
        environment: vec![],
        working_directory: None,
        user: None,
        hostname: None,
        privileged: false,
        readonly_root: false,
        no_new_privileges: false,
        cap_add: vec![],
        cap_drop: vec![],
        ulimits: vec![],
        ports: vec![],
        stop_timeout: Duration::from_secs(2),
    };
    TaskSpec {
        id: id(n),
        arn: format!("arn:{n}"),
        family: "f".into(),
        revision: 1,
        cpu: Some(cpu),
        memory: None,
        ephemeral_storage: None,
        network: NetworkMode::None,
        containers: (0..containers).map(container).collect(),
    }
}

/// One step of a world.
#[derive(Clone, Debug)]
enum Step {
    Run {
        task: u8,
        containers: u8,
        cpu: u32,
    },
    Stop {
        task: u8,
    },
    /// The effect under way at this place (modulo how many there are) ends.
    End {
        which: usize,
        well: bool,
        twice: bool,
    },
    /// A running container ends by itself.
    Exit {
        which: usize,
        code: i32,
    },
    Wait {
        seconds: u64,
    },
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (0..4u8, 1..4u8, prop_oneof![Just(256u32), Just(600), Just(2000)])
            .prop_map(|(task, containers, cpu)| Step::Run { task, containers, cpu }),
        1 => (0..4u8).prop_map(|task| Step::Stop { task }),
        12 => (any::<usize>(), prop::bool::weighted(0.9), prop::bool::weighted(0.2))
            .prop_map(|(which, well, twice)| Step::End { which, well, twice }),
        2 => (any::<usize>(), 0..3i32).prop_map(|(which, code)| Step::Exit { which, code }),
        2 => (0..9u64).prop_map(|seconds| Step::Wait { seconds }),
        1 => Just(Step::Crash),
    ]
}

/// What is true on the host, whatever the engine believes.
#[derive(Default)]
struct World {
    created: BTreeSet<ContainerKey>,
    running: BTreeSet<ContainerKey>,
    exited: BTreeMap<ContainerKey, Exit>,
}

struct Simulation {
    engine: Engine,
    journal: BTreeMap<TaskId, TaskRecord>,
    under_way: Vec<Effect>,
    world: World,
    now: Timestamp,
    seen: BTreeMap<TaskId, TaskReport>,
    stopped: BTreeSet<TaskId>,
}

fn capacity() -> Capacity {
    Capacity {
        cpu: CAPACITY,
        memory: 4096,
        reserved_ports: BTreeSet::new(),
    }
}

impl Simulation {
    fn new() -> Simulation {
        Simulation {
            engine: Engine::restore(capacity(), vec![]),
            journal: BTreeMap::new(),
            under_way: vec![],
            world: World::default(),
            now: Timestamp(1),
            seen: BTreeMap::new(),
            stopped: BTreeSet::new(),
        }
    }

    fn handle(&mut self, event: Event) {
        self.now = self.now.after(Duration::from_millis(1));
        self.engine.handle(self.now, event);
        self.settle();
    }

    fn settle(&mut self) {
        while let Some(task) = self.engine.next_dirty() {
            match self.engine.record(&task) {
                Some(record) => self.journal.insert(task.clone(), record),
                None => self.journal.remove(&task),
            };
            if let Some(report) = self.engine.report(&task) {
                self.invariant_status_never_goes_back(&report);
                self.invariant_stop_reason_never_changes(&report);
                self.seen.insert(task, report);
            }
        }
        while let Some(effect) = self.engine.next_effect() {
            self.invariant_effect_has_a_record(&effect);
            self.under_way.push(effect);
        }
        self.invariant_no_two_effects_of_one_container();
        self.invariant_capacity_is_never_exceeded();
    }

    fn perform(&mut self, step: Step) {
        match step {
            Step::Run {
                task,
                containers,
                cpu,
            } => {
                if !self.stopped.contains(&id(task)) {
                    self.handle(Event::Run(Box::new(spec(task, containers, cpu))));
                }
            }
            Step::Stop { task } => self.handle(Event::Stop {
                task: id(task),
                reason: "asked".into(),
            }),
            Step::End { which, well, twice } => self.end(which, well, twice),
            Step::Exit { which, code } => {
                let Some(key) = self
                    .world
                    .running
                    .iter()
                    .nth(which % self.world.running.len().max(1))
                    .cloned()
                else {
                    return;
                };
                self.exit(key, code);
            }
            Step::Wait { seconds } => {
                self.now = self.now.after(Duration::from_secs(seconds));
                self.engine.tick(self.now);
                self.settle();
            }
            Step::Crash => self.crash(),
        }
    }

    fn end(&mut self, which: usize, well: bool, twice: bool) {
        if self.under_way.is_empty() {
            return;
        }
        let effect = self.under_way.remove(which % self.under_way.len());
        let Some(event) = self.effect_ends(effect, well) else {
            return;
        };
        self.handle(event.clone());
        if twice {
            self.handle(event);
        }
    }

    /// Changes the world as the effect does, and gives the event it ends in.
    fn effect_ends(&mut self, effect: Effect, well: bool) -> Option<Event> {
        let failure = || Failure {
            name: "Error".into(),
            message: "because".into(),
        };
        Some(match effect {
            Effect::Prepare(t) if well => Event::Prepared(t),
            Effect::Prepare(t) => Event::PrepareFailed(t, failure()),
            Effect::Pull(k) if well => Event::Pulled(
                k,
                ImageFacts {
                    digest: "d".into(),
                    stop_signal: 15,
                },
            ),
            Effect::Pull(k) => Event::PullFailed(k, failure()),
            Effect::AttachNetwork(k) if well => Event::NetworkAttached(k, vec![]),
            Effect::AttachNetwork(k) => Event::NetworkFailed(k, failure()),
            Effect::Create(k) if well => {
                self.world.created.insert(k.clone());
                Event::Created(k)
            }
            Effect::Create(k) => Event::CreateFailed(k, failure()),
            Effect::Start(k)
                if self.world.running.contains(&k) || self.world.exited.contains_key(&k) =>
            {
                Event::Started(k)
            }
            Effect::Start(k) if well => {
                assert!(
                    self.world.created.contains(&k),
                    "started what was not created"
                );
                self.world.running.insert(k.clone());
                Event::Started(k)
            }
            Effect::Start(k) => Event::StartFailed(k, failure()),
            Effect::Signal(k, _) => {
                if well {
                    self.exit(k, 143);
                }
                return None;
            }
            Effect::Kill(k) => {
                self.exit(k, 137);
                return None;
            }
            Effect::Teardown(t) if well => {
                assert!(
                    !self.world.running.iter().any(|k| k.task == t),
                    "torn down while something ran"
                );
                self.world.created.retain(|k| k.task != t);
                self.world.exited.retain(|k, _| k.task != t);
                Event::TornDown(t)
            }
            Effect::Teardown(t) => Event::TeardownFailed(t, failure()),
        })
    }

    fn exit(&mut self, key: ContainerKey, code: i32) {
        if self.world.running.remove(&key) {
            let exit = Exit {
                code: Some(code),
                oom_killed: false,
                at: self.now,
            };
            self.world.exited.insert(key.clone(), exit);
            self.handle(Event::Exited(key, exit));
        }
    }

    /// The agent dies and comes back: only the journal and the world remain.
    fn crash(&mut self) {
        self.under_way.clear();
        self.engine = Engine::restore(capacity(), self.journal.values().cloned().collect());
        for (key, exit) in self.world.exited.clone() {
            self.engine.handle(self.now, Event::Exited(key, exit));
        }
        self.settle();
    }

    /// Whatever happened before: from here on all goes well, and everything asked to stop must stop.
    fn finish(&mut self) {
        for n in 0..4 {
            self.handle(Event::Stop {
                task: id(n),
                reason: "the end".into(),
            });
        }
        for _ in 0..400 {
            while !self.under_way.is_empty() {
                self.end(0, true, false);
            }
            match self.engine.next_deadline() {
                Some(deadline) => self.now = self.now.max(deadline),
                None => break,
            }
            self.engine.tick(self.now);
            self.settle();
        }
        let tasks: Vec<TaskId> = self.engine.tasks().cloned().collect();
        for task in tasks {
            assert_eq!(
                self.engine.report(&task).unwrap().status,
                Status::Stopped,
                "{task} never stopped"
            );
            self.handle(Event::ReportStored(task));
        }
        assert!(
            self.journal.is_empty(),
            "rows left: {:?}",
            self.journal.keys()
        );
        assert!(
            self.world.running.is_empty(),
            "still runs: {:?}",
            self.world.running
        );
        assert!(
            self.world.created.is_empty(),
            "left behind: {:?}",
            self.world.created
        );
    }

    fn invariant_status_never_goes_back(&mut self, report: &TaskReport) {
        if let Some(before) = self.seen.get(&report.task) {
            assert!(
                before.status <= report.status,
                "{:?} after {:?}",
                report.status,
                before.status
            );
        }
        if report.status == Status::Stopped {
            self.stopped.insert(report.task.clone());
        }
    }

    fn invariant_stop_reason_never_changes(&self, report: &TaskReport) {
        if let Some(TaskReport {
            stop: Some(before), ..
        }) = self.seen.get(&report.task)
        {
            assert_eq!(Some(before), report.stop.as_ref());
        }
    }

    fn invariant_effect_has_a_record(&self, effect: &Effect) {
        let task = task_of(effect);
        assert!(
            self.journal.contains_key(task),
            "{effect:?} before its record was persisted"
        );
    }

    fn invariant_no_two_effects_of_one_container(&self) {
        let ups = |e: &Effect| match e {
            Effect::AttachNetwork(k) | Effect::Create(k) | Effect::Start(k) => Some(k.clone()),
            _ => None,
        };
        let mut seen = BTreeSet::new();
        for key in self.under_way.iter().filter_map(ups) {
            assert!(seen.insert(key.clone()), "two steps of {key:?} at once");
            let teardown = Effect::Teardown(key.task.clone());
            assert!(
                !self.under_way.contains(&teardown),
                "teardown beside a step of {key:?}"
            );
        }
    }

    fn invariant_capacity_is_never_exceeded(&self) {
        let admitted =
            |r: &&TaskRecord| !matches!(r.phase, PhaseRecord::Waiting | PhaseRecord::Stopped);
        let held: u32 = self
            .journal
            .values()
            .filter(admitted)
            .map(|r| r.spec.cpu.unwrap())
            .sum();
        assert!(held <= CAPACITY, "{held} CPU units are held of {CAPACITY}");
    }
}

fn task_of(effect: &Effect) -> &TaskId {
    match effect {
        Effect::Prepare(t) | Effect::Teardown(t) => t,
        Effect::Pull(k)
        | Effect::AttachNetwork(k)
        | Effect::Create(k)
        | Effect::Start(k)
        | Effect::Kill(k) => &k.task,
        Effect::Signal(k, _) => &k.task,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_world_keeps_the_invariants_and_everything_stops_in_the_end(steps in prop::collection::vec(step(), 0..120)) {
        let mut simulation = Simulation::new();
        for step in steps {
            simulation.perform(step);
        }
        simulation.finish();
    }

    #[test]
    fn a_record_survives_the_journal(steps in prop::collection::vec(step(), 0..60)) {
        let mut simulation = Simulation::new();
        for step in steps {
            simulation.perform(step);
        }
        for record in simulation.journal.values() {
            let text = serde_json::to_string(record).unwrap();
            prop_assert_eq!(&serde_json::from_str::<TaskRecord>(&text).unwrap(), record);
        }
    }
}
