//! What init and its parent tell each other, over one SOCK_SEQPACKET pair; at a door, what `start` says.
//!
//! ```text
//!   parent                                 init
//!      │  clone3                             │
//!      │ ◀─────────────────── Born, if asked │  makes its network namespace
//!      │  makes the group                    │
//!      │ ── Enter (mapped) + gates ────────▶ │  enters its cgroup, walks the steps
//!      │ ◀──────────── Environment, if asked │  namespaces are there, the root is not
//!      │ ── Proceed (hooks have run) ──────▶ │  walks on
//!      │ ◀─────── Terminal + its master, if asked │
//!      │ ◀─────── Listener + its descriptor, or ListenerAt, if the filter asks │
//!      │ ◀────────────────── Failed(error) ─ │  ... and ends; or
//!      │ ◀────────────────────────── Ready ─ │  waits
//!      │  records init                       │
//!      │                                     │
//!      │ ── Start ─────────────────────────▶ │                                        Door::Parent
//!      │ ◀────────────────────── Executing ─ │  the filter, execve
//!      │ ◀──── NotExecuted(errno) or Failed ─ │  ... and ends; or
//!      │ ◀──────────── end of file ───────── │  the socket is close-on-exec: the program runs
//!      │                                     │
//!      │ ── Stay ──────────────────────────▶ │  closes the talk, accepts at the door  Door::Listener
//!      ·                                     │
//!   `start`  ── connect, Start ────────────▶ │
//!      │ ◀ Executing, then end of file or why ─ │  as above
//! ```
//! Where the plan has a stage, it comes first, at the same end of the pair:
//! ```text
//!   parent                  stage                        init
//!      │  clone3              │                            │
//!      │ ── Enter + gates ──▶ │  walks the stage's steps   │
//!      │ ◀─── Failed(error) ─ │  ... and ends; or          │
//!      │                      │  clone3, CLONE_PARENT      │
//!      │ ◀────── Cloned(pid) ─│  ends                      │
//!      │ ── Proceed (mapped) ────────────────────────────▶ │  walks the steps, as above
//! ```
//! If the parent dies before Stay, init reads end of file where it waits, and ends: what is not recorded does not
//! live. After Stay it waits for ever; a visitor who leaves without Start changes nothing. An end of file without
//! Executing before it says that init was killed on its way; nothing of the image has run, a startContainer hook
//! excepted.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use nix::sys::socket::{ControlMessage, MsgFlags, MultiHeaders, sendmmsg};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use serde::{Deserialize, Serialize};

use crate::StepError;
use crate::cgroup::Gate;
use crate::seccomp::Handover;

/// A message is one packet; a step error is far smaller.
const PACKET_MAX: usize = 64 * 1024;
/// Room for as many descriptors as one message may carry: SCM_MAX_FD of unix(7).
const RIGHTS: usize = rustix::cmsg_space!(ScmRights(253));

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ToInit {
    /// Enter your group, if you were not born there: the files of these paths come with this message.
    Enter(Vec<String>),
    /// The awaited thing was done.
    Proceed,
    /// Go on to execve.
    Start,
    /// You are recorded: wait at the door, your parent leaves.
    Stay,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum FromInit {
    /// It runs, and holds nothing of its parent's but what it was given.
    Born,
    /// From the stage: init is there, as a child of the parent's.
    Cloned(u32),
    /// The namespaces are there; the parent may act on them.
    Environment,
    /// A terminal was made; its master comes with this message.
    Terminal,
    /// The filter is in force; its listener comes with this message.
    Listener,
    /// The filter is about to be; its listener will be the descriptor of this number.
    ListenerAt(i32),
    /// Only `start` is awaited.
    Ready,
    /// Only the filter and execve are left: if no word follows, the program runs.
    Executing,
    /// And init ends: a hook was what failed.
    HookFailed(StepError),
    /// And init ends.
    Failed(StepError),
    /// execve refused with this errno: whoever reads it knows the program's name.
    NotExecuted(i32),
}

/// A message that can be sent without any further preparation.
#[derive(Debug)]
pub(crate) struct Prepared {
    packet: Vec<u8>,
    /// For sendmmsg(2).
    many: Option<MultiHeaders<()>>,
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

    /// A message that carries a descriptor.
    pub(crate) fn send_with(
        &self,
        message: &impl Serialize,
        descriptor: BorrowedFd<'_>,
    ) -> Result<(), Errno> {
        self.send_all(message, &[descriptor])
    }

    fn send_all(
        &self,
        message: &impl Serialize,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), Errno> {
        let packet = serde_json::to_vec(message).map_err(|_| Errno::INVAL)?;
        let mut space = [MaybeUninit::uninit(); RIGHTS];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(Errno::TOOMANYREFS);
        }
        let packet = [IoSlice::new(&packet)];
        rustix::io::retry_on_intr(|| {
            rustix::net::sendmsg(&self.0, &packet, &mut control, SendFlags::NOSIGNAL)
        })?;
        Ok(())
    }

    /// If the child has ended already, what it said is what matters, so an error of the wire is none.
    pub(crate) fn send_gates(&self, gates: Vec<Gate>) -> Result<(), StepError> {
        let (files, paths): (Vec<OwnedFd>, Vec<PathBuf>) =
            gates.into_iter().map(Gate::into_parts).unzip();
        let paths = paths.iter().map(|path| path.display().to_string());
        let message = ToInit::Enter(paths.collect());
        let files: Vec<BorrowedFd<'_>> = files.iter().map(OwnedFd::as_fd).collect();
        match self.send_all(&message, &files) {
            Ok(()) | Err(Errno::PIPE | Errno::CONNRESET) => Ok(()),
            Err(errno) => Err(StepError::io("send", "ways into cgroups", errno)),
        }
    }

    /// A message that carries a descriptor which is not there yet.
    pub(crate) fn prepare(message: &impl Serialize, by: Handover) -> Result<Prepared, Errno> {
        let packet = serde_json::to_vec(message).map_err(|_| Errno::INVAL)?;
        let space = nix::cmsg_space!([std::os::fd::RawFd; 1]);
        let headers = MultiHeaders::preallocate(1, Some(space));
        let many = (by == Handover::Sendmmsg).then_some(headers);
        Ok(Prepared { packet, many })
    }

    /// Sends it by one system call, and makes no other: not even one that gets or gives back memory.
    pub(crate) fn send_prepared(
        &self,
        prepared: &mut Prepared,
        descriptor: BorrowedFd<'_>,
    ) -> Result<(), Errno> {
        let packet = [IoSlice::new(&prepared.packet)];
        let Some(headers) = &mut prepared.many else {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            let descriptors = [descriptor];
            control.push(SendAncillaryMessage::ScmRights(&descriptors));
            rustix::net::sendmsg(&self.0, &packet, &mut control, SendFlags::NOSIGNAL)?;
            return Ok(());
        };
        let rights = [descriptor.as_raw_fd()];
        let control = [ControlMessage::ScmRights(&rights)];
        let (to, flags) = ([None], MsgFlags::MSG_NOSIGNAL);
        let packets = [packet];
        let sent = sendmmsg(self.0.as_raw_fd(), headers, &packets, to, control, flags);
        let sent = sent.map(drop);
        sent.map_err(|errno| Errno::from_raw_os_error(errno as i32))
    }

    /// The next message; None at end of file.
    pub(crate) fn receive<M: for<'de> Deserialize<'de>>(&self) -> Result<Option<M>, Errno> {
        Ok(self.receive_with()?.map(|(message, _)| message))
    }

    /// The next message with the descriptor that it carries, if it does; None at end of file.
    pub(crate) fn receive_with<M: for<'de> Deserialize<'de>>(
        &self,
    ) -> Result<Option<(M, Option<OwnedFd>)>, Errno> {
        let received = self.receive_all()?;
        Ok(received.map(|(message, descriptors)| (message, descriptors.into_iter().next())))
    }

    /// The next message with all descriptors that it carries; None at end of file.
    pub(crate) fn receive_all<M: for<'de> Deserialize<'de>>(
        &self,
    ) -> Result<Option<(M, Vec<OwnedFd>)>, Errno> {
        // A message is a few bytes or, seldom, thousands; room for the largest would be made anew for each.
        let flags = RecvFlags::PEEK | RecvFlags::TRUNC;
        let peek = || rustix::net::recv(&self.0, &mut [0; 0][..], flags);
        let length = match rustix::io::retry_on_intr(peek) {
            Ok((_, length)) if length > PACKET_MAX => return Err(Errno::MSGSIZE),
            Ok((_, length)) => length,
            Err(Errno::CONNRESET) => return Ok(None),
            Err(errno) => return Err(errno),
        };
        let mut packet = vec![0; length.max(1)];
        let mut space = [MaybeUninit::uninit(); RIGHTS];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let got = rustix::io::retry_on_intr(|| {
            rustix::net::recvmsg(
                &self.0,
                &mut [IoSliceMut::new(&mut packet)],
                &mut control,
                RecvFlags::CMSG_CLOEXEC,
            )
        });
        let mut descriptors = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = message {
                descriptors.extend(received);
            }
        }
        let length = match got {
            Ok(got) => got.bytes,
            Err(Errno::CONNRESET) => 0,
            Err(errno) => return Err(errno),
        };
        if length == 0 {
            return Ok(None);
        }
        let packet = packet.get(..length).ok_or(Errno::MSGSIZE)?;
        let message = serde_json::from_slice(packet).map_err(|_| Errno::BADMSG)?;
        Ok(Some((message, descriptors)))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prepared_message_travels_by_either_call() {
        for by in [Handover::Sendmsg, Handover::Sendmmsg] {
            let (ours, theirs) = Talk::pair().unwrap();
            let (read, write) = rustix::pipe::pipe().unwrap();
            let mut message = Talk::prepare(&FromInit::Listener, by).unwrap();
            theirs.send_prepared(&mut message, write.as_fd()).unwrap();
            drop(write);
            let (heard, descriptor) = ours.receive_with::<FromInit>().unwrap().unwrap();
            assert_eq!(heard, FromInit::Listener);
            rustix::io::write(descriptor.unwrap(), b"x").unwrap();
            assert_eq!(rustix::io::read(&read, &mut [0; 2]), Ok(1));
        }
    }

    #[test]
    fn a_descriptor_travels_with_its_message() {
        let (ours, theirs) = Talk::pair().unwrap();
        let (read, write) = rustix::pipe::pipe().unwrap();
        theirs
            .send_with(&FromInit::Terminal, write.as_fd())
            .unwrap();
        theirs.send(&FromInit::Ready).unwrap();
        drop((write, theirs));
        let (message, descriptor) = ours.receive_with::<FromInit>().unwrap().unwrap();
        assert_eq!(message, FromInit::Terminal);
        let write = descriptor.unwrap();
        let flags = rustix::io::fcntl_getfd(&write).unwrap();
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
        rustix::io::write(&write, b"x").unwrap();
        assert_eq!(rustix::io::read(&read, &mut [0; 2]), Ok(1));
        assert_eq!(ours.receive(), Ok(Some(FromInit::Ready)));
        assert_eq!(ours.receive::<FromInit>(), Ok(None));
    }

    #[test]
    fn gates_travel_with_their_paths_in_order() {
        let (ours, theirs) = Talk::pair().unwrap();
        let (mut readers, mut gates) = (Vec::new(), Vec::new());
        for nth in 0..20 {
            let (read, write) = rustix::pipe::pipe().unwrap();
            readers.push(read);
            gates.push(Gate::of_parts(write, format!("/group/{nth}").into()));
        }
        ours.send_gates(gates).unwrap();
        let (heard, files) = theirs.receive_all::<ToInit>().unwrap().unwrap();
        let paths: Vec<String> = (0..20).map(|nth| format!("/group/{nth}")).collect();
        assert_eq!(heard, ToInit::Enter(paths));
        assert_eq!(files.len(), readers.len());
        for (file, reader) in files.into_iter().zip(readers) {
            rustix::io::write(&file, b"x").unwrap();
            drop(file);
            assert_eq!(rustix::io::read(&reader, &mut [0; 2]), Ok(1));
            assert_eq!(rustix::io::read(&reader, &mut [0; 2]), Ok(0));
        }
        ours.send_gates(Vec::new()).unwrap();
        let (heard, files) = theirs.receive_all::<ToInit>().unwrap().unwrap();
        assert_eq!((heard, files.len()), (ToInit::Enter(Vec::new()), 0));
        drop(theirs);
        assert_eq!(ours.send_gates(Vec::new()), Ok(()));
    }
}
