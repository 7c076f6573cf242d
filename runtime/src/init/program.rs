//! Finding args[0] as execve(2) would, early enough that a missing one fails the creation, in words.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, FileType};
use rustix::io::Errno;

use crate::StepError;

const STEP: &str = "resolve entrypoint";

/// Resolves `name` inside the container's root (this process has been pivoted into it): as it is if it holds
/// a slash, otherwise in the directories of `path`. The user has been set, so permission is the program's.
pub(super) fn find(name: &str, path: &str) -> Result<CString, StepError> {
    let found = if name.contains('/') {
        check(Path::new(name))
            .map(|()| PathBuf::from(name))
            .map_err(|errno| explain(name, errno))?
    } else {
        search(name, path)?
    };
    CString::new(found.as_os_str().as_bytes()).map_err(|_| explain(name, Errno::INVAL))
}

/// The first that can be executed; like execvp(3), one that cannot is remembered and told if none can.
fn search(name: &str, path: &str) -> Result<PathBuf, StepError> {
    let mut refusal = None;
    for directory in path.split(':') {
        let directory = if directory.is_empty() { "." } else { directory };
        let candidate = Path::new(directory).join(name);
        match check(&candidate) {
            Ok(()) => return Ok(candidate),
            Err(Errno::NOENT | Errno::NOTDIR) => {}
            Err(errno) => refusal = refusal.or(Some((candidate, errno))),
        }
    }
    Err(match refusal {
        Some((candidate, errno)) => explain(&candidate.to_string_lossy(), errno),
        None => StepError {
            step: STEP.into(),
            subject: name.into(),
            errno: Some(Errno::NOENT.raw_os_error()),
            cause: format!(
                "no such program in PATH ({path}), executable file not found in any of it; give its full path or install it in the image"
            ),
        },
    })
}

fn check(path: &Path) -> Result<(), Errno> {
    let stat = rustix::fs::stat(path)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => return Err(Errno::ISDIR),
        FileType::RegularFile => {}
        _ => return Err(Errno::ACCESS),
    }
    rustix::fs::accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS)
}

/// One sentence and one remedy for each way that a program cannot be executed. Callers such as podman tell a missing
/// program (127) from one that may not run (126) by the words "executable file not found in", "no such file or
/// directory" and "permission denied", so these stand there.
pub(crate) fn explain(program: &str, errno: Errno) -> StepError {
    let cause = match errno {
        Errno::NOENT => {
            "no such file in the image, or its interpreter is missing (no such file or directory); check the command and the image"
        }
        Errno::NOTDIR => "a part of its path is not a directory; check the command",
        Errno::ACCESS | Errno::PERM => {
            "permission denied; the file must be executable (chmod +x) for the container's user"
        }
        Errno::ISDIR => "permission denied: it is a directory; name a program inside it",
        Errno::NOEXEC => {
            "not a program of this architecture, nor a script with a first line such as #!/bin/sh"
        }
        Errno::LOOP => "too many symlinks; check the image",
        Errno::TOOBIG => "its arguments and environment are too large; make them shorter",
        Errno::TXTBSY => "the file is open for writing; close it and try again",
        other => return StepError::io(STEP, program, other),
    };
    StepError {
        step: STEP.into(),
        subject: program.into(),
        errno: Some(errno.raw_os_error()),
        cause: cause.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn each_way_to_fail_has_its_own_sentence() {
        let directory = tempfile::tempdir().unwrap();
        let plain = directory.path().join("plain");
        std::fs::write(&plain, "text").unwrap();
        std::fs::set_permissions(&plain, std::fs::Permissions::from_mode(0o644)).unwrap();
        let path = directory.path().to_str().unwrap();
        let error = |name: &str| find(name, path).unwrap_err();
        assert!(error("missing").cause.contains("no such program in PATH"));
        assert!(error("/missing").cause.contains("no such file"));
        assert!(error("plain").cause.contains("chmod +x"));
        let directory = error(path).cause;
        assert!(
            directory.contains("is a directory") && directory.contains("permission denied"),
            "{directory}"
        );
        assert!(error("/dev/null").cause.contains("permission denied"));
    }

    #[test]
    fn a_program_that_cannot_run_does_not_hide_one_that_can() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("true")).unwrap();
        let path = format!("{}:/usr/bin:/bin", directory.path().display());
        assert_eq!(
            find("true", &path).unwrap().to_str().unwrap(),
            "/usr/bin/true"
        );
    }
}
