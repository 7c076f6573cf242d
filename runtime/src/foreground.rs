//! The foreground: a command that stays until the process it started has ended, and stands in for it meanwhile.
//!
//! ```text
//!   keyboard ──▶ standard input ──▶ master ──▶ process      only with a terminal
//!   screen ◀── standard output ◀── master ◀── process
//!   signals ────────────────────────────────▶ process
//!   exit status ◀──────────────────── pidfd ─ process
//! ```
//! One poll loop. The end is seen on a pidfd, so a process that ends at once is not missed, and signals come from a
//! signalfd, so none interrupts anything. The caller's terminal is set back whatever happens, SIGKILL excepted.
//! Deliberately absent: job control (a process in a container is in a session of its own), escape keys.

mod relay;
mod screen;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{WaitId, WaitIdOptions, WaitIdStatus, pidfd_send_signal, waitid};

use crate::StepError;
use crate::error::Context;
use crate::notify::Notify;
use relay::Relay;

/// What is this program's own business: its children's end, its own faults.
const NOT_FORWARDED: [Signal; 9] = [
    Signal::SIGCHLD,
    Signal::SIGURG,
    Signal::SIGPIPE,
    Signal::SIGSEGV,
    Signal::SIGBUS,
    Signal::SIGILL,
    Signal::SIGFPE,
    Signal::SIGABRT,
    Signal::SIGTRAP,
];

/// Signals are held back from here on, to be forwarded once there is somebody to have them.
#[derive(Debug)]
pub(crate) struct Foreground {
    signals: SignalFd,
    before: SigSet,
    /// Between the caller's terminal and the process's.
    relay: Option<Relay>,
}

impl Foreground {
    /// To be called before the process is made: what comes meanwhile is not lost. Init resets its own mask.
    pub(crate) fn new() -> Result<Foreground, StepError> {
        let mut mask = longshore_sys::every_signal();
        for signal in NOT_FORWARDED {
            mask.remove(signal);
        }
        let before = mask
            .thread_swap_mask(SigmaskHow::SIG_BLOCK)
            .context("block", "signals")?;
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            .context("wait for", "signals")?;
        Ok(Foreground {
            signals,
            before,
            relay: None,
        })
    }

    /// The caller's terminal is the process's from here on. To be called before the process runs, so that the first
    /// it sees of its terminal is the right size. `terminal` is its master.
    pub(crate) fn hold(&mut self, terminal: OwnedFd) -> Result<(), StepError> {
        self.relay = Some(Relay::new(terminal)?);
        Ok(())
    }

    /// Stays until the process has ended, which must be a child: its exit status, 128 and the signal if one ended it.
    /// What it says to `notify` is passed on; a supervisor that cannot be told is no fault of the process's, and a
    /// warning.
    pub(crate) fn attend(
        mut self,
        process: BorrowedFd<'_>,
        mut notify: Option<Notify>,
        warn: &dyn Fn(&StepError),
    ) -> Result<u8, StepError> {
        loop {
            let ended = self.poll(process, notify.as_ref())?;
            if let Some(relay) = &mut self.relay {
                relay.carry();
            }
            self.forward(process)?;
            notify = notify.filter(|notify| match notify.hear() {
                Ok(ready) => !ready,
                Err(error) => {
                    warn(&error);
                    false
                }
            });
            if ended {
                break;
            }
        }
        if let Some(relay) = self.relay.take() {
            relay.finish();
        }
        let wait = || waitid(WaitId::PidFd(process), WaitIdOptions::EXITED);
        let status = rustix::io::retry_on_intr(wait).context("wait for", "process")?;
        Ok(status.map_or(u8::MAX, |status| exit_code(&status)))
    }

    /// Waits until something is to be done; whether the process has ended.
    fn poll(&self, process: BorrowedFd<'_>, notify: Option<&Notify>) -> Result<bool, StepError> {
        let mut all = vec![
            PollFd::from_borrowed_fd(process, PollFlags::IN),
            PollFd::from_borrowed_fd(self.signals.as_fd(), PollFlags::IN),
        ];
        all.extend(notify.map(|notify| PollFd::new(notify, PollFlags::IN)));
        all.extend(self.relay.iter().flat_map(Relay::wants));
        rustix::io::retry_on_intr(|| poll(&mut all, None)).context("poll", "process")?;
        Ok(!all[0].revents().is_empty())
    }

    fn forward(&self, process: BorrowedFd<'_>) -> Result<(), StepError> {
        while let Some(info) = self.signals.read_signal().context("read", "signals")? {
            let number = info.ssi_signo as i32;
            match (number == libc::SIGWINCH, &self.relay) {
                (true, Some(relay)) => relay.resize(),
                _ => {
                    if let Some(signal) = rustix::process::Signal::from_named_raw(number) {
                        // It may have ended: then its exit status is what counts.
                        pidfd_send_signal(process, signal).ok();
                    }
                }
            }
        }
        Ok(())
    }
}

impl Drop for Foreground {
    fn drop(&mut self) {
        // What is pending now is ours: whoever interrupts a command that is done may end it.
        self.before.thread_set_mask().ok();
    }
}

/// As a shell counts it.
pub(crate) fn exit_code(status: &WaitIdStatus) -> u8 {
    let code = match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code,
        (None, signal) => 128 + signal.unwrap_or(127),
    };
    u8::try_from(code).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests;
