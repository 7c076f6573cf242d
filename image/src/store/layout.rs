//! Where things lie on disk, and how they come to lie there.
//!
//! ```text
//! lock                         held while a store is open; two processes cannot share one
//! ingest/<random>/             half-done things; emptied when the store opens
//! trash/<random>/              removed things on their way out, see `caretaker`
//! aside/<boot id>.<random>/    damaged layers that were replaced while a root may stand on them
//! layers/sha256/<diff id>/     fs/ (the tree), layer.json (its outline), synced (it survives a power cut),
//!                              inventory.json (what `fsck` compares it with)
//! layers/chain/<chain id>/     the same of a seam, see `stack`
//! blobs/sha256/<digest>/       original blobs where they are kept, see `blobs`
//! manifests/<digest>           verified bytes
//! configs/<digest>             verified bytes
//! refs/<hash>.json             reference -> manifest
//! roots/<id>/                  see `snapshot`
//! ```
//!
//! All is reached through one directory descriptor. What appears under its final name is whole: it is made in
//! `ingest` and renamed.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, Timespec, Timestamps, UTIME_NOW};
use rustix::io::Errno;

use crate::error::ImageError;
use crate::remove::{names, remove_tree};

const DIRECTORIES: [&str; 13] = [
    "blobs",
    "blobs/sha256",
    "layers",
    "layers/sha256",
    "layers/chain",
    "manifests",
    "configs",
    "refs",
    "ingest",
    "trash",
    "aside",
    "roots",
    "disks",
];

/// The store's directory, locked.
#[derive(Debug)]
pub(crate) struct Layout {
    root: OwnedFd,
    path: PathBuf,
    /// Which boot of the host this is (random(4), boot_id); empty if unknown.
    pub(crate) boot: String,
    _lock: OwnedFd,
    /// Held from the look at what a name holds to the rename onto it: whoever finds a broken tree there may
    /// remove it, and must not meet one that was published in between.
    pub(super) publishing: std::sync::Mutex<()>,
    keeps_blobs: AtomicBool,
}

/// What statvfs(3) says of the store's file system, for us: what is reserved for root is neither used nor free.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fullness {
    pub(crate) bytes_used: u64,
    pub(crate) bytes_free: u64,
    /// Inodes. Both are 0 where the file system has no fixed number of them.
    pub(crate) files_used: u64,
    pub(crate) files_free: u64,
}

/// A directory of our own below `ingest`; gone when dropped, unless it was published.
#[derive(Debug)]
pub(crate) struct Ingest<'a> {
    layout: &'a Layout,
    name: String,
    fd: OwnedFd,
}

const DIR: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);
const READ: OFlags = OFlags::RDONLY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);
const CREATE: OFlags = OFlags::WRONLY
    .union(OFlags::CREATE)
    .union(OFlags::EXCL)
    .union(OFlags::CLOEXEC);

impl Layout {
    /// [`Layout::open_within`], or an error at once if somebody has it.
    #[cfg(test)]
    pub(crate) fn open(path: &Path) -> Result<Layout, ImageError> {
        Layout::open_within(path, Duration::ZERO)
    }

    /// Opens or makes the directory, takes its lock and removes what a crash left half-done. Waits so long for a process
    /// that has it.
    pub(crate) fn open_within(path: &Path, patience: Duration) -> Result<Layout, ImageError> {
        let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Layout::open_in_boot(path, id.trim(), patience)
    }

    pub(crate) fn open_in_boot(
        path: &Path,
        boot: &str,
        patience: Duration,
    ) -> Result<Layout, ImageError> {
        let error = |cause: String| ImageError::new("open image store", path.display(), cause);
        let io = |call: &str, e: &dyn std::fmt::Display| error(format!("{call}: {e}"));
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder.create(path).map_err(|e| io("mkdir", &e))?;
        // The operator's own path: it may be a link to a larger disk.
        let root = rustix::fs::open(path, DIR.difference(OFlags::NOFOLLOW), Mode::empty())
            .map_err(|e| io("open", &e))?;
        rustix::fs::fchmod(&root, Mode::RWXU).map_err(|e| io("chmod", &e))?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let lock = rustix::fs::openat(&root, "lock", flags, Mode::RUSR | Mode::WUSR)
            .map_err(|e| io("lock", &e))?;
        match lock_within(&lock, patience) {
            Err(Errno::WOULDBLOCK) => {
                return Err(error(
                    "another process uses this store; stop it, or name another directory".into(),
                ));
            }
            other => other.map_err(|e| io("flock", &e))?,
        }
        for name in DIRECTORIES {
            match rustix::fs::mkdirat(&root, name, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(e) => return Err(io("mkdir", &e)),
            }
        }
        let layout = Layout {
            root,
            path: path.to_owned(),
            boot: boot.to_owned(),
            _lock: lock,
            publishing: std::sync::Mutex::new(()),
            keeps_blobs: AtomicBool::new(false),
        };
        layout.empty("ingest")?;
        Ok(layout)
    }

    /// Whether somebody holds the lock of the store at `path`.
    pub(crate) fn is_locked(path: &Path) -> bool {
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let lock = rustix::fs::open(path.join("lock"), flags, Mode::empty());
        lock.is_ok_and(|lock| {
            // Shared: two who look do not find each other.
            let taken = rustix::fs::flock(&lock, FlockOperation::NonBlockingLockShared);
            taken == Err(Errno::WOULDBLOCK)
        })
    }

    /// Whether the original blobs of what comes from now on are kept.
    pub(crate) fn keeps_blobs(&self) -> bool {
        self.keeps_blobs.load(Ordering::Relaxed)
    }

    pub(crate) fn keep_blobs(&self, keep: bool) {
        self.keeps_blobs.store(keep, Ordering::Relaxed);
    }

    /// The names in a directory of the store.
    pub(crate) fn list(&self, directory: &str) -> Result<Vec<String>, ImageError> {
        let found = self.directory(directory)?;
        let names = names(found.as_fd()).map_err(|e| self.error("list", directory, e))?;
        Ok(names
            .into_iter()
            .filter_map(|n| n.into_string().ok())
            .collect())
    }

    /// Opens a directory of the store.
    pub(crate) fn directory(&self, name: &str) -> Result<OwnedFd, ImageError> {
        rustix::fs::openat(&self.root, name, DIR, Mode::empty())
            .map_err(|e| self.error("open", name, e))
    }

    pub(crate) fn exists(&self, name: &str) -> bool {
        rustix::fs::statat(&self.root, name, AtFlags::SYMLINK_NOFOLLOW).is_ok()
    }

    /// A file to read and write; None if there is none.
    pub(crate) fn open_file(&self, name: &str) -> Result<Option<File>, ImageError> {
        let flags = READ.union(OFlags::RDWR);
        match rustix::fs::openat(&self.root, name, flags, Mode::empty()) {
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            other => Ok(Some(other.map_err(|e| self.error("open", name, e))?.into())),
        }
    }

    /// A file to read only; None if there is none.
    pub(crate) fn open_to_read(&self, name: &str) -> Result<Option<File>, ImageError> {
        match rustix::fs::openat(&self.root, name, READ, Mode::empty()) {
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            other => Ok(Some(other.map_err(|e| self.error("open", name, e))?.into())),
        }
    }

    /// Bytes of a file; None if there is none.
    pub(crate) fn len(&self, name: &str) -> Option<u64> {
        let stat = rustix::fs::statat(&self.root, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        u64::try_from(stat.st_size).ok()
    }

    /// A file's bytes; None if there is none.
    pub(crate) fn read(&self, name: &str, max: u64) -> Result<Option<Vec<u8>>, ImageError> {
        let Some(file) = self.open_to_read(name)? else {
            return Ok(None);
        };
        let mut bytes = Vec::new();
        let read = file.take(max + 1).read_to_end(&mut bytes);
        read.map_err(|e| self.error("read", name, e))?;
        if bytes.len() as u64 > max {
            return Err(self.error("read", name, format!("it is longer than {max} bytes")));
        }
        Ok(Some(bytes))
    }

    /// Writes a file so that after a power cut there is the old one, the new one, or none, and after the
    /// return the new one.
    pub(crate) fn write(
        &self,
        directory: &str,
        name: &str,
        bytes: &[u8],
    ) -> Result<(), ImageError> {
        let draft = self.draft(bytes)?;
        self.put(&draft, directory, name)?;
        self.step("sync its directory");
        self.sync_directory(directory)
    }

    /// Bytes on disk that have no name yet, as a path below the store: for [`Layout::put`] or [`Layout::unlink`].
    pub(crate) fn draft(&self, bytes: &[u8]) -> Result<String, ImageError> {
        let draft = format!("ingest/{}", super::random_name());
        self.step("create");
        let file = rustix::fs::openat(&self.root, &draft, CREATE, Mode::RUSR | Mode::WUSR);
        let mut file = File::from(file.map_err(|e| self.error("create", &draft, e))?);
        let written = file.write_all(bytes).and_then(|()| self.sync_file(&file));
        written.map(|()| draft.clone()).map_err(|e| {
            // A disk that is full must not keep what could not be written.
            self.unlink(&draft).ok();
            self.error("write", &draft, e)
        })
    }

    /// Gives a draft its name. After a power cut the name has what it had before, the draft, or nothing.
    pub(crate) fn put(&self, draft: &str, directory: &str, name: &str) -> Result<(), ImageError> {
        let to = format!("{directory}/{name}");
        self.step("rename a file");
        rustix::fs::renameat(&self.root, draft, &self.root, &to).map_err(|e| {
            self.unlink(draft).ok();
            self.error("rename", &to, e)
        })
    }

    fn sync_file(&self, file: &File) -> std::io::Result<()> {
        file.sync_all()?;
        #[cfg(test)]
        super::replay::is_on_disk(file);
        Ok(())
    }

    /// Writes a file of a layer that is there already, as [`Layout::write`] does. Only one may write it at a time.
    pub(crate) fn write_beside(
        &self,
        directory: &str,
        name: &str,
        bytes: &[u8],
    ) -> Result<(), ImageError> {
        let (temporary, to) = (
            format!("{directory}/.{name}"),
            format!("{directory}/{name}"),
        );
        let error = |e: std::io::Error| self.error("write", &to, e);
        let flags = CREATE.difference(OFlags::EXCL).union(OFlags::TRUNC);
        self.step("write beside");
        let file = rustix::fs::openat(&self.root, &temporary, flags, Mode::RUSR | Mode::WUSR);
        let mut file = File::from(file.map_err(|e| error(e.into()))?);
        file.write_all(bytes)
            .and_then(|()| file.sync_all())
            .map_err(error)?;
        self.step("rename beside");
        rustix::fs::renameat(&self.root, &temporary, &self.root, &to)
            .map_err(|e| error(e.into()))?;
        self.sync_directory(directory)
    }

    pub(crate) fn sync_directory(&self, name: &str) -> Result<(), ImageError> {
        let directory = self.directory(name)?;
        rustix::fs::fsync(&directory).map_err(|e| self.error("fsync", name, e))
    }

    /// All that was written to the store's file system so far is on disk afterwards.
    pub(crate) fn sync_all(&self) -> Result<(), ImageError> {
        self.step("syncfs");
        rustix::fs::syncfs(&self.root).map_err(|e| self.error("syncfs", "", e))
    }

    /// An empty mark.
    pub(crate) fn touch(&self, name: &str) -> Result<(), ImageError> {
        self.step("mark");
        match rustix::fs::openat(&self.root, name, CREATE, Mode::RUSR | Mode::WUSR) {
            Ok(_) | Err(Errno::EXIST) => Ok(()),
            Err(e) => Err(self.error("create", name, e)),
        }
    }

    /// Sets a bad record aside, so that it is neither read again nor lost to whoever wants to know why.
    pub(crate) fn quarantine(&self, name: &str, why: &str) {
        let aside = format!("{name}.bad");
        self.step("set a record aside");
        let moved = rustix::fs::renameat(&self.root, name, &self.root, &aside);
        tracing::warn!(
            record = name,
            why,
            moved = moved.is_ok(),
            "image store: a bad record was set aside"
        );
    }

    /// A fresh directory for half-done things.
    pub(crate) fn ingest(&self) -> Result<Ingest<'_>, ImageError> {
        let name = format!("ingest/{}", super::random_name());
        self.step("mkdir");
        rustix::fs::mkdirat(&self.root, &name, Mode::RWXU)
            .map_err(|e| self.error("mkdir", &name, e))?;
        let fd = self.directory(&name)?;
        Ok(Ingest {
            layout: self,
            name,
            fd,
        })
    }

    /// Seconds since 1970 when a file was last written; None if there is none.
    pub(crate) fn modified(&self, name: &str) -> Option<i64> {
        let stat = rustix::fs::statat(&self.root, name, AtFlags::SYMLINK_NOFOLLOW);
        stat.ok().map(|stat| stat.st_mtime)
    }

    /// Removes a file so that it stays removed; fine if it is gone.
    pub(crate) fn remove_file(&self, directory: &str, name: &str) -> Result<(), ImageError> {
        let path = format!("{directory}/{name}");
        match rustix::fs::unlinkat(&self.root, &path, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => self.sync_directory(directory),
            Err(e) => Err(self.error("unlink", &path, e)),
        }
    }

    /// A file in the store's file system that has no name: it is gone with its last descriptor, and with a crash.
    pub(crate) fn nameless(&self) -> Result<File, ImageError> {
        let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.root, "ingest", flags, Mode::RUSR | Mode::WUSR);
        file.map(File::from)
            .map_err(|e| self.error("open a file without a name", "ingest", e))
    }

    /// Bytes of the store's file system that are free for us, and all of it.
    pub(crate) fn room(&self) -> Result<(u64, u64), ImageError> {
        let found = rustix::fs::fstatvfs(&self.root).map_err(|e| self.error("statvfs", "", e))?;
        Ok((
            found.f_bavail.saturating_mul(found.f_frsize),
            found.f_blocks.saturating_mul(found.f_frsize),
        ))
    }

    /// Takes a directory out of sight at once, then removes it. Fine if it is gone.
    pub(crate) fn discard(&self, name: &str) -> Result<(), ImageError> {
        let aside = super::random_name();
        self.step("rename away");
        match rustix::fs::renameat(&self.root, name, &self.root, format!("ingest/{aside}")) {
            Err(Errno::NOENT) => return Ok(()),
            other => other.map_err(|e| self.error("rename", name, e))?,
        }
        self.step("remove a tree");
        let ingest = self.directory("ingest")?;
        let aside = CString::new(aside).unwrap_or_default();
        remove_tree(ingest.as_fd(), &aside).map_err(|e| self.error("remove", name, e))
    }

    /// Takes a file or directory out of sight at once; the caretaker removes it when there is time. False if it was
    /// gone already.
    pub(crate) fn retire(&self, name: &str) -> Result<bool, ImageError> {
        self.move_to(name, &format!("trash/{}", super::random_name()))
    }

    /// [`Layout::retire`] for a tree that running containers may stand on: it stays until they cannot any more.
    pub(crate) fn put_aside(&self, name: &str) -> Result<bool, ImageError> {
        let to = format!("aside/{}.{}", self.boot, super::random_name());
        self.move_to(name, &to)
    }

    fn move_to(&self, name: &str, to: &str) -> Result<bool, ImageError> {
        self.step("rename out of sight");
        match rustix::fs::renameat(&self.root, name, &self.root, to) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(e) => Err(self.error("rename", name, e)),
        }
    }

    /// Removes a file; fine if it is gone.
    pub(crate) fn unlink(&self, name: &str) -> Result<(), ImageError> {
        self.step("unlink");
        match rustix::fs::unlinkat(&self.root, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(e) => Err(self.error("unlink", name, e)),
        }
    }

    /// What a symbolic link of ours says.
    pub(crate) fn link_target(&self, name: &str) -> Result<String, ImageError> {
        let target = rustix::fs::readlinkat(&self.root, name, Vec::new())
            .map_err(|e| self.error("readlink", name, e))?;
        let text = target.into_string();
        text.map_err(|_| self.error("readlink", name, "it is none of ours"))
    }

    /// When something was last changed; None if it is gone.
    pub(crate) fn changed(&self, name: &str) -> Option<SystemTime> {
        let stat = rustix::fs::statat(&self.root, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        let seconds = u64::try_from(stat.st_mtime).unwrap_or(0);
        UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
    }

    /// Sets that time to now. Not synced: an older time after a power cut only makes a thing look older.
    pub(crate) fn change_now(&self, name: &str) -> Result<(), ImageError> {
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_NOW,
        };
        let times = Timestamps {
            last_access: now,
            last_modification: now,
        };
        match rustix::fs::utimensat(&self.root, name, &times, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(e) => Err(self.error("utimensat", name, e)),
        }
    }

    /// How full the store's file system is.
    pub(crate) fn fullness(&self) -> Result<Fullness, ImageError> {
        let s = rustix::fs::fstatvfs(&self.root).map_err(|e| self.error("statvfs", "", e))?;
        let unit = s.f_frsize.max(1);
        Ok(Fullness {
            bytes_used: s.f_blocks.saturating_sub(s.f_bfree).saturating_mul(unit),
            bytes_free: s.f_bavail.saturating_mul(unit),
            files_used: s.f_files.saturating_sub(s.f_ffree),
            files_free: s.f_favail,
        })
    }

    /// Where tests look at the store, or let it die: before each change that others could see half-done.
    pub(crate) fn step(&self, what: &'static str) {
        #[cfg(test)]
        super::replay::at(&self.path, what);
        let _ = what;
    }

    fn empty(&self, directory: &str) -> Result<(), ImageError> {
        let found = self.directory(directory)?;
        let all = names(found.as_fd()).map_err(|e| self.error("list", directory, e))?;
        for name in all {
            remove_tree(found.as_fd(), &name).map_err(|e| self.error("empty", directory, e))?;
        }
        Ok(())
    }

    pub(crate) fn error(
        &self,
        call: &str,
        name: &str,
        cause: impl std::fmt::Display,
    ) -> ImageError {
        ImageError::new(
            "image store",
            self.path.join(name).display(),
            format!("{call}: {cause}"),
        )
    }
}

/// flock(2) with a limit of time, which the call itself has not.
fn lock_within(lock: &OwnedFd, patience: Duration) -> rustix::io::Result<()> {
    const LOOK_EVERY: Duration = Duration::from_millis(20);
    let until = Instant::now() + patience;
    loop {
        match rustix::fs::flock(lock, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) if Instant::now() < until => std::thread::sleep(LOOK_EVERY),
            other => return other,
        }
    }
}

impl Ingest<'_> {
    /// Opens it once more, to work in it.
    pub(crate) fn open(&self) -> Result<OwnedFd, ImageError> {
        self.layout.directory(&self.name)
    }

    /// A directory in it.
    pub(crate) fn mkdir(&self, name: &CStr, mode: Mode) -> Result<OwnedFd, ImageError> {
        let error = |e: Errno| self.layout.error("mkdir", &self.name, e);
        rustix::fs::mkdirat(&self.fd, name, Mode::RWXU).map_err(error)?;
        let made = rustix::fs::openat(&self.fd, name, DIR, Mode::empty()).map_err(error)?;
        // mkdir's mode is cut by the umask.
        rustix::fs::fchmod(&made, mode).map_err(error)?;
        Ok(made)
    }

    /// A file in it.
    pub(crate) fn write(&self, name: &CStr, bytes: &[u8]) -> Result<(), ImageError> {
        let written = self.create(name)?.write_all(bytes);
        written.map_err(|e| self.layout.error("write", &self.name, e))
    }

    /// An empty file in it.
    pub(crate) fn create(&self, name: &CStr) -> Result<File, ImageError> {
        let file = rustix::fs::openat(&self.fd, name, CREATE, Mode::RUSR | Mode::WUSR);
        let file = file.map_err(|e| self.layout.error("create", &self.name, e))?;
        Ok(File::from(file))
    }

    /// Gives it its final name. If that name is taken, what is there is as good: it is named by its content.
    pub(crate) fn publish(self, to: &str) -> Result<(), ImageError> {
        let root = &self.layout.root;
        self.layout.step("publish");
        match rustix::fs::renameat(root, &self.name, root, to) {
            Ok(()) | Err(Errno::EXIST | Errno::NOTEMPTY) => Ok(()),
            Err(e) => Err(self.layout.error("rename", to, e)),
        }
    }
}

impl Drop for Ingest<'_> {
    fn drop(&mut self) {
        // Nothing is there after `publish`. What cannot be removed now is removed when the store opens next.
        if let Err(error) = self.layout.discard(&self.name) {
            tracing::warn!(%error, "image store: half-done files stay until the next start");
        }
    }
}
