//! Watch: wait until a container has ended, and tell how.
//!
//! The monitor's socket is the alarm; the truth is the exit record in the run directory. Where the
//! monitor is lost, another takes over, by duplicates of what the first one held. If there are none, because both were lost
//! at once, what it watched over is killed: nobody would ever learn of its end.

use std::sync::Arc;
use std::time::Duration;

use longshore_engine::{Event, Exit, Timestamp};
use longshore_runtime::StepError;
use longshore_runtime::container::{Container, ExitRecord, Kept, State};
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;

use super::{ThisHost, log_dir};
use crate::driver::{Target, now};

/// The pause before looking again where something could not be read.
const PAUSE: Duration = Duration::from_secs(1);
/// The pause after an alarm that was not followed by an end.
const FALSE_ALARM: Duration = Duration::from_millis(50);
/// How long the processes of a lost container may take to die before they are killed again.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a look at the container showed.
#[derive(Debug)]
enum Look {
    Ended(Exit),
    Lives(Container),
    /// None: its directory is lost as well.
    Lost(Option<Container>),
}

pub(super) async fn run(host: Arc<ThisHost>, target: Target) -> Event {
    let mut alarms = 0_u32;
    let mut kept = None;
    let exit = loop {
        match look_from(&host, &target).await {
            Ok(Look::Ended(exit)) => break exit,
            Ok(Look::Lives(container)) => {
                // An alarm without an end: the kernel is still about it. Do not spin.
                if alarms > 0 {
                    tokio::time::sleep(FALSE_ALARM).await;
                }
                alarms += 1;
                // What could not be had anew for the moment is still good.
                kept = wait_for_alarm(container).await.or(kept);
            }
            Ok(Look::Lost(container)) => {
                let replaced = match (container, kept.take()) {
                    (Some(container), Some(kept)) => replace(&host, &target, container, kept).await,
                    _ => false,
                };
                if !replaced {
                    break bury(&host, &target).await;
                }
            }
            Err(why) => {
                tracing::warn!(container = target.runtime_id, "watch container: {why}");
                tokio::time::sleep(PAUSE).await;
            }
        }
    };
    Event::Exited(target.key, exit)
}

async fn look_from(host: &Arc<ThisHost>, target: &Target) -> Result<Look, String> {
    let (host, target) = (Arc::clone(host), target.clone());
    tokio::task::spawn_blocking(move || look(&host, &target).map_err(|e| e.to_string()))
        .await
        .map_err(|e| e.to_string())?
}

fn look(host: &ThisHost, target: &Target) -> Result<Look, StepError> {
    let Some(container) = host.container(&target.runtime_id) else {
        return Ok(Look::Lost(None));
    };
    Ok(match container.state()? {
        State::Stopped(record) => Look::Ended(exit_of(&record)),
        State::MonitorLost => Look::Lost(Some(container)),
        State::Creating | State::Created { .. } | State::Running { .. } => Look::Lives(container),
    })
}

/// How the container ended, in the engine's words.
pub(crate) fn exit_of(record: &ExitRecord) -> Exit {
    Exit {
        code: record.code,
        oom_killed: record.oom_kills > 0,
        at: Timestamp(record.finished_at),
    }
}

/// Returns when the monitor has hung up, or after a pause if it cannot be reached; with duplicates of what it held.
async fn wait_for_alarm(container: Container) -> Option<Kept> {
    let watched = tokio::task::spawn_blocking(move || container.watch()).await;
    let Ok(Ok((socket, kept))) = watched else {
        tokio::time::sleep(PAUSE).await;
        return None;
    };
    let stream = socket
        .set_nonblocking(true)
        .and_then(|()| UnixStream::from_std(socket));
    let Ok(mut stream) = stream else {
        tokio::time::sleep(PAUSE).await;
        return kept;
    };
    let mut ignored = [0_u8; 64];
    while matches!(stream.read(&mut ignored).await, Ok(n) if n > 0) {}
    kept
}

/// Whether another monitor has taken over.
async fn replace(host: &Arc<ThisHost>, target: &Target, container: Container, kept: Kept) -> bool {
    let (this, lost) = (Arc::clone(host), target.clone());
    let replaced = tokio::task::spawn_blocking(move || {
        let logs = log_dir(&this.instance, &lost.key.task, &lost.runtime_id);
        let monitors = this.monitors_cgroup();
        this.runtime.take_over(&container, kept, &logs, &monitors)
    });
    let why = match replaced.await {
        Ok(Ok(())) => {
            tracing::warn!(
                container = target.runtime_id,
                "its monitor was lost; another has taken over"
            );
            return true;
        }
        Ok(Err(e)) => e.to_string(),
        Err(e) => e.to_string(),
    };
    tracing::error!(container = target.runtime_id, "replace its monitor: {why}");
    false
}

/// Kills what the lost monitor left, until nothing is there, and tells an end without a code.
async fn bury(host: &Arc<ThisHost>, target: &Target) -> Exit {
    tracing::error!(
        container = target.runtime_id,
        "its monitor is lost; its processes are killed, its exit code is unknown"
    );
    loop {
        let (this, lost) = (Arc::clone(host), target.clone());
        let killed = tokio::task::spawn_blocking(move || kill(&this, &lost)).await;
        match killed {
            Ok(Ok(oom_killed)) => {
                return Exit {
                    code: None,
                    oom_killed,
                    at: now(),
                };
            }
            Ok(Err(e)) => tracing::warn!("{e}; killing again"),
            Err(e) => tracing::warn!("{e}; killing again"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Whether the kernel had killed for memory.
fn kill(host: &ThisHost, target: &Target) -> Result<bool, StepError> {
    let group = host.container_group(target)?;
    if !group.exists() {
        return Ok(false);
    }
    group.kill(PATIENCE)?;
    Ok(group.oom_kills()? > 0)
}
