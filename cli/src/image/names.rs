//! `longshore image tag` and `longshore image rm`: an image's names.

use anyhow::Result;
use longshore_image::{Extent, Registries};
use serde_json::Value;

use super::collect::held;
use super::reach::{Reach, Want, nothing};
use super::short;
use crate::place::Place;
use crate::ps::text;
use crate::{socket, telling};

/// Give an image one more name
///
/// A name that another image has is taken from it. A task that runs goes on with the image that it has.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  longshore image tag nginx:1.27 registry.example/mirror/nginx:1.27")]
pub(crate) struct Tag {
    #[command(flatten)]
    place: Place,
    /// The image: a reference, its digest or ID, or the beginning of either
    image: String,
    /// The name that it gets
    name: String,
    /// Print JSON: the name as `ls --json` lists it
    #[arg(long)]
    json: bool,
}

impl Tag {
    pub(crate) fn run(self) -> Result<()> {
        let listed = match Reach::of(&self.place, Want::Look, &Registries::default())? {
            Reach::Agent(agent) => {
                let (image, name) = (socket::encoded(&self.image), socket::encoded(&self.name));
                let path = format!("/v1/images/tag?image={image}&tag={name}");
                socket::block_on(socket::post(&agent, &path, &Value::Null))?
            }
            Reach::Store(store) => serde_json::to_value(store.tag(&self.image, &self.name)?)?,
            Reach::Nothing => return Err(nothing("tag image", &self.image).into()),
        };
        tell(self.json, &listed)
    }
}

/// Take names away; an image without names is removed with its layers
///
/// A reference takes that name away, and when it was the last one, garbage collection takes the layers that no other image and no
/// container stands on. A digest (nginx@sha256:..., sha256:..., or its beginning) or an ID (of the configuration, as Docker has it)
/// removes the image with its name at once. An image that a task uses is not removed, nor its last name.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  longshore image rm nginx:1.26 nginx:1.25
  longshore image rm 4bf5eec0e4ba
  longshore image rm --force nginx@sha256:4bf5eec0e4ba8c8a...

Several images are removed in their order; the first that cannot be ends it with status 1.")]
pub(crate) struct Rm {
    #[command(flatten)]
    place: Place,
    /// The image: a reference, its digest or ID, or the beginning of either (six digits at least)
    #[arg(required = true)]
    image: Vec<String>,
    /// Where a digest or ID is said: remove the image also if it has several names
    #[arg(short, long)]
    force: bool,
    /// Print JSON: of each the names that are gone, the digest, and whether the image went at once, one line each
    #[arg(long)]
    json: bool,
}

impl Rm {
    pub(crate) fn run(self) -> Result<()> {
        let reach = Reach::of(&self.place, Want::Look, &Registries::default())?;
        for image in &self.image {
            let removed = match &reach {
                Reach::Agent(agent) => {
                    let (image, force) = (socket::encoded(image), self.force);
                    let path = format!("/v1/images?image={image}&force={force}");
                    socket::block_on(socket::delete(agent, &path))?
                }
                Reach::Store(store) => {
                    let held = held(&self.place)?;
                    let extent = match self.force {
                        true => Extent::AllNames,
                        false => Extent::OneName,
                    };
                    let removed = store.remove(image, extent, &|| held.clone())?;
                    if removed.image {
                        // This program ends with its store: the files go first.
                        store.empty_trash()?;
                    }
                    serde_json::to_value(removed)?
                }
                Reach::Nothing => return Err(nothing("remove image", image).into()),
            };
            telling::print(&match self.json {
                true => format!("{removed}\n"),
                false => gone(&removed),
            })?;
        }
        Ok(())
    }
}

fn gone(removed: &Value) -> String {
    let digest = short(text(&removed["Digest"]));
    let names = removed["References"].as_array();
    match names.filter(|names| !names.is_empty()) {
        None => format!("removed {digest}\n"),
        Some(names) => {
            let line = |name: &Value| format!("removed {} {digest}\n", text(name));
            names.iter().map(line).collect()
        }
    }
}

fn tell(json: bool, listed: &Value) -> Result<()> {
    telling::print(&match json {
        true => format!("{listed}\n"),
        false => format!(
            "{} {}\n",
            text(&listed["Reference"]),
            short(text(&listed["Digest"]))
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_name_that_is_gone_has_a_line_and_an_image_without_one_has_its_digest() {
        let digest = "sha256:0123456789abcdef";
        let removed = |names: &[&str]| gone(&json!({"References": names, "Digest": digest}));
        assert_eq!(
            removed(&["a:1", "b:1"]),
            "removed a:1 0123456789ab\nremoved b:1 0123456789ab\n"
        );
        assert_eq!(removed(&[]), "removed 0123456789ab\n");
    }
}
