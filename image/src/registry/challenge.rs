//! The WWW-Authenticate header (RFC 9110, section 11.6.1), as far as registries use it: Bearer and Basic.
//!
//! Pure and bounded; the header is foreign text. Other schemes (Digest, Negotiate) are skipped, and if none is
//! left the caller refuses by name.

use super::token::Bearer;

/// How a registry wants to be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Challenge {
    /// Fetch a token from `realm` first (distribution spec, token authentication).
    Bearer(Bearer),
    /// User and password with each request.
    Basic,
}

/// Headers longer than this are no challenge of a registry.
const HEADER_MAX: usize = 8 * 1024;

/// All challenges of one header value that we can answer, in the order given.
pub(crate) fn parse(header: &str) -> Vec<Challenge> {
    if header.len() > HEADER_MAX {
        return Vec::new();
    }
    let mut found: Vec<(String, Vec<(String, String)>)> = Vec::new();
    let mut rest = header;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        if rest.is_empty() {
            break;
        }
        let (word, after) = token(rest);
        if word.is_empty() || !after.is_empty() && !after.starts_with([' ', '\t', ',', '=']) {
            // No word, but a scheme's token68 perhaps; what we can answer may follow.
            rest = after.find(',').map_or("", |end| &after[end..]);
            continue;
        }
        match parameter_value(after) {
            Some((value, after)) => {
                if let Some((_, parameters)) = found.last_mut() {
                    parameters.push((word.to_ascii_lowercase(), value));
                }
                rest = after;
            }
            None => {
                found.push((word.to_ascii_lowercase(), Vec::new()));
                rest = after;
            }
        }
    }
    found
        .into_iter()
        .filter_map(|(scheme, parameters)| challenge(&scheme, &parameters))
        .collect()
}

fn challenge(scheme: &str, parameters: &[(String, String)]) -> Option<Challenge> {
    let get = |name: &str| {
        let found = parameters.iter().find(|(n, _)| n == name);
        found
            .map(|(_, value)| value.clone())
            .filter(|v| !v.is_empty())
    };
    match scheme {
        "basic" => Some(Challenge::Basic),
        "bearer" => Some(Challenge::Bearer(Bearer {
            realm: get("realm")?,
            service: get("service"),
            scope: get("scope"),
        })),
        _ => None,
    }
}

fn token(text: &str) -> (&str, &str) {
    let end = text
        .find(|c: char| !(c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)))
        .unwrap_or(text.len());
    text.split_at(end)
}

/// The value after `=`, and what follows it; None if no `=` comes next.
fn parameter_value(text: &str) -> Option<(String, &str)> {
    let text = text.trim_start_matches([' ', '\t']).strip_prefix('=')?;
    let text = text.trim_start_matches([' ', '\t']);
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ', '\t']).unwrap_or(text.len());
        return Some((text[..end].to_owned(), &text[end..]));
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => value.extend(chars.next().map(|(_, escaped)| escaped)),
            c => value.push(c),
        }
    }
    // The quote never closed: nothing after it can be trusted.
    Some((String::new(), ""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Challenge {
        Challenge::Bearer(Bearer {
            realm: realm.into(),
            service: service.map(Into::into),
            scope: scope.map(Into::into),
        })
    }

    #[test]
    fn the_forms_that_registries_send_are_read() {
        assert_eq!(
            parse(
                r#"Bearer realm="https://a.io/token",service="r.io",scope="repository:x/y:pull,push""#
            ),
            [bearer(
                "https://a.io/token",
                Some("r.io"),
                Some("repository:x/y:pull,push")
            )]
        );
        assert_eq!(parse(r#"Basic realm="Registry Realm""#), [Challenge::Basic]);
        assert_eq!(parse("basic"), [Challenge::Basic]);
        assert_eq!(
            parse(r#"Negotiate, BEARER Realm = "https://a/t" , error="x", Basic realm=b"#),
            [bearer("https://a/t", None, None), Challenge::Basic]
        );
        assert_eq!(
            parse(r#"Negotiate YII/+==, NTLM TlRM/SSP, Basic realm="x""#),
            [Challenge::Basic]
        );
        assert_eq!(
            parse(r#"Bearer realm="a\"b""#),
            [bearer("a\"b", None, None)]
        );
    }

    #[test]
    fn what_cannot_be_answered_is_no_challenge() {
        for header in [
            "",
            "Digest realm=\"x\"",
            "Bearer",
            "Bearer service=\"x\"",
            "Bearer realm=\"x",
            "=,=\"",
            "\"",
        ] {
            assert_eq!(parse(header), [], "{header}");
        }
        assert_eq!(parse(&format!("Basic realm=\"{}\"", "x".repeat(9000))), []);
    }

    proptest! {
        #[test]
        fn no_header_panics(header in "\\PC{0,200}") {
            let found = parse(&header);
            prop_assert!(found.len() <= header.len());
        }

        #[test]
        fn near_headers_do_not_panic(header in "(Bearer|Basic|[a-z]{0,4})([ ,=\"\\\\]|realm|scope|é){0,40}") {
            let found = parse(&header);
            prop_assert!(found.len() <= header.len());
        }
    }
}
