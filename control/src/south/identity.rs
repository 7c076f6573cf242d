//! Who a peer is: the instance and cluster in its client certificate.
//!
//! A certificate names them in one URI (the SPIFFE form),
//! `spiffe://longshore.internal/cluster/NAME/instance/ID`. What it does not say: whether the instance still exists and
//! whether the certificate is still good; the callers look at both.

use std::time::Duration;

use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Certificate};

/// The trust domain: a cluster's CA is its only member, so it needs no name of its own.
const DOMAIN: &str = "spiffe://longshore.internal";

/// An instance, as its certificate names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// The cluster's name.
    pub(crate) cluster: String,
    /// 32 lowercase hex digits.
    pub(crate) instance: String,
}

/// A peer as TLS verified it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    /// Who.
    pub(crate) identity: Identity,
    /// SubjectPublicKeyInfo, DER: the key whose possession the handshake proved.
    pub(crate) public_key: Vec<u8>,
    /// Hex of SHA-256 of it.
    pub(crate) key_hash: String,
    /// Whether the certificate's time is over: only `Renew` is open then.
    pub(crate) expired: bool,
}

impl Identity {
    /// The URI of the certificate.
    pub(crate) fn uri(&self) -> String {
        format!(
            "{DOMAIN}/cluster/{}/instance/{}",
            self.cluster, self.instance
        )
    }

    /// The key of the instance's record.
    pub(crate) fn key(&self) -> String {
        format!("instance/{}/{}", self.cluster, self.instance)
    }

    fn parse(uri: &str) -> Option<Identity> {
        let rest = uri.strip_prefix(DOMAIN)?.strip_prefix("/cluster/")?;
        let (cluster, instance) = rest.split_once("/instance/")?;
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        let named = (1..=255).contains(&cluster.len()) && cluster.bytes().all(plain);
        (named && is_id(instance)).then(|| Identity {
            cluster: cluster.to_owned(),
            instance: instance.to_owned(),
        })
    }
}

impl Peer {
    /// Reads a certificate that TLS has already verified against the cluster's CA.
    pub(crate) fn read(certificate: &CertificateDer<'_>, now: Duration) -> Result<Peer, String> {
        let (_, parsed) = X509Certificate::from_der(certificate)
            .map_err(|_| "the client certificate is not X.509".to_owned())?;
        let identity = uris(&parsed)
            .find_map(Identity::parse)
            .ok_or("the client certificate names no instance")?;
        let public_key = parsed.public_key().raw.to_vec();
        let key_hash = hex::encode(Sha256::digest(&public_key));
        let until = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or(0);
        Ok(Peer {
            identity,
            public_key,
            key_hash,
            expired: now.as_secs() > until,
        })
    }
}

fn uris<'a>(certificate: &'a X509Certificate<'a>) -> impl Iterator<Item = &'a str> {
    let names = certificate.extensions().iter().filter_map(|extension| {
        let ParsedExtension::SubjectAlternativeName(san) = extension.parsed_extension() else {
            return None;
        };
        Some(&san.general_names)
    });
    names.flatten().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    })
}

/// Whether this is an id: 32 lowercase hex digits.
pub(crate) fn is_id(text: &str) -> bool {
    let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    text.len() == 32 && text.bytes().all(hex)
}

/// Builds and reads ARNs of one region and account.
#[derive(Clone, Debug)]
pub(crate) struct Arns {
    /// Region.
    pub(crate) region: String,
    /// Account.
    pub(crate) account: String,
}

impl Arns {
    /// A container instance's.
    pub(crate) fn instance(&self, identity: &Identity) -> String {
        let Identity { cluster, instance } = identity;
        let (region, account) = (&self.region, &self.account);
        format!("arn:aws:ecs:{region}:{account}:container-instance/{cluster}/{instance}")
    }

    /// A task's.
    pub(crate) fn task(&self, cluster: &str, id: &str) -> String {
        let (region, account) = (&self.region, &self.account);
        format!("arn:aws:ecs:{region}:{account}:task/{cluster}/{id}")
    }

    /// The id in a task's ARN, if it is one of this region, account and cluster.
    pub(crate) fn task_id<'a>(&self, cluster: &str, arn: &'a str) -> Option<&'a str> {
        let id = arn.rsplit('/').next().filter(|id| is_id(id))?;
        (self.task(cluster, id) == arn).then_some(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_survives_its_uri_and_nothing_else_is_one() {
        let identity = Identity {
            cluster: "blue_1-x".into(),
            instance: "0123456789abcdef0123456789abcdef".into(),
        };
        assert_eq!(Identity::parse(&identity.uri()), Some(identity));
        for bad in [
            "spiffe://elsewhere/cluster/a/instance/0123456789abcdef0123456789abcdef",
            "spiffe://longshore.internal/cluster//instance/0123456789abcdef0123456789abcdef",
            "spiffe://longshore.internal/cluster/a/b/instance/0123456789abcdef0123456789abcdef",
            "spiffe://longshore.internal/cluster/a/instance/0123456789ABCDEF0123456789abcdef",
            "spiffe://longshore.internal/cluster/a/instance/01",
        ] {
            assert_eq!(Identity::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_task_arn_of_elsewhere_is_not_ours() {
        let arns = Arns {
            region: "us-east-1".into(),
            account: "000000000000".into(),
        };
        let id = "0123456789abcdef0123456789abcdef";
        let arn = arns.task("default", id);
        assert_eq!(arns.task_id("default", &arn), Some(id));
        assert_eq!(arns.task_id("other", &arn), None);
        assert_eq!(arns.task_id("default", &arn.replace("east", "west")), None);
    }
}
