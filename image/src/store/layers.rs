//! Layers on disk: made once per diff ID, visible only when whole and verified.

use rustix::fs::Mode;
use serde::{Deserialize, Serialize};

use super::blobs;
use super::layout::{Ingest, Layout};
use crate::digest::Digest;
use crate::error::ImageError;
use crate::manifest::Descriptor;
use crate::unpack::stream::Pieces;
use crate::unpack::{Bounds, Fail, Outline, Unpacked, digests, unpack};

/// The outline of a layer of the largest size we unpack, written as JSON, stays below this.
const RECORD_MAX: u64 = 160 * 1024 * 1024;
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Record {
    version: u32,
    /// Which boot of the host unpacked it: if it was another one and the layer was never synced, a power cut
    /// may have taken its bytes.
    boot: String,
    outline: Outline,
}

/// Why a layer did not come about.
#[derive(Debug)]
pub(crate) enum Missed {
    /// The download stopped; who downloads knows why.
    Aborted,
    /// The bytes are not those of the digest: somebody else may have the right ones.
    Damaged(ImageError),
    Failed(ImageError),
}

/// Path of a layer below the store.
pub(crate) fn path(diff_id: &Digest) -> String {
    format!("layers/sha256/{}", diff_id.hex())
}

/// The chain IDs of these layers, from the bottom up (OCI image spec, "Layer ChainID").
pub(crate) fn chain_ids(diff_ids: &[Digest]) -> Vec<Digest> {
    let mut chain: Vec<Digest> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        chain.push(match chain.last() {
            None => diff_id.clone(),
            Some(below) => Digest::of(format!("{below} {diff_id}").as_bytes()),
        });
    }
    chain
}

/// Where the seams of these layers lie, if they have any. The lowest layer has nothing to be sewn to.
pub(crate) fn chain_paths(diff_ids: &[Digest]) -> impl Iterator<Item = String> {
    let chain = chain_ids(diff_ids).into_iter().skip(1);
    chain.map(|id| format!("layers/chain/{}", id.hex()))
}

pub(crate) fn is_present(layout: &Layout, diff_id: &Digest) -> bool {
    is_whole(layout, &path(diff_id))
}

/// Whether a layer or seam is at `path`.
pub(crate) fn is_whole(layout: &Layout, path: &str) -> bool {
    layout.exists(&format!("{path}/layer.json"))
}

/// Gives a finished tree its record and its name.
pub(crate) fn publish(
    layout: &Layout,
    ingest: Ingest<'_>,
    path: &str,
    outline: Outline,
) -> Result<(), ImageError> {
    let record = Record {
        version: VERSION,
        boot: layout.boot.clone(),
        outline,
    };
    let bytes = serde_json::to_vec(&record).map_err(|e| layout.error("write", "layer.json", e))?;
    ingest.write(c"layer.json", &bytes)?;
    let _turn = layout
        .publishing
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    // One whose record was set aside stands in the way of its successor, and a root may stand on it.
    if !is_whole(layout, path) {
        layout.put_aside(path)?;
    }
    ingest.publish(path)
}

/// The outline of a layer that is present; a record that cannot be read makes the layer absent.
pub(crate) fn outline(layout: &Layout, diff_id: &Digest) -> Result<Outline, ImageError> {
    outline_at(layout, &path(diff_id))
}

/// [`outline`] of the layer or seam at `path`.
pub(crate) fn outline_at(layout: &Layout, path: &str) -> Result<Outline, ImageError> {
    let name = format!("{path}/layer.json");
    let bytes = layout.read(&name, RECORD_MAX)?;
    let record = bytes.and_then(|bytes| serde_json::from_slice::<Record>(&bytes).ok());
    match record.filter(|r| r.version == VERSION) {
        Some(record) => Ok(record.outline),
        None => {
            layout.quarantine(&name, "not a layer record");
            Err(layout.error(
                "read",
                &name,
                "the layer's record is bad; pull the image again",
            ))
        }
    }
}

/// Whether nothing of a layer is to be fetched: it is here, and so is its blob if blobs are kept.
pub(crate) fn is_complete(layout: &Layout, blob: &Descriptor, diff_id: &Digest) -> bool {
    is_present(layout, diff_id)
        && (!layout.keeps_blobs() || blobs::is_present(layout, &blob.digest))
}

/// Unpacks what comes and publishes it if both digests are as promised, with its blob where blobs are kept. Blocking.
pub(crate) fn install(
    layout: &Layout,
    mut pieces: Pieces,
    blob: &Descriptor,
    diff_id: &Digest,
    subject: &str,
) -> Result<(), Missed> {
    let kept = blobs::keep(layout, &mut pieces, Some(&blob.digest)).map_err(Missed::Failed)?;
    let keep = || match kept {
        Some(kept) => kept.publish(&blob.digest).map_err(Missed::Failed),
        None => Ok(()),
    };
    if layout.keeps_blobs() && is_present(layout, diff_id) {
        verified(digests(pieces, Bounds::LAYER), blob, diff_id, subject)?;
        return keep();
    }
    let ingest = layout.ingest().map_err(Missed::Failed)?;
    let root = ingest
        .mkdir(c"fs", Mode::from_bits_truncate(0o755))
        .map_err(Missed::Failed)?;
    let unpacked = unpack(pieces, root, Bounds::LAYER);
    let outline = verified(unpacked, blob, diff_id, subject)?;
    keep()?;
    publish(layout, ingest, &path(diff_id), outline).map_err(Missed::Failed)
}

/// A layer of which nobody said what it is before it came.
#[derive(Debug)]
pub(crate) struct Adopted {
    /// Of the bytes as they came.
    pub(crate) digest: Digest,
    pub(crate) diff_id: Digest,
}

/// Unpacks what comes and publishes it as what it is. Blocking.
pub(crate) fn adopt(layout: &Layout, mut pieces: Pieces, subject: &str) -> Result<Adopted, Missed> {
    let kept = blobs::keep(layout, &mut pieces, None).map_err(Missed::Failed)?;
    let ingest = layout.ingest().map_err(Missed::Failed)?;
    let root = ingest
        .mkdir(c"fs", Mode::from_bits_truncate(0o755))
        .map_err(Missed::Failed)?;
    let unpacked =
        unpack(pieces, root, Bounds::LAYER).map_err(|(fail, _)| missed(fail, subject))?;
    if unpacked.outline.entries == 0 {
        let cause = "the archive is empty; did the program that should have written it fail?";
        return Err(Missed::Failed(ImageError::new(
            "unpack layer",
            subject,
            cause,
        )));
    }
    if let Some(kept) = kept {
        kept.publish(&unpacked.digest).map_err(Missed::Failed)?;
    }
    publish(layout, ingest, &path(&unpacked.diff_id), unpacked.outline).map_err(Missed::Failed)?;
    Ok(Adopted {
        digest: unpacked.digest,
        diff_id: unpacked.diff_id,
    })
}

fn missed(fail: Fail, subject: &str) -> Missed {
    let failed = |cause: String| Missed::Failed(ImageError::new("unpack layer", subject, cause));
    match fail {
        Fail::Aborted => Missed::Aborted,
        Fail::Content(cause) => failed(format!("{cause}; the image must be built differently")),
        Fail::Host(cause) => failed(format!(
            "{cause}; check the store's disk space and file system, and the agent's privileges"
        )),
    }
}

fn verified(
    unpacked: Result<Unpacked, (Fail, Option<Digest>)>,
    blob: &Descriptor,
    diff_id: &Digest,
    subject: &str,
) -> Result<Outline, Missed> {
    let failed =
        |step: &'static str, cause: String| Missed::Failed(ImageError::new(step, subject, cause));
    let wrong_digest = |got: &Digest| {
        let cause = format!(
            "wrong digest: the bytes have {got}; this copy of the image is damaged, make it again"
        );
        Missed::Damaged(ImageError::new("fetch layer", subject, cause))
    };
    let unpacked = match unpacked {
        Ok(unpacked) => unpacked,
        Err((Fail::Content(_) | Fail::Host(_), Some(got))) if got != blob.digest => {
            return Err(wrong_digest(&got));
        }
        Err((fail, _)) => return Err(missed(fail, subject)),
    };
    if unpacked.digest != blob.digest {
        return Err(wrong_digest(&unpacked.digest));
    }
    if unpacked.diff_id != *diff_id {
        return Err(failed(
            "unpack layer",
            format!(
                "wrong diff ID: the image's configuration says {diff_id}, the layer has {}; push the image again",
                unpacked.diff_id
            ),
        ));
    }
    Ok(unpacked.outline)
}

/// Marks layers, seams and blobs as safe from a power cut. Call after the store's file system was synced. What is gone by now
/// needs no mark.
pub(crate) fn mark_synced(layout: &Layout, paths: &[String]) -> Result<(), ImageError> {
    for path in paths {
        let mark = format!("{path}/synced");
        if layout.exists(&mark) {
            continue;
        }
        let marked = layout
            .touch(&mark)
            .and_then(|()| layout.sync_directory(path));
        if marked.is_err() && layout.exists(path) {
            return marked;
        }
    }
    Ok(())
}

/// Layers and seams that an earlier boot made and never synced.
pub(crate) fn doubtful(layout: &Layout) -> Result<Vec<String>, ImageError> {
    let mut found = unsynced(layout)?;
    found.retain(|path| is_of_another_boot(layout, path));
    Ok(found)
}

/// Layers and seams that are not marked as safe from a power cut.
pub(crate) fn unsynced(layout: &Layout) -> Result<Vec<String>, ImageError> {
    let mut found = Vec::new();
    for directory in ["layers/sha256", "layers/chain"] {
        let names = layout.list(directory)?.into_iter();
        let paths = names.map(|name| format!("{directory}/{name}"));
        found.extend(paths.filter(|path| !layout.exists(&format!("{path}/synced"))));
    }
    Ok(found)
}

fn is_of_another_boot(layout: &Layout, path: &str) -> bool {
    let record = layout
        .read(&format!("{path}/layer.json"), RECORD_MAX)
        .ok()
        .flatten();
    let record = record.and_then(|bytes| serde_json::from_slice::<Record>(&bytes).ok());
    // A boot that is unknown is trusted with nothing that was not synced.
    record.is_none_or(|r| r.boot != layout.boot || layout.boot.is_empty())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;
    use std::sync::Barrier;

    use super::*;

    /// Two pulls of one image make the same seam at the same time: whoever comes second must leave alone what
    /// the first has published, for a snapshot may stand on it already.
    #[test]
    fn of_many_that_publish_one_name_the_first_wins_and_stays() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::open(dir.path()).unwrap();
        let at_once = 8;
        for round in 0..200 {
            let name = format!("layers/chain/{round}");
            let start = Barrier::new(at_once);
            let publish = || {
                let ingest = layout.ingest().unwrap();
                ingest.mkdir(c"fs", Mode::RWXU).unwrap();
                start.wait();
                super::publish(&layout, ingest, &name, Outline::default()).unwrap();
                std::fs::metadata(dir.path().join(&name).join("fs")).map(|m| m.ino())
            };
            let seen: Vec<u64> = std::thread::scope(|scope| {
                let all: Vec<_> = (0..at_once).map(|_| scope.spawn(publish)).collect();
                let seen = all.into_iter().map(|one| one.join().unwrap().unwrap());
                seen.collect()
            });
            assert!(
                seen.iter().all(|inode| *inode == seen[0]),
                "round {round}: {seen:?}"
            );
        }
    }
}
