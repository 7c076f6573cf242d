//! HTTP over the agent's (or the control plane's) Unix socket.

use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body, Incoming};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use longshore_agent::Instance;
use tokio::net::UnixStream;

/// No answer of a verb's own is larger.
const LARGEST_ANSWER: usize = 16 << 20;

/// GET, the whole answer as JSON.
pub(crate) async fn get(socket: &Path, path: &str) -> Result<serde_json::Value> {
    let answer = ask(socket, Method::GET, path, Bytes::new()).await?;
    whole(answer, path).await
}

/// POST of a JSON body, the whole answer as JSON.
pub(crate) async fn post(
    socket: &Path,
    path: &str,
    body: &serde_json::Value,
) -> Result<serde_json::Value> {
    let answer = ask(socket, Method::POST, path, body.to_string().into()).await?;
    whole(answer, path).await
}

/// DELETE, the whole answer as JSON.
pub(crate) async fn delete(socket: &Path, path: &str) -> Result<serde_json::Value> {
    let answer = ask(socket, Method::DELETE, path, Bytes::new()).await?;
    whole(answer, path).await
}

/// The answer's head; its body is the caller's to read as it comes. Anything but 2xx is an error with the
/// answer's own words.
pub(crate) async fn ask(
    socket: &Path,
    method: Method,
    path: &str,
    body: Bytes,
) -> Result<Response<Incoming>> {
    send(socket, method, path, Full::new(body)).await
}

/// The same with a body that comes in pieces.
pub(crate) async fn send<B>(
    socket: &Path,
    method: Method,
    path: &str,
    body: B,
) -> Result<Response<Incoming>>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let stream = UnixStream::connect(socket)
        .await
        .map_err(|error| unreached(socket, &error))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .context("speak HTTP")?;
    tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(hyper::header::HOST, "longshore")
        .body(body)
        .with_context(|| format!("ask for {path}"))?;
    let answer = sender
        .send_request(request)
        .await
        .with_context(|| format!("ask for {path}"))?;
    if answer.status().is_success() {
        return Ok(answer);
    }
    let status = answer.status();
    let body = Limited::new(answer.into_body(), LARGEST_ANSWER)
        .collect()
        .await;
    let words = body
        .map(|body| words_of(&body.to_bytes()))
        .unwrap_or_default();
    let words = match words.is_empty() {
        true => format!("ask for {path}: {status}"),
        false => words,
    };
    Err(Refused { status, words }.into())
}

/// An answer that is a no, in its own words.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) status: StatusCode,
    pub(crate) words: String,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.words)
    }
}

impl std::error::Error for Refused {}

/// A socket is its owner's only, who for an agent is root: that one may not is no sign that nobody listens.
fn unreached(socket: &Path, error: &std::io::Error) -> anyhow::Error {
    let remedy = match error.kind() {
        ErrorKind::PermissionDenied => {
            "only its owner may: run this as root, or as the user that runs longshore control"
        }
        _ => {
            "nobody answers there: start longshore (dev, or agent and control), or name the --instance that runs"
        }
    };
    anyhow!("connect to {}: {error}; {remedy}", socket.display())
}

/// RFC 3986, for a query's value.
pub(crate) fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match plain(byte) {
            true => encoded.push(char::from(byte)),
            false => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

/// The `error` member of a JSON answer, or the text itself.
fn words_of(body: &[u8]) -> String {
    let told = serde_json::from_slice::<serde_json::Value>(body).ok();
    let told = told
        .as_ref()
        .and_then(|value| value.get("Error").or(value.get("error"))?.as_str());
    match told {
        Some(words) => words.to_owned(),
        None => String::from_utf8_lossy(body).trim().to_owned(),
    }
}

/// Returns once the agent has a session with its control plane.
pub(crate) async fn until_joined(instance: &Instance) {
    let socket = instance.agent_socket();
    loop {
        let metadata = get(&socket, "/v1/metadata").await;
        if metadata.is_ok_and(|metadata| metadata["AgentConnected"] == true) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Returns once whoever serves the socket is there.
pub(crate) async fn until_answers(socket: &Path) {
    while get(socket, "/healthz").await.is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn whole(answer: Response<Incoming>, path: &str) -> Result<serde_json::Value> {
    let body = Limited::new(answer.into_body(), LARGEST_ANSWER)
        .collect()
        .await;
    let body = body.map_err(|error| anyhow!("read the answer to {path}: {error}"))?;
    serde_json::from_slice(&body.to_bytes()).with_context(|| format!("read the answer to {path}"))
}

/// Runs one verb's async part; a daemon is not worth it here.
pub(crate) fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.context("start the async runtime")?.block_on(work)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_errors_words_are_taken_from_json_or_text() {
        assert_eq!(words_of(br#"{"error": "no such task"}"#), "no such task");
        assert_eq!(words_of(b"plain words\n"), "plain words");
    }

    #[test]
    fn a_socket_of_another_user_is_not_taken_for_an_absent_one() {
        let denied = std::io::Error::from(ErrorKind::PermissionDenied);
        let text = unreached(Path::new("/run/x.sock"), &denied).to_string();
        assert!(
            text.contains("as root") && !text.contains("nobody answers"),
            "{text}"
        );
    }

    #[test]
    fn a_missing_socket_is_named_with_a_remedy() {
        let error = block_on(get(Path::new("/nonexistent/agent.sock"), "/healthz")).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("connect to /nonexistent/agent.sock: ")
                && text.contains("nobody answers there: start longshore")
        );
    }
}
