//! `longshore image df`.

use anyhow::Result;
use longshore_image::{Registries, Usage};
use serde_json::Value;

use super::human;
use super::reach::{Reach, Want};
use crate::place::Place;
use crate::{socket, table, telling};

/// Show what images and containers take of the disk
#[derive(Debug, clap::Args)]
#[command(after_help = "\
UNUSED is what neither an image with a name nor a container stands on. Sizes are those on the disk, as du tells them.")]
pub(crate) struct Df {
    #[command(flatten)]
    place: Place,
    /// Print JSON, in bytes
    #[arg(long)]
    json: bool,
}

impl Df {
    pub(crate) fn run(self) -> Result<()> {
        let usage = match Reach::of(&self.place, Want::Look, &Registries::default())? {
            Reach::Agent(agent) => socket::block_on(socket::get(&agent, "/v1/images/df"))?,
            Reach::Store(store) => serde_json::to_value(store.usage()?)?,
            Reach::Nothing => serde_json::to_value(Usage::default())?,
        };
        telling::print(&match self.json {
            true => format!("{usage:#}\n"),
            false => report(&usage),
        })
    }
}

fn report(usage: &Value) -> String {
    let count = |key: &str| usage[key].to_string();
    let size = |key: &str| human(usage[key].as_u64().unwrap_or(0));
    let row = |cells: [String; 5]| cells.to_vec();
    let words = |words: [&str; 5]| words.map(str::to_owned).to_vec();
    let mut text = table::columns(&[
        words(["", "COUNT", "SIZE", "UNUSED", "SIZE"]),
        row([
            "Layers".to_owned(),
            count("Layers"),
            size("LayersSize"),
            count("UnusedLayers"),
            size("UnusedSize"),
        ]),
        row([
            "Blobs".to_owned(),
            count("Blobs"),
            size("BlobsSize"),
            count("UnusedBlobs"),
            size("UnusedBlobsSize"),
        ]),
        row([
            "Containers".to_owned(),
            count("Roots"),
            size("RootsSize"),
            String::new(),
            String::new(),
        ]),
        row([
            "Half done".to_owned(),
            String::new(),
            size("HalfDoneSize"),
            String::new(),
            String::new(),
        ]),
    ]);
    text.push_str(&format!(
        "{} images; {} of {} free on their disk\n",
        count("Images"),
        size("Free"),
        size("Capacity")
    ));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_every_number() {
        let usage = Usage {
            images: 2,
            layers: 7,
            layers_size: 8000,
            unused_layers: 1,
            unused_size: 3000,
            blobs: 3,
            blobs_size: 2000,
            unused_blobs: 1,
            unused_blobs_size: 1000,
            roots: 4,
            roots_size: 5000,
            half_done_size: 6000,
            free: 1_000_000,
            capacity: 9_000_000,
        };
        let text = report(&serde_json::to_value(usage).unwrap());
        assert!(
            text.contains("Layers      7      8.0 kB  1       3.0 kB\n"),
            "{text}"
        );
        assert!(
            text.contains("Blobs       3      2.0 kB  1       1.0 kB\n"),
            "{text}"
        );
        assert!(
            text.ends_with("2 images; 1.0 MB of 9.0 MB free on their disk\n"),
            "{text}"
        );
    }
}
