//! The closed vocabulary of steps that init can do.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::attribute::Attribute;
use super::hook::{Hook, HookKind};
use super::label::LabelKind;
use super::mounts::{MountFlags, MountMap, Spread};
use crate::seccomp::Filter;

/// A namespace that is made or joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Namespace {
    /// mount_namespaces(7)
    Mount,
    /// pid_namespaces(7)
    Pid,
    /// uts_namespaces(7)
    Uts,
    /// ipc_namespaces(7)
    Ipc,
    /// network_namespaces(7)
    Network,
    /// cgroup_namespaces(7)
    Cgroup,
    /// user_namespaces(7)
    User,
    /// time_namespaces(7)
    Time,
}

/// A namespace to join.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joined {
    /// Its type, which the kernel verifies.
    pub namespace: Namespace,
    /// Its path on the host.
    pub path: PathBuf,
    /// Whether it must be another than the one this process is in, the host's: a sysctl would change that one.
    #[serde(default)]
    pub foreign: bool,
}

/// The clocks of a new time namespace: name, seconds, nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimeOffsets(pub Vec<(String, i64, u32)>);

/// One thing that init does. The order is the planner's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// PR_SET_DUMPABLE 0 until execve: no container process may ptrace init or open its /proc/PID/fd.
    Undumpable,
    /// Wait for the parent's word, and be in the cgroup: by birth, by the parent, or by moving into it.
    EnterCgroup,
    /// Tell the parent that the namespaces are there and wait until it has run what belongs there: hooks of the
    /// runtime's namespace, network devices.
    AwaitEnvironment,
    /// Open the host's /proc, verified, for the steps that write there.
    OpenProc,
    /// Write oom_score_adj of this process.
    OomScoreAdj(i32),
    /// setgroups(2) to none, while the right to it is there: the user namespace that is joined next may forbid it.
    LeaveGroups,
    /// setns(2) to namespaces, in this order, after all of them were opened and proven.
    Join(Vec<Joined>),
    /// unshare(CLONE_NEWTIME), with the clocks set before anybody is in it.
    NewTimeNamespace(TimeOffsets),
    /// Become root of the user namespace, or whoever is mapped first in it.
    BecomeBuilder(Groups),
    /// unshare(CLONE_NEWCGROUP), once init is in its group: that group becomes the root.
    NewCgroupNamespace,
    /// Leave the agent's session keyring.
    NewSessionKeyring,
    /// Run hooks, in this process' namespaces.
    Hooks {
        /// Which.
        kind: HookKind,
        /// In their order.
        hooks: Vec<Hook>,
    },
    /// A security label for what this process makes or executes next.
    Label {
        /// Whose, and for what.
        kind: LabelKind,
        /// The label.
        text: String,
    },
    /// Write a kernel parameter of a namespace of the container.
    Sysctl {
        /// Below /proc/sys.
        path: PathBuf,
        /// Written as it is.
        value: String,
    },
    /// Set `lo` up in a new network namespace.
    LoopbackUp,
    /// sethostname(2)
    Hostname(String),
    /// setdomainname(2)
    Domainname(String),
    /// Clone a host path as a detached mount.
    OpenBind(Source),
    /// Make a file system while the host's paths, which its parameters may name, are in sight.
    OpenFilesystem {
        /// Which [`Step::AttachFilesystem`] takes it.
        slot: usize,
        /// What to make.
        filesystem: Filesystem,
    },
    /// Clone the container's own cgroup of each hierarchy (`cpu,cpuacct`, `name=systemd`), or of v2 if none is listed.
    OpenCgroups(Vec<String>),
    /// Make device nodes with the host's rights, on a file system of their own, for [`Step::BindDevice`].
    MakeDevices(Vec<DeviceNode>),
    /// Clone a device node of the host, verified, for [`Step::BindDevice`].
    OpenDevice(DeviceNode),
    /// Clone the host's /dev/null, verified, for masking files.
    OpenNull,
    /// Cut the mount propagation between this mount namespace and the host's.
    IsolateMounts,
    /// Attach the detached root mount in the host's tree: at its own path, where hooks look for it, until the root is
    /// changed; or for good, where there is no mount namespace to attach it in instead.
    AttachRoot {
        /// The path on the host.
        path: PathBuf,
        /// Propagation of the container's root.
        propagation: Spread,
        /// How the root will be changed.
        way: RootChange,
    },
    /// Attach the detached root mount unless it is attached already, pivot_root(2) to it, detach the host's tree.
    PivotRoot {
        /// Propagation of the container's root.
        propagation: Spread,
        /// How the root is changed.
        way: RootChange,
    },
    /// umask(0), so that modes of what follows are exact.
    ClearUmask,
    /// Mount a new file system.
    Mount(Filesystem),
    /// Attach what [`Step::OpenFilesystem`] made.
    AttachFilesystem {
        /// Which.
        slot: usize,
        /// What it is.
        filesystem: Filesystem,
    },
    /// The container's view of its cgroups.
    MountCgroup(CgroupView),
    /// Change the flags of a mount that is there.
    Remount(Remount),
    /// Attach what [`Step::OpenBind`] cloned.
    AttachBind(Bind),
    /// mknod(2) inside the container's root.
    Device(DeviceNode),
    /// Bind a node that was made or opened with the host's rights: a user namespace may make none.
    BindDevice(DeviceNode),
    /// Prove that a device is there: /dev is the host's, and nothing is made in it.
    FindDevice(DeviceNode),
    /// Require that /dev is a real directory and not a symlink: nodes are about to be made in the image's own.
    RealDev,
    /// symlink(2) inside the container's root; what is in its place goes.
    Symlink {
        /// The link.
        path: PathBuf,
        /// Its text.
        target: String,
    },
    /// Open the container's own null device in the place of the host's, where standard input, output or error is it.
    OwnNull,
    /// Make a terminal in the container's devpts, give its master to the parent, and make it the controlling
    /// terminal and standard input, output and error.
    Terminal(Terminal),
    /// exec: enter these namespaces of the container, all at once, by its first process's pidfd.
    JoinContainer(Vec<Namespace>),
    /// exec: what is `/` after the container's mount namespace was joined is the container's root.
    OpenRoot,
    /// exec: chroot(2) to the root of the container's first process, whose mount namespace is the host's.
    EnterRoot,
    /// exec: chdir(2) inside the root to a directory that must be there.
    EnterDirectory(PathBuf),
    /// sd_listen_fds(3): tell the program of the descriptors that it is given from 3 on.
    Listen {
        /// How many.
        count: u32,
        /// LISTEN_FDNAMES
        names: Option<String>,
    },
    /// Make a path and the mounts below it read-only; none there: nothing.
    ReadOnlyPath(PathBuf),
    /// Hide a path; none there: nothing.
    MaskPath(PathBuf),
    /// Hide a directory of the host's that came along with a clone; none there: nothing.
    Hide(PathBuf),
    /// Mounts that had to be written to until now become read-only.
    Seal,
    /// The propagation of the root that would have been in the way until now.
    RootPropagation(Spread),
    /// The root mount becomes read-only; the mounts on it keep their own flags.
    ReadOnlyRoot,
    /// Scheduler, priorities, affinity, personality.
    Attribute(Attribute),
    /// prlimit(2): raise the hard limit where it is lower, and only that one, while the right to it is there.
    MakeRoom(Rlimit),
    /// setrlimit(2)
    Rlimit(Rlimit),
    /// chdir(2) inside the root, the directory made if missing.
    WorkingDirectory(PathBuf),
    /// Take HOME from the container's /etc/passwd.
    Home {
        /// Whose.
        uid: u32,
    },
    /// PR_CAPBSET_DROP of all that is not listed.
    BoundCapabilities(Vec<String>),
    /// The stdio pipes' owner, then groups, group and user.
    User {
        /// User id.
        uid: u32,
        /// Group id.
        gid: u32,
        /// Supplementary groups.
        groups: Groups,
    },
    /// umask(2) of the program.
    Umask(u32),
    /// Find args[0] as the program's user would, so that a missing one fails the creation.
    FindProgram {
        /// args[0]
        name: String,
        /// PATH of the program.
        path: String,
    },
    /// PR_SET_NO_NEW_PRIVS
    NoNewPrivileges,
    /// capset(2) and the ambient set.
    Capabilities(CapabilitySets),
    /// seccomp(2)
    Seccomp(Filter),
    /// Tell the parent that all is ready, let go of whatever built the container, and wait for `start`.
    AwaitStart,
    /// Close what is open above 2, execve(2).
    Execute {
        /// The arguments.
        args: Vec<String>,
        /// The environment.
        environment: Environment,
    },
}

/// How init leaves the host's tree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RootChange {
    /// pivot_root(2).
    #[default]
    Pivot,
    /// chroot(2), for a host that runs from its initial ramfs; every mount of the host is detached first.
    Chroot,
    /// chroot(2) alone: the mount namespace is the host's, whose mounts stay as they are.
    Stay,
}

/// The source of a bind mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// Which [`Step::AttachBind`] takes it.
    pub slot: usize,
    /// The path on the host.
    pub path: PathBuf,
    /// Whether the mounts below come with it.
    pub recursive: bool,
    /// Whether a symlink at its end is followed.
    pub follow: bool,
    /// Whether a symlink at its end is copied and not mounted.
    pub copy_symlink: bool,
    /// The map of an id-mapped mount.
    pub map: Option<MountMap>,
}

/// A new file system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filesystem {
    /// Its type, as in /proc/filesystems.
    pub kind: String,
    /// Its device, or what mountinfo shows in its place.
    pub source: Option<String>,
    /// Where, inside the container's root.
    pub destination: PathBuf,
    /// Whether the destination may not be a symlink (proc and sysfs: what is written there later is security).
    pub real_directory: bool,
    /// Flags of the mount.
    pub flags: MountFlags,
    /// Parameters of the file system.
    pub data: Vec<(String, Option<String>)>,
    /// The SELinux label of its top, where the file system takes none as a whole.
    #[serde(default)]
    pub label: Option<String>,
    /// Propagation of the mount.
    pub propagation: Spread,
    /// Whether what the image has there is copied onto it.
    pub copy_up: bool,
    /// Whether [`Step::Seal`] makes it read-only.
    pub sealed: bool,
}

/// Supplementary groups.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Groups {
    /// Exactly these.
    Only(Vec<u32>),
    /// Those of the process, whichever they are.
    Kept,
}

/// The container's view of its cgroups.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupView {
    /// Where.
    pub destination: PathBuf,
    /// Flags of the mounts.
    pub flags: MountFlags,
    /// v1: the controllers of each hierarchy (`cpu,cpuacct`, `name=systemd`). Empty: v2.
    pub hierarchies: Vec<String>,
    /// Whether it is built of what [`Step::OpenCgroups`] cloned: there is no cgroup namespace.
    pub cloned: bool,
    /// Options of the file system, for a new mount of v2; the kernel ignores those that it knows outside of the initial namespace.
    pub data: Vec<(String, Option<String>)>,
}

/// A bind mount whose source is cloned already.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bind {
    /// Which [`Step::OpenBind`] cloned it.
    pub slot: usize,
    /// Where, inside the container's root; made as a file or directory like the source.
    pub destination: PathBuf,
    /// Flags of the mount, after `tree`.
    pub flags: MountFlags,
    /// Flags of the mount and of those below it.
    pub tree: MountFlags,
    /// Propagation of the mount.
    pub propagation: Spread,
    /// Whether a symlink at the destination is followed.
    pub follow: bool,
}

/// New flags for a mount that is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remount {
    /// Where, inside the container's root.
    pub destination: PathBuf,
    /// Flags of the mount, after `tree`.
    pub flags: MountFlags,
    /// Flags of the mount and of those below it.
    pub tree: MountFlags,
    /// Parameters of its file system.
    pub data: Vec<(String, Option<String>)>,
}

/// Type of a device node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceKind {
    /// S_IFCHR
    Char,
    /// S_IFBLK
    Block,
    /// S_IFIFO
    Fifo,
}

/// A device node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceNode {
    /// Where, inside the container's root.
    pub path: PathBuf,
    /// Its type.
    pub kind: DeviceKind,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// A terminal of the program's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terminal {
    /// Who owns it.
    pub owner: u32,
    /// Rows and columns, if said.
    pub size: Option<(u16, u16)>,
    /// Whether it is /dev/console too.
    pub console: bool,
}

/// One resource limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    /// `RLIMIT_NOFILE`, ...
    pub name: String,
    /// Soft limit; u64::MAX is infinity.
    pub soft: u64,
    /// Hard limit.
    pub hard: u64,
}

/// The four sets of capset(2) and prctl(2); the bounding set is a step of its own, which comes earlier.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapabilitySets {
    /// Effective.
    pub effective: Vec<String>,
    /// Permitted.
    pub permitted: Vec<String>,
    /// Inheritable.
    pub inheritable: Vec<String>,
    /// Ambient.
    pub ambient: Vec<String>,
}

/// `NAME=value` entries. Values can be secrets, so `Debug` and the plan's text show names only.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Environment(pub Vec<String>);

impl Environment {
    /// The names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|entry| {
            entry
                .split_once('=')
                .map_or(entry.as_str(), |(name, _)| name)
        })
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.names()).finish()
    }
}
