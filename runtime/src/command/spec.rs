//! `spec`: a config.json to begin with.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::Command;
use super::global::Globals;
use super::options::{Arguments, Given, Opt};
use crate::StepError;
use crate::error::Context;
use crate::spec::CONFIG;

pub(super) const COMMAND: Command = Command {
    name: "spec",
    about: "Write a config.json to begin with",
    details: "It runs `sh` with a terminal in rootfs/, in namespaces of its own, with few capabilities; edit
process.args to run something else. A config.json that is there already is left alone.",
    options: &[
        Opt::value("bundle", "DIR", "Where to write it (default: here).").or('b'),
        Opt::switch("rootless", "For a user without privilege: a user namespace that maps them to root."),
    ],
    arguments: Arguments::NONE,
    enters: false,
    run,
};

/// The oldest that has all of the example, so that older runtimes take it too.
const EXAMPLE_VERSION: &str = "1.0.2";

fn run(_: &Globals, given: &Given) -> Result<u8, StepError> {
    let bundle = given.value("bundle").filter(|path| !path.is_empty());
    let path = bundle.map_or_else(PathBuf::new, PathBuf::from).join(CONFIG);
    let mut spec = example();
    if given.has("rootless") {
        make_rootless(&mut spec);
    }
    let text = serde_json::to_vec_pretty(&spec).context("write", path.display())?;
    let mut options = std::fs::File::options();
    let file = options.write(true).create_new(true).mode(0o666).open(&path);
    match file {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            let cause = "it exists already; remove it first, or choose another --bundle";
            return Err(StepError::refused("write", path.display(), cause));
        }
        file => file.context("write", path.display())?,
    }
    .write_all(&text)
    .context("write", path.display())?;
    Ok(0)
}

/// Deliberately without inheritable and ambient capabilities: they would survive into programs that never
/// asked for them (CVE-2022-29162).
fn example() -> Value {
    let capabilities = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"];
    let mount = |destination: &str, kind: &str, source: &str, options: &[&str]| json!({"destination": destination, "type": kind, "source": source, "options": options});
    json!({
        "ociVersion": EXAMPLE_VERSION,
        "process": {
            "terminal": true,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": true,
        },
        "root": {"path": "rootfs", "readonly": true},
        "hostname": "longshore",
        "mounts": [
            mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
            mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount("/dev/pts", "devpts", "devpts",
                &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
            mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
            mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
            mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
            mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"]),
        ],
        "linux": {
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "namespaces": [
                {"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"},
                {"type": "cgroup"},
            ],
            "maskedPaths": ["/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys",
                "/proc/latency_stats", "/proc/sched_debug", "/proc/scsi", "/proc/timer_list",
                "/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    })
}

/// What a user may not do without privilege goes: limits, a group of somebody else for terminals, and a
/// new sysfs, which needs a network namespace of one's own.
fn make_rootless(spec: &mut Value) {
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    let map = |id: u32| json!([{"containerID": 0, "hostID": id, "size": 1}]);
    spec["linux"]["uidMappings"] = map(uid.as_raw());
    spec["linux"]["gidMappings"] = map(gid.as_raw());
    spec["linux"]["namespaces"] = json!([
        {"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, {"type": "cgroup"},
        {"type": "user"},
    ]);
    if let Some(linux) = spec["linux"].as_object_mut() {
        linux.remove("resources");
    }
    for mount in spec["mounts"].as_array_mut().into_iter().flatten() {
        match mount["destination"].as_str() {
            Some("/dev/pts") => {
                if let Some(options) = mount["options"].as_array_mut() {
                    options.retain(|option| option != "gid=5");
                }
            }
            Some("/sys") => {
                *mount = json!({"destination": "/sys", "type": "none", "source": "/sys",
                    "options": ["rbind", "nosuid", "noexec", "nodev", "ro"]});
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_spec_and_inherits_no_capability() {
        for rootless in [false, true] {
            let mut value = example();
            if rootless {
                make_rootless(&mut value);
            }
            let spec: oci_spec::runtime::Spec = serde_json::from_value(value).unwrap();
            let process = spec.process().clone().unwrap();
            let capabilities = process.capabilities().clone().unwrap();
            assert_eq!(spec.version(), "1.0.2");
            assert!(capabilities.inheritable().is_none() && capabilities.ambient().is_none());
            let linux = spec.linux().clone().unwrap();
            assert_eq!(linux.uid_mappings().is_some(), rootless);
            assert_eq!(linux.resources().is_none(), rootless);
        }
    }
}
