//! Pulling: from a reference to an image that is on disk, whole and verified.
//!
//! When the registry is asked is [`PullBehaviour`]'s word. A reference with a digest cannot change and asks nobody
//! once it is stored, unless the behaviour is to ask always.
//!
//! Dropping the future at any point leaves whole layers (which are right by their name) and nothing else.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::future::try_join_all;
use tokio::task::spawn_blocking;

use super::blobs;
use super::drafts::Drafts;
use super::flights::Flights;
use super::layers::{self, Missed};
use super::layout::Layout;
use super::lease::Lease;
use super::records::{self, Pulled};
use super::stack;
use super::sync::Syncs;
use super::turns::{Turn, Turns};
use crate::digest::Digest;
use crate::error::ImageError;
use crate::manifest::platform::{self, Host};
use crate::manifest::{self, Descriptor, Document, Manifest};
use crate::reference::Reference;
use crate::registry::Client;
use crate::registry::blob::Blob;
use crate::registry::fault::Fault;
use crate::unpack::stream::{Piece, channel};
use crate::{Image, ImageConfiguration, LayerProgress, Progress};

/// Progress is told at most once per so many bytes.
const PROGRESS_STEP: u64 = 1024 * 1024;

/// When a registry is asked, as ECS has it (`ECS_IMAGE_PULL_BEHAVIOR`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PullBehaviour {
    /// Each time; if the registry cannot be reached, the stored image serves. A refusal (no such image, no such
    /// login) is an error all the same.
    #[default]
    Default,
    /// Each time; if the registry cannot be reached, the pull fails.
    Always,
    /// Only if the store has no image under the reference. It may be collected, and is pulled again then.
    Once,
    /// As `Once`; whoever chooses it also wants that nothing is collected.
    PreferCached,
}

impl std::str::FromStr for PullBehaviour {
    type Err = String;

    fn from_str(text: &str) -> Result<PullBehaviour, String> {
        match text {
            "default" => Ok(PullBehaviour::Default),
            "always" => Ok(PullBehaviour::Always),
            "once" => Ok(PullBehaviour::Once),
            "prefer-cached" => Ok(PullBehaviour::PreferCached),
            _ => Err("it is one of default, always, once, prefer-cached".to_owned()),
        }
    }
}

impl std::fmt::Display for PullBehaviour {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            PullBehaviour::Default => "default",
            PullBehaviour::Always => "always",
            PullBehaviour::Once => "once",
            PullBehaviour::PreferCached => "prefer-cached",
        })
    }
}

/// What the registry says an image is.
struct Resolved {
    top: Digest,
    /// Where `top` is an index.
    index_bytes: Option<Vec<u8>>,
    manifest_digest: Digest,
    manifest_bytes: Vec<u8>,
    config_bytes: Vec<u8>,
    config: ImageConfiguration,
    /// From the bottom up, each with its diff ID.
    layers: Vec<(Descriptor, Digest)>,
}

impl Resolved {
    /// Where its blobs lie, if they are kept.
    fn blobs(&self) -> Vec<String> {
        let layers = self.layers.iter().map(|(blob, _)| &blob.digest);
        let index = self.index_bytes.iter().map(|_| &self.top);
        layers.chain(index).map(blobs::path).collect()
    }
}

/// One pull's view of the store.
pub(crate) struct Pull<'a, P> {
    pub(crate) layout: &'a Arc<Layout>,
    pub(crate) client: &'a Client,
    pub(crate) flights: &'a Flights,
    /// Holds all that this pull finds or makes, each before it is looked for.
    pub(crate) lease: &'a Arc<Lease>,
    pub(crate) behaviour: PullBehaviour,
    pub(crate) turns: &'a Turns,
    pub(crate) syncs: &'a Syncs,
    pub(crate) asked: &'a str,
    pub(crate) reference: Reference,
    pub(crate) progress: P,
}

impl<P: Fn(Progress) + Send + Sync> Pull<'_, P> {
    pub(crate) async fn run(&self) -> Result<Image, ImageError> {
        let content_if_stored = match self.behaviour {
            PullBehaviour::Default => self.reference.digest.is_some(),
            PullBehaviour::Always => false,
            PullBehaviour::Once | PullBehaviour::PreferCached => true,
        };
        if content_if_stored && let Some((_, image)) = self.stored().await? {
            return Ok(image);
        }
        match self.ask_registry().await {
            Ok(image) => Ok(image),
            Err(Fault::Refused(error)) => Err(error),
            Err(Fault::Unreachable(error)) if self.behaviour == PullBehaviour::Always => Err(error),
            Err(Fault::Unreachable(error)) => match self.stored().await? {
                Some((_, image)) => {
                    tracing::warn!(%error, digest = image.manifest_digest, "using the stored image");
                    Ok(image)
                }
                None => Err(error),
            },
        }
    }

    /// The image that the reference named last, if it is whole, and what the registry called it.
    async fn stored(&self) -> Result<Option<(Option<String>, Image)>, ImageError> {
        let (layout, reference) = (Arc::clone(self.layout), self.reference.clone());
        let (asked, lease) = (self.asked.to_owned(), Arc::clone(self.lease));
        blocking(move || {
            lease.hold([records::path(&reference)]);
            if let Some(pulled) = records::pulled(&layout, &reference)? {
                let manifest = Digest::parse(&pulled.manifest)
                    .map_err(|cause| ImageError::new("read stored image", &reference, cause))?;
                let image = records::held_image(&layout, &lease, &manifest, &asked)?;
                return Ok(image.map(|image| (Some(pulled.top), image)));
            }
            // The same content may be here under a tag.
            match &reference.digest {
                Some(digest) => {
                    let image = records::held_image(&layout, &lease, digest, &asked)?;
                    Ok(image.map(|image| (None, image)))
                }
                None => Ok(None),
            }
        })
        .await
    }

    /// Whether nothing of a stored image is missing that this store keeps.
    async fn has_blobs(&self, image: &Image) -> Result<bool, ImageError> {
        if !self.layout.keeps_blobs() {
            return Ok(true);
        }
        let (layout, manifest) = (Arc::clone(self.layout), image.manifest_digest.clone());
        blocking(move || {
            let manifest = Digest::parse(&manifest)
                .map_err(|cause| ImageError::new("read stored image", &manifest, cause))?;
            let documents = records::documents(&layout, &manifest)?;
            Ok(documents.is_some_and(|(manifest, _)| {
                let mut all = manifest.layers.iter();
                all.all(|blob| blobs::is_present(&layout, &blob.digest))
            }))
        })
        .await
    }

    async fn ask_registry(&self) -> Result<Image, Fault> {
        if let Some((Some(top), image)) = self.stored().await?
            && self.has_blobs(&image).await?
        {
            let now = self.client.head(&self.reference).await?;
            if now.is_some_and(|now| now.as_str() == top) {
                return Ok(image);
            }
        }
        let resolved = self.resolve().await?;
        self.hold(&resolved).await?;
        let layers = self.fetch_layers(&resolved.layers);
        // Both to their end: a pull that failed has nothing half-done.
        let (drafts, layers) = tokio::join!(self.draft(&resolved), layers);
        layers?;
        Ok(self.commit(resolved, drafts?).await?)
    }

    async fn resolve(&self) -> Result<Resolved, Fault> {
        let refuse = |cause: String| ImageError::new("resolve", &self.reference, cause);
        let fetched = self.client.manifest(&self.reference).await?;
        let top = fetched.digest.clone();
        let document =
            manifest::parse(&fetched.bytes, fetched.content_type.as_deref()).map_err(refuse)?;
        let (manifest, own, index_bytes) = match document {
            Document::Manifest(manifest) => (manifest, fetched, None),
            Document::Index(lines) => {
                let line = platform::choose(&lines, Host::here()).map_err(refuse)?;
                let own = self.client.manifest_of(&self.reference, line).await?;
                match manifest::parse(&own.bytes, own.content_type.as_deref()).map_err(refuse)? {
                    Document::Manifest(manifest) => (manifest, own, Some(fetched.bytes)),
                    Document::Index(_) => {
                        return Err(
                            refuse("an index inside an index is not supported".into()).into()
                        );
                    }
                }
            }
        };
        let config_bytes = self.config_bytes(&manifest).await?;
        let (config, diff_ids) = manifest::parse_config(
            &config_bytes,
            manifest.layers.len(),
            Host::here().architecture,
        )
        .map_err(refuse)?;
        Ok(Resolved {
            top,
            index_bytes,
            manifest_digest: own.digest,
            manifest_bytes: own.bytes,
            config_bytes,
            config,
            layers: manifest.layers.into_iter().zip(diff_ids).collect(),
        })
    }

    /// Before anything of it is looked for: what is here already must still be here when the record is written.
    async fn hold(&self, image: &Resolved) -> Result<(), ImageError> {
        let lease = Arc::clone(self.lease);
        let manifest = format!("manifests/{}", image.manifest_digest.hex());
        let blobs = image.blobs();
        let diff_ids: Vec<Digest> = image.layers.iter().map(|(_, id)| id.clone()).collect();
        blocking(move || {
            lease.hold([manifest]);
            lease.hold(blobs);
            lease.hold_layers(&diff_ids);
            Ok(())
        })
        .await
    }

    async fn config_bytes(&self, manifest: &Manifest) -> Result<Vec<u8>, Fault> {
        let (layout, digest) = (Arc::clone(self.layout), manifest.config.digest.clone());
        let lease = Arc::clone(self.lease);
        let stored = move || {
            lease.hold([format!("configs/{}", digest.hex())]);
            records::content(&layout, "configs", &digest)
        };
        match blocking(stored).await? {
            Some(bytes) => Ok(bytes),
            None => {
                self.client
                    .small_blob(&self.reference, &manifest.config)
                    .await
            }
        }
    }

    /// Fetches what the store lacks, the largest first, so that the last one to end is a small one.
    async fn fetch_layers(&self, all: &[(Descriptor, Digest)]) -> Result<(), Fault> {
        let mut seen = HashSet::new();
        let mut missing: Vec<&(Descriptor, Digest)> = all
            .iter()
            .filter(|(blob, diff_id)| {
                seen.insert((diff_id, &blob.digest))
                    && !layers::is_complete(self.layout, blob, diff_id)
            })
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        missing.sort_by_key(|(blob, _)| std::cmp::Reverse(blob.size));
        (self.progress)(Progress::Started);
        for (blob, _) in &missing {
            (self.progress)(Progress::Layer(LayerProgress::waiting(blob)));
        }
        let meter = Meter {
            fetched: AtomicU64::new(0),
            of: missing
                .iter()
                .map(|(blob, _)| blob.size)
                .fold(0, u64::saturating_add),
            progress: &self.progress,
        };
        let meter = &meter;
        // All at once: how many move is decided by their turns, which come in this order.
        let fetches = missing
            .into_iter()
            .map(|(blob, diff_id)| self.fetch_layer(blob, diff_id, meter));
        try_join_all(fetches.collect::<Vec<_>>()).await.map(drop)
    }

    async fn fetch_layer(
        &self,
        blob: &Descriptor,
        diff_id: &Digest,
        meter: &Meter<'_, P>,
    ) -> Result<(), Fault> {
        let meter = LayerMeter::new(meter, blob);
        let is_there = || layers::is_complete(self.layout, blob, diff_id);
        let registry = &self.reference.registry;
        let Some(_boarded) = self.flights.board(registry, diff_id, is_there).await else {
            meter.add(blob.size);
            meter.done();
            return Ok(());
        };
        let mut turn = self.turns.turn(self.client.registries(), registry).await;
        // After the turn has come: its time runs from here.
        let mut bytes = self.client.blob("fetch layer", &self.reference, blob);
        loop {
            match self
                .unpack(&mut bytes, blob, diff_id, &mut turn, &meter)
                .await?
            {
                None => {
                    meter.done();
                    return Ok(());
                }
                Some(damaged) => meter.take_back(bytes.start_over(Fault::Refused(damaged))?),
            }
        }
    }

    /// Unpacks a blob as it comes. Some if its bytes are not those of its digest.
    async fn unpack(
        &self,
        bytes: &mut Blob<'_>,
        blob: &Descriptor,
        diff_id: &Digest,
        turn: &mut Turn<'_>,
        meter: &LayerMeter<'_, P>,
    ) -> Result<Option<ImageError>, Fault> {
        let (sender, pieces) = channel();
        let subject = format!("{} of {}", blob.digest, self.reference);
        // The worker owns its half-done directory: it removes it even if this future is dropped.
        let worker = {
            let (layout, blob, diff_id) = (Arc::clone(self.layout), blob.clone(), diff_id.clone());
            let subject = subject.clone();
            spawn_blocking(move || layers::install(&layout, pieces, &blob, &diff_id, &subject))
        };
        let sent = send(bytes, sender, turn, meter).await;
        let installed = worker.await.map_err(|e| {
            let cause = format!("the unpacker failed: {e}");
            ImageError::new("unpack layer", &subject, cause)
        })?;
        match (sent, installed) {
            (_, Ok(())) => Ok(None),
            (Ok(()), Err(Missed::Damaged(error))) => Ok(Some(error)),
            (_, Err(Missed::Damaged(error) | Missed::Failed(error))) => Err(Fault::Refused(error)),
            // As damaged as a wrong digest.
            (Err(Fault::Refused(error)), Err(Missed::Aborted)) if bytes.is_too_long() => {
                Ok(Some(error))
            }
            (Err(fault), Err(Missed::Aborted)) => Err(fault),
            (Ok(()), Err(Missed::Aborted)) => {
                let cause = "the download stopped; try again";
                Err(ImageError::new("fetch layer", &subject, cause).into())
            }
        }
    }

    /// The records that will lead to the image, the reference last.
    async fn draft(&self, image: &Resolved) -> Result<Drafts, ImageError> {
        let pulled = Pulled::new(&self.reference, &image.top, &image.manifest_digest);
        let layout = Arc::clone(self.layout);
        let (config, manifest) = (image.config_bytes.clone(), image.manifest_bytes.clone());
        let manifest_digest = image.manifest_digest.clone();
        blocking(move || {
            let mut drafts = Drafts::new(Arc::clone(&layout));
            drafts.add("configs", Digest::of(&config).hex(), &config)?;
            drafts.add("manifests", manifest_digest.hex(), &manifest)?;
            drafts.add("refs", &pulled.file(), &pulled.bytes(&layout)?)?;
            Ok(drafts)
        })
        .await
    }

    /// Records all of it; what makes the layers durable goes on behind.
    async fn commit(&self, image: Resolved, drafts: Drafts) -> Result<Image, ImageError> {
        let (layout, reference) = (Arc::clone(self.layout), self.asked.to_owned());
        let sync_later = self.syncs.later();
        blocking(move || {
            let blobs = image.blobs();
            let diff_ids: Vec<Digest> = image.layers.into_iter().map(|(_, id)| id).collect();
            let mut paths = stack::complete(&layout, &diff_ids)?;
            if let Some(index) = &image.index_bytes {
                blobs::keep_bytes(&layout, &image.top, index)?;
            }
            paths.extend(blobs.into_iter().filter(|path| layout.exists(path)));
            drafts.publish()?;
            sync_later(paths);
            Ok(Image {
                reference,
                manifest_digest: image.manifest_digest.to_string(),
                config: image.config,
                layers: diff_ids.iter().map(Digest::to_string).collect(),
            })
        })
        .await
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ImageError> + Send + 'static,
) -> Result<T, ImageError> {
    spawn_blocking(work)
        .await
        .map_err(|e| ImageError::new("image store", "", format!("a store thread failed: {e}")))?
}

/// Sends a blob's bytes to its unpacker until one of the two has no more to say.
async fn send<P: Fn(Progress)>(
    bytes: &mut Blob<'_>,
    sender: tokio::sync::mpsc::Sender<Piece>,
    turn: &mut Turn<'_>,
    meter: &LayerMeter<'_, P>,
) -> Result<(), Fault> {
    let len = |got: &Result<Option<Bytes>, Fault>| match got {
        Ok(Some(piece)) => piece.len(),
        _ => 0,
    };
    while let Some(piece) = turn.wait_for(bytes.next(), len).await? {
        meter.add(piece.len() as u64);
        if sender.send(Piece::Data(piece)).await.is_err() {
            // The unpacker gave up and says why.
            return Ok(());
        }
    }
    // If the unpacker is gone already it has said why, too.
    sender.send(Piece::End).await.ok();
    Ok(())
}

/// Counts the bytes of one layer, and with them those of the pull.
struct LayerMeter<'a, P> {
    all: &'a Meter<'a, P>,
    blob: &'a Descriptor,
    fetched: AtomicU64,
}

impl<'a, P: Fn(Progress)> LayerMeter<'a, P> {
    fn new(all: &'a Meter<'a, P>, blob: &'a Descriptor) -> LayerMeter<'a, P> {
        LayerMeter {
            all,
            blob,
            fetched: AtomicU64::new(0),
        }
    }

    /// Bytes that came in vain.
    fn take_back(&self, bytes: u64) {
        self.fetched.fetch_sub(bytes, Ordering::Relaxed);
        self.all.take_back(bytes);
    }

    fn add(&self, bytes: u64) {
        let before = self.fetched.fetch_add(bytes, Ordering::Relaxed);
        let now = before.saturating_add(bytes);
        if now / PROGRESS_STEP != before / PROGRESS_STEP || now == self.blob.size {
            let waiting = LayerProgress::waiting(self.blob);
            let progress = LayerProgress {
                bytes: now,
                ..waiting
            };
            (self.all.progress)(Progress::Layer(progress));
        }
        self.all.add(bytes);
    }

    /// Unpacked, verified and in the store.
    fn done(&self) {
        (self.all.progress)(Progress::Layer(LayerProgress::done(self.blob)));
    }
}

/// Counts bytes over all layers of a pull.
struct Meter<'a, P> {
    fetched: AtomicU64,
    of: u64,
    progress: &'a P,
}

impl<P: Fn(Progress)> Meter<'_, P> {
    /// Bytes that came in vain.
    fn take_back(&self, bytes: u64) {
        self.fetched.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn add(&self, bytes: u64) {
        let before = self.fetched.fetch_add(bytes, Ordering::Relaxed);
        let now = before.saturating_add(bytes);
        if now / PROGRESS_STEP != before / PROGRESS_STEP || now >= self.of {
            (self.progress)(Progress::Fetched {
                bytes: now.min(self.of),
                of: self.of,
            });
        }
    }
}
