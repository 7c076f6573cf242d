//! Which namespaces a container makes and which it joins.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{Linux, LinuxNamespaceType};

use super::facts::HostFacts;
use super::step::{Joined, Namespace, RootChange, Step, TimeOffsets};
use super::user::UserNamespace;
use crate::StepError;

const STEP: &str = "plan namespace";

/// The namespaces of a spec, sorted by how they come to be.
#[derive(Debug, Default)]
pub(super) struct Namespaces {
    /// Made by clone3, with init in them.
    pub(super) clone: Vec<Namespace>,
    pub(super) new_cgroup: bool,
    /// In the spec's order.
    pub(super) join: Vec<Joined>,
    /// The new user namespace.
    pub(super) user: Option<UserNamespace>,
    /// A new time namespace and its clocks.
    pub(super) time: Option<TimeOffsets>,
}

impl Namespaces {
    pub(super) fn of(linux: &Linux, host: &HostFacts) -> Result<Namespaces, StepError> {
        let mut sorted = Namespaces::default();
        let mut new_time = false;
        for (kind, path) in listed(linux)? {
            match path {
                Some(path) => sorted.join.push(joined(kind, path)?),
                None if kind == Namespace::Cgroup => sorted.new_cgroup = true,
                None if kind == Namespace::Time => new_time = true,
                None => sorted.clone.push(kind),
            }
        }
        if host.old_mount_calls && !sorted.clone.contains(&Namespace::Mount) {
            // It is made where its mounts show until they are in their places.
            let cause = "this kernel lacks the calls of Linux 5.12, without which a container needs a new one";
            return Err(StepError::refused(STEP, Namespace::Mount, cause));
        }
        sorted.user = sorted.user(linux, host)?;
        if sorted.other_user() && sorted.root_change() == RootChange::Stay {
            let cause = "whoever is in a user namespace may mount nothing in the host's; list one";
            return Err(StepError::refused(STEP, Namespace::Mount, cause));
        }
        sorted.time = time(linux, new_time)?;
        if let Some(user) = &mut sorted.user {
            user.of_stage = !host.privileged && sorted.time.is_some();
        }
        Ok(sorted)
    }

    pub(super) fn joins(&self, kind: Namespace) -> bool {
        self.join.iter().any(|joined| joined.namespace == kind)
    }

    /// The OCI text: a namespace that is not listed is the runtime's own.
    pub(super) fn root_change(&self) -> RootChange {
        match self.clone.contains(&Namespace::Mount) || self.joins(Namespace::Mount) {
            true => RootChange::Pivot,
            false => RootChange::Stay,
        }
    }

    /// Whether init ends up in a user namespace that is not its parent's.
    pub(super) fn other_user(&self) -> bool {
        self.user.is_some() || self.joins(Namespace::User)
    }

    /// Whether what init sees of the host's tree is not what its parent sees, or it may do less with it.
    pub(super) fn parent_opens(&self, host: &HostFacts) -> bool {
        host.privileged
            && !host.old_mount_calls
            && (self.other_user() || self.joins(Namespace::Mount))
    }

    fn user(&self, linux: &Linux, host: &HostFacts) -> Result<Option<UserNamespace>, StepError> {
        if self.clone.contains(&Namespace::User) {
            return UserNamespace::of(linux, host).map(Some);
        }
        let given = |maps: &Option<Vec<_>>| maps.as_ref().is_some_and(|maps| !maps.is_empty());
        let mapped = given(linux.uid_mappings()) || given(linux.gid_mappings());
        // Whoever made a joined one has written its maps.
        if mapped && !self.joins(Namespace::User) {
            let cause = "mappings belong to a user namespace; list one, or remove them";
            return Err(StepError::refused(STEP, "linux.uidMappings", cause));
        }
        if !host.privileged && !self.joins(Namespace::User) {
            let cause =
                "without privilege on the host a container needs a user namespace; list one";
            return Err(StepError::refused(STEP, Namespace::User, cause));
        }
        Ok(None)
    }

    /// Whether something must be done before init is cloned that its parent cannot do to itself: setns(2) to a pid or
    /// time namespace moves only children into it; a time namespace's clocks can be set before anybody is in
    /// it; and whoever has entered a user namespace may join nothing of the host's any more.
    fn needs_stage(&self) -> bool {
        let before = [Namespace::Pid, Namespace::Time, Namespace::User];
        self.time.is_some()
            || before.into_iter().any(|kind| self.joins(kind))
            || (self.user.is_some() && !self.join.is_empty())
    }

    /// What the stage walks and what of it is left for init. `first` is what whoever comes first begins with;
    /// namespaces of the types `foreign` must be others than the host's.
    pub(super) fn steps(
        &self,
        first: Vec<Step>,
        foreign: &[Namespace],
        host: &HostFacts,
    ) -> (Vec<Step>, Vec<Step>) {
        let mut join = self.join.clone();
        for joined in &mut join {
            joined.foreign = foreign.contains(&joined.namespace);
        }
        // With privilege the user namespace comes last, as the others are joined by it; without, first, as
        // privilege over the others is found only there.
        join.sort_by_key(|joined| (joined.namespace == Namespace::User) == host.privileged);
        // Its clocks are written through /proc, where an undumpable process owns nothing if it is not root.
        let mut steps = first;
        let (user, rest) = join.split_at(match host.privileged {
            true => 0,
            false => usize::from(self.joins(Namespace::User)),
        });
        let joining = |joined: &[Joined]| (!joined.is_empty()).then(|| Step::Join(joined.to_vec()));
        steps.extend(joining(user));
        steps.extend(self.time.clone().map(Step::NewTimeNamespace));
        // From here on no process of a joined pid namespace can look into this one (CVE-2016-9962).
        steps.push(Step::Undumpable);
        let leaves = host.privileged && self.joins(Namespace::User);
        steps.extend(leaves.then_some(Step::LeaveGroups));
        steps.extend(joining(rest));
        match self.needs_stage() {
            true => (steps, Vec::new()),
            false => (Vec::new(), steps),
        }
    }
}

/// What the spec lists, each type once; the path of one to be joined.
pub(super) fn listed(linux: &Linux) -> Result<Vec<(Namespace, Option<&Path>)>, StepError> {
    let mut listed: Vec<(Namespace, Option<&Path>)> = Vec::new();
    for namespace in linux.namespaces().iter().flatten() {
        let kind = kind(namespace.typ());
        if listed.iter().any(|(known, _)| *known == kind) {
            return Err(StepError::refused(STEP, kind, "it is listed twice"));
        }
        let path = namespace.path().as_deref();
        listed.push((kind, path.filter(|path| !path.as_os_str().is_empty())));
    }
    Ok(listed)
}

fn joined(namespace: Namespace, path: &Path) -> Result<Joined, StepError> {
    if !path.is_absolute() {
        let cause = "its path must be absolute";
        return Err(StepError::refused(STEP, path.display(), cause));
    }
    let path = PathBuf::from(path);
    Ok(Joined {
        namespace,
        path,
        foreign: false,
    })
}

/// `linux.timeOffsets`, which only a new time namespace can have.
fn time(linux: &Linux, new: bool) -> Result<Option<TimeOffsets>, StepError> {
    let given = linux.time_offsets().iter().flatten();
    let mut clocks = Vec::new();
    for (clock, offset) in given {
        let known = matches!(clock.as_str(), "monotonic" | "boottime");
        let nanoseconds = offset.nanosecs().unwrap_or(0);
        let refused = |cause: &str| StepError::refused("plan time offset", clock, cause);
        if !known {
            return Err(refused(
                "only the clocks monotonic and boottime have offsets",
            ));
        }
        if nanoseconds >= 1_000_000_000 {
            return Err(refused(
                "nanosecs must be below 1000000000; add to secs instead",
            ));
        }
        clocks.push((clock.clone(), offset.secs().unwrap_or(0), nanoseconds));
    }
    clocks.sort();
    if !new && !clocks.is_empty() {
        let cause =
            "offsets belong to a new time namespace; list one without a path, or remove them";
        return Err(StepError::refused(STEP, "linux.timeOffsets", cause));
    }
    Ok(new.then_some(TimeOffsets(clocks)))
}

fn kind(kind: LinuxNamespaceType) -> Namespace {
    match kind {
        LinuxNamespaceType::Mount => Namespace::Mount,
        LinuxNamespaceType::Pid => Namespace::Pid,
        LinuxNamespaceType::Uts => Namespace::Uts,
        LinuxNamespaceType::Ipc => Namespace::Ipc,
        LinuxNamespaceType::Network => Namespace::Network,
        LinuxNamespaceType::Cgroup => Namespace::Cgroup,
        LinuxNamespaceType::User => Namespace::User,
        LinuxNamespaceType::Time => Namespace::Time,
    }
}
