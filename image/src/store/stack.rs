//! How the layers of one image lie upon each other, and the seams between them.
//!
//! Layers are unpacked without a look at those below. An archive may use a directory without describing it
//! (`tmp/new` without `tmp`), which then has mode 0755 in the layer and would hide the mode, owner and attributes
//! that a layer below gave it: overlayfs takes those from the topmost. So such a layer gets a seam: a small
//! directory tree stacked right above it that holds just these directories, as the layers below have them, and
//! what else the layer needs of those (see `seam`).

use std::os::fd::OwnedFd;

use rustix::fs::Mode;
use rustix::io::Errno;

use super::layout::{Ingest, Layout};
use super::{layers, seam};
use crate::digest::Digest;
use crate::error::{ImageError, printable_bytes};
use crate::overlay::{self, Access};
use crate::unpack::Outline;

/// One directory that overlayfs stacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Floor {
    /// Below the store.
    pub(crate) path: String,
    /// Its root says what mode and owner the image's root has.
    pub(crate) has_root: bool,
    /// It hides all below.
    pub(crate) opaque_root: bool,
}

/// A layer in its place.
struct Placed {
    floor: Floor,
    outline: Outline,
    /// Path of its seam, if it needs one.
    seam: Option<String>,
}

/// What is stacked for these layers, from the bottom up.
pub(crate) fn floors(layout: &Layout, diff_ids: &[Digest]) -> Result<Vec<Floor>, ImageError> {
    let placed = place(layout, diff_ids)?;
    Ok(placed.iter().flat_map(floors_of).collect())
}

/// Whether all layers and seams are there.
pub(crate) fn is_whole(layout: &Layout, diff_ids: &[Digest]) -> Result<bool, ImageError> {
    if !diff_ids.iter().all(|id| layers::is_present(layout, id)) {
        return Ok(false);
    }
    // A layer whose record is bad was set aside just now, and is absent.
    let Ok(placed) = place(layout, diff_ids) else {
        return Ok(false);
    };
    Ok(placed
        .iter()
        .filter_map(|p| p.seam.as_ref())
        .all(|seam| layers::is_whole(layout, seam)))
}

/// Makes the seams that are missing; the layers must be there. Paths of all layers and seams. Blocking.
pub(crate) fn complete(layout: &Layout, diff_ids: &[Digest]) -> Result<Vec<String>, ImageError> {
    let mut below: Vec<Floor> = Vec::new();
    let mut paths = Vec::new();
    let mut copies_left = seam::COPIES_MAX;
    for (placed, diff_id) in place(layout, diff_ids)?.iter().zip(diff_ids) {
        paths.push(layers::path(diff_id));
        if let Some(path) = &placed.seam {
            if !layers::is_whole(layout, path) {
                let view = view(layout, &below)?;
                let (own, outline) = (&placed.floor, &placed.outline);
                seam::make(layout, own, outline, view, path, &mut copies_left)?;
            }
            paths.push(path.clone());
        } else if let Some((name, target)) = placed.outline.links_below.first() {
            return Err(link_to_nothing(&placed.floor, name, target));
        }
        for floor in floors_of(placed) {
            below.retain(|known| *known != floor);
            below.push(floor);
        }
    }
    Ok(paths)
}

/// Links the floors (the topmost first) where [`overlay`] expects them.
pub(crate) fn link(ingest: &Ingest<'_>, floors: &[Floor]) -> Result<(), ImageError> {
    let error = |e: Errno| ImageError::new("stack layers", "l", e);
    let links = ingest.mkdir(c"l", Mode::RWXU)?;
    ingest.mkdir(c"m", Mode::RWXU)?;
    for (at, floor) in floors.iter().enumerate() {
        let target = format!("../../../{}", floor.path);
        rustix::fs::symlinkat(target, &links, at.to_string()).map_err(error)?;
    }
    if floors.is_empty() {
        // overlayfs wants at least one directory below the upper one.
        ingest.mkdir(c"empty", Mode::RWXU)?;
        rustix::fs::symlinkat("../empty", &links, "0").map_err(error)?;
    }
    Ok(())
}

fn place(layout: &Layout, diff_ids: &[Digest]) -> Result<Vec<Placed>, ImageError> {
    let mut placed = Vec::new();
    for (diff_id, own) in diff_ids.iter().zip(layers::chain_ids(diff_ids)) {
        let outline = layers::outline(layout, diff_id)?;
        let above_others = !placed.is_empty() && !outline.opaque_root;
        placed.push(Placed {
            floor: Floor {
                path: format!("{}/fs", layers::path(diff_id)),
                has_root: outline.has_root,
                opaque_root: outline.opaque_root,
            },
            seam: (above_others && !(outline.implied.is_empty() && outline.links_below.is_empty()))
                .then(|| format!("layers/chain/{}", own.hex())),
            outline,
        });
    }
    Ok(placed)
}

fn floors_of(placed: &Placed) -> impl Iterator<Item = Floor> + use<> {
    let seam = placed.seam.as_ref().map(|path| Floor {
        path: format!("{path}/fs"),
        has_root: false,
        opaque_root: false,
    });
    [placed.floor.clone()].into_iter().chain(seam)
}

/// A hard link of a layer that has none below it.
fn link_to_nothing(floor: &Floor, name: &str, target: &str) -> ImageError {
    let shown = |hex: &str| printable_bytes(&hex::decode(hex).unwrap_or_default());
    let cause = format!(
        "`{}` is a hard link to `{}`, which is no file of this layer, and none is below it; push the image again",
        shown(name),
        shown(target)
    );
    ImageError::new("stack layers", &floor.path, cause)
}

/// The layers below as one tree, as the kernel sees them.
fn view(layout: &Layout, below: &[Floor]) -> Result<OwnedFd, ImageError> {
    let from_opaque = below
        .iter()
        .rposition(|floor| floor.opaque_root)
        .unwrap_or(0);
    let below = &below[from_opaque..];
    if let [only] = below {
        return layout.directory(&only.path);
    }
    let topmost_first: Vec<Floor> = below.iter().rev().cloned().collect();
    let ingest = layout.ingest()?;
    link(&ingest, &topmost_first)?;
    overlay::mount(ingest.open()?, topmost_first.len(), Access::ReadOnly)
        .map_err(|cause| ImageError::new("stack layers", &topmost_first[0].path, cause))
}
