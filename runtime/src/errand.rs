//! A child that does what its parent must not do to itself, such as leave a namespace or load a filter, and reports.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};

use longshore_sys::{Forked, clone3, exit_now};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{WaitId, WaitIdOptions, waitid};
use serde::{Serialize, de::DeserializeOwned};

use crate::StepError;
use crate::error::Context;

/// Does `work` in a child, waits for its end, and returns what it came to. `what` names it in messages.
pub(crate) fn send<T: Serialize + DeserializeOwned>(
    what: &str,
    work: impl FnOnce() -> T,
) -> Result<T, StepError> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC).context("make", "pipe")?;
    match clone3(&[], None).context("clone", what)? {
        Forked::Child => {
            drop(read);
            // Unwinding must not reach the parent's frames, of which this process has a copy.
            let report = catch_unwind(AssertUnwindSafe(|| serde_json::to_vec(&work())));
            let told = match report {
                Ok(Ok(report)) => File::from(write).write_all(&report).is_ok(),
                _ => false,
            };
            exit_now(i32::from(!told))
        }
        Forked::Parent { pidfd, .. } => {
            drop(write);
            let mut report = Vec::new();
            let read = File::from(read).read_to_end(&mut report);
            let wait = || waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED);
            rustix::io::retry_on_intr(wait).context("wait for", what)?;
            read.context("hear from", what)?;
            let cause =
                "it ended without a word; something killed it, or a filter forbade what it needs";
            serde_json::from_slice(&report)
                .map_err(|_| StepError::refused("hear from", what, cause))
        }
    }
}
