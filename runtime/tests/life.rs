//! A container's life from create to delete.

mod support;

use longshore_runtime::container::{Container, State};
use support::{Host, Root, eventually, wait};

#[test]
#[ignore = "needs root"]
fn a_program_runs_and_its_exit_code_is_recorded() {
    let host = Host::new();
    let spec = host.spec(&["/bin/true"], |_| {});
    let container = host.create(&spec, Root::busybox()).unwrap();
    assert!(matches!(container.state().unwrap(), State::Created { pid } if pid > 0));
    container.start().unwrap();
    let exit = wait(&container);
    assert_eq!((exit.code, exit.started, exit.oom_kills), (0, true, 0));
    container.delete().unwrap();
    host.assert_nothing_left();
}

#[test]
#[ignore = "needs root"]
fn exit_codes_and_both_streams_arrive() {
    let host = Host::new();
    let (exit, output) = host.shell("echo out; echo err >&2; printf rest; exit 42");
    assert_eq!(exit.code, 42);
    assert!(
        output.contains("out\n") && output.contains("err\n") && output.contains("rest"),
        "{output}"
    );
    let log = std::fs::read_to_string(host.log_dir().join("log.jsonl")).unwrap();
    assert!(
        log.contains(r#"{"log":"err\n","stream":"stderr","time":"2"#),
        "{log}"
    );
}

#[test]
#[ignore = "needs root"]
fn a_large_output_that_ends_with_the_program_is_whole() {
    let host = Host::new();
    let (exit, output) = host.shell("seq 1 20000");
    assert_eq!(exit.code, 0);
    let expected: String = (1..=20000).map(|number| format!("{number}\n")).collect();
    assert!(
        output == expected,
        "{} bytes of {}",
        output.len(),
        expected.len()
    );
}

#[test]
#[ignore = "needs root"]
fn a_short_program_never_hangs_and_never_loses_its_code() {
    let host = Host::new();
    for code in 0..50 {
        let (exit, output) = host.shell(&format!("echo {code}; exit {code}"));
        assert_eq!(exit.code, code);
        assert!(output.ends_with(&format!("{code}\n")));
    }
}

#[test]
#[ignore = "needs root"]
fn death_by_signal_is_128_and_the_signal() {
    let host = Host::new();
    let container = host
        .create(&host.spec(&["/bin/sleep", "1000"], |_| {}), Root::busybox())
        .unwrap();
    container.start().unwrap();
    assert!(matches!(container.state().unwrap(), State::Running { .. }));
    container.signal(9).unwrap();
    assert_eq!(wait(&container).code, 137);
    container.signal(9).unwrap();
}

#[test]
#[ignore = "needs root"]
fn a_program_handles_its_signals() {
    let host = Host::new();
    let script = "trap 'echo stopping; exit 7' TERM; echo ready; while :; do sleep 0.01; done";
    let container = host
        .create(
            &host.spec(&["/bin/sh", "-c", script], |_| {}),
            Root::busybox(),
        )
        .unwrap();
    container.start().unwrap();
    eventually("the program is ready", || host.output().contains("ready"));
    container.signal(15).unwrap();
    assert_eq!(wait(&container).code, 7);
    assert!(host.output().contains("stopping"));
    assert!(
        container.signal(999).is_ok(),
        "it has ended: nothing is sent"
    );
}

#[test]
#[ignore = "needs root"]
fn start_and_create_may_be_repeated() {
    let host = Host::new();
    let spec = host.spec(&["/bin/sleep", "1000"], |_| {});
    let first = host.create(&spec, Root::busybox()).unwrap();
    let State::Created { pid } = first.state().unwrap() else {
        panic!("not created")
    };
    let second = host.create(&spec, Root::busybox()).unwrap();
    assert_eq!(second.state().unwrap(), State::Created { pid });
    second.start().unwrap();
    first.start().unwrap();
    host.create(&spec, Root::busybox()).unwrap();
    assert_eq!(first.state().unwrap(), State::Running { pid });
    first.signal(9).unwrap();
    assert_eq!(wait(&first).code, 137);
    first.start().unwrap();
    assert!(matches!(
        host.create(&spec, Root::busybox())
            .unwrap()
            .state()
            .unwrap(),
        State::Stopped(_)
    ));
}

#[test]
#[ignore = "needs root"]
fn a_container_that_ended_before_its_start_cannot_be_started() {
    let host = Host::new();
    let container = host
        .create(&host.spec(&["/bin/true"], |_| {}), Root::busybox())
        .unwrap();
    container.signal(9).unwrap();
    let exit = wait(&container);
    assert_eq!((exit.code, exit.started), (137, false));
    assert!(
        container
            .start()
            .unwrap_err()
            .cause
            .contains("before it was started")
    );
}

#[test]
#[ignore = "needs root"]
fn delete_ends_what_runs_and_may_be_repeated() {
    let host = Host::new();
    let script = "sleep 1000 & sleep 1000 & echo ready; wait";
    let container = host
        .create(
            &host.spec(&["/bin/sh", "-c", script], |_| {}),
            Root::busybox(),
        )
        .unwrap();
    container.start().unwrap();
    eventually("the program is ready", || host.output().contains("ready"));
    let mut end = container.subscribe().unwrap();
    container.delete().unwrap();
    assert_eq!(std::io::Read::read(&mut end, &mut [0]).unwrap(), 0);
    container.delete().unwrap();
    host.assert_nothing_left();
    assert!(Container::open(&host.run_dir()).is_none());
    assert!(container.state().is_err());
    assert!(host.output().contains("ready"), "logs stay");
}

#[test]
#[ignore = "needs root"]
fn a_process_elsewhere_that_holds_the_output_does_not_keep_the_container_alive() {
    let host = Host::new();
    // Without a pid namespace of its own, a background process outlives the first one.
    let spec = host.spec(&["/bin/sh", "-c", "sleep 1000 & echo done"], |spec| {
        let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|namespace| namespace["type"] != "pid");
    });
    let (exit, output) = host.run(&spec, Root::busybox());
    assert_eq!((exit.code, output.as_str()), (0, "done\n"));
    assert_eq!(host.processes(), Vec::<u32>::new());
}

#[test]
#[ignore = "needs root"]
fn many_subscribers_and_starters_are_served() {
    let host = Host::new();
    let container = host
        .create(&host.spec(&["/bin/true"], |_| {}), Root::busybox())
        .unwrap();
    let subscribers: Vec<_> = (0..20).map(|_| container.subscribe().unwrap()).collect();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| container.start().unwrap());
        }
    });
    for mut subscriber in subscribers {
        assert_eq!(std::io::Read::read(&mut subscriber, &mut [0]).unwrap(), 0);
    }
    assert_eq!(container.exit_record().unwrap().unwrap().code, Some(0));
}

#[test]
#[ignore = "needs root"]
fn a_client_that_talks_nonsense_is_hung_up_on() {
    use std::io::{Read, Write};
    let host = Host::new();
    let container = host
        .create(&host.spec(&["/bin/true"], |_| {}), Root::busybox())
        .unwrap();
    let socket = host.run_dir().join("monitor.sock");
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&socket).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    for nonsense in ["GET / HTTP/1.1\n", "{}\n", "\n", "\0\0\n"] {
        let mut stream = std::os::unix::net::UnixStream::connect(&socket).unwrap();
        stream.write_all(nonsense.as_bytes()).unwrap();
        assert_eq!(stream.read(&mut [0; 64]).unwrap(), 0, "{nonsense:?}");
    }
    let mut stream = std::os::unix::net::UnixStream::connect(&socket).unwrap();
    stream
        .write_all(b"{\"version\":9,\"verb\":\"start\"}\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("version 9"), "{answer}");
    container.start().unwrap();
}

#[test]
#[ignore = "needs root"]
fn a_container_whose_init_is_killed_on_its_way_has_not_started() {
    let host = Host::new();
    let spec = host.spec(&["/bin/sleep", "1000"], |_| {});
    let container = host.create(&spec, Root::busybox()).unwrap();
    let State::Created { pid } = container.state().unwrap() else {
        panic!("{:?}", container.state())
    };
    container.signal(libc::SIGSTOP).unwrap();
    let starter = container.clone();
    let starting = std::thread::spawn(move || starter.start());
    eventually("start was ordered", || {
        container.state().unwrap() == State::Running { pid }
    });
    container.signal(libc::SIGKILL).unwrap();
    let refused = starting.join().unwrap().unwrap_err();
    assert!(refused.cause.contains("killed before"), "{refused}");
    assert!(!wait(&container).started);
    assert!(container.start().is_err());
}

/// CVE-2019-5736: the monitor and an init that waits are executed from a mount that nobody can write to, wherever the binary
/// lies.
#[test]
#[ignore = "needs root"]
fn a_monitor_and_its_init_come_from_a_read_only_clone() {
    let host = Host::new();
    let spec = host.spec(&["/bin/true"], |_| {});
    let container = host.create(&spec, Root::busybox()).unwrap();
    let pids = [host.group("monitor"), host.group("c1")].map(|group| group.processes().unwrap());
    assert!(pids.iter().all(|pids| !pids.is_empty()), "{pids:?}");
    for pid in pids.concat() {
        let mount = rustix::fs::statvfs(format!("/proc/{pid}/exe")).unwrap();
        let read_only = mount.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY);
        assert!(read_only, "{pid}");
    }
    container.delete().unwrap();
}
