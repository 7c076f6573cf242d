//! Ctrl-C and SIGTERM as a level that every part can watch.

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Turns true at the first SIGINT or SIGTERM. A second one ends the process at once: everything here is
/// crash-only, so nothing is lost.
pub(crate) fn on_signals() -> Result<watch::Receiver<bool>> {
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let (stop, stopping) = watch::channel(false);
    tokio::spawn(async move {
        for first in [true, false] {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if !first {
                std::process::exit(1);
            }
            stop.send_replace(true);
        }
    });
    Ok(stopping)
}

/// Runs a daemon's async part, or a verb's long work, to its end.
pub(crate) fn run<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Runtime::new().context("start the async runtime")?;
    let done = runtime.block_on(work);
    // Blocking calls (a pull's unpacking, a teardown) bear being cut off; waiting for them could take long.
    runtime.shutdown_background();
    done
}
