//! Removes what no record knows: run directories, cgroups, network leases, writable layers, tasks' disks, files of
//! /etc. Ids are deterministic and begin with the task's, so each finding names its owner.
//!
//! Nothing here keeps the agent from starting: what cannot be removed is told, and tried at the next start.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::effects::ThisHost;

/// How long processes that nobody knows may take to die.
const PATIENCE: Duration = Duration::from_secs(10);
/// Hex digits of a task id.
const TASK_ID: usize = 32;

pub(super) async fn run(host: &Arc<ThisHost>, known: &BTreeSet<String>) {
    let (this, tasks) = (Arc::clone(host), known.clone());
    let swept = tokio::task::spawn_blocking(move || {
        containers(&this, &tasks);
        cgroups(&this, &tasks);
        etc(&this, &tasks);
    });
    if let Err(e) = swept.await {
        tracing::error!("sweep containers: {e}");
    }
    for id in host.network.attached() {
        if is_unknown(&id, known) {
            told("network", &id, host.network.release(&id).await);
        }
    }
    let (this, tasks) = (Arc::clone(host), known.clone());
    let swept = tokio::task::spawn_blocking(move || roots(&this, &tasks));
    if let Err(e) = swept.await {
        tracing::error!("sweep roots: {e}");
    }
}

/// Whether the task that this id begins with is nobody's.
fn is_unknown(id: &str, known: &BTreeSet<String>) -> bool {
    !id.get(..TASK_ID).is_some_and(|task| known.contains(task))
}

fn told<E: std::fmt::Display>(what: &str, id: &str, result: Result<(), E>) {
    match result {
        Ok(()) => tracing::warn!("{what} {id} removed: no task owns it"),
        Err(e) => tracing::error!("remove {what} {id}, which no task owns: {e}"),
    }
}

fn containers(host: &ThisHost, known: &BTreeSet<String>) {
    for id in names_in(&host.containers_dir()) {
        if !is_unknown(&id, known) {
            continue;
        }
        match host.container(&id) {
            Some(container) => told("container", &id, container.delete()),
            None => told(
                "run directory",
                &id,
                std::fs::remove_dir_all(host.run_dir(&id)),
            ),
        }
    }
}

fn cgroups(host: &ThisHost, known: &BTreeSet<String>) {
    let parent = host.tasks_cgroup();
    let names: BTreeSet<String> = cgroup_roots()
        .iter()
        .flat_map(|root| names_in(&root.join(&parent)))
        .collect();
    for id in names {
        if is_unknown(&id, known) {
            let group = host.hierarchy.group(&format!("{parent}/{id}"));
            told(
                "cgroup",
                &id,
                group.and_then(|group| {
                    group.kill(PATIENCE)?;
                    group.remove()
                }),
            );
        }
    }
}

fn etc(host: &ThisHost, known: &BTreeSet<String>) {
    for id in names_in(&host.etc_root()) {
        if is_unknown(&id, known) {
            told("files", &id, std::fs::remove_dir_all(host.etc_dir(&id)));
        }
    }
}

fn roots(host: &ThisHost, known: &BTreeSet<String>) {
    let ids = match host.images.roots() {
        Ok(ids) => ids,
        Err(e) => return tracing::error!("{e}"),
    };
    for id in ids {
        if is_unknown(&id, known) {
            told("root filesystem", &id, host.images.remove_root(&id));
        }
    }
    let tasks = match host.images.disks() {
        Ok(tasks) => tasks,
        Err(e) => return tracing::error!("{e}"),
    };
    for task in tasks {
        if is_unknown(&task, known) {
            told("disk", &task, host.images.remove_disk(&task));
        }
    }
}

/// The directories in `dir`; none if it is not there.
fn names_in(dir: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|t| t.is_dir()))
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

/// Where cgroup hierarchies are mounted, as /proc/self/mountinfo says (proc(5)): the mount point is the
/// fifth field, the type the first one after the hyphen.
fn cgroup_roots() -> Vec<PathBuf> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let root = |line: &str| {
        let (mount, source) = line.split_once(" - ")?;
        let kind = source.split(' ').next()?;
        matches!(kind, "cgroup" | "cgroup2")
            .then(|| mount.split(' ').nth(4).map(PathBuf::from))
            .flatten()
    };
    text.lines().filter_map(root).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;

    #[test]
    fn only_ids_of_known_tasks_are_spared() {
        let known = BTreeSet::from([sample::id(1).to_string()]);
        assert!(!is_unknown(
            &format!("{}-0123456789", sample::id(1)),
            &known
        ));
        assert!(!is_unknown(sample::id(1).as_str(), &known));
        assert!(is_unknown(&format!("{}-0123456789", sample::id(2)), &known));
        assert!(is_unknown("short", &known));
        assert!(is_unknown("é".repeat(20).as_str(), &known));
    }

    #[test]
    fn this_machine_s_cgroups_are_found() {
        assert!(!cgroup_roots().is_empty());
    }
}
