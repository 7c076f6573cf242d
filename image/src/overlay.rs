//! Detached overlayfs mounts: a stack of directories becomes a file system that is mounted nowhere.
//!
//! Where to mount is told by a directory of ours that holds `l/0..n` (links to the directories to stack, the
//! topmost first), `upper` and `work` if the mount is to be written to, and `m` and `d`, where the fallback for old
//! kernels and a disk are mounted for a moment.
//!
//! The mount is detached (fsmount(2), or open_tree(2) on kernels before 6.7): no process sees it until the
//! runtime attaches it, and it is gone with its last descriptor. Options, and why:
//!
//! - `index=off`: with it overlayfs refuses an upper directory whose layers were pulled anew (ESTALE).
//! - `metacopy=off`, `redirect_dir=nofollow`: both let attributes of a layer point elsewhere. Renaming a
//!   directory of the image gives EXDEV, as it does below other container engines.
//! - `xino` is left alone where all layers and the upper directory are on one file system: it has no effect there.
//!
//! Absent on purpose: `volatile` (a container's fsync keeps its word), nodev (as in other engines the device
//! cgroup decides), id-mapped layers.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, OpenTreeFlags,
    fsconfig_create, fsconfig_set_string, fsmount, fsopen, mount_change, open_tree,
};

use crate::disk::Device;
use crate::error::printable;

const OPTIONS: [(&str, &str); 3] = [
    ("index", "off"),
    ("metacopy", "off"),
    ("redirect_dir", "nofollow"),
];

/// Whether the mount has an upper directory, and where.
#[derive(Debug)]
pub(crate) enum Access {
    ReadOnly,
    Writable,
    /// On a file system of its own, in a directory there; `upper` says what mode and owner it begins with.
    OnDisk(Device, String),
}

/// Mounts what `dir` describes; `lower` is the number of its links.
pub(crate) fn mount(dir: OwnedFd, lower: usize, access: Access) -> Result<OwnedFd, String> {
    /// Once the old way has helped it is taken at once: an old kernel logs a line at each new try.
    static OLD_KERNEL: AtomicBool = AtomicBool::new(false);
    if let Access::OnDisk(..) = access {
        return mount_old(dir, lower, access);
    }
    if !OLD_KERNEL.load(Ordering::Relaxed)
        && let Some(mounted) = mount_new(dir.as_fd(), lower, &access)?
    {
        return Ok(mounted);
    }
    let mounted = mount_old(dir, lower, access)?;
    OLD_KERNEL.store(true, Ordering::Relaxed);
    Ok(mounted)
}

/// fsopen(2) with one `lowerdir+` per layer; None if the kernel does not know that option (before 6.7).
pub(crate) fn mount_new(
    root: BorrowedFd<'_>,
    lower: usize,
    access: &Access,
) -> Result<Option<OwnedFd>, String> {
    let fs = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(|e| {
        format!("fsopen overlay: {e}; the kernel must have overlayfs, and the agent CAP_SYS_ADMIN")
    })?;
    let set = |key: &str, value: &str| {
        fsconfig_set_string(fs.as_fd(), key, value)
            .map_err(|e| format!("option {key}={value}: {e}{}", log(fs.as_fd())))
    };
    for at in 0..lower {
        let layer = path_fd(root, &format!("l/{at}"))?;
        match fsconfig_set_string(fs.as_fd(), "lowerdir+", by_fd(&layer)) {
            Err(Errno::INVAL) if at == 0 => return Ok(None),
            other => other.map_err(|e| format!("layer {at}: {e}{}", log(fs.as_fd())))?,
        }
    }
    if let Access::Writable = access {
        for (key, name) in [("upperdir", "upper"), ("workdir", "work")] {
            set(key, &by_fd(&path_fd(root, name)?))?;
        }
    }
    for (key, value) in OPTIONS {
        set(key, value)?;
    }
    match fsconfig_create(fs.as_fd()) {
        // Before 6.5 overlayfs takes any option without a look and refuses the strange one only here. Where
        // the cause is another, the old way meets it again and says so.
        Err(Errno::INVAL) => return Ok(None),
        other => other.map_err(|e| refused(&format!("{e}{}", log(fs.as_fd()))))?,
    }
    fsmount(
        fs.as_fd(),
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::empty(),
    )
    .map(Some)
    .map_err(|e| format!("fsmount: {e}"))
}

fn refused(errno: &str) -> String {
    format!(
        "overlayfs refused: {errno}; the store must lie on ext4, xfs, btrfs or tmpfs, and not on an overlay"
    )
}

/// Names of any length, whole through any path: fsconfig's strings end at 255 bytes.
pub(crate) fn by_fd(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

fn path_fd(root: BorrowedFd<'_>, name: &str) -> Result<OwnedFd, String> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(root, name, flags, Mode::empty())
        .map_err(|e| format!("open {name}: {e}; is the layer gone?"))
}

/// What the kernel has to say about a mount that failed (fsopen(2), reading the descriptor).
fn log(fs: BorrowedFd<'_>) -> String {
    let mut said = String::new();
    let mut line = [0; 512];
    while let Ok(len) = rustix::io::read(fs, &mut line)
        && len > 0
        && said.len() < 2048
    {
        said.push_str(" (");
        said.push_str(
            printable(&String::from_utf8_lossy(&line[..len]), 300).trim_end_matches('\u{fffd}'),
        );
        said.push(')');
    }
    said
}

/// mount(2) in a mount namespace of a thread of its own, and a detached clone of the mount. The layers have
/// short relative names there, because mount(2) takes one page of options for all of them.
pub(crate) fn mount_old(root: OwnedFd, lower: usize, access: Access) -> Result<OwnedFd, String> {
    let thread = std::thread::Builder::new().name("overlay-mount".into());
    let thread = thread
        .spawn(move || mount_privately(root.as_fd(), lower, access))
        .map_err(|e| format!("spawn: {e}"))?;
    thread
        .join()
        .map_err(|_| "the mounting thread failed".to_owned())?
}

fn mount_privately(root: BorrowedFd<'_>, lower: usize, access: Access) -> Result<OwnedFd, String> {
    // The order matters: a descriptor leads into the namespace it was opened in, where this thread could not
    // mount; a working directory is carried over into the new one. Both are the thread's own, and gone with it.
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS)
        .map_err(|e| format!("unshare of the directory: {e}"))?;
    rustix::process::fchdir(root).map_err(|e| format!("fchdir: {e}"))?;
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).map_err(|e| {
        format!("unshare of the mount namespace: {e}; the agent needs CAP_SYS_ADMIN")
    })?;
    mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )
    .map_err(|e| {
        format!("make mounts private: {e}; the agent's root directory must be a mount point")
    })?;
    let layers: Vec<String> = (0..lower).map(|at| format!("l/{at}")).collect();
    let mut options = format!("lowerdir={}", layers.join(":"));
    match access {
        Access::ReadOnly => {}
        Access::Writable => options.push_str(",upperdir=upper,workdir=work"),
        Access::OnDisk(device, name) => {
            device.mount("d").map_err(|e| format!("mount ext4: {e}"))?;
            make_upper(&name)?;
            // Two file systems, whose inode numbers are told apart.
            options.push_str(&format!(
                ",upperdir=d/{name}/upper,workdir=d/{name}/work,xino=auto"
            ));
        }
    }
    for (key, value) in OPTIONS {
        options.push_str(&format!(",{key}={value}"));
    }
    let options = CString::new(options).map_err(|e| e.to_string())?;
    rustix::mount::mount(
        "overlay",
        "m",
        "overlay",
        MountFlags::empty(),
        options.as_c_str(),
    )
    .map_err(|e| refused(&e.to_string()))?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    open_tree(rustix::fs::CWD, "m", flags).map_err(|e| format!("open_tree: {e}"))
}

/// The upper directory on the disk at `d`, with mode and owner of the one that stands here. It appears whole; what a
/// crash left of an earlier try is taken up again.
fn make_upper(name: &str) -> Result<(), String> {
    let error = |call: &str, e: Errno| format!("{call} on the disk: {e}");
    let (whole, half) = (format!("d/{name}"), format!("d/{name}.new"));
    if rustix::fs::stat(&whole).is_ok() {
        return Ok(());
    }
    let upper = format!("{half}/upper");
    for path in [&half, &upper, &format!("{half}/work")] {
        match rustix::fs::mkdir(path, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(error("mkdir", e)),
        }
    }
    let stat = rustix::fs::stat("upper").map_err(|e| error("stat", e))?;
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    rustix::fs::chown(&upper, Some(uid), Some(gid)).map_err(|e| error("chown", e))?;
    let mode = Mode::from_bits_truncate(stat.st_mode & 0o7777);
    rustix::fs::chmod(&upper, mode).map_err(|e| error("chmod", e))?;
    rustix::fs::rename(&half, &whole).map_err(|e| error("rename", e))
}
