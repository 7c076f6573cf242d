//! What init gets from its parent: a few descriptors, and how they lie in the list that crosses the fork.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use super::talk::Talk;
use crate::launch::{Door, Root};

/// What init gets from its parent.
#[derive(Debug)]
pub(crate) struct Descriptors {
    /// Becomes standard input, output and error.
    pub(crate) stdio: [OwnedFd; 3],
    /// Init's end of the talk with its parent.
    pub(crate) talk: Talk,
    /// The container's root.
    pub(crate) root: Root,
    /// Where `start` is heard.
    pub(crate) door: Door,
}

/// Which of them there are; all else in the child is closed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    listener: bool,
    root: Option<PathBuf>,
}

impl Descriptors {
    pub(crate) fn pack(self) -> (Vec<OwnedFd>, Shape) {
        let mut kept = Vec::from(self.stdio);
        kept.push(self.talk.into_fd());
        let root = match self.root {
            Root::Mount(mount) => {
                kept.push(mount);
                None
            }
            Root::Path(path) => Some(path),
        };
        let listener = match self.door {
            Door::Parent => None,
            Door::Listener(listener) => Some(listener),
        };
        let shape = Shape {
            listener: listener.is_some(),
            root,
        };
        kept.extend(listener);
        (kept, shape)
    }

    /// None if the list is not of this shape.
    pub(crate) fn unpack(kept: Vec<OwnedFd>, shape: &Shape) -> Option<Descriptors> {
        let mut kept = kept.into_iter();
        let stdio = [kept.next()?, kept.next()?, kept.next()?];
        let talk = Talk::from_fd(kept.next()?);
        let root = match &shape.root {
            None => Root::Mount(kept.next()?),
            Some(path) => Root::Path(path.clone()),
        };
        let door = if shape.listener {
            Door::Listener(kept.next()?)
        } else {
            Door::Parent
        };
        Some(Descriptors {
            stdio,
            talk,
            root,
            door,
        })
    }
}
