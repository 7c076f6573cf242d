//! Where a repository is asked for: the mirrors of its registry in their order, then the registry itself.
//!
//! A mirror is `host[:port][/prefix]`; the prefix stands before the repository's name, as pull-through caches of
//! Harbor, Nexus and ECR want it. What a mirror sends is believed for its digest only; which digest a tag has now
//! is believed as its registry would be.
//!
//! A mirror that could not be reached is left out for a while, or each layer of an image would wait for it. One that has not
//! got an image is not asked for its parts. And as long as there is somebody else to ask, patience is short: see `Ask`.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::fault::Fault;
use super::hub_address;
use super::settings::{Registries, is_same_registry};
use crate::error::{ImageError, printable};
use crate::reference::Reference;

/// How long a mirror is left out that could not be reached.
const LEFT_OUT: Duration = Duration::from_secs(60);

/// A registry, and a repository's name there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// `host[:port]`
    pub(crate) authority: String,
    pub(crate) repository: String,
    pub(crate) is_mirror: bool,
}

impl Endpoint {
    fn of_mirror(mirror: &str, repository: &str) -> Endpoint {
        let (authority, prefix) = mirror.split_once('/').unwrap_or((mirror, ""));
        let repository = match prefix.trim_matches('/') {
            "" => repository.to_owned(),
            prefix => format!("{prefix}/{repository}"),
        };
        Endpoint {
            authority: hub_address(&authority.to_ascii_lowercase()).to_owned(),
            repository,
            is_mirror: true,
        }
    }
}

/// Mirrors that could not be reached, and images that mirrors have not got, and until when they are left out.
#[derive(Debug, Default)]
pub(crate) struct Down(Mutex<HashMap<(String, Option<Reference>), Instant>>);

impl Down {
    fn mark(&self, authority: &str, image: Option<&Reference>) {
        let now = Instant::now();
        let mut all = self.lock();
        all.retain(|_, until| now < *until);
        let key = (authority.to_owned(), image.cloned());
        all.insert(key, now + LEFT_OUT);
    }

    fn is_down(&self, authority: &str, image: Option<&Reference>, now: Instant) -> bool {
        let key = (authority.to_owned(), image.cloned());
        let until = self.lock().get(&key).copied();
        until.is_some_and(|until| now < until)
    }

    /// The parts of `image` are not asked for at a mirror that has not got it. What its name stands for always is: the mirror
    /// may get it any moment.
    pub(crate) fn lacks(&self, mirror: &Endpoint, image: &Reference) {
        self.mark(&mirror.authority, Some(image));
    }

    /// It has got it now.
    pub(crate) fn has(&self, mirror: &Endpoint, image: &Reference) {
        let key = (mirror.authority.clone(), Some(image.clone()));
        self.lock().remove(&key);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(String, Option<Reference>), Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What of the time until `deadline` an endpoint may use: half of it if another can be asked after it.
pub(crate) fn share(deadline: Instant, has_other: bool) -> Instant {
    let now = Instant::now();
    match has_other {
        true => now + deadline.saturating_duration_since(now) / 2,
        false => deadline,
    }
}

/// What of an image is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// What its name stands for.
    Name,
    /// Anything below.
    Content,
}

/// The endpoints of a repository, one after the other.
#[derive(Debug)]
pub(crate) struct Rotation<'a> {
    down: &'a Down,
    current: Endpoint,
    rest: std::vec::IntoIter<Endpoint>,
    /// Whether our caller has others to ask.
    has_other: bool,
    image: Option<Reference>,
}

impl<'a> Rotation<'a> {
    /// The mirrors that are not left out, then the registry.
    pub(crate) fn new(
        registries: &Registries,
        reference: &Reference,
        part: Part,
        down: &'a Down,
        now: Instant,
    ) -> Rotation<'a> {
        let settings = registries.registry(&reference.registry);
        let mirrors = settings.map_or(&[][..], |registry| &registry.mirrors);
        let mut all: Vec<Endpoint> = mirrors
            .iter()
            .map(|mirror| Endpoint::of_mirror(mirror, &reference.repository))
            .filter(|mirror| !down.is_down(&mirror.authority, None, now))
            .filter(|mirror| {
                part == Part::Name || !down.is_down(&mirror.authority, Some(reference), now)
            })
            .collect();
        all.push(Endpoint {
            authority: hub_address(&reference.registry).to_owned(),
            repository: reference.repository.clone(),
            is_mirror: false,
        });
        let mut rest = all.into_iter();
        // The registry is there at least.
        let current = rest.next().unwrap_or_default();
        Rotation {
            down,
            current,
            rest,
            has_other: false,
            image: Some(reference.clone()),
        }
    }

    /// The one that is to be asked now, and no other.
    pub(crate) fn only_current(&self) -> Rotation<'a> {
        Rotation {
            down: self.down,
            current: self.current.clone(),
            rest: Vec::new().into_iter(),
            has_other: self.has_other(),
            image: self.image.clone(),
        }
    }

    /// The one to ask.
    pub(crate) fn current(&self) -> &Endpoint {
        &self.current
    }

    /// Whether there is another one to ask.
    pub(crate) fn has_next(&self) -> bool {
        self.rest.len() > 0
    }

    /// Whether somebody else can be asked, here or by our caller.
    pub(crate) fn has_other(&self) -> bool {
        self.has_other || self.has_next()
    }

    /// Goes on after `fault`; if there is no other, the fault is the registry's own and comes back.
    pub(crate) fn pass_over(&mut self, fault: Fault) -> Result<(), Fault> {
        let Some(next) = self.rest.next() else {
            return Err(fault);
        };
        let mirror = std::mem::replace(&mut self.current, next);
        let error = match fault {
            Fault::Unreachable(error) => {
                self.down.mark(&mirror.authority, None);
                error
            }
            Fault::Refused(error) => error,
        };
        let mirror = mirror.authority;
        let image = self.image.as_ref();
        match self.down.is_down(&mirror, image, Instant::now()) {
            true => {
                tracing::debug!(mirror, %error, "the mirror lacks it; asking the next registry")
            }
            false => tracing::warn!(mirror, %error, "asking the next registry"),
        }
        Ok(())
    }
}

/// Each name must be one that a reference can have: a typing error would only show as settings that are never used.
pub(crate) fn check(registries: &Registries) -> Result<(), ImageError> {
    let error = |subject: &str, cause: String| {
        let subject = printable(subject, 100);
        Err(ImageError::new("read registries", subject, cause))
    };
    for name in &registries.insecure {
        if !is_host(name) {
            return error("`insecure`", no_host(name));
        }
    }
    let mut seen: Vec<&str> = Vec::new();
    for (name, settings) in &registries.registries {
        if !is_host(name) {
            return error("`registries`", no_host(name));
        }
        if let Some(other) = seen.iter().find(|other| is_same_registry(other, name)) {
            return error(
                name,
                format!("it is the same registry as `{other}`; name it once"),
            );
        }
        seen.push(name);
        for mirror in &settings.mirrors {
            let (host, prefix) = mirror.split_once('/').unwrap_or((mirror, ""));
            let below = match prefix.trim_end_matches('/') {
                "" => format!("{host}/x"),
                prefix => format!("{host}/{prefix}/x"),
            };
            if !is_host(host) || Reference::parse(&below).is_err() {
                // Not repeated if it may hold a password.
                let shown = match mirror.contains('@') {
                    true => "that holds a user".to_owned(),
                    false => format!("`{}`", printable(mirror, 100)),
                };
                return error(name, format!("mirror {shown} is no host[:port][/prefix]"));
            }
        }
        if let Some(Err(cause)) = settings.ecr.as_ref().map(super::credentials::ecr::endpoint) {
            return error(name, cause);
        }
    }
    Ok(())
}

/// As references have it: `host[:port]`, and no word that they would take for a user of Docker Hub.
fn is_host(name: &str) -> bool {
    let parsed = Reference::parse(&format!("{name}/x"));
    parsed.is_ok_and(|r| is_same_registry(&r.registry, name))
}

fn no_host(name: &str) -> String {
    let shown = match name.contains('@') {
        true => "a name that holds a user".to_owned(),
        false => format!("`{}`", printable(name, 100)),
    };
    format!("{shown} is no host[:port]; write it as references do, without a scheme")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::settings::{Ecr, Registry};

    fn with_mirrors(mirrors: &[&str]) -> Registries {
        let mirrors = mirrors.iter().map(|m| (*m).to_owned()).collect();
        let registry = Registry {
            mirrors,
            ..Registry::default()
        };
        Registries {
            registries: [("docker.io".to_owned(), registry)].into(),
            ..Registries::default()
        }
    }

    #[test]
    fn mirrors_come_first_and_are_left_out_while_they_are_down() {
        let registries = with_mirrors(&["M.lan:5000", "other.lan/hub/"]);
        let down = Down::default();
        let asked_for = |part: Part, name: &str, now: Instant| {
            let reference = Reference::parse(name).unwrap();
            let rotation = Rotation::new(&registries, &reference, part, &down, now);
            let all = [rotation.current].into_iter().chain(rotation.rest);
            all.map(|e| format!("{}/{}", e.authority, e.repository))
                .collect::<Vec<_>>()
        };
        let asked_at = |name: &str, now: Instant| asked_for(Part::Content, name, now);
        let asked = |name: &str| asked_at(name, Instant::now());
        let all = [
            "m.lan:5000/library/nginx",
            "other.lan/hub/library/nginx",
            "registry-1.docker.io/library/nginx",
        ];
        assert_eq!(asked("nginx"), all);
        assert_eq!(asked("r.io/a"), ["r.io/a"]);
        let nginx = Reference::parse("nginx").unwrap();
        let mirror = Endpoint::of_mirror("m.lan:5000", &nginx.repository);
        down.lacks(&mirror, &nginx);
        assert_eq!(asked("nginx"), all[1..]);
        assert_eq!(asked_for(Part::Name, "nginx", Instant::now()), all);
        assert_eq!(asked("nginx:other").len(), 3);
        assert_eq!(asked_at("nginx", Instant::now() + LEFT_OUT), all);
        down.has(&mirror, &nginx);
        assert_eq!(asked("nginx"), all);
        down.mark("m.lan:5000", None);
        assert_eq!(asked("nginx"), all[1..]);
        assert_eq!(asked_for(Part::Name, "nginx", Instant::now()), all[1..]);
        assert_eq!(asked_at("nginx", Instant::now() + LEFT_OUT), all);
    }

    #[test]
    fn what_is_no_mirror_is_refused() {
        assert!(
            check(&with_mirrors(&[
                "m.lan",
                "m.lan:5000",
                "localhost/a/b/",
                "[::1]:5"
            ]))
            .is_ok()
        );
        for bad in ["", "mirror", "https://m.lan", "m.lan/A", "/hub", "m.lan:0"] {
            let error = check(&with_mirrors(&[bad])).unwrap_err().to_string();
            assert!(
                error.contains("docker.io") && error.contains("mirror"),
                "{error}"
            );
        }
        let secret = with_mirrors(&["https://u:s3cr3t@m.lan"]);
        let error = check(&secret).unwrap_err().to_string();
        assert!(
            error.contains("holds a user") && !error.contains("s3cr3t"),
            "{error}"
        );
    }

    #[test]
    fn settings_that_no_reference_would_use_are_refused() {
        let insecure = |name: &str| Registries {
            insecure: vec![name.to_owned()],
            ..Registries::default()
        };
        let named = |names: &[&str]| Registries {
            registries: names
                .iter()
                .map(|name| ((*name).to_owned(), Registry::default()))
                .collect(),
            ..Registries::default()
        };
        for good in ["Registry.LAN:5000", "localhost", "10.0.0.1", "[::1]:5"] {
            assert!(check(&insecure(good)).is_ok(), "{good}");
            assert!(check(&named(&[good, "docker.io"])).is_ok(), "{good}");
        }
        for bad in [
            "https://registry.lan",
            "10.0.0.0/8",
            "registry.lan/",
            "registry",
            "*.lan",
            "",
        ] {
            for settings in [insecure(bad), named(&[bad])] {
                let error = check(&settings).unwrap_err().to_string();
                assert!(error.contains("is no host[:port]"), "{bad}: {error}");
            }
        }
        let error = check(&named(&["docker.io", "Index.docker.io"])).unwrap_err();
        assert!(error.to_string().contains("the same registry"), "{error}");
        let mut ecr = named(&["images.lan"]);
        let settings = ecr.registries.get_mut("images.lan").unwrap();
        settings.ecr = Some(Ecr {
            region: "x".into(),
            endpoint: Some("https://u:s3cr3t@h".into()),
        });
        let error = check(&ecr).unwrap_err().to_string();
        assert!(
            error.contains("images.lan") && !error.contains("s3cr3t"),
            "{error}"
        );
    }
}
