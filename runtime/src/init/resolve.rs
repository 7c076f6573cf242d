//! Paths inside the container's root, which is hostile: full of symlinks, and its volumes may change meanwhile.
//!
//! Everything resolves below a directory descriptor and comes back as an O_PATH descriptor; what is then done
//! is done to the descriptor, never to the path again. Magic links (/proc/PID/fd/N and the like) are refused.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::StepError;
use crate::{beneath, classic};

/// Links followed in one path before it counts as a loop, as in the kernel.
const MAX_LINKS: usize = 40;
/// Components handled in one path; PATH_MAX of one-letter names.
const MAX_COMPONENTS: usize = 2048;

/// What to make where a path ends in nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Missing {
    Directory,
    File,
    /// ENOENT.
    Nothing,
}

/// A directory that was open already, or that was opened for its path.
#[derive(Debug)]
pub(super) enum Held<'a> {
    Lent(BorrowedFd<'a>),
    Own(OwnedFd),
}

impl AsFd for Held<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Held::Lent(directory) => *directory,
            Held::Own(directory) => directory.as_fd(),
        }
    }
}

/// Opens what is there, symlinks followed inside `root`.
pub(super) fn open(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, Errno> {
    open_with(root, path, OFlags::PATH)
}

/// As [`open`], with flags such as O_RDONLY instead of O_PATH.
pub(super) fn open_with(
    root: BorrowedFd<'_>,
    path: &Path,
    flags: OFlags,
) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    match beneath::openat2(root, path, flags, resolve) {
        Err(Errno::NOSYS) => {}
        other => return other,
    }
    let found = Walk::new(root, path)?.run(Missing::Nothing)?;
    let kind = FileType::from_raw_mode(rustix::fs::fstat(&found)?.st_mode);
    if flags.contains(OFlags::DIRECTORY) && kind != FileType::Directory {
        return Err(Errno::NOTDIR);
    }
    match flags.contains(OFlags::PATH) {
        true => Ok(found),
        false => classic::reopen(found.as_fd(), flags),
    }
}

/// Opens what is there or makes it, with its parents (0755) and through dangling links, inside `root`.
pub(super) fn open_or_make(
    root: BorrowedFd<'_>,
    path: &Path,
    missing: Missing,
) -> Result<OwnedFd, Errno> {
    match open(root, path) {
        Err(Errno::NOENT) => make_missing(root, path, missing),
        other => other,
    }
}

/// As [`open_or_make`], where [`open`] has just found nothing.
pub(super) fn make_missing(
    root: BorrowedFd<'_>,
    path: &Path,
    missing: Missing,
) -> Result<OwnedFd, Errno> {
    Walk::new(root, path)?.run(missing)
}

/// As [`open_or_make`], but a symlink at the end is what is meant.
pub(super) fn open_or_make_last(
    root: BorrowedFd<'_>,
    path: &Path,
    missing: Missing,
) -> Result<OwnedFd, Errno> {
    let (parent, name) = parent(root, path)?;
    open_or_make_in(parent.as_fd(), name, missing)
}

/// As [`open_or_make_last`], in a directory that is found already.
pub(super) fn open_or_make_in(
    directory: BorrowedFd<'_>,
    name: &OsStr,
    missing: Missing,
) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(directory, name, flags, Mode::empty()) {
        Err(Errno::NOENT) => {
            make(directory, name, missing)?;
            rustix::fs::openat(directory, name, flags, Mode::empty())
        }
        other => other,
    }
}

/// Why [`real_directory`] failed, in words.
pub(super) fn not_real(step: &str, subject: &str, errno: Errno) -> StepError {
    let error = StepError::io(step, subject, errno);
    match errno {
        Errno::NOTDIR | Errno::LOOP => StepError {
            cause:
                "the image has something other than a directory there; it must be a real directory"
                    .into(),
            ..error
        },
        _ => error,
    }
}

/// Opens the directory at `path` or makes it; its last component may not be a symlink.
pub(super) fn real_directory(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, Errno> {
    let (parent, name) = parent(root, path)?;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match rustix::fs::openat(&parent, name, flags, Mode::empty()) {
        Err(Errno::NOENT) => {
            rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755))?;
            rustix::fs::openat(&parent, name, flags, Mode::empty())
        }
        other => other,
    }
}

/// The directory at `path`, made if missing, on the mount that `root` is on. A symlink that leads out of it ends in
/// EXDEV.
pub(super) fn make_on_root(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, Errno> {
    let walk = Walk {
        stays: true,
        ..Walk::new(root, path)?
    };
    walk.run(Missing::Directory)
}

/// The directory at `path` below the root of a mount, made if missing, on that mount. EXDEV where another mount
/// stands in the way, ELOOP where a symlink does: its text would count from another root.
pub(super) fn make_below<'a>(mount: &'a OwnedFd, path: &Path) -> Result<Held<'a>, Errno> {
    if path.as_os_str().is_empty() {
        return Ok(Held::Lent(mount.as_fd()));
    }
    let walk = Walk {
        stays: true,
        links: MAX_LINKS,
        ..Walk::new(mount.as_fd(), path)?
    };
    walk.run(Missing::Directory).map(Held::Own)
}

/// The directory that holds `path`'s last component, made if missing, and that component.
pub(super) fn parent<'a>(
    root: BorrowedFd<'a>,
    path: &'a Path,
) -> Result<(Held<'a>, &'a OsStr), Errno> {
    let name = path.file_name().ok_or(Errno::INVAL)?;
    let directory = match path.parent() {
        Some(none) if none.as_os_str().is_empty() => Held::Lent(root),
        other => {
            let path = other.unwrap_or(Path::new("/"));
            Held::Own(open_or_make(root, path, Missing::Directory)?)
        }
    };
    Ok((directory, name))
}

/// A walk one component at a time, where something may have to be made on the way. Symlinks are read and
/// their text walked, so even a magic link is only text here.
struct Walk {
    /// The directories from the root to here; the first is the root itself, which `..` never leaves.
    stack: Vec<OwnedFd>,
    ahead: VecDeque<OsString>,
    links: usize,
    steps: usize,
    /// Whether it may not leave the mount on which it begins.
    stays: bool,
}

impl Walk {
    fn new(root: BorrowedFd<'_>, path: &Path) -> Result<Walk, Errno> {
        let root = rustix::io::fcntl_dupfd_cloexec(root, 0)?;
        let mut walk = Walk {
            stack: vec![root],
            ahead: VecDeque::new(),
            links: 0,
            steps: 0,
            stays: false,
        };
        walk.prepend(path);
        Ok(walk)
    }

    fn run(mut self, missing: Missing) -> Result<OwnedFd, Errno> {
        while let Some(name) = self.ahead.pop_front() {
            self.steps += 1;
            if self.steps > MAX_COMPONENTS {
                return Err(Errno::NAMETOOLONG);
            }
            if name == ".." {
                self.stack
                    .truncate(self.stack.len().saturating_sub(1).max(1));
            } else if let Some(end) = self.enter(&name, missing)? {
                return Ok(end);
            }
        }
        self.stack.pop().ok_or(Errno::NOENT)
    }

    /// Goes into `name`; a descriptor comes back if the walk ends there at something that is no directory.
    fn enter(&mut self, name: &OsStr, missing: Missing) -> Result<Option<OwnedFd>, Errno> {
        let last = self.ahead.is_empty();
        let here = self.stack.last().ok_or(Errno::NOENT)?.as_fd();
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = || match self.stays {
            true => open_on_mount(here, name, flags),
            false => rustix::fs::openat(here, name, flags, Mode::empty()),
        };
        let found = match open() {
            Err(Errno::NOENT) if missing != Missing::Nothing => {
                make(here, name, if last { missing } else { Missing::Directory })?;
                open()?
            }
            other => other?,
        };
        match FileType::from_raw_mode(rustix::fs::fstat(&found)?.st_mode) {
            FileType::Directory => self.stack.push(found),
            // Nothing can be made below /proc, so its links (many of them magic) need not be followed.
            FileType::Symlink if on_procfs(&found)? => return Err(Errno::NOENT),
            FileType::Symlink => self.follow(&found)?,
            _ if last => return Ok(Some(found)),
            _ => return Err(Errno::NOTDIR),
        }
        Ok(None)
    }

    fn follow(&mut self, link: &OwnedFd) -> Result<(), Errno> {
        self.links += 1;
        if self.links > MAX_LINKS {
            return Err(Errno::LOOP);
        }
        let text = rustix::fs::readlinkat(link, c"", Vec::new())?.into_bytes();
        if text.is_empty() {
            return Err(Errno::NOENT);
        }
        let text = OsString::from_vec(text);
        if text.as_bytes().first() == Some(&b'/') {
            self.stack.truncate(1);
        }
        self.prepend(Path::new(&text));
        Ok(())
    }

    fn prepend(&mut self, path: &Path) {
        for component in path.components().rev() {
            match component {
                Component::Normal(name) => self.ahead.push_front(name.to_owned()),
                Component::ParentDir => self.ahead.push_front("..".into()),
                Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
            }
        }
    }
}

fn open_on_mount(here: BorrowedFd<'_>, name: &OsStr, flags: OFlags) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV;
    match beneath::openat2(here, Path::new(name), flags, resolve) {
        Err(Errno::NOSYS) => {}
        other => return other,
    }
    let found = rustix::fs::openat(here, name, flags, Mode::empty())?;
    match classic::mount_id(found.as_fd())? == classic::mount_id(here)? {
        true => Ok(found),
        false => Err(Errno::XDEV),
    }
}

fn on_procfs(fd: &OwnedFd) -> Result<bool, Errno> {
    Ok(rustix::fs::fstatfs(fd)?.f_type == rustix::fs::PROC_SUPER_MAGIC)
}

/// EEXIST is fine: another container that shares the volume was first, and what it made is opened next.
fn make(directory: BorrowedFd<'_>, name: &OsStr, what: Missing) -> Result<(), Errno> {
    let made = match what {
        Missing::Nothing => Err(Errno::NOENT),
        Missing::Directory => rustix::fs::mkdirat(directory, name, Mode::from_raw_mode(0o755)),
        Missing::File => {
            let flags =
                OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::WRONLY;
            rustix::fs::openat(directory, name, flags, Mode::from_raw_mode(0o644)).map(drop)
        }
    };
    match made {
        Err(Errno::EXIST) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn fixture() -> (tempfile::TempDir, OwnedFd) {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(directory.path().join("root/etc")).unwrap();
        std::fs::create_dir(directory.path().join("victim")).unwrap();
        let root = std::fs::File::open(directory.path().join("root")).unwrap();
        (directory, root.into())
    }

    #[test]
    fn missing_parents_are_made_inside_the_root() {
        let (directory, root) = fixture();
        open_or_make(root.as_fd(), Path::new("/a/b/../c"), Missing::Directory).unwrap();
        open_or_make(root.as_fd(), Path::new("/x/y"), Missing::File).unwrap();
        assert!(directory.path().join("root/a/c").is_dir());
        assert!(directory.path().join("root/x/y").is_file());
    }

    #[test]
    fn links_and_dots_never_leave_the_root() {
        let (directory, root) = fixture();
        let at = |name: &str| directory.path().join("root").join(name);
        symlink(directory.path().join("victim"), at("absolute")).unwrap();
        symlink("../victim", at("relative")).unwrap();
        symlink("../../../../victim/deep", at("etc/climbing")).unwrap();
        for path in [
            "/absolute/made",
            "/relative/made",
            "/etc/climbing",
            "../../victim/made",
            "/../victim/made",
        ] {
            open_or_make(root.as_fd(), Path::new(path), Missing::Directory).unwrap();
        }
        assert_eq!(
            std::fs::read_dir(directory.path().join("victim"))
                .unwrap()
                .count(),
            0
        );
        assert!(at("victim/made").is_dir() && at("victim/deep").is_dir());
    }

    #[test]
    fn loops_and_files_on_the_way_end_in_an_error() {
        let (directory, root) = fixture();
        symlink("b", directory.path().join("root/a")).unwrap();
        symlink("a", directory.path().join("root/b")).unwrap();
        std::fs::write(directory.path().join("root/file"), "").unwrap();
        let make = |path: &str| {
            open_or_make(root.as_fd(), Path::new(path), Missing::Directory).unwrap_err()
        };
        assert_eq!(make("/a/x"), Errno::LOOP);
        assert_eq!(make("/file/x"), Errno::NOTDIR);
    }

    #[test]
    fn proc_and_sys_must_be_real_directories() {
        let (directory, root) = fixture();
        symlink("/etc", directory.path().join("root/proc")).unwrap();
        assert!(real_directory(root.as_fd(), Path::new("/proc")).is_err());
        real_directory(root.as_fd(), Path::new("/sys")).unwrap();
        assert!(directory.path().join("root/sys").is_dir());
    }
}
