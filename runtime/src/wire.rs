//! What crosses between the agent's process and the monitor's: the request to create, and what is said later.
//!
//! The request goes over the socketpair that is the monitor's standard input: a frame (length, u32 little
//! endian, then JSON) whose first bytes carry three descriptors. The answer is one frame. Later, each
//! connection to `monitor.sock` carries one line of JSON each way. All of it is versioned by `record::VERSION`.

use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::plan::Plan;
use crate::{StepError, error::Context};

/// A plan with its seccomp filter is some hundred kilobytes at most.
const FRAME_MAX: usize = 16 << 20;
/// One line of the later protocol.
pub(crate) const LINE_MAX: usize = 16 << 10;
const DESCRIPTORS: usize = 3;

/// What a monitor is asked to make.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Request {
    pub(crate) version: u32,
    pub(crate) id: String,
    pub(crate) monitor_cgroup: String,
    pub(crate) plan: Plan,
}

/// The descriptors that travel with the request.
#[derive(Debug)]
pub(crate) struct Descriptors {
    pub(crate) root: OwnedFd,
    pub(crate) run_dir: OwnedFd,
    pub(crate) log_dir: OwnedFd,
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
}

pub(crate) fn send_request(
    stream: &mut UnixStream,
    request: &Request,
    descriptors: &Descriptors,
) -> Result<(), StepError> {
    let body = serde_json::to_vec(request).context("write", "request to monitor")?;
    let length = u32::try_from(body.len())
        .ok()
        .filter(|length| *length as usize <= FRAME_MAX);
    let length = length
        .ok_or_else(|| StepError::refused("write", "request to monitor", "it is too large"))?;
    let fds = [
        descriptors.root.as_fd(),
        descriptors.run_dir.as_fd(),
        descriptors.log_dir.as_fd(),
    ];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&fds));
    let header = length.to_le_bytes();
    // Four bytes into an empty socket are taken whole.
    rustix::net::sendmsg(
        &*stream,
        &[IoSlice::new(&header)],
        &mut control,
        SendFlags::NOSIGNAL,
    )
    .context("write", "request to monitor")?;
    stream
        .write_all(&body)
        .context("write", "request to monitor")
}

pub(crate) fn receive_request(
    stream: &mut UnixStream,
) -> Result<(Request, Descriptors), StepError> {
    let mut header = [0; 4];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::WAITALL;
    let got = rustix::net::recvmsg(
        &*stream,
        &mut [IoSliceMut::new(&mut header)],
        &mut control,
        flags,
    )
    .context("read", "request")?;
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            fds.extend(received);
        }
    }
    let whole = got.bytes == header.len();
    let Some([root, run_dir, log_dir]) = <[OwnedFd; DESCRIPTORS]>::try_from(fds)
        .ok()
        .filter(|_| whole)
    else {
        return Err(StepError::refused(
            "read",
            "request",
            "it was not sent by `create`; see longshore-runtime --help",
        ));
    };
    let request: Request = receive_body(stream, u32::from_le_bytes(header) as usize)?;
    if request.version != crate::record::VERSION {
        let cause = format!(
            "version {} is not {}",
            request.version,
            crate::record::VERSION
        );
        return Err(StepError::refused("read", "request", cause));
    }
    Ok((
        request,
        Descriptors {
            root,
            run_dir,
            log_dir,
        },
    ))
}

pub(crate) fn send_outcome(stream: &mut UnixStream, outcome: &Outcome) -> Result<(), StepError> {
    let body = serde_json::to_vec(outcome).context("write", "outcome")?;
    let mut frame = (body.len() as u32).to_le_bytes().to_vec();
    frame.extend(body);
    stream.write_all(&frame).context("write", "outcome")
}

/// The outcome; the outer error if the monitor died without one, or the stream's time ran out.
pub(crate) fn receive_outcome(stream: &mut UnixStream) -> Result<Outcome, StepError> {
    let mut header = [0; 4];
    stream
        .read_exact(&mut header)
        .context("hear from", "monitor")?;
    receive_body(stream, u32::from_le_bytes(header) as usize)
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
    let mut body = Vec::new();
    stream
        .take(length as u64)
        .read_to_end(&mut body)
        .context("read", "frame")?;
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
