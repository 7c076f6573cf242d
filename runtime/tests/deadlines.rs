//! `delete` of what does not die: it gives up in its time, says why, and leaves the container to the next one.

mod support;

use std::path::{Path, PathBuf};
use std::process::Child;

use longshore_runtime::cgroup::Hierarchy;
use support::commands::Cli;

/// A frozen group of the v1 freezer. What is frozen from above heeds no SIGKILL, like a process that waits for a disk.
struct Frozen(PathBuf);

impl Frozen {
    fn new(group: PathBuf) -> Frozen {
        let frozen = Frozen(group);
        frozen.write("FROZEN");
        frozen
    }

    fn write(&self, state: &str) {
        std::fs::write(self.0.join("freezer.state"), state).unwrap();
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        self.write("THAWED");
    }
}

#[test]
#[ignore = "needs root"]
fn a_process_that_does_not_die_is_named_and_the_container_stays() {
    let freezer = Path::new("/sys/fs/cgroup/freezer");
    let hierarchy = Hierarchy::of_host().unwrap();
    if hierarchy.is_v2() || !freezer.exists() {
        return support::skip::skip("v2 kills also whoever is frozen");
    }
    let cli = Cli::new();
    for id in ["in-its-group", "elsewhere"] {
        cli.run_detached(id, &["sleep", "1000"]);
    }
    let group = cli.group("in-its-group");
    let above = Path::new(group.path()).parent().unwrap();
    // The other's first process has left its group, which can be removed at once.
    let away = hierarchy
        .group(above.join("away").to_str().unwrap())
        .unwrap();
    away.create().unwrap();
    let pid = cli.state("elsewhere")["pid"].as_u64().unwrap();
    away.add(pid.try_into().unwrap()).unwrap();

    let frozen = Frozen::new(freezer.join(above));
    // Both at once: each takes its whole patience.
    let mut deletes = [
        ("in-its-group", "are still alive"),
        ("elsewhere", "its first process does not end"),
    ]
    .map(|(id, why)| {
        (
            id,
            why,
            cli.start(&mut cli.command(&["delete", "--force", id])),
        )
    });
    for (id, why, delete) in &mut deletes {
        let (id, why) = (*id, *why);
        let said = end(delete);
        assert!(said.contains(why), "{id}: {said}");
        assert!(cli.root().join(id).exists(), "{id}");
    }
    drop(frozen);
    for (id, ..) in deletes {
        cli.does(&["delete", "--force", id]);
        cli.assert_gone(id);
    }
    away.remove().unwrap();
}

/// What a failure says. One that does not come is no success.
fn end(delete: &mut Child) -> String {
    let deadline = std::time::Instant::now() + support::PATIENCE;
    while delete.try_wait().unwrap().is_none() {
        if std::time::Instant::now() > deadline {
            delete.kill().unwrap();
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let mut said = String::new();
    std::io::Read::read_to_string(delete.stderr.as_mut().unwrap(), &mut said).unwrap();
    assert_eq!(delete.wait().unwrap().code(), Some(1), "{said}");
    said
}
