//! sd_notify(3) across the wall: a container that tells its supervisor that it is ready.
//!
//! The supervisor gave us NOTIFY_SOCKET. The container gets a socket of its own instead, in a directory of the
//! container's state that is bound read-only into it, so that it can say nothing else to the supervisor and in no
//! other's name. The directory has the supervisor's path there, as below crun, where nothing of the container's own
//! can be in its way. `start` and `run` read there and pass on READY, then say which process is the main one.
//!
//! ```text
//!   create:      directory, mount, environment
//!   start, run:  bind ─▶ execve ─▶ READY=1 heard ─▶ READY=1, MAINPID=, BARRIER=1 to the supervisor
//! ```
//! Deliberately absent: everything else that sd_notify can say; a container's word is not trusted with it.

use std::ffi::OsString;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use oci_spec::runtime::{Mount, MountBuilder, Spec};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::StepError;
use crate::error::Context;

const VARIABLE: &str = "NOTIFY_SOCKET";
/// In the state directory.
const DIRECTORY: &str = "notify";
const SOCKET: &str = "notify";
/// In the container, where the supervisor's path will not do.
const INSIDE: &str = "/run/notify";
/// What a container has of its own, and where its own systemd would listen.
const NOT_INSIDE: [&str; 4] = ["/proc", "/sys", "/dev", "/run/systemd"];
/// unix(7): with the socket's name and a zero byte it must fit into an address.
const INSIDE_MAX: usize = 108 - 1 - SOCKET.len() - 1;
/// As large as systemd takes one.
const DATAGRAM_MAX: usize = 4096;
/// How many are read in one look.
const AT_ONCE: usize = 64;
/// How long a supervisor may take to read what it was sent.
const BARRIER_PATIENCE: Duration = Duration::from_secs(5);

/// The supervisor's socket, if there is a supervisor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Supervisor(OsString);

impl Supervisor {
    /// Whom this process's environment names.
    pub(crate) fn of_environment() -> Option<Supervisor> {
        let name = std::env::var_os(VARIABLE)?;
        (!name.is_empty()).then_some(Supervisor(name))
    }

    /// Adds the mount and the variable to a spec that is about to be planned. `state` is the path of the container's
    /// state directory, which need not exist yet.
    pub(crate) fn add_to(&self, spec: &mut Spec, state: &Path) -> Result<(), StepError> {
        let mounts = spec.mounts_mut().get_or_insert_default();
        let inside = self.inside(mounts).to_owned();
        let mount = MountBuilder::default()
            .destination(&inside)
            .typ("bind")
            .source(state.join(DIRECTORY))
            .options(["bind", "nosuid", "noexec", "nodev", "ro"].map(str::to_owned))
            .build();
        let mount: Mount =
            mount.map_err(|error| StepError::refused("plan", VARIABLE, error.to_string()))?;
        mounts.push(mount);
        if let Some(process) = spec.process_mut() {
            let env = process.env_mut().get_or_insert_default();
            let is_ours = |entry: &str| entry.split('=').next() == Some(VARIABLE);
            env.retain(|entry| !is_ours(entry));
            env.push(format!("{VARIABLE}={inside}/{SOCKET}"));
        }
        Ok(())
    }

    /// Where the directory is bound. Not where a bind mount of the spec's shows a place of the host's: the supervisor's
    /// socket itself may lie there.
    fn inside(&self, mounts: &[Mount]) -> &str {
        let Some(path) = self.0.to_str().filter(|path| path.len() <= INSIDE_MAX) else {
            return INSIDE;
        };
        let mut parts = Path::new(path).components();
        let rooted = parts.next() == Some(Component::RootDir);
        let plain = parts.clone().count() > 1
            && parts.all(|part| matches!(part, Component::Normal(_)))
            && !path.ends_with('/');
        let of_host = mounts.iter().any(|mount| {
            let destination = mount.destination();
            // Where one with `..` in it leads, the mounts before it decide.
            let anywhere = destination
                .components()
                .any(|part| part == Component::ParentDir);
            let there = anywhere || Path::new(path).starts_with(destination);
            there
                && mount
                    .source()
                    .as_ref()
                    .is_some_and(|source| source.is_absolute())
        });
        let taken = NOT_INSIDE
            .iter()
            .any(|other| Path::new(path).starts_with(other));
        match rooted && plain && !taken && !of_host {
            true => path,
            false => INSIDE,
        }
    }

    fn connect(&self) -> Result<UnixDatagram, StepError> {
        let step = "connect to supervisor";
        let shown = Path::new(&self.0).display();
        let address = match self.0.as_bytes().strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name),
            None => SocketAddr::from_pathname(&self.0),
        };
        let socket = UnixDatagram::unbound().context(step, &shown)?;
        address
            .and_then(|address| socket.connect_addr(&address))
            .context(step, &shown)?;
        Ok(socket)
    }
}

/// Makes the directory that [`Supervisor::add_to`] mounts, in the state directory.
pub(crate) fn make_directory(state: BorrowedFd<'_>) -> Result<(), StepError> {
    let path = below(state, DIRECTORY);
    std::fs::create_dir(&path)
        .and_then(|()| std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)))
        .context("make directory", path.display())
}

/// What the container says, on its way to the supervisor.
#[derive(Debug)]
pub(crate) struct Notify {
    socket: UnixDatagram,
    supervisor: UnixDatagram,
    pid: u32,
}

impl Notify {
    /// Listens, before the program runs. `pid` is what the supervisor shall take for the main process. None if the
    /// container's state has no such directory: it was made when there was no supervisor.
    pub(crate) fn listen(
        supervisor: &Supervisor,
        state: BorrowedFd<'_>,
        pid: u32,
    ) -> Result<Option<Notify>, StepError> {
        let directory = below(state, DIRECTORY);
        if !directory.is_dir() {
            return Ok(None);
        }
        let path = directory.join(SOCKET);
        let bind = || {
            // Of a start that was killed before the program ran.
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let socket = UnixDatagram::bind(&path)?;
            // Whatever user the container's program is.
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o777))?;
            socket.set_nonblocking(true)?;
            Ok::<_, std::io::Error>(socket)
        };
        Ok(Some(Notify {
            socket: bind().context("listen on", SOCKET)?,
            supervisor: supervisor.connect()?,
            pid,
        }))
    }

    /// Reads what has come; whether the container is ready and the supervisor knows it.
    pub(crate) fn hear(&self) -> Result<bool, StepError> {
        let mut datagram = [0; DATAGRAM_MAX];
        // A container may send without end: whoever listens must come to its other duties. An error, such as a
        // datagram that another has taken, means that there is nothing to read.
        for _ in 0..AT_ONCE {
            let Ok(length) = self.socket.recv(&mut datagram) else {
                break;
            };
            if let Some(ready) = ready_line(&datagram[..length]) {
                self.pass_on(ready)?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Waits until the container is ready or its first process has ended.
    pub(crate) fn wait(&self, process: BorrowedFd<'_>) -> Result<(), StepError> {
        loop {
            if self.hear()? {
                return Ok(());
            }
            let mut both = [
                PollFd::new(&self.socket, PollFlags::IN),
                PollFd::from_borrowed_fd(process, PollFlags::IN),
            ];
            rustix::io::retry_on_intr(|| poll(&mut both, None)).context("poll", SOCKET)?;
            if !both[1].revents().is_empty() {
                // It may have been ready just before it ended.
                return self.hear().map(drop);
            }
        }
    }

    fn pass_on(&self, ready: &[u8]) -> Result<(), StepError> {
        let step = "tell supervisor";
        self.supervisor.send(ready).context(step, "READY")?;
        let main = format!("MAINPID={}", self.pid);
        self.supervisor
            .send(main.as_bytes())
            .context(step, "MAINPID")?;
        self.barrier().context(step, "BARRIER")
    }

    /// sd_notify_barrier(3): this process may end once the supervisor has closed its copy, as it tells who sent what by
    /// the sender's pid. A supervisor that knows no barrier costs a little time.
    fn barrier(&self) -> Result<(), std::io::Error> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors = [write.as_fd()];
        control.push(SendAncillaryMessage::ScmRights(&descriptors));
        let payload = [IoSlice::new(b"BARRIER=1")];
        rustix::net::sendmsg(
            &self.supervisor,
            &payload,
            &mut control,
            SendFlags::NOSIGNAL,
        )?;
        drop(write);
        wait_for_close(&read);
        Ok(())
    }
}

impl AsFd for Notify {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Short enough for a socket's address, wherever the directory lies.
fn below(directory: BorrowedFd<'_>, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{name}", directory.as_raw_fd()))
}

fn wait_for_close(read: &OwnedFd) {
    let patience = Timespec {
        tv_sec: BARRIER_PATIENCE.as_secs() as i64,
        tv_nsec: 0,
    };
    // Whatever it says, the time is over.
    poll(&mut [PollFd::new(read, PollFlags::IN)], Some(&patience)).ok();
}

/// The line that says READY, and nothing of the rest.
fn ready_line(datagram: &[u8]) -> Option<&[u8]> {
    let mut lines = datagram.split(|byte| *byte == b'\n');
    lines.find(|line| line.starts_with(b"READY="))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn supervisor(directory: &Path) -> (UnixDatagram, Supervisor) {
        let path = directory.join("supervisor");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        (socket, Supervisor(path.into()))
    }

    fn heard(socket: &UnixDatagram) -> Vec<String> {
        let mut all = Vec::new();
        let mut text = [0; 256];
        while let Ok(length) = socket.recv(&mut text) {
            all.push(String::from_utf8_lossy(&text[..length]).into_owned());
        }
        all
    }

    #[test]
    fn only_ready_reaches_the_supervisor() {
        let directory = tempfile::tempdir().unwrap();
        let (socket, supervisor) = supervisor(directory.path());
        let path = directory.path().join("state");
        std::fs::create_dir(&path).unwrap();
        let state = std::fs::File::open(&path).unwrap();
        let listen = || Notify::listen(&supervisor, state.as_fd(), 7).unwrap();
        assert!(listen().is_none());
        make_directory(state.as_fd()).unwrap();
        // One that was killed leaves its socket's name.
        drop(listen().unwrap());
        let notify = listen().unwrap();
        let container = UnixDatagram::unbound().unwrap();
        container.connect(path.join("notify/notify")).unwrap();
        container.send(b"MAINPID=1\nSTATUS=evil").unwrap();
        assert!(!notify.hear().unwrap());
        assert!(heard(&socket).is_empty());
        container.send(b"STATUS=up\nREADY=1\nMAINPID=1").unwrap();
        // The barrier's pipe closes when the supervisor drops the message that carries it.
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            while all.len() < 3 {
                all.extend(heard(&socket));
            }
            all
        });
        assert!(notify.hear().unwrap());
        assert_eq!(
            reader.join().unwrap(),
            ["READY=1", "MAINPID=7", "BARRIER=1"]
        );
    }

    #[test]
    fn the_container_gets_a_mount_and_a_variable() {
        let mut spec = Spec::default();
        let process = spec.process_mut().as_mut().unwrap();
        process.set_env(Some(vec![format!("{VARIABLE}=/elsewhere"), "A=b".into()]));
        let supervisor = Supervisor("/run/user/7/up".into());
        supervisor
            .add_to(&mut spec, Path::new("/run/x/c1"))
            .unwrap();
        let mount = spec.mounts().as_ref().unwrap().last().unwrap().clone();
        assert_eq!(
            mount.source().as_deref(),
            Some(Path::new("/run/x/c1/notify"))
        );
        assert!(mount.options().as_ref().unwrap().contains(&"ro".to_owned()));
        let env = spec.process().as_ref().unwrap().env().clone().unwrap();
        assert_eq!(env, ["A=b", "NOTIFY_SOCKET=/run/user/7/up/notify"]);
        assert_eq!(mount.destination(), Path::new("/run/user/7/up"));
    }

    #[test]
    fn a_supervisor_s_path_is_taken_where_it_disturbs_nothing() {
        let bind = |source: &str| {
            let bind = MountBuilder::default().destination("/srv").source(source);
            [bind.build().unwrap()]
        };
        let inside = |path: &str, mounts: &[Mount]| {
            let supervisor = Supervisor(path.into());
            supervisor.inside(mounts).to_owned()
        };
        for path in ["/run/a/b", "/srv/a", "/run/systemd-like/notify"] {
            assert_eq!(inside(path, &bind("tmpfs")), path);
        }
        let long = format!("/run/{}", "x".repeat(100));
        let others = [
            "@abstract",
            "/",
            "/run",
            "run/a",
            "/run/../etc/x",
            "/run/a/",
            "/proc/1/fd",
            "/dev/log/x",
            "/sys/x/y",
            "/run/systemd/notify",
            &long,
        ];
        for path in others {
            assert_eq!(inside(path, &[]), INSIDE, "{path}");
        }
        assert_eq!(inside("/srv/a", &bind("/srv")), INSIDE);
    }
}
