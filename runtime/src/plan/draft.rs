//! The planner: one pass from a spec to the ordered steps.
//!
//! The order is security, and each block below says why it stands where it does.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{Linux, LinuxDevice, LinuxDeviceType, LinuxNamespaceType, Process, Spec};

use super::facts::HostFacts;
use super::mounts::{self, Propagation};
use super::step::{CapabilitySets, DeviceKind, DeviceNode, Environment, Namespace, Rlimit, Step};
use super::{Plan, capabilities, refusals};
use crate::{StepError, seccomp};

/// What a program without PATH gets to be looked up in, as login(1) sets it for root.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// HOST_NAME_MAX of Linux.
const HOSTNAME_MAX: usize = 64;

impl Plan {
    /// Plans a container. Every rule of the spec is checked here, before anything is touched.
    pub fn of(spec: &Spec, host: &HostFacts) -> Result<Plan, StepError> {
        refusals::check(spec)?;
        let linux = spec.linux().as_ref().ok_or_else(|| missing("linux"))?;
        let process = spec.process().as_ref().ok_or_else(|| missing("process"))?;
        let namespaces = Namespaces::of(linux)?;
        let mut plan = Plan {
            cgroup: cgroup(linux)?,
            resources: linux.resources().clone(),
            clone: namespaces.clone.clone(),
            join_pid: namespaces.join_pid.clone(),
            steps: Vec::new(),
            warnings: Vec::new(),
        };
        let view = namespaces
            .new_cgroup
            .then_some(host.v1_hierarchies.as_slice());
        let (open, attach) = mounts::steps(spec.mounts().as_deref().unwrap_or_default(), view)?;
        plan.enter(process, &namespaces);
        plan.names(spec, &namespaces)?;
        plan.root(linux, open)?;
        plan.furnish(linux, attach)?;
        plan.settle(spec, process)?;
        plan.become_user(linux, process, host)?;
        Ok(plan)
    }

    /// The host's /proc is still in sight, and the host's paths still mean what they say.
    fn enter(&mut self, process: &Process, namespaces: &Namespaces) {
        // First: from here on no process of a joined pid namespace can look into init (CVE-2016-9962).
        self.steps.push(Step::Undumpable);
        // Before anything allocates on the container's behalf, so that it is charged to the container.
        self.steps.push(Step::AwaitCgroup);
        // The host's proc file: inside the root, /proc is what the image says.
        self.steps
            .extend(process.oom_score_adj().map(Step::OomScoreAdj));
        let join = |(namespace, path): &(Namespace, PathBuf)| Step::Join {
            namespace: *namespace,
            path: path.clone(),
        };
        self.steps.extend(namespaces.join.iter().map(join));
        // After the group was entered: that group becomes the root of the view.
        self.steps
            .extend(namespaces.new_cgroup.then_some(Step::NewCgroupNamespace));
        self.steps.push(Step::NewSessionKeyring);
    }

    fn names(&mut self, spec: &Spec, namespaces: &Namespaces) -> Result<(), StepError> {
        let own = namespaces.clone.contains(&Namespace::Network);
        self.steps.extend(own.then_some(Step::LoopbackUp));
        let named = [(spec.hostname(), true), (spec.domainname(), false)];
        for (name, is_host) in named {
            let Some(name) = name.as_ref().filter(|name| !name.is_empty()) else {
                continue;
            };
            if !namespaces.clone.contains(&Namespace::Uts) {
                return Err(StepError::refused(
                    "plan hostname",
                    name,
                    "it needs a new uts namespace",
                ));
            }
            if name.len() > HOSTNAME_MAX {
                return Err(StepError::refused(
                    "plan hostname",
                    name,
                    "it is longer than 64 bytes",
                ));
            }
            let step = if is_host {
                Step::Hostname
            } else {
                Step::Domainname
            };
            self.steps.push(step(name.clone()));
        }
        Ok(())
    }

    /// Everything that comes from the host is opened before the container's files can be touched, then the
    /// host's tree goes away altogether: what follows cannot resolve to a host path, whatever the image holds.
    fn root(&mut self, linux: &Linux, open: Vec<Step>) -> Result<(), StepError> {
        let propagation = Propagation::of_root(linux.rootfs_propagation().as_deref())?;
        self.steps.push(Step::OpenNull);
        self.steps.extend(open);
        self.steps.push(Step::IsolateMounts);
        self.steps.push(Step::PivotRoot { propagation });
        self.steps.push(Step::ClearUmask);
        Ok(())
    }

    fn furnish(&mut self, linux: &Linux, attach: Vec<Step>) -> Result<(), StepError> {
        // Only a /dev that is ours is filled: into an image's own directory nothing is written.
        let own_dev = attach
            .iter()
            .any(|step| matches!(step, Step::Mount(fs) if fs.kind == "tmpfs" && fs.destination == Path::new("/dev")));
        self.steps.extend(attach);
        if own_dev {
            self.steps.extend(default_devices());
        }
        for device in linux.devices().iter().flatten() {
            self.steps.push(Step::Device(node(device)?));
        }
        if own_dev {
            self.steps.extend(default_links());
        }
        // After the mounts that they hide or protect. Masks last: a read-only bind on top would uncover them.
        for path in linux.readonly_paths().iter().flatten() {
            self.steps.push(Step::ReadOnlyPath(absolute(
                "read-only path",
                Path::new(path),
            )?));
        }
        for path in linux.masked_paths().iter().flatten() {
            self.steps
                .push(Step::MaskPath(absolute("masked path", Path::new(path))?));
        }
        Ok(())
    }

    /// The last that writes to the root, after which it may become read-only.
    fn settle(&mut self, spec: &Spec, process: &Process) -> Result<(), StepError> {
        self.steps.push(Step::WorkingDirectory(absolute(
            "working directory",
            process.cwd(),
        )?));
        let read_only = spec.root().as_ref().and_then(|root| root.readonly()) == Some(true);
        self.steps.extend(read_only.then_some(Step::ReadOnlyRoot));
        Ok(())
    }

    fn become_user(
        &mut self,
        linux: &Linux,
        process: &Process,
        host: &HostFacts,
    ) -> Result<(), StepError> {
        let (bounding, sets, warnings) = capabilities::sets(process.capabilities().as_ref(), host)?;
        let program = Program::of(process)?;
        let user = process.user();
        self.warnings = warnings;
        self.steps
            .extend(program.needs_home.then_some(Step::Home { uid: user.uid() }));
        self.steps.extend(rlimits(process)?);
        // Needs CAP_SETPCAP in force, which a change of user takes away.
        self.steps.push(Step::BoundCapabilities(bounding));
        let groups = user.additional_gids().clone().unwrap_or_default();
        self.steps.push(Step::User {
            uid: user.uid(),
            gid: user.gid(),
            groups,
        });
        self.steps.push(Step::Umask(umask(user.umask())?));
        // As that user, so that permission is judged as execve will.
        self.steps.push(Step::FindProgram {
            name: program.args[0].clone(),
            path: program.path.clone(),
        });
        self.lock(linux, process, sets)?;
        self.steps.push(Step::Execute {
            args: program.args,
            environment: program.environment,
        });
        Ok(())
    }

    /// The last powers go. Without no_new_privs a filter needs CAP_SYS_ADMIN, so it comes before the
    /// capabilities go; with it, the filter comes last, so that it need not allow what only init does.
    fn lock(
        &mut self,
        linux: &Linux,
        process: &Process,
        sets: CapabilitySets,
    ) -> Result<(), StepError> {
        let filter = linux
            .seccomp()
            .as_ref()
            .map(seccomp::compile)
            .transpose()?
            .map(Step::Seccomp);
        if process.no_new_privileges() == Some(true) {
            self.steps.extend([
                Step::Capabilities(sets),
                Step::NoNewPrivileges,
                Step::AwaitStart,
            ]);
            self.steps.extend(filter);
        } else {
            self.steps.extend(filter);
            self.steps
                .extend([Step::Capabilities(sets), Step::AwaitStart]);
        }
        Ok(())
    }
}

/// The namespaces of a spec, sorted by how they come to be.
#[derive(Debug, Default)]
struct Namespaces {
    clone: Vec<Namespace>,
    new_cgroup: bool,
    join_pid: Option<String>,
    join: Vec<(Namespace, PathBuf)>,
}

impl Namespaces {
    fn of(linux: &Linux) -> Result<Namespaces, StepError> {
        let mut sorted = Namespaces::default();
        let mut seen = Vec::new();
        for namespace in linux.namespaces().iter().flatten() {
            let kind = kind(namespace.typ())?;
            if seen.contains(&kind) {
                return Err(StepError::refused(
                    "plan namespace",
                    kind,
                    "it is listed twice",
                ));
            }
            seen.push(kind);
            match namespace
                .path()
                .as_ref()
                .filter(|path| !path.as_os_str().is_empty())
            {
                Some(path) => sorted.join(kind, path)?,
                None if kind == Namespace::Cgroup => sorted.new_cgroup = true,
                None => sorted.clone.push(kind),
            }
        }
        if !sorted.clone.contains(&Namespace::Mount) {
            return Err(StepError::refused(
                "plan namespace",
                Namespace::Mount,
                "a container needs a new one",
            ));
        }
        Ok(sorted)
    }

    fn join(&mut self, kind: Namespace, path: &Path) -> Result<(), StepError> {
        if !path.is_absolute() {
            return Err(StepError::refused(
                "plan namespace",
                path.display(),
                "its path must be absolute",
            ));
        }
        match kind {
            Namespace::Mount => {
                return Err(StepError::refused(
                    "plan namespace",
                    path.display(),
                    "a mount namespace is never joined",
                ));
            }
            Namespace::Pid => self.join_pid = Some(path.to_string_lossy().into_owned()),
            other => self.join.push((other, path.to_owned())),
        }
        Ok(())
    }
}

fn kind(kind: LinuxNamespaceType) -> Result<Namespace, StepError> {
    Ok(match kind {
        LinuxNamespaceType::Mount => Namespace::Mount,
        LinuxNamespaceType::Pid => Namespace::Pid,
        LinuxNamespaceType::Uts => Namespace::Uts,
        LinuxNamespaceType::Ipc => Namespace::Ipc,
        LinuxNamespaceType::Network => Namespace::Network,
        LinuxNamespaceType::Cgroup => Namespace::Cgroup,
        LinuxNamespaceType::User | LinuxNamespaceType::Time => {
            return Err(StepError::refused(
                "plan namespace",
                kind,
                "not supported by this runtime; remove it from the spec",
            ));
        }
    })
}

/// The program and what surrounds it.
#[derive(Debug)]
struct Program {
    args: Vec<String>,
    environment: Environment,
    path: String,
    needs_home: bool,
}

impl Program {
    fn of(process: &Process) -> Result<Program, StepError> {
        let args = process.args().clone().unwrap_or_default();
        if args.first().is_none_or(String::is_empty) {
            return Err(StepError::refused(
                "plan entrypoint",
                "process.args",
                "there is no program to run; give the container a command or the image an entrypoint",
            ));
        }
        if args.iter().any(|arg| arg.contains('\0')) {
            return Err(StepError::refused(
                "plan entrypoint",
                "process.args",
                "an argument holds a NUL byte",
            ));
        }
        let environment = environment(process.env().as_deref().unwrap_or_default())?;
        let value = |wanted: &str| {
            let find = |entry: &String| {
                entry
                    .split_once('=')
                    .filter(|(name, _)| *name == wanted)
                    .map(|(_, value)| value.to_owned())
            };
            environment.0.iter().find_map(find)
        };
        let path = value("PATH").unwrap_or_else(|| DEFAULT_PATH.to_owned());
        let needs_home = value("HOME").is_none_or(|home| home.is_empty());
        Ok(Program {
            args,
            path,
            needs_home,
            environment,
        })
    }
}

/// Each name once, the last value at the first place. Messages never hold a value: it may be a secret.
fn environment(entries: &[String]) -> Result<Environment, StepError> {
    let mut kept: Vec<(&str, &str)> = Vec::new();
    for (index, entry) in entries.iter().enumerate() {
        let pair = entry
            .split_once('=')
            .filter(|(name, _)| !name.is_empty() && !entry.contains('\0'));
        let Some((name, value)) = pair else {
            return Err(StepError::refused(
                "plan environment",
                format!("process.env[{index}]"),
                "an entry must read NAME=value and hold no NUL byte",
            ));
        };
        match kept.iter_mut().find(|(known, _)| *known == name) {
            Some(known) => known.1 = value,
            None => kept.push((name, value)),
        }
    }
    Ok(Environment(
        kept.into_iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect(),
    ))
}

fn rlimits(process: &Process) -> Result<Vec<Step>, StepError> {
    let mut steps: Vec<Step> = Vec::new();
    for limit in process.rlimits().iter().flatten() {
        let name = limit.typ().to_string();
        if limit.soft() > limit.hard() {
            return Err(StepError::refused(
                "plan rlimit",
                name,
                "the soft limit is above the hard one",
            ));
        }
        if steps
            .iter()
            .any(|step| matches!(step, Step::Rlimit(known) if known.name == name))
        {
            return Err(StepError::refused(
                "plan rlimit",
                name,
                "it is listed twice",
            ));
        }
        steps.push(Step::Rlimit(Rlimit {
            name,
            soft: limit.soft(),
            hard: limit.hard(),
        }));
    }
    Ok(steps)
}

fn umask(given: Option<u32>) -> Result<u32, StepError> {
    match given.unwrap_or(0o022) {
        mask @ 0..=0o777 => Ok(mask),
        mask => Err(StepError::refused(
            "plan umask",
            format!("{mask:o}"),
            "it must be between 0 and 0777",
        )),
    }
}

fn cgroup(linux: &Linux) -> Result<String, StepError> {
    let path = linux
        .cgroups_path()
        .as_ref()
        .ok_or_else(|| missing("linux.cgroupsPath"))?;
    let parts = path
        .components()
        .all(|part| matches!(part, std::path::Component::Normal(_)));
    let text = path.to_str().filter(|text| parts && !text.is_empty());
    text.map(str::to_owned).ok_or_else(|| {
        let cause = "it must be a relative path without `.` or `..`, below the hierarchies' roots";
        StepError::refused("plan cgroup", path.display(), cause)
    })
}

fn missing(field: &str) -> StepError {
    StepError::refused("plan", field, "the spec must have it")
}

fn absolute(what: &str, path: &Path) -> Result<PathBuf, StepError> {
    if path.is_absolute() {
        return Ok(path.to_owned());
    }
    Err(StepError::refused(
        &format!("plan {what}"),
        path.display(),
        "it must be an absolute path",
    ))
}

fn node(device: &LinuxDevice) -> Result<DeviceNode, StepError> {
    let refused = |cause: &str| StepError::refused("plan device", device.path().display(), cause);
    let kind = match device.typ() {
        LinuxDeviceType::C | LinuxDeviceType::U => DeviceKind::Char,
        LinuxDeviceType::B => DeviceKind::Block,
        LinuxDeviceType::P => DeviceKind::Fifo,
        LinuxDeviceType::A => return Err(refused("a node's type must be one of b, c, p, u")),
    };
    let number = |value: i64| {
        u32::try_from(value).map_err(|_| refused("its major or minor number is out of range"))
    };
    Ok(DeviceNode {
        path: absolute("device", device.path())?,
        kind,
        major: number(device.major())?,
        minor: number(device.minor())?,
        mode: device.file_mode().unwrap_or(0o666) & 0o7777,
        uid: device.uid().unwrap_or(0),
        gid: device.gid().unwrap_or(0),
    })
}

/// runtime-spec config-linux.md "Default Devices".
fn default_devices() -> impl Iterator<Item = Step> {
    let nodes = [
        ("null", 1, 3),
        ("zero", 1, 5),
        ("full", 1, 7),
        ("random", 1, 8),
        ("urandom", 1, 9),
        ("tty", 5, 0),
    ];
    nodes.into_iter().map(|(name, major, minor)| {
        let path = Path::new("/dev").join(name);
        Step::Device(DeviceNode {
            path,
            kind: DeviceKind::Char,
            major,
            minor,
            mode: 0o666,
            uid: 0,
            gid: 0,
        })
    })
}

/// runtime-spec runtime-linux.md "Dev symbolic links", and ptmx of the container's own devpts.
fn default_links() -> impl Iterator<Item = Step> {
    let links = [
        ("ptmx", "pts/ptmx"),
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ];
    links.into_iter().map(|(name, target)| Step::Symlink {
        path: Path::new("/dev").join(name),
        target: target.into(),
    })
}
