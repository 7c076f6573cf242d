//! `longshore dev --reset`, as people see it: what was there and is gone. The agent's crate knows what an
//! instance has on a host.

use anyhow::Result;
use longshore_agent::{Instance, Removed};

use crate::{place, scope, socket, telling};

/// Stops every task of the instance and removes every trace.
pub(crate) fn run(instance: &Instance) -> Result<()> {
    telling::log("warn");
    place::need_own(instance)?;
    let parent = scope::parent_of(instance.name())?;
    let removed = socket::block_on(longshore_agent::reset(instance, parent))?;
    telling::print(&report(instance.name(), &removed))
}

fn report(instance: &str, removed: &Removed) -> String {
    if *removed == Removed::default() {
        return format!("Nothing of instance {instance} was here.\n");
    }
    let mut text = format!("Removed of instance {instance}:\n");
    let mut line = |words: String| text.push_str(&format!("  {words}\n"));
    line(format!(
        "{}, {}",
        telling::count(removed.containers, "container", "containers"),
        telling::count(removed.processes, "process", "processes")
    ));
    line(format!(
        "{}, its bridge and its packet rules",
        telling::count(removed.networks, "network", "networks")
    ));
    for group in &removed.cgroups {
        line(format!("cgroup {group}"));
    }
    for folder in &removed.folders {
        line(format!("folder {}", folder.display()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reset_says_what_was_there() {
        assert!(report("x", &Removed::default()).contains("Nothing of instance x"));
        let removed = Removed {
            containers: 2,
            processes: 1,
            folders: vec!["/var/lib/longshore".into()],
            ..Removed::default()
        };
        let text = report("default", &removed);
        assert!(
            text.contains("2 containers, 1 process\n")
                && text.contains("folder /var/lib/longshore\n"),
            "{text}"
        );
    }
}
