//! Archives through the socket: a request's body as a blocking reader, an archive as an answer's body.

use std::convert::Infallible;
use std::io::{self, Read, Write};

use bytes::{Buf as _, Bytes};
use futures_util::stream;
use http::{HeaderValue, StatusCode};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use longshore_image::{Image, ImageError, Saving};
use tokio::sync::mpsc;

use super::super::{Answer, with_body};
use super::broken;

/// Pieces between the socket and whoever blocks.
const IN_FLIGHT: usize = 8;
const PIECE: usize = 128 * 1024;
/// What is still read of a body that was refused, so that its sender gets to the answer.
const REFUSED_MAX: u64 = 256 * 1024 * 1024;

/// What comes through the channel; None as an item is the end, a channel that closes before it a broken body.
struct Reader {
    receiver: mpsc::Receiver<Option<Bytes>>,
    current: Bytes,
    ended: bool,
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() && !self.ended {
            match self.receiver.blocking_recv() {
                Some(Some(piece)) => self.current = piece,
                Some(None) => self.ended = true,
                None => return Err(io::Error::other("the sender broke off")),
            }
        }
        let len = self.current.len().min(buffer.len());
        self.current.copy_to_slice(&mut buffer[..len]);
        Ok(len)
    }
}

/// Lets `work` read the body to its end, or for as long as it wants.
pub(super) async fn read(
    mut body: Incoming,
    work: impl FnOnce(Box<dyn Read + Send>) -> Result<Vec<Image>, ImageError> + Send + 'static,
) -> Result<Vec<Image>, ImageError> {
    let (sender, receiver) = mpsc::channel(IN_FLIGHT);
    let reader = Reader {
        receiver,
        current: Bytes::new(),
        ended: false,
    };
    let work = tokio::task::spawn_blocking(move || work(Box::new(reader)));
    let mut refused = 0;
    loop {
        let piece = match body.frame().await {
            Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
            // The reader finds the channel closed.
            Some(Err(_)) => break,
            None => {
                // Who has read enough has closed its end.
                sender.send(None).await.ok();
                break;
            }
        };
        let len = piece.len() as u64;
        if len > 0 && sender.send(Some(piece)).await.is_err() {
            refused += len;
            if refused > REFUSED_MAX {
                break;
            }
        }
    }
    drop(sender);
    work.await.unwrap_or_else(|e| Err(broken("load image", &e)))
}

/// An archive as it is written. A client that goes away ends the writing; an archive that cannot be written to its end
/// is cut short, which its length betrays.
pub(super) fn written(saving: Saving) -> Answer {
    let (sender, receiver) = mpsc::channel(IN_FLIGHT);
    let size = saving.size();
    tokio::task::spawn_blocking(move || {
        let out = io::BufWriter::with_capacity(PIECE, Pieces(sender));
        if let Err(error) = saving.write(out) {
            tracing::warn!(%error, "an archive was cut short");
        }
    });
    let pieces = stream::unfold(receiver, |mut receiver| async move {
        let piece = receiver.recv().await?;
        Some((Ok::<_, Infallible>(Frame::data(piece)), receiver))
    });
    let body = StreamBody::new(pieces).boxed_unsync();
    let mut answer = with_body(StatusCode::OK, "application/x-tar", body);
    let headers = answer.headers_mut();
    headers.insert(http::header::CONTENT_LENGTH, HeaderValue::from(size));
    answer
}

struct Pieces(mpsc::Sender<Bytes>);

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = Bytes::copy_from_slice(bytes);
        let sent = self.0.blocking_send(piece);
        sent.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
