//! A token service: what a registry's Bearer challenge sends us to.
//!
//! Sources: distribution spec, "Token Authentication"; docker's registry documentation, "Token Authentication
//! Specification" and "OAuth2 Token Authentication". User and password go by GET, an identity token goes by POST as an
//! OAuth2 refresh token. Tokens live in memory as long as the client, and Debug does not show them.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::Method;
use http::header::HeaderValue;
use serde::Deserialize;
use tokio::time::Instant;

use super::credentials::Login;
use super::fault::Fault;
use super::transport::{Ask, Post, Transport, leads_home};
use crate::error::{ImageError, printable};

const TOKEN_ANSWER_MAX: u64 = 256 * 1024;
/// How long a token lives of which nobody says it (the specification's default).
const LIFETIME: u64 = 60;
/// Nothing is kept for longer, whatever is said.
const LIFETIME_MAX: u64 = 24 * 60 * 60;
/// How long a user and a password are used before they are looked up anew.
const PASSWORD_LIFE: Duration = Duration::from_secs(5 * 60);
/// Ours for token services; some want to know who asks.
const CLIENT_ID: &str = "longshore";

/// What a Bearer challenge asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bearer {
    pub(crate) realm: String,
    pub(crate) service: Option<String>,
    pub(crate) scope: Option<String>,
}

/// The value of an Authorization header, and from when on it should be made anew.
#[derive(Clone, Debug)]
pub(crate) struct Granted {
    pub(crate) header: HeaderValue,
    pub(crate) renew_at: Option<Instant>,
}

impl Granted {
    /// User and password with each request. How long they are good nobody says, so they are looked up anew now and then:
    /// a login that was taken back does not live on, and a user of ECR does not end unseen.
    pub(crate) fn basic(username: &str, password: &str) -> Granted {
        Granted {
            header: basic(username, password),
            renew_at: Instant::now().checked_add(PASSWORD_LIFE),
        }
    }

    /// A token that the registry takes as it is; looked up anew as passwords are.
    pub(crate) fn token(token: &str) -> Option<Granted> {
        let header = sensitive(&format!("Bearer {token}"))?;
        Some(Granted {
            header,
            renew_at: Instant::now().checked_add(PASSWORD_LIFE),
        })
    }
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
    /// Seconds: a number, a fraction, or the text of one.
    #[serde(default)]
    expires_in: serde_json::Value,
}

/// How long a token lives that was answered with this `expires_in`.
fn lifetime(said: &serde_json::Value) -> u64 {
    let seconds = match said {
        serde_json::Value::String(text) => text.trim().parse().ok(),
        other => other.as_f64(),
    };
    // A fraction of a second is none, and so is less than nothing.
    seconds.map_or(LIFETIME, |seconds: f64| seconds as u64)
}

/// Fetches the token that meets `bearer`. `ask` is the request that was challenged.
pub(crate) async fn fetch(
    transport: &Transport,
    ask: &Ask<'_>,
    repository: &str,
    bearer: &Bearer,
    login: Option<&Login>,
) -> Result<Granted, Fault> {
    let own_scope = format!("repository:{repository}:pull");
    let scope = bearer.scope.as_deref().unwrap_or(&own_scope);
    let service = bearer.service.as_deref();
    let (https_only, authority, mut path) =
        token_address(transport, ask.authority, &bearer.realm).map_err(|cause| ask.error(cause))?;
    let (authorization, post) = match login {
        Some(Login::Identity(token)) => (None, Some(refresh_form(service, scope, token))),
        Some(Login::Password { username, password }) => (Some(basic(username, password)), None),
        Some(Login::Token(_)) | None => (None, None),
    };
    if post.is_none() {
        let fields = query(service, scope);
        let separator = if path.contains('?') { '&' } else { '?' };
        path = format!("{path}{separator}{fields}");
    }
    let token_ask = Ask {
        step: "authorize",
        subject: ask.subject,
        method: match post {
            Some(_) => Method::POST,
            None => Method::GET,
        },
        authority: &authority,
        path: &path,
        https_only,
        accept: Some("application/json"),
        from: 0,
        post,
        deadline: ask.deadline,
        has_other: ask.has_other,
    };
    exchange(transport, &token_ask, authorization.as_ref()).await
}

async fn exchange(
    transport: &Transport,
    ask: &Ask<'_>,
    authorization: Option<&HeaderValue>,
) -> Result<Granted, Fault> {
    let answer = transport.send(ask, authorization).await?;
    let status = answer.response.status();
    if !status.is_success() {
        return Err(Fault::Refused(ask.error(format!(
            "unauthorized: token service {} answered {status}; check the image's name and the credentials",
            ask.authority
        ))));
    }
    let now = Instant::now();
    let body = answer.response.into_body();
    let bytes = transport.read(ask, body, TOKEN_ANSWER_MAX).await?;
    // Neither the answer nor the parser's words may reach an error: both could hold the token.
    let bad = || -> ImageError {
        ask.error(format!(
            "token service {} sent no usable token",
            ask.authority
        ))
    };
    let parsed: TokenAnswer = serde_json::from_slice(&bytes).map_err(|_| bad())?;
    let lifetime = lifetime(&parsed.expires_in);
    let token = parsed
        .token
        .filter(|t| !t.is_empty())
        .or(parsed.access_token.filter(|t| !t.is_empty()))
        .ok_or_else(bad)?;
    let granted = Granted::token(&token).ok_or_else(bad)?;
    Ok(Granted {
        renew_at: now.checked_add(renew_after(lifetime)),
        ..granted
    })
}

/// At four fifths of a token's life, so that it does not end between our look at it and the registry's.
fn renew_after(lifetime: u64) -> Duration {
    Duration::from_secs(lifetime.min(LIFETIME_MAX)) / 5 * 4
}

/// Authority and path of the token service, and whether only TLS may be spoken with it. The realm is the registry's word:
/// it must be https, unless plain HTTP is allowed with that host and with the registry too, and it must not be this host
/// unless the registry is.
pub(super) fn token_address(
    transport: &Transport,
    registry: &str,
    realm: &str,
) -> Result<(bool, String, String), String> {
    let bad = |why: &str| {
        format!(
            "the registry's token realm `{}` is refused: {why}",
            printable(realm, 100)
        )
    };
    let uri: http::Uri = realm.parse().map_err(|_| bad("it is no URL"))?;
    let authority = uri
        .authority()
        .ok_or_else(|| bad("it has no host"))?
        .as_str();
    if authority.contains('@') {
        return Err(bad("it holds a user"));
    }
    if leads_home(registry, authority) {
        return Err(bad("it leads to this host itself"));
    }
    let plain = transport.may_be_plain(registry) && transport.may_be_plain(authority);
    let https_only = match uri.scheme_str() {
        Some("https") => true,
        Some("http") if plain => false,
        _ => return Err(bad("it is not https")),
    };
    // A query may follow the host at once: `path` has the slash that is missing.
    let path = match uri.query() {
        Some(query) => format!("{}?{query}", uri.path()),
        None => uri.path().to_owned(),
    };
    Ok((https_only, authority.to_owned(), path))
}

/// Several scopes of one challenge are several fields of the query.
fn query(service: Option<&str>, scope: &str) -> String {
    let service = service.map(|service| format!("service={}", encoded(service)));
    let scopes = scope.split(' ').filter(|s| !s.is_empty());
    let scopes = scopes.map(|scope| format!("scope={}", encoded(scope)));
    let fields: Vec<String> = service.into_iter().chain(scopes).collect();
    fields.join("&")
}

/// OAuth2's form has one scope field (RFC 6749, section 6).
fn refresh_form(service: Option<&str>, scope: &str, token: &str) -> Post {
    let service = service.unwrap_or_default();
    let form = format!(
        "grant_type=refresh_token&client_id={CLIENT_ID}&service={}&scope={}&refresh_token={}",
        encoded(service),
        encoded(scope),
        encoded(token)
    );
    Post {
        content_type: "application/x-www-form-urlencoded",
        body: Bytes::from(form),
        headers: Vec::new(),
    }
}

/// Percent-encoding of a query value (RFC 3986, unreserved characters stay, and `:/,` which services expect).
fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z'
            | b'A'..=b'Z'
            | b'0'..=b'9'
            | b'-'
            | b'.'
            | b'_'
            | b'~'
            | b':'
            | b'/'
            | b',' => {
                out.push(char::from(byte));
            }
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}

fn basic(username: &str, password: &str) -> HeaderValue {
    let pair = STANDARD.encode(format!("{username}:{password}"));
    // Base64 text is always a valid header value.
    sensitive(&format!("Basic {pair}")).unwrap_or_else(|| HeaderValue::from_static("Basic"))
}

fn sensitive(value: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(value).ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::settings::Registries;

    fn transport() -> Transport {
        let insecure = vec!["in.example:80".into()];
        Transport::new(&Registries {
            insecure,
            ..Registries::default()
        })
        .unwrap()
    }

    #[test]
    fn the_token_request_names_service_and_scope() {
        let address = |realm: &str| token_address(&transport(), "127.0.0.1:5000", realm);
        assert_eq!(
            address("https://auth.example/token?x=1").unwrap(),
            (true, "auth.example".to_owned(), "/token?x=1".to_owned())
        );
        let without_path = address("https://auth.example?x=1").unwrap();
        assert_eq!(without_path.2, "/?x=1");
        assert!(address("http://127.0.0.1:5001/t").is_ok());
        assert!(address("http://in.example:80/t").is_ok());
        assert_eq!(
            query(Some("a b"), "repository:x/y:pull other"),
            "service=a%20b&scope=repository:x/y:pull&scope=other"
        );
        assert_eq!(query(None, "s"), "scope=s");
        let form = refresh_form(Some("r.io"), "one two", "a&b=c").body;
        assert_eq!(
            form,
            "grant_type=refresh_token&client_id=longshore&service=r.io&scope=one%20two&refresh_token=a%26b%3Dc"
        );
    }

    #[test]
    fn a_realm_that_would_leak_credentials_is_refused() {
        for realm in [
            "http://auth.example/token",
            "ftp://a/",
            "/token",
            "https://u:p@a/t",
            "",
            "https://",
        ] {
            let refused = token_address(&transport(), "127.0.0.1:5000", realm);
            assert!(refused.is_err(), "{realm}");
        }
        // Also a registry that may be plain is another host than this one.
        for registry in ["registry.example", "in.example:80"] {
            let address = |realm: &str| token_address(&transport(), registry, realm);
            assert!(address("http://127.0.0.1:2375/images/create").is_err());
            assert!(address("https://127.0.0.1:2375/images/create").is_err());
            assert!(address("https://auth.example/token").is_ok());
        }
    }

    #[test]
    fn a_token_is_renewed_before_its_end() {
        assert_eq!(renew_after(60), Duration::from_secs(48));
        assert_eq!(renew_after(0), Duration::ZERO);
        for (said, seconds) in [
            ("300", 300),
            ("\"300\"", 300),
            ("299.5", 299),
            ("-1", 0),
            ("null", LIFETIME),
            ("\"soon\"", LIFETIME),
            ("1e300", u64::MAX),
        ] {
            assert_eq!(
                lifetime(&serde_json::from_str(said).unwrap()),
                seconds,
                "{said}"
            );
        }
    }

    #[test]
    fn debug_shows_no_password() {
        let granted = Granted::basic("u", "s3cr3t");
        let post = refresh_form(None, "s", "s3cr3t");
        let shown = format!("{granted:?} {post:?}");
        assert!(!shown.contains("s3cr3t") && !shown.contains(&STANDARD.encode("u:s3cr3t")));
    }
}
