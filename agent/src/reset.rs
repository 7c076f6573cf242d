//! Removes every trace of an instance from this host: for `longshore dev --reset`, when no agent runs.
//!
//! Crash-only like everything else: it goes by what it finds, not by the journal, and may be run again
//! after it was cut off. What it cannot remove does not keep it from removing the rest; all failures are
//! told together at the end.
//!
//! Deliberately absent: any word to the control plane. A host that should leave a cluster is
//! deregistered there.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use longshore_image::{Registries, Store};
use longshore_network::Network;
use longshore_runtime::cgroup::Hierarchy;
use longshore_runtime::container::Container;

use crate::Instance;
use crate::lock::Lock;

/// How long processes may take to die of SIGKILL.
const PATIENCE: Duration = Duration::from_secs(30);

/// What was there and is gone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Containers, running or not.
    pub containers: usize,
    /// Processes that ran in the tasks' cgroups.
    pub processes: usize,
    /// Network namespaces with their addresses and ports.
    pub networks: usize,
    /// Cgroups, relative to the hierarchies' roots.
    pub cgroups: Vec<String>,
    /// Folders.
    pub folders: Vec<PathBuf>,
}

/// Kills and removes whatever the instance has on this host: containers, cgroups, networks, images, logs,
/// journal, keys. `cgroup_parent` is that of [`crate::Config`].
///
/// # Errors
/// An agent or a control plane of the instance runs; or something could not be removed: which, why.
pub async fn reset(instance: &Instance, cgroup_parent: Option<String>) -> Result<Removed> {
    let _lock = alone(instance)?;
    let mut removed = Removed::default();
    let mut failures = Vec::new();
    let mut note = |step: Result<()>| failures.extend(step.err().map(|error| format!("{error:#}")));

    let parent = cgroup_parent.clone();
    let parent = parent.unwrap_or_else(|| instance.cgroup_parent());
    note(count_processes(&parent, &mut removed));
    note(containers(instance, &mut removed));
    note(cgroups(instance, cgroup_parent, &mut removed));
    note(networks(instance, &mut removed).await);
    note(roots(instance));
    for folder in [instance.run_root(), instance.state_root()] {
        note(remove_folder(folder, &mut removed));
    }
    match failures.is_empty() {
        true => Ok(removed),
        false => bail!(
            "reset instance {}: {}",
            instance.name(),
            failures.join("; ")
        ),
    }
}

/// Proof that no agent and no control plane of this instance runs.
fn alone(instance: &Instance) -> Result<Option<Lock>> {
    if UnixStream::connect(instance.control_socket()).is_ok() {
        bail!(
            "reset instance {}: a control plane of it runs; stop it first",
            instance.name()
        );
    }
    if !instance.run_root().exists() {
        return Ok(None);
    }
    Lock::take(instance).map(Some)
}

/// Before anything is killed: afterwards there are none.
fn count_processes(parent: &str, removed: &mut Removed) -> Result<()> {
    let tasks = Hierarchy::of_host()?.group(&format!("{parent}/task"))?;
    removed.processes = tasks.processes()?.len();
    Ok(())
}

fn containers(instance: &Instance, removed: &mut Removed) -> Result<()> {
    for run_dir in entries(&instance.run_root().join("containers"))? {
        if let Some(container) = Container::open(&run_dir) {
            container.delete()?;
            removed.containers += 1;
        }
    }
    Ok(())
}

/// Whatever is left there, also of half-made containers whose run directory tells nothing.
fn cgroups(instance: &Instance, parent: Option<String>, removed: &mut Removed) -> Result<()> {
    let hierarchy = Hierarchy::of_host()?;
    let own = parent.is_none();
    let parent = parent.unwrap_or_else(|| instance.cgroup_parent());
    let mut names: Vec<String> = ["task", "monitors", "agent"]
        .map(|leaf| format!("{parent}/{leaf}"))
        .to_vec();
    // A delegated scope itself is systemd's to remove, once it is empty.
    if own {
        names.push(parent);
    }
    for name in names {
        let group = hierarchy.group(&name)?;
        if group.exists() {
            group.kill(PATIENCE)?;
            group.remove()?;
            removed.cgroups.push(name);
        }
    }
    Ok(())
}

async fn networks(instance: &Instance, removed: &mut Removed) -> Result<()> {
    if !instance.run_root().exists() {
        return Ok(());
    }
    let network = Network::open(longshore_network::Config {
        run_root: instance.run_root().to_owned(),
        prefix: instance.interface_prefix(),
        table: instance.nft_table(),
        subnet: instance.subnet(),
        reserved_ports: BTreeSet::new(),
    })
    .await?;
    let attached = network.attached().len();
    network.remove().await?;
    removed.networks = attached;
    Ok(())
}

/// Writable layers hold whatever a container put there: only the store removes them safely.
fn roots(instance: &Instance) -> Result<()> {
    let images = instance.state_root().join("images");
    if !images.exists() {
        return Ok(());
    }
    let store = Store::open(&images, Registries::default())?;
    for id in store.roots()? {
        store.remove_root(&id)?;
    }
    Ok(())
}

fn remove_folder(folder: &Path, removed: &mut Removed) -> Result<()> {
    match std::fs::remove_dir_all(folder) {
        Ok(()) => removed.folders.push(folder.to_owned()),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(anyhow!("remove {}: {error}", folder.display())),
    }
    Ok(())
}

/// What lies in a folder; nothing if it is not there.
fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let read = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        read => read.with_context(|| format!("read {}", folder.display()))?,
    };
    read.map(|entry| Ok(entry?.path())).collect()
}
