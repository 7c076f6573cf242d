//! The five capability sets of a spec, cut down to what this host has.
//!
//! Source: runtime-spec config.md "Linux Process": a capability that cannot be given is a warning, not an error.

use std::collections::HashSet;
use std::str::FromStr;

use oci_spec::runtime::{Capability, LinuxCapabilities};

use super::step::CapabilitySets;
use crate::StepError;

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
    let sets = CapabilitySets {
        effective: held(spec.effective()),
        permitted: held(spec.permitted()),
        inheritable: held(spec.inheritable()),
        ambient: held(spec.ambient()),
    };
    check(&sets.effective, &sets.permitted, "effective", "permitted")?;
    check(&sets.ambient, &sets.permitted, "ambient", "permitted")?;
    check(&sets.ambient, &sets.inheritable, "ambient", "inheritable")?;
    missing.sort();
    missing.dedup();
    let warnings = missing
        .iter()
        .map(|name| format!("{name} is not in this host's bounding set: left out"));
    Ok((bounding, sets, warnings.collect()))
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

/// What the kernel would refuse with EPERM and no reason.
fn check(
    inner: &[String],
    outer: &[String],
    inner_name: &str,
    outer_name: &str,
) -> Result<(), StepError> {
    match inner.iter().find(|name| !outer.contains(name)) {
        Some(name) => Err(StepError::refused(
            "plan capabilities",
            name,
            format!("it is {inner_name} and not {outer_name}; add it to the {outer_name} set"),
        )),
        None => Ok(()),
    }
}
