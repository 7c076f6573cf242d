//! Bytes of a source that lie in a file of this host: a whole one, or a part of an archive.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use crate::digest::{Digest, Hasher};
use crate::error::printable;
use crate::manifest::{DOCUMENT_MAX, Descriptor};
use crate::unpack::decoder::Format;

/// A run of bytes in a file. Clones read independently.
#[derive(Clone, Debug)]
pub(crate) struct Content {
    file: Arc<File>,
    at: u64,
    size: u64,
}

impl Content {
    pub(crate) fn part(file: Arc<File>, at: u64, size: u64) -> Content {
        Content { file, at, size }
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Reads it from its beginning.
    pub(crate) fn reader(&self) -> impl Read + use<> {
        Reader {
            content: self.clone(),
        }
    }

    /// All of it, if it is small enough to be a document.
    pub(crate) fn document(&self, name: &str) -> Result<Vec<u8>, String> {
        let shown = printable(name, 160);
        if self.size > DOCUMENT_MAX {
            return Err(format!(
                "`{shown}` has {} bytes; at most {DOCUMENT_MAX} are read",
                self.size
            ));
        }
        let mut bytes = Vec::new();
        let read = self.reader().read_to_end(&mut bytes);
        read.map_err(|e| format!("read `{shown}`: {e}"))?;
        Ok(bytes)
    }

    /// All of a document that is named by its digest.
    pub(crate) fn verified(&self, blob: &Descriptor) -> Result<Vec<u8>, String> {
        self.check_size(blob)?;
        let bytes = self.document(blob.digest.as_str())?;
        match Digest::of(&bytes) {
            got if got == blob.digest => Ok(bytes),
            got => Err(format!(
                "wrong digest: the bytes of {} have {got}; the copy is damaged, make it again",
                blob.digest
            )),
        }
    }

    /// Whether it is as long as its descriptor says.
    pub(crate) fn check_size(&self, blob: &Descriptor) -> Result<(), String> {
        match self.size == blob.size {
            true => Ok(()),
            false => Err(format!(
                "wrong size: {} has {} bytes, its descriptor says {}; the copy is damaged, make it again",
                blob.digest, self.size, blob.size
            )),
        }
    }

    /// Its digest; reads all of it.
    pub(crate) fn digest(&self) -> io::Result<Digest> {
        let mut hasher = Hasher::default();
        let mut reader = self.reader();
        let mut buffer = vec![0; 256 * 1024];
        loop {
            match reader.read(&mut buffer)? {
                0 => return Ok(hasher.finish()),
                len => hasher.update(&buffer[..len]),
            }
        }
    }

    /// What it is compressed with.
    pub(crate) fn format(&self) -> io::Result<Format> {
        let mut start = Vec::new();
        self.reader().take(4).read_to_end(&mut start)?;
        Ok(Format::of(&start))
    }
}

struct Reader {
    /// What is left.
    content: Content,
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let content = &mut self.content;
        let most =
            usize::try_from(content.size).map_or(buffer.len(), |left| left.min(buffer.len()));
        if most == 0 {
            return Ok(0);
        }
        match content.file.read_at(&mut buffer[..most], content.at)? {
            0 => Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the file was cut short while it was read",
            )),
            len => {
                content.at += len as u64;
                content.size -= len as u64;
                Ok(len)
            }
        }
    }
}
