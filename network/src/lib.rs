//! A task's network: namespaces, one bridge, an address per container, published ports.
//!
//! One instance has one bridge (named like its interface prefix), one nftables table and one directory
//! of leases. A container has a network namespace without a process of its own, pinned as a file, and on
//! the bridge a veth pair, an IPv4 address, outbound masquerade and published ports, static or dynamic.
//!
//! Everything happens in the network namespace and the mount namespace of the calling process. What is
//! promised stands in a lease before the host is touched; an operation that has begun runs to its end even
//! if the caller drops it, and after a crash the same call completes it. A failed attachment keeps its
//! lease: attach again or release.
//!
//! Deliberately absent: IPv6, DNS, several networks per instance, limits of bandwidth, isolation between
//! the containers of one bridge (ECS's bridge has none either), port ranges, binding to one host address.

mod address;
mod attach;
mod bridge;
mod conntrack;
#[cfg(test)]
mod crash;
mod lease;
mod ledger;
mod link;
mod netns;
mod nft;
mod ports;
mod veth;

use std::fmt;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use attach::{Host, Wish};
use lease::LeaseDir;
use ledger::Ledger;

/// The most ports that one container may publish.
pub const MAX_PORTS: usize = 1024;

/// The longest prefix: a veth adds eight digits to it and the kernel ends at 15 characters.
const MAX_PREFIX: usize = 7;
const MAX_TABLE: usize = 31;

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

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        })
    }
}

/// A port to publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PortRequest {
    /// Inside; not 0.
    pub container_port: u16,
    /// Outside; none or 0: a free one of the dynamic range.
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
    /// Published ports, in the order of the requests.
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
    /// `<run root>/network`: leases; `<run root>/netns`: pins. Best on a tmpfs: after a boot nothing of
    /// both is true any more.
    pub run_root: PathBuf,
    /// Bridge name, and the prefix of the veth names; `[a-z][a-z0-9-]*`, at most 7 characters.
    pub prefix: String,
    /// nftables table (family inet); `[a-z][a-z0-9_-]*`, at most 31 characters, no word of nft's.
    pub table: String,
    /// The bridge's network, /8 to /30; its first address is the gateway.
    pub subnet: ipnet::Ipv4Net,
    /// Host ports never given out, in either protocol.
    pub reserved_ports: std::collections::BTreeSet<u16>,
}

/// The networks of one instance. Methods may be called at once; calls for one id take turns.
#[derive(Debug)]
pub struct Network {
    host: Arc<Host>,
}

impl Network {
    /// Reads the leases and binds their host ports again; changes nothing of the host yet. Packet rules
    /// of an earlier run stay as they are until the first change, which rewrites them from the leases.
    ///
    /// # Errors
    /// A name or range of `config` that cannot work; a subnet that the host reaches by another interface
    /// (only a warning while containers hold addresses: they must remain manageable).
    pub async fn open(config: Config) -> Result<Network, NetworkError> {
        check(&config)?;
        let leases = LeaseDir::new(&config.run_root, &config.prefix);
        let reader = leases.clone();
        let read = attach::blocking(move || reader.read_all()).await?;
        let in_use = read.iter().any(|lease| lease.seat().is_some());
        match bridge::refuse_overlap(&config).await {
            Err(e) if in_use => {
                tracing::warn!(error = %e, "containers hold addresses of this subnet")
            }
            other => other?,
        }
        let mut ledger = Ledger::default();
        for lease in read {
            let id = lease.id.clone();
            if lease
                .seat()
                .is_some_and(|s| !config.subnet.contains(&s.address))
            {
                tracing::warn!(id, subnet = %config.subnet, "the container's address is of another \
                    subnet: published ports work, its way out does not, until it is replaced");
            }
            if let Some(other) = ledger.contradicted(&lease) {
                leases.set_aside(&id, &format!("it claims what container {other} holds"));
                continue;
            }
            let bindings = lease.seat().map(|s| &s.bindings[..]).unwrap_or_default();
            let holds = ports::hold_again(bindings).await;
            ledger.adopt(lease, holds);
        }
        let host = Arc::new(Host::new(config, leases, ledger));
        Ok(Network { host })
    }

    /// A namespace with loopback up and nothing else. The same id again: the same one.
    ///
    /// # Errors
    /// `id` is not `[a-f0-9-]{1,64}`, is attached in another mode, or the kernel refuses.
    pub async fn attach_none(&self, id: &str) -> Result<Attachment, NetworkError> {
        self.attach(id, Wish::None).await
    }

    /// A namespace on the bridge, with published ports. The same id again with the same ports: the same
    /// one, completed if a crash left it half made.
    ///
    /// # Errors
    /// As [`Network::attach_none`]; besides a host port that is taken or reserved, no free address, no
    /// `nft` program. When a port or address is refused nothing is left behind.
    pub async fn attach_bridge(
        &self,
        id: &str,
        ports: &[PortRequest],
    ) -> Result<Attachment, NetworkError> {
        self.attach(id, Wish::Bridge(ports.to_vec())).await
    }

    async fn attach(&self, id: &str, wish: Wish) -> Result<Attachment, NetworkError> {
        let (host, id) = (self.host.clone(), checked(id)?);
        attach::joined(tokio::spawn(async move { host.attach(&id, wish).await }).await)
    }

    /// The attachment of `id`, if it has one that is not being released.
    pub fn attachment(&self, id: &str) -> Option<Attachment> {
        let lease = self.host.ledger().attached(id).cloned()?;
        Some(self.host.describe(&lease))
    }

    /// Takes ports, address, veth and namespace back; fine if they are gone. The namespace itself ends
    /// with its last process, its cable at once.
    ///
    /// # Errors
    /// As long as this fails, port and address stay taken: call again.
    pub async fn release(&self, id: &str) -> Result<(), NetworkError> {
        let (host, id) = (self.host.clone(), checked(id)?);
        attach::joined(tokio::spawn(async move { host.release(&id).await }).await)
    }

    /// Ids that hold a lease, those that are being released included.
    pub fn attached(&self) -> Vec<String> {
        self.host.ledger().ids()
    }

    /// Releases everybody and removes bridge, table, directories and everything that is left (for
    /// `dev --reset`); goes on after a failure and tells all of them. `ip_forward` stays as it is. The
    /// caller sees to it that nobody attaches meanwhile.
    ///
    /// # Errors
    /// What could not be removed.
    pub async fn remove(&self) -> Result<(), NetworkError> {
        let host = self.host.clone();
        attach::joined(tokio::spawn(async move { host.remove().await }).await)
    }
}

/// Where a namespace would be pinned.
pub fn pin_of(run_root: &Path, id: &str) -> PathBuf {
    run_root.join("netns").join(id)
}

fn checked(id: &str) -> Result<String, NetworkError> {
    match lease::is_id(id) {
        true => Ok(id.to_owned()),
        false => Err(NetworkError {
            step: "check id",
            subject: format!("{:?}", id.chars().take(80).collect::<String>()),
            cause: "an id is 1 to 64 of a-f, 0-9 and -".into(),
        }),
    }
}

/// These names become words of a script that root runs, and file and interface names.
fn check(config: &Config) -> Result<(), NetworkError> {
    let refuse = |subject: String, cause: &str| {
        Err(NetworkError {
            step: "check network configuration",
            subject,
            cause: cause.into(),
        })
    };
    if !is_word(&config.prefix, MAX_PREFIX, "-") {
        let subject = format!("prefix {:?}", config.prefix);
        return refuse(subject, "1 to 7 of a-z, 0-9 and -, beginning with a letter");
    }
    if !is_word(&config.table, MAX_TABLE, "-_") {
        let subject = format!("table {:?}", config.table);
        return refuse(
            subject,
            "1 to 31 of a-z, 0-9, - and _, beginning with a letter",
        );
    }
    let subnet = config.subnet;
    let strange = subnet.addr().is_loopback() || subnet.addr().is_multicast();
    if !(8..=address::MAX_PREFIX_LEN).contains(&subnet.prefix_len()) || strange {
        return refuse(
            format!("subnet {subnet}"),
            "a unicast network of /8 to /30 is needed",
        );
    }
    Ok(())
}

fn is_word(word: &str, longest: usize, besides: &str) -> bool {
    word.len() <= longest
        && word.starts_with(|c: char| c.is_ascii_lowercase())
        && word
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || besides.contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(prefix: &str, table: &str, subnet: &str) -> Config {
        Config {
            run_root: "/nonexistent".into(),
            prefix: prefix.into(),
            table: table.into(),
            subnet: subnet.parse().unwrap(),
            reserved_ports: Default::default(),
        }
    }

    #[test]
    fn names_that_would_break_out_of_a_script_are_refused() {
        assert!(check(&config("ls-0", "longshore_x-1", "10.88.0.0/16")).is_ok());
        for prefix in ["", "0", "toolongx", "a\"", "a b", "a/b", "-a", "A"] {
            assert!(
                check(&config(prefix, "t", "10.0.0.0/24")).is_err(),
                "{prefix:?}"
            );
        }
        for table in ["", "a;b", "a\nb", "{", "1", &"a".repeat(32)] {
            assert!(
                check(&config("a", table, "10.0.0.0/24")).is_err(),
                "{table:?}"
            );
        }
        for subnet in ["10.0.0.0/31", "0.0.0.0/0", "127.0.0.0/16", "224.0.0.0/24"] {
            assert!(check(&config("a", "t", subnet)).is_err(), "{subnet}");
        }
    }

    #[tokio::test]
    async fn an_id_that_is_no_file_name_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config("lsunit", "lsunit", "198.18.77.0/24");
        config.run_root = dir.path().to_owned();
        let network = Network::open(config).await.unwrap();
        let err = network.attach_none("../etc").await.unwrap_err();
        expect_test::expect![[r#"check id "../etc": an id is 1 to 64 of a-f, 0-9 and -"#]]
            .assert_eq(&err.to_string());
        assert!(network.release("").await.is_err());
        assert_eq!(network.attached(), Vec::<String>::new());
    }
}
