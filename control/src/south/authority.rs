//! The cluster's certificate authority: makes itself once, signs the control plane's own certificate at
//! each start and agents' certificates when they join or renew.
//!
//! Its key lives in the store under `ca` and in this process's memory, nowhere else: no call gives it
//! out and `Debug` hides it. Deliberately absent: rotation of the CA, revocation lists (a host whose
//! instance record is gone is refused at the session instead).

use std::time::Duration;

use longshore_proto::SERVER_NAME;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::SouthError;
use super::identity::Identity;
use crate::model;
use crate::store::{Compare, Outcome, Store};

/// The CA's key and its place in the store.
const KEY: &str = "ca";
/// The CA outlives every host that trusts it.
const CA_LIFETIME: Duration = Duration::from_secs(30 * 365 * 24 * 3600);
/// Certificates are good from an hour before they are made: hosts' clocks differ.
const SKEW: Duration = Duration::from_secs(3600);

/// See the module's documentation.
pub(crate) struct Authority {
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
    spki_hash: [u8; 32],
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority")
            .field("spki_hash", &hex::encode(self.spki_hash))
            .finish_non_exhaustive()
    }
}

/// The row in the store. No `Debug`: it holds the key.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
struct Record {
    /// X.509, DER, hex.
    certificate: String,
    /// PKCS #8, DER, hex.
    key: String,
}

impl Authority {
    /// The store's CA; made at the first call. Two processes that race here end with the same one.
    pub(crate) fn open(store: &dyn Store) -> Result<Authority, SouthError> {
        if let Some(found) = model::read::<Record>(store, KEY)? {
            return Authority::load(&found.record);
        }
        let made = make().map_err(|e| failed("make the cluster's CA", e))?;
        let absent = [Compare::Absent(KEY.to_owned())];
        match store.transact(&absent, &[model::put(KEY, &made)])? {
            Outcome::Committed(_) => Authority::load(&made),
            Outcome::Conflict => match model::read::<Record>(store, KEY)? {
                Some(found) => Authority::load(&found.record),
                None => Err(failed("read the cluster's CA", "it vanished; try again")),
            },
        }
    }

    fn load(record: &Record) -> Result<Authority, SouthError> {
        // The cause is left out on purpose: a decoder's message may quote what it could not decode.
        let bad = |_| {
            failed(
                "read the cluster's CA",
                "the store's `ca` is damaged; restore the store from a backup",
            )
        };
        let certificate = CertificateDer::from(hex::decode(&record.certificate).map_err(bad)?);
        let key = PrivatePkcs8KeyDer::from(hex::decode(&record.key).map_err(bad)?);
        let key = KeyPair::from_pkcs8_der_and_sign_algo(&key, &PKCS_ECDSA_P256_SHA256)
            .map_err(|e| failed("read the cluster's CA", e))?;
        let spki_hash = Sha256::digest(key.subject_public_key_info()).into();
        Ok(Authority {
            certificate,
            issuer: Issuer::new(ca_params(), key),
            spki_hash,
        })
    }

    /// The CA's certificate.
    pub(crate) fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// SHA-256 of the CA's SubjectPublicKeyInfo: what a join token pins.
    pub(crate) fn spki_hash(&self) -> [u8; 32] {
        self.spki_hash
    }

    /// A certificate and key for this control plane's port, with [`SERVER_NAME`] and for servers only. The
    /// key never leaves the process, so it lives as long as the process and no longer.
    pub(crate) fn server(
        &self,
    ) -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>), SouthError> {
        let wrong = |e: rcgen::Error| failed("make the control plane's certificate", e);
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(wrong)?;
        let mut params = leaf(SERVER_NAME, CA_LIFETIME / 3);
        params.subject_alt_names = vec![SanType::DnsName(SERVER_NAME.try_into().map_err(wrong)?)];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = params.signed_by(&key, &self.issuer).map_err(wrong)?;
        Ok((certificate.into(), PrivateKeyDer::from(key)))
    }

    /// A client certificate for this key and this instance, for clients only.
    pub(crate) fn client(
        &self,
        public_key: &impl PublicKeyData,
        identity: &Identity,
        lifetime: Duration,
    ) -> Result<CertificateDer<'static>, SouthError> {
        let wrong = |e: rcgen::Error| failed("sign a client certificate", e);
        let mut params = leaf(&identity.instance, lifetime);
        let uri = identity.uri().as_str().try_into().map_err(wrong)?;
        params.subject_alt_names = vec![SanType::URI(uri)];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(public_key, &self.issuer).map_err(wrong)?;
        Ok(certificate.into())
    }
}

fn make() -> Result<Record, rcgen::Error> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let certificate = ca_params().self_signed(&key)?;
    Ok(Record {
        certificate: hex::encode(certificate.der()),
        key: hex::encode(key.serialize_der()),
    })
}

fn ca_params() -> CertificateParams {
    let mut params = leaf("Longshore cluster CA", CA_LIFETIME);
    // No CA below this one.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.use_authority_key_identifier_extension = false;
    params
}

fn leaf(common_name: &str, lifetime: Duration) -> CertificateParams {
    let now = Duration::from_millis(crate::now());
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let mut params = CertificateParams::default();
    params.not_before = epoch + now.saturating_sub(SKEW);
    params.not_after = epoch + now + lifetime;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    let mut serial = crate::id::random::<16>();
    serial[0] &= 0x7f; // RFC 5280: positive
    params.serial_number = Some(SerialNumber::from(serial.to_vec()));
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    params
}

fn failed(step: &'static str, cause: impl std::fmt::Display) -> SouthError {
    SouthError {
        step,
        subject: KEY.to_owned(),
        cause: cause.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::RedbStore;

    #[test]
    fn the_ca_stays_the_same_and_its_key_is_not_printed() {
        let directory = tempfile::tempdir().unwrap();
        let store = RedbStore::open(directory.path()).unwrap();
        let first = Authority::open(&store).unwrap();
        let again = Authority::open(&store).unwrap();
        assert_eq!(first.certificate(), again.certificate());
        assert_eq!(first.spki_hash(), again.spki_hash());
        let record = model::read::<Record>(&store, KEY).unwrap().unwrap().record;
        assert!(!format!("{first:?}").contains(&record.key[40..80]));
    }

    #[test]
    fn a_damaged_ca_is_an_error_that_quotes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let store = RedbStore::open(directory.path()).unwrap();
        let damaged = Record {
            certificate: "00".into(),
            key: "this-was-a-key".into(),
        };
        store.transact(&[], &[model::put(KEY, &damaged)]).unwrap();
        let error = Authority::open(&store).unwrap_err().to_string();
        assert!(error.contains("backup"), "{error}");
        assert!(!error.contains("this-was-a-key"));
    }
}
