//! Images: reference -> manifest -> layers -> root filesystem.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

pub use oci_spec::image::ImageConfiguration;

/// Which registries may be spoken to over plain HTTP, and with which credentials.
#[derive(Clone, Debug, Default)]
pub struct Registries {
    /// `host:port` of registries that speak plain HTTP. Loopback addresses always may.
    pub insecure: Vec<String>,
}

/// An image that is in the store, whole and verified.
#[derive(Clone, Debug)]
pub struct Image {
    /// As asked for.
    pub reference: String,
    /// Digest of the platform's manifest.
    pub manifest_digest: String,
    /// Its configuration.
    pub config: ImageConfiguration,
    /// Diff IDs from the bottom up.
    pub layers: Vec<String>,
}

/// What `pull` tells while it works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The registry answered; bytes will move.
    Started,
    /// Bytes fetched so far, of how many.
    Fetched {
        /// So far.
        bytes: u64,
        /// In all.
        of: u64,
    },
}

/// An error of this crate: step, subject, cause and remedy in one sentence.
#[derive(Debug, thiserror::Error)]
#[error("{step} {subject}: {cause}")]
pub struct ImageError {
    /// `resolve`, `fetch manifest`, `fetch layer`, `unpack layer`, ...
    pub step: &'static str,
    /// Reference, digest or path.
    pub subject: String,
    /// Cause and remedy.
    pub cause: String,
}

/// The image store of one instance.
#[derive(Debug)]
pub struct Store {}

impl Store {
    /// Opens or makes the store below `dir` (0700); removes what a crash left half-done.
    pub fn open(_dir: &Path, _registries: Registries) -> Result<Store, ImageError> {
        todo!()
    }
    /// Pulls (ECS's default: always asks the registry; falls back to the stored image if it cannot be reached).
    pub async fn pull(
        &self,
        _reference: &str,
        _progress: impl Fn(Progress) + Send + Sync,
    ) -> Result<Image, ImageError> {
        todo!()
    }
    /// The stored image of a manifest digest.
    pub fn image(&self, _manifest_digest: &str) -> Result<Option<Image>, ImageError> {
        todo!()
    }
    /// A new writable root over the image's layers: a detached overlay mount. The same id again: the same
    /// upper directory. Blocking.
    pub fn mount_root(&self, _id: &str, _image: &Image) -> Result<OwnedFd, ImageError> {
        todo!()
    }
    /// Removes the upper directory of `id`; fine if it is gone. Blocking.
    pub fn remove_root(&self, _id: &str) -> Result<(), ImageError> {
        todo!()
    }
    /// Ids that have an upper directory.
    pub fn roots(&self) -> Result<Vec<String>, ImageError> {
        todo!()
    }
}

/// Who runs the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups.
    pub additional_gids: Vec<u32>,
    /// From /etc/passwd of the image, `/` if absent.
    pub home: String,
}

/// Resolves `user`, `uid`, `user:group`, ... against the image's own /etc/passwd and /etc/group, resolved
/// below `root`. Blocking.
pub fn resolve_user(_root: BorrowedFd<'_>, _user: &str) -> Result<User, ImageError> {
    todo!()
}
