//! A bundle, and the program that runs it: tests of the command line from outside.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use longshore_runtime::cgroup::{Group, Hierarchy};
use serde_json::{Value, json};

use super::driver::{self, Place};
use super::{APPLETS, BUSYBOX, base_spec, eventually, own_mount_namespace};

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// The id of the one container.
pub(crate) const ID: &str = "c1";

/// A directory with a bundle and a `--root`; at the end nothing of the container may be left.
pub(crate) struct Bundle {
    directory: tempfile::TempDir,
    cgroup: String,
}

impl Bundle {
    /// With busybox as its image; the container sleeps unless the spec is changed.
    pub(crate) fn new(change: impl FnOnce(&mut Value)) -> Bundle {
        own_mount_namespace();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let bundle = Bundle {
            directory: tempfile::tempdir().unwrap(),
            cgroup: format!("longshore-test-{}-cli{number}", std::process::id()),
        };
        for name in ["bin", "etc", "tmp", "proc", "dev", "sys"] {
            std::fs::create_dir_all(bundle.image(name)).unwrap();
        }
        super::program::install(BUSYBOX, bundle.image("bin/busybox"));
        for applet in APPLETS.iter().chain(&["stty", "cut", "nc", "tr", "sed"]) {
            std::os::unix::fs::symlink("busybox", bundle.image("bin").join(applet)).unwrap();
        }
        let passwd = "root:x:0:0::/root:/bin/sh\nweb:x:33:33::/srv/web:/bin/sh\n";
        std::fs::write(bundle.image("etc/passwd"), passwd).unwrap();
        let mut spec = base_spec(&["/bin/sleep", "1000"], &bundle.place().spec);
        spec["root"] = json!({"path": "rootfs"});
        change(&mut spec);
        let text = serde_json::to_vec(&spec).unwrap();
        std::fs::write(bundle.path("config.json"), text).unwrap();
        bundle
    }

    /// As `new`, and the container runs.
    pub(crate) fn running(change: impl FnOnce(&mut Value)) -> Bundle {
        let bundle = Bundle::new(change);
        bundle.ok(&["run", "--detach", ID]);
        bundle
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn image(&self, name: &str) -> PathBuf {
        self.path("rootfs").join(name)
    }

    pub(crate) fn group(&self) -> Group {
        let group = self.place().group;
        Hierarchy::of_host().unwrap().group(&group).unwrap()
    }

    fn place(&self) -> Place {
        driver::place(&self.cgroup)
    }

    /// The program, in the bundle's directory.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_longshore-runtime"));
        command
            .arg("--root")
            .arg(self.path("state"))
            .args(driver::flags())
            .args(args)
            .current_dir(self.directory.path())
            .stdin(Stdio::null());
        command
    }

    /// Runs it to its end. A detached container keeps the standard error, which is therefore a file.
    pub(crate) fn run(&self, args: &[&str]) -> Output {
        let files = ["stdout", "stderr"].map(|name| self.path(name));
        let [out, err] = files
            .each_ref()
            .map(|path| std::fs::File::create(path).unwrap());
        let status = self.command(args).stdout(out).stderr(err).status().unwrap();
        let [stdout, stderr] = files.map(|path| std::fs::read(path).unwrap());
        Output {
            status,
            stdout,
            stderr,
        }
    }

    /// Standard output of a success, which says nothing else.
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success() && stderr.is_empty(),
            "{args:?}: {output:?}"
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// Standard output of `exec` in the container.
    pub(crate) fn exec(&self, args: &[&str]) -> String {
        self.ok(&[&["exec"], args].concat())
    }

    /// What a failure says, and its exit status.
    pub(crate) fn refusal(&self, args: &[&str]) -> (i32, String) {
        let output = self.run(args);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(
            !output.status.success() && stderr.starts_with("error: "),
            "{args:?}: {stderr}"
        );
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        (output.status.code().unwrap(), stderr)
    }

    /// The pid of the container's first process.
    pub(crate) fn pid(&self) -> u32 {
        let state: Value = serde_json::from_str(&self.ok(&["state", ID])).unwrap();
        state["pid"].as_u64().unwrap().try_into().unwrap()
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        let mut file = std::fs::File::create(&path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
        path
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        let deleted = self.run(&["delete", "--force", ID]);
        if std::thread::panicking() {
            return;
        }
        assert!(deleted.status.success(), "{deleted:?}");
        assert!(!Path::new(&self.path("state")).join(ID).exists());
        eventually("the cgroup is gone", || !self.group().exists());
    }
}
