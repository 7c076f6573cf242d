//! AWS Signature Version 4, from the client's side, for the one shape of request that we send: a POST to `/`.
//!
//! Source: "Create a signed AWS API request", AWS IAM User Guide. The control plane checks such signatures; the two
//! share the definition and no code, because neither room may know the other.

use hmac::{Hmac, KeyInit, Mac};
use jiff::Timestamp;
use sha2::{Digest, Sha256};

use crate::registry::settings::AwsKeys;

/// What is signed besides the keys.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request<'a> {
    pub(crate) region: &'a str,
    /// `ecr`
    pub(crate) service: &'a str,
    /// `host[:port]` as in the request's Host header.
    pub(crate) host: &'a str,
    /// The X-Amz-Target header.
    pub(crate) target: &'a str,
    pub(crate) content_type: &'a str,
    pub(crate) body: &'a [u8],
}

/// The headers that make the request a signed one: name and value, each lower case where it is a name.
pub(crate) fn sign(
    request: &Request<'_>,
    keys: &AwsKeys,
    now: Timestamp,
) -> Vec<(&'static str, String)> {
    let time = now.strftime("%Y%m%dT%H%M%SZ").to_string();
    let date = &time[..8];
    let mut headers = vec![
        ("content-type", request.content_type.to_owned()),
        ("host", request.host.to_owned()),
        ("x-amz-date", time.clone()),
    ];
    if let Some(token) = &keys.session_token {
        headers.push(("x-amz-security-token", token.clone()));
    }
    headers.push(("x-amz-target", request.target.to_owned()));

    let names: Vec<&str> = headers.iter().map(|(name, _)| *name).collect();
    let names = names.join(";");
    let lines: String = headers
        .iter()
        .map(|(name, value)| format!("{name}:{}\n", value.trim()))
        .collect();
    let canonical = format!("POST\n/\n\n{lines}\n{names}\n{}", hash(request.body));
    let scope = format!("{date}/{}/{}/aws4_request", request.region, request.service);
    let text = format!(
        "AWS4-HMAC-SHA256\n{time}\n{scope}\n{}",
        hash(canonical.as_bytes())
    );
    let secret = format!("AWS4{}", keys.secret_access_key).into_bytes();
    let key = scope
        .split('/')
        .fold(secret, |key, part| hmac(&key, part.as_bytes()));
    let signature = hex::encode(hmac(&key, text.as_bytes()));
    let authorization = format!(
        "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={names}, Signature={signature}",
        keys.access_key_id
    );
    // The HTTP client makes these two of the address and the body.
    headers.retain(|(name, _)| !matches!(*name, "host" | "content-type"));
    headers.push(("authorization", authorization));
    headers
}

fn hash(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

fn hmac(key: &[u8], text: &[u8]) -> Vec<u8> {
    // HMAC takes keys of any length (RFC 2104).
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("any length will do");
    mac.update(text);
    mac.finalize().into_bytes().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The expected signature was computed by botocore's SigV4Auth for the same request.
    #[test]
    fn the_signature_is_the_one_that_botocore_makes() {
        let keys = AwsKeys {
            access_key_id: "AKIDEXAMPLE".into(),
            secret_access_key: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".into(),
            session_token: Some("session".into()),
        };
        let request = Request {
            region: "eu-west-1",
            service: "ecr",
            host: "api.ecr.eu-west-1.amazonaws.com",
            target: "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken",
            content_type: "application/x-amz-json-1.1",
            body: b"{}",
        };
        let now = "2015-08-30T12:36:00Z".parse().unwrap();
        let headers = sign(&request, &keys, now);
        let names: Vec<_> = headers.iter().map(|(name, _)| *name).collect();
        assert_eq!(
            names,
            [
                "x-amz-date",
                "x-amz-security-token",
                "x-amz-target",
                "authorization"
            ]
        );
        assert_eq!(headers[0].1, "20150830T123600Z");
        assert_eq!(
            headers[3].1,
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/eu-west-1/ecr/aws4_request, \
             SignedHeaders=content-type;host;x-amz-date;x-amz-security-token;x-amz-target, \
             Signature=6f11af244746a679c0f98d43596f0aa3afd911b188512bc712eabc0008c85900"
        );
    }
}
