//! Images in the archive that `docker save` makes: manifest.json leads to configurations and layers by name.
//!
//! Such an archive has no manifest of the image specification and no digests but the diff IDs in each configuration.
//! The manifest is made here, always the same from the same content; so its digest is none that a registry knows.

use serde::Deserialize;

use super::{Found, IMAGES_MAX, Layer, Source};
use crate::digest::Digest;
use crate::error::printable;
use crate::manifest::media::{OCI_CONFIG, OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD};
use crate::manifest::platform::Host;
use crate::manifest::{self, Descriptor, LAYERS_MAX, made};
use crate::reference::Reference;
use crate::unpack::decoder::Format;

pub(super) const MANIFEST: &str = "manifest.json";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Line {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Option<Vec<String>>,
}

impl Line {
    fn tags(&self) -> &[String] {
        self.repo_tags.as_deref().unwrap_or_default()
    }
}

pub(super) fn images(source: &Source, only: Option<&str>) -> Result<Vec<Found>, String> {
    let bytes = source.needed(MANIFEST)?.document(MANIFEST)?;
    let lines: Vec<Line> = serde_json::from_slice(&bytes)
        .map_err(|e| format!("{MANIFEST}: {}", printable(&e.to_string(), 200)))?;
    if lines.len() > IMAGES_MAX {
        return Err(format!("{MANIFEST} names more than {IMAGES_MAX} images"));
    }
    let mut found = Vec::new();
    for line in &lines {
        let names = names(line)?;
        if let Some(wanted) = only {
            let is_meant = Reference::parse(wanted).is_ok_and(|wanted| names.contains(&wanted));
            if !is_meant {
                continue;
            }
        }
        let image = read(source, line);
        let mut image = image.map_err(|cause| match line.tags().first() {
            Some(name) => format!("image `{}`: {cause}", printable(name, 200)),
            None => cause,
        })?;
        image.names = names;
        found.push(image);
    }
    Ok(found)
}

fn names(line: &Line) -> Result<Vec<Reference>, String> {
    let parse = |tag: &String| Reference::parse(tag).map_err(|e| format!("{MANIFEST}: {e}"));
    line.tags().iter().map(parse).collect()
}

fn read(source: &Source, line: &Line) -> Result<Found, String> {
    let config_bytes = source.file_or_link(&line.config)?.document(&line.config)?;
    let digest = Digest::of(&config_bytes);
    if let Some(said) = said_digest(&line.config)
        && said != digest.hex()
    {
        return Err(format!(
            "wrong digest: the configuration `{}` has {digest}; the copy is damaged, make it again",
            printable(&line.config, 120)
        ));
    }
    let names = line.layers.as_deref().unwrap_or_default();
    if names.len() > LAYERS_MAX {
        return Err(format!(
            "the image has {} layers; overlayfs stacks at most {LAYERS_MAX}",
            names.len()
        ));
    }
    let (config, diff_ids) =
        manifest::parse_config(&config_bytes, names.len(), Host::here().architecture)?;
    let layers = names.iter().zip(diff_ids);
    let layers = layers.map(|(name, diff_id)| layer(source, name, diff_id));
    let layers: Vec<Layer> = layers.collect::<Result<_, _>>()?;
    let config_blob = Descriptor {
        media_type: OCI_CONFIG.to_owned(),
        digest,
        size: config_bytes.len() as u64,
    };
    let manifest_bytes = made::manifest(&config_blob, layers.iter().map(|layer| &layer.blob));
    let manifest_digest = Digest::of(&manifest_bytes);
    Ok(Found {
        names: Vec::new(),
        top: manifest_digest.clone(),
        index_bytes: None,
        manifest_digest,
        manifest_bytes,
        config_bytes,
        config,
        layers,
    })
}

/// `<64 digits>.json`, and `blobs/sha256/<64 digits>` since Docker 25.
fn said_digest(name: &str) -> Option<&str> {
    let last = name.rsplit('/').next()?;
    let stem = last.strip_suffix(".json").unwrap_or(last);
    Digest::parse(&format!("sha256:{stem}")).ok().map(|_| stem)
}

fn layer(source: &Source, name: &str, diff_id: Digest) -> Result<Layer, String> {
    let content = source.file_or_link(name)?;
    let read = |e: std::io::Error| format!("read `{}`: {e}", printable(name, 160));
    let (media_type, digest) = match content.format().map_err(read)? {
        // The bytes are the archive: that they have this digest is what the unpacker checks.
        Format::Plain => (OCI_LAYER, diff_id.clone()),
        Format::Gzip => (OCI_LAYER_GZIP, content.digest().map_err(read)?),
        Format::Zstd => (OCI_LAYER_ZSTD, content.digest().map_err(read)?),
    };
    Ok(Layer {
        blob: Descriptor {
            media_type: media_type.to_owned(),
            digest,
            size: content.size(),
        },
        diff_id,
        content,
    })
}
