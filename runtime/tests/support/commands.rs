//! The command line as its callers meet it: the real binary, bundles on disk, a `--root` of each test's own, and
//! the proof at the end that nothing was left.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use longshore_runtime::cgroup::{Group, Hierarchy};
use serde_json::{Value, json};

use super::driver::{self, Place};
use super::{APPLETS, BUSYBOX};

const PROGRAM: &str = env!("CARGO_BIN_EXE_longshore-runtime");
static NUMBER: AtomicU32 = AtomicU32::new(0);

pub(crate) struct Cli {
    pub(crate) directory: tempfile::TempDir,
    cgroup: String,
}

/// What a command said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) status: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Cli {
    pub(crate) fn new() -> Cli {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        Cli {
            directory: tempfile::tempdir().unwrap(),
            cgroup: format!("longshore-test-{}-cli-{number}", std::process::id()),
        }
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.directory.path().join("root")
    }

    /// The cgroup of a container of the test's.
    pub(crate) fn group(&self, id: &str) -> Group {
        let path = self.place(id).group;
        Hierarchy::of_host().unwrap().group(&path).unwrap()
    }

    pub(crate) fn place(&self, id: &str) -> Place {
        driver::place(&format!("{}/{id}", self.cgroup))
    }

    /// A bundle for the container of this name, with a busybox as its root.
    pub(crate) fn bundle(&self, id: &str, args: &[&str]) -> PathBuf {
        self.changed_bundle(id, args, |_| {})
    }

    pub(crate) fn changed_bundle(
        &self,
        id: &str,
        args: &[&str],
        change: impl FnOnce(&mut Value),
    ) -> PathBuf {
        let bundle = self.directory.path().join("bundles").join(id);
        let bin = bundle.join("rootfs/bin");
        if !bin.exists() {
            std::fs::create_dir_all(&bin).unwrap();
            for name in ["etc", "tmp", "proc", "dev", "sys"] {
                std::fs::create_dir(bundle.join("rootfs").join(name)).unwrap();
            }
            super::program::install(BUSYBOX, bin.join("busybox"));
            for applet in APPLETS {
                std::os::unix::fs::symlink("busybox", bin.join(applet)).unwrap();
            }
        }
        let mut spec = super::base_spec(args, &self.place(id).spec);
        spec["root"] = json!({"path": "rootfs"});
        spec["ociVersion"] = json!("1.0.2");
        change(&mut spec);
        std::fs::write(bundle.join("config.json"), spec.to_string()).unwrap();
        bundle
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command.arg("--root").arg(self.root());
        command.args(driver::flags()).args(args);
        command.stdin(Stdio::null());
        command
    }

    pub(crate) fn says(&self, args: &[&str]) -> Said {
        Said::of(&mut self.command(args))
    }

    /// Something that must work, silently on standard error: its standard output.
    #[track_caller]
    pub(crate) fn does(&self, args: &[&str]) -> String {
        let said = self.says(args);
        assert_eq!((said.status, said.stderr.as_str()), (0, ""), "{args:?}");
        said.stdout
    }

    /// Something that must be refused in one line that has these words.
    #[track_caller]
    pub(crate) fn refuses(&self, args: &[&str], words: &str) {
        let said = self.says(args);
        assert_eq!(said.status, 1, "{args:?}: {said:?}");
        assert!(
            said.stderr.starts_with("error: ") && said.stderr.contains(words),
            "{args:?}: {said:?} lacks {words}"
        );
        assert_eq!(said.stderr.lines().count(), 1, "{said:?}");
        assert_eq!(said.stdout, "", "{args:?}");
    }

    pub(crate) fn start(&self, command: &mut Command) -> Child {
        command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// Creates a container from a new bundle.
    #[track_caller]
    pub(crate) fn create(&self, id: &str, args: &[&str]) {
        let bundle = self.bundle(id, args);
        self.does(&["create", "--bundle", text(&bundle), id]);
    }

    /// Runs one in the background.
    #[track_caller]
    pub(crate) fn run_detached(&self, id: &str, args: &[&str]) {
        let bundle = self.bundle(id, args);
        self.does(&["run", "--detach", "--bundle", text(&bundle), id]);
    }

    #[track_caller]
    pub(crate) fn state(&self, id: &str) -> Value {
        serde_json::from_str(&self.does(&["state", id])).unwrap()
    }

    #[track_caller]
    pub(crate) fn status(&self, id: &str) -> String {
        self.state(id)["status"].as_str().unwrap().to_owned()
    }

    /// No record, no cgroup.
    #[track_caller]
    pub(crate) fn assert_gone(&self, id: &str) {
        assert!(!self.root().join(id).exists(), "the record of {id} is left");
        assert!(!self.group(id).exists(), "the cgroup of {id} is left");
    }
}

impl Said {
    /// Through files: a container that stays holds its creator's output, and a pipe would never end.
    pub(crate) fn of(command: &mut Command) -> Said {
        let (mut stdout, mut stderr) =
            (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        command.stdout(stdout.try_clone().unwrap());
        command.stderr(stderr.try_clone().unwrap());
        let status = command.status().unwrap();
        let read = |file: &mut File| {
            let mut text = String::new();
            file.seek(SeekFrom::Start(0)).unwrap();
            file.read_to_string(&mut text).unwrap();
            text
        };
        Said {
            status: status.code().unwrap_or(-1),
            stdout: read(&mut stdout),
            stderr: read(&mut stderr),
        }
    }
}

/// A path as an argument.
pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

impl Drop for Cli {
    fn drop(&mut self) {
        let entries = std::fs::read_dir(self.root()).into_iter().flatten();
        let ids: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        for id in &ids {
            let id = id.to_str().unwrap();
            let deleted = self.says(&["delete", "--force", id]);
            if !std::thread::panicking() && !id.starts_with('.') {
                assert_eq!(deleted.status, 0, "{deleted:?}");
                self.assert_gone(id);
            }
        }
        let whole = Hierarchy::of_host().unwrap().group(&self.cgroup).unwrap();
        let removed = whole
            .kill(std::time::Duration::from_secs(10))
            .and_then(|()| whole.remove());
        if !std::thread::panicking() {
            removed.unwrap();
        }
    }
}
