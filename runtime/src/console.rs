//! `--console-socket`: where the master of a terminal goes when nobody of ours stays to hold it.
//!
//! The protocol is runc's: one message on a stream socket that somebody listens on, the master as its descriptor and
//! a name as its bytes.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

use crate::StepError;
use crate::error::Context;

/// Whether the combination makes sense. `detached`: nobody of ours stays.
pub(crate) fn check(
    detached: bool,
    terminal: bool,
    socket: Option<&Path>,
) -> Result<(), StepError> {
    let refused = |cause| {
        Err(StepError::refused(
            "use console socket",
            "--console-socket",
            cause,
        ))
    };
    match (detached, terminal, socket) {
        (true, true, None) => refused(
            "a process with a terminal cannot be detached without one: who would hold the terminal?",
        ),
        (_, false, Some(_)) => refused("the process asks for no terminal; leave it out"),
        (false, true, Some(_)) => {
            refused("the terminal is this one unless --detach is given; leave it out")
        }
        _ => Ok(()),
    }
}

/// The connected socket. Connected before anything is made, so that a wrong path costs nothing.
#[derive(Debug)]
pub(crate) struct ConsoleSocket {
    stream: UnixStream,
    path: PathBuf,
}

impl ConsoleSocket {
    /// Connects, however long the path is.
    pub(crate) fn connect(path: &Path) -> Result<ConsoleSocket, StepError> {
        let step = "connect to console socket";
        let name = path.file_name().ok_or_else(|| {
            StepError::refused(step, path.display(), "it must be the path of a socket")
        })?;
        let directory = path.parent().filter(|path| !path.as_os_str().is_empty());
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(directory.unwrap_or(Path::new(".")), flags, Mode::empty())
            .context(step, path.display())?;
        let short = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd())).join(name);
        let stream = UnixStream::connect(short).context(step, path.display())?;
        Ok(ConsoleSocket {
            stream,
            path: path.to_owned(),
        })
    }

    /// Hands the master over.
    pub(crate) fn send(self, master: BorrowedFd<'_>) -> Result<(), StepError> {
        let step = "send terminal to";
        let name = rustix::pty::ptsname(master, Vec::new()).context(step, self.path.display())?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors = [master];
        control.push(SendAncillaryMessage::ScmRights(&descriptors));
        let payload = [IoSlice::new(name.as_bytes())];
        rustix::io::retry_on_intr(|| {
            rustix::net::sendmsg(
                self.stream.as_fd(),
                &payload,
                &mut control,
                SendFlags::NOSIGNAL,
            )
        })
        .context(step, self.path.display())?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::IoSliceMut;
    use std::os::unix::net::UnixListener;

    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
    use rustix::pty::OpenptFlags;

    use super::*;

    #[test]
    fn only_a_detached_terminal_goes_to_a_socket() {
        let socket = Some(Path::new("/s"));
        for (detached, terminal, socket, good) in [
            (true, true, socket, true),
            (true, true, None, false),
            (true, false, socket, false),
            (true, false, None, true),
            (false, true, socket, false),
            (false, true, None, true),
            (false, false, socket, false),
            (false, false, None, true),
        ] {
            let checked = check(detached, terminal, socket);
            assert_eq!(checked.is_ok(), good, "{detached} {terminal} {socket:?}");
        }
    }

    #[test]
    fn the_master_arrives_with_a_name_over_a_long_path() {
        let directory = tempfile::tempdir().unwrap();
        let deep = directory.path().join("d".repeat(150));
        std::fs::create_dir(&deep).unwrap();
        let at = std::fs::File::open(&deep).unwrap();
        let listener =
            UnixListener::bind(format!("/proc/self/fd/{}/socket", at.as_raw_fd())).unwrap();
        assert!(ConsoleSocket::connect(&deep.join("nothing")).is_err());
        let socket = ConsoleSocket::connect(&deep.join("socket")).unwrap();
        let master = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        socket.send(master.as_fd()).unwrap();

        let (stream, _) = listener.accept().unwrap();
        let mut name = [0; 64];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let got = rustix::net::recvmsg(
            &stream,
            &mut [IoSliceMut::new(&mut name)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        )
        .unwrap();
        assert!(name[..got.bytes].starts_with(b"/dev/pts/"));
        let Some(RecvAncillaryMessage::ScmRights(mut received)) = control.drain().next() else {
            panic!("no descriptor")
        };
        let same = |fd: BorrowedFd<'_>| rustix::pty::ptsname(fd, Vec::new()).unwrap();
        assert_eq!(same(received.next().unwrap().as_fd()), same(master.as_fd()));
    }
}
