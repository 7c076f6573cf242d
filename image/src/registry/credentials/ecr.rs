//! Amazon ECR: users of its registries are made by an API call and live for twelve hours.
//!
//! Source: Amazon ECR API Reference, GetAuthorizationToken. The keys that sign the call come from the caller
//! (the environment's AWS_ACCESS_KEY_ID and the like).
//!
//! Absent: roles of instances and tasks (IMDS, the container credentials endpoint), profiles, ECR Public. For
//! those, `docker-credential-ecr-login` is a credential helper that knows them all.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::Method;
use http::header::{HeaderName, HeaderValue};
use jiff::Timestamp;
use serde::Deserialize;

use super::Login;
use super::sigv4::{self, Request};
use crate::error::printable;
use crate::registry::fault::Fault;
use crate::registry::gate::Gates;
use crate::registry::settings::{AwsKeys, Ecr, Registries};
use crate::registry::transport::{Ask, Post, Transport};

const TARGET: &str = "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken";
const CONTENT_TYPE: &str = "application/x-amz-json-1.1";
const ANSWER_MAX: u64 = 256 * 1024;
/// A user is made anew that long before its end, so that no pull begins with one that ends in its midst.
const MARGIN: Duration = Duration::from_secs(15 * 60);

/// Users by registry, as long as they live.
#[derive(Default)]
pub(crate) struct Tokens {
    known: Mutex<HashMap<String, Granted>>,
    /// Calls that are under way: ECR allows only so many.
    asking: Gates<String>,
}

#[derive(Clone)]
struct Granted {
    login: Login,
    until: Timestamp,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokens").finish_non_exhaustive()
    }
}

impl Tokens {
    /// A user of the registry that `ask` is for; None if that is none of ECR's or nobody gave us keys.
    pub(crate) async fn login(
        &self,
        transport: &Transport,
        registries: &Registries,
        ask: &Ask<'_>,
    ) -> Result<Option<Login>, Fault> {
        let Some(keys) = &registries.aws_keys else {
            return Ok(None);
        };
        let settings = registries.registry(ask.authority);
        let configured = settings.and_then(|registry| registry.ecr.clone());
        let Some(ecr) = configured.or_else(|| of_name(ask.authority)) else {
            return Ok(None);
        };
        if let Some(login) = self.known(ask.authority) {
            return Ok(Some(login));
        }
        let gate = self.asking.gate(&ask.authority.to_owned());
        let _alone = gate.enter().await;
        if let Some(login) = self.known(ask.authority) {
            return Ok(Some(login));
        }
        let fresh = fetch(transport, ask, &ecr, keys).await?;
        self.lock().insert(ask.authority.to_owned(), fresh.clone());
        Ok(Some(fresh.login))
    }

    fn known(&self, authority: &str) -> Option<Login> {
        let known = self.lock().get(authority).cloned()?;
        (Timestamp::now() < known.until).then_some(known.login)
    }

    pub(crate) fn forget(&self, authority: &str) {
        self.lock().remove(authority);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Granted>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `ACCOUNT.dkr.ecr[-fips].REGION.amazonaws.com[.cn]`, `...amazonaws.eu`, and with IPv6 beside IPv4
/// `ACCOUNT.dkr-ecr[-fips].REGION.on.aws`.
fn of_name(authority: &str) -> Option<Ecr> {
    let (account, rest) = authority.split_once('.')?;
    let good = account.len() == 12 && account.bytes().all(|b| b.is_ascii_digit());
    let dual_stack = rest.strip_prefix("dkr-").zip(rest.strip_suffix(".on.aws"));
    let (rest, domain) = match (good, dual_stack) {
        (false, _) => return None,
        (true, Some((rest, _))) => (rest, "on.aws"),
        (true, None) => {
            let domains = ["amazonaws.com", "amazonaws.com.cn", "amazonaws.eu"];
            let of = |domain: &&str| rest.strip_suffix(domain).is_some_and(|r| r.ends_with('.'));
            (rest.strip_prefix("dkr.")?, domains.into_iter().find(of)?)
        }
    };
    let (ecr, rest) = rest.split_once('.')?;
    let region = rest.strip_suffix(domain)?.strip_suffix('.')?;
    if region.is_empty() || region.contains('.') {
        return None;
    }
    let endpoint = match (ecr, domain) {
        ("ecr" | "ecr-fips", "on.aws") => Some(format!("https://{ecr}.{region}.api.aws")),
        ("ecr", "amazonaws.eu") => Some(format!("https://api.ecr.{region}.amazonaws.eu")),
        ("ecr-fips", _) => Some(format!("https://ecr-fips.{region}.{domain}")),
        ("ecr", _) => None,
        _ => return None,
    };
    Some(Ecr {
        region: region.to_owned(),
        endpoint,
    })
}

/// Whether the API is spoken plainly, and its authority.
pub(crate) fn endpoint(ecr: &Ecr) -> Result<(bool, String), String> {
    let china = ecr.region.starts_with("cn-");
    let domain = match china {
        true => "amazonaws.com.cn",
        false => "amazonaws.com",
    };
    let own = format!("https://api.ecr.{}.{domain}", ecr.region);
    let text = ecr.endpoint.as_ref().unwrap_or(&own);
    // Not repeated: it may hold a password.
    let bad = || "ECR's endpoint is no URL of scheme, host and port".to_owned();
    let uri: http::Uri = text.parse().map_err(|_| bad())?;
    let authority = uri.authority().ok_or_else(bad)?.as_str();
    let plain = match uri.scheme_str() {
        Some("https") => false,
        Some("http") => true,
        _ => return Err(bad()),
    };
    if authority.contains('@') || !matches!(uri.path(), "" | "/") || uri.query().is_some() {
        return Err(bad());
    }
    // As it is sent: the signature covers the Host header, which names no port that goes without saying.
    let usual = if plain { ":80" } else { ":443" };
    let authority = authority.strip_suffix(usual).unwrap_or(authority);
    Ok((plain, authority.to_owned()))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    authorization_data: Vec<Authorization>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Authorization {
    authorization_token: String,
    expires_at: Option<f64>,
}

#[derive(Deserialize)]
struct Refusal {
    #[serde(rename = "__type", default)]
    name: String,
    #[serde(alias = "Message", default)]
    message: String,
}

async fn fetch(
    transport: &Transport,
    asked: &Ask<'_>,
    ecr: &Ecr,
    keys: &AwsKeys,
) -> Result<Granted, Fault> {
    let error = |cause: String| Fault::Refused(asked.error(cause));
    let (plain, authority) = endpoint(ecr).map_err(error)?;
    if plain && !transport.may_be_plain(&authority) {
        let cause = "ECR's endpoint is plain http; name that host insecure if it may be trusted";
        return Err(error(cause.into()));
    }
    let body = Bytes::from_static(b"{}");
    let signed = sigv4::sign(
        &Request {
            region: &ecr.region,
            service: "ecr",
            host: &authority,
            target: TARGET,
            content_type: CONTENT_TYPE,
            body: &body,
        },
        keys,
        Timestamp::now(),
    );
    let headers = signed
        .into_iter()
        .map(|(name, value)| {
            let mut value = HeaderValue::from_str(&value).ok()?;
            value.set_sensitive(true);
            Some((HeaderName::from_static(name), value))
        })
        .collect::<Option<Vec<_>>>()
        .ok_or_else(|| error("the AWS keys hold what no header can".into()))?;
    let ask = Ask {
        step: "authorize",
        subject: asked.subject,
        method: Method::POST,
        authority: &authority,
        path: "/",
        https_only: !plain,
        accept: None,
        from: 0,
        post: Some(Post {
            content_type: CONTENT_TYPE,
            body,
            headers,
        }),
        deadline: asked.deadline,
        has_other: asked.has_other,
    };
    let answer = transport.send(&ask, None).await?;
    let status = answer.response.status();
    let said = transport
        .read(&ask, answer.response.into_body(), ANSWER_MAX)
        .await?;
    let error = |cause: String| Fault::Refused(ask.error(cause));
    if !status.is_success() {
        let refusal = serde_json::from_slice::<Refusal>(&said).ok();
        let said = refusal.map_or_else(String::new, |r| {
            let name = r.name.rsplit('#').next().unwrap_or_default();
            format!(" ({}: {})", printable(name, 60), printable(&r.message, 160))
        });
        return Err(error(format!(
            "unauthorized: Amazon ECR ({authority}) answered {status}{said}; check the AWS keys, their rights and the region"
        )));
    }
    // The parser's words could hold the token.
    granted(&said, Timestamp::now())
        .ok_or_else(|| error(format!("Amazon ECR ({authority}) sent no usable token")))
}

fn granted(answer: &[u8], now: Timestamp) -> Option<Granted> {
    let answer: Answer = serde_json::from_slice(answer).ok()?;
    let first = answer.authorization_data.into_iter().next()?;
    let pair = STANDARD.decode(first.authorization_token).ok()?;
    let pair = String::from_utf8(pair).ok()?;
    let (username, password) = pair.split_once(':').filter(|(_, p)| !p.is_empty())?;
    // Without an end it serves this once.
    let end = first
        .expires_at
        .and_then(|at| Timestamp::from_second(at as i64).ok());
    let until = end
        .and_then(|end| end.checked_sub(MARGIN).ok())
        .unwrap_or(now);
    Some(Granted {
        login: Login::Password {
            username: username.to_owned(),
            password: password.to_owned(),
        },
        until,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ecrs_registries_are_known_by_their_names() {
        let region = |name: &str| of_name(name).map(|ecr| ecr.region);
        let known = "123456789012.dkr.ecr.eu-west-1.amazonaws.com";
        assert_eq!(region(known).unwrap(), "eu-west-1");
        let china = "123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn";
        assert_eq!(region(china).unwrap(), "cn-north-1");
        let fips = of_name("123456789012.dkr.ecr-fips.us-east-1.amazonaws.com").unwrap();
        assert_eq!(
            fips.endpoint.unwrap(),
            "https://ecr-fips.us-east-1.amazonaws.com"
        );
        let endpoint = |name: &str| of_name(name).and_then(|ecr| ecr.endpoint);
        let dual = "123456789012.dkr-ecr.eu-west-1.on.aws";
        assert_eq!(endpoint(dual).unwrap(), "https://ecr.eu-west-1.api.aws");
        let dual = "123456789012.dkr-ecr-fips.us-east-1.on.aws";
        assert_eq!(
            endpoint(dual).unwrap(),
            "https://ecr-fips.us-east-1.api.aws"
        );
        let europe = "123456789012.dkr.ecr.eusc-de-east-1.amazonaws.eu";
        let own = "https://api.ecr.eusc-de-east-1.amazonaws.eu";
        assert_eq!(endpoint(europe).unwrap(), own);
        for other in [
            "public.ecr.aws",
            "123456789012.dkr-ecr.eu-west-1.amazonaws.com",
            "123456789012.dkr.ecr.eu-west-1.on.aws",
            "123456789012.dkr.ecr..amazonaws.com",
            "123456789012.dkr.sqs.eu-west-1.amazonaws.com",
            "12345678901.dkr.ecr.eu-west-1.amazonaws.com",
            "123456789012.dkr.ecr.eu-west-1.amazonaws.com.evil.example",
            "123456789012.dkr.ecr.a.b.amazonaws.com",
            "docker.io",
        ] {
            assert_eq!(region(other), None, "{other}");
        }
    }

    #[test]
    fn the_endpoint_is_aws_own_unless_said() {
        let of = |region: &str, said: Option<&str>| {
            let endpoint = said.map(str::to_owned);
            let region = region.to_owned();
            super::endpoint(&Ecr { region, endpoint })
        };
        let own = of("eu-west-1", None).unwrap();
        assert_eq!(own, (false, "api.ecr.eu-west-1.amazonaws.com".into()));
        let china = of("cn-north-1", None).unwrap();
        assert_eq!(china.1, "api.ecr.cn-north-1.amazonaws.com.cn");
        let said = of("x", Some("http://127.0.0.1:4510/")).unwrap();
        assert_eq!(said, (true, "127.0.0.1:4510".into()));
        for bad in ["", "host", "ftp://h", "https://h/path", "https://u:p@h"] {
            assert!(of("x", Some(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_token_serves_until_shortly_before_its_end() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        let read = |text: &str| granted(text.as_bytes(), now);
        let token = STANDARD.encode("AWS:s3cr3t");
        let text = format!(
            r#"{{"authorizationData":[{{"authorizationToken":"{token}","expiresAt":1.0432E6,"proxyEndpoint":"x"}}]}}"#
        );
        let known = read(&text).unwrap();
        assert_eq!(known.until, Timestamp::from_second(1_042_300).unwrap());
        let login = Login::Password {
            username: "AWS".into(),
            password: "s3cr3t".into(),
        };
        assert!(known.login == login);
        let endless = format!(r#"{{"authorizationData":[{{"authorizationToken":"{token}"}}]}}"#);
        assert_eq!(read(&endless).unwrap().until, now);
        for bad in [
            "",
            "{}",
            r#"{"authorizationData":[]}"#,
            r#"{"authorizationData":[{"authorizationToken":"QVdT"}]}"#,
        ] {
            assert!(read(bad).is_none(), "{bad}");
        }
    }
}
