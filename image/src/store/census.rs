//! What is in the store and what refers to what, read from its records anew each time. Reading only, but that damaged records
//! are set aside.
//!
//! ```text
//!   refs/*.json ──▶ manifests/* ──▶ configs/* ──▶ layers/sha256/*, layers/chain/*
//!        └─▶ blobs/sha256/* ◀─┘
//!   roots/*/image.json ──▶ manifests/*       roots/*/l/* ──▶ layers/...
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use super::blobs;
use super::layers;
use super::layout::Layout;
use super::records;
use crate::digest::Digest;
use crate::error::ImageError;
use crate::manifest::{Document, parse, parse_diff_ids};
use crate::snapshot;

/// One image: a manifest and what it leads to.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// Of its manifest.
    pub(crate) digest: Digest,
    /// What it is called: text of the reference, and the file that says so.
    pub(crate) names: Vec<Name>,
    /// None: the manifest is damaged.
    pub(crate) config: Option<Digest>,
    /// From the bottom up. None: the configuration is damaged or missing.
    pub(crate) layers: Option<Vec<Digest>>,
    /// Of its layers' blobs, which may be kept or not.
    pub(crate) blobs: Vec<Digest>,
    /// When a task or a pull last used it, to the hour.
    pub(crate) last_used: SystemTime,
}

/// A reference's record.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Name {
    pub(crate) reference: String,
    /// Below the store.
    pub(crate) file: String,
    /// What the registry has under it: the image's manifest, or an index that leads to it.
    pub(crate) top: String,
}

/// All of the store. Paths are below it.
#[derive(Debug, Default)]
pub(crate) struct Census {
    pub(crate) images: Vec<Entry>,
    /// Names whose manifest is not here.
    pub(crate) loose_names: Vec<Name>,
    /// `configs/*`.
    pub(crate) configs: BTreeSet<String>,
    /// `layers/sha256/*` and `layers/chain/*`.
    pub(crate) layers: BTreeSet<String>,
    /// `blobs/sha256/*`.
    pub(crate) blobs: BTreeSet<String>,
    /// What roots stand on: layers, by path, with the ids of the roots.
    pub(crate) under_roots: BTreeMap<String, Vec<String>>,
    /// Images that roots are of, by manifest digest.
    pub(crate) with_roots: BTreeSet<String>,
}

impl Entry {
    /// Path of its manifest.
    pub(crate) fn manifest(&self) -> String {
        format!("manifests/{}", self.digest.hex())
    }

    /// Path of its configuration.
    pub(crate) fn config(&self) -> Option<String> {
        self.config
            .as_ref()
            .map(|id| format!("configs/{}", id.hex()))
    }

    /// Paths of its layers and of all seams that it can have.
    pub(crate) fn layer_paths(&self) -> impl Iterator<Item = String> {
        let ids = self.layers.as_deref().unwrap_or_default();
        ids.iter().map(layers::path).chain(layers::chain_paths(ids))
    }

    /// Paths of all blobs that may be kept of it.
    pub(crate) fn blob_paths(&self) -> impl Iterator<Item = String> {
        let tops = self.names.iter().filter_map(|n| Digest::parse(&n.top).ok());
        let own = self.blobs.iter().map(blobs::path);
        own.chain(tops.map(|top| blobs::path(&top)))
    }

    /// Paths of all that only images need that lead to it.
    pub(crate) fn paths(&self) -> impl Iterator<Item = String> {
        self.layer_paths().chain(self.blob_paths())
    }
}

/// Counts what is there. Blocking.
pub(crate) fn census(layout: &Layout) -> Result<Census, ImageError> {
    let mut names: BTreeMap<String, Vec<Name>> = BTreeMap::new();
    for file in good_names(layout, "refs")? {
        let file = format!("refs/{file}");
        if let Some(found) = records::pulled_in(layout, &file)? {
            let reference = found.reference().to_owned();
            let top = found.top;
            let name = Name {
                reference,
                file,
                top,
            };
            names.entry(found.manifest).or_default().push(name);
        }
    }
    let mut census = Census::default();
    for hex in good_names(layout, "manifests")? {
        let Ok(digest) = Digest::parse(&format!("sha256:{hex}")) else {
            continue;
        };
        let names = names.remove(digest.as_str()).unwrap_or_default();
        census.images.push(entry(layout, digest, names)?);
    }
    census.loose_names = names.into_values().flatten().collect();
    let paths = |directory: &str| {
        let all = good_names(layout, directory)?;
        Ok::<_, ImageError>(
            all.into_iter()
                .map(move |name| format!("{directory}/{name}"))
                .collect::<Vec<_>>(),
        )
    };
    census.configs.extend(paths("configs")?);
    census.layers.extend(paths("layers/sha256")?);
    census.layers.extend(paths("layers/chain")?);
    census.blobs.extend(blobs::all(layout)?);
    for id in layout.list("roots")? {
        let stands = snapshot::stands_on(layout, &id)?;
        census.with_roots.extend(stands.manifest);
        for layer in stands.layers {
            census
                .under_roots
                .entry(layer)
                .or_default()
                .push(id.clone());
        }
    }
    Ok(census)
}

/// The same image as its records are now.
pub(crate) fn reread(layout: &Layout, image: &Entry) -> Result<Entry, ImageError> {
    entry(layout, image.digest.clone(), image.names.clone())
}

/// What has not been set aside.
fn good_names(layout: &Layout, directory: &str) -> Result<Vec<String>, ImageError> {
    let mut names = layout.list(directory)?;
    names.retain(|name| !name.ends_with(".bad"));
    names.sort_unstable();
    Ok(names)
}

fn entry(layout: &Layout, digest: Digest, names: Vec<Name>) -> Result<Entry, ImageError> {
    let last_used = records::last_used(layout, &digest);
    let mut entry = Entry {
        digest,
        names,
        config: None,
        layers: None,
        blobs: Vec::new(),
        last_used,
    };
    let Some(bytes) = records::content(layout, "manifests", &entry.digest)? else {
        return Ok(entry);
    };
    let Ok(Document::Manifest(manifest)) = parse(&bytes, None) else {
        return Ok(entry);
    };
    if let Some(bytes) = records::content(layout, "configs", &manifest.config.digest)? {
        entry.layers = parse_diff_ids(&bytes, manifest.layers.len()).ok();
    }
    entry.config = Some(manifest.config.digest);
    entry.blobs = manifest.layers.into_iter().map(|l| l.digest).collect();
    Ok(entry)
}
