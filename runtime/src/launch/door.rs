//! The door: where an init that is ready hears `start`, and what `start` says there.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::StepError;
use crate::error::Context;
use crate::init::{FromInit, Talk, ToInit, explain};

/// The socket's name in the state directory.
pub(crate) const SOCKET: &str = "start.sock";

/// Where init waits for `start`.
#[derive(Debug)]
pub(crate) enum Door {
    /// Its parent, which stays: the monitor, `run`.
    Parent,
    /// A listening socket in the state directory: nobody of ours stays.
    Listener(OwnedFd),
}

impl Door {
    /// Opens a door in a state directory. Only who may enter the directory can knock, so it must be 0700.
    pub(crate) fn in_directory(directory: BorrowedFd<'_>) -> Result<Door, StepError> {
        let listen = || {
            let socket = socket()?;
            rustix::net::bind(&socket, &address(directory)?)?;
            rustix::net::listen(&socket, 8)?;
            Ok::<_, Errno>(socket)
        };
        listen().context("listen on", SOCKET).map(Door::Listener)
    }
}

/// Starts an init that waits at the door of its state directory: returns once execve has succeeded.
///
/// None: nobody is there any more, or it ended before it heard.
pub(crate) fn start(directory: BorrowedFd<'_>, entrypoint: &str) -> Result<Option<()>, StepError> {
    let connect = || {
        let socket = socket()?;
        rustix::net::connect(&socket, &address(directory)?)?;
        Ok::<_, Errno>(Talk::from_fd(socket))
    };
    match connect() {
        Ok(talk) => order_start(&talk, entrypoint).map(Some),
        Err(Errno::NOENT | Errno::CONNREFUSED) => Ok(None),
        Err(errno) => Err(StepError::io("connect to", SOCKET, errno)),
    }
}

/// The socket is close-on-exec in init: end of file says that the program runs.
pub(super) fn order_start(talk: &Talk, entrypoint: &str) -> Result<(), StepError> {
    talk.send(&ToInit::Start).context("start", entrypoint)?;
    match talk.receive().context("hear from", "init")? {
        None => Ok(()),
        Some(FromInit::NotExecuted(code)) => {
            Err(explain(entrypoint, Errno::from_raw_os_error(code)))
        }
        other => Err(super::ended(other)),
    }
}

fn socket() -> Result<OwnedFd, Errno> {
    rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
}

/// Short enough for sockaddr_un wherever the directory lies.
fn address(directory: BorrowedFd<'_>) -> Result<SocketAddrUnix, Errno> {
    SocketAddrUnix::new(format!("/proc/self/fd/{}/{SOCKET}", directory.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn whoever_leaves_without_start_changes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let state = std::fs::File::open(directory.path()).unwrap();
        assert_eq!(start(state.as_fd(), "true"), Ok(None), "nobody listens");
        let Door::Listener(listener) = Door::in_directory(state.as_fd()).unwrap() else {
            panic!("no listener")
        };
        let init = std::thread::spawn(move || {
            for outcome in [Some(2), None] {
                let talk = crate::init::await_visitor(&listener).unwrap();
                if let Some(errno) = outcome {
                    talk.send(&FromInit::NotExecuted(errno)).unwrap();
                }
            }
        });
        for nonsense in [&b""[..], b"{", b"\"Proceed\""] {
            let socket = socket().unwrap();
            rustix::net::connect(&socket, &address(state.as_fd()).unwrap()).unwrap();
            rustix::net::send(&socket, nonsense, rustix::net::SendFlags::NOSIGNAL).unwrap();
        }
        let refused = start(state.as_fd(), "true").unwrap_err();
        assert_eq!((refused.subject.as_str(), refused.errno), ("true", Some(2)));
        assert_eq!(start(state.as_fd(), "true"), Ok(Some(())));
        init.join().unwrap();
        assert_eq!(start(state.as_fd(), "true"), Ok(None), "nobody listens");
    }
}
