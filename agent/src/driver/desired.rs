//! The control plane's whole wish for this host becomes events, task by task.

use std::collections::BTreeSet;

use longshore_engine::{Event, Status, TaskId, TaskSpec};

use super::{Answer, Driver, Upstream, World};
use crate::journal::Accepted;
use crate::link::Wish;

/// Containers of one task; a container's runtime id keeps one digit for its place.
const MOST_CONTAINERS: usize = 10;

impl<W: World, U: Upstream> Driver<W, U> {
    /// Takes a desired set. An older one than the last of the same store is ignored; what the host has
    /// beyond the set is asked about, never stopped, and not even asked about when the store is another
    /// one than before (restored or fresh): such a store learns from the host first.
    pub(super) fn desired(&mut self, set: Accepted, wishes: Vec<Wish>) {
        let known_store = match &self.accepted {
            Some(last) if last.store_id == set.store_id => {
                if set.generation < last.generation {
                    tracing::warn!(
                        "desired set {} ignored: {} was accepted before",
                        set.generation,
                        last.generation
                    );
                    return;
                }
                true
            }
            _ => false,
        };
        let listed: BTreeSet<TaskId> = wishes.iter().map(|w| w.spec.id.clone()).collect();
        for wish in wishes {
            self.wish(set.generation, wish);
        }
        if known_store {
            self.ask_about_orphans(&listed);
        }
        self.accepted = Some(set.clone());
        self.facts.accepted = Some(set);
    }

    fn wish(&mut self, generation: u64, wish: Wish) {
        let task = wish.spec.id.clone();
        // If its end is stored, the set was on its way when that happened.
        let result = if self.forgotten.contains(&task) {
            Ok(())
        } else {
            validate(&wish.spec)
        };
        if result.is_ok() && !self.forgotten.contains(&task) {
            // Also one that shall stop: if it never came here, or only the journal knew that it did, its
            // teardown proves that nothing of it is here, and STOPPED can be reported.
            self.handle(Event::Run(Box::new(wish.spec)));
            if let Some(reason) = wish.stop {
                let task = task.clone();
                self.handle(Event::Stop { task, reason });
            }
        }
        self.answers.push(Answer::Wish(task, generation, result));
    }

    fn ask_about_orphans(&mut self, listed: &BTreeSet<TaskId>) {
        let lives = |id: &TaskId| {
            self.engine
                .report(id)
                .is_some_and(|r| r.status != Status::Stopped)
        };
        let orphans: Vec<TaskId> = self
            .engine
            .tasks()
            .filter(|id| !listed.contains(*id) && lives(id))
            .cloned()
            .collect();
        if !orphans.is_empty() {
            self.answers.push(Answer::Orphans(orphans));
        }
    }
}

/// Why this task cannot be accepted. The control plane checks the same; an agent does not rely on it.
fn validate(task: &TaskSpec) -> Result<(), String> {
    let refuse = |why: String| Err(format!("accept task {}: {why}", task.id));
    let count = task.containers.len();
    if count == 0 || count > MOST_CONTAINERS {
        return refuse(format!(
            "it has {count} containers; a task has 1 to {MOST_CONTAINERS}"
        ));
    }
    if !task.containers.iter().any(|c| c.essential) {
        return refuse("none of its containers is essential; make one so".to_owned());
    }
    let mut names = BTreeSet::new();
    for container in &task.containers {
        let name = &container.name;
        let legal = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        if name.is_empty() || name.len() > 255 || !name.bytes().all(legal) {
            return refuse(format!(
                "container name {name:?} is not 1 to 255 of [A-Za-z0-9_-]"
            ));
        }
        if !names.insert(name) {
            return refuse(format!("two containers are called {name:?}"));
        }
    }
    Ok(())
}
