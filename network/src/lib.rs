//! A task's network: namespaces, one bridge, an address per container, published ports.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

/// Transport protocol.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// A port to publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PortRequest {
    /// Inside.
    pub container_port: u16,
    /// Outside; none: a free one of the dynamic range.
    pub host_port: Option<u16>,
    /// Transport.
    pub protocol: Protocol,
}

/// A published port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PortBinding {
    /// Inside.
    pub container_port: u16,
    /// Outside.
    pub host_port: u16,
    /// Transport.
    pub protocol: Protocol,
}

/// What a container's network looks like from inside.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Attachment {
    /// The pinned network namespace.
    pub netns: PathBuf,
    /// Address, in mode bridge.
    pub address: Option<Ipv4Addr>,
    /// Default gateway, in mode bridge.
    pub gateway: Option<Ipv4Addr>,
    /// Published ports.
    pub bindings: Vec<PortBinding>,
}

/// An error of this crate: step, subject, cause and remedy in one sentence.
#[derive(Debug, thiserror::Error)]
#[error("{step} {subject}: {cause}")]
pub struct NetworkError {
    /// `make bridge`, `publish port`, ...
    pub step: &'static str,
    /// Interface, address, port or namespace.
    pub subject: String,
    /// Cause and remedy.
    pub cause: String,
}

/// Names and ranges; all derive from the instance.
#[derive(Clone, Debug)]
pub struct Config {
    /// `<run root>/network`: leases; `<run root>/netns`: pins.
    pub run_root: PathBuf,
    /// Bridge name, and the prefix of the veth names; at most 7 characters.
    pub prefix: String,
    /// nftables table (family inet).
    pub table: String,
    /// The bridge's network; its first address is the gateway.
    pub subnet: ipnet::Ipv4Net,
    /// Host ports never given out.
    pub reserved_ports: std::collections::BTreeSet<u16>,
}

/// The networks of one instance.
#[derive(Debug)]
pub struct Network {}

impl Network {
    /// Reads the leases; touches nothing of the host yet.
    pub async fn open(_config: Config) -> Result<Network, NetworkError> {
        todo!()
    }
    /// A namespace with loopback up and nothing else. The same id again: the same one.
    pub async fn attach_none(&self, _id: &str) -> Result<Attachment, NetworkError> {
        todo!()
    }
    /// A namespace on the bridge, with published ports. The same id again: the same one.
    pub async fn attach_bridge(
        &self,
        _id: &str,
        _ports: &[PortRequest],
    ) -> Result<Attachment, NetworkError> {
        todo!()
    }
    /// The attachment of `id`, if it has one.
    pub fn attachment(&self, _id: &str) -> Option<Attachment> {
        todo!()
    }
    /// Takes ports, address, veth and namespace back; fine if they are gone.
    pub async fn release(&self, _id: &str) -> Result<(), NetworkError> {
        todo!()
    }
    /// Ids that hold a lease.
    pub fn attached(&self) -> Vec<String> {
        todo!()
    }
    /// Removes bridge, table and everything that is left (for `dev --reset`).
    pub async fn remove(&self) -> Result<(), NetworkError> {
        todo!()
    }
}

/// Where a namespace would be pinned.
pub fn pin_of(_run_root: &Path, _id: &str) -> PathBuf {
    todo!()
}
