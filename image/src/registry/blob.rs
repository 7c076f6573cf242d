//! A blob on its way, piece by piece.

use std::fmt;
use std::time::Duration;

use bytes::{Buf, Bytes};
use http::header::{self, HeaderMap};
use http::{Method, StatusCode};
use hyper::body::Incoming;
use tokio::time::Instant;

use super::Client;
use super::endpoint::{Rotation, share};
use super::fault::Fault;
use super::transport::Ask;
use super::transport::patience::backoff;
use crate::digest::Digest;
use crate::error::ImageError;
use crate::manifest::Descriptor;
use crate::reference::Reference;

/// How often one blob may be taken up again without much having come in between.
const RESUMES_MAX: u32 = 5;
/// So much is a good reason to be patient once more.
const WORTH_GOING_ON: u64 = 256 * 1024;
/// Less than this in the time that may pass without a byte is too little of a mirror.
const CRAWL: u64 = 64 * 1024;

/// A blob on its way; a broken connection is taken up where it broke, and if that fails where the next registry has
/// the same bytes.
pub(crate) struct Blob<'a> {
    client: &'a Client,
    step: &'static str,
    rotation: Rotation<'a>,
    subject: String,
    digest: Digest,
    deadline: Instant,
    /// What of the time until then is this registry's.
    until: Instant,
    size: u64,
    at: u64,
    body: Option<Incoming>,
    /// Bytes still to come that we have already.
    overlap: u64,
    resumes: u32,
    /// Where the connection broke last.
    broke_at: u64,
    /// Whether ranges are asked for; not of a registry that answered with another one.
    with_ranges: bool,
    /// How what has come so far was put together.
    made_of: MadeOf,
    /// Whether this registry's bytes have once been fetched in vain.
    is_second_try: bool,
    /// How long this registry was waited for of late, and what came.
    waited: Duration,
    came: u64,
}

/// What the bytes so far come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MadeOf {
    /// One answer.
    OneAnswer,
    /// Several, of one registry: it may have got another blob in between, or lie about ranges.
    Answers,
    /// Several registries.
    Registries,
}

impl<'a> Blob<'a> {
    pub(crate) fn new(
        client: &'a Client,
        step: &'static str,
        reference: &Reference,
        blob: &Descriptor,
        rotation: Rotation<'a>,
    ) -> Blob<'a> {
        let deadline = client.transport.deadline();
        Blob {
            client,
            step,
            until: share(deadline, rotation.has_other()),
            rotation,
            subject: format!("{} of {reference}", blob.digest),
            digest: blob.digest.clone(),
            deadline,
            size: blob.size,
            at: 0,
            body: None,
            overlap: 0,
            resumes: 0,
            broke_at: 0,
            with_ranges: true,
            made_of: MadeOf::OneAnswer,
            is_second_try: false,
            waited: Duration::ZERO,
            came: 0,
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
                    // A registry that is started anew, for instance, while we are in the middle of its blob.
                    Err(Fault::Unreachable(error)) if self.at > 0 && !self.rotation.has_next() => {
                        self.take_up_again(error.cause).await?;
                        continue;
                    }
                    Err(fault) => {
                        self.pass_over(fault)?;
                        continue;
                    }
                }
            }
            let Some(body) = self.body.as_mut() else {
                continue;
            };
            let began = Instant::now();
            let got = self.client.transport.frame(body, self.until).await;
            if let Ok(Some(piece)) = &got
                && self.crawls(began.elapsed(), piece.len())
            {
                self.body = None;
                let cause = format!("too slow: {} of {} bytes came", self.at, self.size);
                self.pass_over(Fault::Unreachable(self.error(cause)))?;
                continue;
            }
            let broke = match got {
                Ok(Some(piece)) => match self.take(piece)? {
                    piece if piece.is_empty() => continue,
                    piece => return Ok(Some(piece)),
                },
                // A connection that breaks behind the last byte took nothing with it.
                Ok(None) | Err(_) if self.at == self.size && self.overlap == 0 => return Ok(None),
                Ok(None) => format!("truncated: {} of {} bytes came", self.at, self.size),
                Err(cause) => format!(
                    "broken off after {} of {} bytes: {cause}",
                    self.at, self.size
                ),
            };
            self.body = None;
            self.take_up_again(broke).await?;
        }
    }

    /// Makes ready for another answer after one broke off, or gives up.
    async fn take_up_again(&mut self, broke: String) -> Result<(), Fault> {
        if Instant::now() >= self.until {
            let cause = format!("{broke}; try again later");
            return self.pass_over(Fault::Unreachable(self.error(cause)));
        }
        if self.at >= self.broke_at + WORTH_GOING_ON {
            self.resumes = 0;
        }
        self.broke_at = self.at;
        self.resumes += 1;
        if self.resumes > RESUMES_MAX {
            let cause = format!("{broke}; taken up {RESUMES_MAX} times in vain, try again later");
            return self.pass_over(Fault::Unreachable(self.error(cause)));
        }
        tracing::debug!(blob = %self.subject, %broke, "taking the blob up again");
        if self.resumes > 1 {
            let left = self.until.saturating_duration_since(Instant::now());
            tokio::time::sleep(backoff(self.resumes - 1).min(left)).await;
        }
        if self.at > 0 && self.made_of == MadeOf::OneAnswer {
            self.made_of = MadeOf::Answers;
        }
        Ok(())
    }

    /// Goes on to the next registry, or gives up with what was wrong with this one.
    fn pass_over(&mut self, fault: Fault) -> Result<(), Fault> {
        self.rotation.pass_over(fault)?;
        self.until = share(self.deadline, self.rotation.has_other());
        (self.waited, self.came) = (Duration::ZERO, 0);
        self.resumes = 0;
        self.with_ranges = true;
        self.is_second_try = false;
        if self.at > 0 {
            self.made_of = MadeOf::Registries;
        }
        Ok(())
    }

    /// Begins again after the bytes have turned out not to be those of the digest: where they all came in one answer at the
    /// next registry, else once more at the latest. How many bytes came in vain.
    pub(crate) fn start_over(&mut self, fault: Fault) -> Result<u64, Fault> {
        let whole = self.made_of == MadeOf::OneAnswer;
        if whole || (self.made_of == MadeOf::Answers && self.is_second_try) {
            self.pass_over(fault)?;
        } else {
            self.is_second_try = true;
        }
        self.made_of = MadeOf::OneAnswer;
        self.body = None;
        self.overlap = 0;
        self.broke_at = 0;
        self.resumes = 0;
        Ok(std::mem::take(&mut self.at))
    }

    /// Whether a mirror trickles, so that another should be asked. A registry that is the last to ask may be as slow as it likes,
    /// as long as bytes come.
    fn crawls(&mut self, waited: Duration, len: usize) -> bool {
        self.waited += waited;
        self.came += len as u64;
        if self.waited < self.client.registries.limits.inactivity() {
            return false;
        }
        let too_little = self.came < CRAWL && self.rotation.has_other();
        (self.waited, self.came) = (Duration::ZERO, 0);
        too_little
    }

    /// Whether more bytes came than the descriptor has: the last error says so.
    pub(crate) fn is_too_long(&self) -> bool {
        self.at > self.size
    }

    /// What is new in `piece`.
    fn take(&mut self, mut piece: Bytes) -> Result<Bytes, Fault> {
        let known = self.overlap.min(piece.len() as u64);
        self.overlap -= known;
        piece.advance(known as usize);
        self.at += piece.len() as u64;
        if self.is_too_long() {
            let cause = format!(
                "longer than the {} bytes of its descriptor; refused",
                self.size
            );
            return Err(Fault::Refused(self.error(cause)));
        }
        Ok(piece)
    }

    async fn open(&mut self) -> Result<Incoming, Fault> {
        loop {
            let endpoint = self.rotation.current();
            let path = format!("/v2/{}/blobs/{}", endpoint.repository, self.digest);
            let from = if self.with_ranges { self.at } else { 0 };
            let ask = Ask {
                step: self.step,
                subject: &self.subject,
                method: Method::GET,
                authority: &endpoint.authority,
                path: &path,
                https_only: false,
                accept: None,
                from,
                post: None,
                deadline: self.until,
                has_other: self.rotation.has_other(),
            };
            let answer = self.client.send(&ask, endpoint).await?;
            let status = answer.response.status();
            if from > 0 && status == StatusCode::RANGE_NOT_SATISFIABLE {
                self.with_ranges = false;
                continue;
            }
            let good = [StatusCode::OK, StatusCode::PARTIAL_CONTENT];
            let response = self.client.expect(&ask, answer, &good).await?;
            let (parts, body) = response.into_parts();
            let at = match parts.status {
                StatusCode::PARTIAL_CONTENT => range_start(&parts.headers),
                // A registry without ranges starts over; what we have already is read past.
                _ => Some(0),
            };
            let Some(at) = at.filter(|at| *at <= self.at) else {
                if from == 0 {
                    let cause = "the registry answered with a range that was not asked for";
                    return Err(Fault::Refused(self.error(cause)));
                }
                self.with_ranges = false;
                continue;
            };
            self.expect_length(&body, at, parts.status)?;
            self.overlap = self.at - at;
            return Ok(body);
        }
    }

    /// A registry that announces another length than the manifest has another blob: nobody need read it. Of a range less may
    /// come than was asked for.
    fn expect_length(&self, body: &Incoming, at: u64, status: StatusCode) -> Result<(), Fault> {
        let announced = hyper::body::Body::size_hint(body).exact();
        let Some(end) = announced.and_then(|announced| announced.checked_add(at)) else {
            return Ok(());
        };
        if end == self.size || (status == StatusCode::PARTIAL_CONTENT && end < self.size) {
            return Ok(());
        }
        Err(Fault::Refused(self.error(format!(
            "wrong size: the registry has {end} bytes, the manifest says {}; push the image again",
            self.size
        ))))
    }

    fn error(&self, cause: impl fmt::Display) -> ImageError {
        ImageError::new(self.step, &self.subject, cause)
    }
}

pub(super) fn range_start(headers: &HeaderMap) -> Option<u64> {
    let value = headers.get(header::CONTENT_RANGE)?.to_str().ok()?;
    value
        .strip_prefix("bytes ")?
        .split('-')
        .next()?
        .parse()
        .ok()
}
