//! A container's root filesystem: overlayfs over an image's layers, mounted nowhere.
//!
//! `roots/<id>/` holds `upper` and `work` (overlayfs's own), `l/0..n` (links to the layers, the topmost first),
//! `m` (where the fallback mounts for a moment) and `image.json` (whose root this is). It appears whole, by rename.
//!
//! The mount is detached (fsmount(2), or open_tree(2) on kernels before 6.7): no process sees it until the
//! runtime attaches it, and it is gone with its last descriptor. Options, and why:
//!
//! - `index=off`: with it overlayfs refuses an upper directory whose layers were pulled anew (ESTALE).
//! - `metacopy=off`, `redirect_dir=nofollow`: both let attributes of a layer point elsewhere. Renaming a
//!   directory of the image gives EXDEV, as it does below other container engines.
//! - `xino` is left alone: all layers and the upper directory are on one file system, where it has no effect.
//!
//! Absent on purpose: `volatile` (a container's fsync keeps its word), nodev (as in other engines the device
//! cgroup decides), id-mapped layers.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, OpenTreeFlags,
    fsconfig_create, fsconfig_set_string, fsmount, fsopen, mount_change, open_tree,
};
use serde::{Deserialize, Serialize};

use crate::Image;
use crate::digest::Digest;
use crate::error::{ImageError, printable};
use crate::store::layers;
use crate::store::layout::Layout;

const RECORD_MAX: u64 = 64 * 1024;
const OPTIONS: [(&str, &str); 3] = [
    ("index", "off"),
    ("metacopy", "off"),
    ("redirect_dir", "nofollow"),
];

#[derive(Serialize, Deserialize)]
struct Record {
    version: u32,
    manifest: String,
}

/// What overlayfs is to stack.
struct Stack {
    /// Layers, the topmost first.
    lower: Vec<Digest>,
    /// Mode and owner of the root, which overlayfs takes from the upper directory.
    mode: Mode,
    uid: u32,
    gid: u32,
}

pub(crate) fn mount(layout: &Layout, id: &str, image: &Image) -> Result<OwnedFd, ImageError> {
    check_id(id)?;
    let dir = format!("roots/{id}");
    match owner(layout, &dir)? {
        None => create(layout, id, &dir, image)?,
        Some(manifest) if manifest == image.manifest_digest => {}
        Some(other) => {
            let cause = format!(
                "it is a root of image {other}, not of {}; remove it first",
                image.manifest_digest
            );
            return Err(ImageError::new("mount root", id, cause));
        }
    }
    let root = layout.directory(&dir)?;
    let lower = layout.list(&format!("{dir}/l"))?.len();
    mount_new(root.as_fd(), lower)
        .and_then(|mounted| match mounted {
            Some(mounted) => Ok(mounted),
            None => mount_old(root, lower),
        })
        .map_err(|cause| ImageError::new("mount root", id, cause))
}

pub(crate) fn remove(layout: &Layout, id: &str) -> Result<(), ImageError> {
    check_id(id)?;
    layout.discard(&format!("roots/{id}"))
}

/// An id is one path component and no option of ours.
fn check_id(id: &str) -> Result<(), ImageError> {
    let word = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    if (1..=200).contains(&id.len()) && id.bytes().all(word) && !id.starts_with('.') {
        return Ok(());
    }
    let cause = "not an id: 1 to 200 letters, digits and _ - . are, not beginning with a dot";
    Err(ImageError::new("mount root", printable(id, 200), cause))
}

/// Whose root an id's directory is.
fn owner(layout: &Layout, dir: &str) -> Result<Option<String>, ImageError> {
    let name = format!("{dir}/image.json");
    let Some(bytes) = layout.read(&name, RECORD_MAX)? else {
        return Ok(None);
    };
    let record: Record = serde_json::from_slice(&bytes)
        .map_err(|e| layout.error("read", &name, format!("bad record: {e}; remove this root")))?;
    Ok(Some(record.manifest))
}

fn create(layout: &Layout, id: &str, dir: &str, image: &Image) -> Result<(), ImageError> {
    let error = |e: Errno| ImageError::new("make root", id, e);
    let stack = stack(layout, image)?;
    let ingest = layout.ingest()?;
    let upper = ingest.mkdir(c"upper", stack.mode)?;
    let (uid, gid) = (Uid::from_raw(stack.uid), Gid::from_raw(stack.gid));
    rustix::fs::fchown(&upper, Some(uid), Some(gid)).map_err(error)?;
    rustix::fs::fchmod(&upper, stack.mode).map_err(error)?;
    for name in [c"work", c"m"] {
        ingest.mkdir(name, Mode::RWXU)?;
    }
    let links = ingest.mkdir(c"l", Mode::RWXU)?;
    for (at, diff_id) in stack.lower.iter().enumerate() {
        let target = format!("../../../{}/fs", layers::path(diff_id));
        rustix::fs::symlinkat(target, &links, at.to_string()).map_err(error)?;
    }
    if stack.lower.is_empty() {
        // overlayfs wants at least one layer below the upper directory.
        ingest.mkdir(c"empty", Mode::RWXU)?;
        rustix::fs::symlinkat("../empty", &links, "0").map_err(error)?;
    }
    let record = Record {
        version: 1,
        manifest: image.manifest_digest.clone(),
    };
    let record = serde_json::to_vec(&record).map_err(|e| ImageError::new("make root", id, e))?;
    ingest.write(c"image.json", &record)?;
    // Left by a crash between two versions of us: no record, so nobody's root.
    layout.discard(dir)?;
    ingest.publish(dir)
}

/// The layers that count: of one that occurs twice the upper one (the lower adds nothing that it would not
/// hide, and overlayfs refuses a directory twice), and none below a layer that hides all.
fn stack(layout: &Layout, image: &Image) -> Result<Stack, ImageError> {
    let mut stack = Stack {
        lower: Vec::new(),
        mode: Mode::from_bits_truncate(0o755),
        uid: 0,
        gid: 0,
    };
    let mut root_known = false;
    for layer in image.layers.iter().rev() {
        let diff_id =
            Digest::parse(layer).map_err(|cause| ImageError::new("make root", layer, cause))?;
        if stack.lower.contains(&diff_id) {
            continue;
        }
        let outline = layers::outline(layout, &diff_id)?;
        if outline.has_root && !root_known {
            root_known = true;
            let path = format!("{}/fs", layers::path(&diff_id));
            let stat = rustix::fs::fstat(layout.directory(&path)?)
                .map_err(|e| layout.error("stat", &path, e))?;
            stack.mode = Mode::from_bits_truncate(stat.st_mode & 0o7777);
            (stack.uid, stack.gid) = (stat.st_uid, stat.st_gid);
        }
        stack.lower.push(diff_id);
        if outline.opaque_root {
            break;
        }
    }
    Ok(stack)
}

/// fsopen(2) with one `lowerdir+` per layer; None if the kernel does not know that option (before 6.7).
fn mount_new(root: BorrowedFd<'_>, lower: usize) -> Result<Option<OwnedFd>, String> {
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
    let (upper, work) = (path_fd(root, "upper")?, path_fd(root, "work")?);
    set("upperdir", &by_fd(&upper))?;
    set("workdir", &by_fd(&work))?;
    for (key, value) in OPTIONS {
        set(key, value)?;
    }
    fsconfig_create(fs.as_fd()).map_err(|e| refused(&format!("{e}{}", log(fs.as_fd()))))?;
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
fn by_fd(fd: &OwnedFd) -> String {
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
fn mount_old(root: OwnedFd, lower: usize) -> Result<OwnedFd, String> {
    let thread = std::thread::Builder::new().name("overlay-mount".into());
    let thread = thread
        .spawn(move || mount_privately(root.as_fd(), lower))
        .map_err(|e| format!("spawn: {e}"))?;
    thread
        .join()
        .map_err(|_| "the mounting thread failed".to_owned())?
}

fn mount_privately(root: BorrowedFd<'_>, lower: usize) -> Result<OwnedFd, String> {
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
    .map_err(|e| format!("make mounts private: {e}"))?;
    let layers: Vec<String> = (0..lower).map(|at| format!("l/{at}")).collect();
    let mut options = format!("lowerdir={},upperdir=upper,workdir=work", layers.join(":"));
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

#[cfg(test)]
mod tests;
