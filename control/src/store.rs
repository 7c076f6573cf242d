//! Where the control plane keeps what it knows: versioned keys, compare-and-swap transactions and
//! prefix watch. One trait, so that etcd can stand behind it later; redb (embedded) stands there now.
//!
//! Absent here: what the values mean. `crate::model` reads and writes typed records through this.

mod redb;
mod reopening;

use tokio::sync::broadcast;

pub use self::redb::RedbStore;

/// A value and the store revision at which it was last written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned {
    /// The value.
    pub value: Vec<u8>,
    /// Revision of its last write; revisions grow over the whole store.
    pub revision: u64,
}

/// What must hold for a transaction to be carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compare {
    /// The key was last written at this revision.
    Revision(String, u64),
    /// The key is not there.
    Absent(String),
}

/// One write of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Sets a key.
    Put(String, Vec<u8>),
    /// Removes a key.
    Delete(String),
}

/// What a transaction came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Carried out, durably, at this revision.
    Committed(u64),
    /// A comparison failed; nothing was written. Read again and decide anew.
    Conflict,
}

/// A key changed (was put or deleted) at this revision. Read it to see what it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The key.
    pub key: String,
    /// The revision of the change.
    pub revision: u64,
}

/// The store failed: disk full, corrupt file.
#[derive(Debug, thiserror::Error)]
#[error("{step} {subject}: {cause}")]
pub struct StoreError {
    /// `open`, `open again` (after an I/O error), `read`, `commit`.
    pub step: &'static str,
    /// File or key.
    pub subject: String,
    /// Cause and remedy.
    pub cause: String,
}

/// A store. All calls block for at most a disk write.
pub trait Store: Send + Sync + 'static {
    /// A random id made with the store; a fresh or restored store has another.
    fn id(&self) -> &str;
    /// One key.
    fn get(&self, key: &str) -> Result<Option<Versioned>, StoreError>;
    /// Up to `limit` keys that start with `prefix` and are greater than `after`, in order.
    fn range(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(String, Versioned)>, StoreError>;
    /// All or nothing.
    fn transact(&self, compares: &[Compare], writes: &[Write]) -> Result<Outcome, StoreError>;
    /// Every change from now on. A receiver that lags gets an error and must read everything again.
    fn watch(&self) -> broadcast::Receiver<Change>;
}
