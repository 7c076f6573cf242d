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

    /// In canonical form.
    pub(crate) fn reference(&self) -> &str {
        &self.reference
    }
}

/// All references' records, in no order. Bad ones are left out, and alone: who asks for one of them sets it aside.
pub(crate) fn all(layout: &Layout) -> Result<Vec<Pulled>, ImageError> {
    let mut found = Vec::new();
    for name in layout.list("refs")? {
        // One that is removed meanwhile is none.
        let Some(bytes) = layout.read(&format!("refs/{name}"), RECORD_MAX)? else {
            continue;
        };
        let record: Option<Pulled> = serde_json::from_slice(&bytes).ok();
        let is_own = |record: &Pulled| {
            let reference = Reference::parse(&record.reference);
            record.version == VERSION
                && Digest::parse(&record.manifest).is_ok()
                && reference.is_ok_and(|reference| file_name(&reference) == name)
        };
        found.extend(record.filter(is_own));
    }
    Ok(found)
}

/// When a reference was recorded last, as RFC 3339 has it.
pub(crate) fn recorded_at(layout: &Layout, pulled: &Pulled) -> Option<String> {
    let name = file_name(&Reference::parse(&pulled.reference).ok()?);
    let seconds = layout.modified(&format!("refs/{name}"))?;
    let time = jiff::Timestamp::from_second(seconds).ok()?;
    Some(time.to_string())
}

/// Removes a reference's record; fine if there is none.
pub(crate) fn forget(layout: &Layout, reference: &Reference) -> Result<(), ImageError> {
    layout.remove_file("refs", &file_name(reference))
}

/// A stored manifest and the bytes of its configuration; None unless both are there.
pub(crate) fn documents(
    layout: &Layout,
    digest: &Digest,
) -> Result<Option<(Manifest, Vec<u8>)>, ImageError> {
    let Some(manifest) = stored_manifest(layout, digest)? else {
        return Ok(None);
    };
    let config = content(layout, "configs", &manifest.config.digest)?;
    Ok(config.map(|config| (manifest, config)))
}

/// Diff IDs from the bottom up, as the configuration has them.
pub(crate) fn diff_ids(manifest: &Manifest, config: &[u8]) -> Result<Vec<Digest>, String> {
    let architecture = manifest::platform::Host::here().architecture;
    let parsed = manifest::parse_config(config, manifest.layers.len(), architecture);
    parsed.map(|(_, diff_ids)| diff_ids)
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
