//! Images that come from this host instead of a registry: an OCI image layout (a folder, or an archive of one), the
//! archive that `docker save` makes, and the archive of a root file system.
//!
//! A source is opened, then read as [`Found`] images: documents parsed and verified, every layer's bytes located.
//! Only then is anything unpacked, by who opened it. What is in a source is as foreign as what a registry sends, and is
//! held to the same rules: `manifest` judges documents, `unpack` layers, and both check digests.
//!
//! ```text
//!   folder ─────────────────────────▶ Folder ──┐
//!   file that can be read anywhere ──▶ Members ─┼─▶ oci (index.json) or docker (manifest.json) ─▶ Found
//!   pipe, compressed file ─▶ spool ──▶ Members ─┘
//! ```
//!
//! Absent on purpose: writing (see `save`), and a root file system's archive, which is no archive of images: it is
//! one layer, streamed into the store by who was told that it is one.

pub(crate) mod content;
mod docker;
mod folder;
pub(crate) mod members;
mod oci;
pub(crate) mod spool;

use std::fs::File;
use std::path::Path;

use crate::ImageConfiguration;
use crate::digest::Digest;
use crate::error::printable;
use crate::manifest::Descriptor;
use crate::reference::Reference;
use content::Content;
use folder::Folder;
use members::Members;

/// Most images of one archive.
const IMAGES_MAX: usize = 1000;

/// An image in a source: read and judged, not yet unpacked.
#[derive(Debug)]
pub(crate) struct Found {
    /// What the source calls it; may be empty.
    pub(crate) names: Vec<Reference>,
    /// Of the index that the source has, or of the manifest.
    pub(crate) top: Digest,
    /// Where `top` is an index.
    pub(crate) index_bytes: Option<Vec<u8>>,
    pub(crate) manifest_digest: Digest,
    pub(crate) manifest_bytes: Vec<u8>,
    pub(crate) config_bytes: Vec<u8>,
    pub(crate) config: ImageConfiguration,
    /// From the bottom up.
    pub(crate) layers: Vec<Layer>,
}

/// A layer in a source.
#[derive(Debug)]
pub(crate) struct Layer {
    pub(crate) blob: Descriptor,
    pub(crate) diff_id: Digest,
    pub(crate) content: Content,
}

/// A source that can be read at any place.
#[derive(Debug)]
pub(crate) enum Source {
    Folder(Folder),
    Archive(Members),
}

impl Source {
    pub(crate) fn folder(path: &Path) -> Result<Source, String> {
        Folder::open(path).map(Source::Folder)
    }

    /// An archive that is not compressed.
    pub(crate) fn archive(file: File) -> Result<Source, String> {
        Members::read(file).map(Source::Archive)
    }

    /// All images of the source that this host can run, at least one. `only`: the one that has this name.
    pub(crate) fn images(&self, only: Option<&str>) -> Result<Vec<Found>, String> {
        let has = |name: &str| self.file(name).map(|found| found.is_some());
        let images = match (
            has(oci::LAYOUT)? && has(oci::INDEX)?,
            has(docker::MANIFEST)?,
        ) {
            // Docker since version 25 saves both in one: the index has the digests of the registry.
            (true, _) => oci::images(self, only)?,
            (false, true) => docker::images(self, only)?,
            (false, false) => {
                return Err(
                    "it is neither an OCI image layout (oci-layout and index.json) nor what docker save makes \
                     (manifest.json); the archive of a root file system is loaded with --rootfs"
                        .into(),
                );
            }
        };
        match (images.is_empty(), only) {
            (false, _) => Ok(images),
            (true, None) => Err("there is no image in it".into()),
            (true, Some(name)) => Err(format!(
                "there is no image `{}` in it",
                printable(name, 200)
            )),
        }
    }

    fn file(&self, name: &str) -> Result<Option<Content>, String> {
        match self {
            Source::Folder(folder) => folder.file(name),
            Source::Archive(members) => members.file(name),
        }
    }

    fn needed(&self, name: &str) -> Result<Content, String> {
        self.file(name)?.ok_or_else(|| absent(name))
    }

    fn file_or_link(&self, name: &str) -> Result<Content, String> {
        let found = match self {
            Source::Folder(folder) => folder.file(name),
            Source::Archive(members) => members.file_or_link(name),
        };
        found?.ok_or_else(|| absent(name))
    }
}

fn absent(name: &str) -> String {
    format!(
        "`{}` is not in it; the copy is not whole, make it again",
        printable(name, 160)
    )
}

/// A name in an archive, which says more than a tag: None if it is only a tag.
fn whole_name(text: &str) -> Option<Result<Reference, String>> {
    let is_whole = text.contains(['/', ':']);
    is_whole.then(|| Reference::parse(text).map_err(|e| e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;

    fn images(bytes: &[u8]) -> Result<Vec<Found>, String> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        Source::archive(file)?.images(None)
    }

    const SEEDS: [&[u8]; 2] = [
        include_bytes!("../fuzz/seeds/archive/oci.tar"),
        include_bytes!("../fuzz/seeds/archive/docker.tar"),
    ];

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn the_seeds_are_archives_of_one_image() {
        for seed in SEEDS {
            assert_eq!(images(seed).unwrap().len(), 1);
        }
    }

    proptest! {
        /// Changed bytes are refused with a cause that steers no terminal, or change nothing that is read.
        #[test]
        fn no_changed_archive_panics(
            seed in 0..2usize, changes in proptest::collection::vec((any::<u16>(), any::<u8>()), 1..6)
        ) {
            let mut bytes = SEEDS[seed].to_vec();
            for (at, byte) in changes {
                let at = usize::from(at) % bytes.len();
                bytes[at] = byte;
            }
            if let Err(cause) = images(&bytes) {
                prop_assert!(!cause.is_empty() && !cause.contains('\u{1b}'), "{cause:?}");
            }
        }
    }
}
