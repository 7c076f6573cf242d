//! `features`: what this runtime knows, whether or not this host has it.
//!
//! Source: runtime-spec features.md. Callers choose by it what they may ask for.

use serde_json::{Value, json};

use super::global::Globals;
use super::options::{Arguments, Given};
use super::{Command, answer};
use crate::StepError;
use crate::plan::mount_options;
use crate::state::OCI_VERSION;

pub(super) const COMMAND: Command = Command {
    name: "features",
    about: "Print what this runtime knows as JSON",
    details: "The shape is that of the OCI text, features.md.",
    options: &[],
    arguments: Arguments::NONE,
    enters: false,
    run,
};

const HOOKS: [&str; 6] = [
    "prestart",
    "createRuntime",
    "createContainer",
    "startContainer",
    "poststart",
    "poststop",
];

fn run(_: &Globals, _: &Given) -> Result<u8, StepError> {
    let text = serde_json::to_string_pretty(&features()).unwrap_or_default();
    answer(&format!("{text}\n"))
}

fn features() -> Value {
    let enabled = json!({"enabled": true});
    json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": OCI_VERSION,
        "hooks": HOOKS,
        "mountOptions": mount_options().collect::<Vec<_>>(),
        "linux": {
            "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"],
            "capabilities": capabilities(),
            "cgroup": {"v1": true, "v2": true, "systemd": true, "systemdUser": true, "rdma": true},
            "seccomp": seccomp(),
            "apparmor": enabled,
            "selinux": enabled,
            "intelRdt": {"enabled": true, "schemata": true, "monitoring": true},
            "memoryPolicy": {
                "modes": ["MPOL_DEFAULT", "MPOL_BIND", "MPOL_INTERLEAVE", "MPOL_WEIGHTED_INTERLEAVE",
                    "MPOL_PREFERRED", "MPOL_PREFERRED_MANY", "MPOL_LOCAL"],
                "flags": ["MPOL_F_NUMA_BALANCING", "MPOL_F_RELATIVE_NODES", "MPOL_F_STATIC_NODES"],
            },
            "mountExtensions": {"idmap": enabled},
            "netDevices": enabled,
        },
        "annotations": {
            "org.longshore.runtime.version": env!("CARGO_PKG_VERSION"),
            "org.opencontainers.runc.checkpoint.enabled": "false",
        },
        // Whoever names it lets the caller's groups in.
        "potentiallyUnsafeConfigAnnotations": ["run.oci.keep_original_groups"],
    })
}

fn seccomp() -> Value {
    let flags = [
        "SECCOMP_FILTER_FLAG_LOG",
        "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
        "SECCOMP_FILTER_FLAG_TSYNC",
        "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
    ];
    json!({
        "enabled": true,
        "actions": ["SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS",
            "SCMP_ACT_KILL_THREAD", "SCMP_ACT_LOG", "SCMP_ACT_NOTIFY", "SCMP_ACT_TRACE", "SCMP_ACT_TRAP"],
        "operators": ["SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_LE", "SCMP_CMP_LT",
            "SCMP_CMP_MASKED_EQ", "SCMP_CMP_NE"],
        "archs": ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM", "SCMP_ARCH_X32", "SCMP_ARCH_X86", "SCMP_ARCH_X86_64"],
        "knownFlags": flags,
        "supportedFlags": flags,
    })
}

/// Every name that the kernel's headers knew when this was built, in their order.
fn capabilities() -> Vec<String> {
    let mut all: Vec<caps::Capability> = caps::all().into_iter().collect();
    all.sort_by_key(caps::Capability::index);
    all.iter().map(caps::Capability::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_has_the_shape_of_the_oci_text() {
        let parsed: oci_spec::runtime::Features = serde_json::from_value(features()).unwrap();
        assert_eq!(parsed.hooks().as_ref().unwrap().len(), 6);
        let linux = parsed.linux().as_ref().unwrap();
        let names = linux.capabilities().as_ref().unwrap();
        assert_eq!(names.len(), 41);
        assert!(names.contains(&"CAP_SYS_ADMIN".to_owned()));
        assert!(linux.seccomp().as_ref().unwrap().archs().is_some());
    }
}
