//! Start: let the created container's init go on to execve.

use std::sync::Arc;

use longshore_engine::{ContainerKey, Event, Failure};
use longshore_runtime::container::State;

use super::{ThisHost, blocking, failure, target};
use crate::driver::{Order, Target};

pub(super) async fn run(host: Arc<ThisHost>, order: Order, key: ContainerKey) -> Event {
    let asked = key.clone();
    match blocking(move || start(&host, target(&order, &asked)?)).await {
        Ok(()) => Event::Started(key),
        Err(failure) => Event::StartFailed(key, failure),
    }
}

fn start(host: &ThisHost, target: &Target) -> Result<(), Failure> {
    let refuse = |cause: &dyn std::fmt::Display| failure("CannotStartContainerError", cause);
    let id = &target.runtime_id;
    let container = host.container(id).ok_or_else(|| {
        let cause = format!("find container {id}: its run directory is gone; run the task again");
        refuse(&cause)
    })?;
    match container.state().map_err(|e| refuse(&e))? {
        // An earlier run of this effect started it, and it has ended since.
        State::Stopped(exit) if exit.started => Ok(()),
        State::Stopped(exit) => Err(refuse(&format!(
            "start container {id}: its init ended{} before the program began",
            exit.code
                .map(|code| format!(" with {code}"))
                .unwrap_or_default()
        ))),
        State::MonitorLost => Err(refuse(&format!(
            "start container {id}: its monitor is lost; run the task again"
        ))),
        State::Creating | State::Created { .. } | State::Running { .. } => {
            container.start().map_err(|e| refuse(&e))
        }
    }
}
