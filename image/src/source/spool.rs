//! An archive that cannot be read at any place (a pipe, a compressed file) becomes one that can: a file without a name
//! in the store's file system, gone with its last descriptor.
//!
//! An image's documents may come last in its archive, so nothing of it can be judged before its end. The file is
//! bounded twice: by a size, and by what it must leave free on the disk, which belongs to the tasks of this host.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};

use crate::store::layout::Layout;
use crate::unpack::decoder::decoder;

/// Where an archive that is spooled has its end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    /// Bytes, once decompressed.
    pub(crate) bytes: u64,
    /// What it leaves free on the store's disk, in bytes...
    pub(crate) free: u64,
    /// ...and of a disk so small that this is more, how many of its thousand parts.
    pub(crate) free_per_mille: u64,
}

impl Room {
    pub(crate) const ARCHIVE: Room = Room {
        bytes: 256 * 1024 * 1024 * 1024,
        free: 1024 * 1024 * 1024,
        free_per_mille: 50,
    };
}

/// How often the disk's room is looked at.
const LOOK_EVERY: u64 = 64 * 1024 * 1024;

/// Writes all that `source` has to a file without a name, decompressed. Blocking.
pub(crate) fn spool(layout: &Layout, source: impl Read, room: Room) -> Result<File, String> {
    let mut file = layout.nameless().map_err(|e| e.to_string())?;
    let source = BufReader::with_capacity(256 * 1024, source);
    let decoded = decoder(source).map_err(|e| e.to_string())?;
    let mut decoded = BufReader::with_capacity(256 * 1024, decoded);
    let (mut bytes, mut next_look) = (0, 0);
    loop {
        if bytes >= next_look {
            leave_free(layout, room)?;
            next_look = bytes + LOOK_EVERY;
        }
        let piece = decoded.fill_buf().map_err(|e| format!("read: {e}"))?;
        if piece.is_empty() {
            return Ok(file);
        }
        let len = piece.len();
        bytes += len as u64;
        if bytes > room.bytes {
            return Err(format!("it has more than {} bytes; refused", room.bytes));
        }
        let written = file.write_all(piece);
        written.map_err(|e| format!("write to the image store: {e}"))?;
        decoded.consume(len);
    }
}

fn leave_free(layout: &Layout, room: Room) -> Result<(), String> {
    let (free, all) = layout.room().map_err(|e| e.to_string())?;
    let least = room.free.min(all / 1000 * room.free_per_mille);
    match free >= least {
        true => Ok(()),
        false => Err(format!(
            "the image store's disk has {free} bytes left and an archive must leave {least} of them free; remove \
             images (longshore image rm), or load from a file that is not compressed, which needs no copy"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::repeat;

    fn spooled(source: impl Read, room: Room) -> Result<u64, String> {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::open(dir.path()).unwrap();
        let spooled = spool(&layout, source, room);
        let left = std::fs::read_dir(dir.path().join("ingest"))
            .unwrap()
            .count();
        assert_eq!(left, 0, "it has no name");
        spooled.map(|file| file.metadata().unwrap().len())
    }

    const SMALL: Room = Room {
        bytes: 1 << 20,
        free: 0,
        free_per_mille: 1000,
    };

    #[test]
    fn what_never_ends_is_refused_compressed_or_not() {
        assert_eq!(spooled(repeat(1).take(1 << 20), SMALL), Ok(1 << 20));
        let error = spooled(repeat(1), SMALL).unwrap_err();
        assert!(error.contains("more than 1048576 bytes"), "{error}");
        let bomb = zstd::encode_all(repeat(0).take(100 << 20), 1).unwrap();
        assert!(bomb.len() < 1 << 20);
        let error = spooled(bomb.as_slice(), SMALL).unwrap_err();
        assert!(error.contains("more than 1048576 bytes"), "{error}");
    }

    #[test]
    fn a_disk_that_is_nearly_full_takes_no_copy() {
        let full = Room {
            free: u64::MAX,
            free_per_mille: 1001,
            ..SMALL
        };
        let error = spooled(&b"x"[..], full).unwrap_err();
        assert!(error.contains("must leave"), "{error}");
        // A large disk that is used to more than its share has room for a small archive all the same.
        let large = Room { free: 1, ..full };
        assert_eq!(spooled(&b"x"[..], large), Ok(1));
    }
}
