//! The names of one agent on a machine: every root, socket, cgroup, table and interface that it
//! owns derives from its instance name, so that several agents can share a machine.
//!
//! Nothing is touched here except by [`Instance::make_roots`].

use std::fs::{DirBuilder, Permissions};
use std::net::Ipv4Addr;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use ipnet::Ipv4Net;
use sha2::{Digest, Sha256};

/// The longest instance name; `longshore_` plus this stays a legal nftables table name.
const LONGEST_NAME: usize = 16;

/// One agent on a machine, by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    name: String,
    state_root: PathBuf,
    run_root: PathBuf,
    subnet: Ipv4Net,
}

/// An instance name is not `[a-z][a-z0-9-]{0,15}`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "name instance {0:?}: use a lower-case letter, then up to 15 lower-case letters, digits or hyphens"
)]
pub struct InvalidInstance(pub String);

impl Instance {
    /// The instance of this name; `default` unless the operator says otherwise.
    pub fn named(name: &str) -> Result<Instance, InvalidInstance> {
        if !is_legal(name) {
            return Err(InvalidInstance(name.to_owned()));
        }
        let suffix = suffix(name, '-');
        Ok(Instance {
            name: name.to_owned(),
            state_root: PathBuf::from(format!("/var/lib/longshore{suffix}")),
            run_root: PathBuf::from(format!("/run/longshore{suffix}")),
            subnet: subnet_of(name),
        })
    }

    /// The same instance with its lasting state somewhere else.
    pub fn with_state_root(mut self, root: PathBuf) -> Instance {
        self.state_root = root;
        self
    }

    /// The same instance with its run directory somewhere else. It should be a tmpfs: what is
    /// below it does not outlive a boot.
    pub fn with_run_root(mut self, root: PathBuf) -> Instance {
        self.run_root = root;
        self
    }

    /// The same instance with another network for its bridge.
    pub fn with_subnet(mut self, subnet: Ipv4Net) -> Instance {
        self.subnet = subnet;
        self
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What outlives a boot: journal, images, logs, identity.
    pub fn state_root(&self) -> &Path {
        &self.state_root
    }

    /// What does not outlive a boot: sockets, container run directories, network leases.
    pub fn run_root(&self) -> &Path {
        &self.run_root
    }

    /// The agent's debug socket.
    pub fn agent_socket(&self) -> PathBuf {
        self.run_root.join("agent.sock")
    }

    /// The control plane's local socket, where one runs on this machine under the same name.
    pub fn control_socket(&self) -> PathBuf {
        self.run_root.join("control.sock")
    }

    /// Locked for as long as an agent of this instance runs.
    pub fn agent_lock(&self) -> PathBuf {
        self.run_root.join("agent.lock")
    }

    /// The cgroup, relative to the hierarchies' roots, below which everything of this instance
    /// lies, unless the caller placed the agent in a delegated scope.
    pub fn cgroup_parent(&self) -> String {
        format!("longshore{}", suffix(&self.name, '-'))
    }

    /// Name of the nftables table (family inet).
    pub fn nft_table(&self) -> String {
        format!("longshore{}", suffix(&self.name, '_')).replace('-', "_")
    }

    /// The bridge's name and the prefix of the veth names: at most 7 characters, so that the
    /// kernel's 15 leave room for the rest.
    pub fn interface_prefix(&self) -> String {
        if self.name == "default" {
            return "ls0".to_owned();
        }
        let digest = Sha256::digest(self.name.as_bytes());
        format!("ls{}", hex::encode(&digest[..2]))
    }

    /// The bridge's network.
    pub fn subnet(&self) -> Ipv4Net {
        self.subnet
    }

    /// Makes the state and run roots, 0700; tightens them if they are there and wider.
    pub fn make_roots(&self) -> std::io::Result<()> {
        make_private_dir(&self.state_root)?;
        make_private_dir(&self.run_root)
    }
}

/// Makes `dir` and its missing parents 0700; an existing `dir` is tightened.
pub(crate) fn make_private_dir(dir: &Path) -> std::io::Result<()> {
    let named = |e: std::io::Error| {
        std::io::Error::new(
            e.kind(),
            format!("make private directory {}: {e}", dir.display()),
        )
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(named)?;
    let wider = std::fs::metadata(dir).map_err(named)?.permissions().mode() & 0o077 != 0;
    if wider {
        std::fs::set_permissions(dir, Permissions::from_mode(0o700)).map_err(named)?;
    }
    Ok(())
}

fn is_legal(name: &str) -> bool {
    let rest = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    name.len() <= LONGEST_NAME
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.bytes().all(rest)
}

fn suffix(name: &str, separator: char) -> String {
    match name {
        "default" => String::new(),
        other => format!("{separator}{other}"),
    }
}

/// The default instance has a network of its own; the others share 10.192.0.0/12 by a hash of
/// their name, 256 networks of 4094 addresses. Two names may meet: the operator can say another.
fn subnet_of(name: &str) -> Ipv4Net {
    let base = match name {
        "default" => Ipv4Addr::new(172, 31, 64, 0),
        other => {
            let nth = Sha256::digest(other.as_bytes())[2];
            Ipv4Addr::new(10, 192 + (nth >> 4), nth << 4, 0)
        }
    };
    Ipv4Net::new_assert(base, 20)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_default_instance_has_the_plain_names() {
        let instance = Instance::named("default").unwrap();
        assert_eq!(instance.state_root(), Path::new("/var/lib/longshore"));
        assert_eq!(instance.run_root(), Path::new("/run/longshore"));
        assert_eq!(
            instance.agent_socket(),
            Path::new("/run/longshore/agent.sock")
        );
        assert_eq!(instance.cgroup_parent(), "longshore");
        assert_eq!(instance.nft_table(), "longshore");
        assert_eq!(instance.interface_prefix(), "ls0");
        assert_eq!(instance.subnet().to_string(), "172.31.64.0/20");
    }

    #[test]
    fn another_instance_shares_no_name_with_the_default() {
        let instance = Instance::named("blue-2").unwrap();
        assert_eq!(
            instance.state_root(),
            Path::new("/var/lib/longshore-blue-2")
        );
        assert_eq!(instance.cgroup_parent(), "longshore-blue-2");
        assert_eq!(instance.nft_table(), "longshore_blue_2");
        assert_eq!(instance.interface_prefix().len(), 6);
        assert_eq!(instance.subnet().trunc(), instance.subnet());
    }

    #[test]
    fn names_that_could_climb_or_overflow_are_refused() {
        for name in [
            "",
            "../x",
            "A",
            "1a",
            "-a",
            "a/b",
            "a_b",
            "seventeen-letters",
            "a\0",
        ] {
            assert!(Instance::named(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn roots_are_made_private_and_tightened() {
        let dir = tempfile::tempdir().unwrap();
        let wide = dir.path().join("run");
        std::fs::create_dir(&wide).unwrap();
        std::fs::set_permissions(&wide, Permissions::from_mode(0o755)).unwrap();
        let instance = Instance::named("t")
            .unwrap()
            .with_state_root(dir.path().join("a/b"))
            .with_run_root(wide);
        instance.make_roots().unwrap();
        for root in [instance.state_root(), instance.run_root()] {
            let mode = std::fs::metadata(root).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o700, "{}", root.display());
        }
    }

    proptest! {
        #[test]
        fn every_legal_name_gives_legal_kernel_names(name in "[a-z][a-z0-9-]{0,15}") {
            let instance = Instance::named(&name).unwrap();
            prop_assert!(instance.interface_prefix().len() <= 7);
            prop_assert!(instance.nft_table().bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'));
            prop_assert!(!instance.cgroup_parent().contains('/'));
            prop_assert_eq!(instance.subnet().trunc(), instance.subnet());
        }
    }
}
