//! Which images the journal's tasks hold, read without changing a row: for who looks after the image store while no agent
//! runs.

use std::collections::BTreeSet;
use std::path::Path;

use longshore_engine::{PhaseRecord, TaskRecord};
use redb::{Database, ReadableDatabase as _, ReadableTable as _};

use super::{JournalError, TASKS, parse_record};

/// Manifest digests and references. A row that cannot be read is an error: nobody knows what it holds.
pub(crate) fn held_images(path: &Path) -> Result<BTreeSet<String>, JournalError> {
    let failed = |source: redb::Error| JournalError {
        step: "read",
        path: path.display().to_string(),
        source: Box::new(source),
    };
    let database = Database::open(path).map_err(|e| failed(e.into()))?;
    let mut held = BTreeSet::new();
    for record in records(&database).map_err(failed)? {
        if record.phase == PhaseRecord::Stopped {
            continue;
        }
        held.extend(record.spec.containers.into_iter().map(|c| c.image));
        let pulled = record.containers.into_iter().filter_map(|c| c.image);
        held.extend(pulled.map(|image| image.digest));
    }
    Ok(held)
}

fn records(database: &Database) -> Result<Vec<TaskRecord>, redb::Error> {
    let transaction = database.begin_read()?;
    let tasks = match transaction.open_table(TASKS) {
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
        tasks => tasks?,
    };
    let mut records = Vec::new();
    for row in tasks.iter()? {
        let (key, value) = row?;
        let record = parse_record(key.value(), value.value());
        records.push(record.map_err(|why| {
            let cause = format!(
                "row {}: {why}; start the agent, which sets it aside",
                key.value()
            );
            redb::Error::Corrupted(cause)
        })?);
    }
    Ok(records)
}
