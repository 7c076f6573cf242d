//! The five capability sets of a spec, cut down to what this host has and the kernel takes.
//!
//! Source: runtime-spec config.md "Linux Process": a capability that cannot be given is a warning, not an error.

use std::collections::HashSet;
use std::str::FromStr;

use oci_spec::runtime::{Capability, LinuxCapabilities};

use super::step::CapabilitySets;
use crate::StepError;

/// What loading a filter takes without no_new_privs.
const FILTERS: &str = "CAP_SYS_ADMIN";

/// The bounding set, the other four, and a warning for each capability that was left out.
pub(super) fn sets(
    spec: Option<&LinuxCapabilities>,
    available: &[String],
) -> Result<(Vec<String>, CapabilitySets, Vec<String>), StepError> {
    // No object: no capability at all, and the bounding set dropped to match.
    let Some(spec) = spec else {
        return Ok(Default::default());
    };
    let mut missing = Vec::new();
    let mut held = |set: &Option<HashSet<Capability>>| held(set.as_ref(), available, &mut missing);
    let bounding = held(spec.bounding());
    let mut sets = CapabilitySets {
        effective: held(spec.effective()),
        permitted: held(spec.permitted()),
        inheritable: held(spec.inheritable()),
        ambient: held(spec.ambient()),
    };
    missing.sort();
    missing.dedup();
    let unavailable = |name: &String| format!("{name} is not this runtime's to give: left out");
    let mut warnings: Vec<String> = missing.iter().map(unavailable).collect();
    let mut cut = |inner: &mut Vec<String>, names: [&str; 2], outer: &[String]| {
        inner.retain(|name| {
            let within = outer.contains(name);
            let [inner, outer] = names;
            let left_out =
                || format!("{name} is {inner} and not {outer}, which the kernel refuses: left out");
            warnings.extend((!within).then(left_out));
            within
        });
    };
    // capabilities(7), capset(2).
    cut(
        &mut sets.inheritable,
        ["inheritable", "bounding"],
        &bounding,
    );
    cut(
        &mut sets.effective,
        ["effective", "permitted"],
        &sets.permitted,
    );
    cut(&mut sets.ambient, ["ambient", "permitted"], &sets.permitted);
    cut(
        &mut sets.ambient,
        ["ambient", "inheritable"],
        &sets.inheritable,
    );
    Ok((bounding, sets, warnings))
}

/// What init keeps while it waits for `start`, if a filter comes after: the program's own, and CAP_SYS_ADMIN for the
/// filter. Not raised: [`Step::Seccomp`](super::Step::Seccomp) does that for the moment it needs it.
pub(super) fn while_waiting(sets: &CapabilitySets, available: &[String]) -> CapabilitySets {
    let mut permitted = sets.permitted.clone();
    if available.iter().any(|name| name == FILTERS) && !permitted.iter().any(|name| name == FILTERS)
    {
        permitted.push(FILTERS.to_owned());
    }
    CapabilitySets {
        permitted,
        ambient: Vec::new(),
        ..sets.clone()
    }
}

/// The names of the spec's set that the host has, in the kernel's order.
fn held(
    set: Option<&HashSet<Capability>>,
    available: &[String],
    missing: &mut Vec<String>,
) -> Vec<String> {
    let mut names: Vec<String> = set
        .into_iter()
        .flatten()
        .map(|capability| format!("CAP_{capability}"))
        .collect();
    names.sort_by_key(|name| {
        caps::Capability::from_str(name).map_or(u8::MAX, |capability| capability.index())
    });
    names.retain(|name| {
        let held = available.contains(name);
        if !held {
            missing.push(name.clone());
        }
        held
    });
    names
}
