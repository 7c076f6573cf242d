//! The embedded store: one redb file, one process.
//!
//! Every commit is on disk before `transact` returns. Values lie beside the revision of their last
//! write; the highest revision and the store's id lie in a table of their own.
//!
//! Absent: sharing the file with a second process (refused by name), leases, compaction.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use redb::backends::FileBackend;
use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition};
use tokio::sync::broadcast;

use super::{Change, Compare, Outcome, Store, StoreError, Versioned, Write};

/// key -> (revision of its last write, value)
const VALUES: TableDefinition<'_, &str, (u64, &[u8])> = TableDefinition::new("values");
/// `id` and, as decimal text, `revision`.
const ABOUT: TableDefinition<'_, &str, &str> = TableDefinition::new("about");

/// Changes a slow watcher may lag behind before it has to read everything again.
const WATCH_DEPTH: usize = 4096;

/// A [`Store`] in one file of this machine.
pub struct RedbStore {
    path: PathBuf,
    id: String,
    database: Database,
    changes: broadcast::Sender<Change>,
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
        let path = directory.join("store.redb");
        let failed = |cause: String| StoreError {
            step: "open",
            subject: path.display().to_string(),
            cause,
        };
        let file = private_file(directory, &path).map_err(|e| failed(e.to_string()))?;
        let backend = FileBackend::new(file).map_err(|e| failed(opening(e)))?;
        let database = Database::builder()
            .set_check_integrity_on_open(true)
            .create_with_backend(backend)
            .map_err(|e| failed(opening(e)))?;
        let id = identify(&database).map_err(|e| failed(e.to_string()))?;
        let (changes, _) = broadcast::channel(WATCH_DEPTH);
        Ok(RedbStore {
            path,
            id,
            database,
            changes,
        })
    }

    fn failed(&self, step: &'static str, cause: impl Into<redb::Error>) -> StoreError {
        StoreError {
            step,
            subject: self.path.display().to_string(),
            cause: cause.into().to_string(),
        }
    }

    fn one(&self, key: &str) -> Result<Option<Versioned>, redb::Error> {
        let table = self.database.begin_read()?.open_table(VALUES)?;
        Ok(table.get(key)?.map(|entry| versioned(entry.value())))
    }

    fn some(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(String, Versioned)>, redb::Error> {
        let table = self.database.begin_read()?.open_table(VALUES)?;
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

    fn commit(&self, compares: &[Compare], writes: &[Write]) -> Result<Outcome, redb::Error> {
        let transaction = self.database.begin_write()?;
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
}

impl Store for RedbStore {
    fn id(&self) -> &str {
        &self.id
    }

    fn get(&self, key: &str) -> Result<Option<Versioned>, StoreError> {
        self.one(key).map_err(|e| self.failed("read", e))
    }

    fn range(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(String, Versioned)>, StoreError> {
        self.some(prefix, after, limit)
            .map_err(|e| self.failed("read", e))
    }

    fn transact(&self, compares: &[Compare], writes: &[Write]) -> Result<Outcome, StoreError> {
        let outcome = self
            .commit(compares, writes)
            .map_err(|e| self.failed("commit", e))?;
        if let Outcome::Committed(revision) = outcome {
            for write in writes {
                let (Write::Put(key, _) | Write::Delete(key)) = write;
                // An error only says that nobody watches.
                self.changes
                    .send(Change {
                        key: key.clone(),
                        revision,
                    })
                    .ok();
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

fn opening(error: DatabaseError) -> String {
    match error {
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
mod tests {
    use super::*;

    fn put(key: &str, value: &str) -> Write {
        Write::Put(key.into(), value.into())
    }

    fn fresh() -> (tempfile::TempDir, RedbStore) {
        let directory = tempfile::tempdir().unwrap();
        let store = RedbStore::open(&directory.path().join("control")).unwrap();
        (directory, store)
    }

    fn keys(store: &RedbStore, prefix: &str, after: Option<&str>, limit: usize) -> Vec<String> {
        let found = store.range(prefix, after, limit).unwrap();
        found.into_iter().map(|(key, _)| key).collect()
    }

    #[test]
    fn a_store_keeps_its_id_values_and_revisions_over_a_restart() {
        let (directory, store) = fresh();
        store.transact(&[], &[put("a", "1")]).unwrap();
        let (id, a) = (store.id().to_owned(), store.get("a").unwrap());
        drop(store);
        let store = RedbStore::open(&directory.path().join("control")).unwrap();
        assert_eq!(store.id(), id);
        assert_eq!(store.get("a").unwrap(), a);
        let Outcome::Committed(next) = store.transact(&[], &[put("b", "2")]).unwrap() else {
            panic!("nothing to conflict with");
        };
        assert!(next > a.unwrap().revision);
    }

    #[test]
    fn only_the_owner_may_read_it() {
        let (directory, _store) = fresh();
        let mode = |name: &str| {
            let path = directory.path().join(name);
            std::fs::metadata(path).unwrap().permissions().mode() & 0o777
        };
        assert_eq!(
            (mode("control"), mode("control/store.redb")),
            (0o700, 0o600)
        );
    }

    #[test]
    fn a_second_opener_is_refused_by_name() {
        let (directory, _store) = fresh();
        let error = RedbStore::open(&directory.path().join("control")).unwrap_err();
        assert_eq!(error.step, "open");
        assert!(error.cause.contains("another process has it open"));
    }

    #[test]
    fn a_file_that_is_no_store_is_refused_with_a_remedy() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("store.redb"), [7; 9000]).unwrap();
        let error = RedbStore::open(directory.path()).unwrap_err();
        assert!(error.cause.contains("move it away"), "{error}");
    }

    #[test]
    fn a_failed_comparison_writes_nothing() {
        let (_directory, store) = fresh();
        let absent = [Compare::Absent("a".into())];
        let first = store.transact(&absent, &[put("a", "1")]).unwrap();
        let Outcome::Committed(revision) = first else {
            panic!("{first:?}")
        };
        let twice = store.transact(&absent, &[put("a", "2"), put("b", "2")]);
        assert_eq!(twice.unwrap(), Outcome::Conflict);
        assert_eq!(store.get("b").unwrap(), None);
        let same = [Compare::Revision("a".into(), revision)];
        let outcome = store.transact(&same, &[put("a", "3")]).unwrap();
        assert!(matches!(outcome, Outcome::Committed(_)));
        let stale = store.transact(&same, &[put("a", "4")]).unwrap();
        assert_eq!(stale, Outcome::Conflict);
        assert_eq!(store.get("a").unwrap().unwrap().value, b"3");
    }

    #[test]
    fn a_range_is_ordered_bounded_and_keeps_to_its_prefix() {
        let (_directory, store) = fresh();
        let writes: Vec<Write> = ["t/b", "t/a", "t/c", "s/z", "u/a", "t"]
            .iter()
            .map(|key| put(key, "x"))
            .collect();
        store.transact(&[], &writes).unwrap();
        assert_eq!(keys(&store, "t/", None, 10), ["t/a", "t/b", "t/c"]);
        assert_eq!(keys(&store, "t/", None, 2), ["t/a", "t/b"]);
        assert_eq!(keys(&store, "t/", Some("t/a"), 10), ["t/b", "t/c"]);
        assert_eq!(keys(&store, "t/", Some("a"), 1), ["t/a"]);
        assert!(keys(&store, "t/", Some("zz"), 10).is_empty());
        assert!(keys(&store, "t/", None, 0).is_empty());
    }

    #[test]
    fn watchers_hear_of_every_key_of_a_commit_and_of_nothing_else() {
        let (_directory, store) = fresh();
        let mut changes = store.watch();
        store.transact(&[], &[put("a", "1")]).unwrap();
        store
            .transact(&[Compare::Absent("a".into())], &[put("b", "1")])
            .unwrap();
        store.transact(&[], &[Write::Delete("a".into())]).unwrap();
        let heard: Vec<String> = std::iter::from_fn(|| changes.try_recv().ok())
            .map(|change| change.key)
            .collect();
        assert_eq!(heard, ["a", "a"]);
    }
}
