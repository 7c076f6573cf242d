//! The monitor: a container's parent, one small process each, which outlives the agent.
//!
//! ```text
//!   agent ──spawn──▶ longshore-runtime monitor ──fork──▶ monitor ──clone3──▶ init = the container
//!     │                     (ends at once)                  │
//!     │ ── request, descriptors (stdin) ──────────────────▶ │ lock, record, cgroup, pipes, clone3
//!     │ ◀──────────────────────────────────────── outcome ─ │
//!     │ ── start, subscribe (monitor.sock) ───────────────▶ │ one poll loop: logs, clients, pidfd
//! ```
//! It ends once the exit record is written and the last log line stored: whoever asks later reads files.
//! It blocks every signal it can, so that neither a terminal nor a shutdown of the agent ends it.
//! A container with a terminal has one output, the master, which only this process holds. Who attaches sees what comes
//! from then on and types; the log has it all. Several may attach; one that leaves, or reads too slowly, ends nothing.
//! If the monitor is killed, what it held is gone with it: the pipes' other ends get SIGPIPE or EPIPE, the terminal's
//! processes SIGHUP, nobody sees the exit code, and `State::MonitorLost` says so. The container's cgroup and run directory
//! are found by their record all the same. Handing duplicates of the pipes and the master to the agent, and starting
//! a second monitor with them, is not done yet; nor is standard input for a container without a terminal.
//! Deliberately absent: threads, timers, the network, and any decision about the container.

mod birth;
mod clients;
mod log;
mod serve;

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use longshore_sys::{Forked, clone3, exit_now};
use nix::sys::signal::SigSet;
use rustix::fs::{FileType, Mode, OFlags};

use crate::StepError;
use crate::cgroup::Hierarchy;
use crate::error::Context;
use crate::record::RunDirectory;
use crate::wire;
use birth::Making;

/// Runs the role: the request is on standard input.
pub fn run() -> ExitCode {
    let kind =
        rustix::fs::fstat(rustix::stdio::stdin()).map(|stat| FileType::from_raw_mode(stat.st_mode));
    if kind != Ok(FileType::Socket) {
        eprintln!(
            "error: monitor: standard input is not the agent's socket; try `longshore-runtime --help`"
        );
        return ExitCode::from(2);
    }
    match clone3(&[], None) {
        // Whoever spawned this process has nothing more to wait for; the child becomes init's.
        Ok(Forked::Parent { .. }) => ExitCode::SUCCESS,
        Ok(Forked::Child) => exit_now(i32::from(monitor().is_err())),
        Err(_) => ExitCode::FAILURE,
    }
}

fn monitor() -> Result<(), StepError> {
    let mut requester = settle_in()?;
    let (request, descriptors) = wire::receive_request(&mut requester)?;
    let run = RunDirectory::from_fd(descriptors.run_dir, &request.id);
    let born = enter_cgroup(&request.monitor_cgroup)
        .and_then(|()| run.lock_as_monitor())
        .and_then(|lock| {
            let making = Making {
                request: &request,
                run: &run,
            };
            making.create(descriptors.root, lock)
        });
    let outcome = born.as_ref().map(|_| ()).map_err(StepError::clone);
    // It may be gone. Its successor finds this container by its run directory.
    wire::send_outcome(&mut requester, &outcome).ok();
    drop(requester);
    // The plan may hold secrets, and this process lives as long as the container.
    drop(request);
    serve::serve(born?, run, descriptors.log_dir)
}

/// A session of its own, no signal that ends it, nothing held open but the request.
fn settle_in() -> Result<UnixStream, StepError> {
    SigSet::all().thread_block().context("block", "signals")?;
    rustix::process::setsid().context("start", "session")?;
    rustix::process::chdir(c"/").context("change directory", "/")?;
    // The socket appears with the mode that the umask leaves.
    rustix::process::umask(Mode::from_raw_mode(0o177));
    let request = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)
        .context("duplicate", "standard input")?;
    rustix::stdio::dup2_stdin(null()?).context("set", "standard input")?;
    Ok(UnixStream::from(request))
}

fn null() -> Result<OwnedFd, StepError> {
    rustix::fs::open(c"/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .context("open", "/dev/null")
}

/// Before anything is allocated for the container: its limits are not the monitor's, nor its OOM.
fn enter_cgroup(path: &str) -> Result<(), StepError> {
    Hierarchy::of_host()?.group(path)?.add(std::process::id())
}
