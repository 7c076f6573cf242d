//! The mounts of a spec: what is opened while the host's tree is in sight, and what is attached below the root.
//!
//! ```text
//!   before   the parent, with the host's rights: sources of a container with a user namespace, id-mapped mounts
//!   open     init, before the host's tree goes: sources, and file systems whose parameters name host paths
//!   attach   init, inside the root, in the spec's order
//! ```
//! Source: runtime-spec config.md "Mounts", mount(8), user_namespaces(7). A mount that may not be made in a user
//! namespace, because the namespace that it shows is the host's, is replaced by a clone of the host's own mount.

mod flags;
mod idmap;
mod options;

use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::{Linux, LinuxNamespaceType, Mount};

use super::facts::HostFacts;
use super::namespaces::Namespaces;
use super::step::{Bind, CgroupView, Filesystem, Namespace, Remount, Source, Step};
use super::user::outside;
use crate::StepError;

pub use flags::{MountFlags, Propagation, Spread};
pub use idmap::{Ids, MountMap};
pub use options::mount_options;
use options::{Options, Recursion};

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

/// File systems that show the kernel's state for the namespaces of whoever mounts them, and need no path.
const PLAIN: [&str; 5] = ["proc", "sysfs", "tmpfs", "devpts", "mqueue"];

/// What the mounts depend on beside themselves.
#[derive(Debug)]
pub(super) struct Around {
    /// Whether the container lives in a user namespace that is not the initial one: its own, or its parent's.
    pub(super) user: bool,
    /// Whether the parent opens what belongs to the host: it may do more than init, or sees more.
    pub(super) parent_opens: bool,
    /// Whether the kernel lacks the mount calls of Linux 5.12.
    old_calls: bool,
    /// Whether this process may open mounts.
    privileged: bool,
    /// Whether this process may make device nodes.
    pub(super) makes_nodes: bool,
    /// The map of that user namespace.
    pub(super) ids: Option<Ids>,
    /// The namespaces that are not the host's.
    own: Vec<LinuxNamespaceType>,
    own_cgroup: bool,
    hierarchies: Vec<String>,
}

/// The steps of all mounts.
#[derive(Debug, Default)]
pub(super) struct Mounts {
    /// Walked by the parent.
    pub(super) before: Vec<Step>,
    /// Walked by init before the pivot.
    pub(super) open: Vec<Step>,
    /// Walked by init after it.
    pub(super) attach: Vec<Step>,
    /// Whether a mount must be made read-only once all that stands on it is there.
    pub(super) seal: bool,
    pub(super) warnings: Vec<String>,
    /// Binds and file systems that are opened early, counted.
    slots: usize,
    /// Whether one mount has to be opened early. Then all are, in the spec's order: mountinfo lists mounts in the
    /// order in which they were made, and callers look there whether they are in the spec's.
    early: bool,
}

impl Around {
    pub(super) fn of(linux: &Linux, host: &HostFacts, namespaces: &Namespaces) -> Around {
        let own: Vec<_> = linux
            .namespaces()
            .iter()
            .flatten()
            .map(|namespace| namespace.typ())
            .collect();
        let new = namespaces.user.as_ref().map(|user| Ids::Ranges {
            uids: user.uids.clone(),
            gids: user.gids.clone(),
        });
        let joined = namespaces
            .join
            .iter()
            .find(|joined| joined.namespace == Namespace::User);
        Around {
            user: namespaces.other_user() || !host.initial_user_namespace,
            parent_opens: namespaces.parent_opens(host),
            old_calls: host.old_mount_calls,
            privileged: host.privileged,
            makes_nodes: host.initial_user_namespace && host.privileged,
            ids: new.or(joined.map(|joined| Ids::Namespace(joined.path.clone()))),
            own_cgroup: own.contains(&LinuxNamespaceType::Cgroup),
            own,
            hierarchies: host.v1_hierarchies.clone(),
        }
    }

    /// The host's own mount of a kind that a user namespace may not mount, as it does not own what it would show.
    fn borrowed(&self, kind: &str) -> Option<&'static str> {
        let (needed, host) = match kind {
            "proc" => (LinuxNamespaceType::Pid, "/proc"),
            "sysfs" => (LinuxNamespaceType::Network, "/sys"),
            "mqueue" => (LinuxNamespaceType::Ipc, "/dev/mqueue"),
            _ => return None,
        };
        (self.user && !self.own.contains(&needed)).then_some(host)
    }

    fn maps_gid(&self, gid: &str) -> bool {
        let (Some(Ids::Ranges { gids, .. }), Ok(gid)) = (&self.ids, gid.parse::<u32>()) else {
            return true;
        };
        outside(gids, gid).is_some()
    }
}

impl Mounts {
    pub(super) fn of(mounts: &[Mount], around: &Around) -> Result<Mounts, StepError> {
        let mut planned = Mounts {
            early: mounts.iter().any(|mount| opened_early(mount, around)),
            ..Mounts::default()
        };
        for mount in mounts {
            let destination = destination(mount.destination());
            let add = planned.add(mount, &destination, around, mounts);
            add.map_err(|cause| {
                StepError::refused("plan mount", mount.destination().display(), cause)
            })?;
        }
        Ok(planned)
    }

    fn add(
        &mut self,
        mount: &Mount,
        destination: &Path,
        around: &Around,
        all: &[Mount],
    ) -> Result<(), String> {
        let options = Options::parse(mount.options().as_deref().unwrap_or_default());
        let kind = mount.typ().as_deref().unwrap_or("none");
        check_destination(destination, kind, &options)?;
        if options.remount {
            self.attach.push(Step::Remount(Remount {
                destination: destination.to_owned(),
                flags: options.flags,
                tree: options.tree,
                data: options.data,
            }));
            return Ok(());
        }
        if let Some(recursion) = is_bind(kind, &options) {
            let source = mount.source().clone().unwrap_or_default();
            if !source.is_absolute() {
                return Err("the source of a bind mount must be an absolute path, or one relative to a bundle".into());
            }
            self.ignore(destination, "a bind mount", &options);
            let map = idmap::of(mount, options.map.as_ref(), around.ids.as_ref())?;
            if map.is_some() && around.old_calls {
                return Err("an id-mapped mount needs Linux 5.12 or newer; give the files to the ids themselves".into());
            }
            self.bind(source, destination, options, recursion, map, around);
            return Ok(());
        }
        if mount.uid_mappings().is_some() || mount.gid_mappings().is_some() || options.map.is_some()
        {
            return Err("only a bind mount can be id-mapped".into());
        }
        match kind {
            "none" => return Err("a mount needs a type, or the option `bind` or `rbind`".into()),
            "cgroup" => self.cgroup(destination, &options, around),
            _ if around.borrowed(kind).is_some() => {
                self.borrow(kind, destination, options, around, all);
            }
            _ => self.filesystem(kind, mount, destination, options, around)?,
        }
        Ok(())
    }

    fn bind(
        &mut self,
        path: PathBuf,
        destination: &Path,
        options: Options,
        recursion: Recursion,
        map: Option<MountMap>,
        around: &Around,
    ) {
        let early = around.parent_opens || (map.is_some() && around.privileged);
        let source = Source {
            slot: self.slot(),
            path,
            recursive: recursion == Recursion::Tree,
            follow: !options.no_follow_source,
            copy_symlink: options.copy_symlink,
            map,
        };
        let slot = source.slot;
        let list = if early {
            &mut self.before
        } else {
            &mut self.open
        };
        list.push(Step::OpenBind(source));
        let recursive = Spread {
            recursive: true,
            ..Spread::default()
        };
        self.attach.push(Step::AttachBind(Bind {
            slot,
            destination: destination.to_owned(),
            flags: options.flags,
            tree: options.tree,
            propagation: options.propagation.unwrap_or(recursive),
            follow: !options.no_follow_destination,
        }));
    }

    /// As a clone of the host's: read-only with all below it if it is sysfs, of which the rest is the host's.
    fn borrow(
        &mut self,
        kind: &str,
        destination: &Path,
        options: Options,
        around: &Around,
        all: &[Mount],
    ) {
        let host = around.borrowed(kind).unwrap_or("/");
        let mut tree = options.tree;
        if kind == "sysfs" {
            tree.change(libc::MOUNT_ATTR_RDONLY, 0);
        }
        let options = Options {
            tree,
            data: Vec::new(),
            ..options
        };
        self.bind(
            host.into(),
            destination,
            options,
            Recursion::Tree,
            None,
            around,
        );
        // The host's cgroups came along (CVE-2023-25809).
        let cgroups = destination.join("fs/cgroup");
        let replaced = |mount: &Mount| self::destination(mount.destination()) == cgroups;
        if kind == "sysfs" && !all.iter().any(replaced) {
            self.attach.push(Step::Hide(cgroups));
        }
    }

    fn cgroup(&mut self, destination: &Path, options: &Options, around: &Around) {
        let mut flags = options.flags;
        flags.change(
            libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC,
            0,
        );
        let hierarchies = around.hierarchies.clone();
        if !around.own_cgroup {
            // Without a namespace a new mount would show the host's groups: clones of the container's own instead.
            self.open.push(Step::OpenCgroups(hierarchies.clone()));
        }
        let one_new_mount = around.own_cgroup && hierarchies.is_empty();
        if !one_new_mount {
            self.ignore(destination, "this host's view of cgroups", options);
        }
        self.attach.push(Step::MountCgroup(CgroupView {
            destination: destination.to_owned(),
            flags,
            hierarchies,
            cloned: !around.own_cgroup,
            data: match one_new_mount {
                true => options.data.clone(),
                false => Vec::new(),
            },
        }));
    }

    fn ignore(&mut self, destination: &Path, whose: &str, options: &Options) {
        let at = destination.display();
        let warning = |name: &str| format!("mount {at}: {whose} has no option `{name}`");
        self.warnings.extend(options.foreign().map(warning));
    }

    fn filesystem(
        &mut self,
        kind: &str,
        mount: &Mount,
        destination: &Path,
        mut options: Options,
        around: &Around,
    ) -> Result<(), String> {
        if options.copy_up && (kind != "tmpfs" || destination == Path::new("/")) {
            return Err("tmpcopyup is for a tmpfs below the root".into());
        }
        if kind == "devpts" {
            // The kernel refuses a group that the user namespace does not have.
            options.data.retain(|(name, value)| {
                name != "gid" || value.as_deref().is_none_or(|gid| around.maps_gid(gid))
            });
        }
        // The container may have nothing to write on it, but its mount points and devices must be made.
        let sealed = kind == "tmpfs" && options.flags.read_only();
        self.seal |= sealed;
        let source = mount
            .source()
            .as_ref()
            .map(|source| source.to_string_lossy());
        let filesystem = Filesystem {
            kind: kind.to_owned(),
            source: source
                .map(|source| source.into_owned())
                .filter(|source| !source.is_empty()),
            destination: destination.to_owned(),
            real_directory: matches!(kind, "proc" | "sysfs"),
            flags: if sealed {
                options.flags.without(libc::MOUNT_ATTR_RDONLY)
            } else {
                options.flags
            },
            data: options.data,
            label: None,
            propagation: options.propagation.unwrap_or_default(),
            copy_up: options.copy_up,
            sealed,
        };
        if self.early {
            let slot = self.slot();
            let opened = filesystem.clone();
            self.open.push(Step::OpenFilesystem {
                slot,
                filesystem: opened,
            });
            self.attach
                .push(Step::AttachFilesystem { slot, filesystem });
        } else {
            self.attach.push(Step::Mount(filesystem));
        }
        Ok(())
    }

    fn slot(&mut self) -> usize {
        self.slots += 1;
        self.slots - 1
    }
}

/// Binds come from the host, and other file systems may name paths of it. In a user namespace the kernel lets procfs
/// and sysfs be mounted only while another one is in sight.
fn opened_early(mount: &Mount, around: &Around) -> bool {
    let kind = mount.typ().as_deref().unwrap_or("none");
    let of_host = !PLAIN.contains(&kind) && kind != "cgroup";
    is_bind_mount(mount) || of_host || (around.user && matches!(kind, "proc" | "sysfs"))
}

fn is_bind(kind: &str, options: &Options) -> Option<Recursion> {
    options.bind.or((kind == "bind").then_some(Recursion::One))
}

/// Whether its source is a path.
pub(super) fn is_bind_mount(mount: &Mount) -> bool {
    let options = Options::parse(mount.options().as_deref().unwrap_or_default());
    is_bind(mount.typ().as_deref().unwrap_or("none"), &options).is_some()
}

/// Absolute, and free of `.` and `..`: a relative one counts from the root, as the OCI text says.
fn destination(given: &Path) -> PathBuf {
    let mut clean = PathBuf::from("/");
    for component in given.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => drop(clean.pop()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    clean
}

/// Where a mount may stand. What a bind at /proc really is, init sees.
fn check_destination(destination: &Path, kind: &str, options: &Options) -> Result<(), String> {
    let proc = Path::new("/proc");
    if !destination.starts_with(proc) {
        return Ok(());
    }
    if destination == proc {
        let real = kind == "proc" || is_bind(kind, options).is_some() || options.remount;
        return match real {
            true => Ok(()),
            false => {
                Err("only a mount of type proc, or a bind of a procfs, may stand at /proc".into())
            }
        };
    }
    let allowed = MOUNTABLE_BELOW_PROC
        .iter()
        .any(|allowed| destination == Path::new(allowed));
    match allowed {
        true => Ok(()),
        false => {
            Err("mounts below /proc are refused, except over files such as /proc/meminfo".into())
        }
    }
}

#[cfg(test)]
mod tests;
