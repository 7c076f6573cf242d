//! The canonical request: one text for everything that says the same over HTTP.

use std::fmt::Write as _;

use http::request::Parts;

/// The canonical request over these signed headers (lower case) and this payload hash (hex).
///
/// The path is taken as it was sent: the ECS API has one path, `/`.
#[must_use]
pub fn canonical_request(request: &Parts, signed_headers: &[String], payload: &str) -> String {
    let mut text = format!(
        "{}\n{}\n{}\n",
        request.method,
        request.uri.path(),
        query(request.uri.query().unwrap_or_default()),
    );
    for name in signed_headers {
        let values: Vec<String> = request
            .headers
            .get_all(name)
            .iter()
            .map(|value| trimmed(value.as_bytes()))
            .collect();
        // Writing to a String cannot fail.
        writeln!(text, "{name}:{}", values.join(",")).ok();
    }
    text + "\n" + &signed_headers.join(";") + "\n" + payload
}

/// Parameters sorted by name and value; each has an equals sign.
fn query(query: &str) -> String {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    let mut pairs: Vec<(&str, &str)> = pairs
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .collect();
    pairs.sort_unstable();
    let pairs: Vec<String> = pairs.iter().map(|(k, v)| format!("{k}={v}")).collect();
    pairs.join("&")
}

/// Without spaces around it, and with single spaces inside.
fn trimmed(value: &[u8]) -> String {
    let text = String::from_utf8_lossy(value);
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    words.join(" ")
}
