//! The notice board: what the driver last knew, for readers that must never wait for it.
//!
//! The driver writes whole entries, readers take whole entries; the lock is held for a moment and
//! never across I/O. One thing decides by what stands here: which images tasks hold, for the image store's collections. A
//! task stands here before any of its effects runs, and with its image's digest once that is in the journal.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use longshore_engine::{Status, TaskId, TaskReport, TaskSpec};

use crate::journal::Identity;

/// One task as it was after the driver's last turn.
#[derive(Debug)]
pub(crate) struct Notice {
    pub(crate) spec: TaskSpec,
    pub(crate) report: TaskReport,
}

/// Whether the control plane can be reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Contact {
    /// No connection yet.
    #[default]
    Never,
    /// The stream is up.
    Connected,
    /// The stream is down.
    Lost(String),
}

/// How many tasks that have ended can still be looked at.
const ENDED: usize = 100;

#[derive(Debug, Default)]
struct Content {
    tasks: BTreeMap<TaskId, Arc<Notice>>,
    /// The newest first. The control plane has their last reports; they are for people only.
    ended: VecDeque<Arc<Notice>>,
    identity: Identity,
    contact: Contact,
    journal_trouble: Option<String>,
    /// The driver has put up every task that the journal knew.
    complete: bool,
}

/// Shared by the driver and its readers; clones are the same board.
#[derive(Clone, Debug, Default)]
pub(crate) struct Board(Arc<Mutex<Content>>);

impl Board {
    pub(crate) fn task(&self, id: &TaskId) -> Option<Arc<Notice>> {
        self.content().tasks.get(id).cloned()
    }

    /// A task that was taken down as STOPPED, and not too many others ago.
    pub(crate) fn ended(&self, id: &TaskId) -> Option<Arc<Notice>> {
        let content = self.content();
        let mut ended = content.ended.iter();
        ended.find(|notice| notice.spec.id == *id).cloned()
    }

    pub(crate) fn tasks(&self) -> Vec<Arc<Notice>> {
        self.content().tasks.values().cloned().collect()
    }

    pub(crate) fn identity(&self) -> Identity {
        self.content().identity.clone()
    }

    pub(crate) fn contact(&self) -> Contact {
        self.content().contact.clone()
    }

    /// Why the journal cannot be written just now.
    pub(crate) fn journal_trouble(&self) -> Option<String> {
        self.content().journal_trouble.clone()
    }

    /// Puts a task's newest state up; None takes it down.
    pub(crate) fn post(&self, id: &TaskId, notice: Option<Notice>) {
        let mut content = self.content();
        match notice {
            Some(notice) => drop(content.tasks.insert(id.clone(), Arc::new(notice))),
            None => {
                let last = content.tasks.remove(id);
                if let Some(last) = last.filter(|last| last.report.status == Status::Stopped) {
                    content.ended.truncate(ENDED - 1);
                    content.ended.push_front(last);
                }
            }
        }
    }

    /// Whether every task of the journal stands here.
    pub(crate) fn is_complete(&self) -> bool {
        self.content().complete
    }

    pub(crate) fn set_complete(&self) {
        self.content().complete = true;
    }

    pub(crate) fn set_identity(&self, identity: Identity) {
        self.content().identity = identity;
    }

    pub(crate) fn set_contact(&self, contact: Contact) {
        self.content().contact = contact;
    }

    pub(crate) fn set_journal_trouble(&self, trouble: Option<String>) {
        self.content().journal_trouble = trouble;
    }

    /// Every change is one assignment, so a panic elsewhere leaves nothing half-written.
    fn content(&self) -> MutexGuard<'_, Content> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
