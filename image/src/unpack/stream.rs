//! The seam between the async download and the blocking unpacker: pieces over a bounded channel, hashed as
//! they are taken.

use std::io::{self, BufRead, Read};

use bytes::{Buf, Bytes};
use tokio::sync::mpsc;

use crate::digest::{Digest, Hasher};

/// Pieces in flight: with hyper's read buffer (at most some 400 KiB) about 2 MiB per layer.
const IN_FLIGHT: usize = 6;

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
}

/// A channel for one layer.
pub(crate) fn channel() -> (mpsc::Sender<Piece>, Pieces) {
    let (sender, receiver) = mpsc::channel(IN_FLIGHT);
    let pieces = Pieces {
        receiver,
        current: Bytes::new(),
        hasher: Hasher::default(),
        ended: false,
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

    /// The digest of all that was received.
    pub(crate) fn finish(self) -> Digest {
        self.hasher.finish()
    }
}

impl BufRead for Pieces {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.current.is_empty() && !self.ended {
            match self.receiver.blocking_recv() {
                Some(Piece::Data(bytes)) => {
                    self.hasher.update(&bytes);
                    self.current = bytes;
                }
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
