//! Manifests, indexes and configurations: parsed from verified bytes, and the choice of a platform.
//!
//! Pure. OCI and Docker schema 2 alike. Refused by name: schema 1, an index inside an index, documents that
//! are index and manifest at once (CVE-2021-41190), foreign and encrypted layers, what is no image. The
//! structs are our own and small, because documents of the field are looser than the specification's types.

pub(crate) mod made;
pub(crate) mod media;
pub(crate) mod platform;

use serde::Deserialize;

use crate::ImageConfiguration;
use crate::digest::Digest;
use crate::error::printable;
use media::{SCHEMA_1, check_claim, check_config_type, check_layer_type, essence};
use platform::Platform;

/// No manifest, index or configuration is read beyond this (the size that registries themselves enforce).
pub(crate) const DOCUMENT_MAX: u64 = 4 * 1024 * 1024;
/// overlayfs stacks at most 500 lower layers.
pub(crate) const LAYERS_MAX: usize = 500;

/// Content that a document points at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Descriptor {
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
}

/// An image of one platform.
#[derive(Clone, Debug)]
pub(crate) struct Manifest {
    pub(crate) config: Descriptor,
    /// From the bottom up.
    pub(crate) layers: Vec<Descriptor>,
}

/// Either of the two documents that a reference can name.
#[derive(Clone, Debug)]
pub(crate) enum Document {
    Index(Vec<Platform>),
    Manifest(Manifest),
}

#[derive(Deserialize)]
struct RawDescriptor {
    #[serde(rename = "mediaType", default)]
    media_type: String,
    digest: String,
    size: u64,
    platform: Option<RawPlatform>,
}

#[derive(Deserialize, Default)]
struct RawPlatform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    variant: Option<String>,
}

#[derive(Deserialize)]
struct RawDocument {
    #[serde(rename = "schemaVersion")]
    schema_version: u32,
    #[serde(rename = "mediaType")]
    media_type: Option<String>,
    manifests: Option<Vec<RawDescriptor>>,
    config: Option<RawDescriptor>,
    layers: Option<Vec<RawDescriptor>>,
}

/// Reads a document. `content_type` is what the registry said it is; it may be absent (a descriptor's media
/// type serves as well), but must not contradict the document.
pub(crate) fn parse(bytes: &[u8], content_type: Option<&str>) -> Result<Document, String> {
    let content_type = content_type.map(essence);
    if content_type.is_some_and(media::is_schema_1) {
        return Err(SCHEMA_1.into());
    }
    let raw: RawDocument =
        serde_json::from_slice(bytes).map_err(|e| not_json("a manifest or index", &e))?;
    match raw.schema_version {
        2 => {}
        1 => return Err(SCHEMA_1.into()),
        other => {
            return Err(format!(
                "schema version {other} is not supported; only 2 is"
            ));
        }
    }
    let is_index = raw.manifests.is_some();
    if is_index && (raw.config.is_some() || raw.layers.is_some()) {
        return Err(
            "the document is index and manifest at once and is refused as ambiguous".into(),
        );
    }
    for claimed in [content_type, raw.media_type.as_deref()]
        .into_iter()
        .flatten()
    {
        check_claim(claimed, is_index)?;
    }
    match (raw.manifests, raw.config, raw.layers) {
        (Some(manifests), _, _) => Ok(Document::Index(platforms(manifests)?)),
        (None, Some(config), Some(layers)) => Ok(Document::Manifest(manifest(config, layers)?)),
        _ => Err("the document has neither `manifests` nor `config` and `layers`".into()),
    }
}

/// What a document calls itself, if it does.
pub(crate) fn said_media_type(bytes: &[u8]) -> Option<String> {
    let raw: RawDocument = serde_json::from_slice(bytes).ok()?;
    if raw.media_type.is_none() && raw.manifests.is_some() {
        return Some(media::OCI_INDEX.to_owned());
    }
    raw.media_type
}

fn not_json(what: &str, e: &serde_json::Error) -> String {
    // serde_json quotes what it met: foreign text.
    format!("not {what}: {}", printable(&e.to_string(), 200))
}

fn descriptor(raw: RawDescriptor) -> Result<Descriptor, String> {
    Ok(Descriptor {
        media_type: raw.media_type,
        digest: Digest::parse(&raw.digest)?,
        size: raw.size,
    })
}

fn platforms(raw: Vec<RawDescriptor>) -> Result<Vec<Platform>, String> {
    raw.into_iter()
        .map(|mut line| {
            let platform = line.platform.take().unwrap_or_default();
            Ok(Platform {
                manifest: descriptor(line)?,
                os: platform.os,
                architecture: platform.architecture,
                variant: platform.variant.unwrap_or_default(),
            })
        })
        .collect()
}

fn manifest(config: RawDescriptor, layers: Vec<RawDescriptor>) -> Result<Manifest, String> {
    if layers.len() > LAYERS_MAX {
        return Err(format!(
            "the image has {} layers; overlayfs stacks at most {LAYERS_MAX}",
            layers.len()
        ));
    }
    check_config_type(&config.media_type)?;
    let layers = layers
        .into_iter()
        .map(|layer| {
            check_layer_type(&layer.media_type)?;
            descriptor(layer)
        })
        .collect::<Result<_, String>>()?;
    Ok(Manifest {
        config: descriptor(config)?,
        layers,
    })
}

/// Reads a configuration and the diff IDs of its layers; it must fit the manifest and this host.
pub(crate) fn parse_config(
    bytes: &[u8],
    layers: usize,
    architecture: &str,
) -> Result<(ImageConfiguration, Vec<Digest>), String> {
    let config = ImageConfiguration::from_reader(bytes).map_err(|e| {
        format!(
            "not an image configuration: {}",
            printable(&e.to_string(), 200)
        )
    })?;
    let (os, arch) = (config.os().to_string(), config.architecture().to_string());
    let fits = |said: &str, wanted: &str| said.is_empty() || said == wanted;
    if !fits(&os, "linux") || !fits(&arch, architecture) {
        return Err(format!(
            "the image is made for {}/{}, this host is linux/{architecture}",
            printable(&os, 20),
            printable(&arch, 20)
        ));
    }
    let diff_ids = diff_ids(&config, layers)?;
    Ok((config, diff_ids))
}

/// The diff IDs alone, also of another host's image.
pub(crate) fn parse_diff_ids(bytes: &[u8], layers: usize) -> Result<Vec<Digest>, String> {
    let config = ImageConfiguration::from_reader(bytes);
    diff_ids(&config.map_err(|e| e.to_string())?, layers)
}

fn diff_ids(config: &ImageConfiguration, layers: usize) -> Result<Vec<Digest>, String> {
    let diff_ids = config
        .rootfs()
        .diff_ids()
        .iter()
        .map(|id| Digest::parse(id))
        .collect::<Result<Vec<_>, _>>()?;
    if diff_ids.len() != layers {
        return Err(format!(
            "the configuration names {} diff IDs, the manifest {layers} layers",
            diff_ids.len()
        ));
    }
    Ok(diff_ids)
}

#[cfg(test)]
mod tests;
