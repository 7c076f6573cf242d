//! What crosses between the agent's process and the monitors': requests, and what is said later.
//!
//! Each request has a socket pair of its own, whose other end the nursery gets. A request is a frame (length, u32
//! little endian, then JSON) whose first bytes carry the descriptors; the answer is one frame. Later, each
//! connection to `monitor.sock` carries one line of JSON each way. All of it is versioned by `record::VERSION`.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{RecvFlags, SendFlags};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::plan::Plan;
use crate::record::VERSION;
use crate::{StepError, error::Context, rights};

/// A plan with its seccomp filter is some hundred kilobytes at most.
const FRAME_MAX: usize = 16 << 20;
/// One line of the later protocol.
pub(crate) const LINE_MAX: usize = 16 << 10;

/// What a new monitor is asked.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) id: String,
    pub(crate) run_dir: OwnedFd,
    pub(crate) log_dir: OwnedFd,
    pub(crate) errand: Errand,
}

#[derive(Debug)]
pub(crate) enum Errand {
    /// Make a container with this root.
    Create { plan: Box<Plan>, root: OwnedFd },
    /// Go on with one that has lost its monitor.
    TakeOver(Kept),
}

/// What a monitor holds of its container, in duplicate: whoever keeps it can have the container taken over
/// by another monitor, and as long as it is kept, the container's output has a reader.
#[derive(Debug)]
pub struct Kept {
    /// A pidfd of the first process.
    pub(crate) init: OwnedFd,
    pub(crate) outputs: Vec<(Stream, OwnedFd)>,
}

/// What a container writes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Stream {
    Stdout,
    Stderr,
    /// The master of the terminal that is both.
    Terminal,
}

/// What of a request is text. `P` is the plan.
#[derive(Debug, Serialize, Deserialize)]
struct Text<P> {
    version: u32,
    id: String,
    errand: ErrandText<P>,
}

#[derive(Debug, Serialize, Deserialize)]
enum ErrandText<P> {
    /// Descriptors: run and log directory, root.
    Create(P),
    /// Descriptors: run and log directory, pidfd, and one for each stream.
    TakeOver(Vec<Stream>),
}

/// How the creation went; Err: everything was undone.
pub(crate) type Outcome = Result<(), StepError>;

/// A line from a client.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Call {
    pub(crate) version: u32,
    pub(crate) verb: Verb,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verb {
    /// Answered once execve has succeeded, or has not.
    Start,
    /// Answered at once; the connection then ends with the monitor.
    Subscribe,
    /// As `Subscribe`; with the answer come duplicates of what the monitor holds, as `Kept` has them.
    Watch,
    /// Answered at once; from then on the connection is the terminal's other end: what is read there is its output from
    /// now on, what is written is typed. Either side's end detaches. Refused without a terminal.
    Attach,
    /// Answered once the terminal has this size. Refused without a terminal.
    Resize { rows: u16, columns: u16 },
}

/// A line from the monitor.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Answer {
    pub(crate) version: u32,
    pub(crate) error: Option<StepError>,
    /// What the descriptors are that came with it, the pidfd aside.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) streams: Vec<Stream>,
}

pub(crate) fn send_request(stream: &mut UnixStream, request: &Request) -> Result<(), StepError> {
    const STEP: &str = "write";
    const SUBJECT: &str = "request to monitor";
    let mut descriptors = vec![request.run_dir.as_fd(), request.log_dir.as_fd()];
    let errand = match &request.errand {
        Errand::Create { plan, root } => {
            descriptors.push(root.as_fd());
            ErrandText::Create(plan)
        }
        Errand::TakeOver(kept) => {
            descriptors.extend(kept.descriptors());
            ErrandText::TakeOver(kept.outputs.iter().map(|(stream, _)| *stream).collect())
        }
    };
    let text = Text {
        version: VERSION,
        id: request.id.clone(),
        errand,
    };
    let body = serde_json::to_vec(&text).context(STEP, SUBJECT)?;
    let length = u32::try_from(body.len())
        .ok()
        .filter(|length| *length as usize <= FRAME_MAX)
        .ok_or_else(|| StepError::refused(STEP, SUBJECT, "it is too large"))?;
    // Four bytes into an empty socket are taken whole.
    rights::send(
        &*stream,
        &length.to_le_bytes(),
        &descriptors,
        SendFlags::empty(),
    )
    .context(STEP, SUBJECT)?;
    stream.write_all(&body).context(STEP, SUBJECT)
}

pub(crate) fn receive_request(stream: &mut UnixStream) -> Result<Request, StepError> {
    let mut header = [0; 4];
    let (length, descriptors) =
        rights::receive(&*stream, &mut header, RecvFlags::WAITALL).context("read", "request")?;
    let foreign = || {
        let cause = "it was not sent by an agent; see longshore-runtime --help";
        StepError::refused("read", "request", cause)
    };
    if length != header.len() {
        return Err(foreign());
    }
    let text: Text<Box<Plan>> = receive_body(stream, u32::from_le_bytes(header) as usize)?;
    if text.version != VERSION {
        let cause = format!("version {} is not {VERSION}", text.version);
        return Err(StepError::refused("read", "request", cause));
    }
    let mut descriptors = descriptors.into_iter();
    let mut next = || descriptors.next().ok_or_else(foreign);
    Ok(Request {
        id: text.id,
        run_dir: next()?,
        log_dir: next()?,
        errand: match text.errand {
            ErrandText::Create(plan) => Errand::Create {
                plan,
                root: next()?,
            },
            ErrandText::TakeOver(streams) => {
                Errand::TakeOver(Kept::of(&streams, descriptors).ok_or_else(foreign)?)
            }
        },
    })
}

impl Kept {
    /// From what came with a message: the pidfd first, then one for each stream.
    pub(crate) fn of(
        streams: &[Stream],
        descriptors: impl IntoIterator<Item = OwnedFd>,
    ) -> Option<Kept> {
        let mut descriptors = descriptors.into_iter();
        let init = descriptors.next()?;
        let outputs: Vec<_> = streams.iter().copied().zip(descriptors).collect();
        (outputs.len() == streams.len()).then_some(Kept { init, outputs })
    }

    /// In the order of `of`.
    fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let outputs = self.outputs.iter().map(|(_, output)| output.as_fd());
        std::iter::once(self.init.as_fd()).chain(outputs)
    }
}

pub(crate) fn send_outcome(stream: &mut UnixStream, outcome: &Outcome) -> Result<(), StepError> {
    let body = serde_json::to_vec(outcome).context("write", "outcome")?;
    let mut frame = (body.len() as u32).to_le_bytes().to_vec();
    frame.extend(body);
    stream.write_all(&frame).context("write", "outcome")
}

/// The outcome; the outer error if the monitor died without one, or the stream's time ran out.
/// None if whoever had the request ended before a word of an answer.
pub(crate) fn receive_outcome(stream: &mut UnixStream) -> Result<Option<Outcome>, StepError> {
    let mut header = [0; 4];
    match stream.read_exact(&mut header) {
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset
            ) =>
        {
            return Ok(None);
        }
        read => read.context("hear from", "monitor")?,
    }
    receive_body(stream, u32::from_le_bytes(header) as usize).map(Some)
}

fn receive_body<T: DeserializeOwned>(
    stream: &mut UnixStream,
    length: usize,
) -> Result<T, StepError> {
    if length > FRAME_MAX {
        return Err(StepError::refused(
            "read",
            "frame",
            format!("{length} bytes are more than {FRAME_MAX}"),
        ));
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).context("read", "frame")?;
    serde_json::from_slice(&body)
        .map_err(|error| StepError::refused("read", "frame", error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn foreign_bytes_are_an_error_and_nothing_worse(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let (mut ours, mut theirs) = UnixStream::pair().unwrap();
            theirs.write_all(&bytes).unwrap();
            drop(theirs);
            prop_assert!(receive_request(&mut ours).is_err());
        }
    }
}
