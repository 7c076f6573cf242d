//! Where this process and its tasks stand in the cgroup tree.
//!
//! A systemd host owns its cgroup tree, so the agent asks systemd for a delegated scope and lives
//! inside: itself in the leaf `agent`, tasks below `task`, monitors below `monitors`. Elsewhere the
//! groups stand directly below the hierarchies' roots. The decision is a pure function of what the host
//! shows; only [`enter`] touches anything.
//!
//! ```text
//! system.slice/longshore-NAME.scope     delegated; empty itself, so that controllers may be enabled
//! ├── agent                             this process
//! ├── monitors                          each container's parent
//! └── task/ID/CONTAINER                 the containers
//! ```
//!
//! The scope outlives the agent while a task runs in it; a new agent then joins it.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

const CGROUP_ROOT: &str = "/sys/fs/cgroup";

/// What the decision depends on.
#[derive(Clone, Debug)]
struct Host {
    /// systemd runs as PID 1.
    systemd: bool,
    /// `/sys/fs/cgroup` is the cgroup2 file system.
    pure_v2: bool,
    /// This process's group, as in the `0::` line of `/proc/self/cgroup`.
    own_group: String,
    /// The scope's group is there, whoever made it.
    scope_exists: bool,
}

/// What to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Decision {
    /// No systemd, or cgroup v1: stay where we are and use the instance's own groups below the roots.
    Stay,
    /// Be started anew by systemd-run, inside a fresh scope.
    AskForScope,
    /// Move into the scope's leaf `agent`.
    Join,
}

/// The group below which the agent makes its tasks' groups; none: the instance's own default.
pub(crate) type Parent = Option<String>;

/// Makes sure that this process stands where it may make cgroups. On a systemd host this replaces the
/// process once (same arguments), so call it before anything else is open.
pub(crate) fn enter(instance: &str) -> Result<Parent> {
    let scope = scope_group(instance);
    match decide(&host(&scope)?, &scope) {
        Decision::Stay => Ok(None),
        Decision::AskForScope => Err(ask_for_scope(instance)),
        Decision::Join => {
            join_leaf(&Path::new(CGROUP_ROOT).join(&scope))?;
            Ok(Some(scope))
        }
    }
}

/// The scope's group if it is there: for `--reset`, which needs no place of its own.
pub(crate) fn parent_of(instance: &str) -> Result<Parent> {
    let scope = scope_group(instance);
    let joined = decide(&host(&scope)?, &scope) == Decision::Join;
    Ok(joined.then_some(scope))
}

fn decide(host: &Host, scope: &str) -> Decision {
    if !host.systemd || !host.pure_v2 {
        return Decision::Stay;
    }
    let inside = Path::new(host.own_group.trim_start_matches('/')).starts_with(scope);
    if inside || host.scope_exists {
        Decision::Join
    } else {
        Decision::AskForScope
    }
}

fn scope_group(instance: &str) -> String {
    format!("system.slice/{}", unit(instance))
}

/// systemd reads `-` in a slice's name as nesting, but not in a scope's.
fn unit(instance: &str) -> String {
    format!("longshore-{instance}.scope")
}

fn host(scope: &str) -> Result<Host> {
    let own = std::fs::read_to_string("/proc/self/cgroup").context("read /proc/self/cgroup")?;
    let own_group = own.lines().find_map(|line| line.strip_prefix("0::"));
    Ok(Host {
        systemd: Path::new("/run/systemd/system").is_dir(),
        pure_v2: Path::new(CGROUP_ROOT).join("cgroup.controllers").exists(),
        own_group: own_group.unwrap_or("/").to_owned(),
        scope_exists: Path::new(CGROUP_ROOT).join(scope).exists(),
    })
}

/// Returns only if systemd-run could not be executed.
fn ask_for_scope(instance: &str) -> anyhow::Error {
    let mut arguments = std::env::args_os();
    let _name = arguments.next();
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => return anyhow::Error::new(error).context("find this program's own path"),
    };
    let error = Command::new("systemd-run")
        .args(["--scope", "--quiet", "--collect", "--slice=system.slice"])
        .arg(format!("--unit={}", unit(instance)))
        .args(["-p", "Delegate=yes", "--"])
        .arg(program)
        .args(arguments)
        .exec();
    anyhow::Error::new(error).context(
        "start systemd-run: it gives tasks a cgroup of their own; is systemd installed whole?",
    )
}

/// No process may stand in a group that hands controllers to its children, so each process of the
/// scope's own group (us, just started by systemd-run) moves to a leaf.
fn join_leaf(scope: &Path) -> Result<()> {
    let leaf: PathBuf = scope.join("agent");
    match std::fs::create_dir(&leaf) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            bail!(
                "make cgroup {}: {error}; is the scope delegated?",
                leaf.display()
            );
        }
        _ => {}
    }
    std::fs::write(leaf.join("cgroup.procs"), std::process::id().to_string())
        .with_context(|| format!("move this process to cgroup {}", leaf.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCOPE: &str = "system.slice/longshore-default.scope";

    fn systemd_host() -> Host {
        Host {
            systemd: true,
            pure_v2: true,
            own_group: "/user.slice/user-0.slice/session-1.scope".to_owned(),
            scope_exists: false,
        }
    }

    #[test]
    fn a_fresh_systemd_host_is_asked_for_a_scope() {
        assert_eq!(decide(&systemd_host(), SCOPE), Decision::AskForScope);
    }

    #[test]
    fn a_process_inside_the_scope_moves_to_the_leaf() {
        let own_group = format!("/{SCOPE}");
        let host = Host {
            own_group,
            ..systemd_host()
        };
        assert_eq!(decide(&host, SCOPE), Decision::Join);
    }

    #[test]
    fn a_scope_that_tasks_keep_alive_is_joined() {
        let host = Host {
            scope_exists: true,
            ..systemd_host()
        };
        assert_eq!(decide(&host, SCOPE), Decision::Join);
    }

    #[test]
    fn another_instances_scope_is_not_ours() {
        let own_group = "/system.slice/longshore-default2.scope".to_owned();
        let host = Host {
            own_group,
            ..systemd_host()
        };
        assert_eq!(decide(&host, SCOPE), Decision::AskForScope);
    }

    #[test]
    fn without_systemd_or_on_v1_nothing_moves() {
        let no_systemd = Host {
            systemd: false,
            ..systemd_host()
        };
        let hybrid = Host {
            pure_v2: false,
            ..systemd_host()
        };
        assert_eq!(decide(&no_systemd, SCOPE), Decision::Stay);
        assert_eq!(decide(&hybrid, SCOPE), Decision::Stay);
    }

    #[test]
    fn the_units_name_derives_from_the_instance() {
        assert_eq!(scope_group("default"), SCOPE);
    }
}
