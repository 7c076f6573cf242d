//! Vectors from AWS's published aws-sig-v4-test-suite, and one made by botocore for an ECS request.

use http::Request;

use super::*;

const ID: &str = "AKIDEXAMPLE";
const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
const DATE: &str = "20150830T123600Z";
const NOW: Millis = 1_440_938_160_000;
const BODY: &[u8] = br#"{"maxResults": 5}"#;

fn authorization(service: &str, headers: &str, signature: &str) -> String {
    format!(
        "AWS4-HMAC-SHA256 Credential={ID}/20150830/us-east-1/{service}/aws4_request, SignedHeaders={headers}, Signature={signature}"
    )
}

fn published(method: &str, uri: &str, signature: &str) -> Parts {
    Request::builder()
        .method(method)
        .uri(uri)
        .header("host", "example.amazonaws.com")
        .header("x-amz-date", DATE)
        .header(
            "authorization",
            authorization("service", "host;x-amz-date", signature),
        )
        .body(())
        .unwrap()
        .into_parts()
        .0
}

fn by_botocore() -> Parts {
    let signature = "d0461f4c0718042a9e2b7dee64a07a1c4dc2cb528d244386382fa7fca9d14ecf";
    let signed = "content-type;host;x-amz-date;x-amz-target";
    Request::post("/")
        .header("host", "127.0.0.1:4566")
        .header("x-amz-date", DATE)
        .header(
            "x-amz-target",
            "AmazonEC2ContainerServiceV20141113.ListClusters",
        )
        .header("content-type", "application/x-amz-json-1.1")
        .header("authorization", authorization("ecs", signed, signature))
        .body(())
        .unwrap()
        .into_parts()
        .0
}

fn check(request: &Parts, body: &[u8], service: &str, now: Millis) -> Result<String, Refusal> {
    let scope = Scope {
        region: "us-east-1",
        service,
    };
    verify(request, body, scope, now, |id| {
        (id == ID).then(|| SECRET.to_owned())
    })
}

fn ecs(request: &Parts) -> Result<String, Refusal> {
    check(request, BODY, "ecs", NOW)
}

fn set(request: &mut Parts, name: &'static str, value: &str) {
    request.headers.insert(name, value.parse().unwrap());
}

#[test]
fn published_vectors_verify() {
    for (method, uri, signature) in [
        (
            "GET",
            "/",
            "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
        ),
        (
            "POST",
            "/",
            "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b",
        ),
        (
            "GET",
            "/?Param2=value2&Param1=value1",
            "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
        ),
    ] {
        let request = published(method, uri, signature);
        assert_eq!(
            check(&request, b"", "service", NOW),
            Ok(ID.to_owned()),
            "{method} {uri}"
        );
    }
}

#[test]
fn a_request_of_botocore_verifies() {
    assert_eq!(ecs(&by_botocore()), Ok(ID.to_owned()));
}

#[test]
fn header_values_are_trimmed_and_their_spaces_folded() {
    let mut request = by_botocore();
    set(
        &mut request,
        "content-type",
        "  application/x-amz-json-1.1  ",
    );
    assert_eq!(ecs(&request), Ok(ID.to_owned()));
}

#[test]
fn a_change_of_anything_that_is_signed_is_seen() {
    let wrong = |request: &Parts, body: &[u8]| {
        let refusal = check(request, body, "ecs", NOW).unwrap_err();
        assert_eq!(refusal.name(), "InvalidSignatureException");
        assert!(
            refusal
                .to_string()
                .starts_with("The request signature we calculated")
        );
    };
    wrong(&by_botocore(), b"{\"maxResults\": 6}");
    let mut request = by_botocore();
    set(
        &mut request,
        "x-amz-target",
        "AmazonEC2ContainerServiceV20141113.DeleteCluster",
    );
    wrong(&request, BODY);
    let mut request = by_botocore();
    set(&mut request, "host", "elsewhere");
    wrong(&request, BODY);
    let mut request = by_botocore();
    request.uri = "/?a=b".parse().unwrap();
    wrong(&request, BODY);
}

#[test]
fn headers_with_meaning_must_be_signed() {
    let mut request = by_botocore();
    set(
        &mut request,
        "authorization",
        &authorization("ecs", "host;x-amz-date", &"0".repeat(64)),
    );
    let refusal = ecs(&request).unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "'x-amz-target' must be a 'SignedHeader' in the AWS Authorization."
    );
}

#[test]
fn the_clock_may_be_fifteen_minutes_off() {
    let at = |minutes: i64| {
        let now = NOW.saturating_add_signed(minutes * 60_000);
        check(&by_botocore(), BODY, "ecs", now)
    };
    assert!(at(15).is_ok() && at(-15).is_ok());
    assert!(
        at(16)
            .unwrap_err()
            .to_string()
            .starts_with("Signature expired")
    );
    assert!(
        at(-16)
            .unwrap_err()
            .to_string()
            .starts_with("Signature not yet current")
    );
}

#[test]
fn each_refusal_has_the_name_aws_gives_it() {
    let with = |value: &str| {
        let mut request = by_botocore();
        set(&mut request, "authorization", value);
        ecs(&request).unwrap_err().name()
    };
    let good = by_botocore().headers["authorization"]
        .to_str()
        .unwrap()
        .to_owned();
    let mut unsigned = by_botocore();
    unsigned.headers.remove("authorization");
    assert_eq!(
        ecs(&unsigned).unwrap_err().name(),
        "MissingAuthenticationTokenException"
    );
    assert_eq!(
        with(&good.replace(ID, "AKIDOTHER")),
        "UnrecognizedClientException"
    );
    assert_eq!(
        with(&good.replace("us-east-1", "eu-west-1")),
        "InvalidSignatureException"
    );
    assert_eq!(
        with(&good.replace("/ecs/", "/s3/")),
        "InvalidSignatureException"
    );
    assert_eq!(
        with(&good.replace("/20150830/", "/20150831/")),
        "InvalidSignatureException"
    );
    assert_eq!(with("Basic abc"), "IncompleteSignatureException");
    assert_eq!(
        with(&good.replace("Signature=", "Sig=")),
        "IncompleteSignatureException"
    );
    let mut session = by_botocore();
    set(&mut session, "x-amz-security-token", "x");
    set(
        &mut session,
        "authorization",
        &good.replace("host;", "host;x-amz-security-token;"),
    );
    assert_eq!(
        ecs(&session).unwrap_err().name(),
        "UnrecognizedClientException"
    );
}

#[test]
fn a_stated_body_hash_must_be_the_true_one() {
    let mut request = by_botocore();
    let good = by_botocore().headers["authorization"]
        .to_str()
        .unwrap()
        .to_owned();
    set(&mut request, "x-amz-content-sha256", "UNSIGNED-PAYLOAD");
    set(
        &mut request,
        "authorization",
        &good.replace("host;", "host;x-amz-content-sha256;"),
    );
    assert!(
        ecs(&request)
            .unwrap_err()
            .to_string()
            .contains("does not match what was computed")
    );
}
