//! How the layers of one image lie upon each other, and the seams between them.
//!
//! Layers are unpacked without a look at those below. An archive may use a directory without describing it
//! (`tmp/new` without `tmp`), which then has mode 0755 in the layer and would hide the mode, owner and attributes
//! that a layer below gave it: overlayfs takes those from the topmost. So such a layer gets a seam: a small
//! directory tree stacked right above it that holds just these directories, as the layers below have them. A
//! seam depends on all that is below and is named by the chain ID (OCI image spec, "Layer ChainID").
//!
//! Refused by name: an undescribed directory that is a symbolic link in a layer below. Whoever wrote the archive
//! meant the link's target, which an independent layer cannot reach.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::layers;
use super::layout::{Ingest, Layout};
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
    for (placed, diff_id) in place(layout, diff_ids)?.iter().zip(diff_ids) {
        paths.push(layers::path(diff_id));
        if let Some(seam) = &placed.seam {
            if !layers::is_whole(layout, seam) {
                make_seam(layout, &below, placed, seam)?;
            }
            paths.push(seam.clone());
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
            seam: (above_others && !outline.implied.is_empty())
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

fn make_seam(
    layout: &Layout,
    below: &[Floor],
    placed: &Placed,
    path: &str,
) -> Result<(), ImageError> {
    let ingest = layout.ingest()?;
    let fs = ingest.mkdir(c"fs", Mode::from_bits_truncate(0o755))?;
    let view = view(layout, below)?;
    let own = layout.directory(&placed.floor.path)?;
    let implied: Result<BTreeSet<Vec<u8>>, _> =
        placed.outline.implied.iter().map(hex::decode).collect();
    let implied = implied.map_err(|e| layout.error("read", &placed.floor.path, e))?;
    // In order of bytes a directory comes before what it holds.
    let all: BTreeSet<&[u8]> = implied.iter().flat_map(|name| prefixes(name)).collect();
    for name in &all {
        rustix::fs::mkdirat(&fs, *name, Mode::RWXU)
            .map_err(|e| seam_error(&placed.floor, name, e))?;
    }
    // The inner ones first, so that the times of the outer ones stay.
    for name in all.iter().rev() {
        let error = |e| seam_error(&placed.floor, name, e);
        let known = match implied.contains(*name) {
            true => known_below(view.as_fd(), name)
                .map_err(|cause| ImageError::new("stack layers", &placed.floor.path, cause))?,
            false => None,
        };
        let source = match known {
            Some(known) => known,
            None => open(own.as_fd(), name).map_err(error)?,
        };
        let target = open(fs.as_fd(), name).map_err(error)?;
        copy_metadata(source.as_fd(), target.as_fd()).map_err(error)?;
    }
    layers::publish(layout, ingest, path, Outline::default())
}

fn seam_error(floor: &Floor, name: &[u8], errno: Errno) -> ImageError {
    let cause = format!("directory `{}`: {errno}", printable_bytes(name));
    ImageError::new("stack layers", &floor.path, cause)
}

/// `a`, `a/b`, `a/b/c` of `a/b/c`.
fn prefixes(name: &[u8]) -> impl Iterator<Item = &[u8]> {
    let ends = name
        .iter()
        .enumerate()
        .filter(|(_, b)| **b == b'/')
        .map(|(at, _)| at);
    ends.chain([name.len()]).map(|end| &name[..end])
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

/// The directory of that name in the layers below; None if they have none.
fn known_below(view: BorrowedFd<'_>, name: &[u8]) -> Result<Option<OwnedFd>, String> {
    match open(view, name) {
        Ok(found) => Ok(Some(found)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(Errno::LOOP) => Err(format!(
            "the layer has entries below `{0}` without describing it, and a layer below has a symbolic link on \
             that path; this is not supported, build the image with `{0}` in the layer",
            printable_bytes(name)
        )),
        Err(e) => Err(format!("open `{}`: {e}", printable_bytes(name))),
    }
}

fn open(root: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<OwnedFd> {
    // Without O_NOFOLLOW, which would call a link at the end "not a directory" instead of a link.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    rustix::fs::openat2(root, name, flags, Mode::empty(), resolve)
}

fn copy_metadata(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> rustix::io::Result<()> {
    let stat = rustix::fs::fstat(from)?;
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    rustix::fs::fchown(to, Some(uid), Some(gid))?;
    rustix::fs::fchmod(to, Mode::from_bits_truncate(stat.st_mode & 0o7777))?;
    copy_user_attributes(from, to)?;
    rustix::fs::futimens(to, &times(&stat))
}

/// Only the image's own: the marks of overlayfs must not be repeated in a seam.
fn copy_user_attributes(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> rustix::io::Result<()> {
    let mut names = vec![0; 64 * 1024];
    let len = rustix::fs::flistxattr(from, &mut names)?;
    for name in names[..len]
        .split(|b| *b == 0)
        .filter(|n| n.starts_with(b"user."))
    {
        let mut value = vec![0; 64 * 1024];
        let len = rustix::fs::fgetxattr(from, name, &mut value)?;
        rustix::fs::fsetxattr(to, name, &value[..len], XattrFlags::empty())?;
    }
    Ok(())
}

fn times(stat: &Stat) -> Timestamps {
    Timestamps {
        last_access: Timespec {
            tv_sec: stat.st_atime,
            tv_nsec: stat.st_atime_nsec as _,
        },
        last_modification: Timespec {
            tv_sec: stat.st_mtime,
            tv_nsec: stat.st_mtime_nsec as _,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_come_from_the_top() {
        let all: Vec<&[u8]> = prefixes(b"a/bc/d").collect();
        assert_eq!(all, [&b"a"[..], b"a/bc", b"a/bc/d"]);
    }
}
