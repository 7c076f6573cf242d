//! One layer from bytes to a directory: compressed bytes come in pieces from the network, a tree of files and
//! two digests go out.
//!
//!   pieces ─▶ sha256 ─▶ gunzip or unzstd ─▶ sha256 (diff ID) ─▶ tar ─▶ files below one directory descriptor
//!
//! All of it runs inline on one blocking thread; where a core is idle, others write its small files (`writers`).
//! Nothing here decides whether the digests are the right ones,
//! nor makes the tree visible. Absent on purpose: any look at other layers: what a layer leaves to those below it
//! is told in [`Outline`].

pub(crate) mod archive;
pub(crate) mod at;
mod crew;
pub(crate) mod decoder;
pub(crate) mod entry;
mod file;
pub(crate) mod stream;
pub(crate) mod tree;
mod writers;

use std::fmt::{self, Display};
use std::io::{self, BufReader, Read};
use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize};

use crate::digest::{Digest, Hasher};
use crate::error::printable_bytes;
use archive::Archive;
use decoder::decoder;
use stream::{Pieces, Taken};
use tree::Tree;

/// Sizes beyond which a layer is refused.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Bytes after decompression.
    pub(crate) bytes: u64,
    /// Bytes after decompression for each byte before it, once there are more than `small`.
    pub(crate) ratio: u64,
    /// Bytes after decompression that a layer may have at whatever ratio.
    pub(crate) small: u64,
    /// Entries of the archive.
    pub(crate) entries: u64,
    /// Bytes of all directory names together, which are kept until the layer's end.
    pub(crate) directory_names: usize,
}

impl Bounds {
    pub(crate) const LAYER: Bounds = Bounds {
        bytes: 64 * 1024 * 1024 * 1024,
        // Text of logs reaches 30, a file of zeros 1000 with gzip.
        ratio: 200,
        small: 1024 * 1024 * 1024,
        entries: 4 * 1024 * 1024,
        directory_names: 64 * 1024 * 1024,
    };
}

/// Why a layer could not be unpacked.
#[derive(Debug)]
pub(crate) enum Fail {
    /// Its bytes are at fault.
    Content(String),
    /// This host is: a full disk, a missing privilege.
    Host(String),
    /// The bytes stopped coming; who sent them knows why.
    Aborted,
}

impl Fail {
    pub(crate) fn content(cause: impl Into<String>) -> Fail {
        Fail::Content(cause.into())
    }

    /// An entry that is refused, by its name.
    pub(crate) fn entry(path: &[u8], cause: impl Display) -> Fail {
        Fail::Content(format!(
            "entry `{}` is refused: {cause}",
            printable_bytes(path)
        ))
    }

    pub(crate) fn host(path: &[u8], call: &str, errno: rustix::io::Errno) -> Fail {
        Fail::Host(format!("{call} of `{}`: {errno}", printable_bytes(path)))
    }

    /// An error of the stream below the archive: the decoder's, or one of ours in an io::Error's coat.
    pub(crate) fn stream(error: io::Error) -> Fail {
        match error.kind() {
            io::ErrorKind::ConnectionAborted => Fail::Aborted,
            _ => Fail::Content(error.to_string()),
        }
    }
}

impl Display for Fail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fail::Content(cause) | Fail::Host(cause) => f.write_str(cause),
            Fail::Aborted => f.write_str("the download stopped"),
        }
    }
}

/// What became of a layer besides its files, for those who stack it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Outline {
    /// Entries in the archive.
    pub(crate) entries: u64,
    /// Bytes after decompression.
    pub(crate) bytes: u64,
    /// The root hides all that lies below this layer.
    pub(crate) opaque_root: bool,
    /// Whether the archive says what mode and owner the root has.
    pub(crate) has_root: bool,
    /// Directories that the archive uses without describing them: mode 0755, owner root, unless a layer below
    /// knows better. In hexadecimal, because names need not be UTF-8.
    pub(crate) implied: Vec<String>,
    /// Hard links to what is not in the archive: name and target, in hexadecimal. The layer itself has nothing there.
    #[serde(default)]
    pub(crate) links_below: Vec<(String, String)>,
}

/// A layer that is unpacked, but not yet believed.
#[derive(Debug)]
pub(crate) struct Unpacked {
    /// Of the bytes as they came.
    pub(crate) digest: Digest,
    /// Of the tar archive.
    pub(crate) diff_id: Digest,
    pub(crate) outline: Outline,
}

/// Unpacks what comes below `root`. Blocking, until the sender ends or drops its channel.
///
/// If the content is at fault, the rest is read all the same and the error holds the digest of all bytes: a
/// wrong digest is the better explanation.
pub(crate) fn unpack(
    pieces: Pieces,
    root: OwnedFd,
    bounds: Bounds,
) -> Result<Unpacked, (Fail, Option<Digest>)> {
    let mut source = pieces;
    let _at_work = crew::AtWork::begin();
    match unpack_from(&mut source, root, bounds) {
        Ok((diff_id, outline)) => Ok(Unpacked {
            digest: source.finish(),
            diff_id,
            outline,
        }),
        Err(Fail::Content(cause)) => match source.drain() {
            Ok(()) => Err((Fail::Content(cause), Some(source.finish()))),
            Err(_) => Err((Fail::Aborted, None)),
        },
        Err(other) => Err((other, None)),
    }
}

/// The digests of what comes, without a tree: of a layer that is here already. Otherwise as [`unpack`].
pub(crate) fn digests(pieces: Pieces, bounds: Bounds) -> Result<Unpacked, (Fail, Option<Digest>)> {
    let mut source = pieces;
    let _at_work = crew::AtWork::begin();
    let read = Raw::of(&mut source, bounds).and_then(|mut raw| {
        io::copy(&mut raw, &mut io::sink()).map_err(Fail::stream)?;
        Ok(raw.hasher.finish())
    });
    // The rest is read whatever happened: see `unpack`.
    match (read, source.drain()) {
        (Ok(diff_id), Ok(())) => Ok(Unpacked {
            digest: source.finish(),
            diff_id,
            outline: Outline::default(),
        }),
        (Err(Fail::Aborted), _) | (_, Err(_)) => Err((Fail::Aborted, None)),
        (Err(fail), Ok(())) => Err((fail, Some(source.finish()))),
    }
}

fn unpack_from(
    source: &mut Pieces,
    root: OwnedFd,
    bounds: Bounds,
) -> Result<(Digest, Outline), Fail> {
    let mut raw = Raw::of(source, bounds)?;
    // 512-byte headers read straight from the inflater are slow.
    let mut archive = Archive::new(BufReader::with_capacity(256 * 1024, &mut raw));
    let mut tree = Tree::new(root, &bounds)?;
    let mut entries = 0;
    while let Some(entry) = archive.next()? {
        entries += 1;
        if entries > bounds.entries {
            return Err(Fail::content(format!(
                "the layer has more than {} entries",
                bounds.entries
            )));
        }
        tree.add(entry, &mut archive)?;
    }
    archive.drain()?;
    let mut outline = tree.finish()?;
    outline.entries = entries;
    outline.bytes = raw.bytes;
    let diff_id = std::mem::take(&mut raw.hasher).finish();
    drop(raw);
    // Bytes behind the last gzip member or zstd frame would be outside the diff ID; the decoder refuses them, so this only
    // finds the end.
    source.drain().map_err(Fail::stream)?;
    Ok((diff_id, outline))
}

/// The archive's bytes: hashed, counted, bounded.
struct Raw<'a> {
    decoder: Box<dyn Read + 'a>,
    hasher: Hasher,
    bytes: u64,
    /// Bytes that went into the decoder.
    taken: Taken,
    bounds: Bounds,
}

impl<'a> Raw<'a> {
    fn of(source: &'a mut Pieces, bounds: Bounds) -> Result<Raw<'a>, Fail> {
        Ok(Raw {
            taken: source.taken(),
            decoder: decoder(source)?,
            hasher: Hasher::default(),
            bytes: 0,
            bounds,
        })
    }
}

impl Read for Raw<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.decoder.read(buffer)?;
        self.hasher.update(&buffer[..len]);
        self.bytes += len as u64;
        let Bounds {
            bytes,
            ratio,
            small,
            ..
        } = self.bounds;
        let cause = if self.bytes > bytes {
            format!("the layer has more than {bytes} bytes unpacked; refused")
        } else if self.bytes > small && self.bytes / ratio > self.taken.bytes() {
            format!("the layer becomes more than {ratio} times as large by unpacking; refused")
        } else {
            return Ok(len);
        };
        Err(io::Error::other(cause))
    }
}

#[cfg(test)]
mod tests;
