//! One agent for each instance: a lock that the kernel releases when the agent ends, however it ends.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;

use anyhow::Context as _;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::Instance;

/// Held for as long as the agent runs.
#[derive(Debug)]
pub(crate) struct Lock(#[expect(dead_code, reason = "the open file is the lock")] File);

impl Lock {
    /// Takes the instance's lock, or says that another agent has it.
    pub(crate) fn take(instance: &Instance) -> anyhow::Result<Lock> {
        let path = instance.agent_lock();
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .with_context(|| format!("open lock {}", path.display()))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Lock(file)),
            Err(Errno::WOULDBLOCK) => anyhow::bail!(
                "lock instance {:?}: another agent of this instance is running; stop it, or choose another instance name",
                instance.name()
            ),
            Err(e) => Err(e).with_context(|| format!("lock {}", path.display())),
        }
    }
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
        Lock::take(&instance).unwrap();
    }
}
