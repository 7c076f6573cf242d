//! The wire seen from both ends: a control plane's south and agents' links, over TLS on loopback.
//!
//! Each test has a store, a port and hosts of its own. Nothing here needs root.

#[path = "wire/house.rs"]
mod house;
#[path = "wire/raw.rs"]
mod raw;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use house::{Control, Host, define, id, key, place, put, read, report, until};
use longshore_agent::link::FromControl;
use longshore_control::model::{self, Desired, Instance, JoinToken, Status, StopCode};
use longshore_control::store::{RedbStore, Store};
use longshore_engine::Status as Seen;
use longshore_proto::v1::from_agent::Message;
use longshore_proto::v1::to_agent::Message as Said;
use longshore_proto::v1::{Hello, RenewRequest, enrollment_client::EnrollmentClient};
use raw::Raw;
use tokio::io::AsyncReadExt as _;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_joins_runs_what_is_wished_and_tells_how_it_ended() {
    let directory = tempfile::tempdir().unwrap();
    let store = house::store(directory.path());
    let control = Control::start(store.clone());
    let host = Host::fresh(&control, &store);
    let mut shell = host.up();
    let instance = shell.connected().await;
    let record = house::instance(&*store, &instance);
    assert!(record.connected);
    assert_eq!((record.total.cpu, record.total.memory), (2048, 4096));
    assert_eq!(record.total.ports, [22]);
    assert_eq!(record.attributes[0].0, "ecs.os-type");

    define(&*store, 1, "bridge");
    place(&*store, 1, 1, &instance);
    let (_, wishes) = shell.desired(|wishes| wishes.len() == 1).await;
    let spec = &wishes[0].spec;
    assert_eq!((spec.cpu, wishes[0].stop.as_ref()), (Some(256), None));
    assert_eq!(spec.containers[0].command, Some(vec!["true".to_owned()]));

    shell.link.report(report(spec, Seen::Running));
    until(&*store, |s| read(s, 1).unwrap().status == Status::Running).await;

    let mut stopping = read(&*store, 1).unwrap();
    stopping.desired = Desired::Stopped;
    stopping.stopped_reason = Some("enough".into());
    put(&*store, &key(1), &stopping);
    let (_, wishes) = shell.desired(|wishes| wishes[0].stop.is_some()).await;
    assert_eq!(wishes[0].stop.as_deref(), Some("enough"));

    shell.link.report(report(spec, Seen::Stopped));
    shell
        .until(|event| (*event == FromControl::ReportStored(id(1))).then_some(()))
        .await;
    let ended = read(&*store, 1).unwrap();
    assert_eq!(ended.status, Status::Stopped);
    assert_eq!(ended.containers[0].exit_code, Some(7));
    shell.desired(<[_]>::is_empty).await;
    shell.link.shutdown().await;
    until(&*store, |s| !house::instance(s, &instance).connected).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_good_for_one_host() {
    let directory = tempfile::tempdir().unwrap();
    let store = house::store(directory.path());
    let control = Control::start(store.clone());
    let first = Host::fresh(&control, &store);
    first.up().connected().await;
    let second = Host::new(&control, first.config.token.clone());
    let why = second.up().disconnected().await;
    assert!(
        why.starts_with("join ") && why.contains("already used"),
        "{why}"
    );
    assert!(why.contains("make a new one"), "{why}");
    assert!(!why.contains(first.config.token.as_ref().unwrap()));
    assert!(!second.identity().join("certificate.der").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_whose_join_was_cut_short_joins_with_the_same_token() {
    let directory = tempfile::tempdir().unwrap();
    let store = house::store(directory.path());
    let control = Control::start(store.clone());
    let host = Host::fresh(&control, &store);
    let mut shell = host.up();
    let instance = shell.connected().await;
    shell.link.shutdown().await;
    // The answer was lost: the key is there, the certificate is not.
    std::fs::remove_file(host.identity().join("certificate.der")).unwrap();
    assert_eq!(host.up().connected().await, instance);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expired_token_is_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let store = house::store(directory.path());
    let control = Control::start(store.clone());
    let host = Host::fresh(&control, &store);
    let (at, token) = model::list::<JoinToken>(&*store, "token/", None, 1)
        .unwrap()
        .remove(0);
    let expired = JoinToken {
        expires_at: 1,
        ..token.record
    };
    put(&*store, &at, &expired);
    let why = host.up().disconnected().await;
    assert!(
        why.contains("expired") && why.contains("make a new one"),
        "{why}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_impostor_never_sees_the_token() {
    let directory = tempfile::tempdir().unwrap();
    let store = house::store(directory.path());
    let control = Control::start(store.clone());
    // What everyone can know of the true control plane: its CA's certificate.
    let member = Host::fresh(&control, &store);
    member.up().connected().await;
    let true_ca = raw::file(&member.identity(), "ca.der");

    for chain in [None, Some(true_ca)] {
        let impostor = Impostor::start(chain).await;
        let mut host = Host::fresh(&control, &store);
        host.config.endpoint = impostor.endpoint.clone();
        let why = host.up().disconnected().await;
        assert!(
            why.starts_with(&format!("join {}", impostor.endpoint)),
            "{why}"
        );
        assert!(why.contains("impostor") || why.contains("refused"), "{why}");
        let seen = impostor.seen.await.unwrap();
        assert!(seen.is_err(), "the impostor read {seen:?} within TLS");
        assert!(!host.identity().join("ca.der").exists());
    }
}

/// A server with a CA of its own; it may show the true CA's certificate too.
struct Impostor {
    endpoint: String,
    /// What its first client sent within TLS, or why TLS came to nothing.
    seen: tokio::task::JoinHandle<std::io::Result<Vec<u8>>>,
}

impl Impostor {
    async fn start(shown: Option<Vec<u8>>) -> Impostor {
        let key = rcgen::KeyPair::generate().unwrap();
        let names = vec![longshore_proto::SERVER_NAME.to_owned()];
        let own = rcgen::CertificateParams::new(names)
            .unwrap()
            .self_signed(&key)
            .unwrap();
        let ca = shown.map_or(own.der().clone(), |shown| shown.into());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![own.der().clone(), ca], key.into())
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("https://{}", listener.local_addr().unwrap());
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let seen = tokio::spawn(async move {
            let (stream, _) = listener.accept().await?;
            let mut tls = acceptor.accept(stream).await?;
            let mut bytes = Vec::new();
            tls.read_to_end(&mut bytes).await?;
            Ok(bytes)
        });
        Impostor { endpoint, seen }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_of_another_control_plane_is_refused_on_both_sides() {
    let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let stores = directories.each_ref().map(|d| house::store(d.path()));
    let controls = stores.each_ref().map(|s| Control::start(s.clone()));
    let mut ours = Host::fresh(&controls[0], &stores[0]);
    ours.up().connected().await;
    let theirs = Host::fresh(&controls[1], &stores[1]);
    theirs.up().connected().await;

    // The agent refuses the other control plane.
    ours.config.endpoint = controls[1].endpoint();
    let why = ours.up().disconnected().await;
    assert!(
        why.contains("not signed by the CA this host joined"),
        "{why}"
    );

    // And the other control plane refuses an agent that does not.
    let tls = raw::tls(controls[1].address, &ours.identity(), &theirs.identity()).await;
    let refused = match tls {
        Err(error) => error,
        Ok(mut stream) => stream.read_u8().await.unwrap_err(),
    };
    assert!(refused.to_string().contains("fatal alert"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_was_removed_is_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let store = house::store(directory.path());
    let control = Control::start(store.clone());
    let mut host = Host::fresh(&control, &store);
    let mut shell = host.up();
    let instance = shell.connected().await;
    shell.desired(<[_]>::is_empty).await;
    shell.link.shutdown().await;
    until(&*store, |s| !house::instance(s, &instance).connected).await;
    let gone = model::list::<Instance>(&*store, "instance/", None, 1).unwrap();
    let delete = longshore_control::store::Write::Delete(gone[0].0.clone());
    store.transact(&[], &[delete]).unwrap();
    host.config.last_accepted = Some((store.id().to_owned(), 1));
    let why = host.up().disconnected().await;
    assert!(why.contains("not (or no longer) registered"), "{why}");
    assert!(why.contains("join again with a new token"), "{why}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_control_plane_is_found_again_and_hears_what_it_missed() {
    let directory = tempfile::tempdir().unwrap();
    let store = house::store(directory.path());
    let control = Control::start(store.clone());
    let host = Host::fresh(&control, &store);
    let mut shell = host.up();
    let instance = shell.connected().await;
    define(&*store, 1, "none");
    place(&*store, 1, 1, &instance);
    let (before, wishes) = shell.desired(|wishes| wishes.len() == 1).await;

    let address = control.kill();
    shell.disconnected().await;
    shell.link.report(report(&wishes[0].spec, Seen::Stopped));
    place(&*store, 2, 1, &instance);
    assert!(
        house::instance(&*store, &instance).connected,
        "a killed one marks nothing"
    );

    let _control = Control::with(store.clone(), address, |_| {});
    assert_eq!(shell.connected().await, instance);
    shell
        .until(|event| (*event == FromControl::ReportStored(id(1))).then_some(()))
        .await;
    assert_eq!(read(&*store, 1).unwrap().containers[0].exit_code, Some(7));
    let is_second =
        |wishes: &[longshore_agent::link::Wish]| wishes.iter().any(|w| w.spec.id == id(2));
    let (after, _) = shell.desired(is_second).await;
    assert!(after > before, "generations of one store only grow");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_control_plane_that_starts_calls_nobody_connected() {
    let directory = tempfile::tempdir().unwrap();
    let store = house::store(directory.path());
    let control = Control::start(store.clone());
    let mut shell = Host::fresh(&control, &store).up();
    let instance = shell.connected().await;
    control.kill();
    shell.link.shutdown().await;
    assert!(house::instance(&*store, &instance).connected);
    let _control = Control::start(store.clone());
    assert!(!house::instance(&*store, &instance).connected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_store_adopts_what_runs_and_stops_nothing() {
    let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let store = house::store(directories[0].path());
    let control = Control::start(store.clone());
    let host = Host::fresh(&control, &store);
    let mut shell = host.up();
    let instance = shell.connected().await;
    define(&*store, 1, "none");
    place(&*store, 1, 1, &instance);
    let (_, wishes) = shell.desired(|wishes| wishes.len() == 1).await;
    shell.link.report(report(&wishes[0].spec, Seen::Running));
    until(&*store, |s| read(s, 1).unwrap().status == Status::Running).await;

    // A backup from before the host joined: the CA is there, instance, definition and task are not.
    let restored = house::store(directories[1].path());
    copy(&store, &restored, "ca");
    let address = control.kill();
    let _control = Control::with(restored.clone(), address, |_| {});
    shell.disconnected().await;
    assert_eq!(shell.connected().await, instance);
    let (_, again) = shell.desired(|_| true).await;
    assert_eq!(again, wishes, "it goes on as it was");
    until(&*restored, |s| {
        read(s, 1).is_some_and(|t| t.status == Status::Running)
    })
    .await;
    let adopted = read(&*restored, 1).unwrap();
    assert_eq!(
        (adopted.family.as_str(), adopted.instance),
        ("web", instance)
    );
    // The question that a careful agent asks is answered with `keep`: an unknown one's `stop` comes first.
    shell.link.ask_orphans(vec![id(1), id(9)]);
    let stop = shell
        .until(|event| match event {
            FromControl::StopOrphan(task) => Some(task.clone()),
            _ => None,
        })
        .await;
    assert_eq!(stop, id(9));
}

fn copy(from: &RedbStore, to: &RedbStore, key: &str) {
    let value = from.get(key).unwrap().unwrap().value;
    let write = longshore_control::store::Write::Put(key.to_owned(), value);
    to.transact(&[], &[write]).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_agent_tells_another_store_what_its_journal_holds() {
    let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let store = house::store(directories[0].path());
    let control = Control::start(store.clone());
    let mut host = Host::fresh(&control, &store);
    let mut shell = host.up();
    let instance = shell.connected().await;
    define(&*store, 1, "none");
    place(&*store, 1, 1, &instance);
    let (generation, wishes) = shell.desired(|wishes| wishes.len() == 1).await;
    shell.link.shutdown().await;

    let restored = house::store(directories[1].path());
    copy(&store, &restored, "ca");
    let address = control.kill();
    let _control = Control::with(restored.clone(), address, |_| {});
    host.config.last_accepted = Some((store.id().to_owned(), generation));
    host.config.held = vec![wishes[0].spec.clone()];
    let (_, again) = host.up().desired(|_| true).await;
    assert_eq!(again, wishes);
    assert_eq!(read(&*restored, 1).unwrap().holds.cpu, 256);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_orphan_is_stopped_only_when_the_control_plane_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let store = house::store(directory.path());
    let control = Control::start(store.clone());
    let mut shell = Host::fresh(&control, &store).up();
    let instance = shell.connected().await;
    define(&*store, 1, "none");
    place(&*store, 1, 1, &instance);
    place(&*store, 2, 1, &"f".repeat(32));
    let mut stopped = house::task(3, 1, &instance);
    stopped.status = Status::Stopped;
    put(&*store, &key(3), &stopped);
    shell.desired(|wishes| wishes.len() == 1).await;
    shell.link.ask_orphans((1..5).map(id).collect());
    let mut stop = Vec::new();
    for _ in 0..3 {
        let one = shell.until(|event| match event {
            FromControl::StopOrphan(task) => Some(task.clone()),
            _ => None,
        });
        stop.push(one.await);
    }
    assert_eq!(stop, [id(2), id(3), id(4)]);
    assert_eq!(read(&*store, 1).unwrap().status, Status::Pending);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_definition_costs_its_task_and_the_others_go_on() {
    let directory = tempfile::tempdir().unwrap();
    let store = house::store(directory.path());
    let control = Control::start(store.clone());
    let mut shell = Host::fresh(&control, &store).up();
    let instance = shell.connected().await;
    // The agent refuses the first, the control plane itself the second, the host's policy the third.
    define(&*store, 1, "awsvpc");
    define(&*store, 2, "carrier-pigeon");
    define(&*store, 3, "host");
    define(&*store, 4, "bridge");
    for n in 1..5 {
        place(&*store, n, n.into(), &instance);
    }
    let has = |wishes: &[longshore_agent::link::Wish], n| wishes.iter().any(|w| w.spec.id == id(n));
    let (generation, _) = shell
        .desired(|wishes| has(wishes, 3) && has(wishes, 4))
        .await;
    let policy = "the host's policy forbids the host's network".to_owned();
    shell.link.acknowledge(&id(3), generation, Err(policy));
    for (n, why) in [(1, "awsvpc"), (2, "networkMode"), (3, "policy")] {
        until(&*store, |s| read(s, n).unwrap().status == Status::Stopped).await;
        let refused = read(&*store, n).unwrap();
        assert_eq!(refused.stop_code, Some(StopCode::TaskFailedToStart));
        let reason = refused.stopped_reason.unwrap();
        assert!(reason.contains(why), "{reason}");
    }
    let (_, wishes) = shell.desired(|wishes| wishes.len() == 1).await;
    assert!(has(&wishes, 4));
    assert_eq!(read(&*store, 4).unwrap().status, Status::Pending);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_set_larger_than_a_message_arrives_whole() {
    let directory = tempfile::tempdir().unwrap();
    let store = house::store(directory.path());
    let control = Control::start(store.clone());
    let host = Host::fresh(&control, &store);
    let mut shell = host.up();
    let instance = shell.connected().await;
    shell.link.shutdown().await;
    define(&*store, 1, "none");
    for n in 0..200 {
        let mut task = house::task(n, 1, &instance);
        let long = "x".repeat(30_000);
        task.overrides = serde_json::json!({"containerOverrides": [
            {"name": "main", "environment": [{"name": "LONG", "value": long}]}]});
        put(&*store, &key(n), &task);
    }
    let (_, wishes) = host.up().desired(|wishes| wishes.len() == 200).await;
    let environment = &wishes[199].spec.containers[0].environment;
    assert_eq!(environment[1].1.len(), 30_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unanswered_set_is_sent_again() {
    let directory = tempfile::tempdir().unwrap();
    let store = house::store(directory.path());
    let quick = |config: &mut longshore_control::south::Config| {
        config.heartbeat = Duration::from_millis(500);
    };
    let control = Control::with(store.clone(), "127.0.0.1:0".parse().unwrap(), quick);
    let mut shell = Host::fresh(&control, &store).up();
    let instance = shell.connected().await;
    define(&*store, 1, "none");
    place(&*store, 1, 1, &instance);
    let unanswered = |event: &FromControl| match event {
        FromControl::Desired {
            generation, wishes, ..
        } if wishes.len() == 1 => Some(*generation),
        _ => None,
    };
    let first = shell.until(unanswered).await;
    // Later than the first only if a busy machine has broken the session in between.
    assert!(shell.until(unanswered).await >= first);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_is_renewed_at_its_maximum_age() {
    let directory = tempfile::tempdir().unwrap();
    let store = house::store(directory.path());
    let short = |config: &mut longshore_control::south::Config| {
        config.maximum_age = Duration::from_millis(50);
    };
    let control = Control::with(store.clone(), "127.0.0.1:0".parse().unwrap(), short);
    let mut shell = Host::fresh(&control, &store).up();
    let instance = shell.connected().await;
    let why = shell.disconnected().await;
    assert!(why.contains("asked for a new session"), "{why}");
    assert_eq!(shell.connected().await, instance);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_session_replaces_the_older() {
    let directory = tempfile::tempdir().unwrap();
    let store = house::store(directory.path());
    let control = Control::start(store.clone());
    let host = Host::fresh(&control, &store);
    let mut older = host.up();
    let instance = older.connected().await;
    let mut newer = host.up();
    assert_eq!(newer.connected().await, instance);
    let why = older.disconnected().await;
    assert!(why.contains("newer session"), "{why}");
    older.link.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_heartbeats_of_silence_end_a_session_and_leave_the_tasks() {
    let directory = tempfile::tempdir().unwrap();
    let store = house::store(directory.path());
    let control = Control::with(store.clone(), "127.0.0.1:0".parse().unwrap(), |config| {
        config.heartbeat = Duration::from_millis(500);
    });
    let host = Host::fresh(&control, &store);
    let mut shell = host.up();
    let instance = shell.connected().await;
    shell.link.shutdown().await;
    let mut running = house::task(1, 1, &instance);
    running.status = Status::Running;
    put(&*store, &key(1), &running);
    let raw = Raw::open(
        raw::channel(control.address, &host.identity()).await,
        Message::Hello(hello(&store)),
    );
    let raw = raw.await.unwrap();
    let status = raw.ended().await;
    assert!(status.message().contains("silence"), "{status:?}");
    until(&*store, |s| !house::instance(s, &instance).connected).await;
    assert_eq!(read(&*store, 1).unwrap(), running);
}

fn hello(store: &RedbStore) -> Hello {
    Hello {
        protocol: longshore_proto::PROTOCOL,
        store_id: store.id().to_owned(),
        registration: Some(Default::default()),
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hello_of_another_protocol_or_out_of_bounds_is_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let store = house::store(directory.path());
    let control = Control::start(store.clone());
    let host = Host::fresh(&control, &store);
    host.up().connected().await;
    let mut bad = [hello(&store), hello(&store), hello(&store)];
    bad[0].protocol = 0;
    bad[1].registration = None;
    bad[2].definitions = vec![vec![1, 2, 3]];
    for (hello, why) in bad
        .into_iter()
        .zip(["upgrade the agent", "registration", "definitions"])
    {
        let channel = raw::channel(control.address, &host.identity()).await;
        let raw = Raw::open(channel, Message::Hello(hello)).await.unwrap();
        let status = raw.ended().await;
        assert!(status.message().contains(why), "{why}: {status:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expired_certificate_can_renew_itself_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let store = house::store(directory.path());
    let control = Control::with(store.clone(), "127.0.0.1:0".parse().unwrap(), |config| {
        config.certificate_lifetime = Duration::ZERO;
    });
    let host = Host::fresh(&control, &store);
    let mut shell = host.up();
    while !host.identity().join("certificate.der").exists() {
        tokio::task::yield_now().await;
    }
    shell.next().await;
    shell.link.shutdown().await;
    let issued = seconds();
    while seconds() < issued + 2 {
        tokio::task::yield_now().await;
    }
    let channel = raw::channel(control.address, &host.identity()).await;
    let refused = Raw::open(channel.clone(), Message::Hello(hello(&store))).await;
    let refused = refused
        .err()
        .expect("no session with an expired certificate");
    assert!(
        refused.message().contains("expired: renew it"),
        "{refused:?}"
    );
    let renewed = EnrollmentClient::new(channel).renew(RenewRequest {}).await;
    assert!(!renewed.unwrap().into_inner().certificate.is_empty());

    // The link finds that out by itself.
    let address = control.kill();
    let _control = Control::with(store.clone(), address, |_| {});
    host.up().connected().await;
}

fn seconds() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_is_in_any_log_or_debug_text() {
    let directory = tempfile::tempdir().unwrap();
    let store = house::store(directory.path());
    let control = Control::start(store.clone());
    let host = Host::fresh(&control, &store);
    let mut shell = host.up();
    let instance = shell.connected().await;
    define(&*store, 1, "none");
    let mut task = house::task(1, 1, &instance);
    let value = "a-value-that-is-nobodys-business";
    task.overrides = serde_json::json!({"containerOverrides": [
        {"name": "main", "environment": [{"name": "PASSWORD", "value": value}]}]});
    put(&*store, &key(1), &task);
    let token = host.config.token.as_ref().unwrap();
    let wish = shell.desired(|wishes| wishes.len() == 1).await.1;
    let mut told = format!("{:?} {:?} {wish:?}", host.config, shell.link);
    told.push_str(&house::log().text());
    assert!(told.contains("host joined"), "the log is on");
    assert!(!told.contains(&token[10..]), "the token is told");
    assert!(!told.contains(&token[50..]), "the token's secret is told");
    assert!(!log_has(&told, value), "an environment value is told");
}

/// Whether the log has the value; the line, for whoever must mend it.
fn log_has(log: &str, value: &str) -> bool {
    log.lines().any(|line| {
        let found = line.contains(value);
        if found {
            eprintln!("{line}");
        }
        found
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_welcome_or_hello_ends_only_that_session() {
    let directory = tempfile::tempdir().unwrap();
    let store = house::store(directory.path());
    let control = Control::start(store.clone());
    let host = Host::fresh(&control, &store);
    let mut shell = host.up();
    let instance = shell.connected().await;
    shell.link.shutdown().await;
    let channel = raw::channel(control.address, &host.identity()).await;
    let mut raw = Raw::open(channel, Message::Hello(hello(&store)))
        .await
        .unwrap();
    let welcome = raw.inbound.message().await.unwrap().unwrap();
    assert!(matches!(welcome.message, Some(Said::Welcome(_))));
    let again = longshore_proto::v1::FromAgent {
        message: Some(Message::Hello(hello(&store))),
    };
    raw.out.send(again).await.unwrap();
    let status = raw.ended().await;
    assert!(status.message().contains("at the beginning"), "{status:?}");
    assert_eq!(host.up().connected().await, instance);
}
