//! State directories: unique, whole, locked, removed.

use std::time::Duration;

use super::*;
use crate::cgroup::Location;
use crate::record::{Phase, Process};

fn root() -> (tempfile::TempDir, Root) {
    let holder = tempfile::tempdir().unwrap();
    let root = Root::named(&holder.path().join("root")).unwrap();
    (holder, root)
}

fn record() -> Record {
    Record {
        version: VERSION,
        id: "c".into(),
        bundle: "/b".into(),
        rootfs: "/b/rootfs".into(),
        annotations: [("a".to_owned(), "b".to_owned())].into(),
        created: "2026-01-01T00:00:00Z".into(),
        owner: 0,
        rootless: false,
        cgroup: Location::Path {
            path: "longshore/c".into(),
            optional: false,
        },
        phase: Phase::Creating,
        init: None,
        entrypoint: Some("true".into()),
        poststart: Vec::new(),
        poststop: Vec::new(),
        resctrl: None,
    }
}

#[test]
fn an_id_is_taken_once() {
    let (_holder, root) = root();
    let (_directory, _lock) = root.make("c").unwrap();
    assert!(root.make("c").unwrap_err().cause.contains("exists"));
    assert!(root.make("../c").is_err());
    assert_eq!(root.ids().unwrap(), ["c"]);
}

#[test]
fn asking_makes_nothing() {
    let (_holder, root) = root();
    assert!(root.open("c").unwrap_err().cause.contains("does not exist"));
    assert!(root.ids().is_err(), "a named root must be there");
    assert!(!root.path().exists());
}

#[test]
fn records_come_back_and_damage_is_named() {
    let (_holder, root) = root();
    let (directory, _lock) = root.make("c").unwrap();
    assert_eq!(directory.record().unwrap(), None);
    directory.write(&record()).unwrap();
    assert_eq!(directory.record().unwrap(), Some(record()));
    let file = directory.path().join(STATE);
    std::fs::write(&file, "{").unwrap();
    assert!(directory.record().unwrap_err().cause.contains("damaged"));
    let newer = Record {
        version: VERSION + 1,
        ..record()
    };
    directory.write(&newer).unwrap();
    assert!(directory.record().unwrap_err().cause.contains("version 2"));
}

#[test]
fn the_kept_config_is_not_the_bundle_s() {
    let (_holder, root) = root();
    let (directory, _lock) = root.make("c").unwrap();
    directory
        .write_config(br#"{"ociVersion": "1.1.0"}"#)
        .unwrap();
    assert_eq!(directory.config().unwrap().version(), "1.1.0");
    assert!(directory.write_config(b"{}").is_err(), "written once");
}

#[test]
fn a_lock_is_told_by_its_holder_s_pid_and_ends_with_it() {
    let (_holder, root) = root();
    let (directory, lock) = root.make("c").unwrap();
    drop(lock);
    let path = root.path().join(lock::FILE);
    let byte = lock::byte_of("c").l_start.to_string();
    // Record locks are between processes: flock(1) would take the other kind.
    let script = "import fcntl,sys; f=open(sys.argv[1],'r+'); fcntl.lockf(f,fcntl.LOCK_EX,1,int(sys.argv[2])); print('held',flush=True); sys.stdin.read()";
    let mut holder = std::process::Command::new("python3")
        .args(["-c", script])
        .arg(&path)
        .arg(byte)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut word = [0; 4];
    std::io::Read::read_exact(holder.stdout.as_mut().unwrap(), &mut word).unwrap();
    assert_eq!(directory.locked_by().unwrap(), Some(holder.id()));
    let error = directory.lock(Duration::from_millis(5)).unwrap_err();
    assert!(error.cause.contains("another command"), "{error}");
    assert!(root.make("c").unwrap_err().cause.contains("exists"));
    drop(root.make("d").expect("another container's lock is its own"));
    holder.kill().unwrap();
    holder.wait().unwrap();
    assert_eq!(directory.locked_by().unwrap(), None);
    assert!(directory.lock(Duration::ZERO).is_ok());
}

#[test]
fn removal_takes_all_and_follows_no_symlink() {
    let (holder, root) = root();
    let outside = holder.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("kept"), "").unwrap();
    let (directory, lock) = root.make("c").unwrap();
    directory.write(&record()).unwrap();
    std::fs::create_dir_all(directory.path().join("a/b")).unwrap();
    std::fs::write(directory.path().join("a/b/file"), "").unwrap();
    std::os::unix::fs::symlink(&outside, directory.path().join("a/link")).unwrap();
    let late = root.open("c").unwrap();
    directory.remove(lock).unwrap();
    assert!(!directory.path().exists() && outside.join("kept").exists());
    let error = late.lock(Duration::ZERO).unwrap_err();
    assert!(error.cause.contains("does not exist"), "{error}");
}

#[test]
fn what_lies_in_the_root_and_is_no_container_is_left_out() {
    let (_holder, root) = root();
    drop(root.make("b").unwrap());
    drop(root.make("a").unwrap());
    std::fs::write(root.path().join("file"), "").unwrap();
    std::fs::create_dir(root.path().join(".cache")).unwrap();
    assert_eq!(root.ids().unwrap(), ["a", "b"]);
    assert!(root.open("file").unwrap_err().cause.contains("directory"));
    std::os::unix::fs::symlink("a", root.path().join("link")).unwrap();
    assert!(
        root.open("link").is_err(),
        "no symlink stands for a container"
    );
}

#[test]
fn status_follows_the_first_process_and_not_its_pid() {
    let me = Process::of_pid(std::process::id()).unwrap();
    let status = |phase, init, frozen| {
        let record = Record {
            phase,
            init,
            ..record()
        };
        record.status(|| Ok(frozen)).unwrap()
    };
    assert_eq!(status(Phase::Creating, None, false), Status::Creating);
    assert_eq!(status(Phase::Creating, Some(me), false), Status::Creating);
    assert_eq!(status(Phase::Created, Some(me), false), Status::Created);
    assert_eq!(status(Phase::Running, Some(me), false), Status::Running);
    assert_eq!(status(Phase::Running, Some(me), true), Status::Paused);
    let later = Process {
        started: me.started + 1,
        ..me
    };
    assert_eq!(status(Phase::Running, Some(later), false), Status::Stopped);
    assert_eq!(status(Phase::Created, Some(later), true), Status::Stopped);
}

#[test]
fn the_oci_state_of_hooks() {
    let state = record().oci_state(Status::Creating, Some(7));
    let wanted = serde_json::json!({
        "ociVersion": "1.3.0", "id": "c", "status": "creating", "pid": 7, "bundle": "/b",
        "annotations": {"a": "b"},
    });
    assert_eq!(state, wanted);
    assert_eq!(record().oci_state(Status::Stopped, None).get("pid"), None);
}
