//! Between the caller's standard input and output and the master of a process's terminal.
//!
//! The master never blocks, so that a process which does not read its keyboard cannot keep its output from being read.
//! The caller's ends may: it is the caller who decides how fast it reads.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::termios::tcsetwinsize;

use super::screen::Screen;
use crate::StepError;
use crate::error::Context;

const KEYS_MAX: usize = 4 << 10;
const OUTPUT_MAX: usize = 64 << 10;
/// What a terminal's buffer holds at most, many times over: the end of what is read once the process has ended.
const DRAIN_MAX: usize = 4 << 20;

/// One terminal being relayed.
#[derive(Debug)]
pub(super) struct Relay {
    /// None once every process has let go of the terminal.
    master: Option<OwnedFd>,
    /// Whether standard input may still have something.
    input: bool,
    /// Whether standard output still takes something.
    output: bool,
    /// Read from standard input and not taken by the master yet.
    keys: Vec<u8>,
    _screen: Screen,
}

impl Relay {
    pub(super) fn new(master: OwnedFd) -> Result<Relay, StepError> {
        rustix::io::ioctl_fionbio(&master, true).context("set up", "terminal")?;
        let relay = Relay {
            master: Some(master),
            input: true,
            output: true,
            keys: Vec::new(),
            _screen: Screen::raw(),
        };
        relay.resize();
        Ok(relay)
    }

    /// What to wait for.
    pub(super) fn wants(&self) -> impl Iterator<Item = PollFd<'_>> {
        let mut events = PollFlags::IN;
        events.set(PollFlags::OUT, !self.keys.is_empty());
        let master = self.master.as_ref();
        let master = master.map(|master| PollFd::new(master, events));
        let input = self.wants_keys().then(stdin_ready);
        master.into_iter().chain(input)
    }

    fn wants_keys(&self) -> bool {
        self.input && self.keys.is_empty() && self.master.is_some()
    }

    /// The caller's terminal has another size.
    pub(super) fn resize(&self) {
        if let (Some(master), Some(size)) = (&self.master, Screen::size()) {
            // A terminal that nobody holds any more has no size.
            tcsetwinsize(master, size).ok();
        }
    }

    /// Carries what there is, both ways, once.
    pub(super) fn carry(&mut self) {
        if self.wants_keys() && ready(stdin_ready()) {
            self.read_keys();
        }
        self.write_keys();
        self.read_output();
    }

    /// The process has ended: the rest of its output. Not to end of file: another process may hold the terminal.
    pub(super) fn finish(mut self) {
        let mut left = DRAIN_MAX;
        while left > 0 {
            let got = self.read_output();
            if got == 0 {
                break;
            }
            left = left.saturating_sub(got);
        }
    }

    fn read_keys(&mut self) {
        let mut bytes = vec![0; KEYS_MAX];
        match rustix::io::read(rustix::stdio::stdin(), &mut bytes) {
            Ok(0) => self.input = false,
            Ok(length) => self.keys.extend_from_slice(&bytes[..length]),
            Err(Errno::AGAIN | Errno::INTR) => {}
            // In the background, say.
            Err(_) => self.input = false,
        }
    }

    fn write_keys(&mut self) {
        let Some(master) = self.master.as_ref().filter(|_| !self.keys.is_empty()) else {
            return;
        };
        match rustix::io::write(master, &self.keys) {
            Ok(length) => drop(self.keys.drain(..length)),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => self.keys.clear(),
        }
    }

    /// Reads once; how many bytes there were.
    fn read_output(&mut self) -> usize {
        let Some(master) = &self.master else { return 0 };
        let mut bytes = vec![0; OUTPUT_MAX];
        match rustix::io::read(master, &mut bytes) {
            Ok(0) => self.master = None,
            Ok(length) => {
                self.write_output(&bytes[..length]);
                return length;
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            // EIO: the last process has closed it.
            Err(_) => self.master = None,
        }
        0
    }

    /// A caller that reads no more does not stop the process: its output is lost, as it would be on a screen.
    fn write_output(&mut self, mut bytes: &[u8]) {
        while self.output && !bytes.is_empty() {
            match rustix::io::write(rustix::stdio::stdout(), bytes) {
                Ok(length) => bytes = &bytes[length..],
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => wait_for(rustix::stdio::stdout(), PollFlags::OUT),
                Err(_) => self.output = false,
            }
        }
    }
}

fn stdin_ready() -> PollFd<'static> {
    PollFd::from_borrowed_fd(rustix::stdio::stdin(), PollFlags::IN)
}

fn ready(fd: PollFd<'_>) -> bool {
    let at_once = rustix::event::Timespec::default();
    matches!(poll(&mut [fd], Some(&at_once)), Ok(count) if count > 0)
}

fn wait_for(fd: BorrowedFd<'_>, events: PollFlags) {
    // An error here is told by the next write.
    poll(&mut [PollFd::from_borrowed_fd(fd.as_fd(), events)], None).ok();
}
