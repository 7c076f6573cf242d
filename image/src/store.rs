//! The image store of one instance: what is on disk, and the verbs on it.
//!
//! Absent on purpose: garbage collection (a later issue), and compressed blobs, which are not kept.

pub(crate) mod catalogue;
pub(crate) mod layers;
pub(crate) mod layout;
pub(crate) mod load;
pub(crate) mod pull;
pub(crate) mod records;
pub(crate) mod stack;
pub(crate) mod usage;

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::digest::Digest;
use crate::error::ImageError;
use crate::reference::Reference;
use crate::registry::{Client, Registries};
use crate::{Image, Progress, snapshot};
use layout::Layout;
use pull::{Flights, Pull};

/// The image store of one instance.
#[derive(Debug)]
pub struct Store {
    layout: Arc<Layout>,
    client: Client,
    flights: Flights,
}

impl Store {
    /// Opens or makes the store below `dir` (0700); removes what a crash left half-done. Fails if another
    /// process has it open. Blocking.
    pub fn open(dir: &Path, registries: Registries) -> Result<Store, ImageError> {
        Store::open_within(dir, registries, Duration::ZERO)
    }

    /// The same, but waits so long for another process to close it. Blocking.
    pub fn open_within(
        dir: &Path,
        registries: Registries,
        patience: Duration,
    ) -> Result<Store, ImageError> {
        let client = Client::new(registries)?;
        let layout = Layout::open_within(dir, patience)?;
        layers::drop_doubtful(&layout)?;
        Ok(Store {
            layout: Arc::new(layout),
            client,
            flights: Flights::default(),
        })
    }

    /// Whether another process, or this one, has the store below `dir` open just now.
    pub fn is_open_elsewhere(dir: &Path) -> bool {
        Layout::is_locked(dir)
    }

    /// Pulls (ECS's default: always asks the registry; falls back to the stored image if it cannot be reached).
    /// A reference with a digest that is stored asks nobody. May be dropped at any await, and asked again.
    pub async fn pull(
        &self,
        reference: &str,
        progress: impl Fn(Progress) + Send + Sync,
    ) -> Result<Image, ImageError> {
        let pull = Pull {
            layout: &self.layout,
            client: &self.client,
            flights: &self.flights,
            asked: reference,
            reference: Reference::parse(reference)?,
            progress,
        };
        pull.run().await
    }

    /// The stored image of a manifest digest, None unless it is whole. Its `reference` is the digest. Blocking.
    pub fn image(&self, manifest_digest: &str) -> Result<Option<Image>, ImageError> {
        let digest = Digest::parse(manifest_digest)
            .map_err(|cause| ImageError::new("read stored image", manifest_digest, cause))?;
        records::image(&self.layout, &digest, manifest_digest)
    }

    /// A new writable root over the image's layers: a detached overlay mount. The same id again: the same
    /// upper directory, and an error if it belongs to another image. Blocking.
    ///
    /// The caller must not have two mounts of one id in use at once: overlayfs leaves that undefined.
    pub fn mount_root(&self, id: &str, image: &Image) -> Result<OwnedFd, ImageError> {
        snapshot::mount(&self.layout, id, image)
    }

    /// Removes the upper directory of `id`; fine if it is gone. All mounts of it must be gone. Blocking.
    pub fn remove_root(&self, id: &str) -> Result<(), ImageError> {
        snapshot::remove(&self.layout, id)
    }

    /// Ids that have an upper directory. Blocking.
    pub fn roots(&self) -> Result<Vec<String>, ImageError> {
        let mut ids = self.layout.list("roots")?;
        ids.sort_unstable();
        Ok(ids)
    }
}

/// Sixteen bytes of the kernel's randomness (getrandom(2)).
pub(crate) fn random_bytes() -> [u8; 16] {
    let mut bytes = [0; 16];
    // 16 bytes are never cut short once the pool is ready, and without GRND_NONBLOCK the call waits for that.
    while rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).is_err() {
        std::thread::yield_now();
    }
    bytes
}

/// A name that nobody else has.
pub(crate) fn random_name() -> String {
    hex::encode(random_bytes())
}
