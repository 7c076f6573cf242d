//! `longshore image prune` and `longshore image gc`: removing what nobody needs.

use std::time::Duration;

use anyhow::Result;
use longshore_agent::held_images;
use longshore_image::{Collected, GcPolicy, Prune as Which, Registries, Store};
use serde_json::Value;

use super::reach::{Reach, Want};
use super::{human, short};
use crate::keep;
use crate::place::Place;
use crate::ps::text;
use crate::{socket, telling};

/// Remove images that nobody needs
///
/// Those without a name, whose tag has moved on to another image; with --all every image that no task holds, no container stands
/// on, and no --image-protect pattern of the agent names.
#[derive(Debug, clap::Args)]
pub(crate) struct Prune {
    #[command(flatten)]
    place: Place,
    /// Also images with a name
    #[arg(long)]
    all: bool,
    /// Only tell what would go, and how much it frees
    #[arg(long)]
    dry_run: bool,
    /// Print JSON, in bytes
    #[arg(long)]
    json: bool,
}

impl Prune {
    pub(crate) fn run(self) -> Result<()> {
        let collected = match Reach::of(&self.place, Want::Look, &Registries::default())? {
            Reach::Agent(agent) => {
                let path = format!("/v1/images/prune?all={}&dry-run={}", self.all, self.dry_run);
                socket::block_on(socket::post(&agent, &path, &Value::Null))?
            }
            Reach::Store(store) => {
                let held = held(&self.place)?;
                let which = match self.all {
                    true => Which::Unused,
                    false => Which::Dangling,
                };
                alone(
                    &store,
                    store.prune(which, &[], &|| held.clone(), self.dry_run)?,
                )?
            }
            Reach::Nothing => serde_json::to_value(Collected::default())?,
        };
        tell(self.json, &collected)
    }
}

/// Remove what the agent would remove by itself
///
/// As the options of the agent say, or of this command where no agent runs: images that were unused for too long, and while the
/// disk is too full those that were used longest ago.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  longshore image gc --dry-run             what would go now
  longshore image gc --high 50 --low 40    make room now")]
pub(crate) struct Gc {
    #[command(flatten)]
    place: Place,
    /// Only tell what would go, and how much it frees
    #[arg(long)]
    dry_run: bool,
    /// Begin above so many percent of the disk in use, this once
    #[arg(long, value_name = "PERCENT", value_parser = keep::percent())]
    high: Option<u8>,
    /// End at so many percent, this once
    #[arg(long, value_name = "PERCENT", value_parser = keep::percent())]
    low: Option<u8>,
    /// Remove what was unused for so long (90s, 15m, 1h, 7d), this once
    #[arg(long, value_name = "TIME", value_parser = keep::time)]
    max_age: Option<Duration>,
    /// Keep what was used within such a time, this once
    #[arg(long, value_name = "TIME", value_parser = keep::time)]
    min_age: Option<Duration>,
    /// Print JSON, in bytes
    #[arg(long)]
    json: bool,
}

impl Gc {
    pub(crate) fn run(self) -> Result<()> {
        let collected = match Reach::of(&self.place, Want::Look, &Registries::default())? {
            Reach::Agent(agent) => {
                socket::block_on(socket::post(&agent, &self.path(), &Value::Null))?
            }
            Reach::Store(store) => {
                let held = held(&self.place)?;
                let mut policy = GcPolicy::default();
                policy.high = self.high.unwrap_or(policy.high);
                policy.low = self.low.unwrap_or(policy.low).min(policy.high);
                policy.max_age = self.max_age.or(policy.max_age);
                policy.min_age = self.min_age.unwrap_or(policy.min_age);
                alone(
                    &store,
                    store.collect(&policy, &|| held.clone(), self.dry_run)?,
                )?
            }
            Reach::Nothing => serde_json::to_value(Collected::default())?,
        };
        tell(self.json, &collected)
    }

    fn path(&self) -> String {
        let mut path = format!("/v1/images/gc?dry-run={}", self.dry_run);
        let percent = [("high", self.high), ("low", self.low)];
        let seconds = [("max-age", self.max_age), ("min-age", self.min_age)];
        let numbers = percent.map(|(key, value)| (key, value.map(u64::from)));
        let seconds = seconds.map(|(key, value)| (key, value.map(|time| time.as_secs())));
        for (key, value) in numbers.into_iter().chain(seconds) {
            if let Some(value) = value {
                path.push_str(&format!("&{key}={value}"));
            }
        }
        path
    }
}

/// What tasks hold whose agent is away, from its journal.
pub(super) fn held(place: &Place) -> Result<Vec<String>> {
    Ok(held_images(&place.instance()?)?.into_iter().collect())
}

/// This program ends with its store: the files go first.
fn alone(store: &Store, collected: Collected) -> Result<Value> {
    if !collected.dry_run {
        store.empty_trash()?;
    }
    Ok(serde_json::to_value(collected)?)
}

fn tell(json: bool, collected: &Value) -> Result<()> {
    telling::print(&match json {
        true => format!("{collected:#}\n"),
        false => report(collected),
    })
}

fn report(collected: &Value) -> String {
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    let (done, frees) = match collected["DryRun"] == true {
        true => ("would remove", "would free"),
        false => ("removed", "freed"),
    };
    let mut out = String::new();
    for image in collected["Images"].as_array().into_iter().flatten() {
        let names: Vec<&str> = image["References"]
            .as_array()
            .into_iter()
            .flatten()
            .map(text)
            .collect();
        let name = match names.is_empty() {
            true => short(text(&image["Digest"])).to_owned(),
            false => names.join(", "),
        };
        let (size, why) = (human(number(&image["Bytes"])), text(&image["Why"]));
        out.push_str(&format!("{done} {name} ({why}): {size}\n"));
    }
    out.push_str(&format!(
        "{frees} {} in {} and {}; {} in use and {} protected stay; {} % of the disk were in use\n",
        human(number(&collected["Bytes"])),
        telling::count(number(&collected["Layers"]) as usize, "layer", "layers"),
        telling::count(number(&collected["Blobs"]) as usize, "blob", "blobs"),
        collected["InUse"],
        collected["Protected"],
        collected["UsedPercent"],
    ));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use longshore_image::{GoneImage, Why};

    #[test]
    fn the_report_says_what_goes_why_and_how_much_that_is() {
        let image = |references: &[&str]| GoneImage {
            digest: "sha256:0123456789abcdef".to_owned(),
            references: references.iter().map(|r| (*r).to_owned()).collect(),
            why: Why::Disk,
            last_used: 1,
            bytes: 1_400_000,
        };
        let collected = Collected {
            dry_run: true,
            images: vec![image(&["a:1", "b:1"]), image(&[])],
            layers: 1,
            blobs: 2,
            bytes: 3_000_000,
            in_use: 2,
            protected: 0,
            used_percent: 91,
        };
        let text = report(&serde_json::to_value(collected).unwrap());
        assert_eq!(
            text,
            "would remove a:1, b:1 (disk): 1.4 MB\nwould remove 0123456789ab (disk): 1.4 MB\n\
             would free 3.0 MB in 1 layer and 2 blobs; 2 in use and 0 protected stay; 91 % of the disk were in use\n"
        );
    }
}
