//! docker's `config.json` and podman's `auth.json`: which login, or whose helper, a registry has.
//!
//! Sources: docker's "docker login" reference ("Credential stores", "Credential helpers"), containers-auth.json(5).
//! podman's keys may go on into the repository (`quay.io/team/app`); the longest that fits counts.

use std::io::ErrorKind;
use std::path::Path;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;
use std::collections::BTreeMap;
use tokio::io::AsyncReadExt;

use super::Login;
use crate::error::ImageError;
use crate::registry::hub_address;

/// No login file is larger.
const FILE_MAX: u64 = 1024 * 1024;
/// What docker calls its hub in files and to helpers.
const HUB_KEY: &str = "https://index.docker.io/v1/";

/// As far as pulling goes. Whatever it holds may be null, as Go writes what is empty.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ConfigFile {
    auths: Option<BTreeMap<String, Option<Auth>>>,
    creds_store: Option<String>,
    cred_helpers: Option<BTreeMap<String, String>>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default)]
struct Auth {
    /// `user:password` in base64.
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    #[serde(rename = "identitytoken")]
    identity_token: Option<String>,
    #[serde(rename = "registrytoken")]
    registry_token: Option<String>,
}

/// One way to a login.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    Login(Login),
    /// A helper must be asked for `server`.
    Helper {
        name: String,
        server: String,
    },
    /// There is a login, and it cannot be read.
    Unreadable,
}

/// The file at `path`; None if there is none.
pub(crate) async fn read(path: &Path) -> Result<Option<ConfigFile>, ImageError> {
    let error = |cause: &str| {
        let cause = format!("{cause}; log in again, or name another credential file");
        ImageError::new("read credentials", path.display(), cause)
    };
    let file = match tokio::fs::File::open(path).await {
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        other => other.map_err(|e| error(&e.to_string()))?,
    };
    let mut text = Vec::new();
    let read = file.take(FILE_MAX + 1).read_to_end(&mut text).await;
    read.map_err(|e| error(&e.to_string()))?;
    if text.len() as u64 > FILE_MAX {
        return Err(error("it is larger than any login file"));
    }
    ConfigFile::parse(&text).map(Some).map_err(error)
}

impl ConfigFile {
    /// The parser's words may quote a secret and stay here.
    pub(crate) fn parse(text: &[u8]) -> Result<ConfigFile, &'static str> {
        if text.trim_ascii().is_empty() {
            return Ok(ConfigFile::default());
        }
        serde_json::from_slice(text).map_err(|_| "it is not in the form of docker's config.json")
    }

    /// Where the login for a repository of a registry is. As docker has it there is one place: the registry's own helper, or
    /// the store for all registries, or the file itself. One that knows nothing is not made up for by the next: a login that
    /// was taken back must not come alive again from an old file.
    pub(crate) fn entry(&self, authority: &str, repository: &str) -> Option<Entry> {
        let names = names(authority, repository);
        let said = |name: &String| (!name.is_empty()).then(|| name.clone());
        let own = self.cred_helpers.as_ref();
        let own = own.and_then(|helpers| longest(helpers, &names, said));
        if let Some(name) = own.or_else(|| self.creds_store.as_ref().and_then(said)) {
            let host = names.last()?;
            let server = match host == hub_address("docker.io") {
                true => HUB_KEY.to_owned(),
                false => host.clone(),
            };
            return Some(Entry::Helper { name, server });
        }
        let login = |auth: &Option<Auth>| auth.as_ref().and_then(login);
        longest(self.auths.as_ref()?, &names, login)
    }
}

/// What a registry's and its repositories' keys may be, the longest first.
fn names(authority: &str, repository: &str) -> Vec<String> {
    let host = hub_address(&authority.to_ascii_lowercase()).to_owned();
    let whole = format!("{host}/{repository}");
    let ends = whole.match_indices('/').map(|(at, _)| at);
    let mut names: Vec<String> = ends.map(|at| whole[..at].to_owned()).collect();
    names.push(whole);
    names.reverse();
    names
}

/// What the longest key that fits says, of those that say something.
fn longest<T, R>(
    keys: &BTreeMap<String, T>,
    names: &[String],
    says: impl Fn(&T) -> Option<R>,
) -> Option<R> {
    let of = |name: &String| {
        let mut fitting = keys.iter().filter(|(key, _)| plain_key(key) == *name);
        fitting.find_map(|(_, value)| says(value))
    };
    names.iter().find_map(of)
}

/// `https://index.docker.io/v1/` and `docker.io` are one; a scheme and an API version say nothing.
fn plain_key(key: &str) -> String {
    let lower = key.to_ascii_lowercase();
    let (scheme, rest) = match lower.split_once("://") {
        Some((_, rest)) => (true, rest),
        None => (false, &*lower),
    };
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let path = path.trim_end_matches('/');
    let version = matches!(path, "v1" | "v2");
    let host = hub_address(host);
    match scheme || version || path.is_empty() {
        // Old docker wrote URLs, and only their host counts.
        true => host.to_owned(),
        false => format!("{host}/{path}"),
    }
}

fn login(auth: &Auth) -> Option<Entry> {
    let said = |text: &Option<String>| text.clone().filter(|t| !t.is_empty());
    if let Some(token) = said(&auth.registry_token) {
        return Some(Entry::Login(Login::Token(token)));
    }
    if let Some(token) = said(&auth.identity_token) {
        return Some(Entry::Login(Login::Identity(token)));
    }
    let whole = said(&auth.auth);
    let pair = whole.as_deref().and_then(decoded);
    let pair = pair.or_else(|| Some((said(&auth.username)?, said(&auth.password)?)));
    match (pair, whole) {
        (Some((username, password)), _) => {
            Some(Entry::Login(Login::Password { username, password }))
        }
        (None, Some(_)) => Some(Entry::Unreadable),
        (None, None) => None,
    }
}

/// Tools of the field pad, or do not.
fn decoded(pair: &str) -> Option<(String, String)> {
    let config =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let bytes = GeneralPurpose::new(&alphabet::STANDARD, config);
    let text = String::from_utf8(bytes.decode(pair.trim()).ok()?).ok()?;
    let (username, password) = text.split_once(':')?;
    // docker for Windows once wrote trailing zeroes.
    let password = password.trim_end_matches('\0');
    match username.is_empty() || password.is_empty() {
        true => None,
        false => Some((username.to_owned(), password.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn entry(file: serde_json::Value, authority: &str, repository: &str) -> Option<Entry> {
        let file = ConfigFile::parse(file.to_string().as_bytes()).unwrap();
        file.entry(authority, repository)
    }

    fn password(username: &str, password: &str) -> Option<Entry> {
        Some(Entry::Login(Login::Password {
            username: username.into(),
            password: password.into(),
        }))
    }

    fn helper(name: &str, server: &str) -> Option<Entry> {
        Some(Entry::Helper {
            name: name.into(),
            server: server.into(),
        })
    }

    #[test]
    fn the_forms_of_an_entry_are_read() {
        let one = |auth: serde_json::Value| entry(json!({"auths": {"r.io": auth}}), "r.io", "a");
        // u:p:w, with and without padding
        assert_eq!(one(json!({"auth": "dTpwOnc="})), password("u", "p:w"));
        assert_eq!(one(json!({"auth": "dTpwOnc"})), password("u", "p:w"));
        assert_eq!(
            one(json!({"username": "u", "password": "p", "email": "e"})),
            password("u", "p")
        );
        assert_eq!(
            one(json!({"auth": "dTpwOnc=", "identitytoken": "i"})),
            Some(Entry::Login(Login::Identity("i".into())))
        );
        assert_eq!(
            one(json!({"registrytoken": "t"})),
            Some(Entry::Login(Login::Token("t".into())))
        );
        for nobody in [json!({}), json!({"auth": ""})] {
            assert_eq!(one(nobody), None);
        }
        for bad in ["???", "dQ==", "dTo="] {
            assert_eq!(one(json!({"auth": bad})), Some(Entry::Unreadable), "{bad}");
            let besides = json!({"auth": bad, "username": "u", "password": "p"});
            assert_eq!(one(besides), password("u", "p"));
        }
    }

    #[test]
    fn a_registry_is_found_under_all_names_that_tools_give_it() {
        let login = json!({"auth": "dTpw"});
        for key in [
            "https://index.docker.io/v1/",
            "docker.io",
            "index.docker.io",
            "registry-1.docker.io",
        ] {
            let file = json!({"auths": {key: login.clone()}});
            assert_eq!(
                entry(file, "registry-1.docker.io", "library/a"),
                password("u", "p"),
                "{key}"
            );
        }
        for key in [
            "R.io:5000",
            "https://r.io:5000",
            "http://r.io:5000/v2/",
            "r.io:5000/",
        ] {
            let file = json!({"auths": {key: login.clone()}});
            assert_eq!(
                entry(file.clone(), "r.io:5000", "a"),
                password("u", "p"),
                "{key}"
            );
            assert_eq!(entry(file, "r.io", "a"), None, "{key}");
        }
    }

    #[test]
    fn the_longest_key_that_fits_a_repository_counts() {
        let file = json!({"auths": {
            "r.io": {"auth": "dTox"}, "r.io/team": {"auth": "dToy"}, "r.io/team/app": {"auth": "dToz"}}});
        let of = |repository: &str| entry(file.clone(), "r.io", repository);
        assert_eq!(of("team/app"), password("u", "3"));
        assert_eq!(of("team/other"), password("u", "2"));
        assert_eq!(of("teams/app"), password("u", "1"));
    }

    #[test]
    fn there_is_one_place_and_a_registrys_own_helper_comes_before_the_store() {
        let auths = json!({"r.io": {"auth": "dTpw"}, "docker.io": {}});
        let both = json!({"auths": auths, "credsStore": "pass", "credHelpers": {"r.io": "own"}});
        assert_eq!(entry(both.clone(), "r.io", "a"), helper("own", "r.io"));
        assert_eq!(
            entry(both, "registry-1.docker.io", "library/a"),
            helper("pass", "https://index.docker.io/v1/")
        );
        let none = json!({"auths": auths, "credsStore": "", "credHelpers": null});
        assert_eq!(entry(none, "r.io", "a"), password("u", "p"));
    }

    #[test]
    fn what_holds_nothing_hides_nothing() {
        let hub =
            json!({"auths": {"docker.io": {}, "https://index.docker.io/v1/": {"auth": "dTpw"}}});
        assert_eq!(entry(hub, "registry-1.docker.io", "a"), password("u", "p"));
        let longer = json!({"auths": {"r.io/a": null, "r.io": {"auth": "dTpw"}}});
        assert_eq!(entry(longer, "r.io", "a"), password("u", "p"));
        assert_eq!(entry(json!({"auths": null}), "r.io", "a"), None);
    }

    #[tokio::test]
    async fn a_file_that_is_none_is_named_without_its_content() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        assert!(read(&path).await.unwrap().is_none());
        assert!(read(&path.join("below")).await.unwrap().is_none());
        std::fs::write(&path, " \n").unwrap();
        assert!(read(&path).await.unwrap().is_some());
        std::fs::write(&path, r#"{"auths": "s3cr3t"}"#).unwrap();
        let error = read(&path).await.err().unwrap().to_string();
        let named = error.contains(&path.display().to_string());
        assert!(named && !error.contains("s3cr3t"), "{error}");
        std::fs::write(&path, vec![b' '; FILE_MAX as usize + 1]).unwrap();
        let error = read(&path).await.err().unwrap().to_string();
        assert!(error.contains("larger than any login file"), "{error}");
    }
}
