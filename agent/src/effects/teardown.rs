//! Teardown: remove everything that the task has on this host, and prove that it is gone. Logs stay.

use std::sync::Arc;
use std::time::Duration;

use longshore_engine::{Event, TaskId};

use super::{ThisHost, blocking, failure};
use crate::driver::Order;

/// How long the task's processes may take to die before the engine is told to come again.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) async fn run(host: Arc<ThisHost>, order: Order) -> Event {
    let task = order.task.id.clone();
    let ids: Vec<String> = order.targets.into_iter().map(|t| t.runtime_id).collect();
    let errors = remove(&host, &task, &ids).await;
    if errors.is_empty() {
        Event::TornDown(task)
    } else {
        let cause = format!("tear down task {task}: {}", errors.join("; "));
        Event::TeardownFailed(task, failure("CannotStopContainerError", &cause))
    }
}

/// Every part is tried, whatever became of the others; what failed is told together. Containers go
/// first: nothing may lose its network or its root while it runs.
pub(crate) async fn remove(host: &Arc<ThisHost>, task: &TaskId, ids: &[String]) -> Vec<String> {
    let mut errors = Vec::new();
    let (this, names, id) = (Arc::clone(host), ids.to_vec(), task.clone());
    let stopped = tokio::task::spawn_blocking(move || stop(&this, &id, &names));
    match stopped.await {
        Ok(failed) => errors.extend(failed),
        Err(e) => errors.push(e.to_string()),
    }
    if !errors.is_empty() {
        return errors;
    }
    for id in ids {
        if let Err(e) = host.network.release(id).await {
            errors.push(e.to_string());
        }
    }
    let (this, names, id) = (Arc::clone(host), ids.to_vec(), task.clone());
    let cleared = blocking(move || {
        let mut failed: Vec<String> = names.iter().flat_map(|id| clear(&this, id)).collect();
        let disk = this.images.remove_disk(id.as_str());
        failed.extend(disk.err().map(|e| e.to_string()));
        Ok(failed)
    });
    errors.extend(cleared.await.unwrap_or_else(|e| vec![e.message]));
    errors
}

/// Ends the containers and their monitors, then proves the task's group empty and removes it.
fn stop(host: &ThisHost, task: &TaskId, ids: &[String]) -> Vec<String> {
    let delete = |id: &String| host.container(id)?.delete().err();
    let mut errors: Vec<String> = ids
        .iter()
        .filter_map(delete)
        .map(|e| e.to_string())
        .collect();
    let group = host.task_group(task).and_then(|group| {
        if group.exists() {
            group.kill(PATIENCE)?;
        }
        group.remove()
    });
    errors.extend(group.err().map(|e| e.to_string()));
    errors
}

fn clear(host: &ThisHost, id: &str) -> Vec<String> {
    let root = host.images.remove_root(id).err().map(|e| e.to_string());
    let etc = host.etc_dir(id);
    let etc = match std::fs::remove_dir_all(&etc) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Some(format!("remove {}: {e}", etc.display()))
        }
        _ => None,
    };
    root.into_iter().chain(etc).collect()
}
