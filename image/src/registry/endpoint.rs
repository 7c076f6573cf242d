//! Where a repository is asked for: the mirrors of its registry in their order, then the registry itself.
//!
//! A mirror is `host[:port][/prefix]`; the prefix stands before the repository's name, as pull-through caches of
//! Harbor, Nexus and ECR want it. What a mirror sends is believed for its digest only; which digest a tag has now
//! is believed as its registry would be.
//!
//! A mirror that could not be reached is left out for a while, or each layer of an image would wait for it.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::fault::Fault;
use super::hub_address;
use super::settings::Registries;
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

/// Mirrors that could not be reached, and until when they are left out.
#[derive(Debug, Default)]
pub(crate) struct Down(Mutex<HashMap<String, Instant>>);

impl Down {
    fn mark(&self, authority: &str) {
        let until = Instant::now() + LEFT_OUT;
        self.lock().insert(authority.to_owned(), until);
    }

    fn is_down(&self, authority: &str, now: Instant) -> bool {
        let until = self.lock().get(authority).copied();
        until.is_some_and(|until| now < until)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The endpoints of a repository, one after the other.
#[derive(Debug)]
pub(crate) struct Rotation<'a> {
    down: &'a Down,
    current: Endpoint,
    rest: std::vec::IntoIter<Endpoint>,
}

impl<'a> Rotation<'a> {
    /// The mirrors that are not left out, then the registry.
    pub(crate) fn new(
        registries: &Registries,
        reference: &Reference,
        down: &'a Down,
        now: Instant,
    ) -> Rotation<'a> {
        let settings = registries.registry(&reference.registry);
        let mirrors = settings.map_or(&[][..], |registry| &registry.mirrors);
        let mut all: Vec<Endpoint> = mirrors
            .iter()
            .map(|mirror| Endpoint::of_mirror(mirror, &reference.repository))
            .filter(|mirror| !down.is_down(&mirror.authority, now))
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
        }
    }

    /// This endpoint and no other.
    pub(crate) fn only(endpoint: Endpoint, down: &'a Down) -> Rotation<'a> {
        Rotation {
            down,
            current: endpoint,
            rest: Vec::new().into_iter(),
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

    /// Goes on after `fault`; if there is no other, the fault is the registry's own and comes back.
    pub(crate) fn pass_over(&mut self, fault: Fault) -> Result<(), Fault> {
        let Some(next) = self.rest.next() else {
            return Err(fault);
        };
        let mirror = std::mem::replace(&mut self.current, next);
        let error = match fault {
            Fault::Unreachable(error) => {
                self.down.mark(&mirror.authority);
                error
            }
            Fault::Refused(error) => error,
        };
        tracing::warn!(mirror = mirror.authority, %error, "asking the next registry");
        Ok(())
    }
}

/// Each mirror must be one: a typing error would only show as pulls that never use it.
pub(crate) fn check(registries: &Registries) -> Result<(), ImageError> {
    for (name, settings) in &registries.registries {
        for mirror in &settings.mirrors {
            let as_reference = match mirror.contains('/') {
                true => format!("{}/x", mirror.trim_end_matches('/')),
                false => format!("{mirror}/x"),
            };
            let parsed = Reference::parse(&as_reference);
            let host = mirror.split('/').next().unwrap_or_default();
            let named = parsed.is_ok_and(|r| super::settings::is_same_registry(&r.registry, host));
            if !named {
                let cause = format!(
                    "mirror `{}` is no host[:port][/prefix]",
                    printable(mirror, 100)
                );
                return Err(ImageError::new("read registries", name, cause));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::settings::Registry;

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
        let asked_at = |name: &str, now: Instant| {
            let reference = Reference::parse(name).unwrap();
            let rotation = Rotation::new(&registries, &reference, &down, now);
            let all = [rotation.current].into_iter().chain(rotation.rest);
            all.map(|e| format!("{}/{}", e.authority, e.repository))
                .collect::<Vec<_>>()
        };
        let asked = |name: &str| asked_at(name, Instant::now());
        let all = [
            "m.lan:5000/library/nginx",
            "other.lan/hub/library/nginx",
            "registry-1.docker.io/library/nginx",
        ];
        assert_eq!(asked("nginx"), all);
        assert_eq!(asked("r.io/a"), ["r.io/a"]);
        down.mark("m.lan:5000");
        assert_eq!(asked("nginx"), all[1..]);
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
    }
}
