//! What comes from the host: opened while the host's tree is in sight, by init, or by its parent where init would not
//! be allowed to, and used once the root is there.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsString;
use std::os::fd::OwnedFd;

use super::device::{self, Nodes};
use super::filesystem::{self, Maps, Stamp, Tree};
use crate::StepError;
use crate::cgroup::Place;
use crate::plan::Step;

/// What was opened.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    /// What masks files.
    pub(super) null: Option<Stamp>,
    /// By slot.
    pub(super) trees: BTreeMap<usize, Tree>,
    pub(super) nodes: Option<Nodes>,
    pub(super) cgroups: Vec<Option<Stamp>>,
    /// Where this process's cgroups are, if its parent knows.
    places: Vec<Place>,
    maps: Maps,
}

/// How the descriptors of [`Sources`] that a parent opened lie in a list.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct SourcesShape {
    null: bool,
    /// Slots; the text of one that is a symlink.
    trees: Vec<(usize, Option<OsString>)>,
    /// How many nodes, and whether they lie in one cabinet.
    nodes: Option<(usize, bool)>,
    places: Vec<Place>,
}

impl Sources {
    /// Opens what a plan's parent opens.
    pub(crate) fn open(steps: &[Step]) -> Result<Sources, StepError> {
        let mut sources = Sources::default();
        for step in steps {
            let taken = sources.take(step);
            taken.unwrap_or_else(|| Err(StepError::refused("open", step, "no parent's step")))?;
        }
        Ok(sources)
    }

    /// Tells where the process will be, so that it need not look for itself.
    pub(crate) fn tell_places(&mut self, places: Vec<Place>) {
        self.places = places;
    }

    /// None: the step opens nothing.
    pub(super) fn take(&mut self, step: &Step) -> Option<Result<(), StepError>> {
        let taken = match step {
            Step::OpenNull => filesystem::open_null().map(|null| self.null = Some(null)),
            Step::OpenBind(source) => filesystem::open_bind(source, &mut self.maps)
                .map(|tree| drop(self.trees.insert(source.slot, tree))),
            Step::OpenFilesystem { slot, filesystem } => filesystem::open_filesystem(filesystem)
                .map(|mount| drop(self.trees.insert(*slot, Tree::Mount(mount)))),
            Step::OpenCgroups(hierarchies) => {
                let opened = filesystem::open_cgroups(hierarchies, &self.places);
                opened.map(|groups| self.cgroups = groups)
            }
            Step::MakeDevices(devices) => {
                device::make_nodes(devices).map(|nodes| self.nodes = Some(nodes))
            }
            Step::OpenDevice(device) => device::open_node(device).map(|clone| {
                match self.nodes.get_or_insert(Nodes::Clones(VecDeque::new())) {
                    Nodes::Clones(clones) => clones.push_back(clone),
                    made => *made = Nodes::Clones([clone].into()),
                }
            }),
            _ => return None,
        };
        Some(taken)
    }

    /// For the way into init: descriptors, and how they lie.
    pub(super) fn pack(self) -> (Vec<OwnedFd>, SourcesShape) {
        let mut kept = Vec::new();
        let mut shape = SourcesShape {
            null: self.null.is_some(),
            places: self.places,
            ..SourcesShape::default()
        };
        kept.extend(self.null.map(Stamp::into_mount));
        for (slot, tree) in self.trees {
            match tree {
                Tree::Mount(mount) => {
                    kept.push(mount);
                    shape.trees.push((slot, None));
                }
                Tree::Link(text) => shape.trees.push((slot, Some(text))),
            }
        }
        match self.nodes {
            Some(Nodes::Cabinet { mount, all, .. }) => {
                kept.push(mount);
                shape.nodes = Some((all, true));
            }
            Some(Nodes::Clones(clones)) => {
                shape.nodes = Some((clones.len(), false));
                kept.extend(clones);
            }
            None => {}
        }
        (kept, shape)
    }

    /// None if the list is not of this shape.
    pub(super) fn unpack(
        kept: &mut impl Iterator<Item = OwnedFd>,
        shape: &SourcesShape,
    ) -> Option<Sources> {
        let mut sources = Sources {
            places: shape.places.clone(),
            ..Sources::default()
        };
        if shape.null {
            sources.null = Some(Stamp::new(kept.next()?));
        }
        for (slot, link) in &shape.trees {
            let tree = match link {
                Some(text) => Tree::Link(text.clone()),
                None => Tree::Mount(kept.next()?),
            };
            sources.trees.insert(*slot, tree);
        }
        sources.nodes = match shape.nodes {
            None => None,
            Some((all, true)) => Some(Nodes::Cabinet {
                mount: kept.next()?,
                bound: 0,
                all,
            }),
            Some((all, false)) => {
                let clones: VecDeque<OwnedFd> = kept.take(all).collect();
                (clones.len() == all).then_some(Some(Nodes::Clones(clones)))?
            }
        };
        Some(sources)
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    fn null() -> OwnedFd {
        std::fs::File::open("/dev/null").unwrap().into()
    }

    #[test]
    fn what_is_packed_comes_out_again_in_its_place() {
        let cabinet = |mount| Nodes::Cabinet {
            mount,
            bound: 0,
            all: 7,
        };
        for nodes in [
            None,
            Some(cabinet(null())),
            Some(Nodes::Clones([null(), null()].into())),
        ] {
            let mut given = Sources {
                null: Some(Stamp::new(null())),
                nodes,
                ..Sources::default()
            };
            given.trees.insert(3, Tree::Mount(null()));
            given.trees.insert(5, Tree::Link("text".into()));
            given.trees.insert(9, Tree::Mount(null()));
            let before = format!("{given:?}");
            let (kept, shape) = given.pack();
            let last = kept.last().unwrap().as_raw_fd();
            let mut kept = kept.into_iter().chain([null()]);
            let found = Sources::unpack(&mut kept, &shape).unwrap();
            assert_eq!(format!("{found:?}"), before, "up to {last}");
            assert_eq!(kept.count(), 1, "what comes after is left alone");
            assert!(Sources::unpack(&mut std::iter::empty(), &shape).is_none());
        }
    }
}
