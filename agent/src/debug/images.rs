//! `/v1/images`: the store of a running agent, for `longshore image`. The store is locked by the agent, so its verbs
//! come here (decision 0017).
//!
//! | request | answer |
//! |---|---|
//! | GET `/v1/images` | every name |
//! | GET `/v1/images/inspect?image=` | all of one |
//! | GET `/v1/images/df` | what the store takes of its disk |
//! | GET `/v1/images/archive?image=&format=oci\|exact\|docker` | the archive itself; `image` may be said again |
//! | POST `/v1/images/pull?image=` | JSON lines: progress, then images or an error |
//! | POST `/v1/images/load?path=&tag=&only=&rootfs=` | the same; without `path` the archive is the body |
//! | POST `/v1/images/tag?image=&tag=` | the name |
//! | DELETE `/v1/images?image=&force=` | the names that are gone |
//! | POST `/v1/images/prune?all=&dry-run=` | what was removed, or would be |
//! | POST `/v1/images/gc?dry-run=&high=&low=&max-age=&min-age=` | the same by the agent's rules, but for what is said |
//! | POST `/v1/images/fsck?repair=` | what is damaged |
//!
//! What is not GET is for root, and for whom the agent runs as. An error has status 400 where nothing was begun.

mod bodies;
mod progress;
mod upkeep;

use std::sync::Arc;

use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use longshore_image::{Format, ImageError, Load, Origin, Store};
use serde_json::json;

use self::progress::Told;
use super::query::Query;
use super::{Answer, Refusal, Sources, json_answer};

/// Below which everything here lies.
pub(super) const ROOT: &str = "/v1/images";

/// Who asks: the user id at the other end of the socket.
pub(super) type Asker = Option<u32>;

pub(super) async fn answer(
    sources: &Sources,
    asker: Asker,
    request: Request<Incoming>,
) -> Result<Answer, Refusal> {
    let changes = request.method() != Method::GET;
    if changes && !may_change(asker) {
        let message = "only root may change images";
        return Err(Refusal(StatusCode::FORBIDDEN, message.to_owned()));
    }
    let store = sources.images.get().cloned().ok_or_else(|| {
        let message = "the agent has not opened its image store yet: it is joining its cluster";
        Refusal(StatusCode::SERVICE_UNAVAILABLE, message.to_owned())
    })?;
    let query = Query::parse(request.uri().query().unwrap_or_default())?;
    let verb = request.uri().path().strip_prefix(ROOT).unwrap_or_default();
    match (request.method().as_str(), verb) {
        ("GET", "") => {
            query.only(&[])?;
            let listed = on_store(move || store.list()).await?;
            Ok(json_answer(StatusCode::OK, &json!({"Images": listed})))
        }
        ("GET", "/inspect") => {
            query.only(&["image"])?;
            let name = needed(&query, "image")?;
            told(on_store(move || store.details(&name)).await?)
        }
        ("GET", "/df") => {
            query.only(&[])?;
            told(on_store(move || store.usage()).await?)
        }
        ("GET", "/archive") => {
            query.only(&["image", "format"])?;
            archive(store, &query).await
        }
        ("POST", "/pull") => {
            query.only(&["image"])?;
            Ok(pull(store, needed(&query, "image")?))
        }
        ("POST", "/load") => {
            query.only(&["path", "tag", "only", "rootfs"])?;
            load(store, &query, request).await
        }
        ("POST", "/tag") => {
            query.only(&["image", "tag"])?;
            let (name, tag) = (needed(&query, "image")?, needed(&query, "tag")?);
            told(on_store(move || store.tag(&name, &tag)).await?)
        }
        ("POST", "/prune") => {
            query.only(&["all", "dry-run"])?;
            upkeep::prune(store, &sources.board, &sources.rules, &query).await
        }
        ("POST", "/gc") => {
            query.only(&["dry-run", "high", "low", "max-age", "min-age"])?;
            upkeep::gc(store, &sources.board, &sources.rules, &query).await
        }
        ("POST", "/fsck") => {
            query.only(&["repair"])?;
            upkeep::fsck(store, &query).await
        }
        ("DELETE", "") => {
            query.only(&["image", "force"])?;
            upkeep::remove(store, &sources.board, &query).await
        }
        (
            _,
            "" | "/inspect" | "/df" | "/archive" | "/pull" | "/load" | "/tag" | "/prune" | "/gc"
            | "/fsck",
        ) => {
            let message = format!("{verb} is not asked for so; see longshore image --help");
            Err(Refusal(StatusCode::METHOD_NOT_ALLOWED, message))
        }
        (_, other) => Err(Refusal(
            StatusCode::NOT_FOUND,
            format!("{ROOT}{other} is not served"),
        )),
    }
}

fn may_change(asker: Asker) -> bool {
    asker.is_some_and(|uid| uid == 0 || uid == rustix::process::geteuid().as_raw())
}

fn needed(query: &Query, key: &str) -> Result<String, Refusal> {
    let found = query.get(key).filter(|value| !value.is_empty());
    found
        .map(str::to_owned)
        .ok_or_else(|| Refusal::bad(format!("say {key}=")))
}

fn told(value: impl serde::Serialize) -> Result<Answer, Refusal> {
    let value = serde_json::to_value(value);
    let value = value.map_err(|e| Refusal(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()))?;
    Ok(json_answer(StatusCode::OK, &value))
}

/// The store works on the disk.
async fn on_store<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ImageError> + Send + 'static,
) -> Result<T, Refusal> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(|e| Refusal::bad(e.to_string())),
        Err(e) => Err(Refusal(StatusCode::INTERNAL_SERVER_ERROR, e.to_string())),
    }
}

fn pull(store: Arc<Store>, name: String) -> Answer {
    let told = Arc::new(Told::default());
    let listener = Arc::clone(&told);
    // Dropped with the answer: who asks no longer pulls no longer.
    let work = async move {
        let pulled = store.pull(&name, |p| listener.take(p)).await;
        pulled.map(|image| vec![image])
    };
    progress::answer(told, work)
}

async fn load(
    store: Arc<Store>,
    query: &Query,
    request: Request<Incoming>,
) -> Result<Answer, Refusal> {
    let owned = |key: &str| query.get(key).map(str::to_owned);
    let wanted = Load {
        rootfs: query.flag("rootfs")?,
        only: owned("only"),
        tag: owned("tag"),
    };
    let told = Arc::new(Told::default());
    let Some(path) = query.get("path") else {
        let work = bodies::read(request.into_body(), move |stream| {
            store.load(
                Origin::Stream(stream, "standard input".to_owned()),
                &wanted,
                |_| (),
            )
        });
        // Progress waits for nobody here: whoever sends the archive sees how much of it has gone.
        let images = work.await;
        return Ok(progress::answer(told, async move { images }));
    };
    if !path.starts_with('/') {
        return Err(Refusal::bad(format!(
            "path={path:?}: say it from the root on"
        )));
    }
    let origin = Origin::Path(path.into());
    let listener = Arc::clone(&told);
    let work =
        tokio::task::spawn_blocking(move || store.load(origin, &wanted, |p| listener.take(p)));
    Ok(progress::answer(told, async move {
        work.await.unwrap_or_else(|e| Err(broken("load image", &e)))
    }))
}

fn broken(step: &'static str, error: &dyn std::fmt::Display) -> ImageError {
    ImageError {
        step,
        subject: "image store".to_owned(),
        cause: error.to_string(),
    }
}

async fn archive(store: Arc<Store>, query: &Query) -> Result<Answer, Refusal> {
    let names: Vec<String> = query.all("image").map(str::to_owned).collect();
    if names.is_empty() {
        return Err(Refusal::bad("say image=".to_owned()));
    }
    let format = match query.get("format") {
        None | Some("oci") => Format::Oci,
        Some("exact") => Format::Exact,
        Some("docker") => Format::Docker,
        Some(other) => {
            return Err(Refusal::bad(format!(
                "format={other:?}: use oci, exact or docker"
            )));
        }
    };
    let saving = on_store(move || store.save(&names, format)).await?;
    Ok(bodies::written(saving))
}

#[cfg(test)]
mod tests;
