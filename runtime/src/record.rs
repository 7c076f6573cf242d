//! The run directory: the files that are the truth about a container, and the lock that proves a monitor lives.
//!
//! | file           | written by | says |
//! |----------------|------------|------|
//! | `lock`         | monitor    | a POSIX record lock on it is held as long as the monitor lives |
//! | `state.json`   | monitor    | the cgroup (before it is made), the phase, the first process |
//! | `exit.json`    | monitor    | how it ended; written before anyone is told |
//! | `monitor.sock` | monitor    | where `start` and `subscribe` are heard |
//!
//! Files appear by rename, whole or not at all. The lock is a POSIX one because it dies with its process, is
//! not inherited by init and tells its holder's pid; outsiders ask and lock by open file description, so that
//! closing a descriptor elsewhere in their process does not drop their lock.

use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::fcntl::{FcntlArg, fcntl};
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::StepError;
use crate::error::Context;
use crate::kernel_text;
use crate::pidfd;

/// Layout of the files and of the monitor's protocol. Monitors outlive upgrades of the agent.
pub(crate) const VERSION: u32 = 1;
pub(crate) const SOCKET: &str = "monitor.sock";
const LOCK: &str = "lock";
const STATE: &str = "state.json";
const EXIT: &str = "exit.json";
/// Far more than any record needs.
const RECORD_MAX: u64 = 64 * 1024;

/// How far a container has come; `exit.json` says that it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Phase {
    /// Being made. Nothing has run.
    Creating,
    /// Init waits. Nothing has run.
    Created,
    /// `start` was accepted: the program may run. Written before init is told.
    Running,
}

/// `state.json`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StateRecord {
    pub(crate) version: u32,
    pub(crate) id: String,
    pub(crate) cgroup: String,
    pub(crate) phase: Phase,
    pub(crate) init: Option<Process>,
}

/// A process, told from a later one of the same pid by its start time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    /// Clock ticks since boot, proc_pid_stat(5) field 22.
    pub(crate) started: u64,
}

/// An open run directory.
#[derive(Debug)]
pub(crate) struct RunDirectory {
    fd: OwnedFd,
    path: PathBuf,
}

impl RunDirectory {
    /// Opens it; None if it is not there.
    pub(crate) fn open(path: &Path) -> Result<Option<RunDirectory>, StepError> {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(fd) => Ok(Some(RunDirectory {
                fd,
                path: path.to_owned(),
            })),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(StepError::io("open run directory", path.display(), errno)),
        }
    }

    /// One that was received already open.
    pub(crate) fn from_fd(fd: OwnedFd, id: &str) -> RunDirectory {
        RunDirectory {
            fd,
            path: PathBuf::from(id),
        }
    }

    /// The path of the socket, short enough for sockaddr_un wherever the directory lies.
    pub(crate) fn socket_path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", self.fd.as_raw_fd()))
    }

    pub(crate) fn state(&self) -> Result<Option<StateRecord>, StepError> {
        let state: Option<StateRecord> = self.read(STATE)?;
        state
            .map(|state| self.known(state.version, STATE).map(|()| state))
            .transpose()
    }

    pub(crate) fn write_state(&self, state: &StateRecord) -> Result<(), StepError> {
        // No fsync: after a power failure no process is left to be told about.
        self.write(STATE, state, false)
    }

    pub(crate) fn exit(&self) -> Result<Option<crate::container::ExitRecord>, StepError> {
        let exit: Option<crate::container::ExitRecord> = self.read(EXIT)?;
        exit.map(|exit| self.known(exit.version, EXIT).map(|()| exit))
            .transpose()
    }

    pub(crate) fn write_exit(&self, exit: &crate::container::ExitRecord) -> Result<(), StepError> {
        self.write(EXIT, exit, true)
    }

    /// Takes the monitor's lock for this process's life. Refused while another holds it or removes the directory.
    pub(crate) fn lock_as_monitor(&self) -> Result<OwnedFd, StepError> {
        let file = self.open_lock(OFlags::CREATE)?;
        rustix::fs::fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive)
            .context("lock run directory", self.path.display())?;
        Ok(file)
    }

    /// Keeps any new monitor out while the directory is removed. EAGAIN while one lives.
    pub(crate) fn lock_as_remover(&self) -> Result<OwnedFd, Errno> {
        let file = self.open_lock(OFlags::CREATE).map_err(|error| {
            Errno::from_raw_os_error(error.errno.unwrap_or(Errno::IO.raw_os_error()))
        })?;
        let lock = whole_file(libc::F_WRLCK);
        fcntl(file.as_fd(), FcntlArg::F_OFD_SETLK(&lock))
            .map_err(|e| Errno::from_raw_os_error(e as i32))?;
        Ok(file)
    }

    /// The pid of the living monitor.
    pub(crate) fn monitor(&self) -> Result<Option<u32>, StepError> {
        let file = match self.open_lock(OFlags::empty()) {
            Err(error) if error.errno == Some(Errno::NOENT.raw_os_error()) => return Ok(None),
            other => other?,
        };
        let mut lock = whole_file(libc::F_WRLCK);
        fcntl(file.as_fd(), FcntlArg::F_OFD_GETLK(&mut lock))
            .context("query lock", self.path.display())?;
        // An OFD lock (pid -1) is a remover's, not a monitor's.
        Ok(
            (i32::from(lock.l_type) != libc::F_UNLCK && lock.l_pid > 0)
                .then_some(lock.l_pid as u32),
        )
    }

    /// Removes every file, the lock last, then the directory. False if something new appeared meanwhile.
    pub(crate) fn remove(&self) -> Result<bool, StepError> {
        let context = |name: &str| format!("{}/{name}", self.path.display());
        let names = rustix::fs::Dir::read_from(&self.fd).context("list", self.path.display())?;
        for entry in names {
            let entry = entry.context("list", self.path.display())?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name != "." && name != ".." && name != LOCK {
                forgive_missing(rustix::fs::unlinkat(&self.fd, &name, AtFlags::empty()))
                    .context("remove", context(&name))?;
            }
        }
        forgive_missing(rustix::fs::unlinkat(&self.fd, LOCK, AtFlags::empty()))
            .context("remove", context(LOCK))?;
        match rustix::fs::rmdir(&self.path) {
            Ok(()) | Err(Errno::NOENT) => Ok(true),
            Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
            Err(errno) => Err(StepError::io("remove", self.path.display(), errno)),
        }
    }

    fn open_lock(&self, extra: OFlags) -> Result<OwnedFd, StepError> {
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC | extra;
        rustix::fs::openat(&self.fd, LOCK, flags, Mode::from_raw_mode(0o600))
            .context("open lock of", self.path.display())
    }

    fn known(&self, version: u32, name: &str) -> Result<(), StepError> {
        if version == VERSION {
            return Ok(());
        }
        let subject = format!("{}/{name}", self.path.display());
        Err(StepError::refused(
            "read",
            subject,
            format!("its version {version} is newer than {VERSION}; upgrade the agent"),
        ))
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, StepError> {
        read_record(self.fd.as_fd(), &self.path, name, RECORD_MAX)
    }

    fn write(&self, name: &str, record: &impl Serialize, durable: bool) -> Result<(), StepError> {
        write_record(self.fd.as_fd(), &self.path, name, record, durable)
    }
}

impl AsFd for RunDirectory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Reads a file of JSON in an open directory; None if it is not there. `path` is for messages.
pub(crate) fn read_record<T: DeserializeOwned>(
    directory: BorrowedFd<'_>,
    path: &Path,
    name: &str,
    max: u64,
) -> Result<Option<T>, StepError> {
    let subject = || format!("{}/{name}", path.display());
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = match rustix::fs::openat(directory, name, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(None),
        other => other.context("open", subject())?,
    };
    // Large enough for most, so that it is read at once.
    let mut text = Vec::with_capacity(4 << 10);
    std::fs::File::from(file)
        .take(max)
        .read_to_end(&mut text)
        .context("read", subject())?;
    let parsed = serde_json::from_slice(&text);
    parsed
        .map(Some)
        .map_err(|error| StepError::refused("read", subject(), format!("damaged record: {error}")))
}

/// Writes a file of JSON in an open directory: it appears by rename, whole or not at all.
pub(crate) fn write_record(
    directory: BorrowedFd<'_>,
    path: &Path,
    name: &str,
    record: &impl Serialize,
    durable: bool,
) -> Result<(), StepError> {
    let subject = || format!("{}/{name}", path.display());
    let fresh = format!("{name}.new");
    let text = serde_json::to_vec(record).context("write", subject())?;
    let flags =
        OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(directory, &fresh, flags, Mode::from_raw_mode(0o600))
        .context("write", subject())?;
    let mut file = std::fs::File::from(file);
    file.write_all(&text).context("write", subject())?;
    if durable {
        file.sync_all().context("sync", subject())?;
    }
    rustix::fs::renameat(directory, &fresh, directory, name).context("rename", subject())?;
    if durable {
        rustix::fs::fsync(directory).context("sync", path.display())?;
    }
    Ok(())
}

fn forgive_missing(result: Result<(), Errno>) -> Result<(), Errno> {
    match result {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}

fn whole_file(kind: libc::c_int) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

impl Process {
    /// The process that has this pid now.
    pub(crate) fn of_pid(pid: u32) -> Result<Process, StepError> {
        let path = format!("/proc/{pid}/stat");
        let stat = kernel_text::read(&path).context("read", &path)?;
        let started = started(&String::from_utf8_lossy(&stat))
            .ok_or_else(|| StepError::refused("read", &path, "no start time in it"))?;
        Ok(Process { pid, started })
    }

    /// Whether it has not ended. A zombie has: it waits for its parent only.
    pub(crate) fn is_alive(&self) -> Result<bool, StepError> {
        let path = format!("/proc/{}/stat", self.pid);
        match kernel_text::read(&path) {
            Ok(stat) => {
                let stat = String::from_utf8_lossy(&stat);
                Ok(started(&stat) == Some(self.started) && !matches!(letter(&stat), 'Z' | 'X'))
            }
            // ESRCH: it ended between open and read.
            Err(Errno::NOENT | Errno::SRCH) => Ok(false),
            Err(errno) => Err(StepError::io("read", path, errno)),
        }
    }

    /// A pidfd of it; None if it has ended, whoever has its pid now.
    pub(crate) fn open(&self) -> Result<Option<OwnedFd>, StepError> {
        let pidfd = pidfd::open(self.pid).context("open process", self.pid)?;
        // Compared after the pidfd was opened: if the process at this pid is the right one now, it was then.
        Ok(pidfd.filter(|_| Process::of_pid(self.pid).ok() == Some(*self)))
    }
}

/// Field 22; field 2, the name in parentheses, may hold anything.
fn started(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_whitespace().nth(19)?.parse().ok()
}

/// Field 3, the state; `X` if there is none.
fn letter(stat: &str) -> char {
    let after_name = stat.rsplit_once(')').map(|(_, rest)| rest.trim_start());
    after_name
        .and_then(|rest| rest.chars().next())
        .unwrap_or('X')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory() -> (tempfile::TempDir, RunDirectory) {
        let directory = tempfile::tempdir().unwrap();
        let run = directory.path().join("c");
        std::fs::create_dir(&run).unwrap();
        let run = RunDirectory::open(&run).unwrap().unwrap();
        (directory, run)
    }

    #[test]
    fn start_time_survives_a_hostile_name() {
        let fields: Vec<String> = (3..=52).map(|n| n.to_string()).collect();
        assert_eq!(
            started(&format!("7 (a) b) 1) {}", fields.join(" "))),
            Some(22)
        );
        assert_eq!(letter("7 (a) Z) R 1"), 'R');
        assert_eq!(started("7 (a"), None);
    }

    #[test]
    fn a_process_is_told_from_a_later_one_of_its_pid() {
        let me = Process::of_pid(std::process::id()).unwrap();
        assert!(me.open().unwrap().is_some() && me.is_alive().unwrap());
        let other = Process {
            started: me.started + 1,
            ..me
        };
        assert!(other.open().unwrap().is_none() && !other.is_alive().unwrap());
    }

    #[test]
    fn a_zombie_has_ended() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let process = Process::of_pid(child.id()).unwrap();
        let id = rustix::process::WaitId::Pid(rustix::process::Pid::from_child(&child));
        let keep = rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOWAIT;
        rustix::process::waitid(id, keep).unwrap();
        assert!(!process.is_alive().unwrap());
        child.wait().unwrap();
        assert!(!process.is_alive().unwrap());
    }

    #[test]
    fn records_come_back_and_damage_is_named() {
        let (holder, run) = directory();
        assert_eq!(run.state().unwrap(), None);
        let state = StateRecord {
            version: VERSION,
            id: "c".into(),
            cgroup: "g".into(),
            phase: Phase::Creating,
            init: None,
        };
        run.write_state(&state).unwrap();
        assert_eq!(run.state().unwrap(), Some(state));
        std::fs::write(holder.path().join("c/state.json"), "{").unwrap();
        assert!(run.state().unwrap_err().cause.contains("damaged"));
    }

    #[test]
    fn a_remover_keeps_monitors_out() {
        let (_holder, run) = directory();
        assert_eq!(run.monitor().unwrap(), None);
        let lock = run.lock_as_remover().unwrap();
        assert!(run.lock_as_monitor().is_err());
        assert_eq!(run.monitor().unwrap(), None);
        assert!(run.remove().unwrap());
        drop(lock);
    }
}
