//! What a container sees in its mount namespace besides its root.

use std::path::Path;

use oci_spec::runtime::Mount;

use super::Inputs;

/// Hidden: what tells about or reaches into the host (Docker's list).
pub(super) const MASKED: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// Readable only: what changes the host's kernel (Docker's list).
pub(super) const READONLY: &[&str] = &[
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// The mounts in their order. A privileged container gets /sys writable; its cgroups never: limits are the
/// host's.
pub(super) fn of(inputs: &Inputs<'_>) -> Vec<Mount> {
    let access = if inputs.container.privileged {
        "rw"
    } else {
        "ro"
    };
    let mut all = vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount(
            "/dev",
            "tmpfs",
            "tmpfs",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        ),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &[
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
                "gid=5",
            ],
        ),
        mount(
            "/sys",
            "sysfs",
            "sysfs",
            &["nosuid", "noexec", "nodev", access],
        ),
        mount(
            "/sys/fs/cgroup",
            "cgroup",
            "cgroup",
            &["nosuid", "noexec", "nodev", "relatime", "ro"],
        ),
        mount(
            "/dev/mqueue",
            "mqueue",
            "mqueue",
            &["nosuid", "noexec", "nodev"],
        ),
        mount(
            "/dev/shm",
            "tmpfs",
            "shm",
            &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"],
        ),
    ];
    all.extend(["resolv.conf", "hostname", "hosts"].map(|name| etc_file(inputs.etc, name)));
    all
}

/// Read-only, unlike Docker's: the file lies on the host's run directory, which a container must not be
/// able to fill.
fn etc_file(dir: &Path, name: &str) -> Mount {
    let source = dir.join(name);
    mount(
        &format!("/etc/{name}"),
        "bind",
        source,
        &["bind", "ro", "nosuid", "nodev", "noexec"],
    )
}

fn mount(destination: &str, kind: &str, source: impl AsRef<Path>, options: &[&str]) -> Mount {
    let mut mount = Mount::default();
    mount
        .set_destination(destination.into())
        .set_typ(Some(kind.to_owned()))
        .set_source(Some(source.as_ref().to_owned()))
        .set_options(Some(options.iter().map(|o| (*o).to_owned()).collect()));
    mount
}
