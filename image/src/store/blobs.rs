//! The original blobs of layers, and indexes: kept beside the unpacked layers where the store is told to, for exact copies.
//!
//! ```text
//! blobs/sha256/<digest>/    blob (the bytes), blob.json (which boot wrote it), synced (it survives a power cut)
//! ```
//!
//! Manifests and configurations are not here: their bytes are always kept. A blob is written while its layer is unpacked,
//! from the same bytes, and has its name once both digests of the layer are proven: before the layer has its own. What holds for layers holds for
//! blobs: made in `ingest`, published by a rename, dropped by the next boot if they were never synced, collected with the
//! last image that leads to them. But no image needs them: without one it is whole, and only no exact copy of it can be made.

use std::fs::File;
use std::io::Write;

use serde::{Deserialize, Serialize};

use super::layout::{Ingest, Layout};
use crate::digest::{Digest, Hasher};
use crate::error::ImageError;
use crate::unpack::stream::{Copying, Pieces};

const DIRECTORY: &str = "blobs/sha256";
const RECORD_MAX: u64 = 64 * 1024;
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Record {
    version: u32,
    /// Which boot of the host wrote it, see `layers`.
    boot: String,
}

/// Path of a blob's directory below the store.
pub(crate) fn path(digest: &Digest) -> String {
    format!("{DIRECTORY}/{}", digest.hex())
}

/// Path of its bytes.
pub(crate) fn content(digest: &Digest) -> String {
    format!("{}/blob", path(digest))
}

pub(crate) fn is_present(layout: &Layout, digest: &Digest) -> bool {
    is_whole(layout, &path(digest))
}

pub(crate) fn is_whole(layout: &Layout, path: &str) -> bool {
    layout.exists(&format!("{path}/blob.json"))
}

/// Paths of all blobs, whole or not.
pub(crate) fn all(layout: &Layout) -> Result<Vec<String>, ImageError> {
    let names = layout.list(DIRECTORY)?.into_iter();
    Ok(names.map(|name| format!("{DIRECTORY}/{name}")).collect())
}

/// Bytes and inodes that it takes.
pub(crate) fn size(layout: &Layout, path: &str) -> (u64, u64) {
    let len = layout.len(&format!("{path}/blob"));
    len.map_or((0, 0), |len| (len, 3))
}

/// A blob in the making; gone when dropped.
#[derive(Debug)]
pub(crate) struct Keeping<'a> {
    layout: &'a Layout,
    ingest: Ingest<'a>,
    copying: Copying,
}

/// Has what comes through `pieces` written to the store as well. None if the store keeps no blobs, or has this one.
pub(crate) fn keep<'a>(
    layout: &'a Layout,
    pieces: &mut Pieces,
    digest: Option<&Digest>,
) -> Result<Option<Keeping<'a>>, ImageError> {
    let is_here = digest.is_some_and(|digest| is_present(layout, digest));
    if is_here || !layout.keeps_blobs() {
        return Ok(None);
    }
    let ingest = layout.ingest()?;
    let copying = pieces.copy_to(ingest.create(c"blob")?);
    Ok(Some(Keeping {
        layout,
        ingest,
        copying,
    }))
}

impl Keeping<'_> {
    /// Gives it its name; `digest` must be proven.
    ///
    /// # Errors
    /// Not all that came could be written.
    pub(crate) fn publish(self, digest: &Digest) -> Result<(), ImageError> {
        if let Err(cause) = self.copying.finish() {
            let cause = format!(
                "write: {cause}; blobs are kept on this host, check the store's disk space"
            );
            return Err(ImageError::new("keep blob", digest, cause));
        }
        publish(self.layout, self.ingest, digest)
    }
}

/// Keeps an index, if the store keeps blobs; its digest must be proven.
pub(crate) fn keep_bytes(layout: &Layout, digest: &Digest, bytes: &[u8]) -> Result<(), ImageError> {
    if !layout.keeps_blobs() || is_present(layout, digest) {
        return Ok(());
    }
    let ingest = layout.ingest()?;
    let written = ingest.create(c"blob")?.write_all(bytes);
    written.map_err(|e| ImageError::new("keep blob", digest, format!("write: {e}")))?;
    publish(layout, ingest, digest)
}

fn publish(layout: &Layout, ingest: Ingest<'_>, digest: &Digest) -> Result<(), ImageError> {
    let record = Record {
        version: VERSION,
        boot: layout.boot.clone(),
    };
    let path = path(digest);
    let bytes = serde_json::to_vec(&record).map_err(|e| layout.error("write", &path, e))?;
    ingest.write(c"blob.json", &bytes)?;
    let _turn = layout
        .publishing
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    // One that was set aside stands in the way of its successor. Nothing stands on it.
    if !is_whole(layout, &path) {
        layout.retire(&path)?;
    }
    ingest.publish(&path)
}

/// Opens a blob that is kept; None if it is not.
pub(crate) fn open(layout: &Layout, digest: &Digest) -> Result<Option<File>, ImageError> {
    match is_present(layout, digest) {
        true => layout.open_to_read(&content(digest)),
        false => Ok(None),
    }
}

/// All of one that is small; None if it is not kept or is not what it should be.
pub(crate) fn bytes(layout: &Layout, digest: &Digest, max: u64) -> Option<Vec<u8>> {
    if !is_present(layout, digest) {
        return None;
    }
    let bytes = layout.read(&content(digest), max).ok().flatten();
    bytes.filter(|bytes| Digest::of(bytes) == *digest)
}

/// What is wrong with a blob, from reading all of it; `read` is told how much came. None if nothing is.
pub(crate) fn wrong_with(layout: &Layout, path: &str, read: &mut dyn FnMut(u64)) -> Option<String> {
    let mut file = match layout.open_to_read(&format!("{path}/blob")) {
        Ok(Some(file)) => file,
        Ok(None) => return Some("its bytes are gone".to_owned()),
        Err(error) => return Some(error.cause),
    };
    let mut told = Told {
        hasher: Hasher::default(),
        read,
    };
    if let Err(e) = std::io::copy(&mut file, &mut told) {
        return Some(format!("read: {e}"));
    }
    let got = told.hasher.finish();
    let wanted = path.rsplit('/').next().unwrap_or_default();
    (got.hex() != wanted).then(|| format!("wrong digest: its bytes have {got}"))
}

struct Told<'a> {
    hasher: Hasher,
    read: &'a mut dyn FnMut(u64),
}

impl Write for Told<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.hasher.update(bytes);
        (self.read)(bytes.len() as u64);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Takes one out of use; it stays to be looked at.
pub(crate) fn set_aside(layout: &Layout, path: &str, why: &str) {
    if is_whole(layout, path) {
        layout.quarantine(&format!("{path}/blob.json"), why);
    }
}

/// Blobs that are not marked as safe from a power cut.
pub(crate) fn unsynced(layout: &Layout) -> Result<Vec<String>, ImageError> {
    let mut found = all(layout)?;
    found.retain(|path| !layout.exists(&format!("{path}/synced")));
    Ok(found)
}

/// Blobs that an earlier boot wrote and never synced.
pub(crate) fn doubtful(layout: &Layout) -> Result<Vec<String>, ImageError> {
    let mut found = unsynced(layout)?;
    found.retain(|path| {
        let record = layout.read(&format!("{path}/blob.json"), RECORD_MAX);
        let record = record.ok().flatten();
        let record = record.and_then(|bytes| serde_json::from_slice::<Record>(&bytes).ok());
        // A boot that is unknown is trusted with nothing that was not synced.
        record
            .is_none_or(|r| r.version != VERSION || r.boot != layout.boot || layout.boot.is_empty())
    });
    Ok(found)
}
