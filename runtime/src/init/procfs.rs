//! The host's procfs, proven to be one, for what init must write there.
//!
//! What is written through it (a label, a sysctl, an OOM score) never goes through a path that a container had a
//! hand in: the root is opened before the container's files are in sight, and below it no mount point, no symlink
//! but procfs' own `thread-self`, and no magic link is followed (CVE-2019-16884, CVE-2019-19921, CVE-2025-52881).

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::StepError;
use crate::beneath::{self, Mounts};
use crate::classic::PROC_ROOT_INODE;
use crate::error::Context;
use crate::plan::LabelKind;

/// The root of a procfs.
#[derive(Debug)]
pub(crate) struct Procfs(OwnedFd);

impl Procfs {
    /// The one at /proc, which must be the host's still.
    pub(crate) fn open() -> Result<Procfs, StepError> {
        Procfs::at(Path::new("/proc"))
    }

    fn at(path: &Path) -> Result<Procfs, StepError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let root =
            rustix::fs::openat(CWD, path, flags, Mode::empty()).context("open", path.display())?;
        let statfs = rustix::fs::fstatfs(&root).context("open", path.display())?;
        let stat = rustix::fs::fstat(&root).context("open", path.display())?;
        if statfs.f_type == rustix::fs::PROC_SUPER_MAGIC && stat.st_ino == PROC_ROOT_INODE {
            return Ok(Procfs(root));
        }
        let cause = "it is not the root of a procfs; mount one there";
        Err(StepError::refused("open", path.display(), cause))
    }

    /// Reads a file of this thread's own directory.
    pub(crate) fn read_own(&self, name: &str) -> Result<String, Errno> {
        let own = self.open_below("thread-self", OFlags::PATH | OFlags::DIRECTORY, false)?;
        let file = below(own.as_fd(), Path::new(name), OFlags::RDONLY, true)?;
        let mut text = String::new();
        std::io::Read::read_to_string(&mut std::fs::File::from(file), &mut text)
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        Ok(text)
    }

    /// Writes a file of this thread's own directory.
    pub(crate) fn write_own(&self, name: &str, text: &str) -> Result<(), Errno> {
        // `thread-self` is a symlink by procfs' own making: the path of this thread's directory.
        let own = self.open_below("thread-self", OFlags::PATH | OFlags::DIRECTORY, false)?;
        write_whole(
            &below(own.as_fd(), Path::new(name), OFlags::WRONLY, true)?,
            text,
        )
    }

    /// Writes a kernel parameter, as this process' namespaces have it.
    pub(crate) fn write_sysctl(&self, path: &Path, value: &str) -> Result<(), StepError> {
        let subject = path.display();
        let file = below(
            self.0.as_fd(),
            &Path::new("sys").join(path),
            OFlags::WRONLY,
            true,
        );
        let file = match file {
            Err(Errno::XDEV | Errno::LOOP) => {
                let cause = "something is mounted over it in the host's /proc/sys";
                return Err(StepError::refused("set sysctl", subject, cause));
            }
            other => other.context("set sysctl", &subject)?,
        };
        write_whole(&file, value).context("set sysctl", &subject)
    }

    /// Sets a label for this thread.
    pub(crate) fn write_label(&self, kind: LabelKind, text: &str) -> Result<(), StepError> {
        let written = match kind {
            LabelKind::AppArmorExec => {
                let order = format!("exec {text}");
                match self.write_own("attr/apparmor/exec", &order) {
                    // Before Linux 5.8 there was one such directory for all modules.
                    Err(Errno::NOENT) => self.write_own("attr/exec", &order),
                    other => other,
                }
            }
            LabelKind::SelinuxExec => self.write_own("attr/exec", text),
            LabelKind::SelinuxKeyCreate => self.write_own("attr/keycreate", text),
        };
        match (written, kind) {
            (Err(errno @ Errno::NOENT), LabelKind::AppArmorExec) => Err(StepError {
                step: "set AppArmor profile".into(),
                subject: text.into(),
                errno: Some(errno.raw_os_error()),
                cause: "no such profile is loaded; load it with apparmor_parser".into(),
            }),
            (Err(Errno::INVAL), LabelKind::SelinuxExec | LabelKind::SelinuxKeyCreate) => {
                let cause = "it is no label of this host's SELinux policy";
                Err(StepError::refused("set SELinux label", text, cause))
            }
            (other, _) => other.context("set security label", text),
        }
    }

    /// The inode number of one of this thread's namespaces, such as `net`.
    pub(crate) fn own_namespace(&self, name: &str) -> Result<u64, Errno> {
        let own = self.open_below("thread-self", OFlags::PATH | OFlags::DIRECTORY, false)?;
        let directory = below(
            own.as_fd(),
            Path::new("ns"),
            OFlags::PATH | OFlags::DIRECTORY,
            true,
        )?;
        // A magic link, as each of them is: followed on purpose, in a directory that was proven.
        let file = rustix::fs::openat(
            directory,
            name,
            OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        Ok(rustix::fs::fstat(file)?.st_ino)
    }

    fn open_below(&self, name: &str, flags: OFlags, no_links: bool) -> Result<OwnedFd, Errno> {
        below(self.0.as_fd(), Path::new(name), flags, no_links)
    }
}

fn below(
    directory: BorrowedFd<'_>,
    path: &Path,
    flags: OFlags,
    no_links: bool,
) -> Result<OwnedFd, Errno> {
    if no_links {
        return beneath::open(directory, path, flags, Mounts::Refuse);
    }
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_MAGICLINKS;
    match beneath::openat2(directory, path, flags, resolve) {
        Err(Errno::NOSYS) => {}
        other => return other,
    }
    // One link, of procfs' own making, to a path below it.
    let link = beneath::open_link(directory, path)?;
    let text = rustix::fs::readlinkat(link, c"", Vec::new())?.into_bytes();
    let path = Path::new(OsStr::from_bytes(&text));
    beneath::open(directory, path, flags, Mounts::Refuse)
}

/// One write(2): procfs takes each as a whole command.
fn write_whole(file: &OwnedFd, text: &str) -> Result<(), Errno> {
    let written = rustix::io::retry_on_intr(|| rustix::io::write(file, text.as_bytes()))?;
    if written == text.len() {
        Ok(())
    } else {
        Err(Errno::IO)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_root_of_a_procfs_is_one() {
        assert!(Procfs::open().is_ok());
        let directory = tempfile::tempdir().unwrap();
        let link = directory.path().join("link");
        std::os::unix::fs::symlink("/proc", &link).unwrap();
        for path in [
            directory.path(),
            &link,
            Path::new("/proc/self"),
            Path::new("/proc/sys"),
            Path::new("/sys"),
        ] {
            assert!(Procfs::at(path).is_err(), "{}", path.display());
        }
    }

    #[test]
    fn this_threads_own_directory_is_written() {
        let proc = Procfs::open().unwrap();
        std::thread::spawn(move || {
            proc.write_own("comm", "procfs-test").unwrap();
            assert_eq!(
                std::fs::read_to_string("/proc/thread-self/comm").unwrap(),
                "procfs-test\n"
            );
            assert_eq!(
                proc.write_own("root/etc/hostname", "x"),
                Err(Errno::LOOP),
                "no magic link"
            );
            assert_eq!(
                proc.write_own("../../../sys/kernel/hostname", "x"),
                Err(Errno::XDEV)
            );
            let net = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
            let inode = proc.own_namespace("net").unwrap();
            assert_eq!(net.to_str().unwrap(), format!("net:[{inode}]"));
        })
        .join()
        .unwrap();
    }
}
