//! Doors for fuzz targets alone: each takes what a registry or a user may send.

use std::os::fd::OwnedFd;

use bytes::Bytes;

use crate::manifest;
use crate::reference::Reference;
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
    };
    let (sender, pieces) = channel();
    for piece in [Piece::Data(Bytes::copy_from_slice(bytes)), Piece::End] {
        sender.try_send(piece).map_err(|error| error.to_string())?;
    }
    let unpacked = unpack::unpack(pieces, root, bounds);
    unpacked.map(drop).map_err(|(fail, _)| fail.to_string())
}
