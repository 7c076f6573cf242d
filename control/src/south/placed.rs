//! Which tasks each instance shall have: an index over the store's live tasks, kept by watching it.
//!
//! The index only says whom to wake and which keys to read; what is sent is read from the store. A
//! watcher that lags reads everything again, so no change is ever lost. Tasks that are STOPPED are not in it.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;

use super::{SharedStore, SouthError};
use crate::model::{self, Desired, Status, Task};
use crate::store::{Store, StoreError};

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Placed {
    index: Arc<Mutex<Index>>,
    /// The store revision up to which the index is true.
    reached: watch::Receiver<u64>,
}

#[derive(Debug, Default)]
struct Index {
    tasks: HashMap<String, Wish>,
    instances: HashMap<String, Instance>,
}

/// What of a task makes a difference to its host.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wish {
    instance: String,
    stop: bool,
}

#[derive(Debug)]
struct Instance {
    keys: BTreeSet<String>,
    /// Revision of the last change of its set.
    changed: watch::Sender<u64>,
}

impl Default for Instance {
    fn default() -> Instance {
        Instance {
            keys: BTreeSet::new(),
            changed: watch::Sender::new(0),
        }
    }
}

impl Placed {
    /// Reads every task and goes on watching until `shutdown`.
    pub(super) async fn start(
        store: SharedStore,
        mut shutdown: watch::Receiver<bool>,
    ) -> Result<Placed, SouthError> {
        // Watching begins before reading: what changes in between is seen twice, not never.
        let mut changes = store.watch();
        let index = Arc::new(Mutex::new(Index::default()));
        rebuild(&store, &index).await?;
        let (reach, reached) = watch::channel(0);
        let placed = Placed {
            index: index.clone(),
            reached,
        };
        tokio::spawn(async move {
            loop {
                let next = tokio::select! {
                    next = changes.recv() => next,
                    _ = shutdown.wait_for(|stop| *stop) => return,
                };
                let done = match next {
                    Ok(change) => {
                        let done = follow(&store, &index, &change.key, change.revision).await;
                        reach.send_modify(|r| *r = change.revision.max(*r));
                        done
                    }
                    Err(RecvError::Lagged(_)) => rebuild(&store, &index).await,
                    Err(RecvError::Closed) => return,
                };
                if let Err(error) = done {
                    tracing::error!(%error, "reading changed tasks failed; reading all again");
                    while let Err(error) = rebuild(&store, &index).await {
                        tracing::error!(%error, "reading all tasks failed; trying again");
                        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                    }
                }
            }
        });
        Ok(placed)
    }

    /// Wakes when the instance's set changes; holds the revision of the last change.
    pub(super) fn subscribe(&self, instance: &str) -> watch::Receiver<u64> {
        let mut index = self.index.lock().unwrap_or_else(PoisonError::into_inner);
        let instance = index.instances.entry(instance.to_owned()).or_default();
        instance.changed.subscribe()
    }

    /// The keys of the instance's live tasks.
    pub(super) fn keys(&self, instance: &str) -> Vec<String> {
        let index = self.index.lock().unwrap_or_else(PoisonError::into_inner);
        let found = index.instances.get(instance);
        found.map_or_else(Vec::new, |i| i.keys.iter().cloned().collect())
    }

    /// Waits until the index knows everything up to `revision`. False: it never will, the south ends.
    pub(super) async fn reached(&self, revision: u64) -> bool {
        let mut reached = self.reached.clone();
        reached.wait_for(|r| *r >= revision).await.is_ok()
    }
}

impl Index {
    /// Enters what a task wants now; wakes whom that concerns.
    fn set(&mut self, key: &str, wish: Option<Wish>, revision: u64) {
        let before = self.tasks.get(key);
        if before == wish.as_ref() {
            return;
        }
        if let Some(before) = self.tasks.remove(key) {
            let instance = self.instances.entry(before.instance).or_default();
            instance.keys.remove(key);
            instance.changed.send_modify(|r| *r = revision.max(*r));
        }
        if let Some(wish) = wish {
            let instance = self.instances.entry(wish.instance.clone()).or_default();
            instance.keys.insert(key.to_owned());
            instance.changed.send_modify(|r| *r = revision.max(*r));
            self.tasks.insert(key.to_owned(), wish);
        }
    }
}

async fn follow(
    store: &SharedStore,
    index: &Mutex<Index>,
    key: &str,
    revision: u64,
) -> Result<(), StoreError> {
    if !key.starts_with("task/") {
        return Ok(());
    }
    let read = key.to_owned();
    let found = store
        .run(move |store| model::read::<Task>(store, &read))
        .await?;
    let wish = found.and_then(|found| wish(&found.record));
    let mut index = index.lock().unwrap_or_else(PoisonError::into_inner);
    index.set(key, wish, revision);
    Ok(())
}

fn wish(task: &Task) -> Option<Wish> {
    (task.status != Status::Stopped).then(|| Wish {
        instance: task.instance.clone(),
        stop: task.desired == Desired::Stopped,
    })
}

async fn rebuild(store: &SharedStore, index: &Mutex<Index>) -> Result<(), StoreError> {
    let live = store.run(read_all).await?;
    let mut index = index.lock().unwrap_or_else(PoisonError::into_inner);
    let gone: Vec<String> = index
        .tasks
        .keys()
        .filter(|key| !live.contains_key(*key))
        .cloned()
        .collect();
    // Revision 0 does not move a generation, but wakes: the set is read again and sent as it is.
    for key in gone {
        index.set(&key, None, 0);
    }
    for (key, (wish, revision)) in live {
        index.set(&key, Some(wish), revision);
    }
    Ok(())
}

fn read_all(store: &dyn Store) -> Result<HashMap<String, (Wish, u64)>, StoreError> {
    const PAGE: usize = 512;
    let mut live = HashMap::new();
    let mut after: Option<String> = None;
    loop {
        let page = store.range("task/", after.as_deref(), PAGE)?;
        let (full, last) = (page.len() == PAGE, page.last().map(|(key, _)| key.clone()));
        for (key, _) in page {
            if let Some(found) = model::read::<Task>(store, &key)?
                && let Some(wish) = wish(&found.record)
            {
                live.insert(key, (wish, found.revision));
            }
        }
        match last {
            Some(last) if full => after = Some(last),
            _ => return Ok(live),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::south::fixture::{INSTANCE, keep, store, task};

    #[tokio::test]
    async fn the_index_follows_wishes_and_wakes_only_for_them() {
        let (_directory, store) = store();
        keep(&store, &task(1));
        let store = SharedStore(Arc::new(store));
        let (_stop, shutdown) = watch::channel(false);
        let placed = Placed::start(store.clone(), shutdown).await.unwrap();
        let key = |n| format!("task/default/{}", super::super::fixture::id(n));
        assert_eq!(placed.keys(INSTANCE), [key(1)]);
        let mut changed = placed.subscribe(INSTANCE);
        changed.mark_unchanged();

        let mut running = task(1);
        running.status = Status::Running;
        keep(&**store, &running);
        keep(&**store, &task(2));
        changed.changed().await.unwrap();
        let revision = store.get(&key(2)).unwrap().unwrap().revision;
        assert!(placed.reached(revision).await);
        assert_eq!(*changed.borrow_and_update(), revision, "RUNNING is no wish");

        running.status = Status::Stopped;
        keep(&**store, &running);
        changed.changed().await.unwrap();
        assert_eq!(placed.keys(INSTANCE), [key(2)]);
    }
}
