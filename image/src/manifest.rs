//! Manifests, indexes and configurations: parsed from verified bytes, and the choice of a platform.
//!
//! Pure. OCI and Docker schema 2 alike. Refused by name: schema 1, an index inside an index, documents that
//! are index and manifest at once (CVE-2021-41190), foreign layers, zstd (not yet). The structs are our own
//! and small, because documents of the field are looser than the specification's types.

use serde::Deserialize;

use crate::ImageConfiguration;
use crate::digest::Digest;
use crate::error::printable;

/// No manifest, index or configuration is read beyond this (the size that registries themselves enforce).
pub(crate) const DOCUMENT_MAX: u64 = 4 * 1024 * 1024;
/// overlayfs stacks at most 500 lower layers.
pub(crate) const LAYERS_MAX: usize = 500;

const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// What we ask a registry for.
pub(crate) const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, \
     application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.docker.distribution.manifest.v2+json";

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

/// One line of an index.
#[derive(Clone, Debug)]
pub(crate) struct Platform {
    pub(crate) manifest: Descriptor,
    os: String,
    architecture: String,
    variant: String,
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
    if content_type
        .is_some_and(|t| t.starts_with("application/vnd.docker.distribution.manifest.v1"))
    {
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

const SCHEMA_1: &str = "the registry answered with a Docker schema 1 manifest, which is not supported; \
     push the image again with a current tool";

fn essence(content_type: &str) -> &str {
    content_type.split(';').next().unwrap_or_default().trim()
}

fn not_json(what: &str, e: &serde_json::Error) -> String {
    // serde_json quotes what it met: foreign text.
    format!("not {what}: {}", printable(&e.to_string(), 200))
}

fn check_claim(claimed: &str, is_index: bool) -> Result<(), String> {
    let fits = match claimed {
        OCI_INDEX | DOCKER_LIST => is_index,
        OCI_MANIFEST | DOCKER_MANIFEST => !is_index,
        // Registries behind plain file servers say these; the document's own fields decide then.
        "application/json" | "application/octet-stream" | "text/plain" | "" => true,
        other => {
            return Err(format!(
                "media type `{}` is not supported; an OCI or Docker schema 2 image is",
                printable(other, 100)
            ));
        }
    };
    if !fits {
        return Err(format!(
            "it is called `{claimed}`, but its fields say otherwise"
        ));
    }
    Ok(())
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

fn check_layer_type(media_type: &str) -> Result<(), String> {
    let (base, compression) = match media_type.split_once('+') {
        Some((base, compression)) => (base, compression),
        None => match media_type.strip_suffix(".gzip") {
            Some(base) => (base, "gzip"),
            None => (media_type, ""),
        },
    };
    let known_base = matches!(
        base,
        "application/vnd.oci.image.layer.v1.tar" | "application/vnd.docker.image.rootfs.diff.tar"
    );
    if base.contains("nondistributable") || base.contains(".foreign.") {
        return Err(format!(
            "the layer is of type `{}`: foreign layers are not supported; push the image with its base layers",
            printable(media_type, 100)
        ));
    }
    if known_base && compression == "zstd" {
        return Err("zstd layers are not supported yet; push the image with gzip layers".into());
    }
    if !known_base || !matches!(compression, "" | "gzip") {
        return Err(format!(
            "layer type `{}` is not supported; gzip and plain tar are",
            printable(media_type, 100)
        ));
    }
    Ok(())
}

/// This host's architecture in the words of the image specification (GOARCH).
pub(crate) fn host_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        "loongarch64" => "loong64",
        other => other,
    }
}

/// The manifest for Linux on `architecture`. Among variants the baseline is preferred (none, arm64's `v8`,
/// amd64's `v1`), then the first listed.
pub(crate) fn choose<'a>(
    index: &'a [Platform],
    architecture: &str,
) -> Result<&'a Descriptor, String> {
    let fitting = || {
        index
            .iter()
            .filter(|p| p.os == "linux" && p.architecture == architecture)
    };
    let baseline = fitting().find(|p| matches!(p.variant.as_str(), "" | "v1" | "v8"));
    match baseline.or_else(|| fitting().next()) {
        Some(platform) => Ok(&platform.manifest),
        None => Err(format!(
            "the image is not made for linux/{architecture}; it offers: {}",
            offered(index)
        )),
    }
}

fn offered(index: &[Platform]) -> String {
    let mut names: Vec<String> = index
        .iter()
        .map(|p| {
            format!(
                "{}/{}",
                printable(&p.os, 20),
                printable(&p.architecture, 20)
            )
        })
        .filter(|name| name != "unknown/unknown")
        .take(16)
        .collect();
    names.dedup();
    match names.is_empty() {
        true => "nothing".into(),
        false => names.join(", "),
    }
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
    Ok((config, diff_ids))
}

#[cfg(test)]
mod tests;
