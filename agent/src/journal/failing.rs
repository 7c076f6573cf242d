//! A disk that fails from some operation on, under a real journal file.

use std::io;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use redb::backends::FileBackend;
use redb::{BackendError, StorageBackend};

use super::*;

/// Changing operations that still succeed; negative: all do.
type Left = Arc<AtomicI64>;

#[derive(Debug)]
struct Failing(Left, FileBackend);

impl Failing {
    fn change(&self) -> io::Result<()> {
        match self.0.load(Ordering::SeqCst) {
            0 => return Err(io::ErrorKind::StorageFull.into()),
            left if left > 0 => self.0.store(left - 1, Ordering::SeqCst),
            _ => {}
        }
        Ok(())
    }
}

impl StorageBackend for Failing {
    fn len(&self) -> io::Result<u64> {
        self.1.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.1.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change().and_then(|()| self.1.set_len(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.1.sync_data().and_then(|()| self.change())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.change().and_then(|()| self.1.write(offset, data))
    }

    fn close(&self) -> io::Result<()> {
        self.1.close()
    }

    fn try_lock_range(&self, from: Bound<u64>, to: Bound<u64>) -> Result<bool, BackendError> {
        self.1.try_lock_range(from, to)
    }

    fn unlock_range(&self, from: Bound<u64>, to: Bound<u64>) -> Result<(), BackendError> {
        self.1.unlock_range(from, to)
    }

    fn query_lock_range(&self, from: Bound<u64>, to: Bound<u64>) -> Result<bool, BackendError> {
        self.1.query_lock_range(from, to)
    }
}

fn open(path: &Path, left: &Left) -> Result<Database, DatabaseError> {
    let file = OpenOptions::new().read(true).write(true).open(path);
    let file = file.map_err(|e| DatabaseError::Storage(StorageError::Io(e)))?;
    Database::builder().create_with_backend(Failing(left.clone(), FileBackend::new(file)?))
}

fn generation(generation: u64) -> Batch {
    let store_id = "s".to_owned();
    Batch {
        accepted: Some(Accepted {
            store_id,
            generation,
        }),
        ..Batch::default()
    }
}

#[test]
fn wherever_the_disk_fails_the_journal_comes_back_with_every_commit() {
    for point in 0..25 {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.redb");
        drop(Journal::open(&path).unwrap());
        let left = Left::new(AtomicI64::new(-1));
        let again = left.clone();
        let database = open(&path, &left).unwrap();
        let open_again = Box::new(move |path: &Path| open(path, &again));
        let journal = Journal::over(database, &path, open_again);

        left.store(point, Ordering::SeqCst);
        let broken = (1..).find(|n| journal.commit(&generation(*n)).is_err());
        let kept = broken.unwrap() - 1;
        for _ in 0..3 {
            let error = journal.commit(&generation(1000)).unwrap_err();
            let full = matches!(&*error.source, redb::Error::Io(e) if e.kind() == io::ErrorKind::StorageFull);
            assert!(full, "{point}: {error:?}");
        }
        left.store(-1, Ordering::SeqCst);
        let found = journal.with("read", read).unwrap().accepted;
        assert!(
            found.map_or(0, |accepted| accepted.generation) >= kept,
            "{point}"
        );
        journal.commit(&generation(2000)).unwrap();
        drop(journal);
        let (_, found) = Journal::open(&path).unwrap();
        assert!(!found.replaced, "{point}");
        assert_eq!(found.accepted, generation(2000).accepted, "{point}");
    }
}
