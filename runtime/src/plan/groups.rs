//! Supplementary groups that a program keeps from whoever makes its container.
//!
//! A group of the host's may be what lets a user reach a device or a volume, and a user without privilege can give it
//! to nobody by number: podman's `--group-add keep-groups` asks for it by crun's annotation, which has its meaning here
//! too. Nothing else asks for it: without the annotation no group of the host's reaches a container.

use oci_spec::runtime::Spec;

use super::{Groups, Plan, Step};

const KEEP: &str = "run.oci.keep_original_groups";

/// Whether the spec asks for it.
pub(super) fn kept(spec: &Spec) -> bool {
    let annotations = spec.annotations().as_ref();
    let keep = annotations.and_then(|all| all.get(KEEP));
    keep.is_some_and(|value| value != "0")
}

impl Groups {
    /// None at all.
    pub(super) fn none() -> Groups {
        Groups::Only(Vec::new())
    }
}

impl Plan {
    /// Takes out of a whole plan what would leave or replace the groups, if the spec says so.
    pub(super) fn keep_groups(&mut self, spec: &Spec) {
        if !kept(spec) {
            return;
        }
        for steps in [&mut self.stage, &mut self.steps] {
            steps.retain(|step| *step != Step::LeaveGroups);
            for step in steps {
                let (Step::BecomeBuilder(groups) | Step::User { groups, .. }) = step else {
                    continue;
                };
                if matches!(groups, Groups::Only(some) if !some.is_empty()) {
                    self.warnings
                        .push(format!("{KEEP}: additionalGids are not in force beside it"));
                }
                *groups = Groups::Kept;
            }
        }
    }
}
