//! The seam between the async download and the blocking unpacker: pieces over a bounded channel, hashed as
//! they are taken.

use std::fs::File;
use std::io::{self, BufRead, Read, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Buf, Bytes};
use tokio::sync::mpsc;

use crate::digest::{Digest, Hasher};

/// Pieces in flight. Each is at most as large as the HTTP client's read buffer (256 KiB): with that one, and the piece
/// that is being inflated, 2 MiB per layer.
const IN_FLIGHT: usize = 5;

/// What the downloader sends. A sender that is dropped without `End` has failed.
#[derive(Debug)]
pub(crate) enum Piece {
    Data(Bytes),
    End,
}

/// The unpacker's end of the channel, as a reader.
#[derive(Debug)]
pub(crate) struct Pieces {
    receiver: mpsc::Receiver<Piece>,
    current: Bytes,
    hasher: Hasher,
    ended: bool,
    taken: Taken,
    copy: Option<(File, Copying)>,
}

/// How many bytes came out of a channel, for who looks on from the other end of a decoder.
#[derive(Clone, Debug, Default)]
pub(crate) struct Taken(Arc<AtomicU64>);

impl Taken {
    pub(crate) fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How the copying of what is received goes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Copying(Arc<Mutex<Option<io::Error>>>);

impl Copying {
    /// Why not all that was received could be copied.
    pub(crate) fn finish(&self) -> io::Result<()> {
        let mut failed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        failed.take().map_or(Ok(()), Err)
    }
}

/// A channel for one layer.
pub(crate) fn channel() -> (mpsc::Sender<Piece>, Pieces) {
    let (sender, receiver) = mpsc::channel(IN_FLIGHT);
    let pieces = Pieces {
        receiver,
        current: Bytes::new(),
        hasher: Hasher::default(),
        ended: false,
        taken: Taken::default(),
        copy: None,
    };
    (sender, pieces)
}

impl Pieces {
    /// Reads all that is left.
    pub(crate) fn drain(&mut self) -> io::Result<()> {
        loop {
            let len = self.fill_buf()?.len();
            if len == 0 {
                return Ok(());
            }
            self.consume(len);
        }
    }

    /// Has what is received written to `file` as well, as it comes. A failure to write ends the copying alone.
    pub(crate) fn copy_to(&mut self, file: File) -> Copying {
        let copying = Copying::default();
        self.copy = Some((file, copying.clone()));
        copying
    }

    fn received(&mut self, bytes: Bytes) {
        self.hasher.update(&bytes);
        let len = bytes.len() as u64;
        self.taken.0.fetch_add(len, Ordering::Relaxed);
        let copied = match &mut self.copy {
            Some((file, copying)) => file.write_all(&bytes).map_err(|e| (e, copying.clone())),
            None => Ok(()),
        };
        if let Err((error, copying)) = copied {
            *copying.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            self.copy = None;
        }
        self.current = bytes;
    }

    /// The count of what is received, kept up to date.
    pub(crate) fn taken(&self) -> Taken {
        self.taken.clone()
    }

    /// The digest of all that was received.
    pub(crate) fn finish(self) -> Digest {
        self.hasher.finish()
    }
}

impl BufRead for Pieces {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.current.is_empty() && !self.ended {
            let piece = match self.receiver.try_recv() {
                Ok(piece) => Some(piece),
                Err(_) => super::crew::rest(|| self.receiver.blocking_recv()),
            };
            match piece {
                Some(Piece::Data(bytes)) => self.received(bytes),
                Some(Piece::End) => self.ended = true,
                None => return Err(io::ErrorKind::ConnectionAborted.into()),
            }
        }
        Ok(&self.current)
    }

    fn consume(&mut self, len: usize) {
        self.current.advance(len);
    }
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let len = available.len().min(buffer.len());
        buffer[..len].copy_from_slice(&available[..len]);
        self.consume(len);
        Ok(len)
    }
}
