//! A container's root filesystem: overlayfs over an image's layers, with an upper directory of its own.
//!
//! `roots/<id>/` holds what [`overlay`] wants (`l`, `upper`, `work`, `m`) and `image.json` (whose root this is). It
//! appears whole, by rename. It is also the proof that its layers are in use: nothing collects what a root stands
//! on. With a [disk](crate::disk), `upper` is only the pattern of the upper directory there, and `d` where it is mounted
//! for a moment. Absent on purpose: read-only roots (a mount attribute, the runtime's), and any record of who uses a root.

use std::os::fd::OwnedFd;

use rustix::fs::{Gid, Mode, Uid};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::Image;
use crate::digest::Digest;
use crate::disk;
use crate::error::{ImageError, printable};
use crate::overlay::{self, Access};
use crate::store::layout::Layout;
use crate::store::random_name;
use crate::store::stack::{self, Floor};

const RECORD_MAX: u64 = 64 * 1024;

#[derive(Serialize, Deserialize)]
struct Record {
    version: u32,
    manifest: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    disk: Option<OnDisk>,
}

#[derive(Serialize, Deserialize)]
struct OnDisk {
    name: String,
    /// Of this root there; never another's, also if the same id had a root before.
    directory: String,
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

/// Mounts it with its upper directory on `disk`, or beside it in the store.
pub(crate) fn mount(
    layout: &Layout,
    id: &str,
    image: &Image,
    disk: Option<&str>,
) -> Result<OwnedFd, ImageError> {
    check_id(id)?;
    let dir = format!("roots/{id}");
    let record = match record(layout, &dir)? {
        None => create(layout, id, &dir, image, disk)?,
        Some(known) => known,
    };
    let wrong = |what: &str, is: &str, wanted: &str| {
        let cause = format!("it is a root {what} {is}, not {wanted}; remove it first");
        Err(ImageError::new("mount root", id, cause))
    };
    if record.manifest != image.manifest_digest {
        return wrong("of image", &record.manifest, &image.manifest_digest);
    }
    let known = record.disk.as_ref().map(|disk| disk.name.as_str());
    if known != disk {
        return wrong("on disk", known.unwrap_or("-"), disk.unwrap_or("-"));
    }
    let root = layout.directory(&dir)?;
    let lower = layout.list(&format!("{dir}/l"))?.len();
    let access = match record.disk {
        None => Access::Writable,
        Some(on) => Access::OnDisk(disk::device(layout, &on.name)?, on.directory),
    };
    overlay::mount(root, lower, access).map_err(|cause| ImageError::new("mount root", id, cause))
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
pub(crate) fn check_id(id: &str) -> Result<(), ImageError> {
    let word = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    if (1..=200).contains(&id.len()) && id.bytes().all(word) && !id.starts_with('.') {
        return Ok(());
    }
    let cause = "not an id: 1 to 200 letters, digits and _ - . are, not beginning with a dot";
    Err(ImageError::new("mount root", printable(id, 200), cause))
}

/// Whose root an id's directory is.
fn owner(layout: &Layout, dir: &str) -> Result<Option<String>, ImageError> {
    Ok(record(layout, dir)?.map(|record| record.manifest))
}

fn record(layout: &Layout, dir: &str) -> Result<Option<Record>, ImageError> {
    let name = format!("{dir}/image.json");
    let Some(bytes) = layout.read(&name, RECORD_MAX)? else {
        return Ok(None);
    };
    let record: Record = serde_json::from_slice(&bytes)
        .map_err(|e| layout.error("read", &name, format!("bad record: {e}; remove this root")))?;
    Ok(Some(record))
}

fn create(
    layout: &Layout,
    id: &str,
    dir: &str,
    image: &Image,
    disk: Option<&str>,
) -> Result<Record, ImageError> {
    let error = |e: Errno| ImageError::new("make root", id, e);
    let stack = stack(layout, image)?;
    let ingest = layout.ingest()?;
    let upper = ingest.mkdir(c"upper", stack.mode)?;
    let (uid, gid) = (Uid::from_raw(stack.uid), Gid::from_raw(stack.gid));
    rustix::fs::fchown(&upper, Some(uid), Some(gid)).map_err(error)?;
    rustix::fs::fchmod(&upper, stack.mode).map_err(error)?;
    let other = if disk.is_some() { c"d" } else { c"work" };
    ingest.mkdir(other, Mode::RWXU)?;
    stack::link(&ingest, &stack.floors)?;
    let record = Record {
        version: 1,
        manifest: image.manifest_digest.clone(),
        disk: disk.map(|name| OnDisk {
            name: name.to_owned(),
            directory: random_name(),
        }),
    };
    let bytes = serde_json::to_vec(&record).map_err(|e| ImageError::new("make root", id, e))?;
    ingest.write(c"image.json", &bytes)?;
    // Left by a crash between two versions of us: no record, so nobody's root.
    layout.discard(dir)?;
    ingest.publish(dir)?;
    Ok(record)
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
