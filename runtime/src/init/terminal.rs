//! A terminal inside the container, made by what runs in it, so that it is the container's own devpts that counts.
//!
//! Whatever stands below /dev may have been put there by the image, by a volume or by a process that runs in the
//! container right now: a pty that is none, a link to another's (CVE-2025-52565, CVE-2026-88264, CVE-2026-88265).
//! So no link is followed, no mount below devpts is entered, the slave comes from the master (TIOCGPTPEER) and not from a
//! path, both are proven to be of a devpts and of the right driver, and /dev/console is bound by descriptor. Only the
//! slave changes its owner.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

use super::filesystem;
use super::floor::Place;
use crate::StepError;
use crate::beneath::{self, Mounts};
use crate::error::Context;
use crate::plan::Terminal;

const DEVPTS: &str = "/dev/pts";
pub(super) const CONSOLE: &str = "/dev/console";
/// statfs(2)
const DEVPTS_SUPER_MAGIC: i64 = 0x1cd1;
/// The kernel's UNIX98_PTY_SLAVE_MAJOR and the seven after it.
const SLAVE_MAJORS: std::ops::Range<u32> = 136..144;
/// TTYAUX_MAJOR and its ptmx.
const MASTER: (u32, u32) = (5, 2);

/// Makes a terminal; its master. `console` is where it is bound, if it is.
///
/// Its slave is now standard input, output and error, and the controlling terminal of this session's leader.
pub(super) fn open(
    root: BorrowedFd<'_>,
    wanted: &Terminal,
    console: Option<Place<'_>>,
) -> Result<OwnedFd, StepError> {
    let step = "open terminal";
    let master = master(root)?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    rustix::pty::unlockpt(&master).context(step, DEVPTS)?;
    let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags).context(step, DEVPTS)?;
    check(
        &slave,
        |major, _| SLAVE_MAJORS.contains(&major),
        "its slave is no pty",
    )?;
    rustix::fs::fchown(&slave, Some(Uid::from_raw(wanted.owner)), None)
        .context("own terminal", wanted.owner)?;
    if let Some((rows, columns)) = wanted.size {
        let size = Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        rustix::termios::tcsetwinsize(&slave, size).context("size terminal", DEVPTS)?;
    }
    if let Some(place) = console {
        bind_console(&place, slave.as_fd())?;
    }
    rustix::process::ioctl_tiocsctty(&slave).context("control terminal", DEVPTS)?;
    rustix::stdio::dup2_stdin(&slave).context("set", "standard input")?;
    rustix::stdio::dup2_stdout(&slave).context("set", "standard output")?;
    rustix::stdio::dup2_stderr(&slave).context("set", "standard error")?;
    Ok(master)
}

/// The multiplexer of the devpts that is mounted at /dev/pts itself.
fn master(root: BorrowedFd<'_>) -> Result<OwnedFd, StepError> {
    let step = "open terminal";
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = beneath::open(root, Path::new("dev/pts"), flags, Mounts::Enter)
        .map_err(|errno| explain(errno, DEVPTS))?;
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    if rustix::fs::fstatfs(&directory)
        .context(step, DEVPTS)?
        .f_type
        != DEVPTS_SUPER_MAGIC
    {
        return Err(no_devpts());
    }
    let ptmx = Path::new("ptmx");
    let master = beneath::open(directory.as_fd(), ptmx, flags, Mounts::Refuse)
        .map_err(|errno| explain(errno, "/dev/pts/ptmx"))?;
    check(
        &master,
        |major, minor| (major, minor) == MASTER,
        "its ptmx is not the pty multiplexer",
    )?;
    Ok(master)
}

fn explain(errno: Errno, path: &str) -> StepError {
    match errno {
        Errno::NOENT | Errno::NOTDIR => no_devpts(),
        Errno::LOOP | Errno::XDEV => {
            let cause = "a link or another mount is in its way; the image must leave it alone";
            StepError::refused("open terminal", path, cause)
        }
        other => StepError::io("open terminal", path, other),
    }
}

fn no_devpts() -> StepError {
    let cause = "no devpts is mounted there; add one to the spec's mounts";
    StepError::refused("open terminal", DEVPTS, cause)
}

fn check(tty: &OwnedFd, right: fn(u32, u32) -> bool, cause: &str) -> Result<(), StepError> {
    let step = "check terminal";
    let stat = rustix::fs::fstat(tty).context(step, DEVPTS)?;
    let magic = rustix::fs::fstatfs(tty).context(step, DEVPTS)?.f_type;
    let (major, minor) = (
        rustix::fs::major(stat.st_rdev),
        rustix::fs::minor(stat.st_rdev),
    );
    let character = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice;
    if character && magic == DEVPTS_SUPER_MAGIC && right(major, minor) {
        return Ok(());
    }
    Err(StepError::refused(step, DEVPTS, cause))
}

/// A mount over a plain file: nothing of the image is opened, and nothing is written through a link.
fn bind_console(place: &Place<'_>, slave: BorrowedFd<'_>) -> Result<(), StepError> {
    let step = "bind console";
    let (directory, name) = (&place.directory, place.name);
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let found = match rustix::fs::openat(directory, name, flags, Mode::empty()) {
        Err(Errno::NOENT) => {
            let make = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY;
            let mode = Mode::from_raw_mode(0o600);
            rustix::fs::openat(directory, name, make | OFlags::CLOEXEC, mode)
                .context(step, CONSOLE)?;
            rustix::fs::openat(directory, name, flags, Mode::empty())
        }
        other => other,
    };
    let target = found.context(step, CONSOLE)?;
    let stat = rustix::fs::statat(&target, c"", AtFlags::EMPTY_PATH).context(step, CONSOLE)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile | FileType::CharacterDevice => {}
        _ => {
            let cause =
                "the image has a link or a directory there; it must be a file or not be there";
            return Err(StepError::refused(step, CONSOLE, cause));
        }
    }
    filesystem::bind_descriptor(slave, target.as_fd()).context(step, CONSOLE)
}
