//! `longshore agent`: the node daemon by itself.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use longshore_agent::{Config, DEFAULT_POLICY_FILE, HostPolicy, Instance, Registries};

use crate::keep::ImageOptions;
use crate::place::{self, Place};
use crate::{scope, shutdown, socket, telling};

/// Run tasks on this host for a control plane elsewhere
///
/// The first start needs a join token (longshore node token, on the control plane's host), given by the
/// variable LONGSHORE_JOIN_TOKEN or a file, never as an argument: every user of a host can read those.
/// Later starts need none. Stopping the agent stops no task.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  longshore agent --control https://10.0.0.5:4481 --token-file token")]
pub(crate) struct Agent {
    #[command(flatten)]
    place: Place,
    /// The control plane's RPC endpoint
    #[arg(
        long,
        value_name = "URL",
        env = "LONGSHORE_CONTROL",
        default_value = "https://127.0.0.1:4481"
    )]
    control: String,
    /// A file that holds the join token [default: the variable LONGSHORE_JOIN_TOKEN]
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// What this host permits
    #[arg(long, value_name = "FILE", default_value = DEFAULT_POLICY_FILE)]
    policy: PathBuf,
    /// MiB of memory that tasks never get
    #[arg(long, value_name = "MIB", default_value_t = 0)]
    reserved_memory: u64,
    #[command(flatten)]
    host: HostOptions,
}

/// What `dev` and `agent` share.
#[derive(Debug, clap::Args)]
pub(crate) struct HostOptions {
    /// A registry (host:port) that may be spoken to over plain HTTP; loopback always may
    #[arg(long = "insecure-registry", value_name = "HOST:PORT")]
    insecure_registries: Vec<String>,
    /// Authorities, mirrors and logins of registries (docs/how-to/private-registries.md)
    #[arg(long, value_name = "FILE")]
    registries: Option<PathBuf>,
    /// The longshore-runtime program [default: beside this one, then /usr/local/libexec/longshore,
    /// /usr/libexec/longshore]
    #[arg(long, value_name = "FILE")]
    runtime: Option<PathBuf>,
    #[command(flatten)]
    images: ImageOptions,
}

impl HostOptions {
    /// The options of a command line that say these.
    pub(crate) fn words(&self) -> Vec<String> {
        let named = |name: &String| ["--insecure-registry".to_owned(), name.clone()];
        let insecure = self.insecure_registries.iter().flat_map(named);
        let files = [
            ("--registries", &self.registries),
            ("--runtime", &self.runtime),
        ];
        let files = files.into_iter().filter_map(|(option, file)| {
            Some([option.to_owned(), file.as_ref()?.display().to_string()])
        });
        let words = insecure.chain(files.flatten());
        words.chain(self.images.words()).collect()
    }

    /// A configuration of an agent on this host.
    pub(crate) fn config(
        &self,
        instance: Instance,
        endpoint: String,
        parent: scope::Parent,
    ) -> Result<Config> {
        let runtime = place::runtime_binary(self.runtime.as_deref())?;
        let mut config = Config::new(instance, endpoint, runtime);
        config.registries = self.registries()?;
        config.images = self.images.policy()?;
        config.cgroup_parent = parent;
        Ok(config)
    }

    fn registries(&self) -> Result<Registries> {
        let variable = |name: &str| std::env::var(name).ok();
        let mut registries = Registries::of_host(self.registries.as_deref(), variable)?;
        let insecure = self.insecure_registries.iter().cloned();
        registries.insecure.extend(insecure);
        Ok(registries)
    }
}

impl Agent {
    pub(crate) fn run(self) -> Result<()> {
        place::need_root("agent")?;
        let instance = self.place.instance()?;
        let policy = HostPolicy::load(&self.policy)?;
        let token = self.token()?;
        let parent = scope::enter(instance.name())?;
        telling::log("info");
        self.warn_of_readers();
        let mut config = self
            .host
            .config(instance.clone(), self.control.clone(), parent)?;
        config.policy = policy;
        config.token = token;
        config.reserved_memory = self.reserved_memory;
        let claim = place::claim(&instance)?;
        let ended = self.serve(instance, config);
        if ended.is_err() {
            claim.give_up_if_unused();
        }
        ended
    }

    fn serve(self, instance: Instance, config: Config) -> Result<()> {
        shutdown::run(async move {
            let stopping = shutdown::on_signals()?;
            let daemon = longshore_agent::run(config, stopping.clone());
            let control = &self.control;
            let told = async {
                socket::until_joined(&instance).await;
                telling::print(&format!("Ready: joined {control}\n"))
            };
            tokio::pin!(daemon);
            tokio::select! {
                ended = &mut daemon => return ended,
                told = told => told?,
            }
            daemon.await
        })
    }

    /// A token is a secret until it is used. The agent goes on: it may be used in a moment.
    fn warn_of_readers(&self) {
        let file = self.token_file.as_deref();
        if let Some((file, mode)) = file.and_then(|file| Some((file, open_mode(file)?))) {
            tracing::warn!(
                "the join token file {} is open to other users (mode {mode:03o}); make it with umask 077, and remove \
                 it once this host has joined",
                file.display()
            );
        }
    }

    fn token(&self) -> Result<Option<String>> {
        match &self.token_file {
            Some(file) => token_of(file).map(Some),
            None => Ok(std::env::var("LONGSHORE_JOIN_TOKEN")
                .ok()
                .filter(|token| !token.is_empty())),
        }
    }
}

/// The mode of a file that others than its owner may read or write.
fn open_mode(file: &Path) -> Option<u32> {
    let mode = std::fs::metadata(file).ok()?.mode() & 0o777;
    (mode & 0o077 != 0).then_some(mode)
}

fn token_of(file: &Path) -> Result<String> {
    let text = std::fs::read_to_string(file);
    let text = text.with_context(|| {
        let file = file.display();
        format!("read join token from {file} (longshore node token, on the control plane's host, makes one)")
    })?;
    match text.trim() {
        "" => bail!(
            "read join token from {}: the file is empty; make one with longshore node token on the control plane's host",
            file.display()
        ),
        token => Ok(token.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_token_file_that_others_can_read_is_noticed() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mode = |mode| {
            let permissions = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(file.path(), permissions).unwrap();
            open_mode(file.path())
        };
        assert_eq!(mode(0o600), None);
        assert_eq!(mode(0o644), Some(0o644));
        assert_eq!(open_mode(Path::new("/nonexistent/token")), None);
    }
}
