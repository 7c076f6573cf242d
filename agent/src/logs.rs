//! Containers' logs as their monitors write them: `log.jsonl` and its rotations `log.jsonl.1`,
//! `log.jsonl.2`, ... (the higher, the older), one JSON object a line. Reading only; no remote driver yet.
//!
//! Logs outlive the task's record by a day, so beside them lies an index of the containers' names.

mod reader;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

pub(crate) use reader::{Line, Reader};

/// Container names and the directories of their logs.
pub(crate) type Index = BTreeMap<String, String>;

const INDEX: &str = "containers.json";
/// How long the logs of a task are kept after their last line, once its record is gone.
const RETENTION: Duration = Duration::from_secs(24 * 60 * 60);

/// Writes the index of a task's log directory.
pub(crate) fn write_index(dir: &Path, index: &Index) -> std::io::Result<()> {
    let text = serde_json::to_vec(index)?;
    let new = dir.join("containers.json.new");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)?;
    file.write_all(&text)?;
    std::fs::rename(new, dir.join(INDEX))
}

/// The index of a task's log directory; None if there is none.
pub(crate) fn read_index(dir: &Path) -> Option<Index> {
    let text = std::fs::read(dir.join(INDEX)).ok()?;
    serde_json::from_slice(&text).ok()
}

/// Removes the logs of tasks that have no record and have been silent for a day. Blocks.
pub(crate) fn expire(root: &Path, known: &BTreeSet<String>, now: SystemTime) {
    let Ok(entries) = std::fs::read_dir(root) else {
        return;
    };
    for entry in entries.flatten() {
        let is_known = entry
            .file_name()
            .to_str()
            .is_some_and(|name| known.contains(name));
        if is_known || !is_silent(&entry.path(), now) {
            continue;
        }
        if let Err(e) = std::fs::remove_dir_all(entry.path()) {
            tracing::warn!("remove old logs {}: {e}", entry.path().display());
        }
    }
}

/// Whether nothing below `dir` has changed for the time of retention.
fn is_silent(dir: &Path, now: SystemTime) -> bool {
    let old = |path: &PathBuf| {
        let changed = std::fs::symlink_metadata(path).and_then(|m| m.modified());
        changed.is_ok_and(|at| now.duration_since(at).is_ok_and(|age| age > RETENTION))
    };
    let children = |dir: &Path| -> Vec<PathBuf> {
        std::fs::read_dir(dir)
            .map(|entries| entries.flatten().map(|e| e.path()).collect())
            .unwrap_or_default()
    };
    let containers = children(dir);
    let files = containers.iter().flat_map(|container| children(container));
    let mut all = vec![dir.to_owned()];
    all.extend(files);
    all.extend(containers);
    all.iter().all(old)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_old_logs_of_unknown_tasks_are_removed() {
        let root = tempfile::tempdir().unwrap();
        for name in ["known", "unknown"] {
            let dir = root.path().join(name).join("c");
            std::fs::create_dir_all(&dir).unwrap();
            std::fs::write(dir.join("log.jsonl"), "").unwrap();
        }
        let known = BTreeSet::from(["known".to_owned()]);
        let soon = SystemTime::now() + RETENTION / 2;
        expire(root.path(), &known, soon);
        assert!(root.path().join("unknown").exists());
        expire(root.path(), &known, soon + RETENTION);
        assert!(!root.path().join("unknown").exists());
        assert!(root.path().join("known").exists());
    }

    #[test]
    fn an_index_is_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let index = Index::from([("web".to_owned(), "1-2".to_owned())]);
        assert_eq!(read_index(dir.path()), None);
        write_index(dir.path(), &index).unwrap();
        assert_eq!(read_index(dir.path()), Some(index));
    }
}
