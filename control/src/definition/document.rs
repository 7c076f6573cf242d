//! The task's part of the document: `RegisterTaskDefinition`'s members as botocore's model has them.
//!
//! Members that the model does not know are dropped, as ECS drops them. Tags are not here: they belong to
//! the revision's record.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::ContainerDefinition;

/// A task definition as ECS writes it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Document {
    /// Family.
    pub family: String,
    /// The containers.
    pub container_definitions: Vec<ContainerDefinition>,
    /// Role of the task's own processes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task_role_arn: Option<String>,
    /// Role for pulls, logs and secrets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub execution_role_arn: Option<String>,
    /// Absent means bridge.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network_mode: Option<NetworkMode>,
    /// Volumes.
    pub volumes: Vec<Volume>,
    /// Placement constraints.
    pub placement_constraints: Vec<DefinitionConstraint>,
    /// Launch types to validate against.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub requires_compatibilities: Vec<Compatibility>,
    /// CPU units of the whole task; after registration a plain decimal number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<String>,
    /// MiB of the whole task; after registration a plain decimal number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<String>,
    /// Process namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid_mode: Option<PidMode>,
    /// IPC namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipc_mode: Option<IpcMode>,
    /// App Mesh proxy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy_configuration: Option<ProxyConfiguration>,
    /// Elastic Inference (end of life).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub inference_accelerators: Vec<InferenceAccelerator>,
    /// Fargate's scratch space.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ephemeral_storage: Option<EphemeralStorage>,
    /// Architecture and operating system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runtime_platform: Option<RuntimePlatform>,
    /// Fault injection endpoints.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enable_fault_injection: Option<bool>,
    /// Sandboxed execution.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trusted_execution_configuration: Option<TrustedExecution>,
}

impl Document {
    /// The container of this name.
    #[must_use]
    pub fn container(&self, name: &str) -> Option<&ContainerDefinition> {
        self.container_definitions.iter().find(|c| c.name == name)
    }

    /// The network mode, the default filled in.
    #[must_use]
    pub fn network(&self) -> NetworkMode {
        self.network_mode.unwrap_or(NetworkMode::Bridge)
    }

    /// Task-level CPU units. The document must have been normalised.
    #[must_use]
    pub fn task_cpu(&self) -> Option<u32> {
        self.cpu.as_deref().and_then(|text| text.parse().ok())
    }

    /// Task-level MiB. The document must have been normalised.
    #[must_use]
    pub fn task_memory(&self) -> Option<u64> {
        self.memory.as_deref().and_then(|text| text.parse().ok())
    }

    /// Whether Fargate is among the launch types it must be valid for.
    #[must_use]
    pub fn is_for_fargate(&self) -> bool {
        self.requires_compatibilities
            .contains(&Compatibility::Fargate)
    }

    /// Whether it is for Windows hosts.
    #[must_use]
    pub fn is_for_windows(&self) -> bool {
        let platform = self.runtime_platform.as_ref();
        let family = platform.and_then(|p| p.operating_system_family.as_deref());
        family.is_some_and(|family| family.starts_with("WINDOWS"))
    }
}

/// `networkMode`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkMode {
    /// Loopback only.
    None,
    /// The host's bridge.
    Bridge,
    /// The host's own network.
    Host,
    /// A network interface of its own.
    Awsvpc,
}

/// `requiresCompatibilities`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[expect(missing_docs, reason = "ECS's own words")]
pub enum Compatibility {
    External,
    Ec2,
    ManagedInstances,
    Fargate,
}

/// `pidMode`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "ECS's own words")]
pub enum PidMode {
    Host,
    Task,
}

/// `ipcMode`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "ECS's own words")]
pub enum IpcMode {
    Host,
    Task,
    None,
}

/// A volume. Exactly one of the configurations, or none for an empty task volume.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Volume {
    /// Name that `mountPoints` use.
    pub name: String,
    /// A directory of the host, or of the task where `sourcePath` is absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<HostVolume>,
    /// A Docker volume.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub docker_volume_configuration: Option<DockerVolume>,
    /// Amazon EFS, kept as given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub efs_volume_configuration: Option<Structure>,
    /// S3 files, kept as given.
    #[serde(
        rename = "s3filesVolumeConfiguration",
        skip_serializing_if = "Option::is_none"
    )]
    pub s3files_volume_configuration: Option<Structure>,
    /// FSx for Windows, kept as given.
    #[serde(
        rename = "fsxWindowsFileServerVolumeConfiguration",
        skip_serializing_if = "Option::is_none"
    )]
    pub fsx_windows_volume_configuration: Option<Structure>,
    /// Configured by RunTask (EBS).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub configured_at_launch: Option<bool>,
}

/// A structure whose members nothing here looks at.
pub type Structure = serde_json::Map<String, serde_json::Value>;

/// `host`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HostVolume {
    /// Path on the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_path: Option<String>,
}

/// `dockerVolumeConfiguration`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "members as in the ECS API reference")]
pub struct DockerVolume {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub autoprovision: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub driver_opts: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// `placementConstraints` of a definition.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DefinitionConstraint {
    /// `memberOf`
    #[serde(rename = "type")]
    pub kind: String,
    /// Cluster query language.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expression: Option<String>,
}

/// `proxyConfiguration`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "members as in the ECS API reference")]
pub struct ProxyConfiguration {
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    pub container_name: String,
    pub properties: Vec<super::KeyValue>,
}

/// `inferenceAccelerators`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "members as in the ECS API reference")]
pub struct InferenceAccelerator {
    pub device_name: String,
    pub device_type: String,
}

/// `ephemeralStorage`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EphemeralStorage {
    /// GiB.
    #[serde(rename = "sizeInGiB")]
    pub size_in_gib: u32,
}

/// `runtimePlatform`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RuntimePlatform {
    /// `X86_64` or `ARM64`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_architecture: Option<String>,
    /// `LINUX` or one of the Windows names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operating_system_family: Option<String>,
}

/// `trustedExecutionConfiguration`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "members as in the ECS API reference")]
pub struct TrustedExecution {
    pub isolation_mode: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attestation_policy: Option<String>,
}
