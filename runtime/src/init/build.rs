//! The steps that build the container's root, and what they hand to later ones.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::Mode;

use super::filesystem::{self, Stamp, Tree};
use super::floor::{Floors, Place};
use super::sources::Sources;
use super::{device, out_of_order};
use crate::StepError;
use crate::error::Context;
use crate::plan::{Bind, Filesystem, RootChange, Spread, Step};

/// What steps hand to later steps.
#[derive(Debug)]
pub(super) struct Build {
    sources: Sources,
    /// The container's root, once it is the root.
    root: Option<OwnedFd>,
    way: RootChange,
    /// What masks directories.
    empty: Option<Stamp>,
    /// Mounts that become read-only at the end.
    sealed: Vec<OwnedFd>,
    floors: Floors,
}

impl Build {
    pub(super) fn new(sources: Sources) -> Build {
        Build {
            sources,
            root: None,
            way: RootChange::default(),
            empty: None,
            sealed: Vec::new(),
            floors: Floors::default(),
        }
    }

    pub(super) fn root(&self) -> Result<BorrowedFd<'_>, StepError> {
        let root = self.root.as_ref().map(AsFd::as_fd);
        root.ok_or_else(|| out_of_order("resolve", Path::new("/")))
    }

    /// Enters the root; what is left of the host is in the sources.
    pub(super) fn enter(
        &mut self,
        mount: &OwnedFd,
        spread: Spread,
        way: RootChange,
    ) -> Result<(), StepError> {
        self.way = way;
        self.root = Some(filesystem::change_root(mount, spread, way)?);
        Ok(())
    }

    /// Furnishes a root that stands at its path on the host still: all is done below its descriptor.
    pub(super) fn attach_root(
        &mut self,
        mount: &OwnedFd,
        path: &Path,
        spread: Spread,
        way: RootChange,
    ) -> Result<(), StepError> {
        self.way = way;
        filesystem::attach_root(mount, path, spread, way)?;
        let root = rustix::io::fcntl_dupfd_cloexec(mount, 0);
        self.root = Some(root.context("attach root", path.display())?);
        Ok(())
    }

    /// Enters a root that was attached before.
    pub(super) fn reenter(&mut self, mount: &OwnedFd, way: RootChange) -> Result<(), StepError> {
        if way == RootChange::Chroot {
            let cause = "hooks of the creation need a root that is mounted while the host's tree is there; \
                         remove --no-pivot or the hooks";
            return Err(StepError::refused("change root", "--no-pivot", cause));
        }
        self.way = way;
        self.root = Some(filesystem::reroot(mount, way)?);
        Ok(())
    }

    /// None: the step is none of these.
    pub(super) fn take(&mut self, step: &Step) -> Option<Result<(), StepError>> {
        if let Some(taken) = self.sources.take(step) {
            return Some(taken);
        }
        Some(match step {
            Step::IsolateMounts => filesystem::isolate(),
            Step::ClearUmask => {
                rustix::process::umask(Mode::empty());
                Ok(())
            }
            // Of a container that is there.
            Step::OpenRoot => filesystem::slash().map(|root| self.root = Some(root)),
            Step::Mount(wanted) => self.mount(wanted),
            Step::AttachFilesystem { slot, filesystem } => {
                self.attach_filesystem(*slot, filesystem)
            }
            Step::MountCgroup(view) => self.with_root(|build, root| {
                filesystem::cgroup_view(root, view, &mut build.sources.cgroups)
            }),
            Step::Remount(wanted) => self.with_root(|_, root| filesystem::remount(root, wanted)),
            Step::AttachBind(bind) => self.attach_bind(bind),
            Step::RealDev => self.with_root(|_, root| device::require_real_dev(root)),
            Step::Device(wanted) => self
                .place("make device", &wanted.path)
                .and_then(|place| device::node(&place, wanted)),
            Step::FindDevice(wanted) => self.with_root(|_, root| device::find(root, wanted)),
            Step::BindDevice(wanted) => self.with_root(|build, root| {
                let place = build.floors.place(root, &wanted.path, "bind device")?;
                let nodes = build.sources.nodes.as_mut();
                let nodes = nodes.ok_or_else(|| out_of_order("bind device", &wanted.path))?;
                device::bind(root, &place, wanted, nodes)
            }),
            Step::OwnNull => self
                .place("open null device", Path::new("/dev/null"))
                .and_then(|place| device::own_null(&place)),
            Step::Symlink { path, target } => self
                .place("make link", path)
                .and_then(|place| device::link(&place, target.as_ref())),
            Step::ReadOnlyPath(path) => self.with_root(|_, root| filesystem::read_only(root, path)),
            Step::MaskPath(path) => self.with_root(|build, root| {
                let null = build.sources.null.as_mut();
                let null = null.ok_or_else(|| out_of_order("mask", path))?;
                filesystem::mask(root, path, null, &mut build.empty)
            }),
            Step::Hide(path) => {
                self.with_root(|build, root| filesystem::hide(root, path, &mut build.empty))
            }
            Step::Seal => self
                .sealed
                .drain(..)
                .try_for_each(|mount| filesystem::seal(&mount)),
            Step::RootPropagation(spread) => filesystem::set_root_propagation(*spread),
            Step::ReadOnlyRoot => filesystem::read_only_root(),
            _ => return None,
        })
    }

    /// Lends the root out, beside all else.
    fn with_root(
        &mut self,
        act: impl FnOnce(&mut Build, BorrowedFd<'_>) -> Result<(), StepError>,
    ) -> Result<(), StepError> {
        let root = self
            .root
            .take()
            .ok_or_else(|| out_of_order("resolve", Path::new("/")))?;
        let done = act(self, root.as_fd());
        self.root.get_or_insert(root);
        done
    }

    fn mount(&mut self, wanted: &Filesystem) -> Result<(), StepError> {
        let mount = filesystem::mount(self.root()?, wanted)?;
        self.settle(mount, wanted)
    }

    fn attach_filesystem(&mut self, slot: usize, wanted: &Filesystem) -> Result<(), StepError> {
        let Some(Tree::Mount(mount)) = self.sources.trees.remove(&slot) else {
            return Err(out_of_order("attach file system", &wanted.destination));
        };
        filesystem::attach_filesystem(self.root()?, &mount, wanted)?;
        self.settle(mount, wanted)
    }

    fn settle(&mut self, mount: OwnedFd, wanted: &Filesystem) -> Result<(), StepError> {
        if wanted.sealed {
            let sealed = rustix::io::fcntl_dupfd_cloexec(&mount, 0);
            self.sealed
                .push(sealed.context("hold", wanted.destination.display())?);
        }
        self.lay(mount, &wanted.destination)
    }

    fn attach_bind(&mut self, bind: &Bind) -> Result<(), StepError> {
        let tree = self.sources.trees.remove(&bind.slot);
        match tree.ok_or_else(|| out_of_order("attach bind", &bind.destination))? {
            Tree::Mount(mount) => {
                let mount = filesystem::attach_bind(self.root()?, mount, bind)?;
                self.lay(mount, &bind.destination)
            }
            Tree::Link(text) => device::link(&self.place("make link", &bind.destination)?, &text),
        }
    }

    /// Of a mount that was attached.
    fn lay(&mut self, mount: OwnedFd, destination: &Path) -> Result<(), StepError> {
        if destination == Path::new("/") {
            self.root = Some(filesystem::reroot(&mount, self.way)?);
        }
        self.floors.lay(destination, mount);
        Ok(())
    }

    /// Where something that is no mount is made.
    pub(super) fn place<'a>(&'a self, step: &str, path: &'a Path) -> Result<Place<'a>, StepError> {
        self.floors.place(self.root()?, path, step)
    }
}
