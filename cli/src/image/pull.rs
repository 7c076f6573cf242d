//! `longshore image pull`.

use std::path::PathBuf;

use anyhow::{Result, bail};
use longshore_image::{Progress, Registries};
use serde_json::Value;

use super::bars::Bars;
use super::reach::{self, Reach, Want};
use super::work;
use crate::place::Place;
use crate::{shutdown, socket};

/// Pull images from their registries
///
/// As a task of this host would: the registry is asked, and what is stored already is not fetched again. A pull that is cut
/// off keeps the layers that came whole.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  longshore image pull nginx:1.27
  longshore image pull --json registry.example/team/app:7 | jq -r '.[0].Digest'")]
pub(crate) struct Pull {
    #[command(flatten)]
    place: Place,
    /// A registry (host:port) that may be spoken to over plain HTTP; a running agent has been told already
    #[arg(long = "insecure-registry", value_name = "HOST:PORT")]
    insecure_registries: Vec<String>,
    /// Authorities, mirrors and logins of registries; a running agent has been told already
    #[arg(long, value_name = "FILE")]
    registries: Option<PathBuf>,
    /// Keep the original blobs, too, for exact copies; a running agent has been told already
    #[arg(long)]
    keep_blobs: bool,
    /// Show no progress
    #[arg(short, long)]
    quiet: bool,
    /// Print JSON: an array of reference, digest and number of layers
    #[arg(long)]
    json: bool,
    /// What to pull
    #[arg(required = true)]
    image: Vec<String>,
}

impl Pull {
    pub(crate) fn run(self) -> Result<()> {
        let reach = Reach::of(&self.place, Want::Change, &self.registries()?)?;
        if matches!(reach, Reach::Agent(_)) && self.says_registries() {
            bail!(
                "pull images: an agent of this instance runs and pulls by what it was told of registries; leave out \
                 --registries and --insecure-registry, or start the agent with them"
            );
        }
        match &reach {
            Reach::Agent(_) if self.keep_blobs => bail!(reach::KEEP_BLOBS),
            Reach::Store(store) => store.keep_blobs(self.keep_blobs),
            _ => {}
        }
        let mut images = Vec::new();
        for name in &self.image {
            images.extend(self.pull(&reach, name)?);
        }
        if let Reach::Store(store) = &reach {
            reach::settle(store)?;
        }
        work::print(self.json, &Value::Array(images))
    }

    fn pull(&self, reach: &Reach, name: &str) -> Result<Vec<Value>> {
        let bars = Bars::new(self.quiet);
        let pulled = match reach {
            Reach::Agent(agent) => {
                let path = format!("/v1/images/pull?image={}", socket::encoded(name));
                socket::block_on(work::at_agent(agent, &path, work::no_body(), bars))?
            }
            Reach::Store(store) => {
                let bars = work::Shared::new(bars);
                let tell = |progress: Progress| bars.take(progress);
                let image = shutdown::run(async { Ok(store.pull(name, tell).await?) })?;
                work::told(&[image])
            }
            Reach::Nothing => Value::Array(Vec::new()),
        };
        Ok(match pulled {
            Value::Array(images) => images,
            _ => Vec::new(),
        })
    }

    fn says_registries(&self) -> bool {
        self.registries.is_some() || !self.insecure_registries.is_empty()
    }

    fn registries(&self) -> Result<Registries> {
        let variable = |name: &str| std::env::var(name).ok();
        let mut registries = Registries::of_host(self.registries.as_deref(), variable)?;
        let insecure = self.insecure_registries.iter().cloned();
        registries.insecure.extend(insecure);
        Ok(registries)
    }
}
