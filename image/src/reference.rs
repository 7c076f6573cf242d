//! Image references: `[registry/]name[:tag][@digest]`, as the distribution project's reference grammar says.
//!
//! Pure. Absent on purpose: transports (`docker://`) and short-name aliases other than Docker Hub's default,
//! which is what ECS's users write (`nginx` is `docker.io/library/nginx`).

use std::fmt;
use std::net::Ipv6Addr;

use crate::digest::Digest;
use crate::error::{ImageError, printable};

/// Longest registry plus repository name (the grammar's own limit).
const NAME_MAX: usize = 255;
/// Longest whole reference we look at: name, tag (128) and digest with their separators.
const REFERENCE_MAX: usize = NAME_MAX + 1 + 128 + 1 + 71;
const DOCKER_HUB: &str = "docker.io";

/// A parsed reference. Its text form is canonical: registry and tag are always there, unless a digest is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Reference {
    /// `host` or `host:port`, lower case.
    pub(crate) registry: String,
    /// `library/nginx`.
    pub(crate) repository: String,
    /// `latest` unless said; None if only a digest was given.
    pub(crate) tag: Option<String>,
    /// What the content must be, whatever the tag says.
    pub(crate) digest: Option<Digest>,
}

impl Reference {
    /// Parses `text`; the error names the reference and what is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<Reference, ImageError> {
        parse(text).map_err(|cause| {
            let remedy = "write [registry[:port]/]name[:tag][@sha256:...]";
            ImageError::new(
                "resolve",
                printable(text, REFERENCE_MAX),
                format!("not an image reference: {cause}; {remedy}"),
            )
        })
    }

    /// What stands in the manifest URL: the digest if there is one, else the tag.
    pub(crate) fn version(&self) -> &str {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.as_str(),
            (None, Some(tag)) => tag,
            (None, None) => "latest",
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

fn parse(text: &str) -> Result<Reference, String> {
    if text.is_empty() {
        return Err("it is empty".into());
    }
    if text.len() > REFERENCE_MAX {
        return Err(format!("it is longer than {REFERENCE_MAX} bytes"));
    }
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(Digest::parse(digest)?)),
        None => (text, None),
    };
    let (registry, rest) = split_registry(rest)?;
    let (path, tag) = match rest.split_once(':') {
        Some((path, tag)) => (path, Some(checked_tag(tag)?)),
        None => (rest, None),
    };
    let repository = repository_in(&registry, path)?;
    if registry.len() + 1 + repository.len() > NAME_MAX {
        return Err(format!("its name is longer than {NAME_MAX} bytes"));
    }
    let tag = tag.or_else(|| digest.is_none().then(|| "latest".to_owned()));
    Ok(Reference {
        registry,
        repository,
        tag,
        digest,
    })
}

/// The first segment is a registry if it has a dot or a colon, or is `localhost`.
fn split_registry(text: &str) -> Result<(String, &str), String> {
    let Some((first, rest)) = text.split_once('/') else {
        return Ok((DOCKER_HUB.to_owned(), text));
    };
    if !first.contains(['.', ':']) && first != "localhost" {
        return Ok((DOCKER_HUB.to_owned(), text));
    }
    check_host_port(first)?;
    let registry = match first.to_ascii_lowercase() {
        hub if hub == "index.docker.io" => DOCKER_HUB.to_owned(),
        other => other,
    };
    Ok((registry, rest))
}

fn check_host_port(text: &str) -> Result<(), String> {
    let bad = || format!("`{}` is not a registry's host[:port]", printable(text, 80));
    let port = if let Some(bracketed) = text.strip_prefix('[') {
        let (address, after) = bracketed.split_once(']').ok_or_else(bad)?;
        address.parse::<Ipv6Addr>().map_err(|_| bad())?;
        match after {
            "" => None,
            _ => Some(after.strip_prefix(':').ok_or_else(bad)?),
        }
    } else {
        let (host, port) = match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        };
        if !host.split('.').all(is_host_label) {
            return Err(bad());
        }
        port
    };
    match port {
        Some(port) if !is_port(port) => Err(bad()),
        _ => Ok(()),
    }
}

fn is_host_label(label: &str) -> bool {
    !label.is_empty()
        && label
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && !label.starts_with('-')
        && !label.ends_with('-')
}

fn is_port(port: &str) -> bool {
    port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|p| p != 0)
}

fn repository_in(registry: &str, path: &str) -> Result<String, String> {
    if !path.split('/').all(is_path_component) {
        return Err(format!(
            "`{}` is not a repository name (lower-case letters and digits, separated by . _ __ - and /)",
            printable(path, NAME_MAX)
        ));
    }
    if registry == DOCKER_HUB && !path.contains('/') {
        return Ok(format!("library/{path}"));
    }
    Ok(path.to_owned())
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_path_component(component: &str) -> bool {
    let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = component.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    let separators = component.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    word(*first)
        && word(*last)
        && separators
            .into_iter()
            .all(|s| matches!(s, "" | "." | "_" | "__") || s.bytes().all(|b| b == b'-'))
}

fn checked_tag(tag: &str) -> Result<String, String> {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let good = (1..=128).contains(&tag.len())
        && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-')
        && word(tag.as_bytes()[0]);
    if !good {
        return Err(format!("`{}` is not a tag", printable(tag, 128)));
    }
    Ok(tag.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[track_caller]
    fn check(text: &str, canonical: &str) {
        let parsed = Reference::parse(text).unwrap();
        assert_eq!(parsed.to_string(), canonical);
        assert_eq!(Reference::parse(canonical).unwrap(), parsed);
    }

    #[test]
    fn short_names_are_docker_hubs() {
        check("nginx", "docker.io/library/nginx:latest");
        check("grafana/grafana:9", "docker.io/grafana/grafana:9");
        check("index.docker.io/nginx", "docker.io/library/nginx:latest");
    }

    #[test]
    fn a_first_segment_with_a_dot_or_colon_is_a_registry() {
        check("localhost/a", "localhost/a:latest");
        check("localhost:5000/a/b:c", "localhost:5000/a/b:c");
        check("127.0.0.1:5000/a", "127.0.0.1:5000/a:latest");
        check("[::1]:5000/a", "[::1]:5000/a:latest");
        check("Registry.io/a", "registry.io/a:latest");
        check("a.example/b__c/d-e.f:T_1", "a.example/b__c/d-e.f:T_1");
    }

    #[test]
    fn a_digest_wins_over_a_tag() {
        check(
            &format!("r.io/a:t@sha256:{HEX}"),
            &format!("r.io/a:t@sha256:{HEX}"),
        );
        check(
            &format!("a@sha256:{HEX}"),
            &format!("docker.io/library/a@sha256:{HEX}"),
        );
        let both = Reference::parse(&format!("r.io/a:t@sha256:{HEX}")).unwrap();
        assert_eq!(both.version(), format!("sha256:{HEX}"));
    }

    #[test]
    fn what_is_no_reference_is_refused_with_a_remedy() {
        for bad in [
            "",
            " ",
            "A",
            "A/b",
            "a:",
            "a@",
            "a b",
            "a//b",
            "/a",
            "a/",
            "-a",
            "a..b",
            "a___b",
            "a.-b",
            "r.io:0/a",
            "r.io:65536/a",
            "r.io:+1/a",
            "-r.io/a",
            "[::1/a",
            "[zz]:1/a",
            "r.io/A",
            "a:.t",
            "a@sha512:00",
            "../a",
            "a/../b",
            "r.io/a:t:u",
            "a@sha256:00",
            "r.io:/a",
            "u@r.io/a",
        ] {
            let error = Reference::parse(bad).expect_err(bad).to_string();
            assert!(error.contains("write [registry"), "{bad}: {error}");
        }
        assert!(Reference::parse(&"a".repeat(300)).is_err());
        assert!(Reference::parse(&"a".repeat(100_000)).is_err());
    }

    proptest! {
        #[test]
        fn no_text_panics_and_what_parses_is_canonical(text in "\\PC{0,80}") {
            if let Ok(r) = Reference::parse(&text) {
                let again = Reference::parse(&r.to_string()).unwrap();
                prop_assert_eq!(again, r);
            }
        }

        #[test]
        fn near_references_never_yield_a_path_that_climbs(text in "[a-zA-Z0-9./:@_\\[\\]-]{0,60}") {
            if let Ok(r) = Reference::parse(&text) {
                prop_assert!(r.repository.split('/').all(|c| !c.is_empty() && !c.starts_with('.')));
                prop_assert!(!r.registry.is_empty() && !r.registry.contains('/'));
                let again = Reference::parse(&r.to_string()).unwrap();
                prop_assert_eq!(again, r);
            }
        }
    }
}
