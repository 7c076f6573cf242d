//! From a task to an OCI spec: the definition, the image's configuration and the host's policy
//! become the one document that the runtime walks. Pure, so that a review sees a security change
//! as changed text.
//!
//! The rules are Docker's, because task definitions were written for them. Absent on purpose:
//! volumes, devices of the host, and shared pid or ipc namespaces, which no task can ask for yet; and
//! Docker's two sysctls for low ports and pings without a capability, which our runtime refuses so far.

mod capabilities;
mod etc;
mod mounts;
mod process;
mod resources;

pub(crate) use capabilities::from_mask as capabilities_from_mask;
pub(crate) use etc::{EtcFiles, HostFiles};
pub(crate) use resources::of_task as task_resources;

use std::path::Path;

use longshore_engine::{ContainerSpec, Failure, NetworkMode, TaskSpec};
use longshore_image::{ImageConfiguration, User};
use longshore_network::Attachment;
use oci_spec::runtime::{Capability, Linux, LinuxNamespace, LinuxNamespaceType, Root, Spec};

use crate::HostPolicy;

/// The runtime spec version that the document is written for.
const OCI_VERSION: &str = "1.2.0";

/// Everything that a container's spec depends on.
#[derive(Debug)]
pub(crate) struct Inputs<'a> {
    pub(crate) task: &'a TaskSpec,
    pub(crate) container: &'a ContainerSpec,
    pub(crate) runtime_id: &'a str,
    pub(crate) image: &'a ImageConfiguration,
    /// Resolved against the image's own files.
    pub(crate) user: &'a User,
    /// None in mode host.
    pub(crate) attachment: Option<&'a Attachment>,
    pub(crate) policy: &'a HostPolicy,
    /// The directory that holds `hosts`, `hostname` and `resolv.conf`.
    pub(crate) etc: &'a Path,
    /// `<parent>/task/<task id>`.
    pub(crate) task_cgroup: &'a str,
    pub(crate) host: &'a Host,
}

/// What the host's kernel gives this agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Host {
    pub(crate) name: String,
    /// The agent's own bounding set: nobody can be given more.
    pub(crate) capabilities: Vec<Capability>,
    /// The agent's own value; a process without CAP_SYS_RESOURCE cannot go below it.
    pub(crate) oom_score_adj: i32,
}

/// The container's spec, or what the definition and the image cannot mean together.
pub(crate) fn compose(inputs: &Inputs<'_>) -> Result<Spec, Failure> {
    let capabilities = capabilities::of(inputs)?;
    let mut root = Root::default();
    root.set_path("rootfs".into())
        .set_readonly(Some(inputs.container.readonly_root));
    let mut spec = Spec::default();
    spec.set_version(OCI_VERSION.to_owned())
        .set_root(Some(root))
        .set_mounts(Some(mounts::of(inputs)))
        .set_process(Some(process::of(inputs, &capabilities)?))
        .set_hostname(Some(hostname(inputs)))
        .set_annotations(None)
        .set_linux(Some(linux(inputs, &capabilities)));
    Ok(spec)
}

/// The name that the container sees as its own.
pub(crate) fn hostname(inputs: &Inputs<'_>) -> String {
    let own = || match inputs.task.network {
        NetworkMode::Host => inputs.host.name.clone(),
        NetworkMode::None | NetworkMode::Bridge => inputs.runtime_id.chars().take(12).collect(),
    };
    inputs.container.hostname.clone().unwrap_or_else(own)
}

fn linux(inputs: &Inputs<'_>, capabilities: &[Capability]) -> Linux {
    let privileged = inputs.container.privileged;
    let paths = |list: &[&str]| {
        let list = if privileged { &[] } else { list };
        Some(list.iter().map(|path| (*path).to_owned()).collect())
    };
    // Some system calls open only with a capability, so the profile depends on the set.
    let names: Vec<String> = capabilities.iter().map(|c| format!("CAP_{c}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let seccomp = (!privileged).then(|| longshore_runtime::seccomp::default_profile(&names));
    let mut linux = Linux::default();
    linux
        .set_namespaces(Some(namespaces(inputs)))
        .set_cgroups_path(Some(
            format!("{}/{}", inputs.task_cgroup, inputs.runtime_id).into(),
        ))
        .set_resources(Some(resources::of_container(inputs.container)))
        .set_seccomp(seccomp)
        .set_devices(None)
        .set_masked_paths(paths(mounts::MASKED))
        .set_readonly_paths(paths(mounts::READONLY));
    linux
}

/// A namespace of each kind but user; the network's is the one that was pinned for this container,
/// and in mode host there is none, which keeps the container in the host's.
fn namespaces(inputs: &Inputs<'_>) -> Vec<LinuxNamespace> {
    let fresh = [
        LinuxNamespaceType::Pid,
        LinuxNamespaceType::Mount,
        LinuxNamespaceType::Ipc,
        LinuxNamespaceType::Uts,
        LinuxNamespaceType::Cgroup,
    ];
    let namespace = |typ: LinuxNamespaceType| {
        let mut namespace = LinuxNamespace::default();
        namespace.set_typ(typ);
        namespace
    };
    let mut all: Vec<LinuxNamespace> = fresh.into_iter().map(namespace).collect();
    if let Some(attachment) = inputs.attachment {
        let mut network = namespace(LinuxNamespaceType::Network);
        network.set_path(Some(attachment.netns.clone()));
        all.push(network);
    }
    all
}

/// A definition that cannot become a container.
fn impossible(step: &str, container: &ContainerSpec, cause: &str) -> Failure {
    Failure {
        name: "CannotCreateContainerError".to_owned(),
        message: format!("{step} of container {:?}: {cause}", container.name),
    }
}

#[cfg(test)]
mod tests;
