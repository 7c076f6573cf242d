//! The monitor's one loop: init, its output, its clients, until the exit record is written.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::time::{Duration, SystemTime};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{WaitId, WaitIdOptions, waitid};
use rustix::termios::{Winsize, tcsetwinsize};

use super::birth::Born;
use super::clients::{Client, Heard, accept};
use super::log::{Lines, LogFiles};
use super::takeover;
use crate::StepError;
use crate::cgroup::Group;
use crate::clock;
use crate::container::ExitRecord;
use crate::error::Context;
use crate::init::{FromInit, Talk, ToInit, explain};
use crate::launch::killed;
use crate::record::{Phase, RunDirectory, StateRecord, VERSION};
use crate::wire::{Stream, Verb};

/// On the stack, whose pages stay this process's: no more than a flood needs.
const READ_SIZE: usize = 16 << 10;
/// What a full pipe holds at most, many times over: the end of what is read once the container has ended.
const DRAIN_MAX: usize = 4 << 20;
/// How long processes that outlive the first one may take to die.
const KILL_PATIENCE: Duration = Duration::from_secs(10);
/// How often a refused exit record is tried again, once a second, before the monitor gives up.
const EXIT_ATTEMPTS: u32 = 600;

/// Serves a container until its end.
pub(super) fn serve(born: Born, run: RunDirectory, log_dir: OwnedFd) -> Result<(), StepError> {
    let Born {
        state,
        entrypoint,
        group,
        own_pids,
        init,
        talk,
        outputs,
        listener,
        _lock,
    } = born;
    let mut service = Service {
        state,
        entrypoint,
        run,
        group,
        own_pids,
        pidfd: init,
        is_parent: talk.is_some(),
        start: match talk {
            Some(_) => Start::Waiting,
            None => Start::Done,
        },
        talk,
        output: [Output::new(Stream::Stdout), Output::new(Stream::Stderr)],
        log: LogFiles::new(log_dir),
        listener,
        clients: Vec::new(),
    };
    for (stream, pipe) in outputs {
        rustix::io::ioctl_fionbio(&pipe, true).context("set up", "output")?;
        let output = match stream {
            Stream::Stdout | Stream::Terminal => &mut service.output[0],
            Stream::Stderr => &mut service.output[1],
        };
        output.stream = stream;
        output.pipe = Some(pipe);
    }
    service.run()
}

/// How far the program's start has come.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Start {
    Waiting,
    /// Init was told.
    Ordered,
    /// It has nothing left to do but execve.
    Executing,
    /// execve has succeeded.
    Done,
    Failed(StepError),
}

struct Service {
    state: StateRecord,
    entrypoint: String,
    run: RunDirectory,
    group: Group,
    own_pids: bool,
    pidfd: OwnedFd,
    /// None once init has closed its end.
    talk: Option<Talk>,
    output: [Output; 2],
    log: LogFiles,
    listener: UnixListener,
    clients: Vec<Client>,
    /// Whether the first process is this one's child.
    is_parent: bool,
    start: Start,
}

/// One of the two pipes; the first may be a terminal's master.
struct Output {
    stream: Stream,
    /// None at end of file.
    pipe: Option<OwnedFd>,
    lines: Lines,
}

/// What poll said.
struct Ready {
    ended: bool,
    talk: bool,
    output: [bool; 2],
    door: bool,
    clients: Vec<bool>,
}

impl Service {
    fn run(mut self) -> Result<(), StepError> {
        loop {
            let ready = self.poll().context("poll", &self.state.id)?;
            for (output, ready) in self.output.iter_mut().zip(ready.output) {
                if ready {
                    output.read(&mut self.log, &mut self.clients);
                }
            }
            self.type_keys();
            if ready.talk {
                self.hear_init();
            }
            if ready.ended {
                // Before the end is handled: a program that ended at once has still been started.
                while self.has_word() {
                    self.hear_init();
                }
                return self.finish();
            }
            self.hear_clients(&ready.clients);
            if ready.door {
                accept(&self.listener, &mut self.clients);
            }
        }
    }

    fn poll(&self) -> Result<Ready, Errno> {
        let mut fds = vec![
            PollFd::new(&self.pidfd, PollFlags::IN),
            PollFd::new(&self.listener, PollFlags::IN),
        ];
        // Once ordered to start, it hangs up whatever comes of that: one awakening is enough.
        let of_talk = match self.start {
            Start::Ordered | Start::Executing => PollFlags::empty(),
            _ => PollFlags::IN,
        };
        fds.extend(self.talk.iter().map(|talk| PollFd::new(talk, of_talk)));
        let pipes = self.output.iter().filter_map(|output| output.pipe.as_ref());
        let mut of_pipe = PollFlags::IN;
        let typing = self.clients.iter().any(Client::has_keys);
        of_pipe.set(PollFlags::OUT, typing);
        fds.extend(pipes.map(|pipe| PollFd::new(pipe, of_pipe)));
        let of_client = |client: &Client| match client.has_keys() {
            true => PollFlags::empty(),
            false => PollFlags::IN,
        };
        let clients = self.clients.iter();
        fds.extend(clients.map(|client| PollFd::new(&client.stream, of_client(client))));
        rustix::io::retry_on_intr(|| poll(&mut fds, None))?;
        let mut ready = fds.iter().map(|fd| !fd.revents().is_empty());
        let mut next = |present: bool| present && ready.next().unwrap_or(false);
        Ok(Ready {
            ended: next(true),
            door: next(true),
            talk: next(self.talk.is_some()),
            output: [
                next(self.output[0].pipe.is_some()),
                next(self.output[1].pipe.is_some()),
            ],
            clients: self.clients.iter().map(|_| next(true)).collect(),
        })
    }

    /// Whether init's end of the talk has said something that was not heard yet, its end of file included.
    fn has_word(&self) -> bool {
        let Some(talk) = &self.talk else { return false };
        let at_once = Timespec::default();
        poll(&mut [PollFd::new(talk, PollFlags::IN)], Some(&at_once)).is_ok_and(|count| count > 0)
    }

    fn hear_init(&mut self) {
        let Some(talk) = &self.talk else { return };
        self.start = match (talk.receive::<FromInit>(), &self.start) {
            (Ok(Some(FromInit::Executing)), Start::Ordered) => {
                self.start = Start::Executing;
                return;
            }
            (Ok(Some(FromInit::NotExecuted(code))), _) => {
                Start::Failed(explain(&self.entrypoint, Errno::from_raw_os_error(code)))
            }
            (Ok(Some(FromInit::Failed(error) | FromInit::HookFailed(error))), _) => {
                Start::Failed(error)
            }
            // The socket is close-on-exec.
            (Ok(None), Start::Executing) => Start::Done,
            (Ok(None), Start::Ordered) => Start::Failed(killed(&self.entrypoint)),
            (Ok(None), Start::Waiting) => {
                Start::Failed(self.gone("it ended before it was started; delete it"))
            }
            (Ok(None), other) => other.clone(),
            (Ok(Some(_)), other) => other.clone(),
            (Err(errno), _) => Start::Failed(StepError::io("hear from", "init", errno)),
        };
        self.talk = None;
        self.answer_starters();
    }

    fn gone(&self, cause: &str) -> StepError {
        StepError::refused("start", &self.state.id, cause)
    }

    fn hear_clients(&mut self, ready: &[bool]) {
        for index in (0..ready.len()).rev().filter(|index| ready[*index]) {
            if self.clients[index].attached {
                if !self.clients[index].read_keys() {
                    drop(self.clients.swap_remove(index));
                }
                continue;
            }
            match self.clients[index].hear() {
                Heard::Nothing => {}
                Heard::Hangup => drop(self.clients.swap_remove(index)),
                Heard::Call(Verb::Subscribe) => self.clients[index].answer(None),
                Heard::Call(Verb::Watch) => self.hand_out(index),
                Heard::Call(Verb::Attach) => {
                    let refused = self.master().err();
                    self.clients[index].attached = refused.is_none();
                    self.clients[index].answer(refused);
                }
                Heard::Call(Verb::Resize { rows, columns }) => {
                    let refused = self.resize(rows, columns).err();
                    self.clients[index].answer(refused);
                }
                Heard::Call(Verb::Start) => {
                    self.clients[index].awaits_start = true;
                    self.order_start();
                    self.answer_starters();
                }
            }
        }
    }

    /// Duplicates of what must not be lost with this process.
    fn hand_out(&self, index: usize) {
        let open = self.output.iter().filter_map(Output::open);
        let (streams, pipes): (Vec<_>, Vec<_>) = open.unzip();
        let descriptors: Vec<_> = std::iter::once(self.pidfd.as_fd()).chain(pipes).collect();
        self.clients[index].answer_with(streams, &descriptors);
    }

    fn master(&self) -> Result<&OwnedFd, StepError> {
        let refused = |cause| StepError::refused("attach to", &self.state.id, cause);
        if self.output[0].stream != Stream::Terminal {
            return Err(refused("it has no terminal; read its log instead"));
        }
        let master = self.output[0].pipe.as_ref();
        master.ok_or_else(|| refused("its terminal is closed; no process holds it any more"))
    }

    fn resize(&self, rows: u16, columns: u16) -> Result<(), StepError> {
        let size = Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(self.master()?, size).context("resize terminal of", &self.state.id)
    }

    /// What attached clients have typed; what the terminal does not take now stays with them.
    fn type_keys(&mut self) {
        let output = &self.output[0];
        let Some(master) = output
            .pipe
            .as_ref()
            .filter(|_| output.stream == Stream::Terminal)
        else {
            return;
        };
        for client in self.clients.iter_mut().filter(|client| client.has_keys()) {
            match rustix::io::write(master, client.keys()) {
                Ok(length) => drop(client.keys().drain(..length)),
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(_) => client.keys().clear(),
            }
        }
    }

    /// Recorded before init is told: if the monitor dies in between, the container counts as one that ran.
    fn order_start(&mut self) {
        if self.start != Start::Waiting {
            return;
        }
        let recorded = self.run.write_state(&StateRecord {
            phase: Phase::Running,
            ..self.state.clone()
        });
        let told = recorded.and_then(|()| match &self.talk {
            Some(talk) => match talk.send(&ToInit::Start) {
                // It was killed meanwhile, which is heard as an end of file next.
                Err(Errno::PIPE) => Ok(()),
                sent => sent.context("start", &self.state.id),
            },
            None => Err(self.gone("it has ended")),
        });
        match told {
            Ok(()) => self.start = Start::Ordered,
            // Init still waits: whoever asked may ask again.
            Err(error) => self.answer_all(Some(&error)),
        }
    }

    fn answer_starters(&mut self) {
        match self.start.clone() {
            Start::Waiting | Start::Ordered | Start::Executing => {}
            Start::Done => self.answer_all(None),
            Start::Failed(error) => self.answer_all(Some(&error)),
        }
    }

    fn answer_all(&mut self, error: Option<&StepError>) {
        for client in self.clients.iter_mut().filter(|client| client.awaits_start) {
            client.answer(error.cloned());
            client.awaits_start = false;
        }
    }

    /// The first process has ended. Subscribers learn it when this process ends and their sockets close, which
    /// is after the record is written.
    fn finish(mut self) -> Result<(), StepError> {
        let code = self.exit_code()?;
        let finished_at = clock::milliseconds(SystemTime::now());
        // In a shared pid namespace others may outlive the first: stopped means that the group is empty. If one
        // will not die, `delete` will say so; the exit code is worth reporting now. pid_namespaces(7): with the first
        // process of a namespace all of them have ended.
        if !self.own_pids {
            drop(self.group.kill(KILL_PATIENCE));
        }
        for output in &mut self.output {
            output.drain(&mut self.log, &mut self.clients);
        }
        let oom_kills = self.group.oom_kills().unwrap_or(0);
        let exit = ExitRecord {
            version: VERSION,
            code,
            oom_kills,
            started: self.start == Start::Done,
            finished_at,
        };
        self.record(&exit)
    }

    /// None: it was another's child, and the kernel does not tell.
    fn exit_code(&self) -> Result<Option<i32>, StepError> {
        if !self.is_parent {
            let status = takeover::exit_status(&self.pidfd);
            return Ok(
                status.map(|status| match (status & 0x7f, status >> 8 & 0xff) {
                    (0, code) => code,
                    (signal, _) => 128 + signal,
                }),
            );
        }
        let wait = || waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED);
        let status = rustix::io::retry_on_intr(wait).context("wait for", &self.state.id)?;
        Ok(status.map(|status| {
            let signal = status.terminating_signal().unwrap_or(0);
            status.exit_status().unwrap_or(128 + signal)
        }))
    }

    /// A full disk must not cost the exit code: nobody is told before it is stored.
    fn record(&self, exit: &ExitRecord) -> Result<(), StepError> {
        for _ in 0..EXIT_ATTEMPTS {
            if self.run.write_exit(exit).is_ok() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_secs(1));
        }
        self.run.write_exit(exit)
    }
}

impl Output {
    /// Nobody writes to it yet.
    fn new(stream: Stream) -> Output {
        let name = match stream {
            Stream::Stdout | Stream::Terminal => "stdout",
            Stream::Stderr => "stderr",
        };
        Output {
            stream,
            pipe: None,
            lines: Lines::new(name),
        }
    }

    /// None at end of file.
    fn open(&self) -> Option<(Stream, BorrowedFd<'_>)> {
        Some((self.stream, self.pipe.as_ref()?.as_fd()))
    }

    /// Reads once; how many bytes there were.
    fn read(&mut self, log: &mut LogFiles, clients: &mut [Client]) -> usize {
        let Some(pipe) = &self.pipe else { return 0 };
        let mut bytes = [0; READ_SIZE];
        match rustix::io::read(pipe, &mut bytes) {
            Ok(0) => self.close(log),
            Ok(length) => {
                self.lines.feed(&bytes[..length], log, SystemTime::now());
                for client in clients {
                    client.show(&bytes[..length]);
                }
                return length;
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => self.close(log),
        }
        0
    }

    /// Reads what is there. Not to end of file: a process elsewhere may hold the pipe for ever.
    fn drain(&mut self, log: &mut LogFiles, clients: &mut [Client]) {
        let mut total = 0;
        while total < DRAIN_MAX {
            match self.read(log, clients) {
                0 => break,
                length => total += length,
            }
        }
        self.close(log);
    }

    fn close(&mut self, log: &mut LogFiles) {
        self.lines.end(log, SystemTime::now());
        self.pipe = None;
    }
}
