//! `longshore image inspect`.

use anyhow::Result;
use longshore_image::Registries;

use super::reach::{Reach, Want, nothing};
use crate::place::Place;
use crate::{socket, telling};

/// Show all that the store knows of one image, as JSON
///
/// Its names, digest, layers (blob digest and size, diff ID, unpacked size), who uses it, and its configuration as it
/// came. `Id` is the configuration's digest, which Docker calls the image's ID.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  longshore image inspect nginx:1.27 | jq '.Configuration.config.Cmd'")]
pub(crate) struct Inspect {
    #[command(flatten)]
    place: Place,
    /// The image: a reference, its digest or ID, or the beginning of either
    image: String,
}

impl Inspect {
    pub(crate) fn run(self) -> Result<()> {
        let details = match Reach::of(&self.place, Want::Look, &Registries::default())? {
            Reach::Agent(agent) => {
                let path = format!("/v1/images/inspect?image={}", socket::encoded(&self.image));
                socket::block_on(socket::get(&agent, &path))?
            }
            Reach::Store(store) => serde_json::to_value(store.details(&self.image)?)?,
            Reach::Nothing => return Err(nothing("inspect image", &self.image).into()),
        };
        telling::print(&format!("{details:#}\n"))
    }
}
