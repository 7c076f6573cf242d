//! A container's root filesystem: overlayfs over an image's layers, with an upper directory of its own.
//!
//! `roots/<id>/` holds what [`overlay`] wants (`l`, `upper`, `work`, `m`) and `image.json` (whose root this is). It
//! appears whole, by rename. It is also the proof that its layers are in use: nothing collects what a root stands
//! on. Absent on purpose: quotas, read-only roots (a mount attribute, the runtime's), and any record of who uses a root.

use std::os::fd::OwnedFd;

use rustix::fs::{Gid, Mode, Uid};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::Image;
use crate::digest::Digest;
use crate::error::{ImageError, printable};
use crate::overlay::{self, Access};
use crate::store::layout::Layout;
use crate::store::stack::{self, Floor};

const RECORD_MAX: u64 = 64 * 1024;

#[derive(Serialize, Deserialize)]
struct Record {
    version: u32,
    manifest: String,
}

/// What overlayfs is to stack.
struct Stack {
    /// The topmost first.
    floors: Vec<Floor>,
    /// Mode and owner of the root, which overlayfs takes from the upper directory.
    mode: Mode,
    uid: u32,
    gid: u32,
}

pub(crate) fn mount(layout: &Layout, id: &str, image: &Image) -> Result<OwnedFd, ImageError> {
    check_id(id)?;
    let dir = format!("roots/{id}");
    match owner(layout, &dir)? {
        None => create(layout, id, &dir, image)?,
        Some(manifest) if manifest == image.manifest_digest => {}
        Some(other) => {
            let cause = format!(
                "it is a root of image {other}, not of {}; remove it first",
                image.manifest_digest
            );
            return Err(ImageError::new("mount root", id, cause));
        }
    }
    let root = layout.directory(&dir)?;
    let lower = layout.list(&format!("{dir}/l"))?.len();
    overlay::mount(root, lower, Access::Writable)
        .map_err(|cause| ImageError::new("mount root", id, cause))
}

pub(crate) fn remove(layout: &Layout, id: &str) -> Result<(), ImageError> {
    check_id(id)?;
    layout.discard(&format!("roots/{id}"))
}

/// Every id that has a root, and the manifest that it is a root of. One that nobody can tell of is left out.
pub(crate) fn owners(layout: &Layout) -> Result<Vec<(String, String)>, ImageError> {
    let mut ids = layout.list("roots")?;
    ids.sort_unstable();
    let owner = |id: String| {
        let manifest = owner(layout, &format!("roots/{id}")).ok().flatten()?;
        Some((id, manifest))
    };
    Ok(ids.into_iter().filter_map(owner).collect())
}

/// What a root needs of the store.
#[derive(Debug, Default)]
pub(crate) struct StandsOn {
    /// Digest of its image's manifest; None if its record is damaged.
    pub(crate) manifest: Option<String>,
    /// Paths of layers and seams.
    pub(crate) layers: Vec<String>,
}

/// What the root `id` needs; nothing if it is gone.
pub(crate) fn stands_on(layout: &Layout, id: &str) -> Result<StandsOn, ImageError> {
    check_id(id)?;
    let dir = format!("roots/{id}");
    let mut found = StandsOn {
        manifest: owner(layout, &dir).ok().flatten(),
        layers: Vec::new(),
    };
    let links = format!("{dir}/l");
    let names = match layout.list(&links) {
        Err(_) if !layout.exists(&links) => return Ok(found),
        names => names?,
    };
    for name in names {
        let target = layout.link_target(&format!("{links}/{name}"))?;
        let layer = target
            .strip_prefix("../../../")
            .and_then(|t| t.strip_suffix("/fs"));
        found.layers.extend(layer.map(str::to_owned));
    }
    Ok(found)
}

/// An id is one path component and no option of ours.
fn check_id(id: &str) -> Result<(), ImageError> {
    let word = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    if (1..=200).contains(&id.len()) && id.bytes().all(word) && !id.starts_with('.') {
        return Ok(());
    }
    let cause = "not an id: 1 to 200 letters, digits and _ - . are, not beginning with a dot";
    Err(ImageError::new("mount root", printable(id, 200), cause))
}

/// Whose root an id's directory is.
fn owner(layout: &Layout, dir: &str) -> Result<Option<String>, ImageError> {
    let name = format!("{dir}/image.json");
    let Some(bytes) = layout.read(&name, RECORD_MAX)? else {
        return Ok(None);
    };
    let record: Record = serde_json::from_slice(&bytes)
        .map_err(|e| layout.error("read", &name, format!("bad record: {e}; remove this root")))?;
    Ok(Some(record.manifest))
}

fn create(layout: &Layout, id: &str, dir: &str, image: &Image) -> Result<(), ImageError> {
    let error = |e: Errno| ImageError::new("make root", id, e);
    let stack = stack(layout, image)?;
    let ingest = layout.ingest()?;
    let upper = ingest.mkdir(c"upper", stack.mode)?;
    let (uid, gid) = (Uid::from_raw(stack.uid), Gid::from_raw(stack.gid));
    rustix::fs::fchown(&upper, Some(uid), Some(gid)).map_err(error)?;
    rustix::fs::fchmod(&upper, stack.mode).map_err(error)?;
    ingest.mkdir(c"work", Mode::RWXU)?;
    stack::link(&ingest, &stack.floors)?;
    let record = Record {
        version: 1,
        manifest: image.manifest_digest.clone(),
    };
    let record = serde_json::to_vec(&record).map_err(|e| ImageError::new("make root", id, e))?;
    ingest.write(c"image.json", &record)?;
    // Left by a crash between two versions of us: no record, so nobody's root.
    layout.discard(dir)?;
    ingest.publish(dir)
}

/// The layers that count: of one that occurs twice the upper one (the lower adds nothing that it would not
/// hide, and overlayfs refuses a directory twice), and none below a layer that hides all.
fn stack(layout: &Layout, image: &Image) -> Result<Stack, ImageError> {
    let mut stack = Stack {
        floors: Vec::new(),
        mode: Mode::from_bits_truncate(0o755),
        uid: 0,
        gid: 0,
    };
    let diff_ids: Result<Vec<Digest>, String> =
        image.layers.iter().map(|id| Digest::parse(id)).collect();
    let diff_ids =
        diff_ids.map_err(|cause| ImageError::new("make root", &image.reference, cause))?;
    let mut root_known = false;
    for floor in stack::floors(layout, &diff_ids)?.into_iter().rev() {
        if stack.floors.contains(&floor) {
            continue;
        }
        if floor.has_root && !root_known {
            root_known = true;
            let stat = rustix::fs::fstat(layout.directory(&floor.path)?);
            let stat = stat.map_err(|e| layout.error("stat", &floor.path, e))?;
            stack.mode = Mode::from_bits_truncate(stat.st_mode & 0o7777);
            (stack.uid, stack.gid) = (stat.st_uid, stat.st_gid);
        }
        let hides_all = floor.opaque_root;
        stack.floors.push(floor);
        if hides_all {
            break;
        }
    }
    Ok(stack)
}

#[cfg(test)]
mod tests;
