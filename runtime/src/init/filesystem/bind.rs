//! Bind mounts: the source is cloned while the host's tree is in sight, and attached inside the root later.

use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use rustix::fs::{CWD, FileType};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};

use super::{Maps, attach, configure, refuse_procfs};
use crate::StepError;
use crate::classic;
use crate::error::Context;
use crate::init::resolve::{self, Missing};
use crate::plan::{Bind, MountFlags, Source};

/// The root of procfs has this inode number in every instance (PROC_ROOT_INO).
const PROC_ROOT: u64 = 1;

/// What a bind mount attaches.
#[derive(Debug)]
pub(in crate::init) enum Tree {
    /// A detached mount.
    Mount(OwnedFd),
    /// The text of a symlink that is copied.
    Link(OsString),
}

/// Clones a host path for a bind mount. Symlinks in it are the host's and are followed.
pub(in crate::init) fn open_bind(source: &Source, maps: &mut Maps) -> Result<Tree, StepError> {
    let (step, subject) = ("open bind source", source.path.display());
    let follow = source.follow && !source.copy_symlink;
    let mount = clone_path(&source.path, source.recursive, follow)
        .map_err(|errno| explain(errno, source))?;
    if source.copy_symlink && kind(&mount).context(step, &subject)? == FileType::Symlink {
        let text = rustix::fs::readlinkat(&mount, c"", Vec::new()).context(step, &subject)?;
        return Ok(Tree::Link(OsString::from_vec(text.into_bytes())));
    }
    if classic::needed() && kind(&mount).context(step, &subject)? == FileType::Symlink {
        return Err(explain(Errno::NOSYS, source));
    }
    if let Some(map) = &source.map {
        maps.apply(&mount, map, &source.path)?;
    }
    Ok(Tree::Mount(mount))
}

/// Clones a path of the host as a detached mount.
pub(in crate::init) fn clone_path(
    path: &Path,
    recursive: bool,
    follow: bool,
) -> Result<OwnedFd, Errno> {
    if classic::needed() {
        return classic::clone_path(path, recursive, follow);
    }
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    flags.set(OpenTreeFlags::AT_RECURSIVE, recursive);
    flags.set(OpenTreeFlags::AT_SYMLINK_NOFOLLOW, !follow);
    open_tree(CWD, path, flags)
}

fn explain(errno: Errno, source: &Source) -> StepError {
    let error = StepError::io("open bind source", source.path.display(), errno);
    let cause = match errno {
        // What the host mounted over it may hide something: a user namespace must take it along.
        Errno::INVAL if !source.recursive => {
            "mounts below it are locked in this user namespace; use the option rbind"
        }
        Errno::NOSYS => {
            "this kernel has no open_tree(2), without which a symlink cannot be mounted, and nothing by the parent"
        }
        Errno::PERM => "this user may not clone mounts; a user namespace is needed",
        _ => return error,
    };
    StepError {
        cause: cause.into(),
        ..error
    }
}

fn kind(mount: &OwnedFd) -> Result<FileType, Errno> {
    rustix::fs::fstat(mount).map(|stat| FileType::from_raw_mode(stat.st_mode))
}

/// Attaches a cloned host path; the place is made as a file or a directory, like the source. The mount comes back,
/// as it may be the new root.
pub(in crate::init) fn attach_bind(
    root: BorrowedFd<'_>,
    tree: OwnedFd,
    bind: &Bind,
) -> Result<OwnedFd, StepError> {
    let subject = bind.destination.display();
    let directory = kind(&tree).context("bind mount", &subject)? == FileType::Directory;
    let missing = if directory {
        Missing::Directory
    } else {
        Missing::File
    };
    let target = match bind.follow {
        true => resolve::open_or_make(root, &bind.destination, missing),
        false => resolve::open_or_make_last(root, &bind.destination, missing),
    };
    let target = target.context("bind mount", &subject)?;
    refuse_procfs(target.as_fd(), &bind.destination)?;
    if bind.destination == Path::new("/proc") {
        require_procfs(&tree)?;
    }
    flags(&tree, bind)?;
    attach(tree.as_fd(), target.as_fd()).context("bind mount", &subject)?;
    Ok(tree)
}

/// What stands at /proc is trusted later.
fn require_procfs(tree: &OwnedFd) -> Result<(), StepError> {
    let step = "bind mount";
    let statfs = rustix::fs::fstatfs(tree).context(step, "/proc")?;
    let stat = rustix::fs::fstat(tree).context(step, "/proc")?;
    if statfs.f_type == rustix::fs::PROC_SUPER_MAGIC && stat.st_ino == PROC_ROOT {
        return Ok(());
    }
    let cause = "its source is not the root of a procfs; use a mount of type proc";
    Err(StepError::refused(step, "/proc", cause))
}

fn flags(tree: &OwnedFd, bind: &Bind) -> Result<(), StepError> {
    let subject = bind.destination.display();
    let apply = |tree_flags: MountFlags, flags: MountFlags| {
        configure(tree.as_fd(), bind.propagation, tree_flags, flags)
    };
    match apply(bind.tree, bind.flags) {
        // A user namespace may not change what its host has locked; when files were last read is no protection.
        Err(Errno::PERM) => {
            let bits = libc::MOUNT_ATTR__ATIME | libc::MOUNT_ATTR_NODIRATIME;
            match apply(bind.tree.without(bits), bind.flags.without(bits)) {
                Err(Errno::PERM) if (bind.tree.clear | bind.flags.clear) & !bits != 0 => {
                    let cause = "the host's mount is ro, nosuid, nodev or noexec, which a user namespace may not undo; \
                         remove the option that asks for it";
                    Err(StepError {
                        errno: Some(libc::EPERM),
                        ..StepError::refused("bind mount", subject, cause)
                    })
                }
                other => other.context("bind mount", subject),
            }
        }
        other => other.context("bind mount", subject),
    }
}
