//! Doors for fuzz targets alone: each takes what a registry or a user may send.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::OwnedFd;

use bytes::Bytes;

use crate::manifest;
use crate::reference::Reference;
use crate::save::tar::Writer;
use crate::source::Source;
use crate::unpack::archive::{Archive, Kind};
use crate::unpack::stream::{Piece, channel};
use crate::unpack::{self, Bounds};

/// A reference's canonical form, if it is one.
pub fn reference(text: &str) -> Option<String> {
    Reference::parse(text)
        .ok()
        .map(|reference| reference.to_string())
}

/// Whether it is an index or a manifest of an image; else why not.
pub fn document(bytes: &[u8], content_type: Option<&str>) -> Result<(), String> {
    manifest::parse(bytes, content_type).map(drop)
}

/// Unpacks a layer below `root`; else says why not.
pub fn layer(bytes: &[u8], root: OwnedFd) -> Result<(), String> {
    let bounds = Bounds {
        bytes: 1 << 20,
        entries: 1 << 10,
        directory_names: 1 << 16,
        ..Bounds::LAYER
    };
    let (sender, pieces) = channel();
    for piece in [Piece::Data(Bytes::copy_from_slice(bytes)), Piece::End] {
        sender.try_send(piece).map_err(|error| error.to_string())?;
    }
    let unpacked = unpack::unpack(pieces, root, bounds);
    unpacked.map(drop).map_err(|(fail, _)| fail.to_string())
}

/// Finds the images of an archive; else says why not.
pub fn archive(bytes: &[u8]) -> Result<(), String> {
    let flags = rustix::fs::MemfdFlags::CLOEXEC;
    let file = rustix::fs::memfd_create("archive", flags).map_err(|e| e.to_string())?;
    let mut file = File::from(file);
    file.write_all(bytes).map_err(|e| e.to_string())?;
    Source::archive(file)?.images(None).map(drop)
}

/// Writes each entry that an archive holds and reads it again: it must be the same.
pub fn rewritten(bytes: &[u8]) {
    let mut archive = Archive::new(bytes);
    while let Ok(Some(mut entry)) = archive.next() {
        if let Kind::Character { major, minor } | Kind::Block { major, minor } = entry.kind
            && (major > 0xfff || minor > 0xf_ffff)
        {
            // No kernel has such a device, and no tree.
            continue;
        }
        // The writer is given what lies in the file, not what a header claims.
        let data = match archive.data() {
            Ok(data) => data.to_vec(),
            Err(_) => return,
        };
        if let Kind::File { size } = &mut entry.kind {
            *size = data.len() as u64;
        }
        let mut writer = Writer::new(Vec::new());
        let written = writer.entry(&entry, data.as_slice());
        written.expect("memory takes any entry");
        let written = writer.finish().expect("memory takes an end");
        let mut again = Archive::new(written.as_slice());
        let read = again.next().expect("what we write is read");
        let read = read.expect("an entry is there");
        assert_eq!(format!("{read:?}"), format!("{entry:?}"));
        assert_eq!(again.data().expect("its bytes are there"), data);
    }
}
