//! The host's identity on disk: `key.der`, `certificate.der`, `ca.der`.
//!
//! Order is what makes this crash-proof. The key is kept before the token is used, so that a repeated join comes with
//! the same key; the CA before the certificate; and a certificate that is there means: joined. Each file
//! is written aside, synced and renamed.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use x509_parser::prelude::{FromDer, X509Certificate};

/// No file of an identity is longer.
const LONGEST: u64 = 64 * 1024;

/// The directory.
#[derive(Debug)]
pub(super) struct Directory(PathBuf);

/// A host that has joined. `Debug` shows no key.
pub(super) struct Identity {
    pub(super) key: KeyPair,
    pub(super) certificate: CertificateDer<'static>,
    pub(super) ca: CertificateDer<'static>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Identity(..)")
    }
}

impl Directory {
    /// The directory, closed to others. Where it is missing, the first key makes it: a host that may not join
    /// is left as it was.
    pub(super) fn open(path: &Path) -> Result<Directory, String> {
        match std::fs::set_permissions(path, Permissions::from_mode(0o700)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(format!(
                "open the identity directory {}: {e}",
                path.display()
            )),
            _ => Ok(Directory(path.to_owned())),
        }
    }

    /// Removes it with all that is in it.
    pub(super) fn remove(&self) -> Result<(), String> {
        match std::fs::remove_dir_all(&self.0) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(format!(
                "remove the identity directory {}: {e}",
                self.0.display()
            )),
            _ => Ok(()),
        }
    }

    /// The identity; none before the host has joined.
    pub(super) fn load(&self) -> Result<Option<Identity>, String> {
        let Some(certificate) = self.read("certificate.der")? else {
            return Ok(None);
        };
        let (Some(ca), Some(key)) = (self.read("ca.der")?, self.read("key.der")?) else {
            return Err(self.damaged("a file is missing"));
        };
        let certificate = CertificateDer::from(certificate);
        validity(&certificate).ok_or_else(|| self.damaged("certificate.der is not X.509"))?;
        Ok(Some(Identity {
            key: self.decode(key)?,
            certificate,
            ca: CertificateDer::from(ca),
        }))
    }

    /// The host's key; made and kept at the first call.
    pub(super) fn key(&self) -> Result<KeyPair, String> {
        if let Some(key) = self.read("key.der")? {
            return self.decode(key);
        }
        let made = DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.0);
        made.map_err(|e| format!("make the identity directory {}: {e}", self.0.display()))?;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
            .map_err(|e| format!("make the host's key: {e}"))?;
        self.write("key.der", &key.serialize_der())?;
        Ok(key)
    }

    /// Keeps what a join or a renewal gave.
    pub(super) fn keep(&self, ca: &[u8], certificate: &[u8]) -> Result<(), String> {
        self.write("ca.der", ca)?;
        self.write("certificate.der", certificate)
    }

    fn decode(&self, key: Vec<u8>) -> Result<KeyPair, String> {
        let key = PrivatePkcs8KeyDer::from(key);
        KeyPair::from_pkcs8_der_and_sign_algo(&key, &PKCS_ECDSA_P256_SHA256)
            .map_err(|_| self.damaged("key.der is no ECDSA P-256 key"))
    }

    fn damaged(&self, cause: &str) -> String {
        let path = self.0.display();
        format!(
            "read the identity in {path}: {cause}; remove {path} and join again with a new token"
        )
    }

    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, String> {
        let path = self.0.join(name);
        let read = File::open(&path).and_then(|file| {
            let mut bytes = Vec::new();
            file.take(LONGEST).read_to_end(&mut bytes)?;
            Ok(bytes)
        });
        match read {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(format!("read {}: {error}", path.display())),
        }
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), String> {
        let path = self.0.join(name);
        let aside = self.0.join(format!("{name}.new"));
        let written = (|| {
            let mut file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&aside)?;
            file.set_permissions(Permissions::from_mode(0o600))?;
            file.write_all(bytes)?;
            file.sync_all()?;
            std::fs::rename(&aside, &path)?;
            File::open(&self.0)?.sync_all()
        })();
        written.map_err(|e| format!("write {}: {e}", path.display()))
    }
}

impl Identity {
    /// The key, as TLS wants it.
    pub(super) fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.serialize_der()).into()
    }

    /// Whether a third of the certificate's time is over.
    pub(super) fn is_due(&self, now: Duration) -> bool {
        validity(&self.certificate)
            .is_none_or(|(from, until)| now > from + until.saturating_sub(from) / 3)
    }

    /// Whether all of it is.
    pub(super) fn is_expired(&self, now: Duration) -> bool {
        validity(&self.certificate).is_none_or(|(_, until)| now > until)
    }
}

/// From when to when, since the Unix epoch.
fn validity(certificate: &CertificateDer<'_>) -> Option<(Duration, Duration)> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let seconds = |t: i64| Duration::from_secs(u64::try_from(t).unwrap_or(0));
    let validity = parsed.validity();
    Some((
        seconds(validity.not_before.timestamp()),
        seconds(validity.not_after.timestamp()),
    ))
}

/// The time.
pub(super) fn now() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

/// A certificate request for this key, DER. Only key and signature count: the control plane gives the name.
pub(super) fn request(key: &KeyPair) -> Result<Vec<u8>, String> {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    let request = params
        .serialize_request(key)
        .map_err(|e| format!("make a certificate request: {e}"))?;
    Ok(request.der().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_stays_the_same_and_is_closed_to_others() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("identity");
        let directory = Directory::open(&path).unwrap();
        assert!(directory.load().unwrap().is_none());
        assert!(!path.exists(), "a look makes nothing");
        let key = directory.key().unwrap();
        assert_eq!(
            directory.key().unwrap().serialize_der(),
            key.serialize_der()
        );
        let mode = |p: &Path| std::fs::metadata(p).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(&path.join("key.der"))), (0o700, 0o600));
        // A crash between key and certificate: not joined, and the key is used again.
        assert!(directory.load().unwrap().is_none());
        directory.remove().unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn a_damaged_identity_is_named_with_a_remedy() {
        let root = tempfile::tempdir().unwrap();
        let directory = Directory::open(root.path()).unwrap();
        directory.key().unwrap();
        directory.keep(b"ca", b"not a certificate").unwrap();
        assert!(directory.load().unwrap_err().contains("join again"));
        std::fs::write(root.path().join("key.der"), b"secret-bytes").unwrap();
        let error = directory.key().unwrap_err();
        assert!(error.contains("join again") && !error.contains("secret-bytes"));
    }

    #[test]
    fn a_certificate_is_due_after_a_third_of_its_time() {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let day = Duration::from_secs(86_400);
        let epoch = rcgen::date_time_ymd(1970, 1, 1);
        let mut params = CertificateParams::default();
        (params.not_before, params.not_after) = (epoch + day * 100, epoch + day * 130);
        let certificate = params.self_signed(&key).unwrap().der().clone();
        let identity = Identity {
            ca: certificate.clone(),
            certificate,
            key,
        };
        assert!(!identity.is_due(day * 110));
        assert!(identity.is_due(day * 111));
        assert!(!identity.is_expired(day * 130));
        assert!(identity.is_expired(day * 131));
    }
}
