//! A blob on its way, piece by piece.

use std::fmt;

use bytes::{Buf, Bytes};
use http::header::{self, HeaderMap};
use http::{Method, StatusCode};
use hyper::body::Incoming;

use super::fault::Fault;
use super::transport::Ask;
use super::{Client, hub_address};
use crate::error::ImageError;
use crate::manifest::Descriptor;
use crate::reference::Reference;

/// How often one blob may be taken up again after its connection broke.
const RESUMES_MAX: u32 = 5;

/// A blob on its way; a broken connection is taken up where it broke.
pub(crate) struct Blob<'a> {
    client: &'a Client,
    step: &'static str,
    reference: &'a Reference,
    subject: String,
    path: String,
    size: u64,
    at: u64,
    body: Option<Incoming>,
    /// Bytes still to come that we have already.
    overlap: u64,
    resumes: u32,
}

impl<'a> Blob<'a> {
    pub(crate) fn new(
        client: &'a Client,
        step: &'static str,
        reference: &'a Reference,
        blob: &Descriptor,
    ) -> Blob<'a> {
        Blob {
            client,
            step,
            reference,
            subject: format!("{} of {reference}", blob.digest),
            path: format!("/v2/{}/blobs/{}", reference.repository, blob.digest),
            size: blob.size,
            at: 0,
            body: None,
            overlap: 0,
            resumes: 0,
        }
    }
}

impl Blob<'_> {
    /// The next piece; None once all bytes of the descriptor's size have come.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Fault> {
        loop {
            if self.body.is_none() {
                self.body = Some(self.open().await?);
            }
            let Some(body) = self.body.as_mut() else {
                continue;
            };
            let broke = match self.client.transport.frame(body).await {
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
            if self.resumes > RESUMES_MAX {
                let cause =
                    format!("{broke}; taken up {RESUMES_MAX} times in vain, try again later");
                return Err(Fault::Unreachable(self.error(cause)));
            }
            tracing::debug!(blob = %self.subject, %broke, "taking the blob up again");
        }
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
        let ask = Ask {
            step: self.step,
            subject: &self.subject,
            method: Method::GET,
            authority: hub_address(&self.reference.registry),
            path: &self.path,
            accept: None,
            from: self.at,
        };
        let answer = self.client.send(&ask, self.reference).await?;
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
