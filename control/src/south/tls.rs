//! TLS on the agents' port: version 1.3, the cluster's CA as the only root for clients.
//!
//! A client may come without a certificate (to join), with a good one (for its session), or with one
//! that has expired (to renew it, weeks offline lock nobody out). TLS lets all three in, and anything
//! signed by someone else out; the services decide who may call what. What an expired certificate's
//! handshake proves is unchanged: the CA signed it, and the peer holds its key.

use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, ServerConfig,
    SignatureScheme,
};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::SouthError;
use super::authority::Authority;

/// The port's TLS configuration, with a server certificate of its own.
pub(super) fn config(authority: &Authority) -> Result<ServerConfig, SouthError> {
    let wrong = |e: &dyn std::fmt::Display| SouthError {
        step: "set up TLS",
        subject: "the agents' port".into(),
        cause: e.to_string(),
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots
        .add(authority.certificate().clone())
        .map_err(|e| wrong(&e))?;
    let inner = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()
        .map_err(|e| wrong(&e))?;
    let (certificate, key) = authority.server()?;
    // The CA goes along: a joining host knows it only by its hash.
    let chain = vec![certificate, authority.certificate().clone()];
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| wrong(&e))?
        .with_client_cert_verifier(Arc::new(ExpiryTolerant(inner)))
        .with_single_cert(chain, key)
        .map_err(|e| wrong(&e))?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    // No resumption: a resumed session would carry a verdict about a certificate of some time ago.
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// Verifies as WebPKI does, except that an expired certificate is judged as of its last second.
#[derive(Debug)]
struct ExpiryTolerant(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for ExpiryTolerant {
    fn client_auth_mandatory(&self) -> bool {
        self.0.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        match self.0.verify_client_cert(end_entity, intermediates, now) {
            Err(Error::InvalidCertificate(
                CertificateError::Expired | CertificateError::ExpiredContext { .. },
            )) => {
                let then = last_second(end_entity)?;
                self.0.verify_client_cert(end_entity, intermediates, then)
            }
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

fn last_second(certificate: &CertificateDer<'_>) -> Result<UnixTime, Error> {
    let bad = || Error::InvalidCertificate(CertificateError::BadEncoding);
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| bad())?;
    let until = u64::try_from(parsed.validity().not_after.timestamp()).map_err(|_| bad())?;
    Ok(UnixTime::since_unix_epoch(Duration::from_secs(until)))
}
