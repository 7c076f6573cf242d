//! From what the caller of `exec` asks for to a whole process.

use std::collections::HashSet;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use oci_spec::runtime::{Capability, LinuxCapabilities, Process, User};

use super::user::ExecUser;
use crate::StepError;
use crate::plan::Environment;

/// What an exec asks for. What it leaves out, the container's own process says.
#[derive(Clone, Default)]
pub struct Asked {
    /// A whole process, as `--process` gives it; the other fields change it.
    pub process: Option<Process>,
    /// The program and its arguments; may be empty only if `process` has them.
    pub args: Vec<String>,
    /// Added to the environment; of two entries of one name the last counts.
    pub environment: Vec<String>,
    /// Working directory.
    pub cwd: Option<PathBuf>,
    /// User and group. Another user has none of the container's supplementary groups.
    pub user: Option<ExecUser>,
    /// Supplementary groups to add.
    pub groups: Vec<u32>,
    /// Capabilities to add, with or without `CAP_`.
    pub capabilities: Vec<String>,
    /// Whether it gets a terminal of its own.
    pub terminal: bool,
    /// PR_SET_NO_NEW_PRIVS, if said.
    pub no_new_privileges: Option<bool>,
    /// AppArmor profile.
    pub apparmor_profile: Option<String>,
    /// SELinux label.
    pub selinux_label: Option<String>,
}

/// Values of the environment can be secrets.
impl fmt::Debug for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Asked")
            .field("args", &self.args)
            .field("environment", &Environment(self.environment.clone()))
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

impl Asked {
    /// The whole process, and a warning for each capability that has no such name. `container` is the process that
    /// the container was made with.
    pub fn process(self, container: Option<&Process>) -> Result<(Process, Vec<String>), StepError> {
        let mut process = match (self.process, container) {
            (Some(mut given), Some(container)) => {
                inherit(&mut given, container);
                given
            }
            (Some(given), None) => given,
            (None, Some(container)) => {
                let mut process = container.clone();
                process.set_args(None);
                process.set_terminal(None);
                process
            }
            (None, None) => {
                let cause = "the container has no process to take the settings from; give one with --process";
                return Err(StepError::refused("plan exec", "process", cause));
            }
        };
        if !self.args.is_empty() {
            process.set_args(Some(self.args));
        }
        if self.terminal {
            process.set_terminal(Some(true));
        }
        if !self.environment.is_empty() {
            let all = process.env_mut().get_or_insert_default();
            all.extend(self.environment);
        }
        if let Some(cwd) = self.cwd {
            process.set_cwd(cwd);
        }
        if self.no_new_privileges.is_some() {
            process.set_no_new_privileges(self.no_new_privileges);
        }
        if self.apparmor_profile.is_some() {
            process.set_apparmor_profile(self.apparmor_profile);
        }
        if self.selinux_label.is_some() {
            process.set_selinux_label(self.selinux_label);
        }
        become_user(process.user_mut(), self.user, self.groups);
        let warnings = add_capabilities(&mut process, &self.capabilities);
        Ok((process, warnings))
    }
}

/// A process that was given whole still has the container's restrictions where it says nothing of its own.
fn inherit(given: &mut Process, container: &Process) {
    if given.capabilities().is_none() {
        given.set_capabilities(container.capabilities().clone());
    }
    if given.no_new_privileges().is_none() {
        given.set_no_new_privileges(container.no_new_privileges());
    }
    if given.rlimits().is_none() {
        given.set_rlimits(container.rlimits().clone());
    }
    if given.oom_score_adj().is_none() {
        given.set_oom_score_adj(container.oom_score_adj());
    }
    if given.scheduler().is_none() {
        given.set_scheduler(container.scheduler().clone());
    }
    if given.io_priority().is_none() {
        given.set_io_priority(*container.io_priority());
    }
    if given.exec_cpu_affinity().is_none() {
        given.set_exec_cpu_affinity(container.exec_cpu_affinity().clone());
    }
    let said = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
    if !said(given.apparmor_profile()) {
        given.set_apparmor_profile(container.apparmor_profile().clone());
    }
    if !said(given.selinux_label()) {
        given.set_selinux_label(container.selinux_label().clone());
    }
    if given.user().umask().is_none() {
        let umask = container.user().umask();
        given.user_mut().set_umask(umask);
    }
}

fn become_user(user: &mut User, other: Option<ExecUser>, groups: Vec<u32>) {
    if let Some(other) = other {
        user.set_uid(other.uid);
        user.set_gid(other.gid.unwrap_or(user.gid()));
        user.set_additional_gids(None);
        user.set_username(None);
    }
    if !groups.is_empty() {
        let all = user.additional_gids_mut().get_or_insert_default();
        all.extend(groups);
    }
}

/// Into the bounding, effective and permitted sets. Never into the inheritable set, through which a program that is
/// executed later would regain them (CVE-2022-29162), and so into the ambient set only where the container's
/// inheritable set has it already.
fn add_capabilities(process: &mut Process, names: &[String]) -> Vec<String> {
    if names.is_empty() {
        return Vec::new();
    }
    let mut warnings = Vec::new();
    let mut added: HashSet<Capability> = HashSet::new();
    for name in names {
        let upper = name.to_ascii_uppercase();
        match Capability::from_str(upper.strip_prefix("CAP_").unwrap_or(&upper)) {
            Ok(capability) => drop(added.insert(capability)),
            Err(_) => warnings.push(format!("{name} is not a capability: ignored")),
        }
    }
    let with = |set: &Option<HashSet<Capability>>| {
        let held = set.iter().flatten().copied();
        Some(held.chain(added.iter().copied()).collect::<HashSet<_>>())
    };
    let mut sets = process
        .capabilities()
        .clone()
        .unwrap_or_else(no_capabilities);
    let inheritable: HashSet<Capability> = sets.inheritable().iter().flatten().copied().collect();
    sets.set_bounding(with(sets.bounding()));
    sets.set_effective(with(sets.effective()));
    sets.set_permitted(with(sets.permitted()));
    let ambient = sets.ambient().iter().flatten().copied();
    let ambient = ambient.chain(added.intersection(&inheritable).copied());
    sets.set_ambient(Some(ambient.collect()));
    process.set_capabilities(Some(sets));
    warnings
}

/// `Default` of the type is a set that its authors found useful.
fn no_capabilities() -> LinuxCapabilities {
    let mut sets = LinuxCapabilities::default();
    sets.set_bounding(None);
    sets.set_effective(None);
    sets.set_permitted(None);
    sets.set_inheritable(None);
    sets.set_ambient(None);
    sets
}
