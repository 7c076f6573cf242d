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

/// As far as pulling goes.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ConfigFile {
    auths: BTreeMap<String, Auth>,
    creds_store: Option<String>,
    cred_helpers: BTreeMap<String, String>,
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

    /// What to try for a repository of a registry, in docker's order: the registry's own helper, the store for all
    /// registries, the file itself.
    pub(crate) fn entries(&self, authority: &str, repository: &str) -> Vec<Entry> {
        let names = names(authority, repository);
        let mut found = Vec::new();
        let server = match names.last() {
            Some(host) if host == hub_address("docker.io") => HUB_KEY.to_owned(),
            Some(host) => host.clone(),
            None => return found,
        };
        let helper = longest(&self.cred_helpers, &names);
        for name in helper.into_iter().chain(self.creds_store.as_ref()) {
            if !name.is_empty() {
                let (name, server) = (name.clone(), server.clone());
                found.push(Entry::Helper { name, server });
            }
        }
        let login = longest(&self.auths, &names).and_then(login);
        found.extend(login.map(Entry::Login));
        found
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

fn longest<'a, T>(keys: &'a BTreeMap<String, T>, names: &[String]) -> Option<&'a T> {
    let fits = |name: &String| {
        let found = keys.iter().find(|(key, _)| plain_key(key) == *name);
        found.map(|(_, value)| value)
    };
    names.iter().find_map(fits)
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

fn login(auth: &Auth) -> Option<Login> {
    let said = |text: &Option<String>| text.clone().filter(|t| !t.is_empty());
    if let Some(token) = said(&auth.registry_token) {
        return Some(Login::Token(token));
    }
    if let Some(token) = said(&auth.identity_token) {
        return Some(Login::Identity(token));
    }
    let pair = said(&auth.auth).and_then(|pair| decoded(&pair));
    let (username, password) = match pair {
        Some(pair) => pair,
        None => (said(&auth.username)?, said(&auth.password)?),
    };
    Some(Login::Password { username, password })
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

    fn entries(file: serde_json::Value, authority: &str, repository: &str) -> Vec<Entry> {
        let file = ConfigFile::parse(file.to_string().as_bytes()).unwrap();
        file.entries(authority, repository)
    }

    fn password(username: &str, password: &str) -> Entry {
        Entry::Login(Login::Password {
            username: username.into(),
            password: password.into(),
        })
    }

    fn helper(name: &str, server: &str) -> Entry {
        Entry::Helper {
            name: name.into(),
            server: server.into(),
        }
    }

    #[test]
    fn the_forms_of_an_entry_are_read() {
        let one = |auth: serde_json::Value| entries(json!({"auths": {"r.io": auth}}), "r.io", "a");
        // u:p:w, with and without padding
        assert_eq!(one(json!({"auth": "dTpwOnc="})), [password("u", "p:w")]);
        assert_eq!(one(json!({"auth": "dTpwOnc"})), [password("u", "p:w")]);
        assert_eq!(
            one(json!({"username": "u", "password": "p", "email": "e"})),
            [password("u", "p")]
        );
        assert_eq!(
            one(json!({"auth": "dTpwOnc=", "identitytoken": "i"})),
            [Entry::Login(Login::Identity("i".into()))]
        );
        assert_eq!(
            one(json!({"registrytoken": "t"})),
            [Entry::Login(Login::Token("t".into()))]
        );
        for nobody in [
            json!({}),
            json!({"auth": ""}),
            json!({"auth": "???"}),
            json!({"auth": "dQ=="}),
        ] {
            assert_eq!(one(nobody), []);
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
                entries(file, "registry-1.docker.io", "library/a"),
                [password("u", "p")],
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
                entries(file.clone(), "r.io:5000", "a"),
                [password("u", "p")],
                "{key}"
            );
            assert_eq!(entries(file, "r.io", "a"), [], "{key}");
        }
    }

    #[test]
    fn the_longest_key_that_fits_a_repository_counts() {
        let file = json!({"auths": {
            "r.io": {"auth": "dTox"}, "r.io/team": {"auth": "dToy"}, "r.io/team/app": {"auth": "dToz"}}});
        let of = |repository: &str| entries(file.clone(), "r.io", repository);
        assert_eq!(of("team/app"), [password("u", "3")]);
        assert_eq!(of("team/other"), [password("u", "2")]);
        assert_eq!(of("teams/app"), [password("u", "1")]);
    }

    #[test]
    fn helpers_come_before_the_file_and_a_registrys_own_before_the_store() {
        let file = json!({"auths": {"r.io": {"auth": "dTpw"}, "docker.io": {}},
            "credsStore": "pass", "credHelpers": {"r.io": "own"}});
        assert_eq!(
            entries(file.clone(), "r.io", "a"),
            [
                helper("own", "r.io"),
                helper("pass", "r.io"),
                password("u", "p")
            ]
        );
        assert_eq!(
            entries(file, "registry-1.docker.io", "library/a"),
            [helper("pass", "https://index.docker.io/v1/")]
        );
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
