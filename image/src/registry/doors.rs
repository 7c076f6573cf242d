//! Doors for fuzz targets alone: what a registry puts into headers, and what a login file holds.

use std::sync::LazyLock;

use http::header::{self, HeaderMap, HeaderValue};
use jiff::Timestamp;

use super::challenge::{self, Challenge};
use super::credentials::config_file::{ConfigFile, Entry};
use super::settings::Registries;
use super::transport::{Transport, leads_home, patience};
use super::{address, blob, token};

const REMOTE: &str = "registry.example";
const INSECURE: &str = "registry.lan:5000";

static TRANSPORT: LazyLock<Transport> = LazyLock::new(|| {
    let registries = Registries {
        insecure: vec![INSECURE.to_owned()],
        ..Registries::default()
    };
    Transport::new(&registries).expect("a transport of defaults")
});

/// Where challenges send us: never to this host, never without TLS unless both sides may, never as somebody.
pub(crate) fn challenge(text: &str) {
    for challenge in challenge::parse(text) {
        let Challenge::Bearer(bearer) = challenge else {
            continue;
        };
        assert!(!bearer.realm.is_empty());
        for registry in [REMOTE, INSECURE, "127.0.0.1:5000"] {
            match token::token_address(&TRANSPORT, registry, &bearer.realm) {
                Err(cause) => assert!(!cause.contains(char::is_control), "{cause:?}"),
                Ok((https_only, authority, path)) => {
                    assert!(!leads_home(registry, &authority), "{authority}");
                    assert!(https_only || registry != REMOTE, "{authority}");
                    assert!(!authority.contains('@') && path.starts_with('/'));
                }
            }
        }
    }
}

/// Every other header of an answer whose value steers us.
pub(crate) fn headers(text: &str) {
    let Ok(value) = HeaderValue::from_str(text) else {
        return;
    };
    let with = |name| HeaderMap::from_iter([(name, value.clone())]);
    for from in [
        "https://registry.example/v2/",
        "http://registry.lan:5000/v2/",
    ] {
        let from = from.parse().expect("a URL of ours");
        match address::redirect_target(&from, &with(header::LOCATION)) {
            // It may hold a credential. What is short stands in our own words, too.
            Err(cause) => assert!(text.len() < 80 || !cause.contains(text), "{cause:?}"),
            Ok(to) => {
                let authority = to.authority().expect("it has a host").as_str();
                assert!(!authority.contains('@') && !authority.is_empty());
                let refused = TRANSPORT.check_redirect(&from, &to).is_err();
                let plain = to.scheme_str() == Some("http");
                let secure = from.scheme_str() == Some("https");
                let home = leads_home(REMOTE, authority);
                assert!(refused || !(home || plain && secure), "{to}");
            }
        }
    }
    patience::retry_after(&with(header::RETRY_AFTER), Timestamp::UNIX_EPOCH)
        .map(patience::no_sooner_than);
    blob::range_start(&with(header::CONTENT_RANGE));
}

/// Whether it is a login file; its entries are looked up by all names that a registry may have.
pub(crate) fn credentials(bytes: &[u8]) -> Result<(), String> {
    let file = ConfigFile::parse(bytes)?;
    for authority in ["registry-1.docker.io", "r.io", "r.io:5000"] {
        match file.entry(authority, "team/app") {
            Some(Entry::Login(login)) => assert!(!format!("{login:?}").is_empty()),
            Some(Entry::Helper { name, server }) => {
                assert!(!name.is_empty() && !server.is_empty());
            }
            Some(Entry::Unreadable) | None => {}
        }
    }
    Ok(())
}
