//! ptrace(2): runs a program and kills one of its processes at the nth of its system calls, or lets the test do something
//! else at each.
//!
//! A process is named by the order of its birth: 0 is the program itself, 1 its first child. Calls are counted from
//! the program's first execve on, its own re-execution included.

#![allow(dead_code)] // Each test file uses its part.

use std::collections::HashMap;
use std::io::Write;
use std::process::{Command, Stdio};

use nix::sys::ptrace::{self, Event, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// Who is killed, and when.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Victim {
    /// In order of birth.
    pub(crate) process: usize,
    /// On entry to which of its calls, from 1.
    pub(crate) call: usize,
}

/// How a traced run ended.
#[derive(Debug)]
pub(crate) struct Traced {
    /// The exit status of the program itself; None if it was killed.
    pub(crate) status: Option<i32>,
    /// Whether the victim came as far as its call.
    pub(crate) reached: bool,
    /// System calls of each process, in order of birth.
    pub(crate) calls: Vec<usize>,
}

#[derive(Default)]
struct Tracee {
    born: usize,
}

/// What a test does when a process enters a system call, or before it comes back from it.
type OnCall<'a> = &'a mut dyn FnMut(Pid, Side);

/// Where a process stands still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Entry,
    Exit,
}

/// Runs `program` with `args`. No other thread of this process may wait for children meanwhile.
pub(crate) fn run(program: &str, args: &[String], victim: Victim) -> Traced {
    trace(program, args, Some(victim), victim.process > 0, None)
}

/// Runs `program` with `args` and calls `on_call` for each system call of it and of all that it starts: its exit status.
pub(crate) fn interfere(program: &str, args: &[String], on_call: OnCall<'_>) -> Option<i32> {
    trace(program, args, None, true, Some(on_call)).status
}

#[allow(clippy::zombie_processes)] // `Trace::follow` waits for it.
fn trace(
    program: &str,
    args: &[String],
    victim: Option<Victim>,
    all: bool,
    on_call: Option<OnCall<'_>>,
) -> Traced {
    let mut child = Command::new("/bin/sh")
        .args(["-c", "read go; exec \"$0\" \"$@\" </dev/null", program])
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let main = Pid::from_raw(child.id() as i32);
    let mut options =
        Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_TRACEEXEC | Options::PTRACE_O_EXITKILL;
    // Otherwise the children are left alone: one that is born while the program dies would stay stopped.
    if all {
        options |= Options::PTRACE_O_TRACEFORK
            | Options::PTRACE_O_TRACEVFORK
            | Options::PTRACE_O_TRACECLONE;
    }
    ptrace::seize(main, options).unwrap();
    ptrace::interrupt(main).unwrap();
    let mut trace = Trace {
        main,
        victim,
        on_call,
        began: false,
        tracees: HashMap::from([(main, Tracee::default())]),
        traced: Traced {
            status: None,
            reached: false,
            calls: vec![0],
        },
    };
    child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    trace.follow();
    trace.traced
}

struct Trace<'a> {
    main: Pid,
    victim: Option<Victim>,
    on_call: Option<OnCall<'a>>,
    /// The shell has become the program.
    began: bool,
    tracees: HashMap<Pid, Tracee>,
    traced: Traced,
}

impl Trace<'_> {
    /// Until the program itself has ended; what it leaves behind is let go.
    fn follow(&mut self) {
        loop {
            let status = match waitpid(None, Some(WaitPidFlag::__WALL)) {
                Err(nix::errno::Errno::EINTR) => continue,
                other => other.unwrap(),
            };
            match status {
                WaitStatus::Exited(pid, code) if pid == self.main => {
                    self.traced.status = Some(code);
                    break;
                }
                WaitStatus::Signaled(pid, ..) if pid == self.main => break,
                WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..) => {
                    self.tracees.remove(&pid);
                }
                WaitStatus::PtraceSyscall(pid) => self.call(pid),
                WaitStatus::PtraceEvent(pid, _, event) => self.event(pid, event),
                WaitStatus::Stopped(pid, signal) => go_on(pid, Some(signal)),
                other => panic!("{other:?}"),
            }
        }
        self.tracees.remove(&self.main);
        for pid in self.tracees.keys() {
            // It runs: only a stopped one can be let go. It may have ended.
            if ptrace::interrupt(*pid).is_ok() {
                self.let_go(*pid);
            }
        }
    }

    fn let_go(&self, pid: Pid) {
        loop {
            match waitpid(pid, Some(WaitPidFlag::__WALL)) {
                Ok(WaitStatus::PtraceEvent(..) | WaitStatus::PtraceSyscall(_)) => {
                    ptrace::detach(pid, None).ok();
                    return;
                }
                Ok(WaitStatus::Stopped(_, signal)) => {
                    ptrace::detach(pid, signal).ok();
                    return;
                }
                Err(nix::errno::Errno::EINTR) => {}
                Ok(_) | Err(_) => return,
            }
        }
    }

    fn tracee(&mut self, pid: Pid) -> &mut Tracee {
        let calls = &mut self.traced.calls;
        self.tracees.entry(pid).or_insert_with(|| {
            calls.push(0);
            Tracee {
                born: calls.len() - 1,
            }
        })
    }

    fn call(&mut self, pid: Pid) {
        let began = self.began;
        let born = self.tracee(pid).born;
        // By the kernel's word: who counts entries and exits may have begun in the midst of a call. It may be dead by now.
        let inside =
            ptrace::syscall_info(pid).is_ok_and(|info| info.op == libc::PTRACE_SYSCALL_INFO_ENTRY);
        if let Some(on_call) = self.on_call.as_mut().filter(|_| began) {
            on_call(pid, if inside { Side::Entry } else { Side::Exit });
        }
        if inside && began {
            self.traced.calls[born] += 1;
            let here =
                |victim: Victim| victim.process == born && victim.call == self.traced.calls[born];
            if self.victim.is_some_and(here) {
                self.traced.reached = true;
                kill(pid, Signal::SIGKILL).unwrap();
                return;
            }
        }
        go_on(pid, None);
    }

    fn event(&mut self, pid: Pid, event: i32) {
        let exec = Event::PTRACE_EVENT_EXEC as i32;
        if event == exec && pid == self.main {
            self.began = true;
        }
        // Whoever is new stops once by itself, before its first call.
        self.tracee(pid);
        go_on(pid, None);
    }
}

/// It may have been killed meanwhile; then its end comes next.
fn go_on(pid: Pid, signal: Option<Signal>) {
    match ptrace::syscall(pid, signal) {
        Ok(()) | Err(nix::errno::Errno::ESRCH) => {}
        Err(errno) => panic!("{errno}"),
    }
}
