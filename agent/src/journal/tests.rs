use std::os::unix::fs::PermissionsExt;

use longshore_engine::{
    ContainerRecord, Exit, Failure, ImageFacts, NetworkMode, PhaseRecord, PortBinding, PortMapping,
    Progress, Protocol, StopCode, StopRecord, Times, Timestamp, Ulimit,
};
use proptest::prelude::*;
use redb::ReadableDatabase as _;

use super::*;
use crate::sample;

fn record(n: u32) -> TaskRecord {
    let mut spec = sample::task();
    spec.id = sample::id(n);
    TaskRecord {
        version: TaskRecord::VERSION,
        spec,
        phase: PhaseRecord::Waiting,
        stop: None,
        times: Times::default(),
        containers: vec![ContainerRecord {
            progress: Progress::Waiting,
            image: None,
            bindings: Vec::new(),
            exit: None,
            failure: None,
        }],
    }
}

fn batch_of(records: Vec<TaskRecord>) -> Batch {
    Batch {
        records,
        ..Batch::default()
    }
}

#[test]
fn what_tasks_hold_is_read_without_an_agent_and_a_bad_row_is_no_answer() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.redb");
    {
        let (journal, _) = Journal::open(&path).unwrap();
        let mut pulled = record(1);
        pulled.containers[0].image = Some(ImageFacts {
            digest: "sha256:aa".to_owned(),
            stop_signal: 15,
        });
        let mut stopped = record(2);
        stopped.phase = PhaseRecord::Stopped;
        stopped.spec.containers[0].image = "not-held".to_owned();
        journal.commit(&batch_of(vec![pulled, stopped])).unwrap();
        assert!(held_images(&path).is_err(), "an agent has it open");
    }
    let held: Vec<String> = held_images(&path).unwrap().into_iter().collect();
    assert_eq!(held, ["registry.example/site:1", "sha256:aa"]);
    {
        let database = Database::open(&path).unwrap();
        let transaction = database.begin_write().unwrap();
        let mut tasks = transaction.open_table(TASKS).unwrap();
        tasks.insert("bad", b"{".as_slice()).unwrap();
        drop(tasks);
        transaction.commit().unwrap();
    }
    let error = crate::driver::chain(&held_images(&path).unwrap_err());
    assert!(error.contains("row bad"), "{error}");
    let (_, found) = Journal::open(&path).unwrap();
    assert_eq!(found.set_aside, ["bad"], "looking has changed nothing");
}

#[test]
fn what_is_committed_is_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.redb");
    let accepted = Accepted {
        store_id: "s".to_owned(),
        generation: 7,
    };
    {
        let (journal, found) = Journal::open(&path).unwrap();
        assert!(found.records.is_empty() && found.accepted.is_none() && !found.replaced);
        journal
            .commit(&batch_of(vec![record(1), record(2)]))
            .unwrap();
        let batch = Batch {
            forgotten: vec![sample::id(1)],
            accepted: Some(accepted.clone()),
            ..Batch::default()
        };
        journal.commit(&batch).unwrap();
    }
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let (_, found) = Journal::open(&path).unwrap();
    assert_eq!(found.records, [record(2)]);
    assert_eq!(found.accepted, Some(accepted));
}

#[test]
fn bad_rows_are_set_aside_and_the_good_ones_stay() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.redb");
    {
        let (journal, _) = Journal::open(&path).unwrap();
        let mut newer = record(2);
        newer.version = TaskRecord::VERSION + 1;
        let mut torn = record(4);
        torn.containers.clear();
        journal
            .commit(&batch_of(vec![record(1), newer, torn]))
            .unwrap();
        let transaction = journal
            .database
            .lock()
            .unwrap()
            .as_ref()
            .unwrap()
            .begin_write()
            .unwrap();
        transaction
            .open_table(TASKS)
            .unwrap()
            .insert(sample::id(3).as_str(), b"{".as_slice())
            .unwrap();
        transaction.commit().unwrap();
    }
    {
        let (_, found) = Journal::open(&path).unwrap();
        assert_eq!(found.records, [record(1)]);
        let aside: Vec<String> = [2, 3, 4].map(|n| sample::id(n).to_string()).into();
        assert_eq!(found.set_aside, aside);
    }
    let (journal, found) = Journal::open(&path).unwrap();
    assert!(found.set_aside.is_empty(), "they are set aside only once");
    let transaction = journal
        .database
        .lock()
        .unwrap()
        .as_ref()
        .unwrap()
        .begin_read()
        .unwrap();
    let kept = transaction.open_table(QUARANTINE).unwrap();
    assert!(kept.get(sample::id(3).as_str()).unwrap().is_some());
}

#[test]
fn an_unreadable_file_is_moved_aside() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.redb");
    for garbage in [vec![b'x'; 10_000], vec![b'x'; 3]] {
        std::fs::write(&path, &garbage).unwrap();
        let (journal, found) = Journal::open(&path).unwrap();
        assert!(found.replaced);
        journal.commit(&batch_of(vec![record(1)])).unwrap();
        assert_eq!(
            std::fs::read(dir.path().join("agent.unreadable")).unwrap(),
            garbage
        );
    }
}

fn timestamps() -> impl Strategy<Value = Timestamp> {
    any::<u64>().prop_map(Timestamp)
}

fn progress() -> impl Strategy<Value = Progress> {
    prop_oneof![
        Just(Progress::Waiting),
        Just(Progress::Creating),
        Just(Progress::Running),
        timestamps().prop_map(Progress::Stopping),
        timestamps().prop_map(Progress::Killed),
        Just(Progress::NeverRan),
    ]
}

prop_compose! {
    fn containers()(
        progress in progress(),
        text in ".{0,40}",
        code in any::<Option<i32>>(),
        at in timestamps(),
        flag in any::<bool>(),
        port in any::<u16>(),
    ) -> ContainerRecord {
        ContainerRecord {
            progress,
            image: flag.then(|| ImageFacts { digest: text.clone(), stop_signal: i32::from(port) }),
            bindings: vec![PortBinding { container_port: port, host_port: port, protocol: Protocol::Udp }],
            exit: flag.then_some(Exit { code, oom_killed: flag, at }),
            failure: (!flag).then(|| Failure { name: text.clone(), message: text }),
        }
    }
}

prop_compose! {
    fn records()(
        container in containers(),
        text in ".{0,40}",
        cpu in any::<Option<u32>>(),
        memory in any::<Option<u64>>(),
        port in any::<Option<u16>>(),
        millis in any::<u32>(),
        at in proptest::option::of(timestamps()),
        phase in prop_oneof![Just(PhaseRecord::Active), Just(PhaseRecord::TearingDown)],
        network in prop_oneof![Just(NetworkMode::None), Just(NetworkMode::Host)],
    ) -> TaskRecord {
        let mut record = record(9);
        record.phase = phase;
        record.spec.network = network;
        record.spec.cpu = cpu;
        record.spec.memory = memory;
        let spec = &mut record.spec.containers[0];
        spec.environment = vec![(text.clone(), text.clone())];
        spec.stop_timeout = std::time::Duration::from_millis(u64::from(millis));
        spec.ports = vec![PortMapping { container_port: 1, host_port: port, protocol: Protocol::Tcp }];
        spec.ulimits = vec![Ulimit { name: text.clone(), soft: u64::MAX, hard: 0 }];
        record.stop = Some(StopRecord { code: StopCode::UserInitiated, reason: text });
        record.times.started = at;
        record.containers = vec![container];
        record
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn every_record_survives_its_row(record in records()) {
        let row = json(&record);
        prop_assert_eq!(parse_record(record.id().as_str(), &row), Ok(record));
    }
}
