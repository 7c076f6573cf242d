//! Addresses: from a registry's host to a URL, and from a redirect to the next.

use http::header::{self, HeaderMap};
use http::uri::{Authority, Scheme, Uri};
use std::net::IpAddr;

pub(crate) fn uri(scheme: Scheme, authority: &str, path: &str) -> Result<Uri, String> {
    Uri::builder()
        .scheme(scheme)
        .authority(authority)
        .path_and_query(path)
        .build()
        .map_err(|e| format!("not a registry address: {e}"))
}

/// Where a Location header leads, resolved against the request it answers (RFC 3986, the forms in use:
/// absolute, scheme-relative, path-absolute).
pub(crate) fn redirect_target(from: &Uri, headers: &HeaderMap) -> Result<Uri, String> {
    let location = headers.get(header::LOCATION);
    let location = location
        .and_then(|value| value.to_str().ok())
        .ok_or("the registry redirected without saying where")?;
    resolve_location(from, location)
}

fn resolve_location(from: &Uri, location: &str) -> Result<Uri, String> {
    // The query of a storage URL is a credential: never repeat the location itself in an error.
    let bad = || "the registry redirected to an address that is none".to_owned();
    let location = location.split('#').next().unwrap_or_default();
    let scheme = from.scheme_str().unwrap_or("https");
    let authority = from.authority().map_or("", Authority::as_str);
    let absolute = if location.starts_with("//") {
        format!("{scheme}:{location}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else {
        location.to_owned()
    };
    let uri: Uri = absolute.parse().map_err(|_| bad())?;
    let known_scheme = matches!(uri.scheme_str(), Some("http" | "https"));
    let userinfo = uri.authority().is_some_and(|a| a.as_str().contains('@'));
    if !known_scheme || userinfo || uri.host().is_none_or(str::is_empty) {
        return Err(bad());
    }
    Ok(uri)
}

/// localhost, 127.0.0.0/8 and ::1, with or without a port.
pub(crate) fn is_loopback(authority: &str) -> bool {
    let Ok(parsed) = authority.parse::<Authority>() else {
        return false;
    };
    let host = parsed.host().trim_start_matches('[').trim_end_matches(']');
    let address = host.parse::<IpAddr>();
    host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|a| a.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_are_resolved_against_the_request() {
        let base = "https://r.io:5000/v2/x".parse::<Uri>().unwrap();
        let to = |location: &str| resolve_location(&base, location).map(|u| u.to_string());
        assert_eq!(to("/a?b=c#frag").unwrap(), "https://r.io:5000/a?b=c");
        assert_eq!(to("//cdn.io/a").unwrap(), "https://cdn.io/a");
        assert_eq!(to("http://cdn.io/a").unwrap(), "http://cdn.io/a");
        for bad in [
            "",
            "relative",
            "file:///etc/passwd",
            "ftp://x/",
            "https://u:p@h/secret",
            "https://",
            "http:///x",
        ] {
            let error = to(bad).expect_err(bad);
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
