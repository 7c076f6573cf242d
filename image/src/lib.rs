//! Images: reference -> manifest -> layers -> root filesystem.
//!
//! A [`Store`] pulls from registries of the OCI distribution specification, keeps each layer unpacked once
//! under its diff ID, and mounts them as the root of a container. Nothing is visible in it before its digests
//! are verified, and nothing that an image says is resolved outside the directory it belongs to.
//!
//! Images come and go as files as well: [`Store::load`] and [`Store::save`].
//!
//! Absent on purpose: building and pushing images, containers, and the policy of when to pull and when to collect.

use std::sync::Arc;

mod digest;
mod disk;
mod error;
#[cfg(feature = "fuzz")]
pub mod fuzz;
mod manifest;
mod overlay;
mod reference;
mod registry;
mod remove;
mod save;
mod snapshot;
mod source;
mod store;
mod unpack;
mod user;

pub use error::ImageError;
pub use oci_spec::image::ImageConfiguration;
pub use registry::{AwsKeys, ClientCertificate, Ecr, Limits, Proxies, Registries, Registry};
pub use save::{Format, Saving};
pub use store::Store;
pub use store::catalogue::{Details, DetailsLayer, Listed};
pub use store::collect::{Collected, GcPolicy, GoneImage, Prune, Why};
pub use store::fsck::{Damage, Done, FsckProgress, FsckReport};
pub use store::lease::Lease;
pub use store::load::{Load, Origin};
pub use store::names::{Extent, Removed};
pub use store::pull::PullBehaviour;
pub use store::usage::Usage;
pub use user::{User, resolve_user};

/// The registry that a reference asks, `host` or `host:port`; None if it is no reference.
pub fn registry_of(reference: &str) -> Option<String> {
    let parsed = reference::Reference::parse(reference).ok();
    parsed.map(|parsed| parsed.registry)
}

/// A reference in the form in which the store records it and patterns match it: with its registry, and with a tag
/// unless it has a digest. None if it is no reference.
pub fn canonical_reference(reference: &str) -> Option<String> {
    let parsed = reference::Reference::parse(reference).ok();
    parsed.map(|parsed| parsed.to_string())
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

/// What `pull` and `load` tell while they work. Nothing is told if nothing must be fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The registry answered; bytes will move.
    Started,
    /// Bytes fetched so far, of how many.
    Fetched {
        /// So far.
        bytes: u64,
        /// In all; 0 where nobody knows, as of a stream.
        of: u64,
    },
    /// One layer came further. Each that must be fetched is told of once as waiting before any moves.
    Layer(LayerProgress),
}

/// How far one layer has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerProgress {
    /// Digest of its blob.
    pub digest: Arc<str>,
    /// Of its blob: so far.
    pub bytes: u64,
    /// Of its blob: in all.
    pub of: u64,
    /// Unpacked, verified and in the store. All bytes may have come well before that.
    pub done: bool,
}

impl LayerProgress {
    pub(crate) fn waiting(blob: &manifest::Descriptor) -> LayerProgress {
        LayerProgress {
            digest: blob.digest.as_str().into(),
            bytes: 0,
            of: blob.size,
            done: false,
        }
    }

    pub(crate) fn done(blob: &manifest::Descriptor) -> LayerProgress {
        LayerProgress {
            bytes: blob.size,
            done: true,
            ..LayerProgress::waiting(blob)
        }
    }
}
