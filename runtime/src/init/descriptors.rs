//! What init gets from its parent: a few descriptors, and how they lie in the list that crosses the fork.

use std::os::fd::{OwnedFd, RawFd};
use std::path::PathBuf;

use longshore_sys::Preserved;

use super::sources::{Sources, SourcesShape};
use super::talk::Talk;
use crate::launch::{Door, Root};

/// What init gets from its parent.
#[derive(Debug)]
pub(crate) struct Descriptors {
    /// Becomes standard input, output and error.
    pub(crate) stdio: [OwnedFd; 3],
    /// Become the program's descriptors.
    pub(crate) preserved: Vec<Preserved>,
    /// Init's end of the talk with its parent.
    pub(crate) talk: Talk,
    /// The container's root. None: the one of the namespace that is joined.
    pub(crate) root: Option<Root>,
    /// The container's first process, whose namespaces are joined.
    pub(crate) container: Option<OwnedFd>,
    /// What the parent opened for init.
    pub(crate) sources: Sources,
    /// Where `start` is heard.
    pub(crate) door: Door,
}

/// Which of them there are; all else in the child is closed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    root: RootShape,
    container: bool,
    listener: bool,
    sources: SourcesShape,
    /// Their numbers.
    preserved: Vec<RawFd>,
}

#[derive(Debug, PartialEq, Eq)]
enum RootShape {
    None,
    Mount,
    Path(PathBuf),
}

impl Descriptors {
    pub(crate) fn pack(self) -> (Vec<OwnedFd>, Shape) {
        let mut kept = Vec::from(self.stdio);
        kept.push(self.talk.into_fd());
        let root = match self.root {
            Some(Root::Mount(mount)) => {
                kept.push(mount);
                RootShape::Mount
            }
            Some(Root::Path(path)) => RootShape::Path(path),
            None => RootShape::None,
        };
        let (opened, sources) = self.sources.pack();
        kept.extend(opened);
        let listener = match self.door {
            Door::Parent => None,
            Door::Listener(listener) => Some(listener),
        };
        let shape = Shape {
            root,
            container: self.container.is_some(),
            listener: listener.is_some(),
            sources,
            preserved: self.preserved.iter().map(|one| one.number).collect(),
        };
        kept.extend(self.container);
        kept.extend(listener);
        kept.extend(self.preserved.into_iter().map(|one| one.descriptor));
        (kept, shape)
    }

    /// None if the list is not of this shape.
    pub(crate) fn unpack(kept: Vec<OwnedFd>, shape: &Shape) -> Option<Descriptors> {
        let mut kept = kept.into_iter();
        let stdio = [kept.next()?, kept.next()?, kept.next()?];
        let talk = Talk::from_fd(kept.next()?);
        let root = match &shape.root {
            RootShape::None => None,
            RootShape::Mount => Some(Root::Mount(kept.next()?)),
            RootShape::Path(path) => Some(Root::Path(path.clone())),
        };
        let sources = Sources::unpack(&mut kept, &shape.sources)?;
        let mut next_if = |there: bool| match there {
            true => kept.next().map(Some),
            false => Some(None),
        };
        let container = next_if(shape.container)?;
        let door = next_if(shape.listener)?.map_or(Door::Parent, Door::Listener);
        let rest: Vec<OwnedFd> = kept.collect();
        let whole = rest.len() == shape.preserved.len();
        let numbered = shape.preserved.iter().zip(rest);
        let preserved = numbered.map(|(number, descriptor)| Preserved {
            number: *number,
            descriptor,
        });
        let preserved = preserved.collect();
        whole.then_some(Descriptors {
            stdio,
            preserved,
            talk,
            root,
            container,
            sources,
            door,
        })
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
    fn what_is_packed_comes_out_again() {
        for (there, preserved) in [(true, 2), (false, 0)] {
            let given = Descriptors {
                stdio: [null(), null(), null()],
                talk: Talk::from_fd(null()),
                root: there.then(|| Root::Mount(null())),
                container: there.then(null),
                sources: Sources::default(),
                preserved: (0..preserved)
                    .map(|nth| Preserved {
                        number: 3 + 2 * nth,
                        descriptor: null(),
                    })
                    .collect(),
                door: if there {
                    Door::Listener(null())
                } else {
                    Door::Parent
                },
            };
            let numbers = |of: &Descriptors| {
                let root = match &of.root {
                    Some(Root::Mount(mount)) => Some(mount.as_raw_fd()),
                    _ => None,
                };
                let door = match &of.door {
                    Door::Listener(door) => Some(door.as_raw_fd()),
                    Door::Parent => None,
                };
                let preserved = of.preserved.iter();
                let preserved: Vec<(i32, i32)> = preserved
                    .map(|one| (one.number, one.descriptor.as_raw_fd()))
                    .collect();
                let number = |fd: &Option<OwnedFd>| fd.as_ref().map(OwnedFd::as_raw_fd);
                (root, door, number(&of.container), preserved)
            };
            let before = numbers(&given);
            let (kept, shape) = given.pack();
            assert_eq!(numbers(&Descriptors::unpack(kept, &shape).unwrap()), before);
            assert!(Descriptors::unpack(Vec::new(), &shape).is_none());
        }
    }
}
