//! What the engine can ask of this host: one function for each effect, each ending in one event,
//! each fit to be run twice. They touch the world and never know why.
//!
//! Whatever blocks runs on a thread of its own, so that one stuck task stalls no other.

mod attach;
mod create;
mod kill;
mod prepare;
mod pull;
mod signal;
mod start;
mod teardown;
mod watch;

use std::path::PathBuf;
use std::sync::Arc;

use longshore_engine::{ContainerKey, Effect, Event, Failure, TaskId};
use longshore_image::{PullBehaviour, Store};
use longshore_network::Network;
use longshore_runtime::StepError;
use longshore_runtime::cgroup::{Group, Hierarchy};
use longshore_runtime::container::{Container, Runtime};
use tokio::sync::mpsc;

use crate::driver::{Order, Target, World};
use crate::upkeep::Fresh;
use crate::{HostPolicy, Instance, oci};

pub(crate) use pull::Turns as PullTurns;
pub(crate) use watch::exit_of;

/// The rooms below the agent, opened for one instance.
#[derive(Debug)]
pub(crate) struct ThisHost {
    pub(crate) instance: Instance,
    pub(crate) policy: HostPolicy,
    pub(crate) facts: oci::Host,
    pub(crate) images: Arc<Store>,
    pub(crate) network: Network,
    pub(crate) runtime: Runtime,
    pub(crate) hierarchy: Hierarchy,
    /// The cgroup below which everything of this instance lies.
    pub(crate) cgroup_parent: String,
    pub(crate) pulls: PullTurns,
    pub(crate) pull_behaviour: PullBehaviour,
    /// Leases on images of which the journal does not know yet.
    pub(crate) fresh: Fresh,
}

impl World for ThisHost {
    async fn perform(
        self: Arc<Self>,
        order: Order,
        progress: mpsc::Sender<Event>,
    ) -> Option<Event> {
        match order.effect.clone() {
            Effect::Prepare(_) => Some(prepare::run(self, order).await),
            Effect::Pull(key) => Some(pull::run(self, order, key, progress).await),
            Effect::AttachNetwork(key) => Some(attach::run(self, order, key).await),
            Effect::Create(key) => Some(create::run(self, order, key).await),
            Effect::Start(key) => Some(start::run(self, order, key).await),
            Effect::Signal(key, number) => signal::run(self, order, key, number).await,
            Effect::Kill(key) => kill::run(self, order, key).await,
            Effect::Teardown(_) => Some(teardown::run(self, order).await),
        }
    }

    async fn watch(self: Arc<Self>, target: Target) -> Event {
        watch::run(self, target).await
    }
}

impl ThisHost {
    /// All containers' run directories.
    pub(crate) fn containers_dir(&self) -> PathBuf {
        self.instance.run_root().join("containers")
    }

    pub(crate) fn run_dir(&self, runtime_id: &str) -> PathBuf {
        self.containers_dir().join(runtime_id)
    }

    /// The `hosts`, `hostname` and `resolv.conf` of all containers.
    pub(crate) fn etc_root(&self) -> PathBuf {
        self.instance.run_root().join("etc")
    }

    pub(crate) fn etc_dir(&self, runtime_id: &str) -> PathBuf {
        self.etc_root().join(runtime_id)
    }

    /// The container as its run directory knows it.
    pub(crate) fn container(&self, runtime_id: &str) -> Option<Container> {
        Container::open(&self.run_dir(runtime_id))
    }

    /// The group that holds every task's.
    pub(crate) fn tasks_cgroup(&self) -> String {
        tasks_cgroup(&self.cgroup_parent)
    }

    /// The group that holds the monitors, which no task's limits reach.
    pub(crate) fn monitors_cgroup(&self) -> String {
        format!("{}/monitors", self.cgroup_parent)
    }

    pub(crate) fn task_cgroup(&self, task: &TaskId) -> String {
        format!("{}/{task}", self.tasks_cgroup())
    }

    pub(crate) fn task_group(&self, task: &TaskId) -> Result<Group, StepError> {
        self.hierarchy.group(&self.task_cgroup(task))
    }

    pub(crate) fn container_group(&self, target: &Target) -> Result<Group, StepError> {
        let task = self.task_cgroup(&target.key.task);
        self.hierarchy
            .group(&format!("{task}/{}", target.runtime_id))
    }
}

/// The group that holds every task's. Not `tasks`: on v1 every group has a file of that name.
pub(crate) fn tasks_cgroup(parent: &str) -> String {
    format!("{parent}/task")
}

/// The directory of all logs below a state root.
pub(crate) fn logs_root(instance: &Instance) -> PathBuf {
    instance.state_root().join("logs")
}

/// Where one container's log lies.
pub(crate) fn log_dir(instance: &Instance, task: &TaskId, runtime_id: &str) -> PathBuf {
    logs_root(instance).join(task.as_str()).join(runtime_id)
}

/// Runs `work` where it may block. A panic in it becomes an error like any other.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(e) => Err(failure(
            "ResourceInitializationError",
            &format!("run effect: {e}"),
        )),
    }
}

/// A failure under one of ECS's error names.
pub(crate) fn failure(name: &str, cause: &dyn std::fmt::Display) -> Failure {
    Failure {
        name: name.to_owned(),
        message: cause.to_string(),
    }
}

/// The container that the order is about. The driver makes orders only from whole tasks.
fn target<'a>(order: &'a Order, key: &ContainerKey) -> Result<&'a Target, Failure> {
    order.target(key).ok_or_else(|| {
        failure(
            "ResourceInitializationError",
            &format!("find container {} of task {}", key.index, key.task),
        )
    })
}

#[cfg(test)]
mod tests;
