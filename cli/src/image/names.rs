//! `longshore image tag` and `longshore image rm`: an image's names.

use anyhow::Result;
use longshore_image::Registries;
use serde_json::Value;

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
    /// The image: a reference, its digest, or the beginning of its digest
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
        tell(self.json, &listed, "")
    }
}

/// Take names away; an image without names is removed with its layers
///
/// The last name of an image that a task uses is not taken away. Layers that other images or containers stand on stay;
/// the space of the others is free once garbage collection has passed.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  longshore image rm nginx:1.26 nginx:1.25

Several images are removed in their order; the first that cannot be ends it with status 1.")]
pub(crate) struct Rm {
    #[command(flatten)]
    place: Place,
    /// The image: a reference; or its digest or the beginning of it, where it has only one name
    #[arg(required = true)]
    image: Vec<String>,
    /// Print JSON: of each the name that is gone, one line each
    #[arg(long)]
    json: bool,
}

impl Rm {
    pub(crate) fn run(self) -> Result<()> {
        let reach = Reach::of(&self.place, Want::Look, &Registries::default())?;
        for image in &self.image {
            let removed = match &reach {
                Reach::Agent(agent) => {
                    let path = format!("/v1/images?image={}", socket::encoded(image));
                    socket::block_on(socket::delete(agent, &path))?
                }
                Reach::Store(store) => serde_json::to_value(store.remove(image)?)?,
                Reach::Nothing => return Err(nothing("remove image", image).into()),
            };
            tell(self.json, &removed, "removed ")?;
        }
        Ok(())
    }
}

fn tell(json: bool, listed: &Value, done: &str) -> Result<()> {
    telling::print(&match json {
        true => format!("{listed}\n"),
        false => format!(
            "{done}{} {}\n",
            text(&listed["Reference"]),
            short(text(&listed["Digest"]))
        ),
    })
}
