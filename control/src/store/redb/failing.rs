//! A disk that fails from some operation on, under a real store file.

use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use redb::{BackendError, StorageBackend};

use super::*;

/// Changing operations that still succeed; negative: all do.
#[derive(Clone, Debug)]
struct Disk(Arc<AtomicI64>);

impl Disk {
    fn healthy() -> Disk {
        Disk(Arc::new(AtomicI64::new(-1)))
    }

    fn full_after(&self, operations: i64) {
        self.0.store(operations, Ordering::SeqCst);
    }

    fn has_space_again(&self) {
        self.full_after(-1);
    }

    fn change(&self) -> io::Result<()> {
        match self.0.load(Ordering::SeqCst) {
            0 => Err(io::ErrorKind::StorageFull.into()),
            left if left > 0 => {
                self.0.store(left - 1, Ordering::SeqCst);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn store(&self, directory: &Path) -> RedbStore {
        let disk = self.clone();
        RedbStore::open_with(directory, move |file| {
            let backend = Failing(disk.clone(), FileBackend::new(file)?);
            Database::builder()
                .set_check_integrity_on_open(true)
                .create_with_backend(backend)
        })
        .unwrap()
    }
}

#[derive(Debug)]
struct Failing(Disk, FileBackend);

impl StorageBackend for Failing {
    fn len(&self) -> io::Result<u64> {
        self.1.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.1.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.change().and_then(|()| self.1.set_len(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        // The bytes are there although the caller is told that they are not: the worst case.
        self.1.sync_data().and_then(|()| self.0.change())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.change().and_then(|()| self.1.write(offset, data))
    }

    fn close(&self) -> io::Result<()> {
        self.1.close()
    }

    fn try_lock_range(&self, from: Bound<u64>, to: Bound<u64>) -> Result<bool, BackendError> {
        self.1.try_lock_range(from, to)
    }

    fn try_lock_shared_range(
        &self,
        from: Bound<u64>,
        to: Bound<u64>,
    ) -> Result<bool, BackendError> {
        self.1.try_lock_shared_range(from, to)
    }

    fn unlock_range(&self, from: Bound<u64>, to: Bound<u64>) -> Result<(), BackendError> {
        self.1.unlock_range(from, to)
    }

    fn query_lock_range(&self, from: Bound<u64>, to: Bound<u64>) -> Result<bool, BackendError> {
        self.1.query_lock_range(from, to)
    }
}

/// Large enough that the file grows with it.
fn large(n: u32) -> [Write; 1] {
    [Write::Put(format!("k{n:04}"), vec![b'x'; 40_000])]
}

fn keys(store: &RedbStore) -> Vec<String> {
    let found = store.range("k", None, usize::MAX).unwrap();
    found.into_iter().map(|(key, _)| key).collect()
}

/// Commits until the disk fails; the keys that were acknowledged.
fn fill(store: &RedbStore) -> (Vec<String>, StoreError) {
    let mut kept = Vec::new();
    for n in 0.. {
        match store.transact(&[], &large(n)) {
            Ok(_) => kept.push(format!("k{n:04}")),
            Err(error) => return (kept, error),
        }
    }
    unreachable!("the disk never failed")
}

#[test]
fn wherever_the_disk_fails_the_store_comes_back_with_every_commit() {
    for point in 0..60 {
        let directory = tempfile::tempdir().unwrap();
        let disk = Disk::healthy();
        let store = disk.store(directory.path());
        let id = store.id().to_owned();
        let mut changes = store.watch();
        disk.full_after(point);
        let (kept, error) = fill(&store);
        assert!(error.cause.contains("free space"), "{point}: {error}");

        // Still full: an error each time, and never redb's everlasting one.
        for _ in 0..3 {
            let error = store.transact(&[], &large(9999)).unwrap_err();
            assert!(error.cause.contains("free space"), "{point}: {error}");
        }
        disk.has_space_again();
        store
            .transact(&[], &[Write::Put("after".into(), vec![1])])
            .unwrap();
        let after = store.get("after").unwrap().unwrap();
        let found = keys(&store);
        assert!(kept.iter().all(|key| found.contains(key)), "{point}");
        assert!(after.revision > kept.len() as u64, "{point}");
        assert_eq!(store.id(), id);
        let heard: Vec<String> = std::iter::from_fn(|| changes.try_recv().ok())
            .map(|change| change.key)
            .collect();
        // What failed may be there or not; who watches must have been told either way.
        assert!(found.iter().all(|key| heard.contains(key)), "{point}");
        assert!(heard.contains(&"after".to_owned()), "{point}");
    }
}

#[test]
fn readers_come_back_too_and_the_lock_is_kept() {
    let directory = tempfile::tempdir().unwrap();
    let disk = Disk::healthy();
    let store = disk.store(directory.path());
    disk.full_after(20);
    let (kept, _) = fill(&store);
    disk.has_space_again();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert!(keys(&store).len() >= kept.len()));
        }
    });
    let second = RedbStore::open(directory.path()).unwrap_err();
    assert!(second.cause.contains("another process"), "{second}");
}

#[test]
fn another_store_in_its_place_is_not_taken_for_it() {
    let directory = tempfile::tempdir().unwrap();
    let other = tempfile::tempdir().unwrap();
    drop(RedbStore::open(other.path()).unwrap());
    let disk = Disk::healthy();
    let store = disk.store(directory.path());
    disk.full_after(0);
    fill(&store);
    disk.has_space_again();
    let path = directory.path().join("store.redb");
    std::fs::rename(&path, directory.path().join("aside")).unwrap();
    let error = store.get("a").unwrap_err();
    assert_eq!(error.step, "open again");
    assert!(!path.exists(), "it must not come back empty");
    std::fs::copy(other.path().join("store.redb"), &path).unwrap();
    let error = store.get("a").unwrap_err();
    assert!(error.cause.contains("another store"), "{error}");
    std::fs::rename(directory.path().join("aside"), &path).unwrap();
    store.get("a").unwrap();
}
