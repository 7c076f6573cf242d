//! Join, once, and Renew, now and then.

use longshore_proto::v1::enrollment_client::EnrollmentClient;
use longshore_proto::v1::{Identity as Issued, JoinRequest, RenewRequest};
use tokio::time::timeout;
use tonic::{Response, Status};

use super::LinkConfig;
use super::dial::{Address, PATIENCE, Trust, dial, refusal};
use super::identity::{Directory, Identity, now, request};
use super::pin;

/// The host's identity, fit for a session: joins if there is none, renews if it is time.
pub(super) async fn identify(
    config: &LinkConfig,
    directory: &Directory,
    address: &Address,
) -> Result<Identity, String> {
    let identity = match directory.load()? {
        Some(identity) => identity,
        None => join(config, directory, address).await?,
    };
    if !identity.is_due(now()) {
        return Ok(identity);
    }
    match renew(directory, address, &identity).await {
        Ok(renewed) => Ok(renewed),
        // Two thirds of the lifetime are left for better luck.
        Err(why) if !identity.is_expired(now()) => {
            tracing::warn!(
                why,
                "the client certificate was not renewed; trying again at the next session"
            );
            Ok(identity)
        }
        Err(why) => Err(why),
    }
}

async fn join(
    config: &LinkConfig,
    directory: &Directory,
    address: &Address,
) -> Result<Identity, String> {
    let failed = |why: String| format!("join {}: {why}", config.endpoint);
    let token = config.token.as_deref().ok_or_else(|| {
        failed(
            "this host has no identity and no join token: make a token on the control plane's host"
                .into(),
        )
    })?;
    let pin = pin::of_token(token).map_err(failed)?;
    let key = directory.key().map_err(failed)?;
    let channel = dial(address, &Trust::Pin(pin)).await.map_err(failed)?;
    let call = JoinRequest {
        token: token.to_owned(),
        certificate_request: request(&key).map_err(failed)?,
        host_name: config.registration.host_name.clone(),
        agent_version: config.registration.agent_version.clone(),
    };
    let mut client = EnrollmentClient::new(channel);
    let answer = timeout(PATIENCE, client.join(call)).await;
    keep(directory, answer).map_err(failed)
}

async fn renew(
    directory: &Directory,
    address: &Address,
    identity: &Identity,
) -> Result<Identity, String> {
    let failed = |why: String| format!("renew the client certificate: {why}");
    let trust = Trust::Identity(identity);
    let channel = dial(address, &trust).await.map_err(failed)?;
    let mut client = EnrollmentClient::new(channel);
    let answer = timeout(PATIENCE, client.renew(RenewRequest {})).await;
    keep(directory, answer).map_err(failed)
}

type Answer = Result<Result<Response<Issued>, Status>, tokio::time::error::Elapsed>;

fn keep(directory: &Directory, answer: Answer) -> Result<Identity, String> {
    let issued = match answer {
        Err(_) => return Err(format!("no answer within {} s", PATIENCE.as_secs())),
        Ok(Err(status)) => return Err(refusal(&status)),
        Ok(Ok(response)) => response.into_inner(),
    };
    directory.keep(&issued.ca, &issued.certificate)?;
    directory
        .load()?
        .ok_or_else(|| "the certificate that was just kept is gone".to_owned())
}
