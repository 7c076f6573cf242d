//! What the host's owner permits: the policy file, the attributes it yields, and the check that
//! every task passes before anything of it is made.
//!
//! The default is no. The control plane learns the answer as attributes and places accordingly,
//! but the host decides for itself again: a control plane that is wrong or hostile gains nothing.
//! Absent on purpose: host paths and devices, which no task of this agent can ask for yet.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::Path;
use std::str::FromStr;

use longshore_engine::{ContainerSpec, Failure, NetworkMode, TaskSpec};
use oci_spec::runtime::Capability;
use serde::Deserialize;

use crate::oci::capabilities_from_mask;

/// Where the policy is read from unless the operator says otherwise.
pub const DEFAULT_POLICY_FILE: &str = "/etc/longshore/policy.json";

/// A policy file larger than this is a mistake.
const LARGEST_FILE: u64 = 64 * 1024;

/// What this host permits. `Default` permits nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct HostPolicy {
    /// Containers may be privileged: root on the host for all practical purposes.
    pub privileged: bool,
    /// Tasks may use network mode `host`.
    pub host_network: bool,
    /// Capabilities that a definition may add, without `CAP_`; `ALL` permits any.
    pub capabilities: BTreeSet<String>,
    /// Every container gets no-new-privileges, whatever its definition says.
    pub no_new_privileges: bool,
    /// Where the rules stand, for the refusal's remedy.
    #[serde(skip)]
    origin: Origin,
}

/// Where a policy was written down.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Origin {
    #[default]
    Nowhere,
    File(String),
    CommandLine,
}

/// A policy could not be read or says something that cannot be.
#[derive(Debug, thiserror::Error)]
#[error("read host policy {subject}: {cause}")]
pub struct PolicyError {
    subject: String,
    cause: String,
}

impl HostPolicy {
    /// Reads the policy file. A file that is not there permits nothing; a file that cannot be
    /// understood is an error, because a typing mistake must not silently close or open a host.
    pub fn load(path: &Path) -> Result<HostPolicy, PolicyError> {
        let subject = path.display().to_string();
        let refuse = |cause: String| PolicyError {
            subject: subject.clone(),
            cause,
        };
        let mut policy: HostPolicy = match std::fs::File::open(path) {
            Ok(file) => {
                let mut text = Vec::new();
                file.take(LARGEST_FILE + 1)
                    .read_to_end(&mut text)
                    .map_err(|e| refuse(e.to_string()))?;
                if text.len() as u64 > LARGEST_FILE {
                    return Err(refuse(format!("larger than {LARGEST_FILE} bytes")));
                }
                serde_json::from_slice(&text).map_err(|e| refuse(e.to_string()))?
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => HostPolicy::default(),
            Err(e) => return Err(refuse(e.to_string())),
        };
        policy.capabilities = policy
            .capabilities
            .iter()
            .map(|name| capability_rule(name).map_err(&refuse))
            .collect::<Result<_, _>>()?;
        policy.origin = Origin::File(subject.clone());
        Ok(policy)
    }

    /// Builds the policy from `--allow`: a comma-separated list of `privileged`, `host-network`,
    /// `cap-add=NAME` and `no-new-privileges` (the one that forbids).
    pub fn from_allow(list: &str) -> Result<HostPolicy, PolicyError> {
        let mut policy = HostPolicy {
            origin: Origin::CommandLine,
            ..HostPolicy::default()
        };
        for word in list.split(',').map(str::trim).filter(|w| !w.is_empty()) {
            policy.allow(word).map_err(|cause| PolicyError {
                subject: format!("--allow {word:?}"),
                cause,
            })?;
        }
        Ok(policy)
    }

    fn allow(&mut self, word: &str) -> Result<(), String> {
        match word.split_once('=') {
            None if word == "privileged" => self.privileged = true,
            None if word == "host-network" => self.host_network = true,
            None if word == "no-new-privileges" => self.no_new_privileges = true,
            Some(("cap-add", name)) => {
                self.capabilities.insert(capability_rule(name)?);
            }
            _ => {
                return Err(
                    "use privileged, host-network, cap-add=NAME or no-new-privileges".to_owned(),
                );
            }
        }
        Ok(())
    }

    /// Refuses a task that asks for what the host does not permit, naming the rule, where it
    /// stands, and how to open it.
    pub fn check(&self, task: &TaskSpec) -> Result<(), Failure> {
        if task.network == NetworkMode::Host && !self.host_network {
            return Err(self.refusal("network mode host", "hostNetwork", "host-network"));
        }
        task.containers.iter().try_for_each(|c| self.check_one(c))
    }

    fn check_one(&self, container: &ContainerSpec) -> Result<(), Failure> {
        if container.privileged && !self.privileged {
            let what = format!("privileged container {:?}", container.name);
            return Err(self.refusal(&what, "privileged", "privileged"));
        }
        for name in &container.cap_add {
            let rule = capability_rule(name).map_err(|cause| Failure {
                name: "HostConfigError".to_owned(),
                message: format!("add capability for container {:?}: {cause}", container.name),
            })?;
            if !self.may_add(&rule) {
                let what = format!("capability {rule} for container {:?}", container.name);
                return Err(self.refusal(&what, "capabilities", &format!("cap-add={rule}")));
            }
        }
        Ok(())
    }

    fn may_add(&self, name: &str) -> bool {
        self.capabilities.contains(name) || self.capabilities.contains("ALL")
    }

    fn refusal(&self, what: &str, rule: &str, word: &str) -> Failure {
        let remedy = match &self.origin {
            Origin::File(path) => format!("to permit it, set {rule:?} in {path}"),
            Origin::CommandLine => format!("to permit it, add {word} to --allow"),
            Origin::Nowhere => format!("to permit it, set {rule:?} in {DEFAULT_POLICY_FILE}"),
        };
        Failure {
            name: "HostConfigError".to_owned(),
            message: format!("check host policy: {what} is not permitted on this host; {remedy}"),
        }
    }

    /// The attributes that the control plane places by: what every such agent can do, and what
    /// this host permits.
    pub fn attributes(&self) -> Vec<(String, Option<String>)> {
        let mut all = platform_attributes();
        let mut flag = |name: &str| all.push((name.to_owned(), None));
        if self.privileged {
            flag("com.amazonaws.ecs.capability.privileged-container");
        }
        if self.host_network {
            flag("longshore.capability.network-host");
        }
        if !self.capabilities.is_empty() {
            flag("longshore.capability.add-capabilities");
        }
        for name in self.addable() {
            flag(&format!("longshore.capability.add-capability.{name}"));
        }
        all
    }

    /// What may be added, by name: `ALL` spelt out too, because a definition asks by name.
    fn addable(&self) -> BTreeSet<String> {
        let mut names = self.capabilities.clone();
        if names.contains("ALL") {
            names.extend(
                capabilities_from_mask(u64::MAX)
                    .iter()
                    .map(ToString::to_string),
            );
        }
        names
    }
}

/// Capabilities as ECS task definitions require them. Docker's remote API versions stand for the
/// features that came with them; there is no Docker here.
fn platform_attributes() -> Vec<(String, Option<String>)> {
    let value = |name: &str, value: &str| (name.to_owned(), Some(value.to_owned()));
    let mut all = vec![
        value("ecs.os-type", "linux"),
        value("ecs.os-family", "LINUX"),
        value("ecs.cpu-architecture", architecture()),
    ];
    let flags = [
        "ecs.capability.task-cpu-mem-limit",
        "ecs.capability.external",
        "com.amazonaws.ecs.capability.logging-driver.json-file",
    ];
    all.extend(flags.map(|name| (name.to_owned(), None)));
    all.extend((17..=44).map(|minor| {
        let name = format!("com.amazonaws.ecs.capability.docker-remote-api.1.{minor}");
        (name, None)
    }));
    all
}

/// ECS's word for the machine's architecture.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "aarch64" => "arm64",
        other => other,
    }
}

/// `NET_ADMIN` for any of `net_admin`, `NET_ADMIN`, `CAP_NET_ADMIN`; `ALL`; else why not.
fn capability_rule(name: &str) -> Result<String, String> {
    let upper = name.trim().to_ascii_uppercase();
    let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
    if bare == "ALL" || Capability::from_str(bare).is_ok() {
        Ok(bare.to_owned())
    } else {
        Err(format!(
            "{name:?} is no capability of capabilities(7); write it as NET_ADMIN"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;
    use expect_test::expect;

    #[test]
    fn a_host_without_a_policy_permits_nothing() {
        let policy = HostPolicy::load(Path::new("/nonexistent/policy.json")).unwrap();
        let mut task = sample::task();
        policy.check(&task).unwrap();

        task.containers[0].privileged = true;
        let refusal = policy.check(&task).unwrap_err();
        expect![[r#"HostConfigError: check host policy: privileged container "web" is not permitted on this host; to permit it, set "privileged" in /nonexistent/policy.json"#]]
            .assert_eq(&refusal.to_string());

        let mut task = sample::task();
        task.network = NetworkMode::Host;
        assert!(policy.check(&task).is_err());

        let mut task = sample::task();
        task.containers[0].cap_add = vec!["NET_ADMIN".to_owned()];
        assert!(policy.check(&task).is_err());
    }

    #[test]
    fn the_command_line_opens_exactly_what_it_names() {
        let policy = HostPolicy::from_allow("host-network, cap-add=net_admin").unwrap();
        let mut task = sample::task();
        task.network = NetworkMode::Host;
        task.containers[0].cap_add = vec!["CAP_NET_ADMIN".to_owned()];
        policy.check(&task).unwrap();

        task.containers[0].cap_add = vec!["SYS_ADMIN".to_owned()];
        expect![[r#"HostConfigError: check host policy: capability SYS_ADMIN for container "web" is not permitted on this host; to permit it, add cap-add=SYS_ADMIN to --allow"#]]
            .assert_eq(&policy.check(&task).unwrap_err().to_string());
    }

    #[test]
    fn a_file_with_an_unknown_word_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("policy.json");
        for text in [
            r#"{"privilegd": true}"#,
            r#"{"capabilities": ["NET_ADMN"]}"#,
            "[",
        ] {
            std::fs::write(&path, text).unwrap();
            assert!(HostPolicy::load(&path).is_err(), "{text}");
        }
        std::fs::write(
            &path,
            r#"{"hostNetwork": true, "capabilities": ["CAP_SYS_PTRACE"]}"#,
        )
        .unwrap();
        let policy = HostPolicy::load(&path).unwrap();
        assert!(policy.host_network && !policy.privileged);
        assert!(policy.capabilities.contains("SYS_PTRACE"));
    }

    #[test]
    fn attributes_say_what_the_host_permits() {
        let names = |policy: &HostPolicy| {
            let special = |n: &String| n.starts_with("longshore.") || n.contains("privileged");
            let all = policy.attributes().into_iter().map(|(name, _)| name);
            all.filter(special).collect::<Vec<_>>()
        };
        assert!(names(&HostPolicy::default()).is_empty());
        let open = HostPolicy::from_allow("privileged,host-network,cap-add=NET_ADMIN").unwrap();
        assert_eq!(
            names(&open),
            [
                "com.amazonaws.ecs.capability.privileged-container",
                "longshore.capability.network-host",
                "longshore.capability.add-capabilities",
                "longshore.capability.add-capability.NET_ADMIN",
            ]
        );
        // The whole word stands for each capability, and for the group.
        let all = HostPolicy::from_allow("cap-add=ALL").unwrap();
        assert_eq!(names(&all).len(), 1 + 1 + 41);
    }
}
