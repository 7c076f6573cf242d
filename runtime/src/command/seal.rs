//! The sealed program: this binary, from where nobody can write to it (CVE-2019-5736).
//!
//! A container's program can reach the file that init was, through /proc/PID/exe or `#!/proc/self/exe`. So the
//! commands that make a process inside a container first execute a clone of their own file: a read-only
//! mount that is attached nowhere, without a copy; where that takes a privilege that is missing, a copy in
//! memory that is sealed. The commands that make none do not pay for it.
//!
//! `longshore_sys::start` does the first of these before libc begins, so that here most often there is nothing left to do
//! but to prove it.

use std::ffi::{CString, OsString};
use std::io::copy;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;

use longshore_sys::{MountAttributes, mount_setattr};
use nix::fcntl::AtFlags;
use rustix::fs::{CWD, MemfdFlags, Mode, OFlags, SealFlags, StatVfsMountFlags};
use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, OpenTreeFlags, open_tree};

use crate::StepError;
use crate::error::Context;

const STEP: &str = "seal program";
const SELF: &str = "/proc/self/exe";

/// Comes back if this process is sealed already; otherwise it starts anew, with the same arguments.
pub(super) fn seal() -> Result<(), StepError> {
    if is_sealed()? {
        return Ok(());
    }
    let file = match clone() {
        Err(Errno::PERM | Errno::NOSYS | Errno::INVAL) => copy_to_memory()?,
        other => other.context(STEP, SELF)?,
    };
    let text = |text: OsString| CString::new(text.into_vec()).context(STEP, SELF);
    let arguments = std::env::args_os()
        .map(text)
        .collect::<Result<Vec<_>, _>>()?;
    let environment = std::env::vars_os().map(|(name, value)| {
        let mut entry = name;
        entry.push("=");
        entry.push(value);
        text(entry)
    });
    let environment = environment.collect::<Result<Vec<_>, _>>()?;
    let flags = AtFlags::AT_EMPTY_PATH;
    match nix::unistd::execveat(&file, c"", &arguments, &environment, flags) {
        Err(errno) => Err(StepError::io(STEP, SELF, errno)),
        Ok(never) => match never {},
    }
}

/// Our own clone, which has no path and therefore shows as `/`, or our own sealed copy. A read-only mount of the
/// host's is not enough: the host may make it writable while a container holds the file.
fn is_sealed() -> Result<bool, StepError> {
    let name = rustix::fs::readlink(SELF, Vec::new()).context(STEP, SELF)?;
    if name.to_bytes() == b"/" {
        let mount = rustix::fs::statvfs(SELF).context(STEP, SELF)?;
        return Ok(mount.f_flag.contains(StatVfsMountFlags::RDONLY));
    }
    if !name.to_bytes().starts_with(b"/memfd:") {
        return Ok(false);
    }
    let file = rustix::fs::open(SELF, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    let seals = file.and_then(rustix::fs::fcntl_get_seals);
    Ok(seals.is_ok_and(|seals| seals.contains(SealFlags::WRITE)))
}

fn clone() -> Result<OwnedFd, Errno> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let clone = open_tree(CWD, SELF, flags)?;
    let sealed = MountAttributes {
        set: libc::MOUNT_ATTR_RDONLY,
        clear: 0,
        propagation: MountPropagationFlags::PRIVATE.bits().into(),
    };
    mount_setattr(clone.as_fd(), sealed, false)?;
    Ok(clone)
}

fn copy_to_memory() -> Result<OwnedFd, StepError> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let memory = match rustix::fs::memfd_create("longshore-runtime", flags | MemfdFlags::EXEC) {
        // Before Linux 6.3 every memfd may be executed, and the flag is unknown.
        Err(Errno::INVAL) => rustix::fs::memfd_create("longshore-runtime", flags),
        other => other,
    };
    let mut memory = std::fs::File::from(memory.context(STEP, "memory")?);
    let mut program = std::fs::File::open(SELF).context(STEP, SELF)?;
    copy(&mut program, &mut memory).context(STEP, SELF)?;
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(&memory, seals).context(STEP, "memory")?;
    Ok(memory.into())
}
