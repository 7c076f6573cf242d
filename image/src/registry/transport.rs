//! One HTTP exchange with a registry: which scheme, redirects, timeouts, retries.
//!
//! It knows nothing of images. HTTPS always, unless the host is a loopback address or the operator called the
//! registry insecure; then TLS is tried first, and plain HTTP follows only if the peer does not speak TLS.
//! Absent on purpose: proxies, cookies, HTTP/2 (one stream per layer is as fast over HTTP/1.1), certificate
//! checks that can be switched off.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::uri::{Scheme, Uri};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::time::timeout;

use super::address::{is_loopback, redirect_target, uri};
use super::fault::{Broken, Fault, classify};
use crate::error::{ImageError, printable};

/// No byte for this long is a dead peer.
pub(crate) const STALL: Duration = Duration::from_secs(60);
const CONNECT: Duration = Duration::from_secs(15);
const REDIRECTS_MAX: usize = 5;
const ATTEMPTS: u32 = 4;
/// A registry that wants us to wait longer than this is reported as busy instead.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(30);
const USER_AGENT: &str = concat!("longshore/", env!("CARGO_PKG_VERSION"));

/// A request, and the words for its errors.
#[derive(Clone, Debug)]
pub(crate) struct Ask<'a> {
    pub(crate) step: &'static str,
    pub(crate) subject: &'a str,
    pub(crate) method: Method,
    /// `host[:port]`.
    pub(crate) authority: &'a str,
    pub(crate) path: &'a str,
    pub(crate) accept: Option<&'static str>,
    /// First byte wanted, if not the first of all.
    pub(crate) from: u64,
}

impl Ask<'_> {
    pub(crate) fn error(&self, cause: impl std::fmt::Display) -> ImageError {
        ImageError::new(self.step, self.subject, cause)
    }
}

/// An answer, and whether it came from the host that was asked.
pub(crate) struct Answer {
    pub(crate) response: Response<Incoming>,
    pub(crate) redirected_away: bool,
}

pub(crate) struct Transport {
    client: Client<HttpsConnector<HttpConnector>, Empty<Bytes>>,
    insecure: HashSet<String>,
    /// What insecure and loopback registries turned out to speak.
    spoken: Mutex<HashMap<String, Scheme>>,
    stall: Duration,
}

impl std::fmt::Debug for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transport").finish_non_exhaustive()
    }
}

impl Transport {
    pub(crate) fn new(
        insecure: &[String],
        ca_files: &[PathBuf],
        stall: Duration,
    ) -> Result<Transport, ImageError> {
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_connect_timeout(Some(CONNECT));
        let https = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(tls_config(ca_files)?)
            .https_or_http()
            .enable_http1()
            .wrap_connector(http);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(30))
            .build(https);
        Ok(Transport {
            client,
            insecure: insecure.iter().map(|r| r.to_ascii_lowercase()).collect(),
            spoken: Mutex::default(),
            stall,
        })
    }

    /// Sends, and sends again while the registry is busy (429, 5xx), with a bounded backoff.
    pub(crate) async fn send(
        &self,
        ask: &Ask<'_>,
        authorization: Option<&HeaderValue>,
    ) -> Result<Answer, Fault> {
        let mut attempt = 1;
        loop {
            let answer = self.follow(ask, authorization).await?;
            let status = answer.response.status();
            if status != StatusCode::TOO_MANY_REQUESTS && !status.is_server_error() {
                return Ok(answer);
            }
            let wait = retry_after(&answer.response).unwrap_or_else(|| backoff(attempt));
            if attempt == ATTEMPTS || wait > RETRY_AFTER_MAX {
                let cause = format!(
                    "registry {} answered {status} {attempt} times; try again later",
                    ask.authority
                );
                return Err(Fault::Unreachable(ask.error(cause)));
            }
            tracing::debug!(registry = ask.authority, %status, attempt, ?wait, "registry busy");
            tokio::time::sleep(wait).await;
            attempt += 1;
        }
    }

    /// The next piece of a body; None at its end.
    pub(crate) async fn frame(&self, body: &mut Incoming) -> Result<Option<Bytes>, String> {
        loop {
            match timeout(self.stall, body.frame()).await {
                Err(_) => return Err(format!("no byte for {} s", self.stall.as_secs())),
                Ok(None) => return Ok(None),
                Ok(Some(Err(e))) => return Err(super::fault::chain(&e)),
                Ok(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }

    /// A whole body of at most `max` bytes.
    pub(crate) async fn read(
        &self,
        ask: &Ask<'_>,
        mut body: Incoming,
        max: u64,
    ) -> Result<Vec<u8>, Fault> {
        let mut whole = Vec::new();
        loop {
            match self.frame(&mut body).await {
                Ok(None) => return Ok(whole),
                Ok(Some(data)) => whole.extend_from_slice(&data),
                Err(cause) => {
                    let cause = format!(
                        "the answer of registry {} broke off: {cause}; try again",
                        ask.authority
                    );
                    return Err(Fault::Unreachable(ask.error(cause)));
                }
            }
            if whole.len() as u64 > max {
                let cause = format!(
                    "registry {} sent more than {max} bytes; refused",
                    ask.authority
                );
                return Err(Fault::Refused(ask.error(cause)));
            }
        }
    }

    async fn follow(
        &self,
        ask: &Ask<'_>,
        authorization: Option<&HeaderValue>,
    ) -> Result<Answer, Fault> {
        let (mut target, mut response) = self.first(ask, authorization).await?;
        let asked = target.authority().cloned();
        for _ in 0..REDIRECTS_MAX {
            if !is_redirect(response.status()) {
                let redirected_away = target.authority() != asked.as_ref();
                return Ok(Answer {
                    response,
                    redirected_away,
                });
            }
            let next =
                redirect_target(&target, response.headers()).map_err(|cause| ask.error(cause))?;
            self.check_redirect(&target, &next)
                .map_err(|cause| ask.error(cause))?;
            // A token for the registry is none of its storage's business, nor of any host after that.
            let same_host = next.authority() == asked.as_ref() && next.scheme() == target.scheme();
            let authorization = authorization.filter(|_| same_host);
            response = self.exchange(ask, &next, authorization).await?;
            target = next;
        }
        Err(Fault::Refused(ask.error(format!(
            "registry {} redirected more than {REDIRECTS_MAX} times",
            ask.authority
        ))))
    }

    /// The first exchange finds out which scheme the registry speaks.
    async fn first(
        &self,
        ask: &Ask<'_>,
        authorization: Option<&HeaderValue>,
    ) -> Result<(Uri, Response<Incoming>), Fault> {
        let uri =
            |scheme: Scheme| uri(scheme, ask.authority, ask.path).map_err(|cause| ask.error(cause));
        let plain_allowed = self.may_be_plain(ask.authority);
        let known = self.lock_spoken().get(ask.authority).cloned();
        if let Some(scheme) = known {
            let uri = uri(scheme)?;
            let response = self.exchange(ask, &uri, authorization).await?;
            return Ok((uri, response));
        }
        let https = uri(Scheme::HTTPS)?;
        match self.attempt(ask, &https, authorization).await {
            Ok(response) => {
                self.remember(ask.authority, Scheme::HTTPS);
                Ok((https, response))
            }
            Err(Broken::NotTls(_)) if plain_allowed => {
                let http = uri(Scheme::HTTP)?;
                let response = self.exchange(ask, &http, authorization).await?;
                self.remember(ask.authority, Scheme::HTTP);
                Ok((http, response))
            }
            Err(broken) => Err(fault(ask, ask.authority, broken)),
        }
    }

    async fn exchange(
        &self,
        ask: &Ask<'_>,
        uri: &Uri,
        authorization: Option<&HeaderValue>,
    ) -> Result<Response<Incoming>, Fault> {
        let sent = self.attempt(ask, uri, authorization).await;
        sent.map_err(|broken| fault(ask, uri.authority().map_or("", |a| a.as_str()), broken))
    }

    /// A connection may break between request and answer (servers close idle ones just then): a GET bears
    /// being sent again.
    async fn attempt(
        &self,
        ask: &Ask<'_>,
        uri: &Uri,
        authorization: Option<&HeaderValue>,
    ) -> Result<Response<Incoming>, Broken> {
        match self.once(ask, uri, authorization).await {
            Err(Broken::Wire(_)) => self.once(ask, uri, authorization).await,
            other => other,
        }
    }

    async fn once(
        &self,
        ask: &Ask<'_>,
        uri: &Uri,
        authorization: Option<&HeaderValue>,
    ) -> Result<Response<Incoming>, Broken> {
        let mut request = Request::builder()
            .method(ask.method.clone())
            .uri(uri.clone())
            .header(header::USER_AGENT, USER_AGENT);
        if let Some(accept) = ask.accept {
            request = request.header(header::ACCEPT, accept);
        }
        if let Some(value) = authorization {
            request = request.header(header::AUTHORIZATION, value.clone());
        }
        if ask.from > 0 {
            request = request.header(header::RANGE, format!("bytes={}-", ask.from));
        }
        let request = request
            .body(Empty::new())
            .map_err(|e| Broken::Wire(e.to_string()))?;
        match timeout(self.stall, self.client.request(request)).await {
            Err(_) => Err(Broken::Connect(format!(
                "no answer for {} s",
                self.stall.as_secs()
            ))),
            Ok(Err(e)) => Err(classify(&e)),
            Ok(Ok(response)) => Ok(response),
        }
    }

    fn check_redirect(&self, from: &Uri, to: &Uri) -> Result<(), String> {
        let host = printable(to.host().unwrap_or_default(), 100);
        let plain = to.scheme() == Some(&Scheme::HTTP);
        if plain && from.scheme() == Some(&Scheme::HTTPS) {
            return Err(format!(
                "a redirect from https to plain http ({host}) is refused"
            ));
        }
        if plain
            && !to
                .authority()
                .is_some_and(|a| self.may_be_plain(a.as_str()))
        {
            return Err(format!(
                "a redirect to plain http ({host}) is refused; name that host insecure if it may be trusted"
            ));
        }
        Ok(())
    }

    /// Whether plain HTTP may be spoken with `authority`.
    pub(crate) fn may_be_plain(&self, authority: &str) -> bool {
        self.insecure.contains(&authority.to_ascii_lowercase()) || is_loopback(authority)
    }

    fn remember(&self, authority: &str, scheme: Scheme) {
        // Only those that may speak either are worth a line, so the table is as small as the configuration.
        if self.may_be_plain(authority) {
            self.lock_spoken().insert(authority.to_owned(), scheme);
        }
    }

    fn lock_spoken(&self) -> std::sync::MutexGuard<'_, HashMap<String, Scheme>> {
        self.spoken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn tls_config(ca_files: &[PathBuf]) -> Result<rustls::ClientConfig, ImageError> {
    let mut roots = rustls::RootCertStore::empty();
    // A host without certificates still has loopback registries; HTTPS then fails by name, with its remedy.
    let native = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(native.certs);
    for file in ca_files {
        let bad = |e: &dyn std::fmt::Display| {
            let cause = format!("{e}; name a readable PEM file of certificates");
            ImageError::new("read certificate authorities", file.display(), cause)
        };
        for certificate in CertificateDer::pem_file_iter(file).map_err(|e| bad(&e))? {
            let certificate = certificate.map_err(|e| bad(&e))?;
            roots.add(certificate).map_err(|e| bad(&e))?;
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| ImageError::new("prepare", "TLS", e))?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// `authority` is host and port as they were dialled: the port may be what is wrong.
fn fault(ask: &Ask<'_>, authority: &str, broken: Broken) -> Fault {
    let host = printable(authority, 100);
    match broken {
        Broken::Connect(cause) | Broken::Wire(cause) => Fault::Unreachable(ask.error(format!(
            "registry {host} cannot be reached: {cause}; check its name, the network and that it runs"
        ))),
        Broken::Tls(cause) => Fault::Refused(ask.error(format!(
            "TLS with registry {host} failed: {cause}; install ca-certificates, or name the registry's \
             authority in the agent's CA files"
        ))),
        Broken::NotTls(cause) => Fault::Refused(ask.error(format!(
            "registry {host} does not speak TLS: {cause}; if plain HTTP may be trusted, name it insecure"
        ))),
    }
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

fn retry_after(response: &Response<Incoming>) -> Option<Duration> {
    let value = response.headers().get(header::RETRY_AFTER)?.to_str().ok()?;
    value.trim().parse().ok().map(Duration::from_secs)
}

/// 0.5 s, 1 s, 2 s, each up to a quarter longer, so that many hosts do not come back at once.
fn backoff(attempt: u32) -> Duration {
    let base = Duration::from_millis(500) * 2u32.pow(attempt.min(6) - 1);
    let jitter = crate::store::random_bytes()[0];
    base + base * u32::from(jitter) / 1024
}

#[cfg(test)]
mod tests;
