//! What init and its parent tell each other, over one SOCK_SEQPACKET pair; at a door, what `start` says.
//!
//! ```text
//!   parent                                 init
//!      │  clone3                             │
//!      │ ── Proceed (in its cgroup) ───────▶ │  walks the steps
//!      │ ◀──────────── Environment, if asked │  namespaces are there, the root is not
//!      │ ── Proceed (hooks have run) ──────▶ │  walks on
//!      │ ◀────────────────── Failed(error) ─ │  ... and ends; or
//!      │ ◀────────────────────────── Ready ─ │  waits
//!      │  records init                       │
//!      │                                     │
//!      │ ── Start ─────────────────────────▶ │  execve                                Door::Parent
//!      │ ◀────────────────── Failed(error) ─ │  ... and ends; or
//!      │ ◀──────────── end of file ───────── │  the socket is close-on-exec: the program runs
//!      │                                     │
//!      │ ── Stay ──────────────────────────▶ │  closes the talk, accepts at the door  Door::Listener
//!      ·                                     │
//!   `start`  ── connect, Start ────────────▶ │  execve
//!      │ ◀─ Failed(error) or end of file ─── │  as above
//! ```
//! If the parent dies before Stay, init reads end of file where it waits, and ends: what is not recorded does not
//! live. After Stay it waits for ever; a visitor who leaves without Start changes nothing.

use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use serde::{Deserialize, Serialize};

use crate::StepError;

/// A message is one packet; a step error is far smaller.
const PACKET_MAX: usize = 64 * 1024;

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ToInit {
    /// The awaited thing was done.
    Proceed,
    /// Go on to execve.
    Start,
    /// You are recorded: wait at the door, your parent leaves.
    Stay,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum FromInit {
    /// The namespaces are there; the parent may act on them.
    Environment,
    /// Only `start` is awaited.
    Ready,
    /// And init ends.
    Failed(StepError),
    /// execve refused with this errno: whoever reads it knows the program's name.
    NotExecuted(i32),
}

/// One end of the pair.
#[derive(Debug)]
pub(crate) struct Talk(OwnedFd);

impl Talk {
    pub(crate) fn pair() -> Result<(Talk, Talk), Errno> {
        let (one, other) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        Ok((Talk(one), Talk(other)))
    }

    pub(crate) fn send(&self, message: &impl Serialize) -> Result<(), Errno> {
        let packet = serde_json::to_vec(message).map_err(|_| Errno::INVAL)?;
        rustix::io::retry_on_intr(|| rustix::net::send(&self.0, &packet, SendFlags::NOSIGNAL))?;
        Ok(())
    }

    /// The next message; None at end of file.
    pub(crate) fn receive<M: for<'de> Deserialize<'de>>(&self) -> Result<Option<M>, Errno> {
        let mut packet = vec![0; PACKET_MAX];
        let got = rustix::io::retry_on_intr(|| {
            rustix::net::recv(&self.0, &mut packet[..], RecvFlags::empty())
        });
        match got {
            Ok((_, 0)) | Err(Errno::CONNRESET) => Ok(None),
            Ok((_, length)) => {
                let packet = packet.get(..length).ok_or(Errno::MSGSIZE)?;
                serde_json::from_slice(packet)
                    .map(Some)
                    .map_err(|_| Errno::BADMSG)
            }
            Err(errno) => Err(errno),
        }
    }

    pub(crate) fn into_fd(self) -> OwnedFd {
        self.0
    }

    pub(crate) fn from_fd(fd: OwnedFd) -> Talk {
        Talk(fd)
    }
}

impl AsFd for Talk {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}
