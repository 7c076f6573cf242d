//! What the agent does before its first turn: it compares the journal with what the host shows.
//!
//! Containers never stop because the agent stopped. What a record knows is taken up again; what no
//! record knows is removed. After a boot nothing of before can live, whatever the directories say.

mod sweep;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use longshore_engine::{ContainerKey, Engine, Event, PhaseRecord, Progress};
use longshore_runtime::container::State;

use crate::effects::{ThisHost, exit_of};
use crate::journal::Found;

/// What the engine is told before its first effect, and what is watched from then on.
#[derive(Debug, Default)]
pub(crate) struct Recovered {
    pub(crate) events: Vec<Event>,
    /// Containers that should live: watching one that does not tells its end.
    pub(crate) alive: Vec<ContainerKey>,
}

/// Removes what an earlier boot left below the run root, where that is not a tmpfs: pids and namespaces
/// that stand there mean others' now. The run root itself says of which boot it is, because the state root may
/// be lost or replaced while its containers go on.
pub(crate) fn forget_earlier_boot(run_root: &Path) -> anyhow::Result<()> {
    let now = boot_id()?;
    let mark = run_root.join("boot_id");
    match std::fs::read_to_string(&mark) {
        Ok(then) if then != now => {
            tracing::warn!(
                "the host has restarted: containers of before have ended, their exit codes are unknown"
            );
            for name in ["containers", "network", "etc"] {
                remove_tree(&run_root.join(name))?;
            }
        }
        _ => {}
    }
    std::fs::write(&mark, now).with_context(|| format!("write {}", mark.display()))
}

fn boot_id() -> anyhow::Result<String> {
    let path = "/proc/sys/kernel/random/boot_id";
    let id = std::fs::read_to_string(path).with_context(|| format!("read {path}"))?;
    Ok(id.trim().to_owned())
}

fn remove_tree(dir: &Path) -> anyhow::Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(e).with_context(|| format!("remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}

/// Removes what nobody knows and looks at what is known.
pub(crate) async fn recover(host: &Arc<ThisHost>, engine: &Engine, found: &Found) -> Recovered {
    if found.replaced {
        // What runs is asked for again by the control plane and found by `Create`; only at the next start is
        // the rest nobody's.
        tracing::warn!(
            "the journal is new: what runs on this host is left alone until the next start"
        );
    } else {
        sweep::run(host, &known_tasks(engine, found)).await;
    }
    look_at_all(host, engine)
}

/// Tasks that may own something on this host. Rows that were set aside keep theirs this once.
fn known_tasks(engine: &Engine, found: &Found) -> BTreeSet<String> {
    let owns = |id: &&longshore_engine::TaskId| {
        engine
            .record(id)
            .is_some_and(|r| r.phase != PhaseRecord::Stopped)
    };
    let tasks = engine.tasks().filter(owns).map(ToString::to_string);
    tasks.chain(found.set_aside.iter().cloned()).collect()
}

fn look_at_all(host: &ThisHost, engine: &Engine) -> Recovered {
    let mut recovered = Recovered::default();
    for task in engine.tasks() {
        let Some(record) = engine.record(task) else {
            continue;
        };
        for (index, container) in record.containers.iter().enumerate() {
            let key = ContainerKey {
                task: task.clone(),
                index,
            };
            // Earlier steps are asked for again, and find what they made.
            let started = matches!(
                container.progress,
                Progress::Starting
                    | Progress::Running
                    | Progress::Stopping(_)
                    | Progress::Killed(_)
            );
            if started {
                look_at(host, engine, key, &mut recovered);
            }
        }
    }
    recovered
}

fn look_at(host: &ThisHost, engine: &Engine, key: ContainerKey, recovered: &mut Recovered) {
    let container = engine.runtime_id(&key).and_then(|id| host.container(&id));
    let state = container.map(|c| c.state());
    match state {
        Some(Ok(State::Stopped(record))) if record.started => {
            recovered.events.push(Event::Exited(key, exit_of(&record)));
        }
        // Also one whose monitor or directory is gone: the watch buries it and tells so.
        _ => recovered.alive.push(key),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_another_boots_directories_are_removed() {
        let run = tempfile::tempdir().unwrap();
        let containers = run.path().join("containers");
        std::fs::create_dir(&containers).unwrap();
        forget_earlier_boot(run.path()).unwrap();
        assert!(
            containers.exists(),
            "a run root without a mark is this boot's"
        );
        forget_earlier_boot(run.path()).unwrap();
        assert!(containers.exists(), "the mark is this boot's");
        std::fs::write(run.path().join("boot_id"), "another").unwrap();
        forget_earlier_boot(run.path()).unwrap();
        assert!(!containers.exists());
    }
}
