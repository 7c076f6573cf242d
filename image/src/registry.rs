//! The registry client: manifests and blobs of the OCI distribution specification (and Docker's registry v2),
//! pull side only.
//!
//! Everything fetched by digest is verified here, except layers, whose bytes are verified by who unpacks them
//! while they stream. Absent on purpose: push, referrers, catalogues.

pub(crate) mod address;
pub(crate) mod blob;
pub(crate) mod challenge;
pub(crate) mod credentials;
#[cfg(feature = "fuzz")]
pub(crate) mod doors;
pub(crate) mod endpoint;
pub(crate) mod fault;
pub(crate) mod gate;
pub(crate) mod session;
pub(crate) mod settings;
pub(crate) mod token;
pub(crate) mod transport;

use http::header::{self, HeaderMap};
use http::{Method, StatusCode};
use hyper::body::Incoming;
use serde::Deserialize;
use tokio::time::Instant;

use crate::digest::Digest;
use crate::error::{ImageError, printable};
use crate::manifest::media::ACCEPT;
use crate::manifest::{DOCUMENT_MAX, Descriptor};
use crate::reference::Reference;
use blob::Blob;
use endpoint::{Down, Endpoint, Part, Rotation, share};
use fault::Fault;
use session::{Asking, Sessions};
pub use settings::{AwsKeys, ClientCertificate, Ecr, Limits, Proxies, Registries, Registry};
use transport::{Answer, Ask, Transport};

const ERROR_BODY_MAX: u64 = 64 * 1024;

/// A manifest or index as the registry sent it, verified.
#[derive(Debug)]
pub(crate) struct Fetched {
    pub(crate) bytes: Vec<u8>,
    pub(crate) digest: Digest,
    pub(crate) content_type: Option<String>,
}

/// The client of all registries. Tokens live as long as it does.
#[derive(Debug)]
pub(crate) struct Client {
    transport: Transport,
    registries: Registries,
    sessions: Sessions,
    down: Down,
}

impl Client {
    pub(crate) fn new(registries: Registries) -> Result<Client, ImageError> {
        endpoint::check(&registries)?;
        Ok(Client {
            transport: Transport::new(&registries)?,
            registries,
            sessions: Sessions::new(),
            down: Down::default(),
        })
    }

    /// The digest of what `reference` names now, if a registry tells it without sending it.
    pub(crate) async fn head(&self, reference: &Reference) -> Result<Option<Digest>, Fault> {
        let subject = reference.to_string();
        let mut rotation = self.rotation(reference, Part::Name);
        let deadline = self.transport.deadline();
        loop {
            match self.head_at(&rotation, deadline, &subject, reference).await {
                Err(fault) => rotation.pass_over(fault)?,
                told => return told,
            }
        }
    }

    async fn head_at(
        &self,
        rotation: &Rotation<'_>,
        deadline: Instant,
        subject: &str,
        reference: &Reference,
    ) -> Result<Option<Digest>, Fault> {
        let endpoint = rotation.current();
        let path = manifest_path(endpoint, reference.version());
        let ask = manifest_ask(rotation, deadline, subject, &path, Method::HEAD);
        let answer = self.send(&ask, endpoint).await?;
        match answer.response.status() {
            StatusCode::OK => Ok(content_digest(answer.response.headers())),
            status if endpoint.is_mirror => {
                if status == StatusCode::NOT_FOUND {
                    self.down.lacks(endpoint, reference);
                }
                Err(Fault::Refused(ask.error("the mirror has no such image")))
            }
            _ => Ok(None),
        }
    }

    /// What `reference` names: by its digest if it has one, else by its tag.
    pub(crate) async fn manifest(&self, reference: &Reference) -> Result<Fetched, Fault> {
        let wanted = reference.digest.as_ref();
        let version = reference.version();
        self.document(reference, Part::Name, version, wanted, None)
            .await
    }

    /// A manifest that an index points at.
    pub(crate) async fn manifest_of(
        &self,
        reference: &Reference,
        line: &Descriptor,
    ) -> Result<Fetched, Fault> {
        let wanted = &line.digest;
        let (version, size) = (wanted.as_str(), Some(line.size));
        self.document(reference, Part::Content, version, Some(wanted), size)
            .await
    }

    /// A small blob (a configuration), whole and verified.
    pub(crate) async fn small_blob(
        &self,
        reference: &Reference,
        blob: &Descriptor,
    ) -> Result<Vec<u8>, Fault> {
        if blob.size > DOCUMENT_MAX {
            let cause = format!(
                "the configuration is said to have {} bytes; at most {DOCUMENT_MAX} are read",
                blob.size
            );
            return Err(ImageError::new("fetch configuration", reference, cause).into());
        }
        let mut rotation = self.rotation(reference, Part::Content);
        loop {
            match self.small_blob_at(&rotation, reference, blob).await {
                Err(fault) => rotation.pass_over(fault)?,
                whole => return whole,
            }
        }
    }

    async fn small_blob_at(
        &self,
        rotation: &Rotation<'_>,
        reference: &Reference,
        blob: &Descriptor,
    ) -> Result<Vec<u8>, Fault> {
        let rotation = rotation.only_current();
        let mut stream = Blob::new(self, "fetch configuration", reference, blob, rotation);
        let mut bytes = Vec::new();
        while let Some(piece) = stream.next().await? {
            bytes.extend_from_slice(&piece);
        }
        let digest = Digest::of(&bytes);
        if digest != blob.digest {
            let cause = format!(
                "wrong digest: asked for {}, got {digest}; the registry's copy is damaged, push the image again",
                blob.digest
            );
            return Err(ImageError::new("fetch configuration", reference, cause).into());
        }
        Ok(bytes)
    }

    /// A blob's bytes as they come: exactly as many as its descriptor says, but unverified.
    pub(crate) fn blob<'a>(
        &'a self,
        step: &'static str,
        reference: &Reference,
        blob: &Descriptor,
    ) -> Blob<'a> {
        let rotation = self.rotation(reference, Part::Content);
        Blob::new(self, step, reference, blob, rotation)
    }

    /// What the operator says of registries.
    pub(crate) fn registries(&self) -> &Registries {
        &self.registries
    }

    fn rotation(&self, reference: &Reference, part: Part) -> Rotation<'_> {
        let now = Instant::now();
        Rotation::new(&self.registries, reference, part, &self.down, now)
    }

    /// A manifest or index, of this digest and size where they are known.
    async fn document(
        &self,
        reference: &Reference,
        part: Part,
        version: &str,
        wanted: Option<&Digest>,
        size: Option<u64>,
    ) -> Result<Fetched, Fault> {
        let mut rotation = self.rotation(reference, part);
        let deadline = self.transport.deadline();
        loop {
            let asked = self.document_at(&rotation, deadline, reference, version);
            let checked = asked
                .await
                .and_then(|fetched| verified(reference, fetched, wanted, size));
            match checked {
                Err(fault) => rotation.pass_over(fault)?,
                whole => return whole,
            }
        }
    }

    async fn document_at(
        &self,
        rotation: &Rotation<'_>,
        deadline: Instant,
        reference: &Reference,
        version: &str,
    ) -> Result<Fetched, Fault> {
        let endpoint = rotation.current();
        let subject = reference.to_string();
        let path = manifest_path(endpoint, version);
        let ask = manifest_ask(rotation, deadline, &subject, &path, Method::GET);
        let answer = self.send(&ask, endpoint).await?;
        if endpoint.is_mirror && version == reference.version() {
            match answer.response.status() {
                StatusCode::NOT_FOUND => self.down.lacks(endpoint, reference),
                _ => self.down.has(endpoint, reference),
            }
        }
        let response = self.expect(&ask, answer, &[StatusCode::OK]).await?;
        let claimed = content_digest(response.headers());
        let content_type = response.headers().get(header::CONTENT_TYPE);
        let content_type = content_type
            .and_then(|v| v.to_str().ok())
            .map(str::to_owned);
        let bytes = self
            .transport
            .read(&ask, response.into_body(), DOCUMENT_MAX)
            .await?;
        let digest = Digest::of(&bytes);
        if claimed.as_ref().is_some_and(|claimed| *claimed != digest) {
            return Err(Fault::Refused(ask.error(format!(
                "wrong digest: the registry says {}, its answer is {digest}; try again, or push the image again",
                claimed.as_ref().map_or("", Digest::as_str),
            ))));
        }
        Ok(Fetched {
            bytes,
            digest,
            content_type,
        })
    }

    async fn send(&self, ask: &Ask<'_>, endpoint: &Endpoint) -> Result<Answer, Fault> {
        let asking = Asking {
            transport: &self.transport,
            registries: &self.registries,
            repository: &endpoint.repository,
        };
        self.sessions.send(asking, ask).await
    }

    /// The response if its status is one of `good`, else the error it stands for.
    async fn expect(
        &self,
        ask: &Ask<'_>,
        answer: Answer,
        good: &[StatusCode],
    ) -> Result<http::Response<Incoming>, Fault> {
        let status = answer.response.status();
        if good.contains(&status) {
            return Ok(answer.response);
        }
        let body = answer.response.into_body();
        let body = self
            .transport
            .read(ask, body, ERROR_BODY_MAX)
            .await
            .unwrap_or_default();
        let mut cause = refusal(ask, status, &body);
        if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            cause.push_str(&credentials::places(&self.registries).await);
        }
        Err(Fault::Refused(ask.error(cause)))
    }
}

/// Docker Hub's registry has another address than its name.
fn hub_address(registry: &str) -> &str {
    match registry {
        "docker.io" | "index.docker.io" => "registry-1.docker.io",
        other => other,
    }
}

fn manifest_path(endpoint: &Endpoint, version: &str) -> String {
    format!("/v2/{}/manifests/{version}", endpoint.repository)
}

fn manifest_ask<'a>(
    rotation: &'a Rotation<'_>,
    deadline: Instant,
    subject: &'a str,
    path: &'a str,
    method: Method,
) -> Ask<'a> {
    Ask {
        step: "fetch manifest",
        subject,
        method,
        authority: &rotation.current().authority,
        path,
        https_only: false,
        accept: Some(ACCEPT),
        from: 0,
        post: None,
        deadline: share(deadline, rotation.has_other()),
        has_other: rotation.has_other(),
    }
}

fn verified(
    reference: &Reference,
    fetched: Fetched,
    wanted: Option<&Digest>,
    size: Option<u64>,
) -> Result<Fetched, Fault> {
    let refuse = |cause| Err(ImageError::new("fetch manifest", reference, cause).into());
    if let Some(wanted) = wanted
        && fetched.digest != *wanted
    {
        return refuse(format!(
            "wrong digest: asked for {wanted}, got {}; the registry's copy is damaged, push the image again",
            fetched.digest
        ));
    }
    if size.is_some_and(|size| fetched.bytes.len() as u64 != size) {
        let digest = &fetched.digest;
        return refuse(format!("{digest} is not as long as the index says"));
    }
    Ok(fetched)
}

fn content_digest(headers: &HeaderMap) -> Option<Digest> {
    let value = headers.get("docker-content-digest")?.to_str().ok()?;
    Digest::parse(value).ok()
}

#[derive(Deserialize)]
struct ErrorBody {
    errors: Vec<ErrorLine>,
}

#[derive(Deserialize)]
struct ErrorLine {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

/// The sentence for an answer that is none of the wanted ones (distribution spec, "Error codes").
fn refusal(ask: &Ask<'_>, status: StatusCode, body: &[u8]) -> String {
    let line = serde_json::from_slice::<ErrorBody>(body)
        .ok()
        .and_then(|body| body.errors.into_iter().next());
    let said = line.as_ref().map_or_else(String::new, |line| {
        format!(
            " ({}: {})",
            printable(&line.code, 40),
            printable(&line.message, 160)
        )
    });
    let registry = ask.authority;
    match status {
        StatusCode::NOT_FOUND => {
            let code = line.map(|line| line.code).unwrap_or_default();
            let (what, remedy) = match code.as_str() {
                "NAME_UNKNOWN" => (
                    "no such repository",
                    "check the name, or push the image first",
                ),
                "BLOB_UNKNOWN" => (
                    "the registry lacks a part of the image",
                    "push the image again",
                ),
                _ if ask.path.contains("/manifests/sha256:") && !ask.subject.contains('@') => (
                    "the registry lacks this platform's part of the image",
                    "push the image again",
                ),
                _ if ask.subject.contains('@') => (
                    "no image of this digest",
                    "check name and digest: a digest changes with each push; or push that image again",
                ),
                _ => ("unknown image", "check name and tag, or push it first"),
            };
            format!("{what} at registry {registry}{said}; {remedy}")
        }
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => format!(
            "unauthorized: registry {registry} answered {status}{said}; check the image's name and the credentials"
        ),
        other => format!(
            "registry {registry} answered {other}{said}; that is no registry's answer to a pull"
        ),
    }
}
