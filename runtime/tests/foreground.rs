//! Commands that stay: their terminal, their signals, and who else hears of a container.

mod support;

use std::io::{IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::process::{Child, Stdio};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::OpenptFlags;
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};
use serde_json::{Value, json};
use support::cli::{Bundle, ID};
use support::lines::Lines;
use support::{PATIENCE, eventually};

/// The terminal of whoever calls the runtime.
struct Caller {
    master: std::fs::File,
    slave: OwnedFd,
}

impl Caller {
    fn new(rows: u16, columns: u16) -> Caller {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = rustix::pty::openpt(flags).unwrap();
        rustix::pty::unlockpt(&master).unwrap();
        let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags).unwrap();
        let caller = Caller {
            master: master.into(),
            slave,
        };
        caller.resize(rows, columns);
        caller
    }

    fn resize(&self, rows: u16, columns: u16) {
        let size = Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&self.slave, size).unwrap();
    }

    fn spawn(&self, bundle: &Bundle, args: &[&str]) -> Child {
        let end = || Stdio::from(self.slave.try_clone().unwrap());
        let mut command = bundle.command(args);
        command
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .spawn()
            .unwrap()
    }

    fn modes(&self) -> LocalModes {
        tcgetattr(&self.slave).unwrap().local_modes
    }

    fn is_raw(&self) -> bool {
        !self.modes().contains(LocalModes::ICANON)
    }

    fn press(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).unwrap();
    }

    fn until(&mut self, words: &str) -> String {
        until(&mut self.master, words)
    }
}

/// There is something to read, or somebody to accept.
fn comes(end: impl AsFd, what: &str) {
    let patience = PATIENCE.try_into().unwrap();
    let ready = poll(&mut [PollFd::new(&end, PollFlags::IN)], Some(&patience));
    assert_eq!(ready.unwrap(), 1, "{what} does not come");
}

/// Reads until the screen of a terminal's master shows it.
fn until(master: &mut std::fs::File, words: &str) -> String {
    let mut screen = String::new();
    let mut bytes = [0; 1024];
    while !screen.contains(words) {
        comes(&*master, &format!("after {screen:?}, {words:?}"));
        let length = master.read(&mut bytes).unwrap();
        screen += &String::from_utf8_lossy(&bytes[..length]);
    }
    screen
}

fn terminal(spec: &mut Value) {
    spec["process"]["terminal"] = json!(true);
}

fn pid(child: &Child) -> Pid {
    Pid::from_child(child)
}

#[test]
#[ignore = "needs root"]
fn an_exec_s_terminal_is_the_caller_s() {
    let bundle = Bundle::running(|_| {});
    let mut caller = Caller::new(33, 77);
    let before = caller.modes();
    let mut child = caller.spawn(&bundle, &["exec", "--tty", ID, "/bin/sh"]);
    eventually("the caller's terminal is raw", || caller.is_raw());
    caller.press("stty size; tty; echo to-the''-end\n");
    let screen = caller.until("to-the-end\r\n");
    assert!(
        screen.contains("33 77") && screen.contains("/dev/pts/0"),
        "{screen}"
    );
    caller.resize(10, 20);
    kill_process(pid(&child), Signal::WINCH).unwrap();
    caller.press("until stty size | grep '10 20'; do :; done; stat -c %u /dev/pts/0\n");
    caller.until("10 20\r\n");
    // ^C is the shell's, not ours; then its exit status is.
    caller.press("sleep 1000\n");
    // It takes the terminal before it becomes what was typed.
    eventually("the shell's child has the terminal", || {
        let typed = |pid: &u32| {
            std::fs::read(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|words| words.starts_with(b"sleep\0"))
        };
        bundle.group().processes().unwrap().iter().any(typed)
    });
    caller.press("\u{3}");
    caller.press("exit 7\n");
    assert_eq!(child.wait().unwrap().code(), Some(7));
    assert_eq!(caller.modes(), before, "the caller's terminal is as it was");
}

#[test]
#[ignore = "needs root"]
fn the_caller_s_terminal_is_set_back_however_the_process_ends() {
    let bundle = Bundle::running(|_| {});
    let caller = Caller::new(24, 80);
    let before = caller.modes();
    let mut child = caller.spawn(
        &bundle,
        &["exec", "-t", "--pid-file", "pid", ID, "sleep", "1000"],
    );
    eventually("the caller's terminal is raw", || caller.is_raw());
    let inner = std::fs::read_to_string(bundle.path("pid")).unwrap();
    eventually("the program runs", || {
        let line = std::fs::read(format!("/proc/{inner}/cmdline"));
        line.is_ok_and(|line| line.starts_with(b"sleep"))
    });
    kill_process(Pid::from_raw(inner.parse().unwrap()).unwrap(), Signal::KILL).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(137));
    assert_eq!(caller.modes(), before);
    // One that cannot be started.
    let mut child = caller.spawn(&bundle, &["exec", "-t", ID, "missing"]);
    assert_eq!(child.wait().unwrap().code(), Some(255));
    assert_eq!(caller.modes(), before);
}

#[test]
#[ignore = "needs root"]
fn a_container_runs_in_the_caller_s_terminal() {
    let bundle = Bundle::new(|spec| {
        terminal(spec);
        spec["process"]["args"] = json!([
            "/bin/sh",
            "-c",
            "stty size; read -r line; echo got $line; exit 3"
        ]);
    });
    let mut caller = Caller::new(5, 6);
    let before = caller.modes();
    let mut child = caller.spawn(&bundle, &["run", ID]);
    caller.until("5 6\r\n");
    caller.press("keys\n");
    caller.until("got keys\r\n");
    assert_eq!(child.wait().unwrap().code(), Some(3));
    assert_eq!(caller.modes(), before);
    assert!(bundle.ok(&["list", "--quiet"]).is_empty(), "it is deleted");
}

#[test]
#[ignore = "needs root"]
fn a_caller_without_a_terminal_can_give_one() {
    let bundle = Bundle::running(|_| {});
    let output = bundle.run(&[
        "exec",
        "-t",
        ID,
        "sh",
        "-c",
        "test -t 0 && echo yes; seq 20000 | tail -n 1",
    ]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "yes\r\n20000\r\n");
    // To the last byte, though the process ends at once.
    let long = bundle.run(&["exec", "-t", ID, "seq", "5000"]);
    let text = String::from_utf8(long.stdout).unwrap();
    assert_eq!(text.lines().count(), 5000);
}

#[test]
#[ignore = "needs root"]
fn a_signal_is_the_process_s() {
    let script = "trap 'exit 7' TERM; echo ready; while :; do sleep 0.1; done";
    let bundle = Bundle::new(|spec| spec["process"]["args"] = json!(["/bin/sh", "-c", script]));
    let mut child = bundle
        .command(&["run", ID])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    assert_eq!(Lines::of(&mut child).next(), "ready");
    let exec_script = script.replace("exit 7", "exit 8");
    let mut exec = bundle
        .command(&["exec", ID, "sh", "-c", &exec_script])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    assert_eq!(Lines::of(&mut exec).next(), "ready");
    kill_process(pid(&exec), Signal::TERM).unwrap();
    assert_eq!(exec.wait().unwrap().code(), Some(8));
    kill_process(pid(&child), Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(7));
}

fn received(listener: &UnixListener) -> (String, std::fs::File) {
    comes(listener, "a caller");
    let (stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut name = [0; 64];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [IoSliceMut::new(&mut name)];
    let got = rustix::net::recvmsg(
        stream.as_fd(),
        &mut bytes,
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )
    .unwrap();
    let Some(RecvAncillaryMessage::ScmRights(mut fds)) = control.drain().next() else {
        panic!("no descriptor")
    };
    (
        String::from_utf8_lossy(&name[..got.bytes]).into_owned(),
        fds.next().unwrap().into(),
    )
}

#[test]
#[ignore = "needs root"]
fn a_detached_terminal_goes_to_the_console_socket() {
    let bundle = Bundle::new(|spec| {
        terminal(spec);
        spec["process"]["args"] = json!(["/bin/sh", "-c", "echo first; exec sleep 1000"]);
    });
    let listener = UnixListener::bind(bundle.path("console")).unwrap();
    for args in [
        &["create", ID][..],
        &["run", "--detach", ID],
        &["run", "--console-socket", "console", ID],
        &["create", "--console-socket", "nothing", ID],
    ] {
        let (_, refusal) = bundle.refusal(args);
        assert!(refusal.contains("console socket"), "{refusal}");
    }
    bundle.ok(&["create", "--console-socket", "console", ID]);
    let (name, mut master) = received(&listener);
    assert_eq!(name, "/dev/pts/0");
    bundle.ok(&["start", ID]);
    assert_eq!(until(&mut master, "\n"), "first\r\n");
    for args in [
        &["exec", "-d", "-t", ID, "true"][..],
        &["exec", "--console-socket", "console", ID, "true"],
        &["exec", "-d", "--console-socket", "console", ID, "true"],
    ] {
        assert!(bundle.refusal(args).1.contains("console socket"));
    }
    bundle.ok(&[
        "exec",
        "-d",
        "-t",
        "--console-socket",
        "console",
        ID,
        "echo",
        "second",
    ]);
    let (_, mut master) = received(&listener);
    assert_eq!(until(&mut master, "\n"), "second\r\n");
}

#[test]
#[ignore = "needs root"]
fn a_supervisor_hears_that_the_container_is_ready() {
    // logger speaks to /dev/log what nothing in a small image could speak to NOTIFY_SOCKET.
    let script = "ln -s $NOTIFY_SOCKET /dev/log; logger \"$(printf 'x\\nSTATUS=evil\\nREADY=1\\nMAINPID=1')\"; exec sleep 1000";
    let bundle = Bundle::new(|spec| spec["process"]["args"] = json!(["/bin/sh", "-c", script]));
    for applet in ["logger", "ln", "printf"] {
        std::os::unix::fs::symlink("busybox", bundle.image("bin").join(applet)).unwrap();
    }
    let supervisor = UnixDatagram::bind(bundle.path("supervisor")).unwrap();
    supervisor.set_read_timeout(Some(PATIENCE)).unwrap();
    let with_supervisor = |args: &[&str]| {
        let mut command = bundle.command(args);
        command.env("NOTIFY_SOCKET", bundle.path("supervisor"));
        command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    };
    let hear = || {
        let mut text = [0; 256];
        let length = supervisor.recv(&mut text).unwrap();
        String::from_utf8_lossy(&text[..length]).into_owned()
    };
    assert!(with_supervisor(&["create", ID]).wait().unwrap().success());
    let mut start = with_supervisor(&["start", ID]);
    assert_eq!(hear(), "READY=1");
    assert_eq!(hear(), format!("MAINPID={}", bundle.pid()));
    assert_eq!(hear(), "BARRIER=1");
    assert!(start.wait().unwrap().success());
    // Whoever joins later is no business of the supervisor's.
    assert_eq!(
        bundle.exec(&[ID, "sh", "-c", "echo [$NOTIFY_SOCKET]"]),
        "[]\n"
    );
}

#[test]
#[ignore = "needs root"]
fn an_activated_container_has_its_sockets() {
    let script = "echo $LISTEN_FDS $LISTEN_FDNAMES; test $LISTEN_PID = $$ && cat <&3; cat <&4; ls /proc/self/fd";
    let bundle = Bundle::new(|spec| spec["process"]["args"] = json!(["/bin/sh", "-c", script]));
    bundle.write("three", "three\n");
    bundle.write("four", "four\n");
    let shell = "LISTEN_FDS=1 LISTEN_FDNAMES=web LISTEN_PID=$$ exec $RUNTIME --root $STATE run --preserve-fds 1 c1 3<three 4<four 5<four";
    let output = std::process::Command::new("/bin/sh")
        .args(["-c", shell])
        .env("RUNTIME", env!("CARGO_BIN_EXE_longshore-runtime"))
        .env("STATE", bundle.path("state"))
        .current_dir(bundle.path(""))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    // 5 is the directory that ls reads.
    assert_eq!(said, "1 web\nthree\nfour\n0\n1\n2\n3\n4\n5\n", "{output:?}");
}
