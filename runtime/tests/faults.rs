//! Somebody is killed on the way: the agent, the monitor, both. Nothing is lost that a successor cannot find.

mod support;

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use longshore_runtime::container::{Container, Kept, State};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use support::{Host, Root, eventually, wait};

const ROLE: &str = "LONGSHORE_TEST_CREATOR";

/// Not a test of its own: the process that another test starts, lets create a container, and kills.
#[test]
#[ignore = "needs root"]
fn role_of_the_creating_process() {
    let Ok(text) = std::env::var(ROLE) else {
        return;
    };
    let text: serde_json::Value = serde_json::from_str(&text).unwrap();
    let host = Host::new();
    let spec = serde_json::from_value(text["spec"].clone()).unwrap();
    let path = |name: &str| PathBuf::from(text[name].as_str().unwrap());
    let launch = longshore_runtime::container::Launch {
        id: "c1",
        spec: &spec,
        root: Root::busybox().mount,
        run_dir: &path("run_dir"),
        log_dir: &path("log_dir"),
        monitor_cgroup: text["monitor_cgroup"].as_str().unwrap(),
    };
    host.runtime.create(launch).unwrap();
    eprintln!("created");
    std::thread::park();
}

fn creator(host: &Host, spec: &oci_spec::runtime::Spec) -> Child {
    let text = json!({
        "spec": spec,
        "run_dir": host.run_dir(),
        "log_dir": host.log_dir(),
        "monitor_cgroup": format!("{}/monitor", host.cgroup),
    });
    Command::new(std::env::current_exe().unwrap())
        .args([
            "--ignored",
            "--exact",
            "--nocapture",
            "role_of_the_creating_process",
        ])
        .env(ROLE, text.to_string())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Kills a creating process for good, and what its own (other) host held.
fn kill_creator(mut creator: Child) {
    let own = format!("longshore-test-{}-0", creator.id());
    creator.kill().unwrap();
    creator.wait().unwrap();
    let hierarchy = longshore_runtime::cgroup::Hierarchy::of_host().unwrap();
    hierarchy.group(&own).unwrap().remove().unwrap();
}

fn kill_monitor(host: &Host) {
    let monitors = host.monitors();
    assert_eq!(monitors.len(), 1);
    kill(Pid::from_raw(monitors[0] as i32), Signal::SIGKILL).unwrap();
}

/// A container that runs and has lost its monitor, and what its watcher kept.
fn orphan(host: &Host, script: &str) -> (Container, Kept) {
    let spec = host.spec(&["/bin/sh", "-c", script], |_| {});
    let container = host.create(&spec, Root::busybox()).unwrap();
    container.start().unwrap();
    let (mut end, kept) = container.watch().unwrap();
    eventually("the program is ready", || host.output().contains("ready"));
    kill_monitor(host);
    assert_eq!(end.read(&mut [0]).unwrap(), 0);
    eventually("the lock is free", || {
        container.state().unwrap() == State::MonitorLost
    });
    (container, kept.unwrap())
}

#[test]
#[ignore = "needs root"]
fn a_lost_monitor_is_replaced_and_nothing_else_is_lost() {
    let host = Host::new();
    let script = "trap 'echo late; echo err >&2; exit 7' TERM; echo ready; while :; do echo on; sleep 0.01; done";
    let (container, kept) = orphan(&host, script);
    host.runtime
        .take_over(&container, kept, &host.log_dir(), &host.monitor_cgroup())
        .unwrap();
    assert!(matches!(container.state().unwrap(), State::Running { .. }));
    container.start().unwrap();
    assert_eq!(host.monitors().len(), 1);
    let mut end = container.subscribe().unwrap();
    container.signal(15).unwrap();
    assert_eq!(end.read(&mut [0]).unwrap(), 0);
    let exit = container.exit_record().unwrap().unwrap();
    let told = exit.code.is_none_or(|code| code == 7);
    assert!(exit.started && told, "{exit:?}");
    let release = nix::sys::utsname::uname().unwrap().release().to_owned();
    if version(&release.to_string_lossy()) >= (6, 15) {
        assert_eq!(exit.code, Some(7), "the kernel keeps it");
    }
    let output = host.output();
    assert!(
        output.ends_with("late\nerr\n") || output.ends_with("err\nlate\n"),
        "{output}"
    );
}

fn version(release: &str) -> (u32, u32) {
    let mut numbers = release
        .split(['.', '-'])
        .map_while(|word| word.parse().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[test]
#[ignore = "needs root"]
fn a_lost_monitor_of_a_container_that_has_ended_meanwhile_is_replaced_too() {
    let host = Host::new();
    let script = "trap 'echo late; exit 7' TERM; echo ready; while :; do sleep 0.01; done";
    let (container, kept) = orphan(&host, script);
    container.signal(15).unwrap();
    eventually("it has ended", || {
        host.group("c1").processes().unwrap().is_empty()
    });
    host.runtime
        .take_over(&container, kept, &host.log_dir(), &host.monitor_cgroup())
        .unwrap();
    let mut end = container.subscribe().unwrap();
    assert_eq!(end.read(&mut [0]).unwrap(), 0);
    let exit = container.exit_record().unwrap().unwrap();
    assert!(exit.code.is_none_or(|code| code == 7), "{exit:?}");
    assert_eq!(host.output(), "ready\nlate\n");
}

#[test]
#[ignore = "needs root"]
fn a_terminal_outlives_the_monitor_of_its_container() {
    let host = Host::new();
    let script = "trap 'echo hung up; exit 1' HUP; echo ready; while :; do sleep 0.01; done";
    let spec = host.spec(&["/bin/sh", "-c", script], |spec| {
        spec["process"]["terminal"] = json!(true);
    });
    let container = host.create(&spec, Root::busybox()).unwrap();
    container.start().unwrap();
    let (mut end, kept) = container.watch().unwrap();
    eventually("the program is ready", || host.output().contains("ready"));
    kill_monitor(&host);
    assert_eq!(end.read(&mut [0]).unwrap(), 0);
    eventually("the lock is free", || {
        container.state().unwrap() == State::MonitorLost
    });
    host.runtime
        .take_over(
            &container,
            kept.unwrap(),
            &host.log_dir(),
            &host.monitor_cgroup(),
        )
        .unwrap();
    container.resize(40, 100).unwrap();
    drop(container.attach().unwrap());
    container.delete().unwrap();
    assert!(!host.output().contains("hung up"), "{}", host.output());
}

#[test]
#[ignore = "needs root"]
fn nothing_is_taken_over_that_has_a_monitor_or_needs_none() {
    let host = Host::new();
    let take_over = |container: &Container, kept| {
        let taken =
            host.runtime
                .take_over(container, kept, &host.log_dir(), &host.monitor_cgroup());
        taken.unwrap_err()
    };
    let spec = host.spec(&["/bin/sleep", "1000"], |_| {});
    let container = host.create(&spec, Root::busybox()).unwrap();
    let kept = || container.watch().unwrap().1.unwrap();
    let (early, living, late) = (kept(), kept(), kept());
    assert_eq!(take_over(&container, living).step, "lock run directory");
    container.start().unwrap();
    container.signal(9).unwrap();
    assert_eq!(wait(&container).code, 137);
    assert!(take_over(&container, late).cause.contains("exit record"));
    container.delete().unwrap();
    let container = host.create(&spec, Root::busybox()).unwrap();
    kill_monitor(&host);
    eventually("the lock is free", || {
        container.state().unwrap() == State::MonitorLost
    });
    let refused = take_over(&container, early);
    assert!(refused.cause.contains("never started"), "{refused}");
}

#[test]
#[ignore = "needs root"]
fn the_agent_dies_between_create_and_start() {
    let host = Host::new();
    let mut creator = creator(
        &host,
        &host.spec(&["/bin/sh", "-c", "echo survived"], |_| {}),
    );
    let mut lines = BufReader::new(creator.stderr.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().ends_with("created")));
    kill_creator(creator);
    let container = Container::open(&host.run_dir()).unwrap();
    assert!(matches!(container.state().unwrap(), State::Created { .. }));
    container.start().unwrap();
    assert_eq!(wait(&container).code, 0);
    assert_eq!(host.output(), "survived\n");
}

/// Init hangs in the opening of a namespace's path that is a fifo, for as long as the test needs.
fn endless(host: &Host) -> oci_spec::runtime::Spec {
    let fifo = host.directory.path().join("fifo");
    if !fifo.exists() {
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    }
    host.spec(&["/bin/true"], |spec| {
        spec["linux"]["namespaces"][1] = json!({"type": "network", "path": fifo});
    })
}

fn hangs_in_fifo(host: &Host) -> bool {
    let pids = host.group("c1").processes().unwrap_or_default();
    // musl still calls open(2) where there is one.
    let open = [
        libc::SYS_openat,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_open,
    ];
    let hangs = |pid: &u32| support::sleeps_in(*pid, &open);
    pids.iter().any(hangs)
}

#[test]
#[ignore = "needs root"]
fn the_agent_dies_while_it_creates_and_its_successor_begins_again() {
    let host = Host::new();
    let creator = creator(&host, &endless(&host));
    eventually("init hangs", || hangs_in_fifo(&host));
    kill_creator(creator);
    assert_eq!(host.container().state().unwrap(), State::Creating);
    let container = host
        .create(&host.spec(&["/bin/true"], |_| {}), Root::busybox())
        .unwrap();
    container.start().unwrap();
    assert_eq!(wait(&container).code, 0);
}

#[test]
#[ignore = "needs root"]
fn the_monitor_dies_while_it_creates() {
    let host = Host::new();
    let spec = endless(&host);
    std::thread::scope(|scope| {
        let create = scope.spawn(|| host.create(&spec, Root::busybox()));
        eventually("init hangs", || hangs_in_fifo(&host));
        kill_monitor(&host);
        assert_eq!(create.join().unwrap().unwrap_err().subject, "monitor");
    });
    host.assert_nothing_left();
}

#[test]
#[ignore = "needs root"]
fn the_monitor_dies_before_the_start() {
    let host = Host::new();
    let container = host
        .create(&host.spec(&["/bin/true"], |_| {}), Root::busybox())
        .unwrap();
    let mut end = container.subscribe().unwrap();
    kill_monitor(&host);
    assert_eq!(end.read(&mut [0]).unwrap(), 0);
    eventually("the lock is free", || {
        container.state().unwrap() == State::MonitorLost
    });
    assert!(
        container
            .start()
            .unwrap_err()
            .cause
            .contains("monitor is lost")
    );
    eventually("init ends by itself", || {
        host.group("c1").processes().unwrap().is_empty()
    });
    // Nothing of it ever ran, so it is made anew.
    let container = host
        .create(&host.spec(&["/bin/true"], |_| {}), Root::busybox())
        .unwrap();
    container.start().unwrap();
    assert_eq!(wait(&container).code, 0);
}

#[test]
#[ignore = "needs root"]
fn the_monitor_dies_and_the_container_goes_on() {
    let host = Host::new();
    let spec = host.spec(&["/bin/sleep", "1000"], |_| {});
    let container = host.create(&spec, Root::busybox()).unwrap();
    container.start().unwrap();
    let mut end = container.subscribe().unwrap();
    kill_monitor(&host);
    assert_eq!(end.read(&mut [0]).unwrap(), 0);
    eventually("the lock is free", || {
        container.state().unwrap() == State::MonitorLost
    });
    assert_eq!(container.subscribe().unwrap().read(&mut [0]).unwrap(), 0);
    assert_eq!(container.exit_record().unwrap(), None);
    assert_eq!(host.group("c1").processes().unwrap().len(), 1);
    host.create(&spec, Root::busybox()).unwrap();
    assert_eq!(
        container.state().unwrap(),
        State::MonitorLost,
        "what ran is not made anew in silence"
    );
    container.signal(9).unwrap();
    eventually("a signal needs no monitor", || {
        host.group("c1").processes().unwrap().is_empty()
    });
    container.delete().unwrap();
    host.assert_nothing_left();
}

#[test]
#[ignore = "needs root"]
fn a_terminal_does_not_end_the_monitor() {
    let host = Host::new();
    let container = host
        .create(&host.spec(&["/bin/sleep", "1000"], |_| {}), Root::busybox())
        .unwrap();
    container.start().unwrap();
    let monitor = Pid::from_raw(host.monitors()[0] as i32);
    for signal in [
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
        Signal::SIGPIPE,
        Signal::SIGUSR1,
        Signal::SIGQUIT,
    ] {
        kill(monitor, signal).unwrap();
    }
    container.signal(9).unwrap();
    assert_eq!(wait(&container).code, 137);
}

#[test]
#[ignore = "needs root"]
fn whatever_half_of_a_container_is_left_delete_removes_it() {
    let host = Host::new();
    let container = host.container();
    std::fs::create_dir_all(host.run_dir()).unwrap();
    assert_eq!(container.state().unwrap(), State::Creating);
    container.delete().unwrap();
    // A record without its cgroup, then a cgroup of a record that nobody serves.
    let record = json!({"version": 1, "id": "c1", "cgroup": format!("{}/c1", host.cgroup), "phase": "creating", "init": null});
    for make_group in [false, true] {
        std::fs::create_dir_all(host.run_dir()).unwrap();
        std::fs::write(host.run_dir().join("state.json"), record.to_string()).unwrap();
        if make_group {
            host.group("c1").create().unwrap();
        }
        container.delete().unwrap();
        host.assert_nothing_left();
    }
}

#[test]
#[ignore = "needs root"]
fn a_log_directory_that_refuses_does_not_stop_the_container() {
    let host = Host::new();
    let spec = host.spec(&["/bin/sh", "-c", "seq 1 50000; exit 3"], |_| {});
    let container = host.create(&spec, Root::busybox()).unwrap();
    std::fs::remove_dir_all(host.log_dir()).unwrap();
    container.start().unwrap();
    assert_eq!(wait(&container).code, 3);
}

#[test]
#[ignore = "needs root"]
fn a_missing_monitor_cgroup_is_an_error_and_leaves_nothing() {
    let host = Host::new();
    let spec = host.spec(&["/bin/true"], |_| {});
    let launch = longshore_runtime::container::Launch {
        id: "c1",
        spec: &spec,
        root: Root::busybox().mount,
        run_dir: &host.run_dir(),
        log_dir: &host.log_dir(),
        monitor_cgroup: &format!("{}/nowhere", host.cgroup),
    };
    host.runtime.create(launch).unwrap_err();
    assert!(!Path::new(&host.run_dir()).exists());
}
