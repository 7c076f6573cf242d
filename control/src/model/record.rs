//! Typed records in the store: an envelope with a version around each, and writes that retry.
//!
//! A record that cannot be read (cut short, of another version, edited by hand) is moved to
//! `quarantine/KEY` with a warning and counts as absent: one bad record stops nothing else.

use std::ops::ControlFlow;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::store::{Compare, Outcome, Store, StoreError, Versioned, Write};

/// Version of the envelope and of the records in it. Fields may be added with a serde default without
/// raising it.
const VERSION: u32 = 1;

/// How often `update` starts again before it calls the key too contended.
pub(crate) const ATTEMPTS: usize = 64;

/// Records that `scan` reads at once.
const STEP: usize = 256;

#[derive(Serialize, Deserialize)]
struct Envelope<T> {
    version: u32,
    record: T,
}

/// A record as it was read, and the store revision to compare with when it is written again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored<T> {
    /// The record.
    pub record: T,
    /// Revision of its last write.
    pub revision: u64,
}

/// The record at `key`; none where there is none or where it had to be quarantined.
///
/// # Errors
/// The store's.
pub fn read<T: DeserializeOwned>(
    store: &dyn Store,
    key: &str,
) -> Result<Option<Stored<T>>, StoreError> {
    match store.get(key)? {
        None => Ok(None),
        Some(value) => decode_or_quarantine(store, key, &value),
    }
}

/// The records whose keys start with `prefix` and come after `after`, in the keys' order. At most `limit`
/// keys are looked at.
///
/// # Errors
/// The store's.
pub fn list<T: DeserializeOwned>(
    store: &dyn Store,
    prefix: &str,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<(String, Stored<T>)>, StoreError> {
    let mut found = Vec::new();
    for (key, value) in store.range(prefix, after, limit)? {
        if let Some(stored) = decode_or_quarantine(store, &key, &value)? {
            found.push((key, stored));
        }
    }
    Ok(found)
}

/// Visits the records under `prefix` that come after `after`, in the keys' order, until `visit` breaks.
/// The store is read in small steps: a long scan sees changes made meanwhile.
///
/// # Errors
/// The store's.
pub fn scan<T: DeserializeOwned>(
    store: &dyn Store,
    prefix: &str,
    after: Option<&str>,
    mut visit: impl FnMut(String, Stored<T>) -> ControlFlow<()>,
) -> Result<(), StoreError> {
    let mut after = after.map(str::to_owned);
    loop {
        let values = store.range(prefix, after.as_deref(), STEP)?;
        let Some((last, _)) = values.last() else {
            return Ok(());
        };
        after = Some(last.clone());
        for (key, value) in values {
            if let Some(stored) = decode_or_quarantine(store, &key, &value)?
                && visit(key, stored).is_break()
            {
                return Ok(());
            }
        }
    }
}

/// All records under `prefix`, in the keys' order.
///
/// # Errors
/// The store's.
pub fn all<T: DeserializeOwned>(
    store: &dyn Store,
    prefix: &str,
) -> Result<Vec<Stored<T>>, StoreError> {
    let mut found = Vec::new();
    scan(store, prefix, None, |_, stored| {
        found.push(stored);
        ControlFlow::Continue(())
    })?;
    Ok(found)
}

/// The write that puts `record` at `key`; part of a transaction.
pub fn put<T: Serialize>(key: impl Into<String>, record: &T) -> Write {
    let envelope = Envelope {
        version: VERSION,
        record,
    };
    // Records are structs of text, numbers and lists: nothing in them can fail to become JSON.
    let value = serde_json::to_vec(&envelope).expect("records serialize");
    Write::Put(key.into(), value)
}

/// Reads, changes and writes the record at `key`, again as long as someone else wrote in between; an
/// unchanged record is not written. Answers what `change` returned the last time, or none where there is
/// no record. `change` may run several times: it must do nothing but change its argument.
///
/// # Errors
/// The store's, and `commit` when others write the key without end.
pub fn update<T, R>(
    store: &dyn Store,
    key: &str,
    mut change: impl FnMut(&mut T) -> R,
) -> Result<Option<R>, StoreError>
where
    T: Serialize + DeserializeOwned + Clone + PartialEq,
{
    for _ in 0..ATTEMPTS {
        let Some(stored) = read::<T>(store, key)? else {
            return Ok(None);
        };
        let mut record = stored.record.clone();
        let answer = change(&mut record);
        if record == stored.record {
            return Ok(Some(answer));
        }
        let unchanged = Compare::Revision(key.to_owned(), stored.revision);
        if let Outcome::Committed(_) = store.transact(&[unchanged], &[put(key, &record)])? {
            return Ok(Some(answer));
        }
    }
    Err(contended(key))
}

/// The error of a loop that lost every race for `key`.
pub(crate) fn contended(key: &str) -> StoreError {
    StoreError {
        step: "commit",
        subject: key.to_owned(),
        cause: format!("changed by others {ATTEMPTS} times in a row; try again"),
    }
}

fn decode_or_quarantine<T: DeserializeOwned>(
    store: &dyn Store,
    key: &str,
    value: &Versioned,
) -> Result<Option<Stored<T>>, StoreError> {
    match decode(&value.value) {
        Ok(record) => Ok(Some(Stored {
            record,
            revision: value.revision,
        })),
        Err(cause) => {
            quarantine(store, key, value, &cause)?;
            Ok(None)
        }
    }
}

fn decode<T: DeserializeOwned>(value: &[u8]) -> Result<T, String> {
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    let found: Version = serde_json::from_slice(value).map_err(|e| describe(&e))?;
    if found.version != VERSION {
        return Err(format!(
            "record version {} is not the {VERSION} this program knows",
            found.version
        ));
    }
    let envelope: Envelope<T> = serde_json::from_slice(value).map_err(|e| describe(&e))?;
    Ok(envelope.record)
}

/// Where and of what kind, never the text: serde's own message can quote a value, and values can be keys.
fn describe(error: &serde_json::Error) -> String {
    let kind = match error.classify() {
        serde_json::error::Category::Eof => "cut short",
        serde_json::error::Category::Data => "not of the expected form",
        _ => "not JSON",
    };
    format!("{kind} at byte {} of line {}", error.column(), error.line())
}

fn quarantine(
    store: &dyn Store,
    key: &str,
    value: &Versioned,
    cause: &str,
) -> Result<(), StoreError> {
    let safe = format!("quarantine/{key}");
    let outcome = store.transact(
        &[Compare::Revision(key.to_owned(), value.revision)],
        &[
            Write::Put(safe.clone(), value.value.clone()),
            Write::Delete(key.to_owned()),
        ],
    )?;
    if let Outcome::Committed(_) = outcome {
        tracing::warn!(
            key,
            cause,
            "record cannot be read: moved to {safe} and taken as absent"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Tag;
    use crate::store::RedbStore;

    fn fresh() -> (tempfile::TempDir, RedbStore) {
        let directory = tempfile::tempdir().unwrap();
        let store = RedbStore::open(directory.path()).unwrap();
        (directory, store)
    }

    fn tag(value: &str) -> Tag {
        Tag {
            key: "k".into(),
            value: value.into(),
        }
    }

    #[test]
    fn a_record_comes_back_as_it_was_put() {
        let (_directory, store) = fresh();
        store.transact(&[], &[put("t/1", &tag("a"))]).unwrap();
        assert_eq!(
            read::<Tag>(&store, "t/1").unwrap().unwrap().record,
            tag("a")
        );
        assert!(read::<Tag>(&store, "t/2").unwrap().is_none());
    }

    #[test]
    fn a_bad_record_is_quarantined_and_the_others_are_still_listed() {
        let (_directory, store) = fresh();
        let bad = [
            ("t/1", &b"{\"version\":1,\"rec"[..]),
            ("t/2", b"{\"version\":1,\"record\":{\"key\":7}}"),
            ("t/3", b"{\"version\":99,\"record\":{}}"),
            ("t/4", b"\xff"),
        ];
        for (key, value) in bad {
            let write = Write::Put(key.into(), value.to_vec());
            store.transact(&[], &[write]).unwrap();
        }
        store.transact(&[], &[put("t/5", &tag("good"))]).unwrap();
        let found = list::<Tag>(&store, "t/", None, 10).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].0, "t/5");
        for (key, value) in bad {
            assert_eq!(store.get(key).unwrap(), None);
            let kept = store.get(&format!("quarantine/{key}")).unwrap();
            assert_eq!(kept.unwrap().value, value);
        }
    }

    #[test]
    fn a_scan_goes_on_behind_a_step_of_bad_records() {
        let (_directory, store) = fresh();
        let mut writes: Vec<Write> = (0..STEP + 10)
            .map(|n| Write::Put(format!("t/{n:04}"), b"?".to_vec()))
            .collect();
        writes.push(put("t/9998", &tag("a")));
        writes.push(put("t/9999", &tag("b")));
        store.transact(&[], &writes).unwrap();
        let found = all::<Tag>(&store, "t/").unwrap();
        assert_eq!(found.len(), 2);
        let mut first = Vec::new();
        scan::<Tag>(&store, "t/", Some("t/9998"), |key, _| {
            first.push(key);
            ControlFlow::Break(())
        })
        .unwrap();
        assert_eq!(first, ["t/9999"]);
    }

    #[test]
    fn an_update_that_lost_the_race_decides_anew() {
        let (_directory, store) = fresh();
        store.transact(&[], &[put("t", &tag("0"))]).unwrap();
        let mut calls = 0;
        let answer = update(&store, "t", |tag: &mut Tag| {
            calls += 1;
            if calls == 1 {
                let other = Tag {
                    value: "other".into(),
                    ..tag.clone()
                };
                store.transact(&[], &[put("t", &other)]).unwrap();
            }
            tag.value.push('!');
            calls
        });
        assert_eq!(answer.unwrap(), Some(2));
        assert_eq!(
            read::<Tag>(&store, "t").unwrap().unwrap().record,
            tag("other!")
        );
    }

    #[test]
    fn an_update_without_change_writes_nothing() {
        let (_directory, store) = fresh();
        store.transact(&[], &[put("t", &tag("0"))]).unwrap();
        let before = store.get("t").unwrap();
        assert_eq!(update(&store, "t", |_: &mut Tag| ()).unwrap(), Some(()));
        assert_eq!(store.get("t").unwrap(), before);
        assert_eq!(update(&store, "none", |_: &mut Tag| ()).unwrap(), None);
    }
}
