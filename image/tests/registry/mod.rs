//! A registry in this process: faithful enough for a pull, and able to lie.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test file uses its own part"
)]

use std::collections::HashMap;
use std::convert::Infallible;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard};

use base64::Engine as _;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::{StreamExt, stream};
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use sha2::Digest as _;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

type Body = BoxBody<Bytes, io::Error>;

pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const TOKEN: &str = "t0k3n-that-nobody-may-see";
pub const PASSWORD: &str = "p4ssw0rd-that-nobody-may-see";

#[derive(Clone, Copy, PartialEq)]
pub enum Auth {
    None,
    Basic,
    Token,
}

/// What it has, what it was asked, and how it lies.
pub struct State {
    pub manifests: HashMap<String, (String, Vec<u8>)>,
    pub blobs: HashMap<String, Vec<u8>>,
    /// `METHOD path` of every request, in order.
    pub asked: Vec<String>,
    pub auth: Auth,
    /// The token service, if it is another than this server.
    pub realm: Option<String>,
    /// How many requests were challenged.
    pub refused: u32,
    /// Whether any request to a blob carried an Authorization header.
    pub blob_saw_authorization: bool,
    /// Answer this many requests with 429.
    pub busy: u32,
    /// Answer each request of this many with 503.
    pub fail_every: Option<usize>,
    /// Never answer requests for this digest.
    pub hold: Option<String>,
    /// Answer everything with this.
    pub status: Option<StatusCode>,
    /// Flip a byte of every blob that is at least this long.
    pub damage: Option<usize>,
    /// Break off this many blob answers after so many bytes.
    pub cut: (u32, usize),
    pub ranges: bool,
    /// Send blobs elsewhere.
    pub redirect: Option<String>,
    /// A Docker-Content-Digest that is none.
    pub tag_digest: Option<String>,
    /// Hold blob answers until this is notified.
    pub gate: Option<Arc<tokio::sync::Notify>>,
}

pub struct Registry {
    pub authority: String,
    state: Arc<Mutex<State>>,
    server: JoinHandle<()>,
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Registry {
    pub async fn start() -> Registry {
        Registry::with_tls(None).await
    }

    pub async fn with_tls(tls: Option<TlsAcceptor>) -> Registry {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let authority = listener.local_addr().unwrap().to_string();
        let state = Arc::new(Mutex::new(State {
            manifests: HashMap::new(),
            blobs: HashMap::new(),
            asked: Vec::new(),
            auth: Auth::None,
            realm: None,
            refused: 0,
            blob_saw_authorization: false,
            busy: 0,
            fail_every: None,
            hold: None,
            status: None,
            damage: None,
            cut: (0, 0),
            ranges: true,
            redirect: None,
            tag_digest: None,
            gate: None,
        }));
        let shared = Arc::clone(&state);
        let own = authority.clone();
        let server = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                let (state, own, tls) = (Arc::clone(&shared), own.clone(), tls.clone());
                connections.spawn(async move {
                    let service =
                        service_fn(move |request| answer(Arc::clone(&state), own.clone(), request));
                    let http = hyper::server::conn::http1::Builder::new();
                    // A connection that breaks is part of the game.
                    match tls {
                        None => drop(http.serve_connection(TokioIo::new(socket), service).await),
                        Some(tls) => {
                            if let Ok(socket) = tls.accept(socket).await {
                                drop(http.serve_connection(TokioIo::new(socket), service).await);
                            }
                        }
                    }
                });
            }
        });
        Registry {
            authority,
            state,
            server,
        }
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub fn reference(&self, name: &str) -> String {
        format!("{}/{name}", self.authority)
    }

    /// How many requests so far had this in their line.
    pub fn count(&self, part: &str) -> usize {
        self.state()
            .asked
            .iter()
            .filter(|line| line.contains(part))
            .count()
    }

    /// Puts an image of these layers (plain tars, sent as gzip) under `repository:tag`; its manifest's digest.
    pub fn push(&self, repository: &str, tag: &str, layers: &[Vec<u8>]) -> String {
        let diff_ids: Vec<String> = layers.iter().map(|l| digest(l)).collect();
        self.push_with(repository, tag, layers, &diff_ids)
    }

    pub fn push_with(
        &self,
        repository: &str,
        tag: &str,
        layers: &[Vec<u8>],
        diff_ids: &[String],
    ) -> String {
        let config =
            json!({"architecture": arch(), "os": "linux", "config": {"Cmd": ["/bin/true"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids}})
            .to_string()
            .into_bytes();
        let layers: Vec<Value> = layers
            .iter()
            .map(|tar| self.blob("application/vnd.oci.image.layer.v1.tar+gzip", gzip(tar)))
            .collect();
        let config = self.blob("application/vnd.oci.image.config.v1+json", config);
        let manifest =
            json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers});
        self.manifest(repository, tag, MANIFEST, manifest)
    }

    pub fn blob(&self, media_type: &str, bytes: Vec<u8>) -> Value {
        let descriptor =
            json!({"mediaType": media_type, "digest": digest(&bytes), "size": bytes.len()});
        self.state().blobs.insert(digest(&bytes), bytes);
        descriptor
    }

    pub fn manifest(
        &self,
        repository: &str,
        tag: &str,
        media_type: &str,
        document: Value,
    ) -> String {
        let bytes = document.to_string().into_bytes();
        let digest = digest(&bytes);
        let mut state = self.state();
        for version in [tag, &digest] {
            let key = format!("{repository}/manifests/{version}");
            state
                .manifests
                .insert(key, (media_type.to_owned(), bytes.clone()));
        }
        digest
    }
}

pub fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(sha2::Sha256::digest(bytes)))
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A plain tar of files that belong to whoever runs the test.
pub fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, data) in files {
        let mut h = tar::Header::new_ustar();
        h.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        h.set_entry_type(tar::EntryType::Regular);
        h.set_size(data.len() as u64);
        h.set_mode(0o644);
        h.set_uid(rustix::process::geteuid().as_raw().into());
        h.set_gid(rustix::process::getegid().as_raw().into());
        h.set_mtime(1);
        h.set_cksum();
        builder.append(&h, *data).unwrap();
    }
    builder.into_inner().unwrap()
}

/// Bytes that do not compress.
pub fn noise(len: usize) -> Vec<u8> {
    let mut x: u64 = 88172645463325252;
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x as u8
    };
    (0..len).map(|_| next()).collect()
}

fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed()
}

fn plain(status: StatusCode, code: &str) -> Response<Body> {
    let body = json!({"errors": [{"code": code, "message": "said the registry"}]}).to_string();
    let mut response = Response::new(full(body));
    *response.status_mut() = status;
    response
}

async fn answer(
    state: Arc<Mutex<State>>,
    own: String,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let path = request.uri().path().to_owned();
    let (gate, held) = {
        let mut state = state.lock().unwrap();
        state
            .asked
            .push(format!("{} {}", request.method(), request.uri()));
        let held = state
            .hold
            .as_ref()
            .is_some_and(|digest| path.ends_with(digest));
        (
            state.gate.clone().filter(|_| path.contains("/blobs/")),
            held,
        )
    };
    if held {
        std::future::pending::<()>().await;
    }
    if let Some(gate) = gate {
        gate.notified().await;
    }
    let mut state = state.lock().unwrap();
    if let Some(status) = state.status {
        return Ok(plain(status, "NO"));
    }
    let number = state.asked.len();
    if state
        .fail_every
        .is_some_and(|every| number.is_multiple_of(every))
    {
        return Ok(plain(StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE"));
    }
    if state.busy > 0 {
        state.busy -= 1;
        let mut response = plain(StatusCode::TOO_MANY_REQUESTS, "TOOMANYREQUESTS");
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, "0".parse().unwrap());
        return Ok(response);
    }
    if path == "/token" {
        return Ok(token(&request));
    }
    if let Some(refusal) = challenge(&state, &own, &request) {
        state.refused += 1;
        return Ok(refusal);
    }
    let rest = path
        .strip_prefix("/v2/")
        .or_else(|| path.strip_prefix("/cdn/"))
        .unwrap_or_default();
    if let Some((media_type, bytes)) = state.manifests.get(rest) {
        let head = request.method() == Method::HEAD;
        let sent = if head { full("") } else { full(bytes.clone()) };
        let claimed = state.tag_digest.clone().unwrap_or_else(|| digest(bytes));
        let response = Response::builder()
            .header(header::CONTENT_TYPE, media_type)
            .header("docker-content-digest", claimed);
        return Ok(response.body(sent).unwrap());
    }
    match rest.rsplit_once("/blobs/") {
        Some((_, wanted)) => {
            let authorized = request.headers().contains_key(header::AUTHORIZATION);
            state.blob_saw_authorization |= authorized;
            Ok(blob(&mut state, wanted, &path, &request))
        }
        None => Ok(plain(StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN")),
    }
}

fn blob(
    state: &mut State,
    wanted: &str,
    path: &str,
    request: &Request<Incoming>,
) -> Response<Body> {
    if let Some(to) = &state.redirect {
        return Response::builder()
            .status(StatusCode::TEMPORARY_REDIRECT)
            .header(
                header::LOCATION,
                format!("{to}{}?signature=s3cr3t", path.replace("/v2/", "/cdn/")),
            )
            .body(full(""))
            .unwrap();
    }
    let Some(mut bytes) = state.blobs.get(wanted).cloned() else {
        return plain(StatusCode::NOT_FOUND, "BLOB_UNKNOWN");
    };
    if state.damage.is_some_and(|at_least| bytes.len() >= at_least) {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0xff;
    }
    let range = request
        .headers()
        .get(header::RANGE)
        .and_then(|v| v.to_str().ok());
    let start = range.and_then(|r| {
        r.strip_prefix("bytes=")?
            .strip_suffix('-')?
            .parse::<usize>()
            .ok()
    });
    let mut response = Response::builder();
    if let Some(start) = start.filter(|_| state.ranges) {
        let range = format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len());
        response = response
            .status(StatusCode::PARTIAL_CONTENT)
            .header(header::CONTENT_RANGE, range);
        bytes.drain(..start);
    }
    let (times, at) = state.cut;
    if times > 0 && bytes.len() > at {
        state.cut.0 -= 1;
        response = response.header(header::CONTENT_LENGTH, bytes.len());
        bytes.truncate(at);
        let frames = [
            Ok(Frame::data(Bytes::from(bytes))),
            Err(io::Error::other("cut")),
        ];
        // A pause between the two, so that the bytes leave before the connection breaks.
        let frames = stream::iter(frames).then(async |frame| {
            tokio::task::yield_now().await;
            frame
        });
        return response
            .body(BodyExt::boxed(StreamBody::new(Box::pin(frames))))
            .unwrap();
    }
    response.body(full(bytes)).unwrap()
}

fn basic_is_right(request: &Request<Incoming>) -> bool {
    let pair = base64::engine::general_purpose::STANDARD.encode(format!("user:{PASSWORD}"));
    authorization(request) == Some(format!("Basic {pair}"))
}

fn authorization(request: &Request<Incoming>) -> Option<String> {
    let value = request.headers().get(header::AUTHORIZATION)?;
    value.to_str().ok().map(str::to_owned)
}

fn token(request: &Request<Incoming>) -> Response<Body> {
    let query = request.uri().query().unwrap_or_default();
    let asked_well = query.contains("service=fake") && query.contains("scope=repository:");
    if !asked_well || !basic_is_right(request) {
        return plain(StatusCode::UNAUTHORIZED, "DENIED");
    }
    Response::new(full(json!({"token": TOKEN, "expires_in": 60}).to_string()))
}

fn challenge(state: &State, own: &str, request: &Request<Incoming>) -> Option<Response<Body>> {
    let (right, wanted) = match state.auth {
        Auth::None => return None,
        Auth::Basic => (basic_is_right(request), "Basic realm=\"fake\"".to_owned()),
        Auth::Token => {
            let own = format!("http://{own}/token");
            let realm = state.realm.as_ref().unwrap_or(&own);
            (
                authorization(request) == Some(format!("Bearer {TOKEN}")),
                format!("Bearer realm=\"{realm}\",service=\"fake\",scope=\"repository:a/b:pull\""),
            )
        }
    };
    if right {
        return None;
    }
    let mut response = plain(StatusCode::UNAUTHORIZED, "UNAUTHORIZED");
    response
        .headers_mut()
        .insert(header::WWW_AUTHENTICATE, wanted.parse().unwrap());
    Some(response)
}
