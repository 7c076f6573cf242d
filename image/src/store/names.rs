//! Which image somebody means, and its names: giving and taking them.
//!
//! An image is meant by one of its references; by a name with its digest (`nginx@sha256:...`: of its manifest, or of the
//! index that it came from); or by its digest, or its ID (the configuration's digest, as Docker has it), or the beginning of either.
//! Only a reference means one name: whatever else names an image means the whole of it.

use std::collections::BTreeMap;

use serde::Serialize;

use super::catalogue::{users, whole};
use super::census::{Entry, census};
use super::load::parse_tag;
use super::records::{self, Pulled};
use super::{Listed, Store};
use crate::digest::Digest;
use crate::error::{ImageError, printable};
use crate::reference::Reference;
use crate::snapshot;

/// The shortest beginning of a digest that names an image.
const SHORTEST: usize = 6;
/// Of what a sentence lists: so many, and the number of the others.
const SHOWN: usize = 5;

/// How much of an image may go that was named by its digest or ID.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Extent {
    /// Its only name, and the image with it; an error if it has several.
    #[default]
    OneName,
    /// All its names, and the image with them.
    AllNames,
}

/// What a removal took.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Removed {
    /// Names that are gone. None of an image that had none.
    pub references: Vec<String>,
    /// Of the image's manifest.
    pub digest: String,
    /// Whether the image went at once, with what it alone needed; otherwise, if it has no name any more, the next collection
    /// takes it.
    pub image: bool,
}

/// What somebody meant.
pub(super) struct Hit {
    /// The name, if it was one.
    pub(super) name: Option<Reference>,
    pub(super) manifest: Digest,
}

impl Store {
    /// Gives the image that `name` names the name `tag`, which no other image has then. Blocking.
    pub fn tag(&self, name: &str, tag: &str) -> Result<Listed, ImageError> {
        let tag = parse_tag(tag)?;
        // Nothing is collected between the look at the image and its new name's record.
        let _collecting = self.leases.collect_next();
        let hit = self.find(name)?;
        let layout = &self.layout;
        if whole(layout, &hit.manifest).is_none() {
            let cause = "it is not whole; pull it again";
            return Err(ImageError::new("tag image", printable(name, 400), cause));
        }
        // What a registry has under the other name may be an index; only of a record of that name it is known.
        let known = hit.name.as_ref().map(|name| records::pulled(layout, name));
        let top = known.transpose()?.flatten();
        let top = top.and_then(|pulled| Digest::parse(&pulled.top).ok());
        let top = top.unwrap_or_else(|| hit.manifest.clone());
        records::record(layout, &tag, &Pulled::new(&tag, &top, &hit.manifest))?;
        let listed = self.list()?.into_iter();
        let mut listed = listed.filter(|line| line.reference == tag.to_string());
        listed
            .next()
            .ok_or_else(|| ImageError::new("tag image", &tag, "the name was taken away again"))
    }

    /// Takes a name from the store; or, where the image is named by its digest or ID, the image with all that it alone needs. An
    /// image whose last name goes is there until garbage collection takes it. `held`: as in [`Store::collect`]. Blocking.
    ///
    /// # Errors
    /// There is no such name, or `name` is none and the image has several; or nothing would name an image that a container has as its
    /// root, or, without its name, that somebody holds.
    pub fn remove(
        &self,
        name: &str,
        extent: Extent,
        held: &dyn Fn() -> Vec<String>,
    ) -> Result<Removed, ImageError> {
        let hit = self.find(name)?;
        let error = |cause: String| ImageError::new("remove image", printable(name, 400), cause);
        let names = self.names(&hit.manifest)?;
        let is_last = names.len() <= 1 || hit.name.is_none();
        let users = users(&snapshot::owners(&self.layout)?, hit.manifest.as_str());
        if hit.name.is_none() && names.len() > 1 && extent == Extent::OneName {
            return Err(error(format!(
                "the image has several names, say which one, or --force for all of them: {}",
                some(&names)
            )));
        }
        if is_last && !users.is_empty() {
            return Err(error(format!(
                "it is the root of {}: stop the task first (longshore ps shows it), or give the image another name \
                 before (longshore image tag)",
                containers(&users)
            )));
        }
        let digest = hit.manifest.to_string();
        match hit.name {
            Some(name) => {
                records::forget(&self.layout, &name)?;
                Ok(Removed {
                    references: vec![name.to_string()],
                    digest,
                    image: false,
                })
            }
            None => {
                let gone = self.remove_image(&digest, held, false)?.images;
                let mut gone = gone.into_iter().next().ok_or_else(|| {
                    error(
                        "a task, a pull or a verb uses it just now; try again when that has ended"
                            .into(),
                    )
                })?;
                gone.references.sort();
                Ok(Removed {
                    references: gone.references,
                    digest,
                    image: true,
                })
            }
        }
    }

    pub(super) fn only_name(&self, manifest: &Digest) -> Option<Reference> {
        match self.names(manifest).ok()?.as_slice() {
            [only] => Reference::parse(only).ok(),
            _ => None,
        }
    }

    pub(super) fn names(&self, manifest: &Digest) -> Result<Vec<String>, ImageError> {
        let all = records::all(&self.layout)?.into_iter();
        let own = all.filter(|pulled| pulled.manifest == manifest.as_str());
        let mut names: Vec<String> = own.map(|pulled| pulled.reference().to_owned()).collect();
        names.sort();
        Ok(names)
    }

    /// What `text` names: a reference first, then a digest or an ID.
    pub(super) fn find(&self, text: &str) -> Result<Hit, ImageError> {
        let error = |cause: String| ImageError::new("find image", printable(text, 400), cause);
        let parsed = Reference::parse(text).ok();
        if let Some(name) = &parsed
            && let Some(pulled) = records::pulled(&self.layout, name)?
        {
            return Ok(Hit {
                manifest: Digest::parse(&pulled.manifest).map_err(error)?,
                name: Some(name.clone()),
            });
        }
        let all = records::all(&self.layout)?;
        let images = census(&self.layout)?.images;
        let found = match parsed
            .as_ref()
            .and_then(|name| Some((name, name.digest.as_ref()?)))
        {
            Some((name, digest)) => {
                by_name_and_digest(&images, &all, name, digest).map_err(error)?
            }
            None => by_beginning(&images, &all, text),
        };
        let mut found = found.into_iter();
        match (found.next(), found.len()) {
            (Some((manifest, _)), 0) => Ok(Hit {
                name: None,
                manifest,
            }),
            (None, _) => Err(error(
                "it is not in the store; longshore image ls lists what is".into(),
            )),
            (Some(first), _) => {
                let lines: Vec<String> = [first].into_iter().chain(found).map(|f| f.1).collect();
                Err(error(format!(
                    "it could be any of {} images: {}; say more of the digest, or a name",
                    lines.len(),
                    some(&lines)
                )))
            }
        }
    }
}

/// Manifests by their digest, with what to call them in a sentence.
type Found = BTreeMap<Digest, String>;

fn told(image: &Entry) -> (Digest, String) {
    let names: Vec<&str> = image.names.iter().map(|n| n.reference.as_str()).collect();
    let text = match names.as_slice() {
        [] => image.digest.to_string(),
        names => format!("{} ({})", image.digest, names.join(", ")),
    };
    (image.digest.clone(), text)
}

/// Images of that digest, or of an index that has it, among those of that name; or one that has no name at all.
fn by_name_and_digest(
    images: &[Entry],
    all: &[Pulled],
    name: &Reference,
    digest: &Digest,
) -> Result<Found, String> {
    let is_of_it = |pulled: &&Pulled| {
        [&pulled.top, &pulled.manifest].contains(&&digest.to_string())
            && Reference::parse(pulled.reference()).is_ok_and(|known| {
                (&known.registry, &known.repository) == (&name.registry, &name.repository)
            })
    };
    let of_it: Vec<&str> = all
        .iter()
        .filter(is_of_it)
        .map(|p| p.manifest.as_str())
        .collect();
    let own = images.iter().filter(|i| of_it.contains(&i.digest.as_str()));
    let found: Found = own.map(told).collect();
    match images.iter().find(|image| image.digest == *digest) {
        Some(same) if found.is_empty() && same.names.is_empty() => Ok([told(same)].into()),
        Some(same) if found.is_empty() => Err(format!(
            "the store has it under another name: {}",
            some(
                &same
                    .names
                    .iter()
                    .map(|n| n.reference.clone())
                    .collect::<Vec<_>>()
            )
        )),
        _ => Ok(found),
    }
}

/// Images whose digest, ID, or index's digest begins so.
fn by_beginning(images: &[Entry], all: &[Pulled], text: &str) -> Found {
    let beginning = text.strip_prefix("sha256:").unwrap_or(text);
    let hex = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
    if beginning.len() < SHORTEST || !beginning.bytes().all(hex) {
        return Found::new();
    }
    let begins = |digest: &str| {
        let digest = digest.strip_prefix("sha256:");
        digest.is_some_and(|digest| digest.starts_with(beginning))
    };
    let of_index: Vec<&str> = all
        .iter()
        .filter(|pulled| begins(&pulled.top))
        .map(|pulled| pulled.manifest.as_str())
        .collect();
    let is_meant = |image: &&Entry| {
        begins(image.digest.as_str())
            || image.config.as_ref().is_some_and(|id| begins(id.as_str()))
            || of_index.contains(&image.digest.as_str())
    };
    images.iter().filter(is_meant).map(told).collect()
}

/// `a, b and 3 more`.
fn some(all: &[String]) -> String {
    let shown = all[..all.len().min(SHOWN)].join(", ");
    match all.len() {
        n if n <= SHOWN => shown,
        n => format!("{shown} and {} more", n - SHOWN),
    }
}

/// `container a`, `containers a, b and 3 more`.
fn containers(ids: &[String]) -> String {
    match ids {
        [only] => format!("container {only}"),
        several => format!("containers {}", some(several)),
    }
}
