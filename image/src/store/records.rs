//! What the store remembers of images: references, manifests and configurations.
//!
//! A reference's record is written last, when all it leads to is on disk.

use serde::{Deserialize, Serialize};

use super::layout::Layout;
use super::stack;
use crate::Image;
use crate::digest::Digest;
use crate::error::ImageError;
use crate::manifest::{self, DOCUMENT_MAX, Document, Manifest};
use crate::reference::Reference;

const VERSION: u32 = 1;
const RECORD_MAX: u64 = 64 * 1024;

/// What a reference named when it was last pulled.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Pulled {
    version: u32,
    reference: String,
    /// What the registry has under the reference: an index or a manifest.
    pub(crate) top: String,
    /// This platform's manifest.
    pub(crate) manifest: String,
}

impl Pulled {
    pub(crate) fn new(reference: &Reference, top: &Digest, manifest: &Digest) -> Pulled {
        Pulled {
            version: VERSION,
            reference: reference.to_string(),
            top: top.to_string(),
            manifest: manifest.to_string(),
        }
    }
}

/// The record of a reference. A bad one is set aside and counts as none.
pub(crate) fn pulled(layout: &Layout, reference: &Reference) -> Result<Option<Pulled>, ImageError> {
    let name = format!("refs/{}", file_name(reference));
    let Some(bytes) = layout.read(&name, RECORD_MAX)? else {
        return Ok(None);
    };
    let record: Option<Pulled> = serde_json::from_slice(&bytes).ok();
    let record = record.filter(|r| r.version == VERSION && r.reference == reference.to_string());
    if record.is_none() {
        layout.quarantine(&name, "not a record of this reference");
    }
    Ok(record)
}

/// Records a reference. All it leads to must be on disk.
pub(crate) fn record(
    layout: &Layout,
    reference: &Reference,
    pulled: &Pulled,
) -> Result<(), ImageError> {
    let bytes = serde_json::to_vec(pulled).map_err(|e| layout.error("write", "refs", e))?;
    layout.write("refs", &file_name(reference), &bytes)
}

/// References hold slashes and may be longer than a file's name.
fn file_name(reference: &Reference) -> String {
    format!(
        "{}.json",
        Digest::of(reference.to_string().as_bytes()).hex()
    )
}

/// Bytes that are stored under their digest in `directory`. Damaged ones are set aside and count as none.
pub(crate) fn content(
    layout: &Layout,
    directory: &str,
    digest: &Digest,
) -> Result<Option<Vec<u8>>, ImageError> {
    let name = format!("{directory}/{}", digest.hex());
    let Some(bytes) = layout.read(&name, DOCUMENT_MAX)? else {
        return Ok(None);
    };
    if Digest::of(&bytes) != *digest {
        layout.quarantine(&name, "its bytes do not have its digest");
        return Ok(None);
    }
    Ok(Some(bytes))
}

/// The image of a manifest, if it is whole.
pub(crate) fn image(
    layout: &Layout,
    digest: &Digest,
    reference: &str,
) -> Result<Option<Image>, ImageError> {
    let Some(manifest) = stored_manifest(layout, digest)? else {
        return Ok(None);
    };
    let Some(config) = content(layout, "configs", &manifest.config.digest)? else {
        return Ok(None);
    };
    let parsed = manifest::parse_config(
        &config,
        manifest.layers.len(),
        manifest::platform::Host::here().architecture,
    );
    let (config, diff_ids) =
        parsed.map_err(|cause| ImageError::new("read stored image", digest, cause))?;
    if !stack::is_whole(layout, &diff_ids)? {
        return Ok(None);
    }
    Ok(Some(Image {
        reference: reference.to_owned(),
        manifest_digest: digest.to_string(),
        config,
        layers: diff_ids.iter().map(Digest::to_string).collect(),
    }))
}

fn stored_manifest(layout: &Layout, digest: &Digest) -> Result<Option<Manifest>, ImageError> {
    let Some(bytes) = content(layout, "manifests", digest)? else {
        return Ok(None);
    };
    match manifest::parse(&bytes, None) {
        Ok(Document::Manifest(manifest)) => Ok(Some(manifest)),
        Ok(Document::Index(_)) => Ok(None),
        Err(cause) => Err(ImageError::new("read stored image", digest, cause)),
    }
}
