//! The registry client: manifests and blobs of the OCI distribution specification (and Docker's registry v2),
//! pull side only.
//!
//! Everything fetched by digest is verified here, except layers, whose bytes are verified by who unpacks them
//! while they stream. Absent on purpose: push, referrers, mirrors, catalogues.

pub(crate) mod address;
pub(crate) mod blob;
pub(crate) mod challenge;
pub(crate) mod fault;
pub(crate) mod token;
pub(crate) mod transport;

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, StatusCode};
use hyper::body::Incoming;
use serde::Deserialize;

use crate::digest::Digest;
use crate::error::{ImageError, printable};
use crate::manifest::{ACCEPT, DOCUMENT_MAX, Descriptor};
use crate::reference::Reference;
use blob::Blob;
use fault::Fault;
use transport::{Answer, Ask, Transport};

const ERROR_BODY_MAX: u64 = 64 * 1024;

/// Which registries may be spoken to over plain HTTP, whose certificates are trusted, and with which
/// credentials.
#[derive(Clone, Debug, Default)]
pub struct Registries {
    /// `host:port` of registries that speak plain HTTP. Loopback addresses always may.
    pub insecure: Vec<String>,
    /// PEM files of certificate authorities that are trusted beside the system's.
    pub ca_files: Vec<PathBuf>,
    /// Users of private registries; at most one counts per registry.
    pub credentials: Vec<Credential>,
}

impl Registries {
    /// `authority` is the address spoken to, which for Docker Hub is not the name in references.
    fn credential(&self, authority: &str) -> Option<&Credential> {
        let wanted = hub_address(authority);
        self.credentials
            .iter()
            .find(|c| hub_address(&c.registry.to_ascii_lowercase()) == wanted)
    }
}

/// A user of a registry.
#[derive(Clone)]
pub struct Credential {
    /// `host[:port]` as in references; `docker.io` for Docker Hub.
    pub registry: String,
    /// User name.
    pub username: String,
    /// Password or access token; in no log and no Debug output.
    pub password: String,
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential")
            .field("registry", &self.registry)
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

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
    /// By registry and repository.
    authorizations: Mutex<HashMap<(String, String), HeaderValue>>,
}

impl Client {
    pub(crate) fn new(registries: Registries) -> Result<Client, ImageError> {
        let transport =
            Transport::new(&registries.insecure, &registries.ca_files, transport::STALL)?;
        Ok(Client {
            transport,
            registries,
            authorizations: Mutex::default(),
        })
    }

    /// The digest of what `reference` names now, if the registry tells it without sending it.
    pub(crate) async fn head(&self, reference: &Reference) -> Result<Option<Digest>, Fault> {
        let subject = reference.to_string();
        let path = manifest_path(reference, reference.version());
        let ask = manifest_ask(reference, &subject, &path, Method::HEAD);
        let answer = self.send(&ask, reference).await?;
        if answer.response.status() != StatusCode::OK {
            return Ok(None);
        }
        Ok(content_digest(answer.response.headers()))
    }

    /// What `reference` names: by its digest if it has one, else by its tag.
    pub(crate) async fn manifest(&self, reference: &Reference) -> Result<Fetched, Fault> {
        let fetched = self.document(reference, reference.version()).await?;
        match &reference.digest {
            Some(digest) => verified(reference, fetched, digest),
            None => Ok(fetched),
        }
    }

    /// A manifest that an index points at.
    pub(crate) async fn manifest_of(
        &self,
        reference: &Reference,
        line: &Descriptor,
    ) -> Result<Fetched, Fault> {
        let fetched = self.document(reference, line.digest.as_str()).await?;
        let fetched = verified(reference, fetched, &line.digest)?;
        if fetched.bytes.len() as u64 != line.size {
            return Err(Fault::Refused(ImageError::new(
                "fetch manifest",
                reference,
                format!("{} is not as long as the index says", line.digest),
            )));
        }
        Ok(fetched)
    }

    /// A small blob (a configuration), whole and verified.
    pub(crate) async fn small_blob(
        &self,
        reference: &Reference,
        blob: &Descriptor,
    ) -> Result<Vec<u8>, Fault> {
        let refuse = |cause: String| {
            Fault::Refused(ImageError::new("fetch configuration", reference, cause))
        };
        if blob.size > DOCUMENT_MAX {
            return Err(refuse(format!(
                "the configuration is said to have {} bytes; at most {DOCUMENT_MAX} are read",
                blob.size
            )));
        }
        let mut stream = self.blob("fetch configuration", reference, blob);
        let mut bytes = Vec::new();
        while let Some(piece) = stream.next().await? {
            bytes.extend_from_slice(&piece);
        }
        let digest = Digest::of(&bytes);
        if digest != blob.digest {
            return Err(refuse(format!(
                "wrong digest: asked for {}, got {digest}; the registry's copy is damaged, push the image again",
                blob.digest
            )));
        }
        Ok(bytes)
    }

    /// A blob's bytes as they come: exactly as many as its descriptor says, but unverified.
    pub(crate) fn blob<'a>(
        &'a self,
        step: &'static str,
        reference: &'a Reference,
        blob: &Descriptor,
    ) -> Blob<'a> {
        Blob::new(self, step, reference, blob)
    }

    async fn document(&self, reference: &Reference, version: &str) -> Result<Fetched, Fault> {
        let subject = reference.to_string();
        let path = manifest_path(reference, version);
        let ask = manifest_ask(reference, &subject, &path, Method::GET);
        let answer = self.send(&ask, reference).await?;
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

    /// Sends with what authorization we have, and once more after answering a challenge.
    async fn send(&self, ask: &Ask<'_>, reference: &Reference) -> Result<Answer, Fault> {
        let key = (reference.registry.clone(), reference.repository.clone());
        let known = self.lock().get(&key).cloned();
        let answer = self.transport.send(ask, known.as_ref()).await?;
        // A challenge of another host, reached by redirect, must not be answered with this one's secrets.
        if answer.response.status() != StatusCode::UNAUTHORIZED || answer.redirected_away {
            return Ok(answer);
        }
        let Some(challenge) = token::challenge_in(answer.response.headers()) else {
            return Ok(answer);
        };
        let fresh = token::answer(
            &self.transport,
            &self.registries,
            ask,
            &reference.repository,
            challenge,
        )
        .await;
        let fresh = fresh.inspect_err(|_| {
            self.lock().remove(&key);
        })?;
        self.lock().insert(key, fresh.clone());
        self.transport.send(ask, Some(&fresh)).await
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(String, String), HeaderValue>> {
        self.authorizations
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
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
        Err(Fault::Refused(ask.error(refusal(ask, status, &body))))
    }
}

/// Docker Hub's registry has another address than its name.
fn hub_address(registry: &str) -> &str {
    match registry {
        "docker.io" | "index.docker.io" => "registry-1.docker.io",
        other => other,
    }
}

fn manifest_path(reference: &Reference, version: &str) -> String {
    format!("/v2/{}/manifests/{version}", reference.repository)
}

fn manifest_ask<'a>(
    reference: &'a Reference,
    subject: &'a str,
    path: &'a str,
    method: Method,
) -> Ask<'a> {
    Ask {
        step: "fetch manifest",
        subject,
        method,
        authority: hub_address(&reference.registry),
        path,
        accept: Some(ACCEPT),
        from: 0,
    }
}

fn verified(reference: &Reference, fetched: Fetched, wanted: &Digest) -> Result<Fetched, Fault> {
    if fetched.digest != *wanted {
        return Err(Fault::Refused(ImageError::new(
            "fetch manifest",
            reference,
            format!(
                "wrong digest: asked for {wanted}, got {}; the registry's copy is damaged, push the image again",
                fetched.digest
            ),
        )));
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
