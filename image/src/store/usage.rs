//! What the store takes of its disk.
//!
//! Counted by walking the trees, as du(1) does. A container may be writing below while this looks, so what it meets
//! and what it loses on its way is no error.

use std::collections::HashSet;
use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use serde::Serialize;

use super::catalogue::stands_on;
use super::{Store, blobs, records};
use crate::digest::Digest;
use crate::error::ImageError;
use crate::remove::names;
use crate::snapshot;

/// Deeper than any layer; a container can make deeper trees, of which the rest is not counted.
const DEPTH_MAX: usize = 300;
/// Files with several names that are told apart; further ones count each time.
const LINKED_MAX: usize = 1024 * 1024;
/// stat(2): st_blocks counts these.
const BLOCK: u64 = 512;

/// What the store takes of its disk, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Usage {
    /// Images that have a name, by their content.
    pub images: usize,
    /// Layers, and what lies between them where one does not describe all its directories.
    pub layers: usize,
    /// Of all layers.
    pub layers_size: u64,
    /// Layers that neither a named image nor a container stands on.
    pub unused_layers: usize,
    /// Of those.
    pub unused_size: u64,
    /// Original blobs, where they are kept.
    pub blobs: usize,
    /// Of those.
    pub blobs_size: u64,
    /// Blobs that neither a named image nor a container's image leads to.
    pub unused_blobs: usize,
    /// Of those.
    pub unused_blobs_size: u64,
    /// Writable layers of containers.
    pub roots: usize,
    /// Of those, and of the disks of tasks.
    pub roots_size: u64,
    /// What is just being pulled or loaded.
    pub half_done_size: u64,
    /// Free on the store's file system.
    pub free: u64,
    /// The store's file system.
    pub capacity: u64,
}

impl Store {
    /// What the store takes of its disk. Blocking; walks all trees.
    pub fn usage(&self) -> Result<Usage, ImageError> {
        let layout = &self.layout;
        let (free, capacity) = layout.room()?;
        let named: HashSet<String> = records::all(layout)?
            .into_iter()
            .map(|p| p.manifest)
            .collect();
        let rooted = snapshot::owners(layout)?
            .into_iter()
            .map(|(_, manifest)| manifest);
        let mut used: HashSet<String> = records::all(layout)?
            .iter()
            .filter_map(|pulled| Digest::parse(&pulled.top).ok())
            .map(|index| blobs::path(&index))
            .collect();
        for manifest in named.iter().cloned().chain(rooted) {
            if let Ok(digest) = Digest::parse(&manifest) {
                used.extend(stands_on(layout, &digest)?);
            }
        }
        let mut usage = Usage {
            images: named.len(),
            free,
            capacity,
            half_done_size: size(&layout.directory("ingest")?),
            ..Usage::default()
        };
        for directory in ["layers/sha256", "layers/chain"] {
            for name in layout.list(directory)? {
                let path = format!("{directory}/{name}");
                let Ok(tree) = layout.directory(&path) else {
                    continue;
                };
                let size = size(&tree);
                usage.layers += 1;
                usage.layers_size += size;
                if !used.contains(&path) {
                    usage.unused_layers += 1;
                    usage.unused_size += size;
                }
            }
        }
        for path in blobs::all(layout)? {
            let Ok(blob) = layout.directory(&path) else {
                continue;
            };
            let size = size(&blob);
            usage.blobs += 1;
            usage.blobs_size += size;
            if !used.contains(&path) {
                usage.unused_blobs += 1;
                usage.unused_blobs_size += size;
            }
        }
        for name in layout.list("roots")? {
            if let Ok(tree) = layout.directory(&format!("roots/{name}")) {
                usage.roots += 1;
                usage.roots_size += size(&tree);
            }
        }
        for name in layout.list("disks")? {
            if let Ok(disk) = layout.directory(&format!("disks/{name}")) {
                usage.roots_size += size(&disk);
            }
        }
        Ok(usage)
    }
}

/// What a tree takes of the disk.
fn size(tree: &OwnedFd) -> u64 {
    let mut count = Count {
        bytes: 0,
        linked: HashSet::new(),
    };
    count.directory(tree.as_fd(), c".", 0);
    count.bytes
}

struct Count {
    bytes: u64,
    /// Inodes of files with several names, which count once.
    linked: HashSet<u64>,
}

impl Count {
    fn directory(&mut self, parent: BorrowedFd<'_>, name: &CStr, depth: usize) {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let Ok(dir) = rustix::fs::openat(parent, name, flags, Mode::empty()) else {
            return;
        };
        if depth == DEPTH_MAX {
            return;
        }
        for name in names(dir.as_fd()).unwrap_or_default() {
            let Ok(stat) = rustix::fs::statat(&dir, &name, AtFlags::SYMLINK_NOFOLLOW) else {
                continue;
            };
            let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            let is_known = !is_dir
                && stat.st_nlink > 1
                && self.linked.len() < LINKED_MAX
                && !self.linked.insert(stat.st_ino);
            if !is_known {
                self.bytes += u64::try_from(stat.st_blocks).unwrap_or(0) * BLOCK;
            }
            if is_dir {
                self.directory(dir.as_fd(), &name, depth + 1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_with_two_names_counts_once() {
        let dir = tempfile::tempdir().unwrap();
        let open = || OwnedFd::from(std::fs::File::open(dir.path()).unwrap());
        let file = dir.path().join("below/file");
        std::fs::create_dir(dir.path().join("below")).unwrap();
        std::fs::write(&file, vec![1; 1024 * 1024]).unwrap();
        let once = size(&open());
        assert!(once >= 1024 * 1024, "{once}");
        std::fs::hard_link(&file, dir.path().join("again")).unwrap();
        assert!(size(&open()) < once + 64 * 1024);
        std::fs::copy(&file, dir.path().join("copy")).unwrap();
        assert!(size(&open()) >= once + 1024 * 1024);
    }
}
