//! Where the descriptor goes through which a filter asks: from init to the socket that the profile names.
//!
//! runtime-spec config-linux.md, "Seccomp" and "containerProcessState": one connection, one JSON object, and with it
//! the descriptor by the name `seccompFd`.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType,
};
use rustix::process::{PidfdGetfdFlags, pidfd_getfd};
use serde_json::{Value, json};

use super::{Init, ended};
use crate::StepError;
use crate::error::Context;
use crate::seccomp::Listener;

/// How long whoever listens may let us wait.
const PATIENCE: Duration = Duration::from_secs(10);

/// While init loads its filter, which takes less than this.
const MOMENT: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 500_000,
};

/// Takes the descriptor out of an init whose filter lets it send nothing: it has told which number the descriptor will
/// have. No event tells that it is there, since any call of init's could wait for an answer that only
/// the descriptor's owner gives.
pub(super) fn take(init: &Init, number: i32) -> Result<OwnedFd, StepError> {
    let mut said = false;
    loop {
        match pidfd_getfd(&init.pidfd, number, PidfdGetfdFlags::empty()) {
            Ok(descriptor) => return Ok(descriptor),
            Err(Errno::BADF) if said => return Err(ended(init.hear()?)),
            // It has ended, and perhaps said why.
            Err(Errno::SRCH) => return Err(ended(init.hear()?)),
            Err(Errno::BADF) => {}
            Err(errno) => {
                let cause = format!(
                    "{errno}; the profile asks about sendmsg and sendmmsg, so that only CAP_SYS_PTRACE reaches \
                     the descriptor: let it allow one of them"
                );
                let errno = Some(errno.raw_os_error());
                return Err(StepError {
                    errno,
                    ..StepError::refused("take", "seccomp listener", cause)
                });
            }
        }
        let mut talk = [PollFd::new(&init.talk, PollFlags::IN)];
        let ready = rustix::io::retry_on_intr(|| poll(&mut talk, Some(&MOMENT)));
        said = ready.context("wait for", "seccomp filter")? > 0;
    }
}

/// Sends the descriptor with the state of the container and of the process, which has this pid; without a pid in it,
/// the state is of a container that this process is the first of.
pub(super) fn hand_over(
    listener: &Listener,
    descriptor: OwnedFd,
    pid: u32,
    state: &Value,
) -> Result<(), StepError> {
    let step = "hand seccomp listener to";
    let socket = connect(&listener.path).context(step, listener.path.display())?;
    let text = process_state(listener, pid, state).to_string();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = [descriptor.as_fd()];
    control.push(SendAncillaryMessage::ScmRights(&descriptors));
    let mut rest = text.as_bytes();
    while !rest.is_empty() {
        let part = [IoSlice::new(rest)];
        let sent = rustix::io::retry_on_intr(|| {
            rustix::net::sendmsg(&socket, &part, &mut control, SendFlags::NOSIGNAL)
        });
        rest = &rest[sent.context(step, listener.path.display())?..];
        // The descriptor has gone with the first bytes.
        control.clear();
    }
    Ok(())
}

fn process_state(listener: &Listener, pid: u32, state: &Value) -> Value {
    let mut state = state.clone();
    if let Some(members) = state.as_object_mut() {
        members.entry("pid").or_insert(pid.into());
    }
    let mut process = json!({
        "ociVersion": crate::state::OCI_VERSION,
        "fds": ["seccompFd"],
        "pid": pid,
        "state": state,
    });
    if let Some(metadata) = &listener.metadata {
        process["metadata"] = json!(metadata);
    }
    process
}

/// However long the path is.
fn connect(path: &Path) -> Result<OwnedFd, Errno> {
    let name = path.file_name().ok_or(Errno::INVAL)?;
    let directory = path.parent().filter(|path| !path.as_os_str().is_empty());
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(directory.unwrap_or(Path::new(".")), flags, Mode::empty())?;
    let short = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd())).join(name);
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    set_socket_timeout(&socket, Timeout::Send, Some(PATIENCE))?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(short)?)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixListener;

    use super::*;

    fn listener(path: &Path, metadata: Option<&str>) -> Listener {
        Listener {
            path: path.to_owned(),
            metadata: metadata.map(str::to_owned),
            handover: crate::seccomp::Handover::Sendmsg,
        }
    }

    #[test]
    fn one_connection_carries_the_state_and_ends() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.sock");
        let socket = UnixListener::bind(&path).unwrap();
        // More than a socket's buffer takes at once.
        let metadata = "m".repeat(1 << 20);
        let agent = std::thread::spawn(move || {
            let (mut stream, _) = socket.accept().unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).unwrap();
            serde_json::from_str::<Value>(&text).unwrap()
        });
        let descriptor = rustix::fs::open("/dev/null", OFlags::RDONLY, Mode::empty()).unwrap();
        let listener = listener(&path, Some(&metadata));
        hand_over(&listener, descriptor, 7, &json!({"id": "web"})).unwrap();
        let expected = json!({
            "ociVersion": crate::state::OCI_VERSION,
            "fds": ["seccompFd"],
            "pid": 7,
            "metadata": metadata,
            "state": {"id": "web", "pid": 7},
        });
        assert_eq!(agent.join().unwrap(), expected);
    }

    #[test]
    fn nobody_there_is_an_error_that_names_the_path() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("nobody.sock");
        let descriptor = rustix::fs::open("/dev/null", OFlags::RDONLY, Mode::empty()).unwrap();
        let error = hand_over(&listener(&path, None), descriptor, 7, &json!({})).unwrap_err();
        assert_eq!(error.errno, Some(Errno::NOENT.raw_os_error()));
        assert!(error.subject.ends_with("nobody.sock"));
    }
}
