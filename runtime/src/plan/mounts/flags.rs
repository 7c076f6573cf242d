//! What can be set on a mount: the attributes of mount_setattr(2), and its propagation.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::StepError;

/// MOUNT_ATTR_* bits to set and to clear on a mount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountFlags {
    /// Bits to set.
    pub set: u64,
    /// Bits to clear first.
    pub clear: u64,
}

/// Mount propagation, mount_namespaces(7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Propagation {
    /// Nothing crosses.
    #[default]
    Private,
    /// What the host mounts later below a bind appears here too.
    Slave,
    /// What either side mounts later below a bind appears on the other too.
    Shared,
    /// Private, and cannot be bind-mounted.
    Unbindable,
}

/// A propagation, and whether it is asked for the mounts below too (the spellings with `r`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spread {
    /// Which.
    pub propagation: Propagation,
    /// Whether the mounts below get it too.
    pub recursive: bool,
}

impl MountFlags {
    /// Only sets.
    pub fn setting(set: u64) -> MountFlags {
        MountFlags { set, clear: 0 }
    }

    /// Whether the mount is to be read-only.
    pub fn read_only(self) -> bool {
        self.set & libc::MOUNT_ATTR_RDONLY != 0
    }

    pub(super) fn change(&mut self, set: u64, clear: u64) {
        self.set = (self.set & !clear) | set;
        self.clear = (self.clear & !set) | clear;
        // The atime field is cleared as a whole even where a bit of it is set again: the kernel refuses half of it.
        if clear & libc::MOUNT_ATTR__ATIME != 0 {
            self.clear |= libc::MOUNT_ATTR__ATIME;
        }
    }

    /// Without the bits, whichever way they are asked for.
    pub(crate) fn without(self, bits: u64) -> MountFlags {
        MountFlags {
            set: self.set & !bits,
            clear: self.clear & !bits,
        }
    }
}

impl fmt::Display for MountFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let on = [
            (libc::MOUNT_ATTR_RDONLY, "ro"),
            (libc::MOUNT_ATTR_NOSUID, "nosuid"),
            (libc::MOUNT_ATTR_NODEV, "nodev"),
            (libc::MOUNT_ATTR_NOEXEC, "noexec"),
            (libc::MOUNT_ATTR_NOSYMFOLLOW, "nosymfollow"),
            (libc::MOUNT_ATTR_NODIRATIME, "nodiratime"),
            (libc::MOUNT_ATTR_NOATIME, "noatime"),
            (libc::MOUNT_ATTR_STRICTATIME, "strictatime"),
        ];
        let mut names: Vec<&str> = on
            .iter()
            .filter(|(bit, _)| self.set & bit != 0)
            .map(|(_, name)| *name)
            .collect();
        if !self.read_only() {
            names.insert(0, "rw");
        }
        f.write_str(&names.join(","))
    }
}

impl Propagation {
    /// The MS_* bit of mount_setattr(2).
    pub fn bit(self) -> u64 {
        match self {
            Propagation::Private => libc::MS_PRIVATE,
            Propagation::Slave => libc::MS_SLAVE,
            Propagation::Shared => libc::MS_SHARED,
            Propagation::Unbindable => libc::MS_UNBINDABLE,
        }
    }
}

impl fmt::Display for Propagation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Propagation::Private => "private",
            Propagation::Slave => "slave",
            Propagation::Shared => "shared",
            Propagation::Unbindable => "unbindable",
        })
    }
}

impl Spread {
    /// One of the eight spellings.
    pub(super) fn named(name: &str) -> Option<Spread> {
        let (recursive, plain) = match name.strip_prefix('r') {
            Some(plain) => (true, plain),
            None => (false, name),
        };
        let propagation = match plain {
            "private" => Propagation::Private,
            "slave" => Propagation::Slave,
            "shared" => Propagation::Shared,
            "unbindable" => Propagation::Unbindable,
            _ => return None,
        };
        Some(Spread {
            propagation,
            recursive,
        })
    }

    /// `linux.rootfsPropagation`.
    pub(in crate::plan) fn of_root(name: Option<&str>) -> Result<Spread, StepError> {
        let name = name.filter(|name| !name.is_empty()).unwrap_or("rprivate");
        Spread::named(name).ok_or_else(|| {
            StepError::refused(
                "plan root propagation",
                name,
                "it must be one of private, slave, shared, unbindable, or one of them with an `r` before it",
            )
        })
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}{}",
            if self.recursive { "r" } else { "" },
            self.propagation
        )
    }
}
