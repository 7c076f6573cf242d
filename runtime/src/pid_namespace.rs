//! Whose processes a pid namespace holds, as /proc of the host tells it: for containers that have no cgroup.
//!
//! A process is in the namespace of the container's first one, or descends from one that is: what is in a namespace
//! further inside has its ancestors here, as an orphan goes to the first process of its own namespace. Deliberately
//! absent: any lock. Processes come and go while /proc is read; whoever signals them looks twice.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use crate::StepError;
use crate::error::Context;
use crate::proc_stat::Stat;
use crate::record::Process;

/// Pids in the namespace that `first` is the first process of, sorted. None once it has ended: the kernel ends the
/// others with it (pid_namespaces(7)).
pub(crate) fn members(first: &Process) -> Result<Vec<u32>, StepError> {
    let Some(namespace) = namespace_of(first.pid) else {
        return match first.is_alive()? {
            true => Err(StepError::refused(
                "read pid namespace of",
                format!("process {}", first.pid),
                "/proc does not show it to this user; ask as who made the container, or as root",
            )),
            false => Ok(Vec::new()),
        };
    };
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").context("list", "/proc")? {
        let name = entry.context("list", "/proc")?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        if let Some(stat) = Stat::of(pid) {
            children.entry(stat.parent).or_default().push(pid);
        }
        if namespace_of(pid).as_ref() == Some(&namespace) {
            found.push(pid);
        }
    }
    // Only now is it certain that the namespace was the container's while it was looked for.
    if !first.is_alive()? {
        return Ok(Vec::new());
    }
    let mut all = BTreeSet::new();
    while let Some(pid) = found.pop() {
        if all.insert(pid) {
            found.extend(children.get(&pid).into_iter().flatten());
        }
    }
    Ok(all.into_iter().collect())
}

fn namespace_of(pid: u32) -> Option<PathBuf> {
    std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_in_its_namespace_with_its_children() {
        let own = Process::of_pid(std::process::id()).unwrap();
        let mut child = std::process::Command::new("/bin/sleep")
            .arg("1000")
            .spawn()
            .unwrap();
        let there = members(&own).unwrap();
        assert_eq!(Stat::of(child.id()).unwrap().parent, own.pid);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(there.contains(&own.pid) && there.contains(&child.id()));
        let ended = Process { started: 1, ..own };
        assert!(members(&ended).unwrap().is_empty());
    }
}
