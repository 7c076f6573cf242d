//! Exact copies: an image as the registry has it, from the blobs that were kept.

use std::io::{self, Read, Write};

use super::{Blobs, Hashed, Saved, Wanted};
use crate::digest::{Digest, Hasher};
use crate::error::ImageError;
use crate::manifest::media::OCI_MANIFEST;
use crate::manifest::{DOCUMENT_MAX, Descriptor, said_media_type};
use crate::store::layout::Layout;
use crate::store::{blobs, records};

/// What an image was made of, all of it here.
#[derive(Debug)]
pub(crate) struct Original {
    /// Where the image came from an index: its bytes.
    index: Option<Vec<u8>>,
    manifest: Vec<u8>,
    config: Descriptor,
    layers: Vec<Descriptor>,
}

impl Original {
    /// Of the image of a manifest that `top` led to. None if a blob is not kept, or has not the size that the manifest says. An
    /// index that is not kept is left out: the manifest stands for itself.
    pub(crate) fn of(
        layout: &Layout,
        manifest: &Digest,
        top: &Digest,
    ) -> Result<Option<Original>, ImageError> {
        let Some((parsed, _)) = records::documents(layout, manifest)? else {
            return Ok(None);
        };
        let Some(bytes) = records::content(layout, "manifests", manifest)? else {
            return Ok(None);
        };
        let is_kept = |blob: &Descriptor| {
            blobs::is_present(layout, &blob.digest)
                && layout.len(&blobs::content(&blob.digest)) == Some(blob.size)
        };
        if !parsed.layers.iter().all(is_kept) {
            return Ok(None);
        }
        let index = (top != manifest).then(|| blobs::bytes(layout, top, DOCUMENT_MAX));
        Ok(Some(Original {
            index: index.flatten(),
            manifest: bytes,
            config: parsed.config,
            layers: parsed.layers,
        }))
    }
}

impl Blobs {
    pub(super) fn add_original(&mut self, image: &Wanted, original: &Original) -> Saved {
        let mut document = |bytes: &[u8]| {
            let said = said_media_type(bytes);
            self.document(said.as_deref().unwrap_or(OCI_MANIFEST), bytes.to_vec())
        };
        let manifest = document(&original.manifest);
        let top = match &original.index {
            Some(index) => document(index),
            None => manifest.clone(),
        };
        self.document(&original.config.media_type, image.config_bytes.clone());
        for blob in &original.layers {
            self.kept.insert(blob.digest.clone(), blob.size);
        }
        Saved {
            name: image.name.clone(),
            top,
            manifest,
            config: original.config.clone(),
            layers: original.layers.clone(),
        }
    }
}

/// Writes a blob that is kept; an error if it is not what it was.
pub(super) fn write_blob(
    layout: &Layout,
    digest: &Digest,
    size: u64,
    out: impl Write,
) -> Result<(), String> {
    let file = blobs::open(layout, digest).map_err(|e| e.to_string())?;
    let file = file.ok_or("the blob was removed while it was saved; pull the image again")?;
    let mut hashed = Hashed {
        out,
        hasher: Hasher::default(),
        bytes: 0,
    };
    // No more than the archive has room for.
    io::copy(&mut file.take(size), &mut hashed).map_err(|e| e.to_string())?;
    match hashed.bytes == size && hashed.hasher.finish() == *digest {
        true => Ok(()),
        false => Err(
            "the blob is not what it was; longshore image fsck --repair removes it, and the next pull fetches it again"
                .to_owned(),
        ),
    }
}
