//! Images in an OCI image layout (OCI image specification, "Image Layout"): oci-layout, index.json, blobs by digest.
//!
//! Lines of index.json that have one name are one image for several platforms. A line may lead to an index of its own
//! (as an image for several platforms is copied from a registry), which may not lead to a third.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::content::Content;
use super::{Found, IMAGES_MAX, Layer, Source, whole_name};
use crate::digest::Digest;
use crate::error::printable;
use crate::manifest::platform::{self, Host, Platform};
use crate::manifest::{self, Descriptor, Document, Manifest};
use crate::reference::Reference;

pub(super) const LAYOUT: &str = "oci-layout";
pub(super) const INDEX: &str = "index.json";
/// The tag, or the whole name where podman and buildah wrote it (OCI image specification, "Annotations").
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The whole name, where containerd, Docker and buildkit wrote it.
const IMAGE_NAME: &str = "io.containerd.image.name";

#[derive(Deserialize)]
struct Version {
    #[serde(rename = "imageLayoutVersion")]
    version: String,
}

/// Of index.json only what the reader of registries' documents leaves out.
#[derive(Deserialize)]
struct Names {
    manifests: Vec<Annotated>,
}

#[derive(Deserialize)]
struct Annotated {
    annotations: Option<BTreeMap<String, String>>,
}

impl Annotated {
    fn get(&self, key: &str) -> Option<&str> {
        let value = self.annotations.as_ref()?.get(key)?;
        Some(value.as_str()).filter(|value| !value.is_empty())
    }

    /// What the line's image is called.
    fn name(&self) -> &str {
        self.get(IMAGE_NAME)
            .or(self.get(REF_NAME))
            .unwrap_or_default()
    }

    fn is_called(&self, wanted: &str) -> bool {
        [self.get(IMAGE_NAME), self.get(REF_NAME)].contains(&Some(wanted))
            || whole_name(self.name())
                .and_then(Result::ok)
                .is_some_and(|name| Reference::parse(wanted).is_ok_and(|wanted| wanted == name))
    }
}

pub(super) fn images(source: &Source, only: Option<&str>) -> Result<Vec<Found>, String> {
    check_version(source)?;
    let bytes = source.needed(INDEX)?.document(INDEX)?;
    let lines = match manifest::parse(&bytes, None).map_err(|e| format!("{INDEX}: {e}"))? {
        Document::Index(lines) => lines,
        Document::Manifest(_) => return Err(format!("{INDEX} is no index")),
    };
    let names: Names = serde_json::from_slice(&bytes)
        .map_err(|e| format!("{INDEX}: {}", printable(&e.to_string(), 200)))?;
    let mut groups: BTreeMap<&str, Vec<Platform>> = BTreeMap::new();
    for (line, annotated) in lines.into_iter().zip(&names.manifests) {
        if only.is_none_or(|wanted| annotated.is_called(wanted)) {
            groups.entry(annotated.name()).or_default().push(line);
        }
    }
    if groups.len() > IMAGES_MAX {
        return Err(format!("{INDEX} names more than {IMAGES_MAX} images"));
    }
    groups
        .into_iter()
        .map(|(name, lines)| image(source, name, &lines))
        .collect()
}

fn check_version(source: &Source) -> Result<(), String> {
    let bytes = source.needed(LAYOUT)?.document(LAYOUT)?;
    let version: Version = serde_json::from_slice(&bytes)
        .map_err(|e| format!("{LAYOUT}: {}", printable(&e.to_string(), 200)))?;
    match version.version.as_str() {
        "1.0.0" => Ok(()),
        other => Err(format!(
            "{LAYOUT}: version {} is not supported; only 1.0.0 is",
            printable(other, 40)
        )),
    }
}

fn image(source: &Source, name: &str, lines: &[Platform]) -> Result<Found, String> {
    let told = |cause: String| match name {
        "" => cause,
        name => format!("image `{}`: {cause}", printable(name, 200)),
    };
    if lines.len() > 1 && lines.iter().any(Platform::is_unsaid) {
        return Err(told(format!(
            "{INDEX} has {} lines of this name that say no platform, and any could be meant; load one of them by a \
             name of its own",
            lines.len()
        )));
    }
    let names = whole_name(name).transpose().map_err(told)?;
    let mut found = read(source, lines).map_err(told)?;
    found.names = names.into_iter().collect();
    Ok(found)
}

fn read(source: &Source, lines: &[Platform]) -> Result<Found, String> {
    let line = platform::choose(lines, Host::here())?;
    let top = line.digest.clone();
    let bytes = blob(source, line)?.verified(line)?;
    let (own, bytes, manifest, index_bytes) = match parse(&bytes, line)? {
        Document::Manifest(manifest) => (line.clone(), bytes, manifest, None),
        Document::Index(lines) => {
            let line = platform::choose(&lines, Host::here())?.clone();
            let own = blob(source, &line)?.verified(&line)?;
            match parse(&own, &line)? {
                Document::Manifest(manifest) => (line, own, manifest, Some(bytes)),
                Document::Index(_) => {
                    return Err(
                        "an index inside an index inside index.json is not supported".into(),
                    );
                }
            }
        }
    };
    let config_bytes = blob(source, &manifest.config)?.verified(&manifest.config)?;
    let host = Host::here();
    let (config, diff_ids) =
        manifest::parse_config(&config_bytes, manifest.layers.len(), host.architecture)?;
    Ok(Found {
        names: Vec::new(),
        top,
        index_bytes,
        manifest_digest: own.digest,
        manifest_bytes: bytes,
        config_bytes,
        config,
        layers: layers(source, manifest, diff_ids)?,
    })
}

fn parse(bytes: &[u8], line: &Descriptor) -> Result<Document, String> {
    manifest::parse(bytes, Some(&line.media_type))
}

fn layers(
    source: &Source,
    manifest: Manifest,
    diff_ids: Vec<Digest>,
) -> Result<Vec<Layer>, String> {
    let pairs = manifest.layers.into_iter().zip(diff_ids);
    pairs
        .map(|(descriptor, diff_id)| {
            let content = blob(source, &descriptor)?;
            content.check_size(&descriptor)?;
            Ok(Layer {
                blob: descriptor,
                diff_id,
                content,
            })
        })
        .collect()
}

fn blob(source: &Source, descriptor: &Descriptor) -> Result<Content, String> {
    source.needed(&format!("blobs/sha256/{}", descriptor.digest.hex()))
}
