//! Join, once, and Renew, now and then.

use longshore_proto::v1::enrollment_client::EnrollmentClient;
use longshore_proto::v1::{Identity as Issued, JoinRequest, RenewRequest};
use tokio::time::timeout;
use tonic::{Code, Response, Status};

use super::dial::{Address, PATIENCE, Trust, dial, refusal};
use super::identity::{Directory, Identity, now, request};
use super::pin;
use super::{LinkConfig, Standing};

/// Why a host has no identity that is fit for a session.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// Trying again may help.
    Passing(String),
    /// The control plane has refused the join token: trying again with the same one is in vain.
    Refused(String),
}

impl From<String> for Failure {
    fn from(why: String) -> Failure {
        Failure::Passing(why)
    }
}

/// Refuses what no try can mend: an identity that cannot be read, or none and no usable token.
pub(super) fn check(
    endpoint: &str,
    token: Option<&str>,
    directory: &Directory,
) -> Result<Standing, String> {
    match directory.load()? {
        Some(_) => Ok(Standing::Joined),
        None => pin_of(endpoint, token).map(|_| Standing::New),
    }
}

/// The token, and the pin in it.
fn pin_of<'a>(endpoint: &str, token: Option<&'a str>) -> Result<(&'a str, pin::Pin), String> {
    let failed = |why: String| format!("join {endpoint}: {why}");
    let token = token.ok_or_else(|| {
        failed(
            "this host has no identity and no join token; make one on the control plane's host \
             (`longshore node token`) and give it by --token-file or the variable LONGSHORE_JOIN_TOKEN"
                .into(),
        )
    })?;
    Ok((token, pin::of_token(token).map_err(failed)?))
}

/// The host's identity, fit for a session: joins if there is none, renews if it is time.
pub(super) async fn identify(
    config: &LinkConfig,
    directory: &Directory,
    address: &Address,
) -> Result<Identity, Failure> {
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
        Err(why) => Err(why.into()),
    }
}

async fn join(
    config: &LinkConfig,
    directory: &Directory,
    address: &Address,
) -> Result<Identity, Failure> {
    let failed = |why: String| format!("join {}: {why}", config.endpoint);
    let (token, pin) = pin_of(&config.endpoint, config.token.as_deref())?;
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
    if let Ok(Err(status)) = &answer
        && status.code() == Code::PermissionDenied
    {
        return Err(Failure::Refused(failed(refusal(status))));
    }
    Ok(keep(directory, answer).map_err(failed)?)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_without_identity_needs_a_whole_token() {
        let dir = tempfile::tempdir().unwrap();
        let directory = Directory::open(dir.path()).unwrap();
        let refused = |token| check("https://c:1", token, &directory).unwrap_err();
        let none = refused(None);
        assert!(
            none.starts_with("join https://c:1: ") && none.contains("longshore node token"),
            "{none}"
        );
        let cut = refused(Some("lsj1.AAAA"));
        assert!(
            cut.contains("copy it whole") && !cut.contains("AAAA"),
            "{cut}"
        );
        let bytes = [7; 64];
        let text = base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, bytes);
        check("https://c:1", Some(&format!("lsj1.{text}")), &directory).unwrap();
    }
}
