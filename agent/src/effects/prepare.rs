//! Prepare: ask the host's policy, make the task's cgroup with its limits, its disk if it has one of its own, and its
//! log directory.

use std::sync::Arc;

use longshore_engine::{Event, Failure, TaskSpec};

use super::{ThisHost, blocking, failure, logs_root};
use crate::driver::Order;
use crate::instance::make_private_dir;
use crate::{logs, oci};

pub(super) async fn run(host: Arc<ThisHost>, order: Order) -> Event {
    let id = order.task.id.clone();
    let result = blocking(move || {
        host.policy.check(&order.task)?;
        make_group(&host, &order.task)?;
        make_disk(&host, &order.task)?;
        make_log_dir(&host, &order).map_err(|e| failure("ResourceInitializationError", &e))
    });
    match result.await {
        Ok(()) => Event::Prepared(id),
        Err(failure) => Event::PrepareFailed(id, failure),
    }
}

fn make_disk(host: &ThisHost, task: &TaskSpec) -> Result<(), Failure> {
    let Some(gib) = task.ephemeral_storage else {
        return Ok(());
    };
    let made = host.images.make_disk(task.id.as_str(), gib << 30);
    made.map_err(|e| failure("ResourceInitializationError", &e))
}

/// Makes the directory of the task's logs, with the names by which they are asked for: logs are kept
/// longer than the task's record.
fn make_log_dir(host: &ThisHost, order: &Order) -> std::io::Result<()> {
    let dir = logs_root(&host.instance).join(order.task.id.as_str());
    make_private_dir(&dir)?;
    let containers = order.task.containers.iter().zip(&order.targets);
    let names = containers
        .map(|(container, target)| (container.name.clone(), target.runtime_id.clone()))
        .collect();
    logs::write_index(&dir, &names)
}

/// Makes the task's group if it is not there; writes its limits in any case.
pub(super) fn make_group(host: &ThisHost, task: &TaskSpec) -> Result<(), Failure> {
    let refuse = |e| failure("ResourceInitializationError", &e);
    let group = host.task_group(&task.id).map_err(refuse)?;
    group.create().map_err(refuse)?;
    group.apply(&oci::task_resources(task)).map_err(refuse)
}
