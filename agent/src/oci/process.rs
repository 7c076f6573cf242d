//! The container's first process: arguments, environment, user, limits.

use std::collections::HashMap;
use std::str::FromStr;

use longshore_engine::{Failure, Ulimit};
use oci_spec::image::Config;
use oci_spec::runtime::{
    Capability, LinuxCapabilities, PosixRlimit, PosixRlimitBuilder, PosixRlimitType, Process, User,
};

use super::{Inputs, hostname, impossible};

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

pub(super) fn of(inputs: &Inputs<'_>, capabilities: &[Capability]) -> Result<Process, Failure> {
    let config = inputs.image.config().as_ref();
    let mut process = Process::default();
    process
        .set_terminal(Some(false))
        .set_user(user(inputs))
        .set_args(Some(arguments(inputs, config)?))
        .set_env(Some(environment(inputs, config)))
        .set_cwd(working_directory(inputs, config).into())
        .set_capabilities(Some(capability_sets(inputs.user.uid, capabilities)))
        .set_rlimits(Some(rlimits(inputs)?))
        .set_no_new_privileges(Some(
            inputs.container.no_new_privileges || inputs.policy.no_new_privileges,
        ))
        // Never more protected than a plain process, whatever protects the agent.
        .set_oom_score_adj(Some(inputs.host.oom_score_adj.max(0)))
        .set_apparmor_profile(None);
    Ok(process)
}

/// Docker's rule: an overridden entrypoint drops the image's command as well.
fn arguments(inputs: &Inputs<'_>, config: Option<&Config>) -> Result<Vec<String>, Failure> {
    let given = |list: &Option<Vec<String>>| list.clone().filter(|words| !words.is_empty());
    let entry_point = given(&inputs.container.entry_point);
    let image_command = match entry_point {
        Some(_) => None,
        None => config.and_then(|c| given(c.cmd())),
    };
    let command = given(&inputs.container.command).or(image_command);
    let mut words = entry_point
        .or_else(|| config.and_then(|c| given(c.entrypoint())))
        .unwrap_or_default();
    words.extend(command.unwrap_or_default());
    if words.is_empty() {
        let cause = format!(
            "image {} has neither entrypoint nor command; give the container a command",
            inputs.container.image
        );
        return Err(impossible("compose command", inputs.container, &cause));
    }
    Ok(words)
}

/// The image's variables, then the definition's; a later key wins and keeps the first one's place.
fn environment(inputs: &Inputs<'_>, config: Option<&Config>) -> Vec<String> {
    let mut all: Vec<(String, String)> = Vec::new();
    // An image may bring hundreds of thousands: each is looked up, none is searched for.
    let mut places: HashMap<String, usize> = HashMap::new();
    let image = config.and_then(|c| c.env().clone()).unwrap_or_default();
    let hostname = [("HOSTNAME".to_owned(), hostname(inputs))];
    let of_image = image
        .iter()
        .filter_map(|entry| entry.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.to_owned()));
    let given = inputs.container.environment.iter().cloned();
    for (key, value) in hostname.into_iter().chain(of_image).chain(given) {
        match places.get(&key) {
            Some(place) => all[*place].1 = value,
            None => {
                places.insert(key.clone(), all.len());
                all.push((key, value));
            }
        }
    }
    for (key, value) in [("PATH", DEFAULT_PATH), ("HOME", &inputs.user.home)] {
        if !places.contains_key(key) {
            all.push((key.to_owned(), value.to_owned()));
        }
    }
    all.into_iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect()
}

fn working_directory(inputs: &Inputs<'_>, config: Option<&Config>) -> String {
    inputs
        .container
        .working_directory
        .clone()
        .or_else(|| config.and_then(|c| c.working_dir().clone()))
        .filter(|dir| !dir.is_empty())
        .unwrap_or_else(|| "/".to_owned())
}

fn user(inputs: &Inputs<'_>) -> User {
    let mut user = User::default();
    user.set_uid(inputs.user.uid)
        .set_gid(inputs.user.gid)
        .set_additional_gids(Some(inputs.user.additional_gids.clone()));
    user
}

/// Nothing is inheritable (CVE-2022-24769). For a user other than root the bounding set alone is set:
/// execve(2) would clear the others.
fn capability_sets(uid: u32, capabilities: &[Capability]) -> LinuxCapabilities {
    let set = || Some(capabilities.iter().copied().collect());
    let held = || if uid == 0 { set() } else { Some([].into()) };
    let mut sets = LinuxCapabilities::default();
    sets.set_bounding(set())
        .set_effective(held())
        .set_permitted(held())
        .set_inheritable(Some([].into()))
        .set_ambient(Some([].into()));
    sets
}

fn rlimits(inputs: &Inputs<'_>) -> Result<Vec<PosixRlimit>, Failure> {
    let limits = &inputs.container.ulimits;
    limits.iter().map(|limit| rlimit(inputs, limit)).collect()
}

fn rlimit(inputs: &Inputs<'_>, limit: &Ulimit) -> Result<PosixRlimit, Failure> {
    let refuse = |cause: String| impossible("set ulimits", inputs.container, &cause);
    let name = format!("RLIMIT_{}", limit.name.to_ascii_uppercase());
    let typ = PosixRlimitType::from_str(&name)
        .map_err(|_| refuse(format!("{:?} is no limit of getrlimit(2)", limit.name)))?;
    if limit.soft > limit.hard {
        return Err(refuse(format!(
            "the soft limit of {:?} is above the hard one",
            limit.name
        )));
    }
    PosixRlimitBuilder::default()
        .typ(typ)
        .soft(limit.soft)
        .hard(limit.hard)
        .build()
        .map_err(|e| refuse(e.to_string()))
}
