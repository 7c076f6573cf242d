//! A plan as text, one step a line: what a review reads and what golden tests compare.

mod mounts;

use std::fmt;

use super::Plan;
use super::hook::{Hook, HookKind};
use super::step::{Groups, Joined, Namespace, Step, Terminal, TimeOffsets};

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "cgroup {}", self.cgroup)?;
        for step in &self.opened {
            writeln!(f, "parent: {step}")?;
        }
        for step in &self.stage {
            writeln!(f, "stage: {step}")?;
        }
        let names: Vec<String> = self.clone.iter().map(Namespace::to_string).collect();
        writeln!(f, "clone {}", names.join(" "))?;
        if let Some(user) = &self.user {
            writeln!(f, "map {user}")?;
            for step in &user.by_parent {
                writeln!(f, "parent: {step}")?;
            }
        }
        for step in &self.steps {
            writeln!(f, "  {step}")?;
        }
        for device in &self.network_devices {
            writeln!(f, "{device}")?;
        }
        if let Some(resctrl) = &self.resctrl {
            writeln!(f, "{resctrl}")?;
        }
        for (kind, hooks) in self.hooks.lists() {
            if !hooks.is_empty() {
                list_hooks(f, kind, hooks)?;
                writeln!(f)?;
            }
        }
        for warning in &self.warnings {
            writeln!(f, "warning: {warning}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Namespace::Mount => "mount",
            Namespace::Pid => "pid",
            Namespace::Uts => "uts",
            Namespace::Ipc => "ipc",
            Namespace::Network => "network",
            Namespace::Cgroup => "cgroup",
            Namespace::User => "user",
            Namespace::Time => "time",
        })
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Undumpable => write!(f, "undumpable"),
            Step::EnterCgroup => write!(f, "enter cgroup"),
            Step::AwaitEnvironment => write!(f, "await environment"),
            Step::OpenProc => write!(f, "open host proc"),
            Step::LeaveGroups => write!(f, "leave all groups"),
            Step::Hooks { kind, hooks } => list_hooks(f, *kind, hooks),
            Step::Label { kind, text } => write!(f, "label {kind:?} {text}"),
            Step::Sysctl { path, value } => write!(f, "sysctl {} = {value}", path.display()),
            Step::OomScoreAdj(value) => write!(f, "oom score adjustment {value}"),
            Step::Join(joined) => {
                let named = |one: &Joined| {
                    let proven = if one.foreign { " (not the host's)" } else { "" };
                    format!("{} {}{proven}", one.namespace, one.path.display())
                };
                let named: Vec<String> = joined.iter().map(named).collect();
                write!(f, "join {}", named.join(", "))
            }
            Step::NewTimeNamespace(TimeOffsets(clocks)) => {
                write!(f, "new time namespace")?;
                clocks
                    .iter()
                    .try_for_each(|(clock, secs, nanos)| write!(f, " {clock} {secs} {nanos}"))
            }
            Step::BecomeBuilder(Groups::Kept) => {
                write!(f, "become root of the user namespace, groups kept")
            }
            Step::BecomeBuilder(Groups::Only(_)) => write!(f, "become root of the user namespace"),
            Step::NewCgroupNamespace => write!(f, "new cgroup namespace"),
            Step::NewSessionKeyring => write!(f, "new session keyring"),
            Step::LoopbackUp => write!(f, "loopback up"),
            Step::Hostname(name) => write!(f, "hostname {name}"),
            Step::Domainname(name) => write!(f, "domainname {name}"),
            Step::OpenNull => write!(f, "open host null"),
            Step::IsolateMounts => write!(f, "isolate mounts"),
            Step::ClearUmask => write!(f, "umask 000"),
            Step::Terminal(terminal) => write!(f, "{terminal}"),
            Step::JoinContainer(namespaces) => {
                let names: Vec<String> = namespaces.iter().map(Namespace::to_string).collect();
                write!(f, "join container's {}", names.join(" "))
            }
            Step::OpenRoot => write!(f, "open root"),
            Step::EnterRoot => write!(f, "enter root of container's first process"),
            Step::ReadOnlyPath(path) => write!(f, "read-only {}", path.display()),
            Step::MaskPath(path) => write!(f, "mask {}", path.display()),
            Step::ReadOnlyRoot => write!(f, "read-only root"),
            other => match mounts::fmt(other, f) {
                Some(written) => written,
                None => fmt_process(other, f),
            },
        }
    }
}

fn list_hooks(f: &mut fmt::Formatter<'_>, kind: HookKind, hooks: &[Hook]) -> fmt::Result {
    let texts: Vec<String> = hooks.iter().map(Hook::to_string).collect();
    write!(f, "{kind} hooks {}", texts.join("; "))
}

/// The steps that change the process rather than the file systems.
fn fmt_process(step: &Step, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match step {
        Step::Attribute(attribute) => write!(f, "{attribute}"),
        Step::MakeRoom(limit) => write!(f, "room for {} {}", limit.name, amount(limit.hard)),
        Step::Rlimit(limit) => write!(
            f,
            "{} {} {}",
            limit.name,
            amount(limit.soft),
            amount(limit.hard)
        ),
        Step::WorkingDirectory(path) => write!(f, "working directory {}", path.display()),
        Step::EnterDirectory(path) => write!(f, "enter directory {}", path.display()),
        Step::Listen { count, names } => {
            write!(f, "listen {count} {}", names.as_deref().unwrap_or_default())
        }
        Step::Home { uid } => write!(f, "home of {uid}"),
        Step::BoundCapabilities(names) => write!(f, "bounding {}", list(names)),
        Step::User { uid, gid, groups } => match groups {
            Groups::Only(groups) => write!(f, "user {uid} group {gid} groups {groups:?}"),
            Groups::Kept => write!(f, "user {uid} group {gid} groups kept"),
        },
        Step::Umask(mask) => write!(f, "umask {mask:03o}"),
        Step::FindProgram { name, path } => write!(f, "find {name} in {path}"),
        Step::NoNewPrivileges => write!(f, "no new privileges"),
        Step::Capabilities(sets) => {
            write!(
                f,
                "effective {}, permitted {}",
                list(&sets.effective),
                list(&sets.permitted)
            )?;
            write!(
                f,
                ", inheritable {}, ambient {}",
                list(&sets.inheritable),
                list(&sets.ambient)
            )
        }
        Step::Seccomp(filter) => {
            write!(f, "seccomp filter, flags {:#x}", filter.flags)?;
            match &filter.listener {
                Some(listener) => write!(f, ", asks {}", listener.path.display()),
                None => Ok(()),
            }
        }
        Step::AwaitStart => write!(f, "await start"),
        Step::Execute { args, environment } => {
            let names: Vec<&str> = environment.names().collect();
            write!(f, "execute {args:?} with {}", names.join(" "))
        }
        _ => unreachable!("Display of Step covers the others"),
    }
}

fn list(names: &[String]) -> String {
    let short: Vec<&str> = names
        .iter()
        .map(|name| name.strip_prefix("CAP_").unwrap_or(name))
        .collect();
    if short.is_empty() {
        "none".to_owned()
    } else {
        short.join(" ")
    }
}

fn amount(limit: u64) -> String {
    if limit == u64::MAX {
        "unlimited".to_owned()
    } else {
        limit.to_string()
    }
}

impl fmt::Display for Terminal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "terminal of {}", self.owner)?;
        if let Some((rows, columns)) = self.size {
            write!(f, ", {rows} rows {columns} columns")?;
        }
        f.write_str(if self.console { ", /dev/console" } else { "" })
    }
}
