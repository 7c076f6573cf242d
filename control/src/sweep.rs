//! What is no longer needed: stopped tasks after an hour, client tokens after a day.

use std::ops::ControlFlow;
use std::time::Duration;

use crate::model::{self, ClientToken, Millis, Status, Stored, Task};
use crate::store::{Compare, Store, StoreError, Write};

/// How often the sweep goes round.
pub(crate) const INTERVAL: Duration = Duration::from_secs(60);

const HOUR: Millis = 60 * 60 * 1000;

/// ECS describes a stopped task for at least an hour.
fn is_over(task: &Task, now: Millis) -> bool {
    let stopped = task.stopped_at.unwrap_or(task.created_at);
    task.status == Status::Stopped && now > stopped.saturating_add(HOUR)
}

/// ECS remembers a client token for a day.
fn is_forgotten(token: &ClientToken, now: Millis) -> bool {
    now > token.created_at.saturating_add(24 * HOUR)
}

/// Goes round once. What changes meanwhile is left for the next round.
pub(crate) fn sweep(store: &dyn Store, now: Millis) -> Result<(), StoreError> {
    remove(store, "task/", |task: &Task| is_over(task, now))?;
    remove(store, "clienttoken/", |token: &ClientToken| {
        is_forgotten(token, now)
    })
}

fn remove<T: serde::de::DeserializeOwned>(
    store: &dyn Store,
    prefix: &str,
    over: impl Fn(&T) -> bool,
) -> Result<(), StoreError> {
    let mut found = Vec::new();
    model::scan(store, prefix, None, |key, stored: Stored<T>| {
        if over(&stored.record) {
            found.push((key, stored.revision));
        }
        ControlFlow::Continue(())
    })?;
    for (key, revision) in found {
        let unchanged = Compare::Revision(key.clone(), revision);
        store.transact(&[unchanged], &[Write::Delete(key)])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::samples;
    use crate::store::RedbStore;

    #[test]
    fn stopped_tasks_are_kept_for_an_hour_and_others_forever() {
        let mut task = samples::task("default", "t", "i");
        task.stopped_at = Some(1000);
        assert!(!is_over(&task, Millis::MAX));
        task.status = Status::Stopped;
        assert!(!is_over(&task, 1000 + HOUR));
        assert!(is_over(&task, 1001 + HOUR));
    }

    #[test]
    fn a_sweep_removes_what_is_over_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let store = RedbStore::open(directory.path()).unwrap();
        let mut over = samples::task("default", "a", "i");
        over.status = Status::Stopped;
        over.stopped_at = Some(0);
        let running = samples::task("default", "b", "i");
        let token = ClientToken {
            parameters: String::new(),
            tasks: Vec::new(),
            created_at: 0,
        };
        let writes = [
            model::put("task/default/a", &over),
            model::put("task/default/b", &running),
            model::put("clienttoken/default/x", &token),
        ];
        store.transact(&[], &writes).unwrap();
        sweep(&store, 2 * HOUR).unwrap();
        let left = |key: &str| store.get(key).unwrap().is_some();
        assert!(!left("task/default/a") && left("task/default/b"));
        assert!(left("clienttoken/default/x"));
        sweep(&store, 25 * HOUR).unwrap();
        assert!(!left("clienttoken/default/x"));
    }
}
