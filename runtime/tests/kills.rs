//! SIGKILL at every system call of a command: no process runs outside of its cgroup, and one `delete --force` ends
//! with 0 and leaves nothing. Killed children make their command fail, and it undoes what it made by itself.

mod support;
#[path = "support/trace.rs"]
mod trace;

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Mutex;

use longshore_runtime::cgroup::{Group, Hierarchy};
use serde_json::{Value, json};
use support::{APPLETS, BUSYBOX, PATIENCE, base_spec, driver, own_mount_namespace};
use trace::{Traced, Victim};

const PROGRAM: &str = env!("CARGO_BIN_EXE_longshore-runtime");

/// The tracer waits for any child, so there is one test at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// Only one in this many calls is died at (LONGSHORE_TEST_CALLS), where each takes long.
fn calls() -> impl Iterator<Item = usize> {
    let every = std::env::var("LONGSHORE_TEST_CALLS").map_or(1, |text| text.parse().unwrap());
    (1..).step_by(every)
}

struct Place {
    directory: tempfile::TempDir,
    cgroup: String,
    container: driver::Place,
    id: String,
}

impl Place {
    fn new(name: &str, change: impl FnOnce(&mut Value)) -> Place {
        own_mount_namespace();
        let directory = tempfile::tempdir().unwrap();
        let cgroup = format!("longshore-test-{}-{name}", std::process::id());
        let place = Place {
            id: format!("{cgroup}-id"),
            container: driver::place(&format!("{cgroup}/c")),
            directory,
            cgroup,
        };
        let bin = place.path("rootfs/bin");
        std::fs::create_dir_all(&bin).unwrap();
        support::program::install(BUSYBOX, bin.join("busybox"));
        for applet in APPLETS {
            std::os::unix::fs::symlink("busybox", bin.join(applet)).unwrap();
        }
        for name in ["etc", "proc", "dev", "sys"] {
            std::fs::create_dir(place.path("rootfs").join(name)).unwrap();
        }
        let mut spec = base_spec(&["/bin/sleep", "1000"], &place.container.spec);
        spec["root"] = json!({"path": "rootfs"});
        change(&mut spec);
        std::fs::write(place.path("config.json"), spec.to_string()).unwrap();
        // Its own, so that what the container makes is what must go; systemd's container is not below it.
        place.parent().create().unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn parent(&self) -> Group {
        Hierarchy::of_host().unwrap().group(&self.cgroup).unwrap()
    }

    fn group(&self) -> Group {
        let path = &self.container.group;
        Hierarchy::of_host().unwrap().group(path).unwrap()
    }

    fn record(&self) -> PathBuf {
        self.path("state").join(&self.id)
    }

    /// The id stands in the place of `ID`, or at the end.
    fn arguments(&self, command: &[&str]) -> Vec<String> {
        let root = self.path("state");
        let mut arguments = vec!["--root".to_owned(), root.to_str().unwrap().to_owned()];
        arguments.extend(driver::flags().iter().map(|&flag| flag.to_owned()));
        let word = |word: &&str| match *word {
            "ID" => self.id.clone(),
            other => other.to_owned(),
        };
        arguments.extend(command.iter().map(word));
        if command[0] == "create" || command[0] == "run" {
            arguments.extend([
                "--bundle".into(),
                self.directory.path().to_str().unwrap().into(),
            ]);
        }
        if !command.contains(&"ID") {
            arguments.push(self.id.clone());
        }
        arguments
    }

    /// The end and the words of a command that nobody traces.
    fn says(&self, command: &[&str]) -> (Option<i32>, String) {
        let errors = self.path("errors");
        let status = Command::new(PROGRAM)
            .args(self.arguments(command))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&errors).unwrap())
            .status()
            .unwrap();
        (status.code(), std::fs::read_to_string(errors).unwrap())
    }

    fn does(&self, command: &[&str]) {
        assert_eq!(self.says(command), (Some(0), String::new()), "{command:?}");
    }

    fn trace(&self, command: &[&str], victim: Victim) -> Traced {
        trace::run(PROGRAM, &self.arguments(command), victim)
    }

    /// The processes of the container that are outside of its cgroup: runtimes and what they cloned.
    fn outside(&self) -> Vec<u32> {
        let pids = std::fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
        let ours = |pid: &u32| {
            let read =
                |name: &str| std::fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
            let named = |text: Vec<u8>, what: &str| String::from_utf8_lossy(&text).contains(what);
            *pid != std::process::id()
                && named(read("cmdline"), &self.id)
                && !named(read("cgroup"), &self.container.group)
        };
        pids.filter(ours).collect()
    }

    #[track_caller]
    fn assert_nobody_outside(&self, what: &dyn std::fmt::Debug) {
        let deadline = std::time::Instant::now() + PATIENCE;
        while let [first, ..] = self.outside()[..] {
            let read = |name: &str| std::fs::read_to_string(format!("/proc/{first}/{name}"));
            let (status, stack) = (read("status"), read("stack"));
            assert!(
                std::time::Instant::now() < deadline,
                "{what:?}: {first} runs outside of its cgroup: {status:?} {stack:?}"
            );
            std::thread::yield_now();
        }
    }

    #[track_caller]
    fn assert_nothing_left(&self, what: &dyn std::fmt::Debug) {
        assert!(!self.record().exists(), "{what:?}: the record is left");
        assert!(!self.group().exists(), "{what:?}: the cgroup is left");
        let mounts = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        assert!(
            !mounts.contains(self.directory.path().to_str().unwrap()),
            "{what:?}: a mount is left"
        );
        self.assert_nobody_outside(what);
        let names = std::fs::read_dir(self.path("state")).into_iter().flatten();
        let names = names.map(|entry| entry.unwrap().file_name());
        let left: Vec<_> = names.filter(|name| name != ".lock").collect();
        assert!(left.is_empty(), "{what:?}: {left:?} is left");
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.says(&["delete", "--force"]);
        }
        let parent = self.parent();
        let removed = parent
            .kill(std::time::Duration::from_secs(10))
            .and_then(|()| parent.remove());
        if !std::thread::panicking() {
            removed.unwrap();
        }
    }
}

/// Kills `command` at each of its calls; `before` brings the container to where it can begin.
fn die_at_each_call(place: &Place, before: &[&[&str]], command: &[&str]) {
    for call in calls() {
        before.iter().for_each(|command| place.does(command));
        let victim = Victim { process: 0, call };
        let traced = place.trace(command, victim);
        if !traced.reached {
            // All of it has been done at last.
            assert_eq!(traced.status, Some(0), "{command:?}");
            assert!(call > 100, "{command:?} has but {call} calls");
            place.does(&["delete", "--force"]);
            place.assert_nothing_left(&"nobody killed");
            return;
        }
        place.assert_nobody_outside(&victim);
        place.does(&["delete", "--force"]);
        place.assert_nothing_left(&(command, victim));
    }
}

/// Kills a child of `command` at each of its calls up to execve.
fn child_dies_at_each_call(place: &Place, command: &[&str], process: usize) {
    for call in calls() {
        let victim = Victim { process, call };
        let traced = place.trace(command, victim);
        if !traced.reached || traced.status == Some(0) {
            assert!(call > 10, "process {process} has but {call} calls");
            place.does(&["delete", "--force"]);
            place.assert_nothing_left(&"nobody killed");
            return;
        }
        assert_eq!(traced.status, Some(1), "{victim:?}");
        // The command itself has undone everything.
        place.assert_nothing_left(&(command, victim));
    }
}

fn staged(spec: &mut Value) {
    let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.push(json!({"type": "time"}));
}

#[test]
#[ignore = "needs root"]
fn create_dies_at_each_of_its_calls() {
    let _alone = ALONE.lock();
    let place = Place::new("create", |_| {});
    die_at_each_call(&place, &[], &["create"]);
}

#[test]
#[ignore = "needs root"]
fn run_dies_at_each_of_its_calls() {
    let _alone = ALONE.lock();
    let place = Place::new("run", |spec| spec["process"]["args"] = json!(["/bin/true"]));
    die_at_each_call(&place, &[], &["run"]);
}

#[test]
#[ignore = "needs root"]
fn run_with_a_stage_dies_at_each_of_its_calls() {
    let _alone = ALONE.lock();
    let place = Place::new("staged", staged);
    die_at_each_call(&place, &[], &["run", "--detach"]);
}

/// Its root is mounted in the host's tree, where no end of a process unmounts it.
#[test]
#[ignore = "needs root"]
fn in_the_host_s_mount_namespace_run_and_its_init_die_at_each_of_their_calls() {
    let _alone = ALONE.lock();
    let place = Place::new("hosted", |spec| {
        let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|namespace| namespace["type"] != "mount");
    });
    die_at_each_call(&place, &[], &["run", "--detach"]);
    child_dies_at_each_call(&place, &["run", "--detach"], 1);
}

#[test]
#[ignore = "needs root"]
fn start_and_delete_die_at_each_of_their_calls() {
    let _alone = ALONE.lock();
    let place = Place::new("start", |_| {});
    die_at_each_call(&place, &[&["create"]], &["start"]);
    die_at_each_call(&place, &[&["run", "--detach"]], &["delete", "--force"]);
}

/// The one other command that makes a process outside of the group first.
#[test]
#[ignore = "needs root"]
fn exec_dies_at_each_of_its_calls() {
    let _alone = ALONE.lock();
    let place = Place::new("exec", |_| {});
    die_at_each_call(
        &place,
        &[&["run", "--detach"]],
        &["exec", "ID", "/bin/true"],
    );
}

/// A frozen container can be deleted, and so can one whose limits are half new.
#[test]
#[ignore = "needs root"]
fn pause_and_update_die_at_each_of_their_calls() {
    let _alone = ALONE.lock();
    let place = Place::new("pause", |_| {});
    let runs: &[&[&str]] = &[&["run", "--detach"]];
    die_at_each_call(&place, runs, &["pause"]);
    let new = [
        "update",
        "--memory",
        "67108864",
        "--cpu-quota",
        "20000",
        "ID",
    ];
    die_at_each_call(&place, runs, &new);
}

#[test]
#[ignore = "needs root"]
fn init_dies_at_each_of_its_calls() {
    let _alone = ALONE.lock();
    let place = Place::new("init", |_| {});
    child_dies_at_each_call(&place, &["run", "--detach"], 1);
}

/// Its init waits until somebody with the right to do so has mapped its ids.
#[test]
#[ignore = "needs root"]
fn with_a_user_namespace_run_and_its_init_die_at_each_of_their_calls() {
    let _alone = ALONE.lock();
    let place = Place::new("mapped", |spec| {
        let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.push(json!({"type": "user"}));
        let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
        spec["linux"]["uidMappings"] = map.clone();
        spec["linux"]["gidMappings"] = map;
    });
    die_at_each_call(&place, &[], &["run", "--detach"]);
    child_dies_at_each_call(&place, &["run", "--detach"], 1);
}

#[test]
#[ignore = "needs root"]
fn stage_and_its_init_die_at_each_of_their_calls() {
    let _alone = ALONE.lock();
    let place = Place::new("stage", staged);
    child_dies_at_each_call(&place, &["run", "--detach"], 1);
    child_dies_at_each_call(&place, &["run", "--detach"], 2);
}
