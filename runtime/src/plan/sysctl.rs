//! `linux.sysctl`: which kernel parameters belong to a namespace of the container, and to which.
//!
//! A parameter that belongs to the host is refused, and so is one of a namespace that the container shares with
//! the host. Source: the per-namespace tables of namespaces(7)'s pages and of sysctl(8), on how keys are written.

use std::path::PathBuf;

use oci_spec::runtime::{LinuxNamespaceType, Spec};

use super::step::{Namespace, Step};
use crate::StepError;

/// ipc_namespaces(7), and mq_overview(7) for those below fs.mqueue.
const IPC: [&str; 12] = [
    "kernel/msgmax",
    "kernel/msgmnb",
    "kernel/msgmni",
    "kernel/msg_next_id",
    "kernel/auto_msgmni",
    "kernel/sem",
    "kernel/sem_next_id",
    "kernel/shmall",
    "kernel/shmmax",
    "kernel/shmmni",
    "kernel/shm_next_id",
    "kernel/shm_rmid_forced",
];

/// The steps that write them, and which namespaces, if they are joined by path, must not be the host's.
#[derive(Debug, Default)]
pub(super) struct Sysctls {
    pub(super) foreign: Vec<Namespace>,
    pub(super) write: Vec<Step>,
}

pub(super) fn of(spec: &Spec) -> Result<Sysctls, StepError> {
    let mut planned = Sysctls::default();
    let linux = spec.linux().as_ref();
    let wanted = linux.and_then(|linux| linux.sysctl().as_ref());
    let mut wanted: Vec<_> = wanted.into_iter().flatten().collect();
    wanted.sort();
    for (key, value) in wanted {
        let path = path(key)?;
        let text = path.to_string_lossy();
        let kind = owner(&text).ok_or_else(|| {
            refused(
                key,
                "it belongs to the host and not to a namespace; set it on the host",
            )
        })?;
        if let Some(cause) = conflict(spec, &text, value) {
            return Err(refused(key, cause));
        }
        planned.foreign.extend(private(spec, kind, key)?);
        planned.write.push(Step::Sysctl {
            path,
            value: value.clone(),
        });
    }
    Ok(planned)
}

fn refused(key: &str, cause: impl Into<String>) -> StepError {
    StepError::refused("plan sysctl", key, cause)
}

/// The file below /proc/sys. The first separator in the key decides: after a `.`, each `/` stands for a dot in a
/// name (`net.ipv4.conf.eth0/100.forwarding`); after a `/`, dots are only dots.
fn path(key: &str) -> Result<PathBuf, StepError> {
    let swap = key
        .find(['.', '/'])
        .is_some_and(|first| key.as_bytes()[first] == b'.');
    let exchange = |letter| match letter {
        '.' => '/',
        '/' => '.',
        other => other,
    };
    let text: String = if swap {
        key.chars().map(exchange).collect()
    } else {
        key.to_owned()
    };
    let sound = |name: &str| !matches!(name, "" | "." | "..") && !name.contains('\0');
    if text.split('/').count() < 2 || !text.split('/').all(sound) {
        return Err(refused(
            key,
            "it is no name of a kernel parameter, such as net.core.somaxconn",
        ));
    }
    Ok(PathBuf::from(text))
}

/// The namespace that a parameter belongs to.
fn owner(path: &str) -> Option<LinuxNamespaceType> {
    if IPC.contains(&path) || path.starts_with("fs/mqueue/") {
        return Some(LinuxNamespaceType::Ipc);
    }
    match path {
        "kernel/hostname" | "kernel/domainname" => Some(LinuxNamespaceType::Uts),
        _ if path.starts_with("net/") => Some(LinuxNamespaceType::Network),
        _ if path.starts_with("user/") => Some(LinuxNamespaceType::User),
        _ => None,
    }
}

/// Two fields of a spec for one name of the host must agree.
fn conflict(spec: &Spec, path: &str, value: &str) -> Option<String> {
    let (field, said) = match path {
        "kernel/hostname" => ("hostname", spec.hostname()),
        "kernel/domainname" => ("domainname", spec.domainname()),
        _ => return None,
    };
    let said = said
        .as_ref()
        .filter(|said| !said.is_empty() && *said != value)?;
    Some(format!(
        "the spec's `{field}` says `{said}`; set one of the two"
    ))
}

/// The container must have a namespace of that kind for itself. One that is joined by path is looked at when the
/// host is at hand: whether the path leads to the host's own, no text can tell.
fn private(
    spec: &Spec,
    kind: LinuxNamespaceType,
    key: &str,
) -> Result<Option<Namespace>, StepError> {
    let all = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.namespaces().as_ref());
    let found = all
        .into_iter()
        .flatten()
        .find(|namespace| namespace.typ() == kind);
    let Some(found) = found else {
        let cause =
            format!("the container shares the host's {kind} namespace; give it one of its own");
        return Err(refused(key, cause));
    };
    let path = found.path().as_ref();
    let joined = path.is_some_and(|path| !path.as_os_str().is_empty());
    Ok(match kind {
        LinuxNamespaceType::Ipc => joined.then_some(Namespace::Ipc),
        LinuxNamespaceType::Uts => joined.then_some(Namespace::Uts),
        LinuxNamespaceType::Network => joined.then_some(Namespace::Network),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn planned(sysctl: Value, change: impl FnOnce(&mut Value)) -> Result<String, StepError> {
        let kinds = ["ipc", "uts", "network", "mount"];
        let namespaces: Vec<Value> = kinds.iter().map(|kind| json!({"type": kind})).collect();
        let mut spec =
            json!({"ociVersion": "1.0.0", "linux": {"namespaces": namespaces, "sysctl": sysctl}});
        change(&mut spec);
        let planned = of(&serde_json::from_value(spec).unwrap())?;
        let foreign = planned.foreign.iter().map(|kind| format!("another {kind}"));
        let all = foreign.chain(planned.write.iter().map(Step::to_string));
        Ok(all.collect::<Vec<_>>().join("; "))
    }

    fn refusal(key: &str) -> String {
        planned(json!({key: "1"}), |_| {}).unwrap_err().to_string()
    }

    #[test]
    fn parameters_of_a_namespace_are_written_in_the_order_of_their_names() {
        let sysctl = json!({
            "net.core.somaxconn": "256", "kernel.shmmax": "1 2", "fs.mqueue.msg_max": "3",
            "net/ipv4/conf/eth0.100/forwarding": "1", "net.ipv4.conf.eth1/7.forwarding": "0",
            "kernel.hostname": "box",
        });
        assert_eq!(
            planned(sysctl, |_| {}).unwrap(),
            "sysctl fs/mqueue/msg_max = 3; sysctl kernel/hostname = box; sysctl kernel/shmmax = 1 2; \
             sysctl net/core/somaxconn = 256; sysctl net/ipv4/conf/eth1.7/forwarding = 0; \
             sysctl net/ipv4/conf/eth0.100/forwarding = 1"
        );
    }

    #[test]
    fn parameters_of_the_host_are_refused() {
        for key in [
            "kernel.core_pattern",
            "kernel/core_pattern",
            "vm.swappiness",
            "fs.file-max",
            "kernel.pid_max",
            "kernel.shm",
            "fs.mqueue",
            "kernel.modprobe",
        ] {
            assert!(refusal(key).contains("belongs to the host"), "{key}");
        }
    }

    #[test]
    fn a_key_cannot_climb_out_of_its_namespace() {
        for key in [
            "net/../kernel/core_pattern",
            "net.//.//.kernel.core_pattern",
            "net/./x",
            "net//x",
            "/net/x",
            "net.",
            "net",
            "",
            ".",
            "net/x\0",
            "net.ipv4.//.x",
        ] {
            assert!(
                refusal(key).contains("no name of a kernel parameter"),
                "{key:?}: {}",
                refusal(key)
            );
        }
    }

    #[test]
    fn a_namespace_shared_with_the_host_is_refused() {
        for (place, key) in [
            (0, "kernel.sem"),
            (0, "fs.mqueue.msg_max"),
            (1, "kernel.domainname"),
            (2, "net.core.somaxconn"),
        ] {
            let refusal = planned(json!({key: "1"}), |spec| {
                spec["linux"]["namespaces"]
                    .as_array_mut()
                    .unwrap()
                    .remove(place);
            });
            assert!(
                refusal.unwrap_err().cause.contains("shares the host's"),
                "{key}"
            );
        }
        assert!(refusal("user.max_user_namespaces").contains("shares the host's user"));
    }

    #[test]
    fn a_namespace_that_is_joined_must_be_another_than_the_hosts() {
        let text = planned(
            json!({"net.core.somaxconn": "1", "net.ipv4.ip_forward": "1"}),
            |spec| {
                spec["linux"]["namespaces"][2]["path"] = json!("/run/netns/x");
            },
        );
        assert_eq!(
            text.unwrap(),
            "another network; another network; \
             sysctl net/core/somaxconn = 1; sysctl net/ipv4/ip_forward = 1"
        );
    }

    #[test]
    fn host_and_domain_names_may_not_contradict_the_spec() {
        for name in ["hostname", "domainname"] {
            let said = |value: &str| {
                let key = format!("kernel.{name}");
                planned(json!({key: value}), |spec| spec[name] = json!("said"))
            };
            assert!(said("other").unwrap_err().cause.contains(name));
            assert!(said("said").is_ok());
        }
    }
}
