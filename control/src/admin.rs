//! The control plane's local admin socket: HTTP over a Unix socket that only its owner may open.
//!
//! `POST /v1/tokens {"cluster": NAME, "ttl_seconds": N}` answers `{"token": TEXT}` (both fields may be left
//! out: `default`, an hour); `GET /healthz` answers `{"status": "ok"}`. Errors are `{"error": TEXT}`. The
//! token is in this one answer and in no log. Deliberately absent: any other door to it, and everything that the
//! ECS API already does.

use std::convert::Infallible;
use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Deserialize;
use serde_json::json;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::south::{DEFAULT_TTL, SouthError, mint_token};
use crate::store::Store;

/// A request's body is at most this long.
const BODY: usize = 16 * 1024;
/// Connections at one time.
const CONNECTIONS: usize = 64;

/// The socket, open. Its file is removed when serving ends.
#[derive(Debug)]
pub struct Serving(JoinHandle<()>);

impl Serving {
    /// Waits until it has closed after `shutdown` became true.
    pub async fn closed(self) {
        if let Err(error) = self.0.await {
            tracing::error!(%error, "the admin socket's task broke off");
        }
    }
}

/// Opens the socket at `path`, mode 0600, and serves it until `shutdown` is true. A socket that nobody answers is
/// replaced; the directory must exist.
///
/// # Errors
/// Another control plane answers at `path`, or the socket cannot be made.
pub async fn serve(
    store: Arc<dyn Store>,
    path: &Path,
    shutdown: watch::Receiver<bool>,
) -> Result<Serving, SouthError> {
    let listener = bind(path).await.map_err(|error| SouthError {
        step: "open the admin socket",
        subject: path.display().to_string(),
        cause: error.to_string(),
    })?;
    let path = path.to_owned();
    Ok(Serving(tokio::spawn(run(store, listener, path, shutdown))))
}

async fn bind(path: &Path) -> io::Result<UnixListener> {
    if UnixStream::connect(path).await.is_ok() {
        return Err(io::Error::other(
            "another control plane answers there; stop it or choose another run directory",
        ));
    }
    // Bound under another name and moved only once its mode is set: nobody meets it more open than that.
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".new");
    let fresh = PathBuf::from(fresh);
    match std::fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&fresh)?;
    std::fs::set_permissions(&fresh, Permissions::from_mode(0o600))?;
    std::fs::rename(&fresh, path)?;
    Ok(listener)
}

async fn run(
    store: Arc<dyn Store>,
    listener: UnixListener,
    path: PathBuf,
    mut shutdown: watch::Receiver<bool>,
) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept(), if connections.len() < CONNECTIONS => accepted,
            Some(_) = connections.join_next() => continue,
            _ = shutdown.wait_for(|stop| *stop) => break,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        connections.spawn(attend(store.clone(), stream));
    }
    std::fs::remove_file(&path).ok();
}

async fn attend(store: Arc<dyn Store>, stream: UnixStream) {
    let calls = service_fn(move |request| {
        let store = store.clone();
        async move { Ok::<_, Infallible>(answer(store, request).await) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(10))
        .serve_connection(TokioIo::new(stream), calls)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "an admin connection broke");
    }
}

type Answer = Response<Full<Bytes>>;

async fn answer(store: Arc<dyn Store>, request: Request<Incoming>) -> Answer {
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/healthz") => say(StatusCode::OK, &json!({"status": "ok"})),
        (&Method::POST, "/v1/tokens") => token(store, request).await,
        (_, "/healthz" | "/v1/tokens") => refuse(
            StatusCode::METHOD_NOT_ALLOWED,
            "GET /healthz, POST /v1/tokens",
        ),
        _ => refuse(
            StatusCode::NOT_FOUND,
            "there are /healthz and /v1/tokens here",
        ),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Wanted {
    cluster: String,
    ttl_seconds: u64,
}

impl Default for Wanted {
    fn default() -> Wanted {
        Wanted {
            cluster: "default".into(),
            ttl_seconds: DEFAULT_TTL.as_secs(),
        }
    }
}

async fn token(store: Arc<dyn Store>, request: Request<Incoming>) -> Answer {
    let body = Limited::new(request.into_body(), BODY).collect();
    let body = match tokio::time::timeout(Duration::from_secs(10), body).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(_)) => return refuse(StatusCode::PAYLOAD_TOO_LARGE, "at most 16 KiB"),
        Err(_) => return refuse(StatusCode::REQUEST_TIMEOUT, "the body did not come"),
    };
    let wanted = match body.is_empty() {
        true => Ok(Wanted::default()),
        false => serde_json::from_slice::<Wanted>(&body),
    };
    let wanted = match wanted {
        Ok(wanted) => wanted,
        Err(error) => return refuse(StatusCode::BAD_REQUEST, &error.to_string()),
    };
    let minted = tokio::task::spawn_blocking(move || {
        let ttl = Duration::from_secs(wanted.ttl_seconds);
        mint_token(&*store, &wanted.cluster, ttl)
    });
    match minted.await {
        Ok(Ok(token)) => say(StatusCode::OK, &json!({"token": token})),
        Ok(Err(error)) => refuse(StatusCode::BAD_REQUEST, &error.to_string()),
        Err(error) => refuse(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

fn refuse(status: StatusCode, why: &str) -> Answer {
    say(status, &json!({"error": why}))
}

fn say(status: StatusCode, body: &serde_json::Value) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(body.to_string())));
    *answer.status_mut() = status;
    let json = http::HeaderValue::from_static("application/json");
    answer
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, json);
    answer
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::south::fixture::{cluster, store};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    async fn ask(path: &Path, method: &str, target: &str, body: &str) -> (u16, serde_json::Value) {
        let mut stream = UnixStream::connect(path).await.unwrap();
        let length = body.len();
        let text = format!(
            "{method} {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let status = answer[9..12].parse().unwrap();
        let body = answer.split_once("\r\n\r\n").unwrap().1;
        (status, serde_json::from_str(body).unwrap())
    }

    #[tokio::test]
    async fn it_mints_tokens_for_its_owner_only() {
        let (directory, store) = store();
        cluster(&store, "default");
        let path = directory.path().join("control.sock");
        let (stop, shutdown) = watch::channel(false);
        let store: Arc<dyn Store> = Arc::new(store);
        let serving = serve(store.clone(), &path, shutdown.clone()).await.unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);

        let (status, body) = ask(&path, "GET", "/healthz", "").await;
        assert_eq!((status, &body["status"]), (200, &json!("ok")));
        let (status, body) = ask(&path, "POST", "/v1/tokens", r#"{"cluster":"default"}"#).await;
        assert_eq!(status, 200);
        assert!(body["token"].as_str().unwrap().starts_with("lsj1."));
        let (status, body) = ask(&path, "POST", "/v1/tokens", r#"{"cluster":"nowhere"}"#).await;
        assert_eq!(status, 400);
        assert!(body["error"].as_str().unwrap().contains("create it first"));
        for (body, expected) in [
            ("{", 400),
            (r#"{"clustr":"x"}"#, 400),
            (&" ".repeat(20_000), 413),
        ] {
            assert_eq!(ask(&path, "POST", "/v1/tokens", body).await.0, expected);
        }
        assert_eq!(ask(&path, "DELETE", "/v1/tokens", "").await.0, 405);
        assert_eq!(ask(&path, "GET", "/", "").await.0, 404);

        let second = serve(store, &path, shutdown).await.unwrap_err();
        assert!(second.to_string().contains("another control plane"));
        stop.send_replace(true);
        serving.closed().await;
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_socket_left_by_a_killed_process_is_replaced() {
        let (directory, store) = store();
        let path = directory.path().join("control.sock");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let (_stop, shutdown) = watch::channel(false);
        let _serving = serve(Arc::new(store), &path, shutdown).await.unwrap();
        assert_eq!(ask(&path, "GET", "/healthz", "").await.0, 200);
    }
}
