//! Init between `create` and execve: killed, stopped, looked into, and visited by whoever finds its door.

mod support;

use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Stdio};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use support::cli::{Bundle, ID};
use support::{PATIENCE, eventually};

fn signal(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid as i32).unwrap(), signal).unwrap();
}

/// A line of /proc/PID/status.
fn status(pid: u32, name: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap().trim_start_matches(':').trim().to_owned()
}

fn spawn(bundle: &Bundle, args: &[&str]) -> Child {
    bundle
        .command(args)
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(bundle.path("said")).unwrap())
        .spawn()
        .unwrap()
}

/// How a command ended, and what it said. One that does not end is killed with all that it started.
fn end(bundle: &Bundle, mut command: Child) -> (Option<i32>, String) {
    let deadline = std::time::Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = command.try_wait().unwrap() {
            break status;
        }
        if std::time::Instant::now() > deadline {
            command.kill().unwrap();
            command.wait().unwrap();
            bundle.run(&["delete", "--force", ID]);
            panic!("it does not end");
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    };
    let said = std::fs::read_to_string(bundle.path("said")).unwrap();
    (status.code(), said)
}

/// It is connected to the door and waits for an answer.
fn has_knocked(start: &Child) -> bool {
    let pid = start.id();
    let fds = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let links = fds.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
    let sockets = links.filter(|link| link.to_string_lossy().starts_with("socket:"));
    let waits = [libc::SYS_ppoll, libc::SYS_recvfrom, libc::SYS_recvmsg];
    sockets.count() == 1 && support::sleeps_in(pid, &waits)
}

/// It has become the program of an unchanged bundle.
fn executes_sleep(pid: u32) -> bool {
    std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.starts_with(b"/bin/sleep"))
}

fn status_of(bundle: &Bundle) -> String {
    let state: Value = serde_json::from_str(&bundle.ok(&["state", ID])).unwrap();
    state["status"].as_str().unwrap().to_owned()
}

/// An end of file at the door is no success: a start that was never heard would be taken for one that was.
#[test]
#[ignore = "needs root"]
fn a_container_whose_init_is_killed_on_its_way_has_not_started() {
    let bundle = Bundle::new(|_| {});
    bundle.ok(&["create", ID]);
    let init = bundle.pid();
    signal(init, Signal::STOP);
    let start = spawn(&bundle, &["start", ID]);
    eventually("start waits", || has_knocked(&start));
    signal(init, Signal::KILL);
    let (code, said) = end(&bundle, start);
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("was killed before it could execute it: by `kill` or `delete --force`"),
        "{said}"
    );
    assert_eq!(status_of(&bundle), "stopped");
}

#[test]
#[ignore = "needs root"]
fn a_start_that_goes_away_changes_nothing_for_the_next_one() {
    let bundle = Bundle::new(|_| {});
    bundle.ok(&["create", ID]);
    let init = bundle.pid();
    signal(init, Signal::STOP);
    let mut start = spawn(&bundle, &["start", ID]);
    eventually("start waits", || has_knocked(&start));
    start.kill().unwrap();
    start.wait().unwrap();
    signal(init, Signal::CONT);
    // It was told: the program runs, as the record says.
    eventually("the program runs", || executes_sleep(init));
    assert_eq!(status_of(&bundle), "running");
}

/// What waits, perhaps for long, has no more than it needs.
#[test]
#[ignore = "needs root"]
fn a_waiting_init_has_nothing_of_the_host_and_few_capabilities() {
    for (no_new_privileges, more) in [(true, 0), (false, 1 << 21)] {
        let bundle = Bundle::new(|spec| {
            spec["process"]["noNewPrivileges"] = json!(no_new_privileges);
            spec["process"]["user"] = json!({"uid": 33, "gid": 33});
            spec["process"]["oomScoreAdj"] = json!(500);
            spec["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW"});
            spec["hooks"] = json!({"createContainer": [{"path": "/bin/true"}]});
        });
        bundle.ok(&["create", ID]);
        let init = bundle.pid();
        let mut open: Vec<(u32, String)> = std::fs::read_dir(format!("/proc/{init}/fd"))
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| {
                let link = std::fs::read_link(entry.path()).unwrap();
                let number = entry.file_name().to_str().unwrap().parse().unwrap();
                (number, link.to_string_lossy().into_owned())
            })
            .collect();
        open.sort();
        let beyond = open.split_off(3);
        assert!(
            matches!(&beyond[..], [(_, door)] if door.starts_with("socket:")),
            "{beyond:?}"
        );
        let permitted = u64::from_str_radix(&status(init, "CapPrm"), 16).unwrap();
        // CHOWN, DAC_OVERRIDE, KILL, SETGID, SETUID, NET_BIND_SERVICE, as in the spec.
        let own = [0, 1, 5, 6, 7, 10]
            .map(|bit| 1u64 << bit)
            .iter()
            .sum::<u64>();
        assert_eq!(permitted, own | more, "{permitted:x}");
        bundle.ok(&["start", ID]);
        eventually("it is the program", || executes_sleep(init));
        assert_eq!(status(init, "Seccomp"), "2");
        let permitted = u64::from_str_radix(&status(init, "CapPrm"), 16).unwrap();
        assert_eq!(permitted & (1 << 21), 0, "{permitted:x}");
    }
}

#[test]
#[ignore = "needs root"]
fn visitors_at_the_door_who_say_nothing_or_nonsense_change_nothing() {
    let bundle = Bundle::new(|_| {});
    bundle.ok(&["create", ID]);
    let directory = std::fs::File::open(bundle.path("state").join(ID)).unwrap();
    let address = format!("/proc/self/fd/{}/start.sock", directory.as_raw_fd());
    let knock = || {
        let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
        let socket = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, None).unwrap();
        rustix::net::connect(&socket, &SocketAddrUnix::new(&*address).unwrap()).unwrap();
        socket
    };
    let long = vec![b'"'; 60_000];
    for words in [&b""[..], b"{", b"\"Proceed\"", b"\"Star", &[0xff; 9], &long] {
        for _ in 0..20 {
            let socket = knock();
            rustix::net::send(&socket, words, rustix::net::SendFlags::NOSIGNAL).ok();
        }
    }
    assert_eq!(status_of(&bundle), "created");
    bundle.ok(&["start", ID]);
    assert_eq!(status_of(&bundle), "running");
}

#[test]
#[ignore = "needs root"]
fn a_supervisor_that_cannot_be_told_ends_no_container() {
    let bundle = Bundle::new(|_| {});
    let with_supervisor = |args: &[&str]| {
        let mut command = bundle.command(&[&["--log", "log"], args].concat());
        command.env("NOTIFY_SOCKET", bundle.path("nobody"));
        command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap()
    };
    for commands in [
        &[&["create", ID][..], &["start", ID]][..],
        &[&["run", "-d", ID]],
    ] {
        for command in commands {
            assert!(with_supervisor(command).success(), "{command:?}");
        }
        assert_eq!(status_of(&bundle), "running");
        let log = std::fs::read_to_string(bundle.path("log")).unwrap();
        assert!(log.contains("connect to supervisor"), "{log}");
        std::fs::remove_file(bundle.path("log")).unwrap();
        bundle.ok(&["delete", "--force", ID]);
    }
}

#[test]
#[ignore = "needs root"]
fn nobody_waits_for_whoever_waits_for_a_ready_container() {
    let bundle = Bundle::new(|_| {});
    let supervisor = UnixDatagram::bind(bundle.path("supervisor")).unwrap();
    let with_supervisor = |args: &[&str]| {
        let mut command = bundle.command(args);
        command.env("NOTIFY_SOCKET", bundle.path("supervisor"));
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().unwrap()
    };
    assert!(with_supervisor(&["create", ID]).wait().unwrap().success());
    // A start that was killed in its time has left its socket.
    let stale = bundle.path("state").join(ID).join("notify/notify");
    drop(UnixDatagram::bind(&stale).unwrap());
    let mut start = with_supervisor(&["start", ID]);
    eventually("it runs", || status_of(&bundle) == "running");
    // Takes the lock.
    bundle.ok(&["update", "--pids-limit", "50", ID]);
    assert_eq!(start.try_wait().unwrap(), None, "it waits for READY");
    bundle.ok(&["kill", ID, "KILL"]);
    assert!(start.wait().unwrap().success());
    drop(supervisor);
}

/// `run` and `create` while a hook hangs, in the host's namespaces, in init, and once the program runs.
#[test]
#[ignore = "needs root"]
fn an_interrupt_ends_a_hanging_hook_and_leaves_nothing() {
    for (kind, commands) in [
        ("prestart", &[&["run"][..], &["run", "-d"], &["create"]][..]),
        ("createRuntime", &[&["run"]]),
        ("createContainer", &[&["run"], &["create"]]),
        (
            "startContainer",
            &[&["run"], &["run", "-d"], &["create", "start"]],
        ),
        ("poststart", &[&["run"], &["create", "start"]]),
    ] {
        for command in commands {
            let pids = std::process::id().to_string();
            // Its argument says whose it is; if the test fails, it is gone some time after.
            let hang = format!("100.{pids}");
            let bundle = Bundle::new(|spec| {
                let hook = json!({"path": "/bin/sleep", "args": ["sleep", hang]});
                spec["hooks"] = json!({kind: [hook]});
            });
            let hangs = || {
                let running = std::process::Command::new("pgrep")
                    .args(["-fx", &format!("sleep {hang}")])
                    .output();
                !running.unwrap().stdout.is_empty()
            };
            let mut args = command.to_vec();
            if let ["create", "start"] = args[..] {
                bundle.ok(&["create", ID]);
                args.remove(0);
            }
            args.push(ID);
            let child = spawn(&bundle, &args);
            eventually("the hook hangs", hangs);
            signal(child.id(), Signal::TERM);
            let (code, said) = end(&bundle, child);
            assert_eq!(code, Some(1), "{kind} {args:?}: {said}");
            assert!(
                said.contains("interrupted by SIGTERM"),
                "{kind} {args:?}: {said}"
            );
            assert!(!bundle.path("state").join(ID).exists(), "{kind} {args:?}");
            eventually("the hook has ended", || !hangs());
            assert!(!bundle.group().exists(), "{kind} {args:?}");
        }
    }
}

#[test]
#[ignore = "needs root"]
fn kill_ends_all_of_a_container_without_pids_of_its_own() {
    let bundle = Bundle::running(|spec| {
        let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|namespace| namespace["type"] != "pid");
        spec["process"]["args"] = json!(["/bin/sh", "-c", "sleep 1000 & wait"]);
    });
    eventually("both sleep", || {
        bundle.group().processes().unwrap().len() == 2
    });
    bundle.ok(&["kill", ID, "KILL"]);
    assert_eq!(bundle.group().processes().unwrap(), [0; 0]);
}

/// The supervisor is there when the container is made, and gone when the program has something to tell it.
#[test]
#[ignore = "needs root"]
fn a_supervisor_that_goes_away_ends_no_container() {
    for commands in [
        &[&["create", ID][..], &["start", ID]][..],
        &[&["run", "-d", ID]],
        &[&["run", ID]],
    ] {
        let bundle = Bundle::new(|spec| {
            // logger speaks to /dev/log what nothing in a small image could speak to NOTIFY_SOCKET.
            let script = "ln -s $NOTIFY_SOCKET /dev/log; until test -e /tmp/go; do sleep 0.01; done; \
                          logger \"$(printf 'x\\nREADY=1')\"; touch /tmp/told; exec sleep 1000";
            spec["process"]["args"] = json!(["/bin/busybox", "sh", "-c", script]);
        });
        for applet in ["ln", "logger", "printf", "test"] {
            std::os::unix::fs::symlink("busybox", bundle.image("bin").join(applet)).ok();
        }
        let supervisor = UnixDatagram::bind(bundle.path("supervisor")).unwrap();
        let with_supervisor = |args: &[&str]| {
            let mut command = bundle.command(&[&["--log", "log"], args].concat());
            command.env("NOTIFY_SOCKET", bundle.path("supervisor"));
            command
                .stdout(Stdio::null())
                .stderr(std::fs::File::create(bundle.path("said")).unwrap());
            command.spawn().unwrap()
        };
        let (last, before) = commands.split_last().unwrap();
        for command in before {
            assert!(with_supervisor(command).wait().unwrap().success());
        }
        let last = with_supervisor(last);
        eventually("it runs", || {
            bundle.run(&["state", ID]).status.success() && status_of(&bundle) == "running"
        });
        // A process that another test forks meanwhile has a copy: closing it here is not yet its end.
        supervisor.shutdown(std::net::Shutdown::Both).unwrap();
        drop(supervisor);
        std::fs::write(bundle.image("tmp/go"), "").unwrap();
        eventually("it has told", || bundle.image("tmp/told").exists());
        let log = || std::fs::read_to_string(bundle.path("log")).unwrap_or_default();
        eventually("there is a warning", || log().contains("tell supervisor"));
        let mut code = 0;
        if commands == [["run", ID]] {
            bundle.ok(&["kill", ID, "KILL"]);
            code = 137;
        } else {
            assert_eq!(status_of(&bundle), "running");
        }
        assert_eq!(end(&bundle, last), (Some(code), String::new()));
    }
}
