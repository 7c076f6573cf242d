//! New file systems (fsopen(2), fsconfig(2), fsmount(2)), and new flags for a mount that is there (fspick(2)).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, XattrFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, FsPickFlags, MountAttrFlags, fsconfig_create, fsconfig_reconfigure,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, fspick,
};

use super::{attach, configure, copy_up, refuse_procfs, set_flags};
use crate::StepError;
use crate::classic;
use crate::error::Context;
use crate::init::resolve::{self, Missing};
use crate::plan::{Filesystem, MountFlags, Propagation, Remount};

/// A parameter of a file system.
pub(in crate::init) type Parameter<'a> = (&'a str, Option<&'a str>);

/// Makes a file system that is attached later.
pub(in crate::init) fn open_filesystem(wanted: &Filesystem) -> Result<OwnedFd, StepError> {
    make(wanted, &[]).map_err(|errno| explain(errno, wanted))
}

/// Attaches what [`open_filesystem`] made.
pub(in crate::init) fn attach_filesystem(
    root: BorrowedFd<'_>,
    mount: &OwnedFd,
    wanted: &Filesystem,
) -> Result<(), StepError> {
    let (target, found) = target(root, wanted)?;
    if inherits(wanted, found) {
        chmod(mount, &target).context("mount", subject(wanted))?;
    }
    fill(mount, &target, found, wanted)
}

/// Mounts a new file system below the root.
pub(in crate::init) fn mount(
    root: BorrowedFd<'_>,
    wanted: &Filesystem,
) -> Result<OwnedFd, StepError> {
    let (target, found) = target(root, wanted)?;
    let mode = match inherits(wanted, found) {
        true => Some(mode(&target).context("mount", subject(wanted))?),
        false => None,
    };
    let extra = mode.as_deref().map(|mode| ("mode", Some(mode)));
    let mount = make(wanted, extra.as_slice()).map_err(|errno| explain(errno, wanted))?;
    fill(&mount, &target, found, wanted)?;
    Ok(mount)
}

/// A tmpfs is as open as the directory that it covers, unless the spec says how open.
fn inherits(wanted: &Filesystem, found: bool) -> bool {
    wanted.kind == "tmpfs" && found && !wanted.data.iter().any(|(key, _)| key == "mode")
}

fn chmod(mount: &OwnedFd, like: &OwnedFd) -> Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let top = rustix::fs::openat(mount, c".", flags, Mode::empty())?;
    let stat = rustix::fs::fstat(like)?;
    rustix::fs::fchmod(top, Mode::from_raw_mode(stat.st_mode & 0o7777))
}

fn fill(
    mount: &OwnedFd,
    target: &OwnedFd,
    found: bool,
    wanted: &Filesystem,
) -> Result<(), StepError> {
    if wanted.copy_up && found {
        copy_up::copy(target, mount).context("copy up", wanted.destination.display())?;
    }
    put(mount, target.as_fd(), wanted)
}

fn mode(directory: &OwnedFd) -> Result<String, Errno> {
    let stat = rustix::fs::fstat(directory)?;
    Ok(format!("{:o}", stat.st_mode & 0o7777))
}

fn subject(wanted: &Filesystem) -> String {
    format!("{} at {}", wanted.kind, wanted.destination.display())
}

/// The place, and whether it was there before.
fn target(root: BorrowedFd<'_>, wanted: &Filesystem) -> Result<(OwnedFd, bool), StepError> {
    let subject = subject(wanted);
    let found = match wanted.real_directory {
        true => resolve::real_directory(root, &wanted.destination)
            .map(|found| (found, true))
            .map_err(|errno| resolve::not_real("mount", &subject, errno))?,
        false => match resolve::open(root, &wanted.destination) {
            Ok(found) => (found, true),
            Err(Errno::NOENT) => {
                resolve::make_missing(root, &wanted.destination, Missing::Directory)
                    .map(|made| (made, false))
                    .context("mount", &subject)?
            }
            Err(errno) => return Err(errno).context("mount", &subject),
        },
    };
    refuse_procfs(found.0.as_fd(), &wanted.destination)?;
    Ok(found)
}

fn put(mount: &OwnedFd, target: BorrowedFd<'_>, wanted: &Filesystem) -> Result<(), StepError> {
    // A new one is private by itself.
    if wanted.propagation.propagation != Propagation::Private {
        let none = MountFlags::default();
        configure(mount.as_fd(), wanted.propagation, none, none)
            .context("mount", subject(wanted))?;
    }
    if let Some(text) = &wanted.label {
        label(mount, text).context("label", subject(wanted))?;
    }
    attach(mount.as_fd(), target).context("mount", subject(wanted))
}

/// SELinux's label of the top directory. A kernel or a policy by which such a file system has no labels of single files needs
/// none.
fn label(mount: &OwnedFd, text: &str) -> Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let top = rustix::fs::openat(mount, c".", flags, Mode::empty())?;
    let name = c"security.selinux";
    match rustix::fs::fsetxattr(top, name, text.as_bytes(), XattrFlags::empty()) {
        Err(Errno::NOTSUP) => Ok(()),
        other => other,
    }
}

fn explain(errno: Errno, wanted: &Filesystem) -> StepError {
    let error = StepError::io("mount", subject(wanted), errno);
    let cause = match errno {
        Errno::NODEV => "the kernel has no such file system; load its module or use another type",
        Errno::PERM if matches!(wanted.kind.as_str(), "proc" | "sysfs") => {
            "this user namespace may not mount it: the host's own is partly covered, or its namespace is the host's; \
             bind the host's instead"
        }
        Errno::INVAL if !wanted.data.is_empty() => "the file system refuses one of its options",
        _ => return error,
    };
    StepError {
        cause: cause.into(),
        ..error
    }
}

fn make(wanted: &Filesystem, extra: &[Parameter<'_>]) -> Result<OwnedFd, Errno> {
    let source = wanted
        .source
        .as_deref()
        .map(|source| ("source", Some(source)));
    let data = wanted.data.iter();
    let data = data.map(|(key, value)| (key.as_str(), value.as_deref()));
    let data: Vec<Parameter<'_>> = source
        .into_iter()
        .chain(data)
        .chain(extra.iter().copied())
        .collect();
    match detached(&wanted.kind, &data, wanted.flags) {
        // A device that cannot be written to wants to hear that nobody will.
        Err(Errno::ROFS | Errno::ACCESS) if wanted.flags.read_only() => {
            let data: Vec<_> = data.into_iter().chain([("ro", None)]).collect();
            detached(&wanted.kind, &data, wanted.flags)
        }
        other => other,
    }
}

/// A new file system, attached nowhere.
pub(in crate::init) fn detached(
    kind: &str,
    data: &[Parameter<'_>],
    flags: MountFlags,
) -> Result<OwnedFd, Errno> {
    if classic::needed() {
        return classic::detached(kind, data, flags.set);
    }
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    configure_context(context.as_fd(), data)?;
    fsconfig_create(&context)?;
    let attributes =
        MountAttrFlags::from_bits_retain(u32::try_from(flags.set).map_err(|_| Errno::INVAL)?);
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

fn configure_context(context: BorrowedFd<'_>, data: &[Parameter<'_>]) -> Result<(), Errno> {
    for (key, value) in data {
        let set = match value {
            Some(value) => fsconfig_set_string(context, *key, *value),
            None => fsconfig_set_flag(context, *key),
        };
        match set {
            // A file system without this option either always counts versions or never can.
            Err(Errno::INVAL) if *key == "iversion" => {}
            other => other?,
        }
    }
    Ok(())
}

/// New flags for the mount at a place, and new parameters for its file system, if there are any.
pub(in crate::init) fn remount(root: BorrowedFd<'_>, wanted: &Remount) -> Result<(), StepError> {
    let (step, subject) = ("remount", wanted.destination.display());
    let target = resolve::open(root, &wanted.destination).context(step, &subject)?;
    refuse_procfs(target.as_fd(), &wanted.destination)?;
    let flags = || {
        set_flags(target.as_fd(), wanted.tree, true)?;
        set_flags(target.as_fd(), wanted.flags, false)
    };
    match flags() {
        Err(Errno::INVAL) => {
            let cause = "it is no mount point; `remount` is for a mount that is listed before";
            return Err(StepError::refused(step, subject, cause));
        }
        other => other.context(step, &subject)?,
    }
    if wanted.data.is_empty() {
        return Ok(());
    }
    let data: Vec<Parameter<'_>> = wanted
        .data
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_deref()))
        .collect();
    let reconfigure = || {
        if classic::needed() {
            return classic::reconfigure(target.as_fd(), &data);
        }
        let flags = FsPickFlags::FSPICK_CLOEXEC | FsPickFlags::FSPICK_EMPTY_PATH;
        let context = fspick(&target, c"", flags)?;
        configure_context(context.as_fd(), &data)?;
        fsconfig_reconfigure(&context)
    };
    reconfigure().context(step, subject)
}

/// Makes a mount read-only that had to be written to until now.
pub(in crate::init) fn seal(mount: &OwnedFd) -> Result<(), StepError> {
    let flags = MountFlags::setting(libc::MOUNT_ATTR_RDONLY);
    set_flags(mount.as_fd(), flags, false).context("make read-only", "a tmpfs")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On a tmpfs, which takes the attribute also where no module looks at it.
    #[test]
    #[ignore = "needs root"]
    fn a_label_is_an_attribute_of_the_top() {
        let mount = detached("tmpfs", &[], MountFlags::default()).unwrap();
        label(&mount, "u:o:f:s0").unwrap();
        let top = rustix::fs::openat(&mount, c".", OFlags::RDONLY, Mode::empty()).unwrap();
        let mut found = [0; 16];
        let length = rustix::fs::fgetxattr(top, c"security.selinux", &mut found).unwrap();
        assert_eq!(&found[..length], b"u:o:f:s0");
        let mqueue = detached("mqueue", &[], MountFlags::default()).unwrap();
        assert!(label(&mqueue, "u:o:f:s0").is_ok());
    }
}
