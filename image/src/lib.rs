//! Images: reference -> manifest -> layers -> root filesystem.
//!
//! A [`Store`] pulls from registries of the OCI distribution specification, keeps each layer unpacked once
//! under its diff ID, and mounts them as the root of a container. Nothing is visible in it before its digests
//! are verified, and nothing that an image says is resolved outside the directory it belongs to.
//!
//! Absent on purpose: building and pushing images, containers, and the policy of when to pull.

mod digest;
mod error;
#[cfg(feature = "fuzz")]
pub mod fuzz;
mod manifest;
mod overlay;
mod reference;
mod registry;
mod remove;
mod snapshot;
mod store;
mod unpack;
mod user;

pub use error::ImageError;
pub use oci_spec::image::ImageConfiguration;
pub use registry::{
    AwsKeys, ClientCertificate, Credential, Ecr, Limits, Proxies, Registries, Registry,
};
pub use store::Store;
pub use user::{User, resolve_user};

/// The registry that a reference asks, `host` or `host:port`; None if it is no reference.
pub fn registry_of(reference: &str) -> Option<String> {
    let parsed = reference::Reference::parse(reference).ok();
    parsed.map(|parsed| parsed.registry)
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

/// What `pull` tells while it works. Nothing is told if nothing must be fetched.
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
