//! Mount options of the OCI spec, and where mounts may not go.
//!
//! Source: runtime-spec config.md "Mounts", mount(8), mount_setattr(2).

use std::fmt;
use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::Mount;
use serde::{Deserialize, Serialize};

use super::step::{Bind, Filesystem, Step};
use crate::StepError;

/// MOUNT_ATTR_* bits to set and to clear on a mount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountFlags {
    /// Bits to set.
    pub set: u64,
    /// Bits to clear first.
    pub clear: u64,
}

/// Mount propagation, mount_namespaces(7). Shared mounts are refused: they would reach back to the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Propagation {
    /// Nothing crosses.
    #[default]
    Private,
    /// What the host mounts later below a bind appears here too.
    Slave,
    /// Private, and cannot be bind-mounted.
    Unbindable,
}

/// What a list of options means.
#[derive(Debug, Default, PartialEq, Eq)]
struct Options {
    flags: MountFlags,
    propagation: Propagation,
    bind: Option<Recursion>,
    data: Vec<(String, Option<String>)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Recursion {
    One,
    Tree,
}

/// Files below /proc that programs such as lxcfs replace; anywhere else below /proc a mount could fake
/// what the runtime itself reads and writes there (CVE-2019-16884 and its successors).
const MOUNTABLE_BELOW_PROC: [&str; 11] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
    "/proc/loadavg",
    "/proc/slabinfo",
    "/proc/net/dev",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/sys/crypto/fips_enabled",
];

/// The steps of all mounts: the ones that open host paths, and the ones that attach, both in spec order.
pub(super) fn steps(
    mounts: &[Mount],
    cgroup_hierarchies: Option<&[String]>,
) -> Result<(Vec<Step>, Vec<Step>), StepError> {
    let (mut open, mut attach) = (Vec::new(), Vec::new());
    for mount in mounts {
        let destination = destination(mount)?;
        let kind = mount.typ().as_deref().unwrap_or("none");
        let options = Options::parse(mount.options().as_deref().unwrap_or_default(), &destination)?;
        match (kind, options.bind) {
            (_, Some(recursion)) => {
                let (opened, attached) = bind(mount, destination, options, recursion, open.len())?;
                open.push(opened);
                attach.push(attached);
            }
            ("bind", None) => {
                let (opened, attached) =
                    bind(mount, destination, options, Recursion::One, open.len())?;
                open.push(opened);
                attach.push(attached);
            }
            ("cgroup", None) => attach.push(cgroup(destination, options, cgroup_hierarchies)?),
            ("proc" | "sysfs" | "tmpfs" | "devpts" | "mqueue", None) => {
                attach.push(filesystem(kind, destination, options)?);
            }
            _ => {
                return Err(refused(
                    &destination,
                    format!(
                        "file system type `{kind}` is not one of bind, cgroup, devpts, mqueue, proc, sysfs, tmpfs"
                    ),
                ));
            }
        }
    }
    Ok((open, attach))
}

fn refused(subject: impl AsRef<Path>, cause: impl Into<String>) -> StepError {
    StepError::refused("plan mount", subject.as_ref().display(), cause)
}

/// The destination, made absolute and free of `.` and `..`, where it may stand.
fn destination(mount: &Mount) -> Result<PathBuf, StepError> {
    let given = mount.destination();
    let mut clean = PathBuf::from("/");
    for component in given.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                return Err(refused(given, "a destination may not contain `..`"));
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    if clean == Path::new("/") {
        return Err(refused(given, "a mount may not cover the container's root"));
    }
    let below_proc = clean.starts_with("/proc") && clean != Path::new("/proc");
    if below_proc
        && !MOUNTABLE_BELOW_PROC
            .iter()
            .any(|allowed| clean == Path::new(allowed))
    {
        return Err(refused(
            given,
            "mounts below /proc are refused, except over files such as /proc/meminfo",
        ));
    }
    if clean == Path::new("/proc") && mount.typ().as_deref() != Some("proc") {
        return Err(refused(
            given,
            "only a mount of type proc may stand at /proc",
        ));
    }
    Ok(clean)
}

fn bind(
    mount: &Mount,
    destination: PathBuf,
    options: Options,
    recursion: Recursion,
    slot: usize,
) -> Result<(Step, Step), StepError> {
    let source = mount.source().clone().unwrap_or_default();
    if !source.is_absolute() {
        return Err(refused(
            &destination,
            "the source of a bind mount must be an absolute path",
        ));
    }
    if let Some((key, _)) = options.data.first() {
        return Err(refused(
            &destination,
            format!("a bind mount has no option `{key}`"),
        ));
    }
    let Options {
        flags, propagation, ..
    } = options;
    let open = Step::OpenBind {
        slot,
        source,
        recursive: recursion == Recursion::Tree,
    };
    Ok((
        open,
        Step::AttachBind(Bind {
            slot,
            destination,
            flags,
            propagation,
        }),
    ))
}

fn cgroup(
    destination: PathBuf,
    options: Options,
    hierarchies: Option<&[String]>,
) -> Result<Step, StepError> {
    let Some(hierarchies) = hierarchies else {
        return Err(refused(
            &destination,
            "a cgroup mount without a cgroup namespace would show the host's; add the namespace or drop the mount",
        ));
    };
    let mut flags = options.flags;
    if flags.set & libc::MOUNT_ATTR_RDONLY == 0 {
        return Err(refused(
            &destination,
            "a writable cgroup mount is not supported; add the option `ro`",
        ));
    }
    flags.set |= libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC;
    Ok(Step::MountCgroup {
        destination,
        flags,
        hierarchies: hierarchies.to_vec(),
    })
}

fn filesystem(kind: &str, destination: PathBuf, options: Options) -> Result<Step, StepError> {
    let Options {
        flags,
        propagation,
        data,
        ..
    } = options;
    let real_directory = matches!(kind, "proc" | "sysfs");
    let kind = kind.to_owned();
    Ok(Step::Mount(Filesystem {
        kind,
        destination,
        real_directory,
        flags,
        data,
        propagation,
    }))
}

impl Options {
    fn parse(options: &[String], subject: &Path) -> Result<Options, StepError> {
        let mut parsed = Options::default();
        for option in options {
            parsed
                .add(option)
                .map_err(|cause| refused(subject, cause))?;
        }
        Ok(parsed)
    }

    fn add(&mut self, option: &str) -> Result<(), String> {
        match option {
            "bind" => self.bind = Some(Recursion::One),
            "rbind" => self.bind = Some(Recursion::Tree),
            "private" | "rprivate" => self.propagation = Propagation::Private,
            "slave" | "rslave" => self.propagation = Propagation::Slave,
            "unbindable" | "runbindable" => self.propagation = Propagation::Unbindable,
            "shared" | "rshared" => {
                return Err("shared propagation would reach back to the host; use slave".into());
            }
            "defaults" | "async" | "nolazytime" | "nomand" | "loud" | "silent" => {}
            "idmap" | "ridmap" | "tmpcopyup" | "copy-symlink" | "src-nofollow"
            | "dest-nofollow" | "remount" | "rro" | "rrw" | "rnosuid" | "rsuid" | "rnodev"
            | "rdev" | "rnoexec" | "rexec" | "rnosymfollow" | "rsymfollow" | "rnoatime"
            | "ratime" | "rrelatime" | "rnorelatime" | "rstrictatime" | "rnostrictatime"
            | "rnodiratime" | "rdiratime" => {
                return Err(format!("the mount option `{option}` is not supported"));
            }
            other => match flag(other) {
                Some((set, clear)) => self.flags.change(set, clear),
                None => self.data.push(match other.split_once('=') {
                    Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                    None => (other.to_owned(), None),
                }),
            },
        }
        Ok(())
    }
}

/// (bits to set, bits to clear) of a per-mount option. Any atime mode clears the whole atime field first:
/// the kernel refuses half of it.
fn flag(option: &str) -> Option<(u64, u64)> {
    use libc::{
        MOUNT_ATTR__ATIME as ATIME, MOUNT_ATTR_NOATIME, MOUNT_ATTR_NODEV, MOUNT_ATTR_NODIRATIME,
        MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NOSYMFOLLOW, MOUNT_ATTR_RDONLY,
        MOUNT_ATTR_STRICTATIME,
    };
    Some(match option {
        "ro" => (MOUNT_ATTR_RDONLY, 0),
        "rw" => (0, MOUNT_ATTR_RDONLY),
        "nosuid" => (MOUNT_ATTR_NOSUID, 0),
        "suid" => (0, MOUNT_ATTR_NOSUID),
        "nodev" => (MOUNT_ATTR_NODEV, 0),
        "dev" => (0, MOUNT_ATTR_NODEV),
        "noexec" => (MOUNT_ATTR_NOEXEC, 0),
        "exec" => (0, MOUNT_ATTR_NOEXEC),
        "nosymfollow" => (MOUNT_ATTR_NOSYMFOLLOW, 0),
        "symfollow" => (0, MOUNT_ATTR_NOSYMFOLLOW),
        "nodiratime" => (MOUNT_ATTR_NODIRATIME, 0),
        "diratime" => (0, MOUNT_ATTR_NODIRATIME),
        "noatime" => (MOUNT_ATTR_NOATIME, ATIME),
        "strictatime" | "norelatime" => (MOUNT_ATTR_STRICTATIME, ATIME),
        "relatime" | "atime" | "nostrictatime" => (0, ATIME),
        _ => return None,
    })
}

impl MountFlags {
    fn change(&mut self, set: u64, clear: u64) {
        self.set = (self.set & !clear) | set;
        self.clear = (self.clear & !set) | clear;
        // The atime field is cleared as a whole even where a bit of it is set again.
        if clear & libc::MOUNT_ATTR__ATIME != 0 {
            self.clear |= libc::MOUNT_ATTR__ATIME;
        }
    }
}

impl fmt::Display for MountFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let on = [
            (libc::MOUNT_ATTR_RDONLY, "ro"),
            (libc::MOUNT_ATTR_NOSUID, "nosuid"),
            (libc::MOUNT_ATTR_NODEV, "nodev"),
            (libc::MOUNT_ATTR_NOEXEC, "noexec"),
            (libc::MOUNT_ATTR_NOSYMFOLLOW, "nosymfollow"),
            (libc::MOUNT_ATTR_NODIRATIME, "nodiratime"),
            (libc::MOUNT_ATTR_NOATIME, "noatime"),
            (libc::MOUNT_ATTR_STRICTATIME, "strictatime"),
        ];
        let mut names: Vec<&str> = on
            .iter()
            .filter(|(bit, _)| self.set & bit != 0)
            .map(|(_, name)| *name)
            .collect();
        if self.set & libc::MOUNT_ATTR_RDONLY == 0 {
            names.insert(0, "rw");
        }
        f.write_str(&names.join(","))
    }
}

impl Propagation {
    /// The MS_* bit of mount_setattr(2).
    pub fn bit(self) -> u64 {
        match self {
            Propagation::Private => libc::MS_PRIVATE,
            Propagation::Slave => libc::MS_SLAVE,
            Propagation::Unbindable => libc::MS_UNBINDABLE,
        }
    }

    /// `linux.rootfsPropagation`, all eight spellings of the spec, of which the shared ones are refused.
    pub(super) fn of_root(name: Option<&str>) -> Result<Propagation, StepError> {
        match name.unwrap_or("rprivate") {
            "" | "private" | "rprivate" => Ok(Propagation::Private),
            "slave" | "rslave" => Ok(Propagation::Slave),
            "unbindable" | "runbindable" => Ok(Propagation::Unbindable),
            other => Err(StepError::refused(
                "plan root propagation",
                other,
                "only private, slave and unbindable (and their r-forms) are supported",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(destination: &str, kind: &str, options: &[&str]) -> Mount {
        let mut mount = Mount::default();
        mount.set_destination(destination.into());
        mount.set_typ(Some(kind.into()));
        mount.set_source(Some("/source".into()));
        mount.set_options(Some(
            options.iter().map(|option| (*option).to_owned()).collect(),
        ));
        mount
    }

    fn refusal(destination: &str, kind: &str, options: &[&str]) -> String {
        steps(&[mount(destination, kind, options)], None)
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn mounts_that_could_fake_proc_are_refused() {
        assert!(refusal("/proc", "tmpfs", &[]).contains("only a mount of type proc"));
        assert!(refusal("/proc/sys", "tmpfs", &[]).contains("below /proc"));
        assert!(refusal("//proc/./self/attr", "bind", &["rbind"]).contains("below /proc"));
        assert!(refusal("/x/../proc", "tmpfs", &[]).contains(".."));
        assert!(refusal("/", "tmpfs", &[]).contains("root"));
        assert!(steps(&[mount("/proc/meminfo", "bind", &["bind"])], None).is_ok());
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name() {
        for option in ["idmap", "rro", "tmpcopyup", "shared", "remount"] {
            assert!(
                refusal("/x", "tmpfs", &[option]).contains(option),
                "{option}"
            );
        }
        assert!(refusal("/x", "nfs", &[]).contains("`nfs`"));
        assert!(refusal("/x", "bind", &["bind", "size=4"]).contains("`size`"));
        assert!(refusal("/sys/fs/cgroup", "cgroup", &["ro"]).contains("cgroup namespace"));
    }

    #[test]
    fn later_options_win_and_atime_is_cleared_as_a_whole() {
        let parse = |options: &[&str]| {
            let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
            Options::parse(&options, Path::new("/x")).unwrap().flags
        };
        assert_eq!(parse(&["ro", "rw"]).to_string(), "rw");
        assert_eq!(parse(&["rw", "ro", "nosuid"]).to_string(), "ro,nosuid");
        let atime = parse(&["noatime", "strictatime"]);
        assert_eq!(atime.to_string(), "rw,strictatime");
        assert_eq!(atime.clear, libc::MOUNT_ATTR__ATIME);
    }
}
