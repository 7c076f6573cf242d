//! One directory of one hierarchy: its control files and its subtree, always below a directory fd.
//!
//! A container with a cgroup namespace of its own may make groups below its group, as deep as it likes.
//! Walks are therefore iterative, hold two descriptors whatever the depth, and form no path.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::StepError;
use crate::beneath::{self, Mounts};

/// How long `remove` bears EBUSY: the kernel unlinks a dead process from its group a little after
/// the process has been reported dead.
const BUSY_PATIENCE: Duration = Duration::from_secs(1);

/// A group's directory in one hierarchy, open.
#[derive(Debug)]
pub(super) struct Directory {
    fd: OwnedFd,
    /// For messages only.
    path: PathBuf,
}

pub(super) fn failed(step: &str, subject: &Path, errno: Errno, remedy: &str) -> StepError {
    let mut cause = std::io::Error::from(errno).to_string();
    if !remedy.is_empty() {
        cause = format!("{cause}; {remedy}");
    }
    StepError {
        step: step.to_owned(),
        subject: subject.display().to_string(),
        errno: Some(errno.raw_os_error()),
        cause,
    }
}

pub(super) fn refused(step: &str, subject: impl ToString, cause: impl Into<String>) -> StepError {
    StepError {
        step: step.to_owned(),
        subject: subject.to_string(),
        errno: None,
        cause: cause.into(),
    }
}

/// Whether the error says that there is no such group.
pub(super) fn is_absent(error: &StepError) -> bool {
    error.errno == Some(Errno::NOENT.raw_os_error())
}

/// From the root of the file system.
fn open_without_links(path: &Path) -> Result<OwnedFd, Errno> {
    match beneath::openat2(CWD, path, directory_flags(), ResolveFlags::NO_SYMLINKS) {
        Err(Errno::NOSYS) => {}
        other => return other,
    }
    let root = rustix::fs::open("/", directory_flags(), Mode::empty())?;
    let below = path.strip_prefix("/").map_err(|_| Errno::INVAL)?;
    beneath::open(root.as_fd(), below, directory_flags(), Mounts::Enter)
}

fn directory_flags() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC
}

impl Directory {
    /// The root of a hierarchy.
    pub(super) fn root(point: &Path) -> Result<Directory, StepError> {
        let fd = rustix::fs::openat(CWD, point, directory_flags(), Mode::empty())
            .map_err(|errno| failed("open cgroup root", point, errno, ""))?;
        let path = point.to_owned();
        Ok(Directory { fd, path })
    }

    /// The group at `relative` below the root of a hierarchy, by one system call; None if there is none.
    /// Mount points are listed without symbolic links, and `relative` has been checked by `Hierarchy::group`.
    pub(super) fn at(point: &Path, relative: &str) -> Result<Option<Directory>, StepError> {
        let path = point.join(relative);
        match open_without_links(&path) {
            Ok(fd) => Ok(Some(Directory { fd, path })),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(failed("open cgroup", &path, errno, "")),
        }
    }

    /// The group at `relative` below this directory; None if there is none.
    pub(super) fn open(&self, relative: &str) -> Result<Option<Directory>, StepError> {
        let path = self.path.join(relative);
        // Nothing below a hierarchy's root is a symbolic link or another mount; whatever is, is not ours.
        let directory = self.fd.as_fd();
        match beneath::open(
            directory,
            Path::new(relative),
            directory_flags(),
            Mounts::Refuse,
        ) {
            Ok(fd) => Ok(Some(Directory { fd, path })),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(failed("open cgroup", &path, errno, "")),
        }
    }

    /// Makes and opens the child `name`; the flag tells whether it is new.
    pub(super) fn make(&self, name: &str) -> Result<(Directory, bool), StepError> {
        let path = self.path.join(name);
        let mode = Mode::from_raw_mode(0o755);
        let new = match rustix::fs::mkdirat(&self.fd, name, mode) {
            // The monitor's umask must not keep a container's users from reading their own limits.
            Ok(()) => {
                rustix::fs::chmodat(&self.fd, name, mode, AtFlags::empty())
                    .map_err(|errno| failed("create cgroup", &path, errno, ""))?;
                true
            }
            Err(Errno::EXIST) => false,
            Err(errno) => return Err(failed("create cgroup", &path, errno, make_remedy(errno))),
        };
        match self.open(name)? {
            Some(child) => Ok((child, new)),
            None => Err(failed(
                "create cgroup",
                &path,
                Errno::NOENT,
                "it vanished at once",
            )),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn into_fd(self) -> OwnedFd {
        self.fd
    }

    pub(super) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// Whether systemd says that it has left what is below to others. Root's mark can be read by root alone,
    /// a user's by everybody.
    pub(super) fn is_delegated(&self) -> bool {
        ["trusted.delegate", "user.delegate"].iter().any(|name| {
            let mut value = [0u8; 8];
            let length = rustix::fs::fgetxattr(&self.fd, *name, &mut value[..]);
            length.is_ok_and(|length| value[..length].starts_with(b"1"))
        })
    }

    /// A control file's text; None if the kernel offers no such file here, or no more: systemd removes a scope as soon as
    /// its last process has ended.
    pub(super) fn read(&self, file: &str) -> Result<Option<String>, StepError> {
        match read(&self.fd, file) {
            Ok(text) => Ok(Some(text)),
            // ENODEV: it was removed between open and read.
            Err(Errno::NOENT | Errno::NODEV) => Ok(None),
            Err(errno) => Err(failed("read", &self.path.join(file), errno, "")),
        }
    }

    /// Opens a control file for several writes, each of a whole value.
    pub(super) fn open_to_write(&self, file: &str) -> Result<OwnedFd, Errno> {
        let flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        rustix::fs::openat(&self.fd, file, flags, Mode::empty())
    }

    /// Writes a control file. The errno is the caller's to explain.
    pub(super) fn try_write(&self, file: &str, value: &str) -> Result<(), Errno> {
        let fd = self.open_to_write(file)?;
        // Control files take a whole value in one write(2); a short one does not occur.
        rustix::io::write(&fd, value.as_bytes())?;
        Ok(())
    }

    pub(super) fn write(&self, file: &str, value: &str, remedy: &str) -> Result<(), StepError> {
        self.try_write(file, value).map_err(|errno| {
            let step = format!("write {value:?} to");
            failed(&step, &self.path.join(file), errno, remedy)
        })
    }

    /// Pids of this group and of everything below it, as `cgroup.procs` tells them (0: a process that
    /// this pid namespace cannot name).
    pub(super) fn processes(&self) -> Result<Vec<u32>, StepError> {
        let mut pids = Vec::new();
        self.visit(|fd| {
            let text = read(fd, "cgroup.procs")?;
            pids.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()));
            Ok(())
        })?;
        Ok(pids)
    }

    /// Sums `key` of the flat-keyed `file` over this group and everything below it.
    pub(super) fn sum(&self, file: &str, key: &str) -> Result<u64, StepError> {
        let mut sum = 0u64;
        self.visit(|fd| {
            sum += value_of(&read(fd, file)?, key).unwrap_or(0);
            Ok(())
        })?;
        Ok(sum)
    }

    /// Removes everything below this directory, deepest first, and then the child `name` itself.
    pub(super) fn remove(&self, name: &str) -> Result<(), StepError> {
        let Some(top) = self.open(name)? else {
            return Ok(());
        };
        let deadline = Instant::now() + BUSY_PATIENCE;
        let name = CString::new(name)
            .map_err(|_| refused("remove cgroup", top.path.display(), "its name contains NUL"))?;
        let removed = walk(&top.fd, &mut |_| Ok(()), &mut |parent, name| {
            remove_directory(parent, name, deadline)
        })
        .and_then(|()| remove_directory(&self.fd, &name, deadline));
        removed.map_err(|errno| failed("remove cgroup", &top.path, errno, &top.occupants()))
    }

    /// Who keeps the group busy, for the message of `remove`.
    fn occupants(&self) -> String {
        match self.processes() {
            Ok(pids) if !pids.is_empty() => format!("kill it first: processes {pids:?} are in it"),
            _ => String::new(),
        }
    }

    fn visit(&self, mut enter: impl FnMut(&OwnedFd) -> Result<(), Errno>) -> Result<(), StepError> {
        walk(&self.fd, &mut enter, &mut |_, _| Ok(()))
            .map_err(|errno| failed("walk cgroup", &self.path, errno, ""))
    }
}

/// The number after `key ` in a flat-keyed file such as memory.events.
pub(super) fn value_of(text: &str, key: &str) -> Option<u64> {
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .find(|(name, _)| *name == key)
        .and_then(|(_, value)| value.trim().parse().ok())
}

/// Writes a control file by its path, in three system calls. For groups as `Directory::at` opens them.
pub(super) fn write_at(group: &Path, file: &str, value: &str) -> Result<(), Errno> {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let fd = rustix::fs::open(group.join(file), flags, Mode::empty())?;
    rustix::io::write(&fd, value.as_bytes())?;
    Ok(())
}

/// Reads a control file of one value by its path.
pub(super) fn read_at(group: &Path, file: &str) -> Result<String, Errno> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let fd = rustix::fs::open(group.join(file), flags, Mode::empty())?;
    let mut text = Vec::new();
    crate::kernel_text::read_to_end(&fd, &mut text)?;
    String::from_utf8(text).map_err(|_| Errno::ILSEQ)
}

/// Makes groups by their paths.
#[derive(Debug, Default)]
pub(super) struct Maker {
    /// Whether this process's umask takes something from the mode, once one has been looked at.
    masked: Option<bool>,
}

impl Maker {
    /// Makes a group whose parent is there; whether it is new. ENOENT: the parent is not.
    pub(super) fn make(&mut self, group: &Path) -> Result<bool, Errno> {
        let mode = Mode::from_raw_mode(0o755);
        match rustix::fs::mkdir(group, mode) {
            Ok(()) => {}
            Err(Errno::EXIST) => return Ok(false),
            Err(errno) => return Err(errno),
        }
        let masked = match self.masked {
            Some(masked) => masked,
            None => rustix::fs::stat(group)?.st_mode & 0o777 != 0o755,
        };
        self.masked = Some(masked);
        if masked {
            // As in `Directory::make`.
            rustix::fs::chmod(group, mode)?;
        }
        Ok(true)
    }
}

fn make_remedy(errno: Errno) -> &'static str {
    match errno {
        Errno::ROFS => "the cgroup file system is mounted read-only here: remount it writable",
        Errno::ACCESS | Errno::PERM => {
            "run as root, or in a delegated group (systemd: Delegate=yes)"
        }
        Errno::AGAIN => "the parent's cgroup.max.descendants or cgroup.max.depth is reached",
        _ => "",
    }
}

fn read(directory: &OwnedFd, file: &str) -> Result<String, Errno> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let fd = rustix::fs::openat(directory, file, flags, Mode::empty())?;
    let mut bytes = Vec::new();
    crate::kernel_text::read_to_end(&fd, &mut bytes)?;
    String::from_utf8(bytes).map_err(|_| Errno::ILSEQ)
}

/// Calls `enter` on the top and on every directory below it, and `leave(parent, name)` when a directory
/// below the top and all below it have been seen. What vanishes meanwhile is passed over.
fn walk(
    top: &OwnedFd,
    enter: &mut dyn FnMut(&OwnedFd) -> Result<(), Errno>,
    leave: &mut dyn FnMut(&OwnedFd, &CStr) -> Result<(), Errno>,
) -> Result<(), Errno> {
    let mut here = open_child(top, c".")?;
    pass_over_vanished(enter(&here))?;
    let mut names: Vec<CString> = Vec::new();
    let mut pending = vec![children(&here)?];
    while let Some(siblings) = pending.last_mut() {
        if let Some(name) = siblings.pop() {
            match open_child(&here, &name) {
                Ok(child) => here = child,
                Err(Errno::NOENT) => continue,
                Err(errno) => return Err(errno),
            }
            pass_over_vanished(enter(&here))?;
            pending.push(children(&here)?);
            names.push(name);
        } else {
            pending.pop();
            if let Some(name) = names.pop() {
                here = open_child(&here, c"..")?;
                leave(&here, &name)?;
            }
        }
    }
    Ok(())
}

fn pass_over_vanished(result: Result<(), Errno>) -> Result<(), Errno> {
    match result {
        Err(Errno::NOENT | Errno::NODEV) => Ok(()),
        other => other,
    }
}

fn open_child(parent: &OwnedFd, name: &CStr) -> Result<OwnedFd, Errno> {
    let flags = directory_flags() | OFlags::NOFOLLOW;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

fn children(directory: &OwnedFd) -> Result<Vec<CString>, Errno> {
    let mut names = Vec::new();
    // As in most file systems a directory's links are its own name, its `.` and each child's `..`. Listing a group's
    // dozens of control files takes far longer than asking for this number.
    if rustix::fs::fstat(directory)?.st_nlink == 2 {
        return Ok(names);
    }
    for entry in Dir::read_from(directory.as_fd())? {
        let entry = match entry {
            Err(Errno::NOENT) => break,
            other => other?,
        };
        let dots = entry.file_name() == c"." || entry.file_name() == c"..";
        if entry.file_type() == FileType::Directory && !dots {
            names.push(entry.file_name().to_owned());
        }
    }
    Ok(names)
}

fn remove_directory(parent: &OwnedFd, name: &CStr, deadline: Instant) -> Result<(), Errno> {
    let mut pause = Duration::from_micros(100);
    loop {
        match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::BUSY) if Instant::now() < deadline => {
                // Nothing announces that the kernel has let go, so this looks again after a moment.
                std::thread::sleep(pause);
                pause = (pause * 2).min(Duration::from_millis(20));
            }
            Err(errno) => return Err(errno),
        }
    }
}
