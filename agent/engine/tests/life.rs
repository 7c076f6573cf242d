//! The life of a task, event by event.

use std::collections::BTreeSet;
use std::time::Duration;

use longshore_engine::*;

fn id(n: u8) -> TaskId {
    TaskId::try_from(format!("{n:032x}")).unwrap()
}

fn container(name: &str, essential: bool) -> ContainerSpec {
    ContainerSpec {
        name: name.into(),
        image: "registry/app:1".into(),
        essential,
        cpu: 128,
        memory: Some(64),
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
        stop_timeout: Duration::from_secs(30),
    }
}

fn task(n: u8, containers: Vec<ContainerSpec>) -> TaskSpec {
    TaskSpec {
        id: id(n),
        arn: format!("arn:aws:ecs:here:0:task/default/{}", id(n)),
        family: "app".into(),
        revision: 1,
        cpu: None,
        memory: None,
        ephemeral_storage: None,
        network: NetworkMode::Bridge,
        containers,
    }
}

fn engine() -> Engine {
    Engine::restore(
        Capacity {
            cpu: 2048,
            memory: 1024,
            reserved_ports: BTreeSet::from([22]),
        },
        vec![],
    )
}

/// An engine with a clock that ticks a second at each event.
struct Play {
    engine: Engine,
    now: Timestamp,
}

impl Play {
    fn of(engine: Engine) -> Play {
        Play {
            engine,
            now: Timestamp(1_000),
        }
    }

    fn tell(&mut self, event: Event) -> Vec<Effect> {
        self.now = self.now.after(Duration::from_secs(1));
        self.engine.handle(self.now, event);
        self.effects()
    }

    fn wait(&mut self, seconds: u64) -> Vec<Effect> {
        self.now = self.now.after(Duration::from_secs(seconds));
        self.engine.tick(self.now);
        self.effects()
    }

    fn effects(&mut self) -> Vec<Effect> {
        std::iter::from_fn(|| self.engine.next_effect()).collect()
    }

    fn report(&self, n: u8) -> TaskReport {
        self.engine.report(&id(n)).unwrap()
    }

    /// Brings container `index` of task `n` from the pull to RUNNING.
    fn bring_up(&mut self, n: u8, index: usize) {
        let key = key(n, index);
        self.tell(Event::PullStarted(key.clone()));
        self.tell(Event::Pulled(
            key.clone(),
            ImageFacts {
                digest: "sha256:aa".into(),
                stop_signal: 3,
            },
        ));
        self.tell(Event::NetworkAttached(key.clone(), vec![]));
        self.tell(Event::Created(key.clone()));
        self.tell(Event::Started(key));
    }
}

fn key(n: u8, index: usize) -> ContainerKey {
    ContainerKey { task: id(n), index }
}

fn exit(code: i32) -> Exit {
    Exit {
        code: Some(code),
        oom_killed: false,
        at: Timestamp(77),
    }
}

fn failure(name: &str) -> Failure {
    Failure {
        name: name.into(),
        message: "pull x: no".into(),
    }
}

#[test]
fn a_task_goes_up_step_by_step_and_each_effect_is_asked_for_once() {
    let mut play = Play::of(engine());
    assert_eq!(
        play.tell(Event::Run(Box::new(task(1, vec![container("web", true)])))),
        [Effect::Prepare(id(1))]
    );
    assert_eq!(
        play.tell(Event::Run(Box::new(task(1, vec![container("web", true)])))),
        []
    );
    assert_eq!(play.tell(Event::Prepared(id(1))), [Effect::Pull(key(1, 0))]);
    let facts = ImageFacts {
        digest: "sha256:aa".into(),
        stop_signal: 15,
    };
    assert_eq!(
        play.tell(Event::Pulled(key(1, 0), facts)),
        [Effect::AttachNetwork(key(1, 0))]
    );
    let bound = PortBinding {
        container_port: 80,
        host_port: 8080,
        protocol: Protocol::Tcp,
    };
    assert_eq!(
        play.tell(Event::NetworkAttached(key(1, 0), vec![bound])),
        [Effect::Create(key(1, 0))]
    );
    assert_eq!(play.report(1).status, Status::Pending);
    assert_eq!(
        play.tell(Event::Created(key(1, 0))),
        [Effect::Start(key(1, 0))]
    );
    assert_eq!(play.tell(Event::Started(key(1, 0))), []);
    let report = play.report(1);
    assert_eq!(report.status, Status::Running);
    assert_eq!(report.containers[0].bindings, [bound]);
    assert_eq!(
        report.containers[0].image_digest.as_deref(),
        Some("sha256:aa")
    );
}

#[test]
fn stop_sends_the_images_signal_then_kills_at_the_timeout_then_tears_down() {
    let mut play = Play::of(engine());
    play.tell(Event::Run(Box::new(task(1, vec![container("web", true)]))));
    play.tell(Event::Prepared(id(1)));
    play.bring_up(1, 0);
    let stop = Event::Stop {
        task: id(1),
        reason: "enough".into(),
    };
    assert_eq!(play.tell(stop.clone()), [Effect::Signal(key(1, 0), 3)]);
    assert_eq!(play.tell(stop), []);
    assert_eq!(play.report(1).status, Status::Stopping);
    assert_eq!(play.wait(27), []);
    assert_eq!(play.wait(10), [Effect::Kill(key(1, 0))]);
    assert_eq!(
        play.wait(10),
        [Effect::Kill(key(1, 0))],
        "a survivor is killed again"
    );
    assert_eq!(
        play.tell(Event::Exited(key(1, 0), exit(137))),
        [Effect::Teardown(id(1))]
    );
    assert_eq!(
        play.report(1).status,
        Status::Stopping,
        "not before the proof"
    );
    assert_eq!(play.tell(Event::TeardownFailed(id(1), failure("x"))), []);
    assert_eq!(play.wait(6), [Effect::Teardown(id(1))]);
    play.tell(Event::TornDown(id(1)));
    let report = play.report(1);
    assert_eq!(report.status, Status::Stopped);
    assert_eq!(
        report.stop,
        Some((StopCode::UserInitiated, "enough".into()))
    );
    assert_eq!(report.containers[0].exit_code, Some(137));
    play.tell(Event::ReportStored(id(1)));
    assert_eq!(play.engine.record(&id(1)), None);
}

#[test]
fn an_essential_exit_stops_the_siblings_and_an_unessential_one_does_not() {
    let mut play = Play::of(engine());
    play.tell(Event::Run(Box::new(task(
        1,
        vec![container("web", true), container("side", false)],
    ))));
    play.tell(Event::Prepared(id(1)));
    play.bring_up(1, 0);
    assert_eq!(play.report(1).status, Status::Pending);
    play.bring_up(1, 1);
    assert_eq!(play.report(1).status, Status::Running);
    play.tell(Event::Exited(key(1, 1), exit(3)));
    assert_eq!(play.report(1).status, Status::Running);
    assert_eq!(play.report(1).containers[1].exit_code, Some(3));
    assert_eq!(
        play.tell(Event::Exited(key(1, 0), exit(0))),
        [Effect::Teardown(id(1))]
    );
    let stop = play.report(1).stop.unwrap();
    assert_eq!(
        stop,
        (
            StopCode::EssentialContainerExited,
            "Essential container in task exited".into()
        )
    );
    assert_eq!(play.report(1).execution_stopped_at, Some(Timestamp(77)));
}

#[test]
fn a_failed_pull_of_an_essential_container_fails_the_task_by_name() {
    let mut play = Play::of(engine());
    play.tell(Event::Run(Box::new(task(
        1,
        vec![container("web", true), container("side", false)],
    ))));
    play.tell(Event::Prepared(id(1)));
    play.bring_up(1, 1);
    let effects = play.tell(Event::PullFailed(
        key(1, 0),
        failure("CannotPullContainerError"),
    ));
    assert_eq!(effects, [Effect::Signal(key(1, 1), 3)]);
    let (code, reason) = play.report(1).stop.unwrap();
    assert_eq!(
        (code, reason.as_str()),
        (
            StopCode::TaskFailedToStart,
            "CannotPullContainerError: pull x: no"
        )
    );
    assert_eq!(play.report(1).containers[0].exit_code, None);
    assert_eq!(play.report(1).started_at, None);
}

#[test]
fn a_program_that_ends_before_the_news_of_its_start_still_has_run() {
    let mut play = Play::of(engine());
    play.tell(Event::Run(Box::new(task(1, vec![container("web", true)]))));
    play.tell(Event::Prepared(id(1)));
    play.tell(Event::Pulled(
        key(1, 0),
        ImageFacts {
            digest: "d".into(),
            stop_signal: 15,
        },
    ));
    play.tell(Event::NetworkAttached(key(1, 0), vec![]));
    play.tell(Event::Created(key(1, 0)));
    assert_eq!(play.tell(Event::Exited(key(1, 0), exit(0))), []);
    assert_eq!(
        play.tell(Event::Started(key(1, 0))),
        [Effect::Teardown(id(1))]
    );
    assert!(play.report(1).started_at.is_some());
    assert_eq!(play.report(1).containers[0].exit_code, Some(0));
}

#[test]
fn out_of_memory_is_the_reason_whenever_the_kernel_killed_and_only_then() {
    for (code, oom_killed, reason) in [
        (
            Some(137),
            true,
            Some("OutOfMemoryError: Container killed due to memory usage"),
        ),
        (Some(137), false, None),
        (
            Some(0),
            true,
            Some("OutOfMemoryError: Container killed due to memory usage"),
        ),
        (Some(0), false, None),
        (None, false, Some("exit code unknown: monitor lost")),
        (
            None,
            true,
            Some(
                "OutOfMemoryError: Container killed due to memory usage; exit code unknown: monitor lost",
            ),
        ),
    ] {
        let mut play = Play::of(engine());
        play.tell(Event::Run(Box::new(task(1, vec![container("web", true)]))));
        play.tell(Event::Prepared(id(1)));
        play.bring_up(1, 0);
        play.tell(Event::Exited(
            key(1, 0),
            Exit {
                code,
                oom_killed,
                at: Timestamp(9),
            },
        ));
        assert_eq!(play.report(1).containers[0].reason.as_deref(), reason);
    }
}

#[test]
fn a_stop_while_an_effect_is_under_way_waits_for_it_and_goes_no_further() {
    let mut play = Play::of(engine());
    play.tell(Event::Run(Box::new(task(1, vec![container("web", true)]))));
    play.tell(Event::Prepared(id(1)));
    play.tell(Event::Pulled(
        key(1, 0),
        ImageFacts {
            digest: "d".into(),
            stop_signal: 15,
        },
    ));
    assert_eq!(
        play.tell(Event::Stop {
            task: id(1),
            reason: "r".into()
        }),
        []
    );
    assert_eq!(
        play.tell(Event::NetworkAttached(key(1, 0), vec![])),
        [Effect::Teardown(id(1))]
    );
}

#[test]
fn a_stop_does_not_wait_for_a_pull() {
    let mut play = Play::of(engine());
    play.tell(Event::Run(Box::new(task(1, vec![container("web", true)]))));
    play.tell(Event::Prepared(id(1)));
    assert_eq!(
        play.tell(Event::Stop {
            task: id(1),
            reason: "r".into()
        }),
        [Effect::Teardown(id(1))]
    );
    assert_eq!(
        play.tell(Event::Pulled(
            key(1, 0),
            ImageFacts {
                digest: "d".into(),
                stop_signal: 15
            }
        )),
        []
    );
}

#[test]
fn a_wish_to_stop_that_comes_with_the_wish_to_run_ends_in_a_report() {
    let mut play = Play::of(engine());
    play.engine.handle(
        Timestamp(1),
        Event::Run(Box::new(task(1, vec![container("web", true)]))),
    );
    let effects = play.tell(Event::Stop {
        task: id(1),
        reason: "r".into(),
    });
    assert_eq!(
        effects,
        [Effect::Prepare(id(1))],
        "it was admitted before the stop was known"
    );
    assert_eq!(play.tell(Event::Prepared(id(1))), [Effect::Teardown(id(1))]);
    play.tell(Event::TornDown(id(1)));
    assert_eq!(play.report(1).status, Status::Stopped);
}

#[test]
fn a_stopping_task_still_holds_what_it_holds_and_a_small_one_need_not_wait_behind_a_large_one() {
    let mut play = Play::of(engine());
    let sized = |n, mib| TaskSpec {
        memory: Some(mib),
        ..task(n, vec![container("web", true)])
    };
    play.tell(Event::Run(Box::new(sized(1, 700))));
    play.tell(Event::Prepared(id(1)));
    play.bring_up(1, 0);
    assert_eq!(
        play.tell(Event::Run(Box::new(sized(2, 500)))),
        [],
        "does not fit beside the first"
    );
    assert_eq!(
        play.tell(Event::Run(Box::new(sized(3, 300)))),
        [Effect::Prepare(id(3))]
    );
    play.tell(Event::Stop {
        task: id(1),
        reason: "r".into(),
    });
    assert_eq!(
        play.tell(Event::Exited(key(1, 0), exit(0))),
        [Effect::Teardown(id(1))],
        "and nothing else yet"
    );
    assert_eq!(play.tell(Event::TornDown(id(1))), [Effect::Prepare(id(2))]);
}

#[test]
fn what_can_never_fit_is_refused_with_a_sentence() {
    let mut play = Play::of(engine());
    let huge = TaskSpec {
        cpu: Some(4096),
        ..task(1, vec![container("web", true)])
    };
    assert_eq!(play.tell(Event::Run(Box::new(huge))), []);
    let report = play.report(1);
    assert_eq!(report.status, Status::Stopped);
    let (code, reason) = report.stop.unwrap();
    assert_eq!(code, StopCode::TaskFailedToStart);
    assert!(
        reason.starts_with("ResourceInitializationError: reserve CPU: the task needs 4096 units"),
        "{reason}"
    );
}

#[test]
fn runtime_ids_are_stable_and_differ_within_a_task() {
    let mut play = Play::of(engine());
    play.tell(Event::Run(Box::new(task(
        1,
        vec![container("a", true), container("b", true)],
    ))));
    let of = |i| play.engine.runtime_id(&key(1, i)).unwrap();
    assert_ne!(of(0), of(1));
    assert_eq!(of(0).len(), 43);
    assert_eq!(play.engine.runtime_id(&key(1, 2)), None);
}
