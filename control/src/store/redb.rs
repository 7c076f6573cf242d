//! The embedded store: one redb file, one process.
//!
//! Every commit is on disk before `transact` returns. Values lie beside the revision of their last
//! write; the highest revision and the store's id lie in a table of their own. After an I/O error, such as
//! a full disk, the next call opens the file again ([`Reopening`]).
//!
//! Absent: sharing the file with a second process (refused by name), leases, compaction.

use std::collections::BTreeSet;
use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use redb::backends::FileBackend;
use redb::{
    Database, DatabaseError, ReadableDatabase, ReadableTable, StorageError, TableDefinition,
};
use tokio::sync::broadcast;

use super::reopening::{Failed, Reopening};
use super::{Change, Compare, Outcome, Store, StoreError, Versioned, Write};

/// key -> (revision of its last write, value)
const VALUES: TableDefinition<'_, &str, (u64, &[u8])> = TableDefinition::new("values");
/// `id` and, as decimal text, `revision`.
const ABOUT: TableDefinition<'_, &str, &str> = TableDefinition::new("about");

/// The step that may have been carried out although it failed.
const COMMIT: &str = "commit";

/// Changes a slow watcher may lag behind before it has to read everything again.
const WATCH_DEPTH: usize = 4096;

/// A [`Store`] in one file of this machine.
pub struct RedbStore {
    path: PathBuf,
    id: String,
    file: Reopening,
    changes: broadcast::Sender<Change>,
    /// Keys of commits that failed: their last step may have reached the disk all the same.
    doubtful: Mutex<BTreeSet<String>>,
}

impl std::fmt::Debug for RedbStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedbStore")
            .field("path", &self.path)
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl RedbStore {
    /// Opens `DIRECTORY/store.redb`, making both where they are missing. The directory belongs to the
    /// store alone: it is kept at mode 0700 and the file at 0600.
    ///
    /// # Errors
    /// `open`: the directory cannot be made or entered, another process holds the file, or it is no
    /// intact redb file.
    pub fn open(directory: &Path) -> Result<RedbStore, StoreError> {
        RedbStore::open_with(directory, open_database)
    }

    /// `open` opens what is in the file; tests put a failing disk under it.
    fn open_with(
        directory: &Path,
        open: impl Fn(File) -> Result<Database, DatabaseError> + Send + Sync + 'static,
    ) -> Result<RedbStore, StoreError> {
        let path = directory.join("store.redb");
        let failed = |cause: String| StoreError {
            step: "open",
            subject: path.display().to_string(),
            cause,
        };
        let file = private_file(directory, &path).map_err(|e| failed(e.to_string()))?;
        let database = open(file).map_err(|e| failed(opening(e)))?;
        let id = identify(&database).map_err(|e| failed(told(&e)))?;
        let (again, same) = (path.clone(), id.clone());
        let again = Box::new(move || {
            let file = existing_file(&again).map_err(|e| e.to_string())?;
            let database = open(file).map_err(opening)?;
            need_id(&database, &same)?;
            tracing::info!(store = %again.display(), "opened again after an I/O error");
            Ok(database)
        });
        Ok(RedbStore {
            file: Reopening::new(database, again),
            path,
            id,
            changes: broadcast::channel(WATCH_DEPTH).0,
            doubtful: Mutex::default(),
        })
    }

    fn with<T>(
        &self,
        step: &'static str,
        call: impl FnOnce(&Database) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        let done = self.file.with(call).map_err(|failed| {
            let (step, cause) = match failed {
                Failed::Opening(cause) => ("open again", cause),
                Failed::Call(error) => (step, told(&error)),
            };
            StoreError {
                step,
                subject: self.path.display().to_string(),
                cause,
            }
        })?;
        self.settle_doubt();
        Ok(done)
    }

    /// Lets the watchers look at what a failed commit may have changed, now that the store answers again.
    fn settle_doubt(&self) {
        if self.doubtful().is_empty() {
            return;
        }
        let newest = self.file.with(|database| {
            let about = database.begin_read()?.open_table(ABOUT)?;
            last_revision(&about)
        });
        let Ok(revision) = newest else {
            return; // broken once more: at the next answer then
        };
        let keys = std::mem::take(&mut *self.doubtful());
        for key in keys {
            self.changes.send(Change { key, revision }).ok();
        }
    }

    fn doubtful(&self) -> std::sync::MutexGuard<'_, BTreeSet<String>> {
        self.doubtful.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn one(database: &Database, key: &str) -> Result<Option<Versioned>, redb::Error> {
    let table = database.begin_read()?.open_table(VALUES)?;
    Ok(table.get(key)?.map(|entry| versioned(entry.value())))
}

fn some(
    database: &Database,
    prefix: &str,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<(String, Versioned)>, redb::Error> {
    let table = database.begin_read()?.open_table(VALUES)?;
    let first = after.filter(|key| *key > prefix).unwrap_or(prefix);
    let mut found = Vec::new();
    for entry in table.range(first..)? {
        let (key, value) = entry?;
        let key = key.value();
        if !key.starts_with(prefix) || found.len() == limit {
            break;
        }
        if after.is_none_or(|after| key > after) {
            found.push((key.to_owned(), versioned(value.value())));
        }
    }
    Ok(found)
}

fn commit(
    database: &Database,
    compares: &[Compare],
    writes: &[Write],
) -> Result<Outcome, redb::Error> {
    let transaction = database.begin_write()?;
    let revision;
    {
        let mut values = transaction.open_table(VALUES)?;
        for compare in compares {
            if !holds(&values, compare)? {
                // Dropping the transaction aborts it.
                return Ok(Outcome::Conflict);
            }
        }
        let mut about = transaction.open_table(ABOUT)?;
        revision = last_revision(&about)? + 1;
        about.insert("revision", revision.to_string().as_str())?;
        for write in writes {
            match write {
                Write::Put(key, value) => {
                    values.insert(key.as_str(), (revision, value.as_slice()))?;
                }
                Write::Delete(key) => {
                    values.remove(key.as_str())?;
                }
            }
        }
    }
    transaction.commit()?;
    Ok(Outcome::Committed(revision))
}

impl Store for RedbStore {
    fn id(&self) -> &str {
        &self.id
    }

    fn get(&self, key: &str) -> Result<Option<Versioned>, StoreError> {
        self.with("read", |database| one(database, key))
    }

    fn range(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(String, Versioned)>, StoreError> {
        self.with("read", |database| some(database, prefix, after, limit))
    }

    fn transact(&self, compares: &[Compare], writes: &[Write]) -> Result<Outcome, StoreError> {
        let keys = || {
            let key = |write: &Write| {
                let (Write::Put(key, _) | Write::Delete(key)) = write;
                key.clone()
            };
            writes.iter().map(key)
        };
        let outcome = self
            .with(COMMIT, |database| commit(database, compares, writes))
            .inspect_err(|error| {
                if error.step == COMMIT {
                    self.doubtful().extend(keys());
                }
            })?;
        if let Outcome::Committed(revision) = outcome {
            for key in keys() {
                // An error only says that nobody watches.
                self.changes.send(Change { key, revision }).ok();
            }
        }
        Ok(outcome)
    }

    fn watch(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }
}

fn versioned((revision, value): (u64, &[u8])) -> Versioned {
    Versioned {
        value: value.to_vec(),
        revision,
    }
}

fn holds(
    values: &impl ReadableTable<&'static str, (u64, &'static [u8])>,
    compare: &Compare,
) -> Result<bool, redb::Error> {
    Ok(match compare {
        Compare::Revision(key, revision) => values
            .get(key.as_str())?
            .is_some_and(|entry| entry.value().0 == *revision),
        Compare::Absent(key) => values.get(key.as_str())?.is_none(),
    })
}

fn last_revision(
    about: &impl ReadableTable<&'static str, &'static str>,
) -> Result<u64, redb::Error> {
    match about.get("revision")? {
        None => Ok(0),
        Some(text) => text
            .value()
            .parse()
            .map_err(|_| redb::Error::Corrupted("revision is not a number".to_owned())),
    }
}

/// Reads the store's id; makes it, and the tables, at the first opening.
fn identify(database: &Database) -> Result<String, redb::Error> {
    let transaction = database.begin_write()?;
    let id = {
        transaction.open_table(VALUES)?;
        let mut about = transaction.open_table(ABOUT)?;
        let known = about.get("id")?.map(|id| id.value().to_owned());
        match known {
            Some(id) => id,
            None => {
                let id = crate::id::hex();
                about.insert("id", id.as_str())?;
                id
            }
        }
    };
    transaction.commit()?;
    Ok(id)
}

fn private_file(directory: &Path, path: &Path) -> io::Result<File> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)?;
    std::fs::set_permissions(directory, Permissions::from_mode(0o700))?;
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)?;
    file.set_permissions(Permissions::from_mode(0o600))?;
    Ok(file)
}

/// Never makes the file: a store that is gone must not come back empty.
fn existing_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}

fn open_database(file: File) -> Result<Database, DatabaseError> {
    Database::builder()
        .set_check_integrity_on_open(true)
        .create_with_backend(FileBackend::new(file)?)
}

/// Another store may lie there since: all that was read before would be of no account.
fn need_id(database: &Database, id: &str) -> Result<(), String> {
    let read = || -> Result<Option<String>, redb::Error> {
        let about = database.begin_read()?.open_table(ABOUT)?;
        Ok(about.get("id")?.map(|id| id.value().to_owned()))
    };
    match read() {
        Ok(found) if found.as_deref() == Some(id) => Ok(()),
        Ok(_) => Err("another store lies there now; restart the control plane to use it".into()),
        Err(error) => Err(told(&error)),
    }
}

const NO_SPACE: &str =
    "free space on its file system; the next call opens the store again by itself";

fn told(error: &redb::Error) -> String {
    match error {
        redb::Error::Io(cause) if cause.kind() == io::ErrorKind::StorageFull => {
            format!("{cause}; {NO_SPACE}")
        }
        other => other.to_string(),
    }
}

fn opening(error: DatabaseError) -> String {
    match error {
        DatabaseError::Storage(StorageError::Io(cause))
            if cause.kind() == io::ErrorKind::StorageFull =>
        {
            format!("{cause}; {NO_SPACE}")
        }
        DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => {
            "another process has it open; stop the other control plane or choose another state directory"
                .to_owned()
        }
        other => format!(
            "{other}; restore the file from a backup, or move it away to start with an empty store"
        ),
    }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod failing;
