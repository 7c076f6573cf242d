//! What waits between shell and session, in both directions, as levels: whatever is newer replaces what is
//! older, so nothing here grows with time and nobody waits for anybody.
//!
//! The lock is held for a few moves in memory and never across I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use longshore_engine::{Status, TaskId, TaskReport, TaskSpec};
use tokio::sync::Notify;

use super::{FromControl, Wish};

/// See the module's documentation. `Debug` shows nothing: specs hold users' values.
pub(super) struct Mail {
    state: Mutex<State>,
    outgoing: Notify,
    incoming: Notify,
}

#[derive(Default)]
struct State {
    reports: BTreeMap<TaskId, Level>,
    answers: BTreeMap<TaskId, Answer>,
    unfit: Vec<Unfit>,
    orphans: BTreeSet<TaskId>,
    /// Every task's spec while the shell may hold it: specs never change, and adoption tells them.
    specs: BTreeMap<TaskId, TaskSpec>,
    /// Tasks on record at the start that were not forgotten since.
    held: BTreeSet<TaskId>,

    session: Option<FromControl>,
    desired: Option<FromControl>,
    stored: BTreeSet<TaskId>,
    stop: BTreeSet<TaskId>,
}

struct Level {
    report: TaskReport,
    /// In this session.
    told: bool,
}

struct Answer {
    generation: u64,
    refusal: Option<String>,
}

impl std::fmt::Debug for Mail {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Mail(..)")
    }
}

/// Something to tell the control plane.
#[derive(Debug, PartialEq)]
pub(super) enum Outgoing {
    /// The wish is on record.
    Ack(TaskId, u64),
    /// The wish is refused.
    Nack(TaskId, u64, String),
    /// A wish that is none: the link could not make a spec of it.
    Unfit(Unfit),
    /// A level.
    Report(Box<TaskReport>),
    /// Tasks that are not desired.
    Orphans(Vec<TaskId>),
}

/// A task of a set that does not reach the shell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unfit {
    pub(super) arn: String,
    pub(super) generation: u64,
    /// Only its definition is missing.
    pub(super) definition_missing: bool,
    pub(super) why: String,
}

impl Mail {
    /// Empty, but for the specs of the tasks on record.
    pub(super) fn new(held: &[TaskSpec]) -> Mail {
        let specs = held.iter().map(|spec| (spec.id.clone(), spec.clone()));
        let state = State {
            specs: specs.collect(),
            held: held.iter().map(|spec| spec.id.clone()).collect(),
            ..State::default()
        };
        Mail {
            state: Mutex::new(state),
            outgoing: Notify::new(),
            incoming: Notify::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // From the shell.

    pub(super) fn report(&self, report: TaskReport) {
        let mut state = self.state();
        let id = report.task.clone();
        let told = false;
        state.reports.insert(id, Level { report, told });
        drop(state);
        self.outgoing.notify_one();
    }

    pub(super) fn forget(&self, task: &TaskId) {
        self.state().forget(task);
    }

    pub(super) fn acknowledge(&self, task: &TaskId, generation: u64, result: Result<(), String>) {
        let mut state = self.state();
        if result.is_err() && !state.reports.contains_key(task) {
            state.specs.remove(task);
        }
        let refusal = result.err();
        let answer = Answer {
            generation,
            refusal,
        };
        state.answers.insert(task.clone(), answer);
        drop(state);
        self.outgoing.notify_one();
    }

    pub(super) fn ask_orphans(&self, tasks: Vec<TaskId>) {
        self.state().orphans.extend(tasks);
        self.outgoing.notify_one();
    }

    // To the shell.

    /// The session's state changed.
    pub(super) fn session(&self, event: FromControl) {
        self.state().session = Some(event);
        self.incoming.notify_one();
    }

    /// A new set is there; specs that neither it nor the shell names are dropped.
    pub(super) fn desired(
        &self,
        store_id: String,
        generation: u64,
        wishes: Vec<Wish>,
        unfit: Vec<Unfit>,
    ) {
        let mut state = self.state();
        let wished: BTreeSet<&TaskId> = wishes.iter().map(|wish| &wish.spec.id).collect();
        let State {
            specs,
            reports,
            held,
            ..
        } = &mut *state;
        specs.retain(|id, _| wished.contains(id) || reports.contains_key(id) || held.contains(id));
        for wish in &wishes {
            let id = wish.spec.id.clone();
            state.specs.entry(id).or_insert_with(|| wish.spec.clone());
        }
        state.desired = Some(FromControl::Desired {
            store_id,
            generation,
            wishes,
        });
        state.unfit = unfit;
        drop(state);
        self.incoming.notify_one();
        self.outgoing.notify_one();
    }

    /// The control plane has stored this task's STOPPED report. Of a task that is not STOPPED here it means nothing.
    pub(super) fn stored(&self, task: TaskId) {
        let mut state = self.state();
        let level = state.reports.get(&task);
        if level.is_some_and(|level| level.report.status == Status::Stopped) {
            state.forget(&task);
            state.stored.insert(task);
            drop(state);
            self.incoming.notify_one();
        }
    }

    /// The control plane wants this orphan stopped.
    pub(super) fn stop_orphan(&self, task: TaskId) {
        self.state().stop.insert(task);
        self.incoming.notify_one();
    }

    /// Waits for the next event for the shell.
    pub(super) async fn next_incoming(&self) -> FromControl {
        loop {
            if let Some(event) = self.state().incoming() {
                return event;
            }
            self.incoming.notified().await;
        }
    }

    /// The next event, if there is one.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> Option<FromControl> {
        self.state().incoming()
    }

    // For the session.

    /// A session begins: everything is to be told again.
    pub(super) fn begin(&self) {
        let mut state = self.state();
        for level in state.reports.values_mut() {
            level.told = false;
        }
        // An earlier session's set, and answers to it, would only confuse: the set comes again.
        state.answers.clear();
        state.unfit.clear();
        state.desired = None;
    }

    /// Waits for the next thing to tell. What it gives counts as told in this session.
    pub(super) async fn next_outgoing(&self) -> Outgoing {
        loop {
            if let Some(outgoing) = self.state().outgoing() {
                return outgoing;
            }
            self.outgoing.notified().await;
        }
    }

    /// The spec of a task that the shell may hold.
    pub(super) fn spec(&self, task: &TaskId) -> Option<TaskSpec> {
        self.state().specs.get(task).cloned()
    }

    /// All of them.
    pub(super) fn specs(&self) -> Vec<TaskSpec> {
        self.state().specs.values().cloned().collect()
    }
}

impl State {
    fn forget(&mut self, task: &TaskId) {
        self.reports.remove(task);
        self.answers.remove(task);
        self.orphans.remove(task);
        self.specs.remove(task);
        self.held.remove(task);
    }

    fn outgoing(&mut self) -> Option<Outgoing> {
        if let Some((task, answer)) = self.answers.pop_first() {
            let generation = answer.generation;
            return Some(match answer.refusal {
                None => Outgoing::Ack(task, generation),
                Some(why) => Outgoing::Nack(task, generation, why),
            });
        }
        if let Some(unfit) = self.unfit.pop() {
            return Some(Outgoing::Unfit(unfit));
        }
        if let Some(level) = self.reports.values_mut().find(|level| !level.told) {
            level.told = true;
            return Some(Outgoing::Report(Box::new(level.report.clone())));
        }
        if self.orphans.is_empty() {
            return None;
        }
        Some(Outgoing::Orphans(
            std::mem::take(&mut self.orphans).into_iter().collect(),
        ))
    }

    fn incoming(&mut self) -> Option<FromControl> {
        self.session
            .take()
            .or_else(|| self.stored.pop_first().map(FromControl::ReportStored))
            .or_else(|| self.desired.take())
            .or_else(|| self.stop.pop_first().map(FromControl::StopOrphan))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tell::sample;
    use super::*;

    #[tokio::test]
    async fn a_newer_level_replaces_the_older_and_is_told_again_in_each_session() {
        let mail = Mail::new(&[]);
        mail.report(sample::report(1, Status::Pending));
        mail.report(sample::report(1, Status::Running));
        let running = Outgoing::Report(Box::new(sample::report(1, Status::Running)));
        assert_eq!(mail.next_outgoing().await, running);
        assert!(mail.state().outgoing().is_none());
        mail.begin();
        assert_eq!(mail.next_outgoing().await, running);
    }

    #[test]
    fn only_a_stopped_report_can_be_stored_and_then_it_is_told_no_more() {
        let mail = Mail::new(&[]);
        mail.report(sample::report(1, Status::Running));
        mail.stored(sample::id(1));
        assert!(mail.state().incoming().is_none());
        mail.report(sample::report(1, Status::Stopped));
        mail.stored(sample::id(1));
        mail.stored(sample::id(1));
        assert_eq!(
            mail.state().incoming(),
            Some(FromControl::ReportStored(sample::id(1)))
        );
        assert!(mail.state().incoming().is_none());
        mail.begin();
        assert!(mail.state().outgoing().is_none());
    }

    #[test]
    fn a_shell_that_does_not_listen_finds_the_newest_set_only() {
        let mail = Mail::new(&[]);
        let wish = |n| Wish {
            spec: sample::spec(n),
            stop: None,
        };
        mail.desired("s".into(), 1, vec![wish(1)], vec![]);
        mail.desired("s".into(), 2, vec![wish(2)], vec![]);
        let Some(FromControl::Desired { generation, .. }) = mail.state().incoming() else {
            panic!("no set")
        };
        assert_eq!(generation, 2);
        assert!(mail.state().incoming().is_none());
        // The dropped wish's spec goes with it.
        assert_eq!(mail.specs(), [sample::spec(2)]);
    }

    #[test]
    fn specs_on_record_stay_until_forgotten() {
        let mail = Mail::new(&[sample::spec(1)]);
        mail.desired("s".into(), 1, vec![], vec![]);
        assert_eq!(mail.specs().len(), 1);
        mail.forget(&sample::id(1));
        assert!(mail.specs().is_empty());
    }

    #[test]
    fn an_answer_counts_only_in_its_session() {
        let mail = Mail::new(&[]);
        mail.acknowledge(&sample::id(1), 1, Ok(()));
        mail.begin();
        assert!(mail.state().outgoing().is_none());
        mail.acknowledge(&sample::id(1), 1, Ok(()));
        mail.acknowledge(&sample::id(1), 2, Err("no".into()));
        let nack = Outgoing::Nack(sample::id(1), 2, "no".into());
        assert_eq!(mail.state().outgoing(), Some(nack));
    }
}
