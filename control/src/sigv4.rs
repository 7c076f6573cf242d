//! AWS Signature Version 4, from the server's side: who signed this request, and is it whole?
//!
//! There is no switch that turns this off. A request passes only if its signature covers the host, the
//! date, every `x-amz-` header that changes its meaning, and the body.
//!
//! Absent: presigned URLs, session tokens, chunked payloads, SigV4A. Nobody who talks to ECS needs them.
//!
//! Source: "Signature Version 4 signing process", AWS General Reference.

mod canonical;
mod credential;

use hmac::{Hmac, KeyInit, Mac};
use http::request::Parts;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::model::Millis;

pub use self::canonical::canonical_request;
use self::credential::{Authorization, timestamp};

/// How far a client's clock may be off.
const SKEW: Millis = 15 * 60 * 1000;

/// Headers that must be signed where they are present: each changes what the request means.
const MUST_BE_SIGNED: [&str; 5] = [
    "host",
    "x-amz-date",
    "x-amz-target",
    "x-amz-security-token",
    "x-amz-content-sha256",
];

/// Why a request is not let in, with the name AWS gives it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Not signed at all.
    #[error("Request is missing Authentication Token")]
    MissingAuthenticationToken,
    /// The header cannot be read, or does not cover enough.
    #[error("{0}")]
    IncompleteSignature(String),
    /// No such access key here.
    #[error("The security token included in the request is invalid.")]
    UnrecognizedClient,
    /// Signed wrongly, for another place, or at another time.
    #[error("{0}")]
    InvalidSignature(String),
}

impl Refusal {
    /// AWS's name of the error.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Refusal::MissingAuthenticationToken => "MissingAuthenticationTokenException",
            Refusal::IncompleteSignature(_) => "IncompleteSignatureException",
            Refusal::UnrecognizedClient => "UnrecognizedClientException",
            Refusal::InvalidSignature(_) => "InvalidSignatureException",
        }
    }
}

/// What a signature must be made for.
#[derive(Clone, Copy, Debug)]
pub struct Scope<'a> {
    /// Region.
    pub region: &'a str,
    /// Service as the credential scope names it.
    pub service: &'a str,
}

/// Checks the signature of a request and answers the access key's id.
///
/// `secret` finds the secret of an access key.
///
/// # Errors
/// Why the request is refused.
pub fn verify(
    request: &Parts,
    body: &[u8],
    scope: Scope<'_>,
    now: Millis,
    secret: impl FnOnce(&str) -> Option<String>,
) -> Result<String, Refusal> {
    let authorization = Authorization::of(&request.headers)?;
    require_signed(request, &authorization)?;
    let date = header(request, "x-amz-date").ok_or_else(|| {
        Refusal::IncompleteSignature(
            "Authorization header requires existence of a 'X-Amz-Date' header.".into(),
        )
    })?;
    check_time(date, &authorization, now)?;
    check_scope(&authorization, scope)?;
    if request.headers.contains_key("x-amz-security-token") {
        // Keys here are permanent; a session token belongs to somebody else's keys.
        return Err(Refusal::UnrecognizedClient);
    }
    let secret = secret(&authorization.access_key).ok_or(Refusal::UnrecognizedClient)?;
    let payload = payload_hash(request, body)?;
    let canonical = canonical_request(request, &authorization.signed_headers, &payload);
    let expected = signature(&secret, date, &authorization.scope(), &canonical);
    if bool::from(expected.ct_eq(&authorization.signature)) {
        Ok(authorization.access_key)
    } else {
        Err(Refusal::InvalidSignature(
            "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key and signing method. Consult the service documentation for details.".into(),
        ))
    }
}

/// The signature over a canonical request. `scope` is `DATE/REGION/SERVICE/aws4_request`.
#[must_use]
pub fn signature(secret: &str, date: &str, scope: &str, canonical: &str) -> [u8; 32] {
    let key = scope
        .split('/')
        .fold(format!("AWS4{secret}").into_bytes(), |key, part| {
            hmac(&key, part.as_bytes()).to_vec()
        });
    let hash = hex::encode(Sha256::digest(canonical.as_bytes()));
    let text = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{hash}");
    hmac(&key, text.as_bytes())
}

fn hmac(key: &[u8], text: &[u8]) -> [u8; 32] {
    // HMAC takes keys of any length (RFC 2104).
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("any length will do");
    mac.update(text);
    mac.finalize().into_bytes().into()
}

fn header<'a>(request: &'a Parts, name: &str) -> Option<&'a str> {
    request.headers.get(name)?.to_str().ok()
}

fn require_signed(request: &Parts, authorization: &Authorization) -> Result<(), Refusal> {
    for name in MUST_BE_SIGNED {
        let needed = matches!(name, "host" | "x-amz-date") || request.headers.contains_key(name);
        if needed && !authorization.signed_headers.iter().any(|h| h == name) {
            return Err(Refusal::InvalidSignature(format!(
                "'{name}' must be a 'SignedHeader' in the AWS Authorization."
            )));
        }
    }
    Ok(())
}

fn check_time(date: &str, authorization: &Authorization, now: Millis) -> Result<(), Refusal> {
    let invalid = Refusal::InvalidSignature;
    let signed = timestamp(date).ok_or_else(|| {
        Refusal::IncompleteSignature(
            "Date must be in ISO-8601 'basic format', like 20150830T123600Z.".into(),
        )
    })?;
    if date.get(..8) != Some(&authorization.date) {
        return Err(invalid(
            "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP"
                .into(),
        ));
    }
    if signed + SKEW < now {
        return Err(invalid(format!(
            "Signature expired: {date} is more than 15 minutes before the server's clock. Set the client's clock."
        )));
    }
    if signed > now + SKEW {
        return Err(invalid(format!(
            "Signature not yet current: {date} is more than 15 minutes after the server's clock. Set the client's clock."
        )));
    }
    Ok(())
}

fn check_scope(authorization: &Authorization, scope: Scope<'_>) -> Result<(), Refusal> {
    if authorization.region != scope.region {
        return Err(Refusal::InvalidSignature(format!(
            "Credential should be scoped to a valid region, not '{}'. Use '{}'.",
            authorization.region, scope.region
        )));
    }
    if authorization.service != scope.service {
        return Err(Refusal::InvalidSignature(format!(
            "Credential should be scoped to correct service: '{}'.",
            scope.service
        )));
    }
    Ok(())
}

/// The hash the client signed: the body's own, and no other.
fn payload_hash(request: &Parts, body: &[u8]) -> Result<String, Refusal> {
    let hash = hex::encode(Sha256::digest(body));
    match request.headers.get("x-amz-content-sha256") {
        Some(stated) if stated.as_bytes() != hash.as_bytes() => Err(Refusal::InvalidSignature(
            "The provided 'x-amz-content-sha256' header does not match what was computed.".into(),
        )),
        _ => Ok(hash),
    }
}

#[cfg(test)]
mod tests;
