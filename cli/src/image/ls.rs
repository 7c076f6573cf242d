//! `longshore image ls`.

use anyhow::Result;
use longshore_image::Registries;
use serde_json::{Value, json};

use super::reach::{Reach, Want};
use super::{human, short};
use crate::place::Place;
use crate::ps::text;
use crate::{socket, table, telling};

/// List the images of this host
#[derive(Debug, clap::Args)]
#[command(after_help = "\
SIZE is that of the unpacked layers; images that share layers count them each (longshore image df counts them once).
An image whose STATE is `in use` is the root of a container; of one that is `not whole` the next pull fetches the rest.

Example:
  longshore image ls --json | jq -r '.[] | select(.UsedBy == []) | .Reference'")]
pub(crate) struct Ls {
    #[command(flatten)]
    place: Place,
    /// Print JSON: an array, the `Images` of the socket's /v1/images
    #[arg(long)]
    json: bool,
}

impl Ls {
    pub(crate) fn run(self) -> Result<()> {
        let images = match Reach::of(&self.place, Want::Look, &Registries::default())? {
            Reach::Agent(agent) => {
                let mut answer = socket::block_on(socket::get(&agent, "/v1/images"))?;
                answer["Images"].take()
            }
            Reach::Store(store) => serde_json::to_value(store.list()?)?,
            Reach::Nothing => json!([]),
        };
        telling::print(&match self.json {
            true => format!("{images:#}\n"),
            false => table::columns(&rows(&images)),
        })
    }
}

fn rows(images: &Value) -> Vec<Vec<String>> {
    let head = ["IMAGE", "DIGEST", "LAYERS", "SIZE", "PULLED", "STATE"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for image in images.as_array().into_iter().flatten() {
        let used = image["UsedBy"]
            .as_array()
            .is_some_and(|users| !users.is_empty());
        let state = match (image["Whole"] == true, used) {
            (false, _) => "not whole",
            (true, true) => "in use",
            (true, false) => "",
        };
        rows.push(vec![
            text(&image["Reference"]).to_owned(),
            short(text(&image["Digest"])).to_owned(),
            image["Layers"].to_string(),
            human(image["Size"].as_u64().unwrap_or(0)),
            text(&image["Pulled"]).to_owned(),
            state.to_owned(),
        ]);
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_says_what_an_image_is_and_who_uses_it() {
        let images = json!([{"Reference": "r.io/a:1", "Digest": "sha256:0123456789abcdef", "Layers": 3, "Size": 1500,
            "Pulled": "2026-01-01T00:00:00Z", "Whole": true, "UsedBy": ["x"]}]);
        assert_eq!(
            rows(&images)[1].join(" "),
            "r.io/a:1 0123456789ab 3 1.5 kB 2026-01-01T00:00:00Z in use"
        );
    }
}
