//! One HTTP exchange with a registry: which scheme, redirects, time limits, retries.
//!
//! It knows nothing of images. HTTPS always, unless the host is a loopback address or the operator called the
//! registry insecure; then TLS is tried first, and plain HTTP follows only if the peer does not speak TLS.
//! Absent on purpose: cookies, and certificate checks that can be switched off.

mod dial;
pub(super) mod patience;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::uri::{Scheme, Uri};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use jiff::Timestamp;
use tokio::time::{Instant, timeout, timeout_at};

use super::address::{is_loopback, redirect_target, uri};
use super::fault::{Broken, Fault, classify};
use super::hub_address;
use super::settings::{Limits, Registries};
use crate::error::{ImageError, printable};
use dial::{HttpClient, Routes, http_client, system_authorities};
use patience::{ATTEMPTS, CONNECTIONS, RETRY_AFTER_MAX, backoff, no_sooner_than, retry_after};

const REDIRECTS_MAX: usize = 5;
/// A registry on this host may name any port of it as its token service.
const SPOKEN_MAX: usize = 256;
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
    /// Nothing but TLS is spoken, whoever it is: the address said https.
    pub(crate) https_only: bool,
    pub(crate) accept: Option<&'static str>,
    /// First byte wanted, if not the first of all.
    pub(crate) from: u64,
    /// What is sent along; only with POST, and never to where a redirect leads.
    pub(crate) post: Option<Post>,
    /// When all of it must be done: waits, redirects and the answer's body.
    pub(crate) deadline: Instant,
    /// Somebody else can be asked instead: one that does not answer is not waited for.
    pub(crate) has_other: bool,
}

/// The body of a POST. Debug does not show it: it may hold a secret.
#[derive(Clone)]
pub(crate) struct Post {
    pub(crate) content_type: &'static str,
    pub(crate) body: Bytes,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
}

impl std::fmt::Debug for Post {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Post").finish_non_exhaustive()
    }
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
    client: HttpClient,
    /// Of registries that have authorities or a certificate of their own, by authority.
    own: HashMap<String, HttpClient>,
    routes: Arc<Routes>,
    insecure: HashSet<String>,
    /// What insecure and loopback registries turned out to speak.
    spoken: Mutex<HashMap<String, Scheme>>,
    limits: Limits,
}

impl std::fmt::Debug for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transport").finish_non_exhaustive()
    }
}

impl Transport {
    pub(crate) fn new(registries: &Registries) -> Result<Transport, ImageError> {
        let routes = Arc::new(Routes::new(&registries.proxies)?);
        let system = system_authorities();
        let mut own = HashMap::new();
        for (name, settings) in &registries.registries {
            let certificate = settings.client_certificate.as_ref();
            if certificate.is_some() || !settings.ca_files.is_empty() {
                let ca_files = [&registries.ca_files[..], &settings.ca_files].concat();
                let name = hub_address(&name.to_ascii_lowercase()).to_owned();
                own.insert(name, http_client(&system, &ca_files, certificate, &routes)?);
            }
        }
        let insecure = registries.insecure.iter();
        Ok(Transport {
            client: http_client(&system, &registries.ca_files, None, &routes)?,
            own,
            routes,
            insecure: insecure.map(|r| r.to_ascii_lowercase()).collect(),
            spoken: Mutex::default(),
            limits: registries.limits,
        })
    }

    /// When something that begins now must be done.
    pub(crate) fn deadline(&self) -> Instant {
        Instant::now() + self.limits.total()
    }

    /// Sends, and sends again while the registry is busy (429, 5xx), with a bounded backoff.
    pub(crate) async fn send(
        &self,
        ask: &Ask<'_>,
        authorization: Option<&HeaderValue>,
    ) -> Result<Answer, Fault> {
        let sent = timeout_at(ask.deadline, self.send_patiently(ask, authorization));
        sent.await.unwrap_or_else(|_| {
            let cause = format!(
                "registry {} was not done after {} s; try again later",
                ask.authority, self.limits.total_seconds
            );
            Err(Fault::Unreachable(ask.error(cause)))
        })
    }

    async fn send_patiently(
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
            let asked = retry_after(answer.response.headers(), Timestamp::now());
            // Who says "now" is not asked without any pause.
            let wait = asked.map_or(Duration::ZERO, no_sooner_than);
            let wait = wait.max(backoff(attempt));
            let too_long = asked.filter(|asked| *asked > RETRY_AFTER_MAX);
            if attempt == ATTEMPTS || too_long.is_some() || ask.has_other {
                let when = too_long.map_or_else(
                    || "try again later".to_owned(),
                    |asked| format!("it asks to be left alone for {} s", asked.as_secs()),
                );
                let cause = format!(
                    "registry {} answered {status} {attempt} times; {when}",
                    ask.authority
                );
                return Err(Fault::Unreachable(ask.error(cause)));
            }
            tracing::debug!(registry = ask.authority, %status, attempt, ?wait, "registry busy");
            tokio::time::sleep(wait).await;
            attempt += 1;
        }
    }

    /// The next piece of a body; None at its end. `deadline` is for the whole body.
    pub(crate) async fn frame(
        &self,
        body: &mut Incoming,
        deadline: Instant,
    ) -> Result<Option<Bytes>, String> {
        loop {
            let stall = self.limits.inactivity();
            let left = deadline.saturating_duration_since(Instant::now());
            match timeout(stall.min(left), body.frame()).await {
                Err(_) if left <= stall => return Err("not done in time".to_owned()),
                Err(_) => return Err(format!("no byte for {} s", stall.as_secs())),
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
            match self.frame(&mut body, ask.deadline).await {
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
        let mut authorization = authorization;
        for _ in 0..REDIRECTS_MAX {
            if !is_redirect(response.status()) {
                let redirected_away = target.authority() != asked.as_ref();
                return Ok(Answer {
                    response,
                    redirected_away,
                });
            }
            if ask.post.is_some() {
                let cause = format!("{} redirected a POST; refused", ask.authority);
                return Err(Fault::Refused(ask.error(cause)));
            }
            let next =
                redirect_target(&target, response.headers()).map_err(|cause| ask.error(cause))?;
            self.check_redirect(&target, &next)
                .map_err(|cause| ask.error(cause))?;
            // A token for the registry is none of its storage's business, nor of any host after that.
            let same_host = next.authority() == asked.as_ref() && next.scheme() == target.scheme();
            authorization = authorization.filter(|_| same_host);
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
        let plain_allowed = !ask.https_only && self.may_be_plain(ask.authority);
        let known = self.lock_spoken().get(&spoken_key(ask.authority)).cloned();
        let known = known.filter(|scheme| plain_allowed || *scheme == Scheme::HTTPS);
        if let Some(scheme) = known {
            let uri = uri(scheme.clone())?;
            let sent = self.attempt(ask, &uri, authorization).await;
            let other_now = match &sent {
                Ok(response) => scheme == Scheme::HTTP && !is_registrys(response.status()),
                Err(broken) => plain_allowed && matches!(broken, Broken::NotTls(_)),
            };
            if sent.is_err() || other_now {
                self.lock_spoken().remove(&spoken_key(ask.authority));
            }
            if !other_now {
                let sent = sent.map_err(|broken| fault(ask, ask.authority, broken))?;
                return Ok((uri, sent));
            }
            // It has got a certificate, or lost it: found out as with one that we never met.
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
                // A TLS port that hung up for a moment answers this too, and must not be taken for plain for ever.
                if is_registrys(response.status()) {
                    self.remember(ask.authority, Scheme::HTTP);
                }
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

    /// A connection may break between request and answer (servers close idle ones just then), or not come about for
    /// a moment: all that we ask bears being asked again.
    async fn attempt(
        &self,
        ask: &Ask<'_>,
        uri: &Uri,
        authorization: Option<&HeaderValue>,
    ) -> Result<Response<Incoming>, Broken> {
        let mut attempt = 1;
        let connections = if ask.has_other { 1 } else { CONNECTIONS };
        loop {
            match self.once(ask, uri, authorization).await {
                Err(Broken::Wire(_)) if attempt == 1 => {}
                Err(Broken::Wire(_) | Broken::Connect(_)) if attempt < connections => {
                    tokio::time::sleep(backoff(attempt)).await;
                }
                other => return other,
            }
            attempt += 1;
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
        if let Some(value) = self.routes.proxy_authorization(uri) {
            request = request.header(header::PROXY_AUTHORIZATION, value);
        }
        let mut body = Bytes::new();
        if let Some(post) = &ask.post {
            request = request.header(header::CONTENT_TYPE, post.content_type);
            for (name, value) in &post.headers {
                request = request.header(name, value.clone());
            }
            body = post.body.clone();
        }
        let request = request
            .body(Full::new(body))
            .map_err(|e| Broken::Silent(e.to_string()))?;
        let stall = self.limits.inactivity();
        match timeout(stall, self.client(uri).request(request)).await {
            Err(_) => Err(Broken::Silent(format!(
                "no answer for {} s",
                stall.as_secs()
            ))),
            Ok(Err(e)) => Err(classify(&e)),
            Ok(Ok(response)) => Ok(response),
        }
    }

    fn client(&self, uri: &Uri) -> &HttpClient {
        let authority = uri.authority().map(|a| a.as_str().to_ascii_lowercase());
        let own = authority.and_then(|authority| self.own.get(&authority));
        own.unwrap_or(&self.client)
    }

    pub(super) fn check_redirect(&self, from: &Uri, to: &Uri) -> Result<(), String> {
        let host = printable(to.host().unwrap_or_default(), 100);
        let authority = |uri: &Uri| uri.authority().map(|a| a.as_str().to_owned());
        if leads_home(
            &authority(from).unwrap_or_default(),
            &authority(to).unwrap_or_default(),
        ) {
            return Err(format!(
                "a redirect to this host itself ({host}) is refused"
            ));
        }
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
        // Only those that may speak either are worth a line; a line that is missing costs one more handshake.
        if self.may_be_plain(authority) {
            let mut spoken = self.lock_spoken();
            if spoken.len() >= SPOKEN_MAX {
                spoken.clear();
            }
            spoken.insert(spoken_key(authority), scheme);
        }
    }

    fn lock_spoken(&self) -> std::sync::MutexGuard<'_, HashMap<String, Scheme>> {
        self.spoken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Names of hosts have no case.
fn spoken_key(authority: &str) -> String {
    authority.to_ascii_lowercase()
}

/// Whether a registry would say this in plain HTTP. A TLS port that is spoken to plainly says 400.
fn is_registrys(status: StatusCode) -> bool {
    status != StatusCode::BAD_REQUEST
}

/// A registry elsewhere must not choose what is asked of this host's loopback.
pub(crate) fn leads_home(from: &str, to: &str) -> bool {
    is_loopback(to) && !is_loopback(from)
}

/// `authority` is host and port as they were dialled: the port may be what is wrong.
fn fault(ask: &Ask<'_>, authority: &str, broken: Broken) -> Fault {
    let host = printable(authority, 100);
    match broken {
        Broken::Connect(cause) | Broken::Wire(cause) | Broken::Silent(cause) => Fault::Unreachable(ask.error(format!(
            "registry {host} cannot be reached: {cause}; check its name, the network and that it runs"
        ))),
        Broken::Tls(cause) => Fault::Refused(ask.error(format!(
            "TLS with registry {host} failed: {cause}; install ca-certificates, or name the registry's \
             authority (and our certificate, if it wants one) in the registries file"
        ))),
        Broken::NotTls(cause) => Fault::Refused(ask.error(format!(
            "registry {host} does not speak TLS: {cause}; if plain HTTP may be trusted, name it insecure"
        ))),
    }
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

#[cfg(test)]
mod tests;
