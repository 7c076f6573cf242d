//! `/v1/images/prune`, `gc`, `fsck` and the removal of one image: the verbs that keep the store in order, with what this host's
//! tasks hold.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use longshore_engine::Status;
use longshore_image::{Details, Extent, GcPolicy, ImageError, Prune, Removed, Store};

use super::{needed, on_store, told};
use crate::board::Board;
use crate::debug::query::Query;
use crate::debug::{Answer, Refusal};
use crate::upkeep::held;

/// Which images tasks hold is known once the driver has made its first turn.
fn ready(board: &Board) -> Result<Board, Refusal> {
    match board.is_complete() {
        true => Ok(board.clone()),
        false => {
            let message = "the agent does not know its tasks yet: ask again in a moment";
            Err(Refusal(StatusCode::SERVICE_UNAVAILABLE, message.to_owned()))
        }
    }
}

pub(super) async fn prune(
    store: Arc<Store>,
    board: &Board,
    rules: &GcPolicy,
    query: &Query,
) -> Result<Answer, Refusal> {
    let board = ready(board)?;
    let dry_run = query.flag("dry-run")?;
    let which = match query.flag("all")? {
        true => Prune::Unused,
        false => Prune::Dangling,
    };
    let protected = rules.protected.clone();
    let work = move || store.prune(which, &protected, &|| held(&board), dry_run);
    told(on_store(work).await?)
}

pub(super) async fn gc(
    store: Arc<Store>,
    board: &Board,
    rules: &GcPolicy,
    query: &Query,
) -> Result<Answer, Refusal> {
    let board = ready(board)?;
    let dry_run = query.flag("dry-run")?;
    let rules = this_once(rules, query)?;
    let work = move || store.collect(&rules, &|| held(&board), dry_run);
    told(on_store(work).await?)
}

/// The agent's rules with what the request has instead.
fn this_once(rules: &GcPolicy, query: &Query) -> Result<GcPolicy, Refusal> {
    let number = |key: &str| match query.get(key) {
        None => Ok(None),
        Some(text) => {
            let bad = |_| Refusal::bad(format!("{key}={text:?}: write a number"));
            text.parse::<u64>().map(Some).map_err(bad)
        }
    };
    let percent = |key: &str, usual: u8| match number(key)? {
        None => Ok(usual),
        Some(percent @ 1..=100) => Ok(percent as u8),
        Some(other) => Err(Refusal::bad(format!("{key}={other}: write 1 to 100"))),
    };
    let mut rules = rules.clone();
    rules.high = percent("high", rules.high)?;
    // Below a mark that was set for this once the usual low mark may lie too high.
    rules.low = percent("low", rules.low)?.min(rules.high);
    if let Some(seconds) = number("max-age")? {
        rules.max_age = Some(Duration::from_secs(seconds));
    }
    if let Some(seconds) = number("min-age")? {
        rules.min_age = Duration::from_secs(seconds);
    }
    Ok(rules)
}

/// By its name, or all of it, which [`Store::remove`] tells apart.
pub(super) async fn remove(
    store: Arc<Store>,
    board: &Board,
    query: &Query,
) -> Result<Answer, Refusal> {
    let board = ready(board)?;
    let name = needed(query, "image")?;
    let extent = match query.flag("force")? {
        true => Extent::AllNames,
        false => Extent::OneName,
    };
    told(on_store(move || removed(&store, &board, &name, extent)).await?)
}

/// A task that has pulled has no root yet that would tell of it; the board does.
fn removed(
    store: &Store,
    board: &Board,
    name: &str,
    extent: Extent,
) -> Result<Removed, ImageError> {
    let details = store.details(name);
    // An image that is damaged has nothing to tell, and no task that runs from now on.
    let users = details.map_or_else(
        |_| Vec::new(),
        |details| last_users(board, &details, extent),
    );
    if !users.is_empty() {
        return Err(ImageError {
            step: "remove image",
            subject: name.to_owned(),
            cause: format!(
                "task {} uses it; stop it first (aws ecs stop-task), or give the image another name before (longshore \
                 image tag)",
                users.join(", task ")
            ),
        });
    }
    store.remove(name, extent, &|| held(board))
}

/// Tasks that use an image of which nothing would be left.
fn last_users(board: &Board, details: &Details, extent: Extent) -> Vec<String> {
    if details.references.len() > 1 && extent == Extent::OneName {
        return Vec::new();
    }
    let tasks = board.tasks();
    let uses = tasks.iter().filter(|notice| {
        let containers = &notice.report.containers;
        notice.report.status != Status::Stopped
            && containers
                .iter()
                .any(|c| c.image_digest.as_ref() == Some(&details.digest))
    });
    uses.map(|notice| notice.spec.id.to_string()).collect()
}

pub(super) async fn fsck(store: Arc<Store>, query: &Query) -> Result<Answer, Refusal> {
    let repair = query.flag("repair")?;
    told(on_store(move || store.fsck(repair, &|_| ())).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_changes_the_rules_for_once_and_nonsense_is_refused() {
        let rules = GcPolicy::default();
        let asked = |query: &str| this_once(&rules, &Query::parse(query).unwrap());
        assert_eq!(asked("").unwrap(), rules);
        let once = asked("high=50&max-age=60&min-age=0").unwrap();
        assert_eq!((once.high, once.low), (50, 50));
        assert_eq!(
            (once.max_age, once.min_age),
            (Some(Duration::from_secs(60)), Duration::ZERO)
        );
        for bad in ["high=0", "high=101", "low=x", "max-age=-1"] {
            assert!(asked(bad).is_err(), "{bad}");
        }
    }
}
