//! The image store's upkeep: which images tasks hold, when the others go, and what is fetched before anybody asks.
//!
//! A task that is not STOPPED holds the image that it was pulled as, and whatever its references name. That is read from
//! the board each time; nothing is counted. Between the end of a pull and the journal's word of it a lease holds the image. A
//! container's root holds its layers by itself, whatever the journal says.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use longshore_engine::{ContainerKey, Status};
use longshore_image::{Collected, GcPolicy, ImageError, Lease, PullBehaviour, canonical_reference};

use crate::Instance;
use crate::assembly::journal_file;
use crate::board::{Board, Notice};
use crate::effects::ThisHost;
use crate::journal;

/// How often the agent looks how full the disk is.
const LOOK: Duration = Duration::from_secs(60);
/// How often it looks for what is too old, and for what is to be fetched ahead.
const PASS: Duration = Duration::from_secs(30 * 60);

/// When images are pulled, and when they are removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImagePolicy {
    /// When a registry is asked.
    pub behaviour: PullBehaviour,
    /// What is removed, and when. With [`PullBehaviour::PreferCached`] nothing is, as in ECS.
    pub gc: GcPolicy,
    /// References that are fetched when the agent starts, and stay.
    pub prefetch: Vec<String>,
    /// Original blobs are kept, so that exact copies of images can be saved.
    pub keep_blobs: bool,
}

impl ImagePolicy {
    /// Its rules for collections, with what is fetched ahead protected.
    pub(crate) fn rules(&self) -> GcPolicy {
        let mut rules = self.gc.clone();
        let ahead = self
            .prefetch
            .iter()
            .filter_map(|name| canonical_reference(name));
        rules.protected.extend(ahead);
        rules
    }
}

/// Leases on images that were pulled and of which the journal does not know yet.
#[derive(Debug, Default)]
pub(crate) struct Fresh(Mutex<HashMap<ContainerKey, Arc<Lease>>>);

impl Fresh {
    pub(crate) fn keep(&self, key: &ContainerKey, lease: Arc<Lease>) {
        self.leases().insert(key.clone(), lease);
    }

    /// Drops the leases that are needed no more: the board has the image's digest, or the task does not want it.
    pub(crate) fn review(&self, board: &Board) {
        let is_waited_for = |key: &ContainerKey| {
            let notice = board.task(&key.task);
            let notice = notice.filter(|notice| notice.report.status != Status::Stopped);
            let container = notice.and_then(|n| n.report.containers.get(key.index).cloned());
            container.is_some_and(|container| container.image_digest.is_none())
        };
        self.leases().retain(|key, _| is_waited_for(key));
    }

    fn leases(&self) -> std::sync::MutexGuard<'_, HashMap<ContainerKey, Arc<Lease>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Manifest digests and references that this host's tasks hold.
pub(crate) fn held(board: &Board) -> Vec<String> {
    let notices = board.tasks();
    let live = notices
        .iter()
        .filter(|notice| notice.report.status != Status::Stopped);
    live.flat_map(|notice| names(notice)).collect()
}

fn names(notice: &Notice) -> impl Iterator<Item = String> {
    let references = notice.spec.containers.iter().map(|c| c.image.clone());
    let reported = notice.report.containers.iter();
    references.chain(reported.filter_map(|c| c.image_digest.clone()))
}

/// What the tasks of an instance hold whose agent does not run, from its journal: manifest digests and references. Nothing if it
/// has no journal.
///
/// # Errors
/// The journal cannot be read, or an agent has it open.
pub fn held_images(instance: &Instance) -> anyhow::Result<BTreeSet<String>> {
    let file = journal_file(instance);
    match file.exists() {
        true => Ok(journal::held_images(&file)?),
        false => Ok(BTreeSet::new()),
    }
}

/// Keeps the store in bounds; never ends.
pub(crate) async fn run(host: Arc<ThisHost>, board: &Board, policy: &ImagePolicy) {
    let keep = async {
        let mut next_pass = Instant::now();
        loop {
            if board.is_complete() && policy.behaviour != PullBehaviour::PreferCached {
                let is_due = next_pass <= Instant::now();
                if is_due {
                    next_pass = Instant::now() + PASS;
                }
                look(&host, board, policy.rules(), is_due).await;
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    let ahead = async {
        loop {
            for reference in &policy.prefetch {
                fetch_ahead(&host, reference).await;
            }
            tokio::time::sleep(PASS).await;
        }
    };
    tokio::join!(keep, ahead);
}

async fn fetch_ahead(host: &ThisHost, reference: &str) {
    // As any other pull: it must not take the place of a task's.
    let turns = host.pulls.of(reference);
    let Ok(_turn) = turns.acquire().await else {
        return;
    };
    if let Err(error) = host.images.prefetch(reference).await {
        tracing::warn!("fetch ahead: {error}");
    }
}

/// Collects if it is time to, or if the disk is too full.
async fn look(host: &Arc<ThisHost>, board: &Board, rules: GcPolicy, is_due: bool) {
    let (host, board) = (Arc::clone(host), board.clone());
    let collected = tokio::task::spawn_blocking(move || {
        host.fresh.review(&board);
        if !is_due && host.images.used_percent()? <= rules.high {
            return Ok(None);
        }
        let held = || held(&board);
        host.images.collect(&rules, &held, false).map(Some)
    });
    match collected.await {
        Ok(done) => tell(done, &mut |line| tracing::info!("{line}")),
        Err(e) => tracing::error!("collect images: {e}"),
    }
}

fn tell(done: Result<Option<Collected>, ImageError>, say: &mut dyn FnMut(String)) {
    let collected = match done {
        Ok(None) => return,
        Ok(Some(collected)) => collected,
        Err(error) => return tracing::error!("collect images: {error}"),
    };
    for image in &collected.images {
        let name = match image.references.is_empty() {
            true => image.digest.clone(),
            false => image.references.join(", "),
        };
        say(format!(
            "image {name} removed ({:?}): about {} MiB",
            image.why,
            image.bytes >> 20
        ));
    }
}

#[cfg(test)]
mod tests {
    use longshore_engine::{ContainerReport, TaskReport, TaskSpec};

    use super::*;
    use crate::sample;

    /// A task whose one container was pulled.
    fn reported(spec: &TaskSpec) -> TaskReport {
        TaskReport {
            task: spec.id.clone(),
            arn: spec.arn.clone(),
            status: Status::Pending,
            stop: None,
            pull_started_at: None,
            pull_stopped_at: None,
            started_at: None,
            stopping_at: None,
            execution_stopped_at: None,
            stopped_at: None,
            containers: vec![ContainerReport {
                name: "web".to_owned(),
                runtime_id: "x".to_owned(),
                status: Status::Pending,
                exit_code: None,
                reason: None,
                image_digest: Some("sha256:aa".to_owned()),
                bindings: Vec::new(),
            }],
        }
    }

    #[test]
    fn a_task_holds_its_references_and_its_digests_until_it_is_stopped() {
        let board = Board::default();
        let mut spec = sample::task();
        spec.containers[0].image = "busybox:1".to_owned();
        let report = reported(&spec);
        let post = |status| {
            let report = TaskReport {
                status,
                ..report.clone()
            };
            let notice = Notice {
                spec: spec.clone(),
                report,
            };
            board.post(&spec.id, Some(notice));
        };
        for status in [Status::Pending, Status::Running, Status::Stopping] {
            post(status);
            let held = held(&board);
            assert!(held.contains(&"busybox:1".to_owned()), "{held:?}");
            assert!(held.contains(&"sha256:aa".to_owned()), "{held:?}");
        }
        post(Status::Stopped);
        assert_eq!(held(&board), [""; 0]);
    }

    #[test]
    fn what_is_fetched_ahead_is_protected_by_its_whole_name() {
        let policy = ImagePolicy {
            prefetch: vec!["busybox".to_owned(), "not a reference".to_owned()],
            ..ImagePolicy::default()
        };
        assert_eq!(
            policy.rules().protected,
            ["docker.io/library/busybox:latest"]
        );
    }
}
