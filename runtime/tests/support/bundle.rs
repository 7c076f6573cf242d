//! Bundles on disk and the command line: what a caller of the runtime has, with a `--root` and a cgroup of each
//! test's own.

use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

use longshore_runtime::cgroup::Hierarchy;
use serde_json::Value;

use super::driver::{self, Place};
use super::{APPLETS, BUSYBOX, base_spec, mounts, own_mount_namespace};

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A bundle whose root has a busybox.
pub(crate) struct Bundle {
    directory: tempfile::TempDir,
    cgroup: String,
    mounts: String,
}

impl Bundle {
    pub(crate) fn new() -> Bundle {
        own_mount_namespace();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let bundle = Bundle {
            directory: tempfile::tempdir().unwrap(),
            cgroup: format!("longshore-test-{}-b{number}", std::process::id()),
            mounts: mounts(),
        };
        for directory in ["bin", "etc", "tmp", "proc", "sys", "dev"] {
            std::fs::create_dir_all(bundle.rootfs().join(directory)).unwrap();
        }
        super::program::install(BUSYBOX, bundle.rootfs().join("bin/busybox"));
        for applet in APPLETS {
            let link = bundle.rootfs().join("bin").join(applet);
            std::os::unix::fs::symlink("busybox", link).unwrap();
        }
        bundle
    }

    /// The bundle's directory.
    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().join("bundle")
    }

    pub(crate) fn rootfs(&self) -> PathBuf {
        self.path().join("rootfs")
    }

    /// A file in the bundle.
    pub(crate) fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path().join(name)).unwrap_or_default()
    }

    /// Writes config.json.
    pub(crate) fn configure(&self, args: &[&str], change: impl FnOnce(&mut Value)) {
        let mut spec = base_spec(args, &self.place().spec);
        spec["root"]["path"] = "rootfs".into();
        change(&mut spec);
        std::fs::write(self.path().join("config.json"), spec.to_string()).unwrap();
    }

    /// The command with its arguments, as `--root R ARGS`, in the bundle's directory.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_longshore-runtime"));
        command
            .arg("--root")
            .arg(self.state_root())
            .args(driver::flags())
            .args(args)
            .current_dir(self.path());
        command
    }

    /// Runs a command to its end. What it writes goes to files: a container that it leaves behind holds them too.
    pub(crate) fn runtime(&self, args: &[&str]) -> Output {
        let file = |name: &str| self.directory.path().join(name);
        let status = self
            .command(args)
            .stdin(std::process::Stdio::null())
            .stdout(std::fs::File::create(file("stdout")).unwrap())
            .stderr(std::fs::File::create(file("stderr")).unwrap())
            .status()
            .unwrap();
        Output {
            status,
            stdout: std::fs::read(file("stdout")).unwrap(),
            stderr: std::fs::read(file("stderr")).unwrap(),
        }
    }

    /// A command that must succeed in silence: its standard output.
    pub(crate) fn succeed(&self, args: &[&str]) -> String {
        let output = self.runtime(args);
        assert!(
            output.status.success() && output.stderr.is_empty(),
            "{args:?}: {output:?}"
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// A command that must fail: its standard error.
    pub(crate) fn fail(&self, args: &[&str]) -> String {
        let output = self.runtime(args);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {output:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    pub(crate) fn state_root(&self) -> PathBuf {
        self.directory.path().join("root")
    }

    fn place(&self) -> Place {
        driver::place(&format!("{}/c1", self.cgroup))
    }

    /// Nothing of container `c1` is left.
    pub(crate) fn assert_nothing_left(&self) {
        assert!(
            !self.state_root().join("c1").exists(),
            "a state directory is left"
        );
        let group = self.place().group;
        let group = Hierarchy::of_host().unwrap().group(&group).unwrap();
        assert!(!group.exists(), "the cgroup is left");
        assert_eq!(mounts(), self.mounts, "mounts are left");
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        let deleted = self.runtime(&["delete", "--force", "c1"]);
        if !std::thread::panicking() {
            assert!(deleted.status.success(), "{deleted:?}");
            self.assert_nothing_left();
        }
        let parent = Hierarchy::of_host().unwrap().group(&self.cgroup).unwrap();
        parent.remove().unwrap();
    }
}
