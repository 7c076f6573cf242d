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
