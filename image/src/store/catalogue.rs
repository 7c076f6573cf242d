//! What is in the store, for people: listing, looking closely, saving. Names are given and taken in `names`.

use serde::Serialize;
use serde_json::Value;

use super::layout::Layout;
use super::records;
use super::{Store, blobs, layers, stack};
use crate::digest::Digest;
use crate::error::{ImageError, printable};
use crate::reference::Reference;
use crate::save::{Format, Original, Saving, Wanted};
use crate::{Image, snapshot};

/// A reference that the store knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Listed {
    /// Canonical: `docker.io/library/nginx:latest`.
    pub reference: String,
    /// Of this platform's manifest.
    pub digest: String,
    /// When the image was built, as it says.
    pub created: Option<String>,
    /// When the reference was last pulled, loaded or given.
    pub pulled: Option<String>,
    /// How many.
    pub layers: usize,
    /// Bytes of all layers' archives, unpacked; images that share layers count them each.
    pub size: u64,
    /// Whether all of it is there. What is missing is fetched by the next pull.
    pub whole: bool,
    /// Ids of the containers whose root it is.
    pub used_by: Vec<String>,
}

/// All that the store knows of one image.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Details {
    /// All its names.
    pub references: Vec<String>,
    /// Of this platform's manifest.
    pub digest: String,
    /// Digest of the configuration, which Docker calls the image's ID.
    pub id: String,
    /// Whether all of it is there.
    pub whole: bool,
    /// Bytes of all layers' archives, unpacked.
    pub size: u64,
    /// From the bottom up.
    pub layers: Vec<DetailsLayer>,
    /// Ids of the containers whose root it is.
    pub used_by: Vec<String>,
    /// The image's configuration, as it came.
    pub configuration: Value,
}

/// One layer of [`Details`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct DetailsLayer {
    /// As the manifest has it.
    pub media_type: String,
    /// Of the blob.
    pub digest: String,
    /// Bytes of the blob.
    pub blob_size: u64,
    /// Of the archive.
    #[serde(rename = "DiffID")]
    pub diff_id: String,
    /// Bytes and entries of the archive; None if the layer is missing.
    pub size: Option<u64>,
    /// Entries of the archive.
    pub entries: Option<u64>,
}

impl Store {
    /// All references, in order of their text. Blocking.
    pub fn list(&self) -> Result<Vec<Listed>, ImageError> {
        let layout = &self.layout;
        let owners = snapshot::owners(layout)?;
        let mut listed = Vec::new();
        for pulled in records::all(layout)? {
            let digest = Digest::parse(&pulled.manifest)
                .map_err(|cause| ImageError::new("list images", pulled.reference(), cause))?;
            let image = whole(layout, &digest);
            let diff_ids = image.as_ref().map_or_else(Vec::new, diff_ids);
            listed.push(Listed {
                reference: pulled.reference().to_owned(),
                created: image.as_ref().and_then(|i| i.config.created().clone()),
                pulled: records::recorded_at(layout, &pulled),
                layers: diff_ids.len(),
                size: diff_ids
                    .iter()
                    .map(|id| size(layout, id).unwrap_or(0))
                    .sum(),
                whole: image.is_some(),
                used_by: users(&owners, &pulled.manifest),
                digest: pulled.manifest,
            });
        }
        listed.sort_by(|a, b| a.reference.cmp(&b.reference));
        Ok(listed)
    }

    /// All that is known of the image that `name` names. Blocking.
    pub fn details(&self, name: &str) -> Result<Details, ImageError> {
        let layout = &self.layout;
        let hit = self.find(name)?;
        let error = |cause: &str| ImageError::new("inspect image", printable(name, 400), cause);
        let documents = records::documents(layout, &hit.manifest)?;
        let (manifest, config) =
            documents.ok_or_else(|| error("it is not whole; pull it again"))?;
        let configuration: Value =
            serde_json::from_slice(&config).map_err(|_| error("its configuration is damaged"))?;
        let diff_ids = records::diff_ids(&manifest, &config)
            .map_err(|cause| ImageError::new("inspect image", &hit.manifest, cause))?;
        let lines = manifest.layers.iter().zip(&diff_ids);
        let layers: Vec<DetailsLayer> = lines
            .map(|(blob, diff_id)| {
                let outline = present(layout, diff_id);
                DetailsLayer {
                    media_type: blob.media_type.clone(),
                    digest: blob.digest.to_string(),
                    blob_size: blob.size,
                    diff_id: diff_id.to_string(),
                    size: outline.as_ref().map(|o| o.bytes),
                    entries: outline.as_ref().map(|o| o.entries),
                }
            })
            .collect();
        Ok(Details {
            references: self.names(&hit.manifest)?,
            id: manifest.config.digest.to_string(),
            whole: whole(layout, &hit.manifest).is_some(),
            size: layers.iter().filter_map(|layer| layer.size).sum(),
            layers,
            used_by: users(&snapshot::owners(layout)?, hit.manifest.as_str()),
            digest: hit.manifest.to_string(),
            configuration,
        })
    }

    /// Prepares an archive of these images. Blocking; reads all layers, or none where the archive is exact. See [`Saving`].
    ///
    /// # Errors
    /// An image is not here or not whole; or the archive was to be exact, and blobs of it are not kept.
    pub fn save(&self, names: &[String], format: Format) -> Result<Saving, ImageError> {
        let mut images = Vec::new();
        for name in names {
            let hit = self.find(name)?;
            let error = |cause: &str| ImageError::new("save image", printable(name, 400), cause);
            let name = hit.name.or_else(|| self.only_name(&hit.manifest));
            let top = self.top(name.as_ref(), &hit.manifest)?;
            let image = whole(&self.layout, &hit.manifest);
            let documents = records::documents(&self.layout, &hit.manifest)?;
            let (Some(image), Some((_, config_bytes))) = (image, documents) else {
                return Err(error("it is not whole; pull it again"));
            };
            let original = match format {
                Format::Oci | Format::Exact => Original::of(&self.layout, &hit.manifest, &top)?,
                Format::Docker => None,
            };
            if format == Format::Exact && original.is_none() {
                return Err(error(
                    "an exact copy needs its original blobs, and the store has not all of them: pull it again with \
                     --image-keep-blobs (of longshore agent) or --keep-blobs (of longshore image pull and load), or save it \
                     without --exact",
                ));
            }
            images.push(Wanted {
                name: name.and_then(without_digest),
                config_bytes,
                diff_ids: diff_ids(&image),
                original,
            });
        }
        Saving::prepare(&self.layout, &images, format)
    }

    /// What a registry has under a name of an image: the manifest, or an index that leads to it.
    fn top(&self, name: Option<&Reference>, manifest: &Digest) -> Result<Digest, ImageError> {
        let pulled = name.map(|name| records::pulled(&self.layout, name));
        let top = pulled.transpose()?.flatten();
        let top = top.and_then(|pulled| Digest::parse(&pulled.top).ok());
        Ok(top.unwrap_or_else(|| manifest.clone()))
    }
}

/// A name as an archive can have it: by tag.
fn without_digest(mut name: Reference) -> Option<Reference> {
    name.digest = None;
    name.tag.is_some().then_some(name)
}

/// None also if a record is bad: then the image is not whole.
pub(super) fn whole(layout: &Layout, manifest: &Digest) -> Option<Image> {
    records::image(layout, manifest, manifest.as_str())
        .ok()
        .flatten()
}

fn diff_ids(image: &Image) -> Vec<Digest> {
    let parsed = image.layers.iter().map(|id| Digest::parse(id));
    parsed.filter_map(Result::ok).collect()
}

fn present(layout: &Layout, diff_id: &Digest) -> Option<crate::unpack::Outline> {
    layers::is_present(layout, diff_id)
        .then(|| layers::outline(layout, diff_id).ok())
        .flatten()
}

fn size(layout: &Layout, diff_id: &Digest) -> Option<u64> {
    present(layout, diff_id).map(|outline| outline.bytes)
}

/// What an image stands on, and blobs that may be kept of it, by their paths in the store.
pub(super) fn stands_on(layout: &Layout, manifest: &Digest) -> Result<Vec<String>, ImageError> {
    let Some((manifest, config)) = records::documents(layout, manifest)? else {
        return Ok(Vec::new());
    };
    let Ok(diff_ids) = records::diff_ids(&manifest, &config) else {
        return Ok(Vec::new());
    };
    let mut paths: Vec<String> = diff_ids.iter().map(layers::path).collect();
    paths.extend(manifest.layers.iter().map(|blob| blobs::path(&blob.digest)));
    if let Ok(floors) = stack::floors(layout, &diff_ids) {
        let trees = floors.into_iter().map(|floor| floor.path);
        paths.extend(trees.filter_map(|tree| Some(tree.strip_suffix("/fs")?.to_owned())));
    }
    Ok(paths)
}

pub(super) fn users(owners: &[(String, String)], manifest: &str) -> Vec<String> {
    let own = owners.iter().filter(|(_, owner)| owner == manifest);
    own.map(|(id, _)| id.clone()).collect()
}
