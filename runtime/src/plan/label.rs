//! Security labels: AppArmor's profile, SELinux's labels of process, keyring and mounts.
//!
//! Where the host's kernel does not enforce such labels, a process's SELinux label is refused, and so is an AppArmor
//! profile that an exec asks for beside its container's. A container's AppArmor profile and the label of its mounts
//! are left out with a warning, as crun has it and opencontainers/runtime-tools asks for. The profile `unconfined`
//! is in force on every host that has no AppArmor.

use oci_spec::runtime::{Linux, Process};
use serde::{Deserialize, Serialize};

use super::HostFacts;
use super::step::{Filesystem, Step};
use crate::StepError;

/// A security module that labels processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LabelKind {
    /// AppArmor: the profile of the program that execve(2) starts.
    AppArmorExec,
    /// SELinux: the label of the program that execve(2) starts.
    SelinuxExec,
    /// SELinux: the label of keys and keyrings that are made from now on; empty: by policy again.
    SelinuxKeyCreate,
}

/// What a process gets, and a warning for each label that nobody would enforce.
#[derive(Debug, Default)]
pub(super) struct Labels {
    /// The SELinux label of the program, to be put on its keyring too.
    pub(super) keyring: Option<String>,
    /// What takes effect at the next execve: to be set after the last hook was executed.
    pub(super) exec: Vec<Step>,
    pub(super) warnings: Vec<String>,
}

/// AppArmor's name for no profile.
const UNCONFINED: &str = "unconfined";

/// `container` is the process of the container that `process` comes to, if it is not that one itself.
pub(super) fn of_process(
    process: &Process,
    container: Option<&Process>,
    host: &HostFacts,
) -> Result<Labels, StepError> {
    let mut labels = Labels::default();
    if let Some(profile) = said("process.apparmorProfile", process.apparmor_profile())? {
        let inherited = container
            .is_none_or(|container| container.apparmor_profile() == process.apparmor_profile());
        if host.apparmor {
            labels.exec.push(label(LabelKind::AppArmorExec, profile));
        } else if !inherited && profile != UNCONFINED {
            return Err(unenforceable("AppArmor profile", profile, "AppArmor"));
        } else if profile != UNCONFINED {
            labels
                .warnings
                .push(nobody("AppArmor profile", profile, "AppArmor"));
        }
    }
    if let Some(text) = said("process.selinuxLabel", process.selinux_label())? {
        if host.selinux {
            labels.exec.push(label(LabelKind::SelinuxExec, text));
            labels.keyring = Some(text.to_owned());
        } else {
            return Err(unenforceable("SELinux label", text, "SELinux"));
        }
    }
    Ok(labels)
}

/// Labels the file systems that are made for the container. proc and sysfs take no label, and cgroup file systems belong
/// to more than one container. So may an mqueue, of an IPC namespace that is joined: there only its top gets the label, and
/// each queue the one of who makes it.
pub(super) fn on_mounts<'a>(
    linux: &Linux,
    host: &HostFacts,
    steps: impl Iterator<Item = &'a mut Step>,
) -> Result<Option<String>, StepError> {
    let Some(text) = said("linux.mountLabel", linux.mount_label())? else {
        return Ok(None);
    };
    if !host.selinux {
        return Ok(Some(nobody("SELinux mount label", text, "SELinux")));
    }
    for step in steps {
        let (Step::Mount(filesystem)
        | Step::OpenFilesystem { filesystem, .. }
        | Step::AttachFilesystem { filesystem, .. }) = step
        else {
            continue;
        };
        let Filesystem { kind, data, .. } = filesystem;
        match kind.as_str() {
            "proc" | "sysfs" => {}
            "mqueue" => filesystem.label = Some(text.to_owned()),
            _ if data.iter().any(|(key, _)| key == "context") => {}
            _ => data.push(("context".into(), Some(text.into()))),
        }
    }
    Ok(None)
}

fn label(kind: LabelKind, text: &str) -> Step {
    Step::Label {
        kind,
        text: text.to_owned(),
    }
}

fn nobody(what: &str, text: &str, module: &str) -> String {
    format!("{what} `{text}` is not in force: this host has no {module}")
}

fn unenforceable(what: &str, text: &str, module: &str) -> StepError {
    let cause = format!(
        "this host has no {module}, and nobody would enforce it; leave it out, or use a host that has"
    );
    StepError::refused("plan", format!("{what} `{text}`"), cause)
}

/// The label, if one is given; without what would end it early in the kernel's file.
fn said<'a>(field: &str, text: &'a Option<String>) -> Result<Option<&'a str>, StepError> {
    let text = text.as_deref().filter(|text| !text.is_empty());
    match text.filter(|text| text.contains(['\0', '\n'])) {
        Some(bad) => Err(StepError::refused(
            "plan",
            field,
            format!("{bad:?} is no label"),
        )),
        None => Ok(text),
    }
}
