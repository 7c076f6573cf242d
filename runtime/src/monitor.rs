//! The monitor: a container's parent, one small process each, which outlives the agent.
//!
//! ```text
//!   agent ──spawn, once──▶ the nursery, in the monitors' cgroup
//!     │ ── one end of a socket pair ──▶ │ ──fork──▶ monitor ──clone3──▶ init = the container
//!     │ ── request, descriptors ────────────────────▶ │ lock, record, cgroup, pipes, clone3
//!     │ ◀──────────────────────────────────── outcome ─ │
//!     │ ── start, watch (monitor.sock) ─────────────▶ │ one poll loop: logs, clients, pidfd
//!     │ ◀──────────── duplicates of what it holds ─── │
//! ```
//! It ends once the exit record is written and the last log line stored: whoever asks later reads files.
//! It blocks every signal it can, so that neither a terminal nor a shutdown of the agent ends it.
//! A container with a terminal has one output, the master. Who attaches sees what comes
//! from then on and types; the log has it all. Several may attach; one that leaves, or reads too slowly, ends nothing.
//!
//! If the monitor is killed, the container goes on: whoever watches has duplicates of the pipes or the master, and of
//! the pidfd, and has another monitor take over with them (`takeover`). Who was attached is not any more, a line that was
//! half read is lost, and the exit code is known where the kernel keeps it for those who are not the parent. Without a
//! watcher what the monitor held is gone with it: writers get SIGPIPE or EPIPE, the terminal's processes SIGHUP, nobody sees the
//! exit code, and `State::MonitorLost` says so. The cgroup and run directory are found by their record all the same.
//! Deliberately absent: threads, timers, the network, any decision about the container, and
//! standard input for a container without a terminal.

mod birth;
mod clients;
mod log;
mod nursery;
mod serve;
mod takeover;

use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use longshore_sys::{ChildrenEnd, on_end_of_children};
use rustix::fs::FileType;

use crate::StepError;
use crate::record::RunDirectory;
use crate::wire::{self, Errand, Request};
use birth::{Born, Making};

/// Runs the role: the nursery, until the agent that has spawned it hangs up. The line to it is standard input.
pub fn run(group: &str) -> ExitCode {
    let kind =
        rustix::fs::fstat(rustix::stdio::stdin()).map(|stat| FileType::from_raw_mode(stat.st_mode));
    if kind != Ok(FileType::Socket) {
        eprintln!(
            "error: monitor: standard input is not the agent's socket; try `longshore-runtime --help`"
        );
        return ExitCode::from(2);
    }
    match nursery::tend(group) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// The life of one monitor, from its request on. It is alone with that: the nursery's line is closed.
fn monitor(mut requester: UnixStream) -> Result<(), StepError> {
    on_end_of_children(ChildrenEnd::AwaitWait);
    let request = wire::receive_request(&mut requester)?;
    let Request {
        id,
        run_dir,
        log_dir,
        errand,
    } = request;
    let run = RunDirectory::from_fd(run_dir, &id);
    let born = bear(&id, &run, errand);
    let outcome = born.as_ref().map(|_| ()).map_err(StepError::clone);
    // It may be gone. Its successor finds this container by its run directory.
    wire::send_outcome(&mut requester, &outcome).ok();
    drop(requester);
    serve::serve(born?, run, log_dir)
}

fn bear(id: &str, run: &RunDirectory, errand: Errand) -> Result<Born, StepError> {
    let lock = run.lock_as_monitor()?;
    match errand {
        Errand::Create { plan, root } => Making {
            id,
            plan: &plan,
            run,
        }
        .create(root, lock),
        Errand::TakeOver(kept) => takeover::take_over(id, run, kept, lock),
    }
}
