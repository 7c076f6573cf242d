//! Doors for fuzz targets alone: each takes what a registry or a user may send.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::OwnedFd;

use bytes::Bytes;

use crate::manifest::platform::{self, Host};
use crate::manifest::{self, Document};
use crate::reference::Reference;
use crate::registry::doors;
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

/// Whether it is a manifest of an image, or an index of which every host may choose; else why not.
pub fn document(bytes: &[u8], content_type: Option<&str>) -> Result<(), String> {
    let Document::Index(lines) = manifest::parse(bytes, content_type)? else {
        return Ok(());
    };
    for (architecture, variant) in [("amd64", 1), ("amd64", 4), ("arm64", 8), ("arm", 7)] {
        let host = Host {
            architecture,
            variant,
        };
        let chosen = platform::choose(&lines, host)?;
        let mut same = lines.iter().filter(|line| line.manifest == *chosen);
        let is_right = same.any(|line| line.is_unsaid() || line.is_for(architecture));
        assert!(is_right, "{chosen:?} for {host:?}");
    }
    Ok(())
}

/// Whether it is the configuration of an image of this host with so many layers; else why not.
pub fn config(bytes: &[u8], layers: usize) -> Result<(), String> {
    let (_, diff_ids) = manifest::parse_config(bytes, layers, Host::here().architecture)?;
    assert_eq!(manifest::parse_diff_ids(bytes, layers), Ok(diff_ids));
    Ok(())
}

/// A WWW-Authenticate header: where it leads is no place that it must not.
pub fn challenge(text: &str) {
    doors::challenge(text);
}

/// Location, Retry-After and Content-Range: none leads where it must not.
pub fn headers(text: &str) {
    doors::headers(text);
}

/// Whether it is a login file; else why not.
pub fn credentials(bytes: &[u8]) -> Result<(), String> {
    doors::credentials(bytes)
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
        // No tree has such an entry: what is saved has its holes as zeroes.
        entry.sparse = None;
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
