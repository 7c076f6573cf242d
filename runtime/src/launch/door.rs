//! The door: where an init that is ready hears `start`, and what `start` says there.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::StepError;
use crate::error::Context;
use crate::init::{FromInit, Talk, ToInit, explain};
use crate::interrupt::Interrupt;

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

/// Why a program does not run.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NotStarted {
    /// Nobody waits at the door any more.
    Gone,
    /// A startContainer hook failed, or whoever waited for it was interrupted.
    Hook(StepError),
    /// Whatever else; init has ended.
    Failed(StepError),
}

impl NotStarted {
    /// In words.
    pub(crate) fn into_error(self, entrypoint: &str) -> StepError {
        match self {
            NotStarted::Gone => {
                StepError::refused("start", entrypoint, "nobody waits for it; init has ended")
            }
            NotStarted::Hook(error) | NotStarted::Failed(error) => error,
        }
    }
}

/// Starts an init that waits at the door of its state directory: returns once execve has succeeded.
pub(crate) fn start(
    directory: BorrowedFd<'_>,
    entrypoint: &str,
    interrupt: &Interrupt,
) -> Result<(), NotStarted> {
    let connect = || {
        let socket = socket()?;
        rustix::net::connect(&socket, &address(directory)?)?;
        Ok::<_, Errno>(Talk::from_fd(socket))
    };
    match connect() {
        Ok(talk) => order_start(&talk, entrypoint, Some(interrupt)),
        Err(Errno::NOENT | Errno::CONNREFUSED) => Err(NotStarted::Gone),
        Err(errno) => Err(NotStarted::Failed(StepError::io(
            "connect to",
            SOCKET,
            errno,
        ))),
    }
}

/// The socket is close-on-exec in init: once it said that it executes, end of file says that the program runs.
pub(super) fn order_start(
    talk: &Talk,
    entrypoint: &str,
    interrupt: Option<&Interrupt>,
) -> Result<(), NotStarted> {
    match talk.send(&ToInit::Start) {
        Ok(()) => {}
        Err(Errno::PIPE | Errno::CONNRESET) => return Err(NotStarted::Failed(killed(entrypoint))),
        Err(errno) => {
            let error = StepError::io("start", entrypoint, errno);
            return Err(NotStarted::Failed(error));
        }
    }
    // Whatever it says now, it hangs up at once, by execve or by its end: one awakening is enough.
    if let Some(interrupt) = interrupt {
        let waited = interrupt.wait(talk, PollFlags::empty(), "start", entrypoint);
        waited.map_err(NotStarted::Hook)?;
    }
    let hear = || {
        let heard = talk.receive().context("hear from", "init");
        heard.map_err(NotStarted::Failed)
    };
    let mut heard = hear()?;
    let executes = heard == Some(FromInit::Executing);
    if executes {
        heard = hear()?;
    }
    Err(match heard {
        None if executes => return Ok(()),
        None => NotStarted::Failed(killed(entrypoint)),
        Some(FromInit::NotExecuted(code)) => {
            NotStarted::Failed(explain(entrypoint, Errno::from_raw_os_error(code)))
        }
        Some(FromInit::HookFailed(error)) => NotStarted::Hook(error),
        other => NotStarted::Failed(super::ended(other)),
    })
}

/// By a signal, or for want of memory: whatever happens to init in words, it tells.
pub(crate) fn killed(entrypoint: &str) -> StepError {
    let cause = "init was killed before it could execute it: by `kill` or `delete --force`, or by the kernel if the memory \
                 limit is too small";
    StepError::refused("start", entrypoint, cause)
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

    fn start(directory: BorrowedFd<'_>) -> Result<(), NotStarted> {
        super::start(directory, "true", &Interrupt::new().unwrap())
    }

    fn failure(directory: BorrowedFd<'_>) -> StepError {
        match start(directory) {
            Err(NotStarted::Failed(error)) => error,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn whoever_leaves_without_start_changes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let state = std::fs::File::open(directory.path()).unwrap();
        assert_eq!(start(state.as_fd()), Err(NotStarted::Gone));
        let Door::Listener(listener) = Door::in_directory(state.as_fd()).unwrap() else {
            panic!("no listener")
        };
        let init = std::thread::spawn(move || {
            for outcome in [Some(2), None] {
                let talk = crate::init::await_visitor(&listener).unwrap();
                talk.send(&FromInit::Executing).unwrap();
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
        let refused = failure(state.as_fd());
        assert_eq!((refused.subject.as_str(), refused.errno), ("true", Some(2)));
        assert_eq!(start(state.as_fd()), Ok(()));
        init.join().unwrap();
        assert_eq!(start(state.as_fd()), Err(NotStarted::Gone));
    }

    #[test]
    fn an_init_that_is_killed_on_its_way_has_not_started() {
        let directory = tempfile::tempdir().unwrap();
        let state = std::fs::File::open(directory.path()).unwrap();
        let Door::Listener(listener) = Door::in_directory(state.as_fd()).unwrap() else {
            panic!("no listener")
        };
        // Once before it has heard Start, and once after.
        let init = std::thread::spawn(move || {
            drop(rustix::net::accept(&listener).unwrap());
            drop(crate::init::await_visitor(&listener).unwrap());
        });
        for _ in 0..2 {
            let refused = failure(state.as_fd());
            assert!(refused.cause.contains("was killed"), "{refused}");
        }
        init.join().unwrap();
    }
}
