//! The stage: a short-lived process between a parent and init.
//!
//! It does what must be done before init is cloned and what the parent must not do to itself, then clones init as a
//! child of the parent and ends. `talk` draws what is said meanwhile.

use longshore_sys::{Forked, clone3_sibling, exit_now};

use super::Walk;
use super::talk::{FromInit, ToInit};
use crate::StepError;
use crate::launch::{cloned, not_cloned};
use crate::plan::Plan;

/// Walks the stage's steps and clones init, which walks the plan's. Comes back only with an error, in either.
pub(super) fn run(walk: &mut Walk, plan: &Plan) -> StepError {
    match stage(walk, plan) {
        Ok(Forked::Parent { pid, .. }) => {
            // If nobody hears it, init hears that its parent is gone.
            let told = walk
                .talk()
                .map(|talk| talk.send(&FromInit::Cloned(pid)).is_ok());
            exit_now(i32::from(told != Ok(true)))
        }
        Ok(Forked::Child) => match walk.expect(&ToInit::Proceed) {
            Ok(()) => walk.run(plan),
            Err(error) => error,
        },
        Err(error) => error,
    }
}

fn stage(walk: &mut Walk, plan: &Plan) -> Result<Forked, StepError> {
    plan.stage.iter().try_for_each(|step| walk.take(step))?;
    let of_stage = plan.user.as_ref().is_some_and(|user| user.of_stage);
    clone3_sibling(&cloned(&plan.clone, !of_stage)).map_err(not_cloned)
}
