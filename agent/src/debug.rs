//! The debug socket: HTTP over a Unix socket, for people and tools on this host. Reading only, as
//! Amazon's introspection API, whose shapes it keeps where they exist; but for images, which no control plane keeps.
//!
//! | GET | answer |
//! |---|---|
//! | `/healthz` | 200 `ok`, or 503 and why |
//! | `/v1/metadata` | cluster, ARN, version, whether the control plane is reached |
//! | `/v1/tasks` | every task of this host |
//! | `/v1/tasks?taskarn=ARN-or-id` | one task, also one of the last hundred that ended since the agent was started |
//! | `/v1/logs?taskarn=&container=&tail=&since=&follow=` | a container's output as text |
//! | `/v1/logs?format=jsonl&...` | the same as JSON lines, each with its stream and time |
//! | `/v1/images...` | see `images` |
//!
//! Environment values are not shown: they may be secrets.

mod follow;
mod images;
mod query;
mod tasks;

use std::convert::Infallible;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream as Probe;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use longshore_image::{GcPolicy, Store};
use serde_json::{Value, json};
use tokio::net::UnixListener;
use tokio::sync::Semaphore;

use self::query::Query;
use crate::Instance;
use crate::board::{Board, Contact};

/// Connections at the same time; the next one waits.
const CONNECTIONS: usize = 64;
/// How long a client may take to send its request.
const PATIENCE: Duration = Duration::from_secs(10);

type Body = UnsyncBoxBody<Bytes, Infallible>;
type Answer = Response<Body>;

/// What the answers are made from.
#[derive(Clone, Debug)]
pub(crate) struct Sources {
    pub(crate) board: Board,
    pub(crate) instance: Instance,
    /// The group that holds every task's.
    pub(crate) tasks_cgroup: String,
    /// Once the host is set up.
    pub(crate) images: Arc<OnceLock<Arc<Store>>>,
    /// Of the agent's own collections.
    pub(crate) rules: GcPolicy,
}

/// Binds the socket, 0600. A socket that nobody answers on is left over and replaced.
pub(crate) fn bind(path: &Path) -> anyhow::Result<UnixListener> {
    if Probe::connect(path).is_ok() {
        anyhow::bail!(
            "bind debug socket {}: another program answers there; stop it, or choose another instance name",
            path.display()
        );
    }
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            return Err(e).with_context(|| format!("remove old socket {}", path.display()));
        }
        _ => {}
    }
    let listener = UnixListener::bind(path)
        .with_context(|| format!("bind debug socket {}", path.display()))?;
    // Its directory is 0700, so nobody else got in meanwhile.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
        .with_context(|| format!("restrict debug socket {}", path.display()))?;
    Ok(listener)
}

/// Serves until it is dropped; may be called again.
pub(crate) async fn serve(listener: &UnixListener, sources: &Sources) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(e) => {
                tracing::warn!("accept on debug socket: {e}");
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        let sources = sources.clone();
        tokio::spawn(async move {
            let sources = &sources;
            let asker = stream.peer_cred().ok().map(|peer| peer.uid());
            let service = service_fn(|request| async move {
                Ok::<_, Infallible>(answer(sources, asker, request).await)
            });
            let served = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(PATIENCE)
                .serve_connection(TokioIo::new(stream), service);
            if let Err(e) = served.await {
                tracing::debug!("debug socket: {e}");
            }
            drop(place);
        });
    }
}

async fn answer(sources: &Sources, asker: images::Asker, request: Request<Incoming>) -> Answer {
    route(sources, asker, request)
        .await
        .unwrap_or_else(Refusal::answer)
}

async fn route(
    sources: &Sources,
    asker: images::Asker,
    request: Request<Incoming>,
) -> Result<Answer, Refusal> {
    if request.uri().path().starts_with(images::ROOT) {
        return images::answer(sources, asker, request).await;
    }
    if request.method() != Method::GET {
        let message =
            "only GET is served here, but for images: use the ECS API to change anything else";
        return Err(Refusal(StatusCode::METHOD_NOT_ALLOWED, message.to_owned()));
    }
    let query = Query::parse(request.uri().query().unwrap_or_default())?;
    match request.uri().path() {
        "/healthz" => Ok(health(sources)),
        "/v1/metadata" => {
            query.only(&[])?;
            Ok(json_answer(StatusCode::OK, &metadata(sources)))
        }
        "/v1/tasks" => {
            query.only(&["taskarn"])?;
            tasks::answer(sources, query.get("taskarn")).await
        }
        "/v1/logs" => {
            query.only(&["taskarn", "container", "tail", "since", "follow", "format"])?;
            follow::answer(sources, &query).await
        }
        path => Err(Refusal(
            StatusCode::NOT_FOUND,
            format!(
                "{path} is not served; try /healthz, /v1/metadata, /v1/tasks, /v1/logs, /v1/images"
            ),
        )),
    }
}

/// A journal that cannot be written is the one thing that keeps a running agent from its work. A
/// control plane that cannot be reached is not: tasks go on.
fn health(sources: &Sources) -> Answer {
    match sources.board.journal_trouble() {
        None => text_answer(StatusCode::OK, "ok\n".to_owned()),
        Some(why) => text_answer(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}

fn metadata(sources: &Sources) -> Value {
    let identity = sources.board.identity();
    let (connected, why) = match sources.board.contact() {
        Contact::Never => (false, Some("not connected yet".to_owned())),
        Contact::Connected => (true, None),
        Contact::Lost(why) => (false, Some(why)),
    };
    json!({
        "Cluster": identity.cluster,
        "ContainerInstanceArn": identity.instance_arn,
        "Version": format!("Longshore Agent - v{}", env!("CARGO_PKG_VERSION")),
        "Instance": sources.instance.name(),
        "AgentConnected": connected,
        "DisconnectedReason": why,
    })
}

/// Why a request is not answered.
#[derive(Debug)]
struct Refusal(StatusCode, String);

impl Refusal {
    fn bad(message: String) -> Refusal {
        Refusal(StatusCode::BAD_REQUEST, message)
    }

    fn answer(self) -> Answer {
        json_answer(self.0, &json!({"Error": self.1}))
    }
}

fn json_answer(status: StatusCode, value: &Value) -> Answer {
    full(status, "application/json", format!("{value}\n"))
}

fn text_answer(status: StatusCode, text: String) -> Answer {
    full(status, "text/plain; charset=utf-8", text)
}

fn full(status: StatusCode, kind: &'static str, text: String) -> Answer {
    with_body(status, kind, Full::new(Bytes::from(text)).boxed_unsync())
}

fn with_body(status: StatusCode, kind: &'static str, body: Body) -> Answer {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    let kind = http::HeaderValue::from_static(kind);
    answer
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, kind);
    answer
}

#[cfg(test)]
mod tests;
