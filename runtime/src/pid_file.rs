//! `--pid-file`: a process's pid in a file that is whole from the moment it is there.

use std::io::Write;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags};

use crate::StepError;
use crate::error::Context;

/// Writes `pid` beside `path` and renames it into place; an earlier file there is replaced.
pub(crate) fn write(path: &Path, pid: u32) -> Result<(), StepError> {
    let step = "write pid file";
    let name = path
        .file_name()
        .ok_or_else(|| StepError::refused(step, path.display(), "it must be the path of a file"))?;
    let fresh = path.with_file_name(format!(
        ".{}.{}",
        name.to_string_lossy(),
        std::process::id()
    ));
    let flags =
        OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(CWD, &fresh, flags, Mode::from_raw_mode(0o644))
        .context(step, path.display())?;
    let written = std::fs::File::from(file)
        .write_all(pid.to_string().as_bytes())
        .and_then(|()| std::fs::rename(&fresh, path));
    written
        .inspect_err(|_| drop(std::fs::remove_file(&fresh)))
        .context(step, path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_holds_the_pid_and_nothing_is_beside_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pid");
        write(&path, 123_456).unwrap();
        write(&path, 7).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "7");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_cannot_be_written_is_named_and_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let taken = directory.path().join("taken");
        std::fs::create_dir(&taken).unwrap();
        assert!(write(&taken, 7).is_err());
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
        let missing = write(&directory.path().join("no/pid"), 7).unwrap_err();
        assert!(missing.to_string().contains("no/pid"), "{missing}");
        assert!(write(Path::new("/"), 7).is_err());
    }
}
