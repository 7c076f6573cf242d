//! Against a fake bus: a Unix socket with a thread that answers as a script says. It speaks by `wire`, whose own
//! tests hold it to the specification byte by byte.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use super::wire::FIXED;
use super::*;

/// What the fake answers to a call.
type Script = fn(&Message) -> Vec<Message>;

struct Fake {
    address: String,
    calls: mpsc::Receiver<Message>,
    thread: JoinHandle<()>,
    _directory: tempfile::TempDir,
}

impl Fake {
    fn new(script: Script) -> Fake {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("bus");
        let listener = UnixListener::bind(&path).unwrap();
        let (sender, calls) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut byte = [0];
            let mut line = Vec::new();
            while !line.ends_with(b"BEGIN\r\n") {
                stream.read_exact(&mut byte).unwrap();
                line.push(byte[0]);
                if line == b"\0AUTH EXTERNAL 37\r\n" {
                    stream.write_all(b"OK 0123456789abcdef\r\n").unwrap();
                }
            }
            while let Some(call) = receive(&mut stream) {
                for answer in script(&call) {
                    stream.write_all(&answer.encode()).unwrap();
                }
                sender.send(call).unwrap();
            }
        });
        Fake {
            address: format!("unix:path={}", path.display()),
            calls,
            thread,
            _directory: directory,
        }
    }

    /// As user 7.
    fn systemd(&self) -> Systemd {
        Systemd::at(&self.address, 7).unwrap()
    }

    /// What was called, once the connection has been closed.
    fn calls(self) -> Vec<Message> {
        self.thread.join().unwrap();
        self.calls.iter().collect()
    }
}

fn receive(stream: &mut UnixStream) -> Option<Message> {
    let mut fixed = [0; FIXED];
    stream.read_exact(&mut fixed).ok()?;
    let mut bytes = fixed.to_vec();
    bytes.resize(FIXED + Message::rest(&fixed).unwrap(), 0);
    stream.read_exact(&mut bytes[FIXED..]).unwrap();
    Some(Message::parse(&bytes).unwrap())
}

fn answer(call: &Message, text: &str) -> Message {
    let mut body = Writer::default();
    body.text(text);
    Message {
        reply_to: call.serial,
        sender: ":1.1".into(),
        signature: "o".into(),
        body: body.finish(),
        ..Message::new(Kind::Return, 1)
    }
}

fn refusal(call: &Message, name: &str, text: &str) -> Message {
    Message {
        kind: Kind::Error,
        error: name.into(),
        signature: "s".into(),
        ..answer(call, text)
    }
}

fn ended(sender: &str, job: &str, result: &str) -> Message {
    let mut body = Writer::default();
    body.u32(7).text(job).text("a.scope").text(result);
    Message {
        sender: sender.into(),
        path: PATH.into(),
        interface: MANAGER.into(),
        member: "JobRemoved".into(),
        signature: "uoss".into(),
        body: body.finish(),
        ..Message::new(Kind::Signal, 2)
    }
}

fn unit() -> Unit {
    Unit {
        slice: "machine.slice".into(),
        name: "a.scope".into(),
        user: false,
    }
}

fn members(calls: &[Message]) -> Vec<&str> {
    calls.iter().map(|call| call.member.as_str()).collect()
}

#[test]
fn a_scope_is_started_around_a_process_and_its_job_awaited() {
    let fake = Fake::new(|call| match call.member.as_str() {
        // The job may have ended before its number is told.
        "StartTransientUnit" => vec![
            ended(":1.1", "/job/6", "failed"),
            ended(":1.1", "/job/7", "done"),
            answer(call, "/job/7"),
        ],
        _ => vec![answer(call, "/")],
    });
    let mut systemd = fake.systemd();
    systemd.subscribe().unwrap();
    let limits = [("MemoryMax", Value::U64(4096))];
    systemd.start(&unit(), 41, &limits).unwrap();
    drop(systemd);
    let calls = fake.calls();
    assert_eq!(
        members(&calls),
        ["Hello", "AddMatch", "Subscribe", "StartTransientUnit"]
    );
    let start = &calls[3];
    assert_eq!(start.destination, NAME);
    assert_eq!(start.signature, "ssa(sv)a(sa(sv))");
    assert_eq!(start.texts(), ["a.scope", "replace"]);
    let mut pids = Writer::default();
    pids.numbers(&[41]);
    for part in [
        &b"PIDs"[..],
        b"Delegate",
        b"MemoryMax",
        b"machine.slice",
        &pids.finish(),
    ] {
        let found = start.body.windows(part.len()).any(|bytes| bytes == part);
        assert!(found, "{part:?}");
    }
}

#[test]
fn another_s_word_on_a_job_counts_for_nothing() {
    let fake = Fake::new(|call| match call.member.as_str() {
        "StopUnit" => vec![
            answer(call, "/job/7"),
            ended(":1.66", "/job/7", "done"),
            ended(":1.1", "/job/7", "canceled"),
        ],
        _ => vec![answer(call, "/")],
    });
    let mut systemd = fake.systemd();
    let error = systemd.stop(&unit()).unwrap_err();
    assert!(error.cause.contains("canceled"), "{error}");
}

#[test]
fn a_unit_that_is_gone_is_stopped_already_and_one_that_failed_is_forgotten() {
    let fake = Fake::new(|call| match call.member.as_str() {
        "StopUnit" => vec![refusal(
            call,
            "org.freedesktop.systemd1.NoSuchUnit",
            "Unit a.scope not loaded.",
        )],
        _ => vec![answer(call, "/")],
    });
    let mut systemd = fake.systemd();
    systemd.stop(&unit()).unwrap();
    drop(systemd);
    assert_eq!(
        members(&fake.calls()),
        ["Hello", "StopUnit", "ResetFailedUnit"]
    );
}

#[test]
fn a_name_that_a_failed_unit_holds_is_taken_over_once() {
    let fake = Fake::new(|call| match call.member.as_str() {
        "StartTransientUnit" => vec![refusal(
            call,
            "org.freedesktop.systemd1.UnitExists",
            "Unit a.scope already exists.",
        )],
        _ => vec![answer(call, "/")],
    });
    let mut systemd = fake.systemd();
    let error = systemd.start(&unit(), 41, &[]).unwrap_err();
    assert_eq!(error.subject, "a.scope");
    assert!(error.cause.contains("already exists"), "{error}");
    drop(systemd);
    assert_eq!(
        members(&fake.calls()),
        [
            "Hello",
            "StartTransientUnit",
            "ResetFailedUnit",
            "StartTransientUnit"
        ]
    );
}

#[test]
fn a_property_that_systemd_does_not_know_does_not_keep_the_scope_from_starting() {
    let fake = Fake::new(|call| {
        let known = !call.body.windows(9).any(|bytes| bytes == b"MemoryMax");
        match call.member.as_str() {
            "StartTransientUnit" if known => {
                vec![answer(call, "/job/7"), ended(":1.1", "/job/7", "done")]
            }
            "StartTransientUnit" => vec![refusal(
                call,
                "org.freedesktop.DBus.Error.PropertyReadOnly",
                "Cannot set property MemoryMax, or unknown property.",
            )],
            _ => vec![answer(call, "/")],
        }
    });
    let limits = [("MemoryMax", Value::U64(4096))];
    fake.systemd().start(&unit(), 41, &limits).unwrap();
}

#[test]
fn limits_are_changed_at_run_time_and_no_limits_need_no_call() {
    let fake = Fake::new(|call| vec![answer(call, "/")]);
    let mut systemd = fake.systemd();
    systemd.set(&unit(), &[]).unwrap();
    systemd
        .set(&unit(), &[("CPUWeight", Value::U64(5))])
        .unwrap();
    systemd.attach(&unit(), "", 9).unwrap();
    drop(systemd);
    let calls = fake.calls();
    assert_eq!(
        members(&calls),
        ["Hello", "SetUnitProperties", "AttachProcessesToUnit"]
    );
    assert_eq!(calls[1].signature, "sba(sv)");
}

#[test]
fn a_refusal_names_the_unit_and_the_remedy() {
    let fake = Fake::new(|call| match call.member.as_str() {
        "Hello" => vec![answer(call, ":1.9")],
        _ => vec![refusal(
            call,
            "org.freedesktop.DBus.Error.ServiceUnknown",
            "The name org.freedesktop.systemd1 was not provided",
        )],
    });
    let error = fake.systemd().start(&unit(), 41, &[]).unwrap_err();
    assert_eq!(error.step, "start systemd unit");
    assert!(error.cause.contains("cgroupfs driver"), "{error}");
}

#[test]
fn a_silent_bus_is_left_at_the_deadline() {
    let fake = Fake::new(|call| match call.member.as_str() {
        "Hello" => vec![answer(call, ":1.9")],
        _ => Vec::new(),
    });
    let mut systemd = fake.systemd();
    systemd.bus.hurry(Duration::from_millis(20));
    let error = systemd.stop(&unit()).unwrap_err();
    assert!(error.cause.contains("in time"), "{error}");
}

#[test]
fn garbage_from_the_bus_is_an_error() {
    let fake = Fake::new(|call| match call.member.as_str() {
        "Hello" => vec![answer(call, ":1.9")],
        _ => vec![Message {
            path: "x".repeat(2 << 20),
            ..answer(call, "/")
        }],
    });
    let mut systemd = fake.systemd();
    let error = systemd
        .set(&unit(), &[("A", Value::Bool(true))])
        .unwrap_err();
    assert!(error.cause.contains("no D-Bus message"), "{error}");
    // The fake cannot finish writing; it hears that we are gone.
    drop(systemd);
}

#[test]
fn a_bus_that_is_not_there_is_named_with_the_remedy() {
    let error = Systemd::at("unix:path=/nonexistent/bus", 0).unwrap_err();
    assert!(error.subject.contains("/nonexistent/bus"), "{error}");
}

#[test]
fn a_user_namespace_does_not_hide_who_we_are() {
    let map = "         0       1000          1\n         1     100000      65536\n";
    assert_eq!(host_uid(map, 0), 1000);
    assert_eq!(host_uid(map, 33), 100_032);
    assert_eq!(host_uid("0 0 4294967295\n", 0), 0);
    assert_eq!(host_uid("", 5), 5);
}
