//! What an operator says of registries: a file, the environment, or a caller's own words.
//!
//! `Registries::default()` knows nothing and touches nothing. `docs/how-to/private-registries.md` describes the
//! file for its readers.

use std::collections::BTreeMap;
use std::fmt;
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use super::hub_address;
use crate::error::{ImageError, printable};

/// All that is known of registries: whom to trust, whom to ask instead, and as which user.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Registries {
    /// `host[:port]` of registries that may speak plain HTTP. Loopback addresses always may.
    pub insecure: Vec<String>,
    /// PEM files of certificate authorities that are trusted beside the system's, with every registry.
    pub ca_files: Vec<PathBuf>,
    /// Files in the form of docker's `config.json`; the first that knows a registry counts. They are read at each use,
    /// so that a login needs no restart.
    pub credential_files: Vec<PathBuf>,
    /// Settings of single registries, by `host[:port]` as in references; `docker.io` for Docker Hub.
    pub registries: BTreeMap<String, Registry>,
    /// Limits of time, number and rate.
    pub limits: Limits,
    /// Proxies.
    #[serde(skip)]
    pub proxies: Proxies,
    /// Keys of an AWS account, for ECR.
    #[serde(skip)]
    pub aws_keys: Option<AwsKeys>,
}

/// What is particular to one registry.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Registry {
    /// `host[:port][/prefix]` of registries that have the same images and are asked first, in this order.
    pub mirrors: Vec<String>,
    /// PEM files of certificate authorities that are trusted with this registry, beside the others.
    pub ca_files: Vec<PathBuf>,
    /// What we show a registry that wants certificates of its clients.
    pub client_certificate: Option<ClientCertificate>,
    /// This registry's users come from Amazon ECR. Not needed for `ACCOUNT.dkr.ecr.REGION.amazonaws.com`.
    pub ecr: Option<Ecr>,
    /// Layers that move at once from this registry, if not as many as `limits` says.
    pub layers: Option<NonZeroUsize>,
    /// Bytes a second that layers from this registry take together; None for as many as come.
    pub bytes_per_second: Option<NonZeroU64>,
}

/// A certificate of our own.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClientCertificate {
    /// PEM file of the certificate and of those between it and its authority.
    pub certificate: PathBuf,
    /// PEM file of its key.
    pub key: PathBuf,
}

/// Where to ask for a user of an Amazon ECR registry.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Ecr {
    /// Region that requests are signed for.
    pub region: String,
    /// URL of the ECR API, if it is another than AWS's own for the region.
    pub endpoint: Option<String>,
}

/// Nothing that is waited for is worth a longer wait.
const SECONDS_MAX: u64 = 7 * 24 * 60 * 60;

/// Limits of time, number and rate, for all registries together unless it says otherwise.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Limits {
    /// Seconds without a byte after which a registry is taken for dead.
    pub inactivity_seconds: u64,
    /// Seconds that one document or layer may take in all.
    pub total_seconds: u64,
    /// Layers that move at once.
    pub layers: NonZeroUsize,
    /// Layers that move at once from one registry.
    pub layers_per_registry: NonZeroUsize,
    /// Bytes a second that all layers take together; None for as many as come.
    pub bytes_per_second: Option<NonZeroU64>,
}

impl Default for Limits {
    /// One minute and two hours, as the ECS agent has them; eight layers, four of them from one registry.
    fn default() -> Limits {
        const LAYERS: NonZeroUsize = NonZeroUsize::new(8).unwrap();
        const LAYERS_PER_REGISTRY: NonZeroUsize = NonZeroUsize::new(4).unwrap();
        Limits {
            inactivity_seconds: 60,
            total_seconds: 2 * 60 * 60,
            layers: LAYERS,
            layers_per_registry: LAYERS_PER_REGISTRY,
            bytes_per_second: None,
        }
    }
}

impl Limits {
    pub(crate) fn inactivity(&self) -> Duration {
        Duration::from_secs(self.inactivity_seconds.min(SECONDS_MAX))
    }

    pub(crate) fn total(&self) -> Duration {
        Duration::from_secs(self.total_seconds.min(SECONDS_MAX))
    }
}

/// The proxies' addresses as the environment has them; empty where there is none. They may hold passwords.
#[derive(Clone, Default)]
pub struct Proxies {
    /// For plain HTTP.
    pub http_proxy: String,
    /// For HTTPS.
    pub https_proxy: String,
    /// Hosts, domains and networks that are reached without a proxy, separated by commas.
    pub no_proxy: String,
}

impl fmt::Debug for Proxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxies")
            .field("no_proxy", &self.no_proxy)
            .finish_non_exhaustive()
    }
}

/// An access key of an AWS account.
#[derive(Clone)]
pub struct AwsKeys {
    /// `AKIA...`
    pub access_key_id: String,
    /// Its secret; in no log and no Debug output.
    pub secret_access_key: String,
    /// What temporary keys have besides.
    pub session_token: Option<String>,
}

impl fmt::Debug for AwsKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AwsKeys")
            .field("access_key_id", &self.access_key_id)
            .finish_non_exhaustive()
    }
}

impl Registries {
    /// What `file` says, and then what the environment `variable` does: proxies, AWS keys and, if the file names no
    /// credential files, those of docker and podman.
    ///
    /// # Errors
    /// The file cannot be read, or says what cannot be.
    pub fn of_host(
        file: Option<&Path>,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Registries, ImageError> {
        let mut all = match file {
            Some(file) => read(file)?,
            None => Registries::default(),
        };
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        // Both cases are in use; curl and Go look at them in this order.
        let either = |name: &str| variable(name).or_else(|| variable(&name.to_ascii_lowercase()));
        let or_all = |name: &str| either(name).or_else(|| either("ALL_PROXY"));
        all.proxies = Proxies {
            http_proxy: or_all("HTTP_PROXY").unwrap_or_default(),
            https_proxy: or_all("HTTPS_PROXY").unwrap_or_default(),
            no_proxy: either("NO_PROXY").unwrap_or_default(),
        };
        all.aws_keys = aws_keys(&variable);
        if all.credential_files.is_empty() {
            all.credential_files = default_credential_files(&variable);
        }
        Ok(all)
    }

    /// The settings of the registry at `authority`.
    pub(crate) fn registry(&self, authority: &str) -> Option<&Registry> {
        let found = self
            .registries
            .iter()
            .find(|(name, _)| is_same_registry(name, authority));
        found.map(|(_, settings)| settings)
    }
}

/// Docker Hub has several names; others are as they are written, in whatever case.
pub(crate) fn is_same_registry(one: &str, other: &str) -> bool {
    hub_address(&one.to_ascii_lowercase()) == hub_address(&other.to_ascii_lowercase())
}

fn read(file: &Path) -> Result<Registries, ImageError> {
    let error = |cause: String| ImageError::new("read registries file", file.display(), cause);
    let text = std::fs::read(file).map_err(|e| error(e.to_string()))?;
    let all: Registries = serde_json::from_slice(&text).map_err(|e| {
        let cause = printable(&e.to_string(), 200);
        error(format!(
            "{cause}; see docs/how-to/private-registries.md for its form"
        ))
    })?;
    let limits = [all.limits.inactivity_seconds, all.limits.total_seconds];
    if limits
        .iter()
        .any(|seconds| !(1..=SECONDS_MAX).contains(seconds))
    {
        return Err(error("limits must be between one second and a week".into()));
    }
    Ok(all)
}

fn aws_keys(variable: &impl Fn(&str) -> Option<String>) -> Option<AwsKeys> {
    Some(AwsKeys {
        access_key_id: variable("AWS_ACCESS_KEY_ID")?,
        secret_access_key: variable("AWS_SECRET_ACCESS_KEY")?,
        session_token: variable("AWS_SESSION_TOKEN"),
    })
}

/// Where docker and podman keep what `login` leaves behind (containers-auth.json(5), "docker login"): a named file first,
/// then each tool's own. Without a run directory of its own, as below sudo or in a service, podman has one for each user.
fn default_credential_files(variable: &impl Fn(&str) -> Option<String>) -> Vec<PathBuf> {
    let below = |name: &str, file: &str| variable(name).map(|root| PathBuf::from(root).join(file));
    let user = rustix::process::geteuid().as_raw();
    let run = || PathBuf::from(format!("/run/containers/{user}/auth.json"));
    let config = below("XDG_CONFIG_HOME", "containers/auth.json");
    let docker = below("DOCKER_CONFIG", "config.json");
    let files = [
        variable("REGISTRY_AUTH_FILE").map(PathBuf::from),
        Some(below("XDG_RUNTIME_DIR", "containers/auth.json").unwrap_or_else(run)),
        config.or_else(|| below("HOME", ".config/containers/auth.json")),
        docker.or_else(|| below("HOME", ".docker/config.json")),
    ];
    files.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests;
