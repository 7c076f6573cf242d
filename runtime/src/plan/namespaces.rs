//! Which namespaces a container makes and which it joins.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{Linux, LinuxNamespaceType};

use super::step::Namespace;
use crate::StepError;

/// The namespaces of a spec, sorted by how they come to be.
#[derive(Debug, Default)]
pub(super) struct Namespaces {
    pub(super) clone: Vec<Namespace>,
    pub(super) new_cgroup: bool,
    pub(super) join_pid: Option<String>,
    pub(super) join: Vec<(Namespace, PathBuf)>,
}

impl Namespaces {
    pub(super) fn of(linux: &Linux) -> Result<Namespaces, StepError> {
        let mut sorted = Namespaces::default();
        let mut seen = Vec::new();
        for namespace in linux.namespaces().iter().flatten() {
            let kind = kind(namespace.typ())?;
            if seen.contains(&kind) {
                return Err(StepError::refused(
                    "plan namespace",
                    kind,
                    "it is listed twice",
                ));
            }
            seen.push(kind);
            match namespace
                .path()
                .as_ref()
                .filter(|path| !path.as_os_str().is_empty())
            {
                Some(path) => sorted.join(kind, path)?,
                None if kind == Namespace::Cgroup => sorted.new_cgroup = true,
                None => sorted.clone.push(kind),
            }
        }
        if !sorted.clone.contains(&Namespace::Mount) {
            return Err(StepError::refused(
                "plan namespace",
                Namespace::Mount,
                "a container needs a new one",
            ));
        }
        Ok(sorted)
    }

    fn join(&mut self, kind: Namespace, path: &Path) -> Result<(), StepError> {
        if !path.is_absolute() {
            return Err(StepError::refused(
                "plan namespace",
                path.display(),
                "its path must be absolute",
            ));
        }
        match kind {
            Namespace::Mount => {
                return Err(StepError::refused(
                    "plan namespace",
                    path.display(),
                    "a mount namespace is never joined",
                ));
            }
            Namespace::Pid => self.join_pid = Some(path.to_string_lossy().into_owned()),
            other => self.join.push((other, path.to_owned())),
        }
        Ok(())
    }
}

/// All namespaces that a spec lists: the ones in which its container differs from the host.
pub(super) fn listed(linux: &Linux) -> Result<Vec<Namespace>, StepError> {
    let listed = linux.namespaces().iter().flatten();
    listed.map(|namespace| kind(namespace.typ())).collect()
}

fn kind(kind: LinuxNamespaceType) -> Result<Namespace, StepError> {
    Ok(match kind {
        LinuxNamespaceType::Mount => Namespace::Mount,
        LinuxNamespaceType::Pid => Namespace::Pid,
        LinuxNamespaceType::Uts => Namespace::Uts,
        LinuxNamespaceType::Ipc => Namespace::Ipc,
        LinuxNamespaceType::Network => Namespace::Network,
        LinuxNamespaceType::Cgroup => Namespace::Cgroup,
        LinuxNamespaceType::User | LinuxNamespaceType::Time => {
            return Err(StepError::refused(
                "plan namespace",
                kind,
                "not supported by this runtime; remove it from the spec",
            ));
        }
    })
}
