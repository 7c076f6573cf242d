//! close_range(2), as the beginning of a forked child's life and as one step with execve(2), so that nothing
//! of the parent's is open in the child and nothing of ours in the new program.

use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use crate::{Errno, checked, exit_now};

const FIRST_INHERITED: libc::c_int = 3;
/// The first that is not standard input, output or error.
const FIRST: libc::c_uint = 3;

/// What execve(2) takes.
#[derive(Debug)]
pub struct Program<'a> {
    /// The file.
    pub path: &'a CStr,
    /// argv
    pub args: &'a [CString],
    /// environ
    pub environment: &'a [CString],
}

/// Why no new program runs.
#[derive(Debug)]
pub enum NotExecuted<E> {
    /// What should have bound it was refused.
    Unbound(E),
    /// A system call failed, in most cases execve itself.
    Refused(Errno),
}

/// A descriptor that a program shall have.
#[derive(Debug)]
pub struct Preserved {
    /// Its number there, above 2.
    pub number: RawFd,
    /// What it is.
    pub descriptor: OwnedFd,
}

/// Gives the new program `preserved` under their numbers, closes all others above 2 except `keep`, which comes
/// after them and is close-on-exec, then lets `bind` bind this process by `bonds`, and executes `program`.
///
/// The rest is closed *before* execve, not by close-on-exec: execve of `/proc/self/fd/N` would otherwise
/// reach our files (CVE-2024-21626). `bind` comes between, so that a seccomp filter need not allow what closes them.
/// If anything fails, `report` gets `keep` and the reason, then the process ends with status 127. `bind` and
/// `report` are plain functions, and no owner of a descriptor is comparable: nothing can hold one closed here.
pub fn exec_keeping<D: PartialEq + ?Sized, E>(
    keep: OwnedFd,
    preserved: Vec<Preserved>,
    program: &Program<'_>,
    bonds: &D,
    bind: fn(&D) -> Result<(), E>,
    report: fn(OwnedFd, NotExecuted<E>),
) -> ! {
    let (kept, isolated) = isolate(keep, preserved);
    let refused = match isolated {
        Err(errno) => NotExecuted::Refused(errno),
        Ok(()) => match bind(bonds) {
            Err(error) => NotExecuted::Unbound(error),
            Ok(()) => NotExecuted::Refused(execve(program)),
        },
    };
    report(kept, refused);
    exit_now(127)
}

fn execve(program: &Program<'_>) -> Errno {
    match nix::unistd::execve(program.path, program.args, program.environment) {
        Ok(never) => match never {},
        Err(errno) => Errno::from_raw_os_error(errno as i32),
    }
}

/// Duplicates those of the descriptors from 3 on, `count` of them, which this process was started with: none of its
/// own, which are all close-on-exec.
///
/// The duplicates are above them all, so that [`exec_keeping`] can put them where they were.
pub fn duplicate_inherited(count: u32) -> Result<Vec<Preserved>, Errno> {
    let count = libc::c_int::try_from(count).map_err(|_| Errno::INVAL)?;
    let end = FIRST_INHERITED.checked_add(count).ok_or(Errno::INVAL)?;
    let inherited = |number: &libc::c_int| {
        // SAFETY: F_GETFD reads a flag of whatever the number is, if it is anything.
        let flags = unsafe { libc::fcntl(*number, libc::F_GETFD) };
        flags >= 0 && flags & libc::FD_CLOEXEC == 0
    };
    // Not one by one: most of the numbers that a caller may name were never open.
    let mut numbers = match count {
        0 => Vec::new(),
        _ => open_numbers()?,
    };
    numbers.retain(|number| *number < end && inherited(number));
    numbers.sort_unstable();
    let above = numbers.last().map_or(FIRST_INHERITED, |last| last + 1);
    let duplicate = |number: libc::c_int| {
        // SAFETY: makes a new descriptor and leaves the old one, and whoever owns it, as they are.
        let made = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, above) };
        checked(made.into())?;
        Ok(Preserved {
            number,
            // SAFETY: the call has just made it, and nobody else knows of it.
            descriptor: unsafe { OwnedFd::from_raw_fd(made) },
        })
    };
    numbers.into_iter().map(duplicate).collect()
}

/// Sets FD_CLOEXEC on every descriptor above 2: what this process was started with reaches no program that it starts.
pub fn close_all_on_exec() -> Result<(), Errno> {
    // SAFETY: changes a flag that matters to execve alone; every descriptor stays open and its owner's.
    let set = checked(unsafe {
        libc::syscall(
            libc::SYS_close_range,
            FIRST,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    });
    match set {
        // Before Linux 5.11, or a filter's answer.
        Err(_) => {
            for number in open_numbers()? {
                // SAFETY: as above.
                checked(unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) }.into())?;
            }
            Ok(())
        }
        Ok(_) => Ok(()),
    }
}

/// The descriptors above 2, as /proc lists them.
fn open_numbers() -> Result<Vec<libc::c_int>, Errno> {
    let listed = std::fs::read_dir("/proc/self/fd").map_err(|_| Errno::NOSYS)?;
    let numbers = listed.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let numbers: Vec<libc::c_int> = numbers
        .filter(|number| *number >= FIRST_INHERITED)
        .collect();
    // The list's own descriptor was among them, and is closed.
    // SAFETY: F_GETFD reads a flag of whatever the number is, if it is anything.
    let is_open = |number: &libc::c_int| unsafe { libc::fcntl(*number, libc::F_GETFD) } >= 0;
    Ok(numbers.into_iter().filter(is_open).collect())
}

/// Closes every descriptor above 2 except `kept`, then goes on with `life`, which never returns.
///
/// For a child of [`clone3`](crate::clone3), which has copies of all that its parent holds: locks, log files,
/// connections whose end of file somebody waits for. `life` is a plain function, and no owner of a descriptor
/// is comparable, so `data` cannot hold one that is closed here.
pub fn live_with<D: PartialEq + ?Sized>(
    kept: Vec<OwnedFd>,
    data: &D,
    life: fn(Vec<OwnedFd>, &D) -> !,
) -> ! {
    let mut numbers: Vec<libc::c_uint> = kept
        .iter()
        .filter_map(|fd| libc::c_uint::try_from(fd.as_raw_fd()).ok())
        .filter(|number| *number >= FIRST)
        .collect();
    numbers.sort_unstable();
    let mut from = FIRST;
    for number in numbers {
        if from < number {
            close_all(from, number - 1);
        }
        from = number + 1;
    }
    close_all(from, libc::c_uint::MAX);
    life(kept, data)
}

/// Its error is ENOSYS before Linux 5.9, or whatever a filter answers: then one after the other, up to where no
/// descriptor of a process that has not been given thousands can be.
fn close_all(first: libc::c_uint, last: libc::c_uint) {
    // SAFETY: the caller never returns to whoever owns a descriptor of this range, so no owner runs again.
    let closed = checked(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) });
    if closed.is_err() {
        for number in first..=last.min(HIGHEST) {
            // SAFETY: as above.
            unsafe { libc::syscall(libc::SYS_close, number) };
        }
    }
}

/// Four times the usual hard limit.
const HIGHEST: libc::c_uint = 1 << 14;

fn isolate(keep: OwnedFd, mut preserved: Vec<Preserved>) -> (OwnedFd, Result<(), Errno>) {
    preserved.sort_unstable_by_key(|one| one.number);
    let last = preserved.last().map(|one| one.number);
    let end = last.map_or(FIRST_INHERITED, |last| last + 1);
    // Out of the way first: none of the numbers to be filled is a source any more.
    let keep = match raised(keep, end) {
        Ok(keep) => keep,
        Err((keep, errno)) => return (keep, Err(errno)),
    };
    let raise = |one: Preserved| match raised(one.descriptor, end) {
        Ok(descriptor) => Ok(Preserved { descriptor, ..one }),
        Err((_, errno)) => Err(errno),
    };
    let sources: Vec<Preserved> = match preserved.into_iter().map(raise).collect() {
        Ok(sources) => sources,
        Err(errno) => return (keep, Err(errno)),
    };
    let mut next = FIRST;
    for Preserved { number, descriptor } in &sources {
        // SAFETY: dup3 replaces whatever `number` was. Its owner, if any, is never used again: `exec_keeping`
        // does not return, so no caller's code or destructor runs, and `report` cannot capture an owner.
        // `keep` and `sources` are all at `end` or above.
        let placed =
            checked(unsafe { libc::syscall(libc::SYS_dup3, descriptor.as_raw_fd(), *number, 0) });
        if let Err(errno) = placed {
            return (keep, Err(errno));
        }
        // A number that was asked for and never open stays free of anything of ours.
        let Ok(number) = libc::c_uint::try_from(*number) else {
            return (keep, Err(Errno::BADF));
        };
        if next < number {
            close_all(next, number - 1);
        }
        next = number + 1;
    }
    // Closed below with the others; one of them may be `end`, which is filled next.
    std::mem::forget(sources);
    let kept = if keep.as_raw_fd() == end {
        keep
    } else {
        // SAFETY: as above; every source has been placed.
        if let Err(errno) = checked(unsafe {
            libc::syscall(libc::SYS_dup3, keep.as_raw_fd(), end, libc::O_CLOEXEC)
        }) {
            return (keep, Err(errno));
        }
        // `keep` itself is closed below with the others; dropping it here would be a second owner's close.
        std::mem::forget(keep);
        // SAFETY: dup3 has just made it, and no other owner of it can run (see above).
        unsafe { OwnedFd::from_raw_fd(end) }
    };
    // No owner of any of these descriptors ever runs again.
    let closed = libc::c_uint::try_from(end + 1).map_err(|_| Errno::BADF);
    let closed = closed.map(|first| close_all(first, libc::c_uint::MAX));
    let closed = closed.and_then(|()| rustix::io::fcntl_setfd(&kept, rustix::io::FdFlags::CLOEXEC));
    (kept, closed)
}

/// The same file at `end` or above.
fn raised(fd: OwnedFd, end: libc::c_int) -> Result<OwnedFd, (OwnedFd, Errno)> {
    if fd.as_raw_fd() >= end {
        return Ok(fd);
    }
    rustix::io::fcntl_dupfd_cloexec(&fd, end).map_err(|errno| (fd, errno))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROLE: &str = "LONGSHORE_TEST_EXECUTES";
    const TEST: &str = "exec::tests::a_descriptor_of_ours_cannot_be_what_is_executed";

    /// CVE-2016-9962, CVE-2024-21626: close-on-exec comes too late for a program that is named by a descriptor. The test
    /// runs itself again as the process that executes.
    #[test]
    fn a_descriptor_of_ours_cannot_be_what_is_executed() {
        if std::env::var_os(ROLE).is_some() {
            let open = || OwnedFd::from(std::fs::File::open("/bin/true").unwrap());
            // Above what takes its place anew.
            let ours = rustix::io::fcntl_dupfd_cloexec(open(), 20).unwrap();
            let program = Program {
                path: &CString::new(format!("/proc/self/fd/{}", ours.as_raw_fd())).unwrap(),
                args: &[c"true".to_owned()],
                environment: &[],
            };
            let report = |_, why| match why {
                NotExecuted::Refused(Errno::NOENT) => exit_now(3),
                NotExecuted::Refused(_) | NotExecuted::Unbound(()) => exit_now(4),
            };
            exec_keeping(open(), Vec::new(), &program, &(), |_| Ok(()), report)
        }
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", TEST])
            .env(ROLE, "yes")
            .stdout(std::process::Stdio::null())
            .status();
        assert_eq!(status.unwrap().code(), Some(3));
    }

    #[test]
    fn what_is_not_there_or_is_our_own_is_not_inherited() {
        let own = std::fs::File::open("/dev/null").unwrap();
        let count = own.as_raw_fd() as u32 - 2;
        let numbers = |count| -> Vec<RawFd> {
            let all = duplicate_inherited(count).unwrap();
            all.iter().map(|one| one.number).collect()
        };
        assert!(!numbers(count).contains(&own.as_raw_fd()));
        rustix::io::fcntl_setfd(&own, rustix::io::FdFlags::empty()).unwrap();
        assert!(numbers(count).contains(&own.as_raw_fd()));
        assert!(!numbers(count - 1).contains(&own.as_raw_fd()));
        assert!(numbers(i32::MAX as u32 - 3).contains(&own.as_raw_fd()));
        assert!(numbers(0).is_empty());
        assert_eq!(duplicate_inherited(u32::MAX).err(), Some(Errno::INVAL));
    }

    /// What `bind` sees is what execve will.
    #[test]
    fn between_what_is_preserved_nothing_of_ours_is_open() {
        const GIVEN: [RawFd; 2] = [20, 30];
        fn only_given(_: &()) -> Result<(), ()> {
            // SAFETY: F_GETFD reads a flag of whatever the number is, if it is anything.
            let is_open = |number: RawFd| unsafe { libc::fcntl(number, libc::F_GETFD) } >= 0;
            let right = (3..31).all(|number| is_open(number) == GIVEN.contains(&number));
            right.then_some(()).ok_or(())
        }
        fn report(_: OwnedFd, why: NotExecuted<()>) {
            exit_now(match why {
                NotExecuted::Refused(Errno::NOENT) => 7,
                _ => 8,
            })
        }
        // SAFETY: the child touches nothing that another thread may have held.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let null = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
            let _ours: Vec<OwnedFd> = (0..40).map(|_| null()).collect();
            let preserved = GIVEN.map(|number| Preserved {
                number,
                descriptor: null(),
            });
            let program = Program {
                path: c"/nowhere",
                args: &[],
                environment: &[],
            };
            exec_keeping(null(), preserved.into(), &program, &(), only_given, report);
        }
        let mut status = 0;
        // SAFETY: writes into `status`, which lives.
        assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
        assert_eq!(libc::WEXITSTATUS(status), 7);
    }
}
