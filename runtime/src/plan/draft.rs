//! The planner: one pass from a spec to the ordered steps.
//!
//! The order is security, and each block below says why it stands where it does.

use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::{Linux, Process, Spec};

use super::attribute::Attribute;
use super::devices::Devices;
use super::facts::HostFacts;
use super::hook::{Hook, HookKind, Hooks};
use super::label::{LabelKind, Labels};
use super::mounts::{Around, Mounts, Propagation, Spread};
use super::namespaces::Namespaces;
use super::program::{Program, rlimits, room};
use super::step::{CapabilitySets, Groups, Namespace, RootChange, Step};
use super::sysctl::Sysctls;
use super::{
    Plan, attribute, capabilities, groups, hook, label, network_device, refusals, resctrl, sysctl,
    terminal,
};
use crate::cgroup::{Driver, Location, Surroundings};
use crate::{StepError, seccomp};

/// HOST_NAME_MAX of Linux.
const HOSTNAME_MAX: usize = 64;

impl Plan {
    /// Plans a container whose spec names its cgroup as a path. Every rule of the spec is checked here, before
    /// anything is touched.
    pub fn of(spec: &Spec, host: &HostFacts) -> Result<Plan, StepError> {
        Plan::in_group(spec, host, cgroup(spec)?)
    }

    /// As `of`, with the cgroup decided by the caller.
    pub fn in_group(spec: &Spec, host: &HostFacts, cgroup: Location) -> Result<Plan, StepError> {
        refusals::check(spec)?;
        let linux = spec.linux().as_ref().ok_or_else(|| missing("linux"))?;
        let process = spec.process().as_ref().ok_or_else(|| missing("process"))?;
        let namespaces = Namespaces::of(linux, host)?;
        let mut plan = Plan {
            cgroup,
            resources: linux.resources().clone(),
            clone: namespaces.clone.clone(),
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
        let around = Around::of(linux, host, &namespaces);
        let mut mounts = Mounts::of(spec.mounts().as_deref().unwrap_or_default(), &around)?;
        if namespaces.root_change() == RootChange::Stay {
            // It would take that of the host's.
            let cause = "the root can be replaced only in a mount namespace of the container's own; list one";
            refuse_other_root(spec, cause)?;
        }
        let devices = Devices::of(linux, &mounts.attach, &around)?;
        let labels = label::of_process(process, None, host)?;
        let sysctls = sysctl::of(spec)?;
        let made = mounts.open.iter_mut().chain(&mut mounts.attach);
        plan.warnings.extend(label::on_mounts(linux, host, made)?);
        plan.warnings.append(&mut mounts.warnings);
        plan.warnings.extend(labels.warnings.iter().cloned());
        plan.enter(process, &namespaces, &labels, &sysctls, host)?;
        plan.names(spec, &namespaces)?;
        let hooks = hook::of(
            spec.hooks().as_ref(),
            process.env().as_deref().unwrap_or_default(),
        )?;
        plan.network_devices = network_device::of(linux)?;
        plan.resctrl = linux.intel_rdt().as_ref().map(resctrl::of).transpose()?;
        let terminal = terminal::for_init(process)?;
        let way = namespaces.root_change();
        let early = !hooks.create_container.is_empty() || hooks.by_parent.of_creation();
        if early {
            // It would become the root while the host's tree has to be there still.
            let cause = "hooks of the creation need the root to stay in its place; remove the mount, or the \
                         prestart, createRuntime and createContainer hooks";
            refuse_other_root(spec, cause)?;
        }
        let root = spec.root().as_ref();
        if let Some(root) = root.filter(|_| early || way == RootChange::Stay) {
            // The OCI text: what these hooks find is furnished, and the root has not been changed.
            plan.open(linux, &mounts, &devices, &around, way);
            let propagation = Spread::of_root(linux.rootfs_propagation().as_deref())?;
            let path = root.path().clone();
            plan.steps.push(Step::AttachRoot {
                path,
                propagation,
                way,
            });
            plan.steps.push(Step::ClearUmask);
            plan.steps.extend(mounts.attach);
            plan.steps.extend(devices.make);
            plan.steps.push(Step::Umask(0o022));
            plan.hooks(hooks.by_parent, hooks.create_container);
            plan.write_proc(labels, sysctls);
            plan.change_root(linux, way)?;
            plan.steps.extend(terminal);
        } else {
            plan.hooks(hooks.by_parent, hooks.create_container);
            plan.write_proc(labels, sysctls);
            plan.open(linux, &mounts, &devices, &around, way);
            plan.change_root(linux, way)?;
            plan.steps.extend(mounts.attach);
            plan.steps.extend(devices.make);
            // Once /dev is whole, and before anything of it may be read-only or hidden.
            plan.steps.extend(terminal);
        }
        plan.protect(linux)?;
        plan.settle(spec, process, linux, mounts.seal)?;
        plan.become_user(linux, process, host, namespaces.other_user())?;
        plan.start_hooks(hooks.start_container);
        plan.user(spec, process, namespaces)?;
        plan.keep_groups(spec);
        Ok(plan)
    }

    /// The host's /proc is still in sight, and the host's paths still mean what they say.
    fn enter(
        &mut self,
        process: &Process,
        namespaces: &Namespaces,
        labels: &Labels,
        sysctls: &Sysctls,
        host: &HostFacts,
    ) -> Result<(), StepError> {
        // Before anything allocates on the container's behalf, so that it is charged to the container.
        let mut first = vec![Step::EnterCgroup];
        // In the cgroup: its cpuset alone says where the container runs, not what the runtime is pinned to.
        first.push(Step::Attribute(Attribute::Affinity(None)));
        let new_user = namespaces.user.as_ref();
        let of_stage = new_user.is_some_and(|user| user.of_stage);
        first.extend(of_stage.then(|| Step::BecomeBuilder(Groups::none())));
        // A new user namespace has no right to lower it: there the parent writes it.
        let score = process.oom_score_adj().filter(|_| new_user.is_none());
        // The host's: inside the root, or in a mount namespace that is joined, /proc is what others say.
        let writes = score.is_some()
            || !labels.exec.is_empty()
            || !sysctls.write.is_empty()
            || (namespaces.other_user() && namespaces.joins(Namespace::Mount));
        first.extend(writes.then_some(Step::OpenProc));
        first.extend(score.map(Step::OomScoreAdj));
        if namespaces.joins(Namespace::User) {
            first.extend(room(process)?);
        }
        let (stage, begin) = namespaces.steps(first, &sysctls.foreign, host);
        self.stage = stage;
        self.steps = begin;
        if namespaces.other_user() && !of_stage {
            self.steps.push(Step::BecomeBuilder(Groups::none()));
            // A change of ids makes a process dumpable again.
            self.steps.push(Step::Undumpable);
        }
        // After the group was entered: that group becomes the root of the view.
        self.steps
            .extend(namespaces.new_cgroup.then_some(Step::NewCgroupNamespace));
        self.keyring(labels);
        Ok(())
    }

    /// The keyring has the program's label; keys that the program makes are labelled by policy again.
    pub(super) fn keyring(&mut self, labels: &Labels) {
        let label = |text: &str| Step::Label {
            kind: LabelKind::SelinuxKeyCreate,
            text: text.into(),
        };
        let named = labels.keyring.as_deref();
        self.steps.extend(named.map(label));
        self.steps.push(Step::NewSessionKeyring);
        self.steps.extend(named.map(|_| label("")));
    }

    /// Those of the runtime first, then those in the container's namespaces, whose programs are the host's.
    fn hooks(&mut self, by_parent: Hooks, create_container: Vec<Hook>) {
        let awaited = !by_parent.prestart.is_empty()
            || !by_parent.create_runtime.is_empty()
            || !self.network_devices.is_empty()
            || self.resctrl.is_some();
        self.hooks = by_parent;
        self.steps.extend(awaited.then_some(Step::AwaitEnvironment));
        self.push_hooks(HookKind::CreateContainer, create_container);
    }

    /// Last of all: such a hook is a program of the image, and gets no power that the container's own has not.
    fn start_hooks(&mut self, hooks: Vec<Hook>) {
        let execute = self.steps.pop();
        self.push_hooks(HookKind::StartContainer, hooks);
        self.steps.extend(execute);
    }

    fn push_hooks(&mut self, kind: HookKind, hooks: Vec<Hook>) {
        let any = !hooks.is_empty();
        self.steps
            .extend(any.then_some(Step::Hooks { kind, hooks }));
    }

    /// In the container's namespaces, and through the host's procfs: the container's own may be faked.
    fn write_proc(&mut self, labels: Labels, sysctls: Sysctls) {
        self.steps.extend(sysctls.write);
        // They take effect at the next execve: after this no hook may be executed outside of the root.
        self.steps.extend(labels.exec);
    }

    fn names(&mut self, spec: &Spec, namespaces: &Namespaces) -> Result<(), StepError> {
        let own = namespaces.clone.contains(&Namespace::Network);
        self.steps.extend(own.then_some(Step::LoopbackUp));
        let named = [(spec.hostname(), true), (spec.domainname(), false)];
        for (name, is_host) in named {
            let Some(name) = name.as_ref().filter(|name| !name.is_empty()) else {
                continue;
            };
            if !namespaces.clone.contains(&Namespace::Uts) && !namespaces.joins(Namespace::Uts) {
                return Err(StepError::refused(
                    "plan hostname",
                    name,
                    "it needs a uts namespace, new or joined; list one",
                ));
            }
            if name.len() > HOSTNAME_MAX {
                return Err(StepError::refused(
                    "plan hostname",
                    name,
                    "it is longer than 64 bytes",
                ));
            }
            let step = if is_host {
                Step::Hostname
            } else {
                Step::Domainname
            };
            self.steps.push(step(name.clone()));
        }
        Ok(())
    }

    /// Everything that comes from the host is opened before the container's files can be touched, then the
    /// host's tree goes away altogether: what follows cannot resolve to a host path, whatever the image holds.
    ///
    /// Unless the mount namespace is the host's: its mounts are left alone.
    fn open(
        &mut self,
        linux: &Linux,
        mounts: &Mounts,
        devices: &Devices,
        around: &Around,
        way: RootChange,
    ) {
        let masks = linux
            .masked_paths()
            .as_ref()
            .is_some_and(|paths| !paths.is_empty());
        let null = masks.then_some(Step::OpenNull);
        let (early, late) = match around.parent_opens {
            true => (null, None),
            false => (None, null),
        };
        let before = [&mounts.before, &devices.before].into_iter().flatten();
        self.opened.extend(early.into_iter().chain(before.cloned()));
        let open = [&mounts.open, &devices.open].into_iter().flatten();
        self.steps.extend(late.into_iter().chain(open.cloned()));
        let own = way != RootChange::Stay;
        self.steps.extend(own.then_some(Step::IsolateMounts));
    }

    fn change_root(&mut self, linux: &Linux, way: RootChange) -> Result<(), StepError> {
        let propagation = Spread::of_root(linux.rootfs_propagation().as_deref())?;
        self.steps.push(Step::PivotRoot { propagation, way });
        self.steps.push(Step::ClearUmask);
        Ok(())
    }

    fn protect(&mut self, linux: &Linux) -> Result<(), StepError> {
        // After the mounts that they hide or protect. Masks last: a read-only bind on top would uncover them.
        for path in linux.readonly_paths().iter().flatten() {
            self.steps.push(Step::ReadOnlyPath(absolute(
                "read-only path",
                Path::new(path),
            )?));
        }
        for path in linux.masked_paths().iter().flatten() {
            self.steps
                .push(Step::MaskPath(absolute("masked path", Path::new(path))?));
        }
        Ok(())
    }

    /// The last that writes to the root, after which it may become read-only.
    fn settle(
        &mut self,
        spec: &Spec,
        process: &Process,
        linux: &Linux,
        seal: bool,
    ) -> Result<(), StepError> {
        self.steps.push(Step::WorkingDirectory(absolute(
            "working directory",
            process.cwd(),
        )?));
        self.steps.extend(seal.then_some(Step::Seal));
        // A shared root would hand all that is attached to it to its peers, and of an unbindable one no path could
        // be protected.
        let propagation = Spread::of_root(linux.rootfs_propagation().as_deref())?;
        let late = [Propagation::Shared, Propagation::Unbindable];
        let late = late.contains(&propagation.propagation);
        self.steps
            .extend(late.then_some(Step::RootPropagation(propagation)));
        let read_only = spec.root().as_ref().and_then(|root| root.readonly()) == Some(true);
        self.steps.extend(read_only.then_some(Step::ReadOnlyRoot));
        Ok(())
    }

    pub(super) fn become_user(
        &mut self,
        linux: &Linux,
        process: &Process,
        host: &HostFacts,
        other_user: bool,
    ) -> Result<(), StepError> {
        let held = if other_user {
            &host.supported
        } else {
            &host.bounding
        };
        let (bounding, sets, warnings) = capabilities::sets(process.capabilities().as_ref(), held)?;
        let program = Program::of(process)?;
        let user = process.user();
        self.warnings.extend(warnings);
        self.steps
            .extend(program.needs_home.then_some(Step::Home { uid: user.uid() }));
        // Before the capabilities that some of it needs are gone.
        let attributes = attribute::of(linux, process)?;
        self.steps
            .extend(attributes.into_iter().map(Step::Attribute));
        self.steps.extend(rlimits(process)?);
        // Needs CAP_SETPCAP in force, which a change of user takes away.
        self.steps.push(Step::BoundCapabilities(bounding));
        let groups = user.additional_gids().clone().unwrap_or_default();
        self.steps.push(Step::User {
            uid: user.uid(),
            gid: user.gid(),
            groups: Groups::Only(groups),
        });
        self.steps.push(Step::Umask(umask(user.umask())?));
        // As that user, so that permission is judged as execve will.
        self.steps.push(Step::FindProgram {
            name: program.args[0].clone(),
            path: program.path.clone(),
        });
        self.lock(linux, process, sets, held)?;
        self.steps.push(Step::Execute {
            args: program.args,
            environment: program.environment,
        });
        Ok(())
    }

    /// The last powers go.
    ///
    /// The filter comes as late as it can, so that it need not allow what only init does, above all its wait for
    /// `start`. Without no_new_privs it needs CAP_SYS_ADMIN, so capabilities go after it. A filter that asks
    /// its listener comes before that wait: whoever creates the container hands the listener over, while whoever
    /// starts it may know nothing of it.
    fn lock(
        &mut self,
        linux: &Linux,
        process: &Process,
        sets: CapabilitySets,
        held: &[String],
    ) -> Result<(), StepError> {
        let filter = linux.seccomp().as_ref().map(seccomp::compile).transpose()?;
        let asks = filter
            .as_ref()
            .is_some_and(|filter| filter.listener.is_some());
        let no_new_privileges = process.no_new_privileges() == Some(true);
        let waiting = capabilities::while_waiting(&sets, held);
        let capabilities = Step::Capabilities(sets);
        let mut locked: Vec<Step> = Vec::new();
        if no_new_privileges || filter.is_none() {
            self.steps.push(capabilities);
            self.steps
                .extend(no_new_privileges.then_some(Step::NoNewPrivileges));
            locked.extend(filter.map(Step::Seccomp));
        } else {
            locked.extend(filter.map(Step::Seccomp));
            locked.push(capabilities);
        }
        if asks {
            self.steps.extend(locked);
            self.steps.push(Step::AwaitStart);
        } else {
            // How long it waits is another's affair: no more than the filter needs is kept beside the program's own.
            let more_later = matches!(locked[..], [_, Step::Capabilities(_)]);
            self.steps
                .extend(more_later.then_some(Step::Capabilities(waiting)));
            self.steps.push(Step::AwaitStart);
            self.steps.extend(locked);
        }
        Ok(())
    }
}

impl Plan {
    /// What a new user namespace takes init's right away to do, its parent does.
    fn user(
        &mut self,
        spec: &Spec,
        process: &Process,
        namespaces: Namespaces,
    ) -> Result<(), StepError> {
        let Some(mut user) = namespaces.user else {
            return Ok(());
        };
        let of = process.user();
        let groups = of.additional_gids().as_deref().unwrap_or_default();
        let groups = if groups::kept(spec) { &[] } else { groups };
        user.check_user(of.uid(), of.gid(), groups)?;
        user.by_parent
            .extend(process.oom_score_adj().map(Step::OomScoreAdj));
        user.by_parent.extend(room(process)?);
        self.user = Some(user);
        Ok(())
    }
}

fn umask(given: Option<u32>) -> Result<u32, StepError> {
    match given.unwrap_or(0o022) {
        mask @ 0..=0o777 => Ok(mask),
        mask => Err(StepError::refused(
            "plan umask",
            format!("{mask:o}"),
            "it must be between 0 and 0777",
        )),
    }
}

/// The agent names each container's group; whoever lets it be chosen calls `Plan::in_group`.
fn cgroup(spec: &Spec) -> Result<Location, StepError> {
    let linux = spec.linux().as_ref().ok_or_else(|| missing("linux"))?;
    let path = linux
        .cgroups_path()
        .as_deref()
        .filter(|path| !path.as_os_str().is_empty())
        .ok_or_else(|| missing("linux.cgroupsPath"))?;
    let surroundings = Surroundings {
        driver: Driver::Cgroupfs,
        id: "",
        rootless: false,
        own_group: "",
    };
    Location::of(Some(path), &surroundings)
}

/// Refuses a mount that takes the place of the root.
fn refuse_other_root(spec: &Spec, cause: &str) -> Result<(), StepError> {
    let is_root = |destination: &Path| {
        destination
            .components()
            .all(|part| part == Component::RootDir)
    };
    let mut mounts = spec.mounts().iter().flatten();
    match mounts.find(|mount| is_root(mount.destination())) {
        None => Ok(()),
        Some(mount) => Err(StepError::refused(
            "plan mount",
            mount.destination().display(),
            cause,
        )),
    }
}

fn missing(field: &str) -> StepError {
    StepError::refused("plan", field, "the spec must have it")
}

pub(super) fn absolute(what: &str, path: &Path) -> Result<PathBuf, StepError> {
    if path.is_absolute() {
        return Ok(path.to_owned());
    }
    Err(StepError::refused(
        &format!("plan {what}"),
        path.display(),
        "it must be an absolute path",
    ))
}

#[cfg(test)]
mod tests;
