//! What a container's parent does once its namespaces are there and before its root is: with the host's rights, in
//! the host's namespaces, while init waits.

use crate::hooks;
use crate::interrupt::Interrupt;
use crate::network_device::{self, Lent};
use crate::plan::{HookKind, Plan};
use crate::{StepError, resctrl};

/// What is taken back if the creation fails after all.
#[derive(Debug, Default)]
pub(crate) struct Environment {
    lent: Option<Lent>,
}

impl Environment {
    /// Does for the process `pid`, init, what the plan has for its parent: the resctrl group, network devices, then
    /// the hooks of the runtime's namespaces, which find all of that done.
    pub(crate) fn make(
        &mut self,
        plan: &Plan,
        pid: u32,
        interrupt: &Interrupt,
    ) -> Result<(), StepError> {
        if let Some(wanted) = &plan.resctrl {
            let id = plan.state["id"].as_str().unwrap_or_default();
            resctrl::enter(wanted, id, pid)?;
        }
        self.lent = network_device::lend(&plan.network_devices, pid)?;
        let run = |kind, hooks| hooks::run(kind, hooks, &plan.state, Some(pid), Some(interrupt));
        run(HookKind::Prestart, &plan.hooks.prestart)?;
        run(HookKind::CreateRuntime, &plan.hooks.create_runtime)
    }

    /// The creation failed with `error`, to which is added what could not be taken back. What else was made goes
    /// with the container's record.
    pub(crate) fn undo(self, error: StepError) -> StepError {
        match self.lent {
            Some(lent) => lent.give_back(error),
            None => error,
        }
    }
}
