//! The image store of one instance: what is on disk, and the verbs on it.
//!
//! Absent on purpose: when to collect what nobody needs (the agent's to say).

pub(crate) mod blobs;
pub(crate) mod caretaker;
pub(crate) mod catalogue;
pub(crate) mod census;
pub(crate) mod collect;
mod drafts;
mod flights;
pub(crate) mod fsck;
pub(crate) mod inventory;
pub(crate) mod layers;
pub(crate) mod layout;
pub(crate) mod lease;
pub(crate) mod load;
pub(crate) mod names;
pub(crate) mod pull;
pub(crate) mod records;
#[cfg(test)]
mod replay;
mod seam;
pub(crate) mod stack;
mod sync;
mod turns;
mod upkeep;
pub(crate) mod usage;

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::digest::Digest;
use crate::error::ImageError;
use crate::reference::Reference;
use crate::registry::{Client, Registries};
use crate::{Image, Progress, disk, snapshot};
use caretaker::Caretaker;
use catalogue::Listed;
use flights::Flights;
use layout::Layout;
use lease::{Lease, Leases};
use pull::{Pull, PullBehaviour};
use sync::Syncs;
use turns::Turns;

/// The image store of one instance.
#[derive(Debug)]
pub struct Store {
    /// First, and the caretaker next, so that both have ended before the directory is anybody else's.
    syncs: Syncs,
    caretaker: Arc<Caretaker>,
    leases: Arc<Leases>,
    layout: Arc<Layout>,
    client: Client,
    flights: Flights,
    /// Held while the device of a disk is looked for, until the disk is mounted.
    disks: Mutex<()>,
    turns: Turns,
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
        Store::over(Layout::open_within(dir, patience)?, client)
    }

    fn over(layout: Layout, client: Client) -> Result<Store, ImageError> {
        sync::drop_doubtful(&layout)?;
        let (layout, leases) = (Arc::new(layout), Arc::<Leases>::default());
        let caretaker = Caretaker::new(Arc::clone(&layout), Arc::clone(&leases));
        let caretaker = Arc::new(caretaker);
        // A crash may have left them work.
        caretaker.wake();
        let syncs = Syncs::new(Arc::clone(&layout), Arc::clone(&caretaker));
        let mut unsynced = layers::unsynced(&layout)?;
        unsynced.extend(blobs::unsynced(&layout)?);
        if !unsynced.is_empty() {
            syncs.later()(unsynced);
        }
        let turns = Turns::new(client.registries());
        Ok(Store {
            syncs,
            caretaker,
            leases,
            layout,
            client,
            flights: Flights::default(),
            disks: Mutex::default(),
            turns,
        })
    }

    /// Whether the original blobs of what is pulled or loaded from now on are kept, which exact copies are made from; at first
    /// they are not. What is here already stays as it is: its blobs come with the next pull that asks a registry.
    pub fn keep_blobs(&self, keep: bool) {
        self.layout.keep_blobs(keep);
    }

    /// Whether another process, or this one, has the store below `dir` open just now.
    pub fn is_open_elsewhere(dir: &Path) -> bool {
        Layout::is_locked(dir)
    }

    /// [`Store::pull_held`] by ECS's default behaviour, for who takes care by other means that nothing collects the
    /// image.
    pub async fn pull(
        &self,
        reference: &str,
        progress: impl Fn(Progress) + Send + Sync,
    ) -> Result<Image, ImageError> {
        let pulled = self.pull_held(reference, PullBehaviour::Default, progress);
        pulled.await.map(|(image, _)| image)
    }

    /// Pulls. A reference with a digest that is stored asks nobody, unless the behaviour is to ask always. May be dropped
    /// at any await, and asked again. Nothing collects the image before the lease is dropped: keep it until what refers
    /// to the image is on disk.
    pub async fn pull_held(
        &self,
        reference: &str,
        behaviour: PullBehaviour,
        progress: impl Fn(Progress) + Send + Sync,
    ) -> Result<(Image, Arc<Lease>), ImageError> {
        let lease = Arc::new(self.leases.open());
        let pull = Pull {
            layout: &self.layout,
            client: &self.client,
            flights: &self.flights,
            lease: &lease,
            behaviour,
            turns: &self.turns,
            syncs: &self.syncs,
            asked: reference,
            reference: Reference::parse(reference)?,
            progress,
        };
        let image = {
            let _work = self.leases.work();
            pull.run().await?
        };
        if let Ok(manifest) = Digest::parse(&image.manifest_digest) {
            records::use_now(&self.layout, &manifest);
        }
        self.caretaker.wake();
        Ok((image, lease))
    }

    /// Returns when all that was pulled so far survives a power cut; a pull does not wait for that. Blocking.
    ///
    /// # Errors
    /// The disk refused. The layers serve until the next boot, and are then pulled again.
    pub fn sync(&self) -> Result<(), ImageError> {
        self.syncs.settle()
    }

    /// The stored image of a manifest digest, None unless it is whole. Its `reference` is the digest. Blocking.
    pub fn image(&self, manifest_digest: &str) -> Result<Option<Image>, ImageError> {
        let digest = Digest::parse(manifest_digest)
            .map_err(|cause| ImageError::new("read stored image", manifest_digest, cause))?;
        // Who mounts it holds it anew; who only looks at it need not.
        records::image(&self.layout, &digest, manifest_digest)
    }

    /// A new writable root over the image's layers: a detached overlay mount. The same id again: the same
    /// upper directory, and an error if it belongs to another image. Blocking.
    ///
    /// The caller must not have two mounts of one id in use at once: overlayfs leaves that undefined.
    pub fn mount_root(&self, id: &str, image: &Image) -> Result<OwnedFd, ImageError> {
        self.mount(id, image, None)
    }

    /// [`Store::mount_root`], and what is written lies on a disk that [`Store::make_disk`] made. Blocking.
    pub fn mount_root_on(
        &self,
        disk: &str,
        id: &str,
        image: &Image,
    ) -> Result<OwnedFd, ImageError> {
        snapshot::check_id(disk)?;
        self.mount(id, image, Some(disk))
    }

    fn mount(&self, id: &str, image: &Image, disk: Option<&str>) -> Result<OwnedFd, ImageError> {
        // Once the root is there it stands on them by itself.
        let lease = self.leases.open();
        let layers: Result<Vec<Digest>, _> =
            image.layers.iter().map(|id| Digest::parse(id)).collect();
        lease.hold_layers(&layers.unwrap_or_default());
        // Whoever looks for the device of a disk must find it mounted, or not there.
        let _mounting = disk.map(|_| self.disks.lock());
        snapshot::mount(&self.layout, id, image, disk)
    }

    /// A disk of so many bytes for the roots of one task, unless it is there; an error if it is and has another size.
    /// It takes of the store's disk what is written to it, no more. Blocking; needs mkfs.ext4(8) and loop(4).
    pub fn make_disk(&self, name: &str, bytes: u64) -> Result<(), ImageError> {
        snapshot::check_id(name)?;
        disk::make(&self.layout, name, bytes)
    }

    /// Removes a disk with all that was written to it; fine if it is gone. Blocking.
    pub fn remove_disk(&self, name: &str) -> Result<(), ImageError> {
        snapshot::check_id(name)?;
        disk::remove(&self.layout, name)
    }

    /// The names of all disks. Blocking.
    pub fn disks(&self) -> Result<Vec<String>, ImageError> {
        self.layout.list("disks")
    }

    /// Removes the upper directory of `id`; fine if it is gone. All mounts of it must be gone. Blocking.
    pub fn remove_root(&self, id: &str) -> Result<(), ImageError> {
        let manifest = snapshot::stands_on(&self.layout, id).ok();
        let manifest = manifest.and_then(|stands| Digest::parse(&stands.manifest?).ok());
        if let Some(manifest) = manifest {
            records::use_now(&self.layout, &manifest);
        }
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
