//! What must outlive the agent: one row for each task, and a few facts.
//!
//! A commit is durable when [`Journal::commit`] returns; the driver runs no effect before that. A row
//! that cannot be read is set aside with a message and never keeps the agent from starting. A file
//! that cannot be read at all is moved aside, and what it knew is taken up again from the run
//! directories. After an I/O error, such as a full disk, redb answers nothing until the file is opened
//! again: the next call does so. Every call blocks on the disk: make them where blocking is allowed.

mod held;

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use longshore_engine::{TaskId, TaskRecord};
use redb::{Database, DatabaseError, ReadableTable, StorageError, TableDefinition};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub(crate) use held::held_images;

const TASKS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("tasks");
const FACTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("facts");
const QUARANTINE: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("quarantine");

/// The newest desired set that was accepted whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Accepted {
    pub(crate) store_id: String,
    pub(crate) generation: u64,
}

/// Who this agent is to its control plane.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) instance_arn: String,
    pub(crate) cluster: String,
}

/// Everything that one turn of the driver has to make durable.
#[derive(Clone, Debug, Default)]
pub(crate) struct Batch {
    pub(crate) records: Vec<TaskRecord>,
    pub(crate) forgotten: Vec<TaskId>,
    pub(crate) accepted: Option<Accepted>,
    pub(crate) identity: Option<Identity>,
}

impl Batch {
    pub(crate) fn is_empty(&self) -> bool {
        self.records.is_empty()
            && self.forgotten.is_empty()
            && self.accepted.is_none()
            && self.identity.is_none()
    }
}

/// What a journal held when it was opened.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) records: Vec<TaskRecord>,
    pub(crate) accepted: Option<Accepted>,
    pub(crate) identity: Option<Identity>,
    /// Keys of rows set aside just now: what they own on the host must be left alone this once.
    pub(crate) set_aside: Vec<String>,
    /// The whole file was unreadable and has been set aside just now.
    pub(crate) replaced: bool,
}

/// A journal could not be opened or written.
#[derive(Debug, thiserror::Error)]
#[error("{step} journal {path}")]
pub(crate) struct JournalError {
    step: &'static str,
    path: String,
    source: Box<redb::Error>,
}

/// The journal of one instance.
pub(crate) struct Journal {
    /// None: it broke and could not be opened again yet.
    database: Mutex<Option<Database>>,
    path: PathBuf,
    open_again: OpenAgain,
}

type OpenAgain = Box<dyn Fn(&Path) -> Result<Database, DatabaseError> + Send + Sync>;

impl std::fmt::Debug for Journal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Journal")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl Journal {
    /// Opens or makes the journal (0600) and reads all of it.
    pub(crate) fn open(path: &Path) -> Result<(Journal, Found), JournalError> {
        let (database, replaced) = open_or_replace(path)?;
        // Neither made nor moved aside then: what it holds is this agent's, and known to be there.
        let open_again = Box::new(|path: &Path| Database::open(path));
        let journal = Journal::over(database, path, open_again);
        let mut found = journal.with("read", read)?;
        found.replaced = replaced;
        Ok((journal, found))
    }

    fn over(database: Database, path: &Path, open_again: OpenAgain) -> Journal {
        Journal {
            database: Mutex::new(Some(database)),
            path: path.to_owned(),
            open_again,
        }
    }

    /// Makes the whole batch durable, or nothing of it. After an error it is one or the other: commit the
    /// same batch again.
    pub(crate) fn commit(&self, batch: &Batch) -> Result<(), JournalError> {
        self.with("write", |database| write(database, batch))
    }

    /// Does `call` with the database, opened again first where an earlier call broke it.
    fn with<T>(
        &self,
        step: &'static str,
        call: impl FnOnce(&Database) -> Result<T, redb::Error>,
    ) -> Result<T, JournalError> {
        let mut held = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        let database = match held.take() {
            Some(database) => database,
            None => {
                let opened = (self.open_again)(&self.path);
                opened.map_err(|e| self.error("open again", e.into()))?
            }
        };
        let done = call(&database);
        if !done.as_ref().is_err_and(breaks) {
            *held = Some(database);
        }
        // Else it is closed here, which frees the file's lock before the next call.
        done.map_err(|e| self.error(step, e))
    }

    fn error(&self, step: &'static str, source: redb::Error) -> JournalError {
        JournalError {
            step,
            path: self.path.display().to_string(),
            source: Box::new(source),
        }
    }
}

/// Whether redb refuses all further work after this.
fn breaks(error: &redb::Error) -> bool {
    use redb::Error::{DatabaseClosed, Io, LockPoisoned, PreviousIo};
    matches!(error, Io(_) | PreviousIo | DatabaseClosed | LockPoisoned(_))
}

fn read(database: &Database) -> Result<Found, redb::Error> {
    let transaction = database.begin_write()?;
    let mut found = Found::default();
    let mut bad: Vec<(String, Vec<u8>)> = Vec::new();
    {
        let mut tasks = transaction.open_table(TASKS)?;
        for row in tasks.iter()? {
            let (key, value) = row?;
            match parse_record(key.value(), value.value()) {
                Ok(record) => found.records.push(record),
                Err(why) => {
                    tracing::error!(task = key.value(), "journal row set aside: {why}");
                    bad.push((key.value().to_owned(), value.value().to_vec()));
                }
            }
        }
        let mut quarantine = transaction.open_table(QUARANTINE)?;
        for (key, value) in &bad {
            quarantine.insert(key.as_str(), value.as_slice())?;
            tasks.remove(key.as_str())?;
        }
        let facts = transaction.open_table(FACTS)?;
        found.accepted = fact(&facts, "accepted")?;
        found.identity = fact(&facts, "identity")?;
    }
    transaction.commit()?;
    found.set_aside = bad.into_iter().map(|(key, _)| key).collect();
    Ok(found)
}

fn write(database: &Database, batch: &Batch) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    {
        let mut tasks = transaction.open_table(TASKS)?;
        for record in &batch.records {
            tasks.insert(record.id().as_str(), json(record).as_slice())?;
        }
        for id in &batch.forgotten {
            tasks.remove(id.as_str())?;
        }
        let mut facts = transaction.open_table(FACTS)?;
        if let Some(accepted) = &batch.accepted {
            facts.insert("accepted", json(accepted).as_slice())?;
        }
        if let Some(identity) = &batch.identity {
            facts.insert("identity", json(identity).as_slice())?;
        }
    }
    transaction.commit()?;
    Ok(())
}

fn open_or_replace(path: &Path) -> Result<(Database, bool), JournalError> {
    let failed = |source: redb::Error| JournalError {
        step: "open",
        path: path.display().to_string(),
        source: Box::new(source),
    };
    match open_file(path) {
        Ok(database) => Ok((database, false)),
        Err(e) if is_unreadable(&e) => {
            let aside = path.with_extension("unreadable");
            tracing::error!(
                "journal {} is unreadable ({e}); moved to {}, its tasks are taken up again from what runs",
                path.display(),
                aside.display()
            );
            std::fs::rename(path, &aside).map_err(|e| failed(redb::Error::Io(e)))?;
            open_file(path)
                .map(|database| (database, true))
                .map_err(|e| failed(e.into()))
        }
        Err(e) => Err(failed(e.into())),
    }
}

fn open_file(path: &Path) -> Result<Database, DatabaseError> {
    // Made here first for its mode; redb takes an empty file for a new database.
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(|e| DatabaseError::Storage(StorageError::Io(e)))?;
    Database::create(path)
}

/// Whether the file's content is at fault, and not the disk or another agent. redb tells a file that
/// is none of its own as `InvalidData`.
fn is_unreadable(error: &DatabaseError) -> bool {
    match error {
        DatabaseError::Storage(StorageError::Corrupted(_))
        | DatabaseError::RepairAborted
        | DatabaseError::UpgradeRequired(_) => true,
        DatabaseError::Storage(StorageError::Io(e)) => matches!(
            e.kind(),
            std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof
        ),
        _ => false,
    }
}

fn parse_record(key: &str, value: &[u8]) -> Result<TaskRecord, String> {
    let record: TaskRecord = serde_json::from_slice(value).map_err(|e| e.to_string())?;
    if record.version != TaskRecord::VERSION {
        return Err(format!(
            "it has version {}, this agent reads {}",
            record.version,
            TaskRecord::VERSION
        ));
    }
    if record.id().as_str() != key {
        return Err("its key names another task".to_owned());
    }
    if record.containers.len() != record.spec.containers.len() {
        return Err("it has more or fewer containers than its spec".to_owned());
    }
    Ok(record)
}

/// A fact that cannot be read counts as absent: each one is learned again.
fn fact<T: DeserializeOwned>(
    facts: &impl ReadableTable<&'static str, &'static [u8]>,
    name: &str,
) -> Result<Option<T>, redb::Error> {
    let Some(value) = facts.get(name)? else {
        return Ok(None);
    };
    Ok(serde_json::from_slice(value.value())
        .inspect_err(|e| tracing::error!(name, "journal fact ignored: {e}"))
        .ok())
}

/// These types have string keys and no custom serializers, so writing them to memory cannot fail.
fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod failing;
