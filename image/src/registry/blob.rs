//! A blob on its way, piece by piece.

use std::fmt;

use bytes::{Buf, Bytes};
use http::header::{self, HeaderMap};
use http::{Method, StatusCode};
use hyper::body::Incoming;
use tokio::time::Instant;

use super::Client;
use super::endpoint::Rotation;
use super::fault::Fault;
use super::transport::Ask;
use crate::digest::Digest;
use crate::error::ImageError;
use crate::manifest::Descriptor;
use crate::reference::Reference;

/// How often one blob may be taken up again after its connection broke.
const RESUMES_MAX: u32 = 5;

/// A blob on its way; a broken connection is taken up where it broke, and if that fails where the next registry has
/// the same bytes.
pub(crate) struct Blob<'a> {
    client: &'a Client,
    step: &'static str,
    rotation: Rotation<'a>,
    subject: String,
    digest: Digest,
    deadline: Instant,
    size: u64,
    at: u64,
    body: Option<Incoming>,
    /// Bytes still to come that we have already.
    overlap: u64,
    resumes: u32,
    /// Whether what has come so far is from more than one registry.
    is_mixed: bool,
}

impl<'a> Blob<'a> {
    pub(crate) fn new(
        client: &'a Client,
        step: &'static str,
        reference: &Reference,
        blob: &Descriptor,
        rotation: Rotation<'a>,
    ) -> Blob<'a> {
        Blob {
            client,
            step,
            rotation,
            subject: format!("{} of {reference}", blob.digest),
            digest: blob.digest.clone(),
            deadline: client.transport.deadline(),
            size: blob.size,
            at: 0,
            body: None,
            overlap: 0,
            resumes: 0,
            is_mixed: false,
        }
    }
}

impl Blob<'_> {
    /// The next piece; None once all bytes of the descriptor's size have come.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Fault> {
        loop {
            if self.body.is_none() {
                match self.open().await {
                    Ok(body) => self.body = Some(body),
                    Err(fault) => {
                        self.pass_over(fault)?;
                        continue;
                    }
                }
            }
            let Some(body) = self.body.as_mut() else {
                continue;
            };
            let broke = match self.client.transport.frame(body, self.deadline).await {
                Ok(Some(piece)) => match self.take(piece)? {
                    piece if piece.is_empty() => continue,
                    piece => return Ok(Some(piece)),
                },
                Ok(None) if self.at == self.size => return Ok(None),
                Ok(None) => format!("truncated: {} of {} bytes came", self.at, self.size),
                Err(cause) => format!(
                    "broken off after {} of {} bytes: {cause}",
                    self.at, self.size
                ),
            };
            self.body = None;
            self.resumes += 1;
            if Instant::now() >= self.deadline {
                let cause = format!("{broke}; try again later");
                return Err(Fault::Unreachable(self.error(cause)));
            }
            if self.resumes > RESUMES_MAX {
                let cause =
                    format!("{broke}; taken up {RESUMES_MAX} times in vain, try again later");
                self.pass_over(Fault::Unreachable(self.error(cause)))?;
                continue;
            }
            tracing::debug!(blob = %self.subject, %broke, "taking the blob up again");
        }
    }

    /// Goes on to the next registry, or gives up with what was wrong with this one.
    fn pass_over(&mut self, fault: Fault) -> Result<(), Fault> {
        self.rotation.pass_over(fault)?;
        self.resumes = 0;
        self.is_mixed |= self.at > 0;
        Ok(())
    }

    /// Begins again after the bytes have turned out not to be those of the digest: where they all came from one registry at
    /// the next, else at the latest. How many bytes came in vain.
    pub(crate) fn start_over(&mut self, fault: Fault) -> Result<u64, Fault> {
        if !self.is_mixed {
            self.pass_over(fault)?;
        }
        self.is_mixed = false;
        self.body = None;
        self.overlap = 0;
        Ok(std::mem::take(&mut self.at))
    }

    /// What is new in `piece`.
    fn take(&mut self, mut piece: Bytes) -> Result<Bytes, Fault> {
        let known = self.overlap.min(piece.len() as u64);
        self.overlap -= known;
        piece.advance(known as usize);
        self.at += piece.len() as u64;
        if self.at > self.size {
            let cause = format!(
                "longer than the {} bytes of its descriptor; refused",
                self.size
            );
            return Err(Fault::Refused(self.error(cause)));
        }
        Ok(piece)
    }

    async fn open(&mut self) -> Result<Incoming, Fault> {
        let endpoint = self.rotation.current();
        let path = format!("/v2/{}/blobs/{}", endpoint.repository, self.digest);
        let ask = Ask {
            step: self.step,
            subject: &self.subject,
            method: Method::GET,
            authority: &endpoint.authority,
            path: &path,
            https_only: false,
            accept: None,
            from: self.at,
            post: None,
        };
        let answer = self.client.send(&ask, endpoint).await?;
        let good = [StatusCode::OK, StatusCode::PARTIAL_CONTENT];
        let response = self.client.expect(&ask, answer, &good).await?;
        let (parts, body) = response.into_parts();
        self.overlap = match parts.status {
            StatusCode::PARTIAL_CONTENT if range_start(&parts.headers) == Some(self.at) => 0,
            StatusCode::PARTIAL_CONTENT => {
                let cause = "the registry answered with a range that was not asked for";
                return Err(Fault::Refused(self.error(cause)));
            }
            // A registry without ranges starts over; what we have already is read past.
            _ => self.at,
        };
        Ok(body)
    }

    fn error(&self, cause: impl fmt::Display) -> ImageError {
        ImageError::new(self.step, &self.subject, cause)
    }
}

fn range_start(headers: &HeaderMap) -> Option<u64> {
    let value = headers.get(header::CONTENT_RANGE)?.to_str().ok()?;
    value
        .strip_prefix("bytes ")?
        .split('-')
        .next()?
        .parse()
        .ok()
}
