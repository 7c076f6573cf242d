//! Counts what a task could leave behind: mounts, cgroups, links, nftables tables, processes, files.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::street::run;

/// Everything there is, one line each; two are compared with `==`, or with [`Census::assert_same`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Census {
    lines: BTreeSet<String>,
}

impl Census {
    pub(crate) fn take(instance: &str) -> Census {
        let mut lines = BTreeSet::new();
        lines.extend(mounts());
        lines.extend(
            cgroups(instance)
                .into_iter()
                .map(|path| format!("cgroup {path}")),
        );
        lines.extend(links());
        lines.extend(
            run("nft", &["list", "tables"])
                .lines()
                .map(|l| format!("nft {l}")),
        );
        lines.extend(
            processes(instance)
                .into_iter()
                .map(|(pid, name)| format!("process {pid} {name}")),
        );
        lines.extend(
            run("find", &["/run"])
                .lines()
                .map(|path| format!("file {path}")),
        );
        Census { lines }
    }

    /// Panics with the difference.
    pub fn assert_same(&self, before: &Census) {
        let left: Vec<_> = self.lines.difference(&before.lines).collect();
        let lost: Vec<_> = before.lines.difference(&self.lines).collect();
        assert!(
            left.is_empty() && lost.is_empty(),
            "left behind: {left:#?}\nlost: {lost:#?}"
        );
    }

    /// The lines that contain a text, for a test that looks for one thing.
    pub fn matching(&self, text: &str) -> Vec<&str> {
        self.lines
            .iter()
            .map(String::as_str)
            .filter(|line| line.contains(text))
            .collect()
    }
}

fn mounts() -> Vec<String> {
    let info = fs::read_to_string("/proc/thread-self/mountinfo").expect("read mountinfo");
    info.lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|point| format!("mount {point}"))
        .collect()
}

fn links() -> Vec<String> {
    run("ip", &["-o", "link"])
        .lines()
        .filter_map(|line| line.split(": ").nth(1))
        .map(|name| format!("link {}", name.split('@').next().unwrap_or(name)))
        .collect()
}

/// Every cgroup, in every hierarchy, whose path names the instance.
pub(crate) fn cgroups(instance: &str) -> Vec<String> {
    let mut found = Vec::new();
    walk(Path::new("/sys/fs/cgroup"), &mut |path| {
        if path.contains(instance) {
            found.push(path.to_owned());
        }
    });
    found
}

fn walk(folder: &Path, visit: &mut dyn FnMut(&str)) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            visit(&entry.path().to_string_lossy());
            walk(&entry.path(), visit);
        }
    }
}

/// Processes in the instance's cgroups, or with its name in their command line or environment.
fn processes(instance: &str) -> Vec<(u32, String)> {
    let own = std::process::id();
    fs::read_dir("/proc")
        .expect("read /proc")
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|&pid| pid != own && belongs(pid, instance))
        .map(|pid| {
            (
                pid,
                fs::read_to_string(format!("/proc/{pid}/comm"))
                    .unwrap_or_default()
                    .trim()
                    .to_owned(),
            )
        })
        .collect()
}

fn belongs(pid: u32, instance: &str) -> bool {
    ["cgroup", "cmdline"].iter().any(|file| {
        let text = fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        String::from_utf8_lossy(&text).contains(instance)
    })
}

/// Last resort when a street closes: nothing of it may stay, whatever the test was doing.
pub(crate) fn end_processes_of(instance: &str) {
    for _round in 0..50 {
        let left = processes(instance);
        if left.is_empty() {
            break;
        }
        for (pid, _name) in left {
            let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).expect("a pid fits"));
            // It may have ended since it was listed.
            let _sent = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let mut groups = cgroups(instance);
    groups.sort_by_key(|path| std::cmp::Reverse(path.len()));
    for group in groups {
        // A group that is not empty stays and shows up in scripts/test's own count.
        let _removed = fs::remove_dir(group);
    }
}
