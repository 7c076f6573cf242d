//! Join tokens: how a host that nobody knows yet proves that it may join, and learns whom to trust.
//!
//! The text is `lsj1.` and base64url of 64 bytes: the hash of the CA's key, which lets the host refuse
//! every other server before it sends the token, and a secret, of which the store keeps only SHA-256.
//! A token is good for one host, for one cluster, for a short time. `redeem` is one compare-and-swap
//! over the token and the new instance: of two hosts that race with one token, one wins. The winner may come
//! again with the same key, for an answer may get lost.
//!
//! Deliberately absent: listing and revoking of tokens; they live for an hour.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use longshore_proto::TOKEN_PREFIX;
use sha2::{Digest, Sha256};

use super::SouthError;
use super::authority::Authority;
use super::identity::Identity;
use crate::model::{self, Cluster, Instance, JoinToken, Resources};
use crate::store::{Compare, Outcome, Store, StoreError};

/// How long a token is good unless its maker says otherwise.
pub const DEFAULT_TTL: Duration = Duration::from_secs(3600);
/// The longest that a token may be good for: it stands in shell histories and tickets.
pub const MAX_TTL: Duration = Duration::from_secs(7 * 24 * 3600);

const REMEDY: &str = "make a new one on the control plane's host (`longshore node token`)";

/// Makes a join token for `cluster`, good for `ttl`. The text is shown once: it is not kept.
///
/// # Errors
/// No such cluster, a `ttl` of nothing or beyond [`MAX_TTL`], and the store's.
pub fn mint_token(store: &dyn Store, cluster: &str, ttl: Duration) -> Result<String, SouthError> {
    let refused = |cause: String| SouthError {
        step: "make a join token",
        subject: format!("cluster {cluster:?}"),
        cause,
    };
    if ttl.is_zero() || ttl > MAX_TTL {
        let most = MAX_TTL.as_secs();
        return Err(refused(format!("it may be good for 1 to {most} seconds")));
    }
    let found = model::read::<Cluster>(store, &format!("cluster/{cluster}"))?;
    if !found.is_some_and(|cluster| cluster.record.active) {
        return Err(refused(
            "there is no such cluster; create it first (aws ecs create-cluster)".into(),
        ));
    }
    let secret = crate::id::random::<32>();
    let record = JoinToken {
        cluster: cluster.to_owned(),
        expires_at: crate::now().saturating_add(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX)),
        used_by: None,
    };
    let pin = Authority::open(store)?.spki_hash();
    store.transact(&[], &[model::put(key(&secret), &record)])?;
    Ok(format!(
        "{TOKEN_PREFIX}{}",
        URL_SAFE_NO_PAD.encode([pin, secret].concat())
    ))
}

/// A host that wants to join.
#[derive(Debug)]
pub(crate) struct Applicant<'a> {
    /// Hex of SHA-256 of its public key.
    pub(crate) key_hash: &'a str,
    /// For people.
    pub(crate) host_name: &'a str,
    /// Its agent's version.
    pub(crate) agent_version: &'a str,
}

/// Why a host may not join. `Display` holds the remedy and never the token.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("the join token is not a token of this control plane: {REMEDY}")]
    Unknown,
    #[error("the join token has expired: {REMEDY}")]
    Expired,
    #[error("the join token was already used by another host (instance {0}): {REMEDY}")]
    Used(String),
    #[error("the join token's cluster {0:?} was deleted: create it or {REMEDY}")]
    ClusterGone(String),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Uses the token: makes the instance, or finds the one this very key made with it before.
pub(crate) fn redeem(
    store: &dyn Store,
    token: &str,
    applicant: &Applicant<'_>,
) -> Result<Identity, Refusal> {
    let key = key(&secret(token).ok_or(Refusal::Unknown)?);
    loop {
        let found = model::read::<JoinToken>(store, &key)?.ok_or(Refusal::Unknown)?;
        let token = found.record;
        if let Some(instance) = token.used_by {
            return again(store, token.cluster, instance, applicant);
        }
        if crate::now() > token.expires_at {
            return Err(Refusal::Expired);
        }
        let cluster = model::read::<Cluster>(store, &format!("cluster/{}", token.cluster))?;
        if !cluster.is_some_and(|c| c.record.active) {
            return Err(Refusal::ClusterGone(token.cluster));
        }
        let identity = Identity {
            cluster: token.cluster.clone(),
            instance: crate::id::hex(),
        };
        let used = JoinToken {
            used_by: Some(identity.instance.clone()),
            ..token
        };
        let compares = [
            Compare::Revision(key.clone(), found.revision),
            Compare::Absent(identity.key()),
        ];
        let writes = [
            model::put(key.clone(), &used),
            model::put(identity.key(), &instance(&identity, applicant)),
        ];
        if let Outcome::Committed(_) = store.transact(&compares, &writes)? {
            return Ok(identity);
        }
    }
}

/// A used token: good only for the key that used it, whose answer may have been lost.
fn again(
    store: &dyn Store,
    cluster: String,
    instance: String,
    applicant: &Applicant<'_>,
) -> Result<Identity, Refusal> {
    let identity = Identity { cluster, instance };
    let found = model::read::<Instance>(store, &identity.key())?;
    match found {
        Some(found) if found.record.key_hash == applicant.key_hash => Ok(identity),
        _ => Err(Refusal::Used(identity.instance)),
    }
}

fn instance(identity: &Identity, applicant: &Applicant<'_>) -> Instance {
    Instance {
        id: identity.instance.clone(),
        cluster: identity.cluster.clone(),
        connected: false,
        registered_at: crate::now(),
        total: Resources::default(),
        attributes: Vec::new(),
        agent_version: applicant.agent_version.to_owned(),
        host_name: applicant.host_name.to_owned(),
        key_hash: applicant.key_hash.to_owned(),
        version: 1,
    }
}

/// The secret in a token's text.
fn secret(token: &str) -> Option<[u8; 32]> {
    let text = token.strip_prefix(TOKEN_PREFIX)?;
    if text.len() > 128 {
        return None;
    }
    let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
    (bytes.len() == 64).then(|| bytes[32..].try_into().ok())?
}

fn key(secret: &[u8; 32]) -> String {
    format!("token/{}", hex::encode(Sha256::digest(secret)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::south::fixture::{cluster, store};

    fn host(key_hash: &str) -> Applicant<'_> {
        Applicant {
            key_hash,
            host_name: "h",
            agent_version: "1",
        }
    }

    #[test]
    fn a_token_is_good_for_one_key_and_that_key_may_come_again() {
        let (_directory, store) = store();
        cluster(&store, "default");
        let token = mint_token(&store, "default", DEFAULT_TTL).unwrap();
        let first = redeem(&store, &token, &host("aa")).unwrap();
        assert_eq!(first.cluster, "default");
        assert_eq!(redeem(&store, &token, &host("aa")).unwrap(), first);
        let second = redeem(&store, &token, &host("bb")).unwrap_err();
        assert!(matches!(&second, Refusal::Used(by) if *by == first.instance));
        assert!(second.to_string().contains("make a new one"));
    }

    #[test]
    fn of_many_racing_hosts_one_wins() {
        let (_directory, store) = store();
        cluster(&store, "default");
        let token = mint_token(&store, "default", DEFAULT_TTL).unwrap();
        let won = std::thread::scope(|scope| {
            let hosts: Vec<_> = (0..8)
                .map(|n| {
                    let (store, token) = (&store, &token);
                    scope.spawn(move || redeem(store, token, &host(&n.to_string())).is_ok())
                })
                .collect();
            hosts
                .into_iter()
                .map(|host| usize::from(host.join().unwrap()))
                .sum::<usize>()
        });
        assert_eq!(won, 1);
        assert_eq!(store.range("instance/", None, 100).unwrap().len(), 1);
    }

    #[test]
    fn an_expired_an_unknown_and_a_malformed_token_are_refused_by_name() {
        let (_directory, store) = store();
        cluster(&store, "default");
        let token = mint_token(&store, "default", Duration::from_millis(1)).unwrap();
        while crate::now() <= expiry(&store) {
            std::thread::yield_now();
        }
        let expired = redeem(&store, &token, &host("a")).unwrap_err();
        assert!(matches!(expired, Refusal::Expired), "{expired}");
        let stranger = format!("{TOKEN_PREFIX}{}", URL_SAFE_NO_PAD.encode([7; 64]));
        for bad in [
            stranger.as_str(),
            "",
            "lsj1.",
            "lsj1.AAAA",
            "lsj2.x",
            &"x".repeat(9999),
        ] {
            let unknown = redeem(&store, bad, &host("a")).unwrap_err();
            assert!(matches!(unknown, Refusal::Unknown), "{unknown}");
        }
        assert!(store.range("instance/", None, 9).unwrap().is_empty());
    }

    fn expiry(store: &dyn Store) -> u64 {
        let tokens = model::list::<JoinToken>(store, "token/", None, 9).unwrap();
        tokens[0].1.record.expires_at
    }

    #[test]
    fn the_store_never_sees_the_secret() {
        let (_directory, store) = store();
        cluster(&store, "default");
        let token = mint_token(&store, "default", DEFAULT_TTL).unwrap();
        let secret = hex::encode(secret(&token).unwrap());
        for (key, value) in store.range("", None, 100).unwrap() {
            let value = String::from_utf8_lossy(&value.value).into_owned();
            assert!(!format!("{key}{value}").contains(&secret));
            assert!(!format!("{key}{value}").contains(&token[70..]));
        }
    }

    #[test]
    fn no_token_for_a_cluster_that_is_not_there_or_for_ever() {
        let (_directory, store) = store();
        let error = mint_token(&store, "nowhere", DEFAULT_TTL).unwrap_err();
        assert!(error.to_string().contains("create it first"), "{error}");
        cluster(&store, "default");
        assert!(mint_token(&store, "default", Duration::ZERO).is_err());
        assert!(mint_token(&store, "default", MAX_TTL * 2).is_err());
    }
}
