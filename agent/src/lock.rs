//! One agent for each instance: a lock that the kernel releases when the agent ends, however it ends.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::Instance;

/// Held for as long as the agent runs.
#[derive(Debug)]
pub(crate) struct Lock {
    path: PathBuf,
    /// The open file is the lock.
    _file: File,
}

impl Lock {
    /// Takes the instance's lock, or says that another agent has it.
    pub(crate) fn take(instance: &Instance) -> anyhow::Result<Lock> {
        let path = instance.agent_lock();
        loop {
            let file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(&path)
                .with_context(|| format!("open lock {}", path.display()))?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                // Its holder may have removed it just before: then it keeps nobody out.
                Ok(()) if is_at(&file, &path) => return Ok(Lock { path, _file: file }),
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => anyhow::bail!(
                    "lock instance {:?}: another agent of this instance is running; stop it, or choose another instance name",
                    instance.name()
                ),
                Err(e) => return Err(e).with_context(|| format!("lock {}", path.display())),
            }
        }
    }

    /// Lets go of it and leaves no file.
    pub(crate) fn remove(self) -> std::io::Result<()> {
        std::fs::remove_file(&self.path)
    }
}

fn is_at(file: &File, path: &Path) -> bool {
    let (Ok(opened), Ok(named)) = (file.metadata(), std::fs::metadata(path)) else {
        return false;
    };
    (opened.dev(), opened.ino()) == (named.dev(), named.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_agent_of_an_instance_is_told_so() {
        let dir = tempfile::tempdir().unwrap();
        let instance = Instance::named("t")
            .unwrap()
            .with_run_root(dir.path().to_owned());
        let first = Lock::take(&instance).unwrap();
        let refused = Lock::take(&instance).unwrap_err().to_string();
        assert!(
            refused.contains("another agent of this instance is running"),
            "{refused}"
        );
        drop(first);
        Lock::take(&instance).unwrap().remove().unwrap();
        assert!(!instance.agent_lock().exists());
        // Opened before it was removed, locked afterwards: not the lock any more.
        let kept = Lock::take(&instance).unwrap();
        std::fs::remove_file(instance.agent_lock()).unwrap();
        assert!(!is_at(&kept._file, &instance.agent_lock()));
    }
}
