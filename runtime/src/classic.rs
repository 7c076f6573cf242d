//! What mount(2) offers in the place of fsopen(2), open_tree(2), move_mount(2) and mount_setattr(2), for kernels before
//! Linux 5.12, and for hosts whose filter answers those calls with ENOSYS.
//!
//! There is no mount that is attached nowhere. Init, whose mount namespace is its own, makes each in a hidden tmpfs, the
//! workshop, and moves it from there. The workshop stands over `/`, where no path of this process leads, goes along
//! when the root is changed, and is gone before the program is. A descriptor is turned into the path that mount(2)
//! wants through the host's procfs, opened before the container's files are in sight: no path of theirs is walked.
//!
//! Deliberately absent, each a named refusal: id-mapped mounts, a bind of a symlink itself, a root that is changed by
//! chroot(2). Nothing is opened by the parent, whose mounts are the host's: a user namespace sees what its root may.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock};

use longshore_sys::{MountAttributes, mount_setattr};
use rustix::fs::{CWD, FileType, Mode, OFlags, StatVfsMountFlags};
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_bind_recursive,
    mount_change, mount_move, mount_remount, unmount,
};

use crate::beneath;

/// Whether the newer calls are missing. The newest of them tells: a change of nothing, which harms nobody.
pub(crate) fn needed() -> bool {
    static NEEDED: OnceLock<bool> = OnceLock::new();
    *NEEDED.get_or_init(|| {
        let nothing = MountAttributes::default();
        mount_setattr(CWD, nothing, false) == Err(Errno::NOSYS)
    })
}

/// The host's procfs. Opened by [`settle`].
static PROC: OnceLock<OwnedFd> = OnceLock::new();

/// The inode of a procfs' root, PROC_ROOT_INO.
pub(crate) const PROC_ROOT_INODE: u64 = 1;
static WORKSHOP: Mutex<Option<Workshop>> = Mutex::new(None);

#[derive(Debug)]
struct Workshop {
    /// The root of the tmpfs.
    directory: OwnedFd,
    /// Names given so far.
    made: usize,
}

/// For init, while /proc is the host's still: from here on no other is looked at. Where nothing will be asked of it,
/// nothing is opened.
pub(crate) fn settle() -> Result<(), Errno> {
    if !needed() && !beneath::is_missing() {
        return Ok(());
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let proc = rustix::fs::open("/proc", flags, Mode::empty())?;
    let is_proc = rustix::fs::fstatfs(&proc)?.f_type == rustix::fs::PROC_SUPER_MAGIC;
    if !is_proc || rustix::fs::fstat(&proc)?.st_ino != PROC_ROOT_INODE {
        return Err(Errno::NOENT);
    }
    PROC.set(proc).map_err(|_| Errno::BUSY)
}

/// A file of this process in the host's procfs.
fn own(name: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    let path = Path::new("self").join(name);
    let flags = flags | OFlags::CLOEXEC;
    match PROC.get() {
        Some(proc) => rustix::fs::openat(proc, path, flags, Mode::empty()),
        None => rustix::fs::open(Path::new("/proc").join(path), flags, Mode::empty()),
    }
}

fn read_own(name: &str) -> Result<String, Errno> {
    let mut text = String::new();
    let mut file = std::fs::File::from(own(name, OFlags::RDONLY)?);
    std::io::Read::read_to_string(&mut file, &mut text)
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    Ok(text)
}

/// Opens anew what a descriptor refers to.
pub(crate) fn reopen(file: BorrowedFd<'_>, flags: OFlags) -> Result<OwnedFd, Errno> {
    own(&format!("fd/{}", file.as_raw_fd()), flags)
}

/// The id of the mount that a descriptor is on.
pub(crate) fn mount_id(file: BorrowedFd<'_>) -> Result<u64, Errno> {
    let text = read_own(&format!("fdinfo/{}", file.as_raw_fd()))?;
    let id = text.lines().find_map(|line| line.strip_prefix("mnt_id:"));
    id.and_then(|id| id.trim().parse().ok()).ok_or(Errno::IO)
}

/// Calls with a directory as the working directory, in which the paths of descriptors are their numbers.
fn by_number<T>(act: impl FnOnce() -> Result<T, Errno>) -> Result<T, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let before = rustix::fs::open(c".", flags, Mode::empty())?;
    rustix::process::fchdir(own("fd", flags)?)?;
    let done = act();
    rustix::process::fchdir(before)?;
    done
}

fn number(file: BorrowedFd<'_>) -> String {
    file.as_raw_fd().to_string()
}

impl Workshop {
    /// Propagation to the host ends with it; what the host mounts still arrives, as binds that ask for it want.
    fn open() -> Result<Workshop, Errno> {
        mount_change(
            "/",
            MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC,
        )?;
        mount("longshore", "/", "tmpfs", MountFlags::empty(), c"mode=0700")?;
        // `..` of the root is what is mounted over it, which `/` is not.
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open("/..", flags, Mode::empty())?;
        let root = rustix::fs::open("/", flags, Mode::empty())?;
        if mount_id(directory.as_fd())? == mount_id(root.as_fd())? {
            return Err(Errno::NOSYS);
        }
        Ok(Workshop { directory, made: 0 })
    }

    /// A place for a mount of a directory or of a file.
    fn place(&mut self, directory: bool) -> Result<OwnedFd, Errno> {
        let name = self.made.to_string();
        self.made += 1;
        place(&self.directory, &name, directory)
    }

    fn found(&self, name: usize) -> Result<OwnedFd, Errno> {
        open_place(&self.directory, &name.to_string())
    }
}

fn open_place(workshop: &OwnedFd, name: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(workshop, name, flags, Mode::empty())
}

fn place(workshop: &OwnedFd, name: &str, directory: bool) -> Result<OwnedFd, Errno> {
    let mode = Mode::from_raw_mode(0o700);
    match directory {
        true => rustix::fs::mkdirat(workshop, name, mode)?,
        false => {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            rustix::fs::openat(workshop, name, flags, mode).map(drop)?;
        }
    }
    open_place(workshop, name)
}

/// ENOSYS anywhere but in init: the mounts of others are not for the container.
fn with_workshop<T>(act: impl FnOnce(&mut Workshop) -> Result<T, Errno>) -> Result<T, Errno> {
    if PROC.get().is_none() {
        return Err(Errno::NOSYS);
    }
    let mut workshop = WORKSHOP.lock().map_err(|_| Errno::DEADLK)?;
    if workshop.is_none() {
        *workshop = Some(Workshop::open()?);
    }
    act(workshop.as_mut().ok_or(Errno::NOSYS)?)
}

/// Makes a mount in the workshop: its root.
fn in_workshop(
    directory: bool,
    make: impl FnOnce(&str) -> Result<(), Errno>,
) -> Result<OwnedFd, Errno> {
    with_workshop(|workshop| {
        let place = workshop.place(directory)?;
        by_number(|| make(&number(place.as_fd())))?;
        workshop.found(workshop.made - 1)
    })
}

/// As fsopen(2), fsconfig(2) and fsmount(2).
pub(crate) fn detached(
    kind: &str,
    data: &[(&str, Option<&str>)],
    attributes: u64,
) -> Result<OwnedFd, Errno> {
    let mut source = "none";
    let mut flags = flags_of(attributes & !libc::MOUNT_ATTR_RDONLY);
    let mut options: Vec<String> = Vec::new();
    for (key, value) in data {
        match (*key, value) {
            ("source", Some(given)) => source = given,
            (key, None) if flag_named(key).is_some() => flags |= flag_named(key).unwrap_or(flags),
            (key, None) => options.push(key.to_owned()),
            (key, Some(value)) => options.push(format!("{key}={value}")),
        }
    }
    let options = std::ffi::CString::new(options.join(",")).map_err(|_| Errno::INVAL)?;
    let made = in_workshop(true, |place| {
        mount(source, place, kind, flags, options.as_c_str())
    })?;
    // Of the mount alone: the file system may be others' too.
    if attributes & libc::MOUNT_ATTR_RDONLY != 0 {
        let read_only = MountAttributes {
            set: libc::MOUNT_ATTR_RDONLY,
            ..MountAttributes::default()
        };
        set(made.as_fd(), read_only, false)?;
    }
    Ok(made)
}

/// Flags of a file system, which fsconfig(2) takes as parameters.
fn flag_named(key: &str) -> Option<MountFlags> {
    Some(match key {
        "ro" => MountFlags::RDONLY,
        "sync" => MountFlags::SYNCHRONOUS,
        "dirsync" => MountFlags::DIRSYNC,
        "mand" => MountFlags::PERMIT_MANDATORY_FILE_LOCKING,
        "lazytime" => MountFlags::LAZYTIME,
        "rw" | "async" | "nomand" | "nolazytime" | "iversion" => MountFlags::empty(),
        _ => return None,
    })
}

/// As open_tree(2) with OPEN_TREE_CLONE and a descriptor.
pub(crate) fn clone(path: BorrowedFd<'_>, recursive: bool) -> Result<OwnedFd, Errno> {
    let directory = match FileType::from_raw_mode(rustix::fs::fstat(path)?.st_mode) {
        // Such a bind needs a path that ends in it, and is followed.
        FileType::Symlink => return Err(Errno::NOSYS),
        kind => kind == FileType::Directory,
    };
    in_workshop(directory, |place| match recursive {
        true => mount_bind_recursive(number(path), place),
        false => mount_bind(number(path), place),
    })
}

/// As open_tree(2) with a path. A symlink at its end that is not followed comes back as it is, to be read.
pub(crate) fn clone_path(path: &Path, recursive: bool, follow: bool) -> Result<OwnedFd, Errno> {
    let mut flags = OFlags::PATH | OFlags::CLOEXEC;
    flags.set(OFlags::NOFOLLOW, !follow);
    let found = rustix::fs::open(path, flags, Mode::empty())?;
    match FileType::from_raw_mode(rustix::fs::fstat(&found)?.st_mode) {
        FileType::Symlink => Ok(found),
        _ => clone(found.as_fd(), recursive),
    }
}

/// As move_mount(2).
pub(crate) fn attach(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<(), Errno> {
    by_number(|| mount_move(number(mount), number(target)))
}

/// As mount_setattr(2).
pub(crate) fn set(
    mount: BorrowedFd<'_>,
    attributes: MountAttributes,
    recursive: bool,
) -> Result<(), Errno> {
    if attributes.set | attributes.clear != 0 {
        remount(mount, attributes)?;
        if recursive {
            for below in below(mount)? {
                remount(below.as_fd(), attributes)?;
            }
        }
    }
    if attributes.propagation == 0 {
        return Ok(());
    }
    let bits = u32::try_from(attributes.propagation).map_err(|_| Errno::INVAL)?;
    let mut propagation = MountPropagationFlags::from_bits_retain(bits);
    propagation.set(MountPropagationFlags::REC, recursive);
    by_number(|| mount_change(number(mount), propagation))
}

/// Flags that are not asked to change stay, those included that a user namespace may not clear.
fn remount(mount: BorrowedFd<'_>, attributes: MountAttributes) -> Result<(), Errno> {
    let now = rustix::fs::fstatvfs(mount)?.f_flag;
    let held = [
        (StatVfsMountFlags::RDONLY, libc::MOUNT_ATTR_RDONLY),
        (StatVfsMountFlags::NOSUID, libc::MOUNT_ATTR_NOSUID),
        (StatVfsMountFlags::NODEV, libc::MOUNT_ATTR_NODEV),
        (StatVfsMountFlags::NOEXEC, libc::MOUNT_ATTR_NOEXEC),
        (StatVfsMountFlags::NOATIME, libc::MOUNT_ATTR_NOATIME),
        (StatVfsMountFlags::NODIRATIME, libc::MOUNT_ATTR_NODIRATIME),
        (
            StatVfsMountFlags::from_bits_retain(NOSYMFOLLOW),
            libc::MOUNT_ATTR_NOSYMFOLLOW,
        ),
    ];
    let held = held.iter().filter(|(flag, _)| now.contains(*flag));
    let mut bits = held.fold(0, |bits, (_, bit)| bits | bit);
    if !now.intersects(StatVfsMountFlags::NOATIME | StatVfsMountFlags::RELATIME) {
        bits |= libc::MOUNT_ATTR_STRICTATIME;
    }
    let bits = (bits & !attributes.clear) | attributes.set;
    let flags = MountFlags::BIND | flags_of(bits);
    by_number(|| mount_remount(number(mount), flags, c""))
}

/// ST_NOSYMFOLLOW of statfs(2).
const NOSYMFOLLOW: u64 = 0x2000;

/// MS_* for MOUNT_ATTR_*.
fn flags_of(attributes: u64) -> MountFlags {
    let pairs = [
        (libc::MOUNT_ATTR_RDONLY, MountFlags::RDONLY),
        (libc::MOUNT_ATTR_NOSUID, MountFlags::NOSUID),
        (libc::MOUNT_ATTR_NODEV, MountFlags::NODEV),
        (libc::MOUNT_ATTR_NOEXEC, MountFlags::NOEXEC),
        (libc::MOUNT_ATTR_NODIRATIME, MountFlags::NODIRATIME),
        (
            libc::MOUNT_ATTR_NOSYMFOLLOW,
            MountFlags::from_bits_retain(256),
        ),
    ];
    let set = pairs.iter().filter(|(bit, _)| attributes & bit != 0);
    let flags = set.fold(MountFlags::empty(), |flags, (_, flag)| flags | *flag);
    flags
        | match attributes & libc::MOUNT_ATTR__ATIME {
            libc::MOUNT_ATTR_NOATIME => MountFlags::NOATIME,
            libc::MOUNT_ATTR_STRICTATIME => MountFlags::STRICTATIME,
            _ => MountFlags::RELATIME,
        }
}

/// The mounts below one, as mountinfo lists them. One that another hides cannot be reached, by nobody else either.
fn below(mount: BorrowedFd<'_>) -> Result<Vec<OwnedFd>, Errno> {
    let top = mount_id(mount)?;
    let table = read_own("mountinfo")?;
    let line = |line: &str| -> Option<(u64, u64, PathBuf)> {
        let mut fields = line.split(' ');
        let (id, parent) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        let point = crate::cgroup::mounts::unescape(fields.nth(2)?.as_bytes());
        Some((id, parent, point))
    };
    let mounts: Vec<_> = table.lines().filter_map(line).collect();
    let point = mounts.iter().find(|(id, ..)| *id == top);
    let point = &point.ok_or(Errno::INVAL)?.2;
    let mut inside = BTreeSet::from([top]);
    let mut found = Vec::new();
    // A mount is listed after the one that it stands on, or the list is walked again.
    loop {
        let before = inside.len();
        for (id, parent, place) in &mounts {
            if !inside.contains(parent) || !inside.insert(*id) {
                continue;
            }
            let rest = place.strip_prefix(point).map_err(|_| Errno::INVAL)?;
            match crate::beneath::open(mount, rest, OFlags::PATH, crate::beneath::Mounts::Enter) {
                Ok(root) if mount_id(root.as_fd())? == *id => found.push(root),
                Ok(_) | Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(errno) => return Err(errno),
            }
        }
        if inside.len() == before {
            return Ok(found);
        }
    }
}

/// New parameters for a file system that is mounted; what is not said is as mount(8) would have it.
pub(crate) fn reconfigure(
    mount: BorrowedFd<'_>,
    data: &[(&str, Option<&str>)],
) -> Result<(), Errno> {
    let now = rustix::fs::fstatvfs(mount)?.f_flag;
    let mut flags = MountFlags::from_bits_retain(now.bits() as u32 & 0xf);
    let mut options: Vec<String> = Vec::new();
    for (key, value) in data {
        match value {
            None if flag_named(key).is_some() => flags |= flag_named(key).unwrap_or(flags),
            None => options.push((*key).to_owned()),
            Some(value) => options.push(format!("{key}={value}")),
        }
    }
    let options = std::ffi::CString::new(options.join(",")).map_err(|_| Errno::INVAL)?;
    by_number(|| mount_remount(number(mount), flags, options.as_c_str()))
}

/// Before `root` becomes the root by pivot_root(2): what is left in the workshop goes along, into another. The old one,
/// empty, comes back; it stands over the old root.
pub(crate) fn carry(root: &OwnedFd) -> Result<OwnedFd, Errno> {
    let next = detached("tmpfs", &[("mode", Some("0700"))], 0)?;
    attach(next.as_fd(), root.as_fd())?;
    with_workshop(|workshop| {
        for name in 0..workshop.made {
            let old = workshop.found(name)?;
            // What was attached has left a place that is empty.
            if mount_id(old.as_fd())? == mount_id(workshop.directory.as_fd())? {
                continue;
            }
            let stat = rustix::fs::fstat(&old)?;
            let directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            let new = place(&next, &name.to_string(), directory)?;
            attach(old.as_fd(), new.as_fd())?;
        }
        Ok(std::mem::replace(&mut workshop.directory, next))
    })
}

/// The workshop goes, before the container could find it.
pub(crate) fn close() -> Result<(), Errno> {
    let mut workshop = WORKSHOP.lock().map_err(|_| Errno::DEADLK)?;
    match workshop.take() {
        Some(open) => detach(&open.directory),
        None => Ok(()),
    }
}

/// Takes away the mount that a descriptor is the root of.
pub(crate) fn detach(mount: &OwnedFd) -> Result<(), Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let before = rustix::fs::open(c".", flags, Mode::empty())?;
    rustix::process::fchdir(mount)?;
    let gone = unmount(c".", UnmountFlags::DETACH);
    rustix::process::fchdir(before)?;
    gone
}
