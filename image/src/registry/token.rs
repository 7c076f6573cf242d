//! Answers to a registry's challenge: a token from its token service, or user and password.
//!
//! Absent on purpose: OAuth2's POST and refresh tokens (the GET form serves all registries we met), and any
//! storing of tokens: they live in memory as long as the client, and Debug does not show them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use http::header::{self, HeaderMap, HeaderValue};
use serde::Deserialize;

use super::challenge::{self, Challenge};
use super::fault::Fault;
use super::transport::{Ask, Transport};
use super::{Credential, Registries};
use crate::error::{ImageError, printable};

const TOKEN_ANSWER_MAX: u64 = 256 * 1024;

#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
}

/// The first challenge of an answer that we can meet.
pub(crate) fn challenge_in(headers: &HeaderMap) -> Option<Challenge> {
    headers
        .get_all(header::WWW_AUTHENTICATE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(challenge::parse)
        .next()
}

/// The value for the Authorization header that meets `challenge`.
pub(crate) async fn answer(
    transport: &Transport,
    registries: &Registries,
    ask: &Ask<'_>,
    repository: &str,
    challenge: Challenge,
) -> Result<HeaderValue, Fault> {
    let credential = registries.credential(ask.authority);
    match challenge {
        Challenge::Basic => match credential {
            Some(credential) => Ok(basic(credential)),
            None => Err(Fault::Refused(ask.error(format!(
                "unauthorized: registry {} wants a user and a password; give it credentials",
                ask.authority
            )))),
        },
        Challenge::Bearer {
            realm,
            service,
            scope,
        } => {
            let scope = scope.unwrap_or_else(|| format!("repository:{repository}:pull"));
            let plain = transport.may_be_plain(ask.authority);
            let (authority, path) =
                token_address(transport, plain, &realm, service.as_deref(), &scope)
                    .map_err(|cause| ask.error(cause))?;
            let token_ask = Ask {
                step: "authorize",
                subject: ask.subject,
                method: Method::GET,
                authority: &authority,
                path: &path,
                accept: Some("application/json"),
                from: 0,
            };
            fetch_token(transport, &token_ask, credential).await
        }
    }
}

async fn fetch_token(
    transport: &Transport,
    ask: &Ask<'_>,
    credential: Option<&Credential>,
) -> Result<HeaderValue, Fault> {
    let authorization = credential.map(basic);
    let answer = transport.send(ask, authorization.as_ref()).await?;
    let status = answer.response.status();
    if !status.is_success() {
        return Err(Fault::Refused(ask.error(format!(
            "unauthorized: token service {} answered {status}; check the image's name and the credentials",
            ask.authority
        ))));
    }
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
    let token = parsed
        .token
        .or(parsed.access_token)
        .filter(|t| !t.is_empty());
    let value = format!("Bearer {}", token.ok_or_else(bad)?);
    Ok(sensitive(&value).ok_or_else(bad)?)
}

/// Authority and path of the token request. The realm is the registry's word: it must be https, unless plain
/// HTTP is allowed with that host and with the registry too (`plain`): a registry elsewhere must not choose what
/// is asked of this host's loopback.
fn token_address(
    transport: &Transport,
    plain: bool,
    realm: &str,
    service: Option<&str>,
    scope: &str,
) -> Result<(String, String), String> {
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
    match uri.scheme_str() {
        Some("https") => {}
        Some("http") if plain && transport.may_be_plain(authority) => {}
        _ => return Err(bad("it is not https")),
    }
    let mut path = uri.path().to_owned();
    let mut separator = '?';
    let mut push = |text: &str| {
        path.push(std::mem::replace(&mut separator, '&'));
        path.push_str(text);
    };
    if let Some(query) = uri.query() {
        push(query);
    }
    if let Some(service) = service {
        push(&format!("service={}", encoded(service)));
    }
    for scope in scope.split(' ').filter(|s| !s.is_empty()) {
        push(&format!("scope={}", encoded(scope)));
    }
    Ok((authority.to_owned(), path))
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

fn basic(credential: &Credential) -> HeaderValue {
    let pair = STANDARD.encode(format!("{}:{}", credential.username, credential.password));
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
    use std::time::Duration;

    fn transport() -> Transport {
        Transport::new(&["in.example:80".into()], &[], Duration::from_secs(1)).unwrap()
    }

    #[test]
    fn the_token_request_names_service_and_scope() {
        let address = |realm: &str| {
            token_address(
                &transport(),
                true,
                realm,
                Some("a b"),
                "repository:x/y:pull other",
            )
        };
        assert_eq!(
            address("https://auth.example/token?x=1").unwrap(),
            (
                "auth.example".to_owned(),
                "/token?x=1&service=a%20b&scope=repository:x/y:pull&scope=other".to_owned()
            )
        );
        assert!(address("http://127.0.0.1:5001/t").is_ok());
        assert!(address("http://in.example:80/t").is_ok());
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
            assert!(
                token_address(&transport(), true, realm, None, "s").is_err(),
                "{realm}"
            );
        }
        let address = |realm: &str| token_address(&transport(), false, realm, None, "s");
        assert!(address("http://127.0.0.1:2375/images/create").is_err());
        assert!(address("https://auth.example/token").is_ok());
    }

    #[test]
    fn debug_shows_no_password() {
        let credential = Credential {
            registry: "r".into(),
            username: "u".into(),
            password: "s3cr3t".into(),
        };
        let header = basic(&credential);
        assert!(!format!("{credential:?} {header:?}").contains("s3cr3t"));
        assert!(!format!("{header:?}").contains(&STANDARD.encode("u:s3cr3t")));
    }
}
