//! SIGINT and SIGTERM to a command while a container is made or started: they end what the command waits for, a hook
//! or an init that runs one, and then the creation itself, which undoes what it made.
//!
//! Without this a signal would kill the command at once and leave a hook, which has a process group of its own, and
//! half a container; or, where signals are held back for the container, would not be heard at all. A second one is
//! deadly again: what is undone may hang too. Deliberately absent: what does not wait for others.

use std::os::fd::AsFd;

use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, poll};

use crate::StepError;
use crate::error::Context;

/// The two signals are held back until this is dropped or one of them has come.
#[derive(Debug)]
pub(crate) struct Interrupt {
    signals: SignalFd,
    before: SigSet,
}

impl Interrupt {
    pub(crate) fn new() -> Result<Interrupt, StepError> {
        let before = mask()
            .thread_swap_mask(SigmaskHow::SIG_BLOCK)
            .context("block", "signals")?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let signals = SignalFd::with_flags(&mask(), flags).context("wait for", "signals")?;
        Ok(Interrupt { signals, before })
    }

    /// Waits until there is something to read, or without `events` until the other end is closed; if a signal comes
    /// first, that is the error.
    pub(crate) fn wait(
        &self,
        source: impl AsFd,
        events: PollFlags,
        step: &str,
        subject: &str,
    ) -> Result<(), StepError> {
        let mut both = [
            PollFd::from_borrowed_fd(source.as_fd(), events),
            PollFd::from_borrowed_fd(self.as_fd(), PollFlags::IN),
        ];
        rustix::io::retry_on_intr(|| poll(&mut both, None)).context(step, subject)?;
        match both[1].revents().is_empty() {
            true => Ok(()),
            false => Err(StepError::refused(step, subject, self.take())),
        }
    }

    /// The signal that has come, in words. The next one ends this process.
    pub(crate) fn take(&self) -> String {
        let number = match self.signals.read_signal() {
            Ok(Some(info)) => i32::try_from(info.ssi_signo).ok(),
            _ => None,
        };
        let signal = number.and_then(|number| Signal::try_from(number).ok());
        // It was blocked by `new`, so it can be unblocked.
        mask().thread_unblock().ok();
        format!(
            "interrupted by {}",
            signal.map_or("a signal", Signal::as_str)
        )
    }
}

impl AsFd for Interrupt {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.signals.as_fd()
    }
}

impl Drop for Interrupt {
    fn drop(&mut self) {
        // Whoever held them back before gets what is pending; if nobody did, it ends this process, which is done.
        self.before.thread_set_mask().ok();
    }
}

fn mask() -> SigSet {
    SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM])
}
