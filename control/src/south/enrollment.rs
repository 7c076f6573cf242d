//! Join and Renew: how a host comes to its certificate.

use std::sync::Arc;
use std::time::Duration;

use longshore_proto::v1::enrollment_server::Enrollment;
use longshore_proto::v1::{Identity as Issued, JoinRequest, RenewRequest};
use rcgen::{
    CertificateSigningRequestParams, PKCS_ECDSA_P256_SHA256, PublicKeyData, SubjectPublicKeyInfo,
};
use rustls::pki_types::CertificateSigningRequestDer;
use sha2::{Digest, Sha256};
use tonic::{Request, Response, Status};

use super::identity::{Identity, Peer};
use super::token::{Applicant, Refusal, redeem};
use super::{South, SouthError, bounds, instance};
use crate::store::StoreError;

#[tonic::async_trait]
impl Enrollment for South {
    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<Issued>, Status> {
        let request = request.into_inner();
        let key = requested_key(&request.certificate_request)?;
        let key_hash = hex::encode(Sha256::digest(key.subject_public_key_info()));
        let redeemed = self
            .store
            .run(move |store| {
                let applicant = Applicant {
                    key_hash: &key_hash,
                    host_name: &bounds::cut(&request.host_name, bounds::NAME),
                    agent_version: &bounds::cut(&request.agent_version, bounds::NAME),
                };
                Ok(redeem(store, &request.token, &applicant))
            })
            .await
            .map_err(|e| store_failed(&e))?;
        let identity = redeemed.map_err(|refusal| match refusal {
            Refusal::Store(error) => store_failed(&error),
            other => Status::permission_denied(format!("join: {other}")),
        })?;
        tracing::info!(
            cluster = identity.cluster,
            instance = identity.instance,
            "host joined"
        );
        self.issue(&key, &identity)
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<Issued>, Status> {
        let peer = self.peer(&request)?;
        let (key, hash) = (peer.identity.key(), peer.key_hash.clone());
        let known = self
            .store
            .run(move |store| instance::key_hash(store, &key))
            .await
            .map_err(|e| store_failed(&e))?;
        // An instance this store never heard of may renew nothing; a restored store enters it again at
        // its session, while its certificate is good.
        if known.as_deref() != Some(hash.as_str()) {
            return Err(instance::gone(&peer.identity));
        }
        let public_key = SubjectPublicKeyInfo::from_der(&peer.public_key)
            .map_err(|e| Status::invalid_argument(format!("renew: the certificate's key: {e}")))?;
        self.issue(&public_key, &peer.identity)
    }
}

impl South {
    fn issue(
        &self,
        key: &impl PublicKeyData,
        identity: &Identity,
    ) -> Result<Response<Issued>, Status> {
        let lifetime = self.config.certificate_lifetime;
        let certificate = self
            .authority
            .client(key, identity, lifetime)
            .map_err(|error: SouthError| Status::internal(error.to_string()))?;
        Ok(Response::new(Issued {
            certificate: certificate.to_vec(),
            ca: self.authority.certificate().to_vec(),
            instance_arn: self.arns.instance(identity),
        }))
    }

    /// The peer that TLS verified; its certificate may have expired.
    pub(super) fn peer<T>(&self, request: &Request<T>) -> Result<Peer, Status> {
        let certificates = request.peer_certs();
        let Some(certificate) = certificates.as_ref().and_then(|all| all.first()) else {
            return Err(Status::unauthenticated(
                "this call needs a client certificate: join first",
            ));
        };
        let now = Duration::from_millis(crate::now());
        Peer::read(certificate, now).map_err(Status::unauthenticated)
    }
}

/// The key of a certificate request, whose signature proves that the asker holds it.
fn requested_key(der: &[u8]) -> Result<impl PublicKeyData + use<>, Status> {
    let refused =
        |cause: String| Status::invalid_argument(format!("join: the certificate request: {cause}"));
    if der.len() > 8 * 1024 {
        return Err(refused("longer than 8 KiB".into()));
    }
    let request = CertificateSigningRequestDer::from(der.to_vec());
    let request =
        CertificateSigningRequestParams::from_der(&request).map_err(|e| refused(e.to_string()))?;
    if request.public_key.algorithm() != &PKCS_ECDSA_P256_SHA256 {
        return Err(refused("its key is not ECDSA P-256".into()));
    }
    Ok(request.public_key)
}

/// The store failed: the agent shall come again; the operator finds the cause in this log.
pub(super) fn store_failed(error: &StoreError) -> Status {
    tracing::error!(%error, "the store failed under an agent's call");
    Status::unavailable(
        "the control plane's store failed; its log tells more. Trying again helps once that is mended",
    )
}

impl std::ops::Deref for super::SharedStore {
    type Target = Arc<dyn crate::store::Store>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}
