//! Trust before any certificate is known: a join token names the CA by the hash of its key.
//!
//! The verifier takes only a chain whose CA has that key; everything else about it (signatures, times,
//! the server's name) is verified as ever, with that CA as the only root. TLS ends before the token is sent if it
//! does not hold.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use longshore_proto::TOKEN_PREFIX;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme,
};
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};

/// SHA-256 of the CA's SubjectPublicKeyInfo.
pub(super) type Pin = [u8; 32];

/// The pin in a token's text.
pub(super) fn of_token(token: &str) -> Result<Pin, String> {
    let bad =
        "the join token is not one: it begins with lsj1. and has 91 characters; copy it whole";
    let text = token.strip_prefix(TOKEN_PREFIX).ok_or(bad)?;
    if text.len() > 128 {
        return Err(bad.into());
    }
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| bad)?;
    if bytes.len() != 64 {
        return Err(bad.into());
    }
    bytes[..32].try_into().map_err(|_| bad.into())
}

/// The server is not the one that the token was made by.
#[derive(Debug)]
pub(super) struct Impostor;

impl std::fmt::Display for Impostor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(
            "its CA is not the one that the join token names: this is another control plane or an \
             impostor; the token was not sent. Check the endpoint, or make a token on that control plane",
        )
    }
}

impl std::error::Error for Impostor {}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Pinned {
    pub(super) pin: Pin,
    pub(super) provider: Arc<CryptoProvider>,
}

impl Pinned {
    fn root(&self, chain: &[CertificateDer<'_>]) -> Result<RootCertStore, Error> {
        let pinned = chain.iter().find(|certificate| {
            let Ok((_, parsed)) = X509Certificate::from_der(certificate) else {
                return false;
            };
            Sha256::digest(parsed.public_key().raw)[..] == self.pin
        });
        let impostor = || CertificateError::Other(OtherError(Arc::new(Impostor)));
        let ca = pinned.ok_or_else(|| Error::InvalidCertificate(impostor()))?;
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone().into_owned())?;
        Ok(roots)
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let roots = Arc::new(self.root(intermediates)?);
        WebPkiServerVerifier::builder_with_provider(roots, self.provider.clone())
            .build()
            .map_err(|e| Error::General(e.to_string()))?
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_token_gives_its_pin_and_anything_else_a_remedy() {
        let bytes: Vec<u8> = (0..64).collect();
        let token = format!("{TOKEN_PREFIX}{}", URL_SAFE_NO_PAD.encode(&bytes));
        assert_eq!(token.len(), 91);
        assert_eq!(of_token(&token).unwrap()[..], bytes[..32]);
        for bad in [
            "",
            "lsj1.",
            "lsj2.AAAA",
            &token[..80],
            &format!("{token}AA"),
        ] {
            assert!(of_token(bad).unwrap_err().contains("copy it whole"));
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in ".{0,200}") {
            of_token(&text).ok();
            of_token(&format!("{TOKEN_PREFIX}{text}")).ok();
        }
    }
}
