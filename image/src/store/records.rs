//! What the store remembers of images: references, manifests and configurations.
//!
//! A reference's record is written last, when all it leads to is on disk. When an image was last used is the time
//! of its manifest's file: durable without a record of its own, and written at most once an hour.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::layout::Layout;
use super::lease::Lease;
use super::stack;
use crate::Image;
use crate::digest::Digest;
use crate::error::ImageError;
use crate::manifest::{self, DOCUMENT_MAX, Document, Manifest};
use crate::reference::Reference;

const VERSION: u32 = 1;
const RECORD_MAX: u64 = 64 * 1024;
/// How exact the time of the last use is.
const USE_STEP: Duration = Duration::from_secs(60 * 60);

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

    /// As it is stored.
    pub(crate) fn bytes(&self, layout: &Layout) -> Result<Vec<u8>, ImageError> {
        serde_json::to_vec(self).map_err(|e| layout.error("write", "refs", e))
    }

    /// The name of its file in `refs`.
    pub(crate) fn file(&self) -> String {
        file_name(&self.reference)
    }

    /// Where its manifest is, below the store.
    pub(crate) fn manifest_path(&self) -> String {
        let hex = self.manifest.rsplit(':').next().unwrap_or_default();
        format!("manifests/{}", hex.replace('/', "."))
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
            record.version == VERSION
                && Digest::parse(&record.manifest).is_ok()
                && Reference::parse(&record.reference).is_ok()
                && file_name(&record.reference) == name
        };
        found.extend(record.filter(is_own));
    }
    Ok(found)
}

/// When a reference was recorded last, as RFC 3339 has it.
pub(crate) fn recorded_at(layout: &Layout, pulled: &Pulled) -> Option<String> {
    let name = file_name(&pulled.reference);
    let seconds = layout.modified(&format!("refs/{name}"))?;
    let time = jiff::Timestamp::from_second(seconds).ok()?;
    Some(time.to_string())
}

/// Removes a reference's record; fine if there is none.
pub(crate) fn forget(layout: &Layout, reference: &Reference) -> Result<(), ImageError> {
    layout.remove_file("refs", &file_name(&reference.to_string()))
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
    let record = pulled_in(layout, &path(reference))?;
    Ok(record.filter(|r| r.reference == reference.to_string()))
}

/// The record in the file of that path. A bad one is set aside and counts as none.
pub(crate) fn pulled_in(layout: &Layout, name: &str) -> Result<Option<Pulled>, ImageError> {
    let Some(bytes) = layout.read(name, RECORD_MAX)? else {
        return Ok(None);
    };
    let record: Option<Pulled> = serde_json::from_slice(&bytes).ok();
    let of_its_name = |r: &Pulled| name == format!("refs/{}", file_name(&r.reference));
    let record = record.filter(|r| r.version == VERSION && of_its_name(r));
    if record.is_none() {
        layout.quarantine(name, "not a record of this reference");
    }
    Ok(record)
}

/// Where a reference's record is, below the store.
pub(crate) fn path(reference: &Reference) -> String {
    format!("refs/{}", file_name(&reference.to_string()))
}

/// Records a reference. All it leads to must be on disk.
pub(crate) fn record(
    layout: &Layout,
    reference: &Reference,
    pulled: &Pulled,
) -> Result<(), ImageError> {
    layout.write(
        "refs",
        &file_name(&reference.to_string()),
        &pulled.bytes(layout)?,
    )
}

/// References hold slashes and may be longer than a file's name.
fn file_name(reference: &str) -> String {
    format!("{}.json", Digest::of(reference.as_bytes()).hex())
}

/// When the image of a manifest was last used, to the hour.
pub(crate) fn last_used(layout: &Layout, manifest: &Digest) -> SystemTime {
    let changed = layout.changed(&format!("manifests/{}", manifest.hex()));
    changed.unwrap_or(SystemTime::UNIX_EPOCH)
}

/// Says that the image of a manifest is used now. What goes wrong only makes it look older than it is.
pub(crate) fn use_now(layout: &Layout, manifest: &Digest) {
    let known = last_used(layout, manifest);
    // An error is a time in the future: the clock was set back.
    let is_recent = known.elapsed().is_ok_and(|since| since < USE_STEP);
    if !is_recent && let Err(error) = layout.change_now(&format!("manifests/{}", manifest.hex())) {
        tracing::debug!(%error, "image store: the time of an image's use is not recorded");
    }
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

/// The image of a manifest, if it is whole; for who only looks at it.
pub(crate) fn image(
    layout: &Layout,
    digest: &Digest,
    reference: &str,
) -> Result<Option<Image>, ImageError> {
    image_if_whole(layout, None, digest, reference)
}

/// The image of a manifest, if it is whole. `lease` holds all of it afterwards.
pub(crate) fn held_image(
    layout: &Layout,
    lease: &Lease,
    digest: &Digest,
    reference: &str,
) -> Result<Option<Image>, ImageError> {
    image_if_whole(layout, Some(lease), digest, reference)
}

fn image_if_whole(
    layout: &Layout,
    lease: Option<&Lease>,
    digest: &Digest,
    reference: &str,
) -> Result<Option<Image>, ImageError> {
    let hold = |name: String| lease.map_or((), |lease| lease.hold([name]));
    hold(format!("manifests/{}", digest.hex()));
    let Some(manifest) = stored_manifest(layout, digest)? else {
        return Ok(None);
    };
    hold(format!("configs/{}", manifest.config.digest.hex()));
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
    if let Some(lease) = lease {
        lease.hold_layers(&diff_ids);
    }
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
