//! The plan of `exec`: a process that joins a running container.
//!
//! [`Asked`] is what the caller wants, [`Asked::process`] fills the gaps from the container's own process, and
//! [`Plan::of_exec`] turns the result into steps. The stage walks the first half, outside; what it clones was never
//! seen by the container before it could not be looked into, and is in the container's cgroup from its first
//! instruction. Pure like the rest of the planner.
//!
//! Deliberately absent: making a missing working directory (the container runs: what is there is its own affair),
//! and any capability that neither the container's process nor the caller names.

mod asked;
mod user;

use oci_spec::runtime::{Process, Spec};

use super::draft::absolute;
use super::facts::HostFacts;
use super::hook::Hooks;
use super::label::Labels;
use super::program::room;
use super::step::{Groups, Namespace, Step};
use super::{Plan, attribute, label, namespaces, terminal};
use crate::StepError;
use crate::cgroup::Location;

pub use asked::Asked;
pub use user::ExecUser;

impl Plan {
    /// Plans `process` as one more process of the container that `spec` made. `cgroup` is where it has to be.
    pub fn of_exec(
        spec: &Spec,
        process: &Process,
        cgroup: &Location,
        host: &HostFacts,
    ) -> Result<Plan, StepError> {
        let cause = "the spec must have it";
        let linux = spec.linux().as_ref();
        let linux = linux.ok_or_else(|| StepError::refused("plan exec", "linux", cause))?;
        let mut plan = Plan {
            cgroup: cgroup.clone(),
            resources: None,
            clone: Vec::new(),
            user: None,
            opened: Vec::new(),
            stage: Vec::new(),
            steps: Vec::new(),
            hooks: Hooks::default(),
            network_devices: Vec::new(),
            resctrl: None,
            state: serde_json::Value::Null,
            warnings: Vec::new(),
        };
        let labels = label::of_process(process, spec.process().as_ref(), host)?;
        plan.warnings.extend(labels.warnings.iter().cloned());
        let listed = namespaces::listed(linux)?.into_iter();
        let namespaces: Vec<Namespace> = listed.map(|(kind, _)| kind).collect();
        let other_user = namespaces.contains(&Namespace::User);
        let root = match namespaces.contains(&Namespace::Mount) {
            // Of the container, in which this process is: the root that mount_namespaces(7) gave it.
            true => Step::OpenRoot,
            false => Step::EnterRoot,
        };
        plan.stage(process, namespaces, &labels, host)?;
        plan.steps.push(root);
        plan.keyring(&labels);
        plan.steps.extend(terminal::for_exec(process)?);
        let cwd = absolute("working directory", process.cwd())?;
        plan.steps.push(Step::EnterDirectory(cwd));
        plan.steps.extend(labels.exec);
        plan.become_user(linux, process, host, other_user)?;
        plan.keep_groups(spec);
        Ok(plan)
    }

    fn stage(
        &mut self,
        process: &Process,
        namespaces: Vec<Namespace>,
        labels: &Labels,
        host: &HostFacts,
    ) -> Result<(), StepError> {
        let (initial, entered) = attribute::of_exec(process)?;
        // First: from here on no process of the container can look into it (CVE-2016-9962). Who has no privilege
        // loses the right to its own files in /proc by it, and so does it later, but before it joins.
        self.stage
            .extend(host.privileged.then_some(Step::Undumpable));
        self.stage.extend(initial.map(Step::Attribute));
        // Nothing of the exec is done outside of the container's group, and its child is born there.
        self.stage.push(Step::EnterCgroup);
        self.stage.extend(entered.map(Step::Attribute));
        // The host's: once joined, /proc is what the container says.
        let other_user = namespaces.contains(&Namespace::User);
        let writes = process.oom_score_adj().is_some() || !labels.exec.is_empty() || other_user;
        self.stage.extend(writes.then_some(Step::OpenProc));
        self.stage
            .extend(process.oom_score_adj().map(Step::OomScoreAdj));
        if other_user {
            // The container's user namespace has no right to raise them.
            self.stage.extend(room(process)?);
        }
        self.stage
            .extend((!host.privileged).then_some(Step::Undumpable));
        let leaves = other_user && host.privileged;
        self.stage.extend(leaves.then_some(Step::LeaveGroups));
        // setns(2) to none at all is an error.
        let any = !namespaces.is_empty();
        self.stage
            .extend(any.then_some(Step::JoinContainer(namespaces)));
        if other_user {
            self.stage.push(Step::BecomeBuilder(Groups::none()));
            // A change of ids makes a process dumpable again.
            self.stage.push(Step::Undumpable);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
