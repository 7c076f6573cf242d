//! Images as a file again: an OCI image layout or what `docker load` reads.
//!
//! Where all original blobs of an image are kept, its OCI layout is made of them: the same bytes, the same digests
//! ([`Original`]). Otherwise each layer's archive is made anew from its tree (`tree`), without compression. It unpacks to
//! the same tree, but is not the same bytes that the registry has: diff IDs, configuration and manifest get digests of their own, always
//! the same from the same image.
//!
//! An archive needs each blob's digest and size before its bytes. So layers are written twice: once into a hash, and
//! once for whoever wants the archive; its length is known before its first byte, and nothing is spooled. The two must
//! agree, or the archive is cut short with an error.

mod exact;
pub(crate) mod tar;
mod tree;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::Arc;

use serde_json::{Value, json};

use crate::digest::{Digest, Hasher};
use crate::error::ImageError;
use crate::manifest::media::{OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST};
use crate::manifest::{Descriptor, made};
use crate::reference::Reference;
use crate::store::layers;
use crate::store::layout::Layout;
use crate::unpack::archive::{Entry, Kind};
pub(crate) use exact::Original;
use tar::{END_LEN, Writer, member, member_len};

const STEP: &str = "save image";

/// What an archive is to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// An OCI image layout: skopeo, umoci, podman, containerd, Docker since version 25. Of an image whose blobs are kept it is
    /// exact.
    #[default]
    Oci,
    /// The same with the digests that the registry has, or an error.
    Exact,
    /// What `docker save` made before: any Docker, podman, skopeo.
    Docker,
}

/// An image that is to be saved.
pub(crate) struct Wanted {
    pub(crate) name: Option<Reference>,
    pub(crate) config_bytes: Vec<u8>,
    /// From the bottom up.
    pub(crate) diff_ids: Vec<Digest>,
    /// What it was made of; None where blobs of it are not kept.
    pub(crate) original: Option<Original>,
}

/// One member of the archive.
#[derive(Debug)]
struct Part {
    entry: Entry,
    content: Bytes,
}

#[derive(Debug)]
enum Bytes {
    None,
    Document(Vec<u8>),
    /// The layer that has this diff ID in the store, and the digest of its archive.
    Layer(Digest, Digest),
    /// A blob that is kept.
    Blob(Digest),
}

/// An archive that is known to its last byte, and not yet written.
#[derive(Debug)]
pub struct Saving {
    layout: Arc<Layout>,
    parts: Vec<Part>,
    digests: Vec<String>,
}

impl Saving {
    pub(crate) fn prepare(
        layout: &Arc<Layout>,
        images: &[Wanted],
        format: Format,
    ) -> Result<Saving, ImageError> {
        let mut blobs = Blobs::default();
        let mut saved = Vec::new();
        for image in images {
            saved.push(blobs.add(layout, image)?);
        }
        let digests = saved
            .iter()
            .map(|s| s.manifest.digest.to_string())
            .collect();
        let parts = match format {
            Format::Oci | Format::Exact => oci(blobs, &saved),
            Format::Docker => docker(blobs, &saved),
        };
        Ok(Saving {
            layout: Arc::clone(layout),
            parts,
            digests,
        })
    }

    /// Bytes of the archive.
    pub fn size(&self) -> u64 {
        let lengths = self.parts.iter().map(|part| member_len(&part.entry));
        lengths.sum::<u64>() + END_LEN
    }

    /// Digests of the images' manifests in the archive, in the order that they were asked for.
    pub fn digests(&self) -> &[String] {
        &self.digests
    }

    /// Writes the archive. Blocking.
    ///
    /// # Errors
    /// `out` cannot be written, or a layer is not what it was: what was written is of no use then.
    pub fn write(&self, out: impl Write) -> Result<(), ImageError> {
        let failed = |part: &Part, cause: String| {
            ImageError::new(STEP, String::from_utf8_lossy(&part.entry.path), cause)
        };
        let mut writer = Writer::new(out);
        for part in &self.parts {
            let written = match &part.content {
                Bytes::None => writer.entry(&part.entry, io::empty()),
                Bytes::Document(bytes) => writer.entry(&part.entry, bytes.as_slice()),
                Bytes::Layer(diff_id, digest) => {
                    let Kind::File { size } = part.entry.kind else {
                        continue;
                    };
                    let mut layer = writer
                        .stream(&part.entry)
                        .map_err(|e| failed(part, e.to_string()))?;
                    let (wrote, got) = write_layer(&self.layout, diff_id, &mut layer)?;
                    if (wrote, &got) != (size, digest) {
                        let cause = "the layer changed while it was saved; the store is damaged, pull the image again";
                        return Err(failed(part, cause.to_owned()));
                    }
                    layer.finish()
                }
                Bytes::Blob(digest) => {
                    let Kind::File { size } = part.entry.kind else {
                        continue;
                    };
                    let mut blob = writer
                        .stream(&part.entry)
                        .map_err(|e| failed(part, e.to_string()))?;
                    exact::write_blob(&self.layout, digest, size, &mut blob)
                        .map_err(|cause| failed(part, cause))?;
                    blob.finish()
                }
            };
            written.map_err(|e| failed(part, e.to_string()))?;
        }
        let mut out = writer
            .finish()
            .map_err(|e| ImageError::new(STEP, "archive", e))?;
        out.flush().map_err(|e| ImageError::new(STEP, "archive", e))
    }
}

/// What the archive holds of one image.
struct Saved {
    name: Option<Reference>,
    /// Of the manifest, or of an index that leads to it.
    top: Descriptor,
    manifest: Descriptor,
    config: Descriptor,
    layers: Vec<Descriptor>,
}

/// All content, each once.
#[derive(Default)]
struct Blobs {
    documents: BTreeMap<Digest, Vec<u8>>,
    /// Digest of the archive, its size and the layer's diff ID in the store.
    layers: BTreeMap<Digest, (u64, Digest)>,
    /// Original blobs and their sizes.
    kept: BTreeMap<Digest, u64>,
    /// What became of a layer of the store.
    known: BTreeMap<Digest, Descriptor>,
}

impl Blobs {
    fn add(&mut self, layout: &Layout, image: &Wanted) -> Result<Saved, ImageError> {
        if let Some(original) = &image.original {
            return Ok(self.add_original(image, original));
        }
        let mut descriptors = Vec::new();
        for diff_id in &image.diff_ids {
            descriptors.push(self.layer(layout, diff_id)?);
        }
        let diff_ids: Vec<Digest> = descriptors.iter().map(|d| d.digest.clone()).collect();
        let config = made::config_over(&image.config_bytes, &diff_ids)
            .map_err(|cause| ImageError::new(STEP, "configuration", cause))?;
        let config = self.document(OCI_CONFIG, config);
        let manifest = made::manifest(&config, descriptors.iter());
        let manifest = self.document(OCI_MANIFEST, manifest);
        Ok(Saved {
            name: image.name.clone(),
            top: manifest.clone(),
            manifest,
            config,
            layers: descriptors,
        })
    }

    fn layer(&mut self, layout: &Layout, diff_id: &Digest) -> Result<Descriptor, ImageError> {
        if let Some(known) = self.known.get(diff_id) {
            return Ok(known.clone());
        }
        let (size, digest) = write_layer(layout, diff_id, io::sink())?;
        self.layers.insert(digest.clone(), (size, diff_id.clone()));
        let descriptor = Descriptor {
            media_type: OCI_LAYER.to_owned(),
            digest,
            size,
        };
        self.known.insert(diff_id.clone(), descriptor.clone());
        Ok(descriptor)
    }

    fn document(&mut self, media_type: &str, bytes: Vec<u8>) -> Descriptor {
        let descriptor = Descriptor {
            media_type: media_type.to_owned(),
            digest: Digest::of(&bytes),
            size: bytes.len() as u64,
        };
        self.documents.insert(descriptor.digest.clone(), bytes);
        descriptor
    }
}

/// Writes a layer's archive; its size and digest.
fn write_layer(
    layout: &Layout,
    diff_id: &Digest,
    out: impl Write,
) -> Result<(u64, Digest), ImageError> {
    let outline = layers::outline(layout, diff_id)?;
    let root = layout.directory(&format!("{}/fs", layers::path(diff_id)))?;
    let failed = |cause: String| ImageError::new(STEP, format!("layer {diff_id}"), cause);
    // Headers are small; the hash and whoever writes want more at once.
    let hashed = Hashed {
        out,
        hasher: Hasher::default(),
        bytes: 0,
    };
    let mut writer = Writer::new(io::BufWriter::with_capacity(256 * 1024, hashed));
    tree::write(root, &outline, &mut writer).map_err(failed)?;
    let out = writer.finish().map_err(|e| failed(e.to_string()))?;
    let hashed = out
        .into_inner()
        .map_err(|e| failed(e.error().to_string()))?;
    Ok((hashed.bytes, hashed.hasher.finish()))
}

struct Hashed<W> {
    out: W,
    hasher: Hasher,
    bytes: u64,
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let len = self.out.write(bytes)?;
        self.hasher.update(&bytes[..len]);
        self.bytes += len as u64;
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn directory(name: &str) -> Part {
    Part {
        entry: member(name, Kind::Directory),
        content: Bytes::None,
    }
}

fn document(name: &str, bytes: Vec<u8>) -> Part {
    let size = bytes.len() as u64;
    Part {
        entry: member(name, Kind::File { size }),
        content: Bytes::Document(bytes),
    }
}

fn layer(name: &str, size: u64, diff_id: Digest, digest: Digest) -> Part {
    Part {
        entry: member(name, Kind::File { size }),
        content: Bytes::Layer(diff_id, digest),
    }
}

/// OCI image specification, "Image Layout". What says what is in it comes first.
fn oci(blobs: Blobs, saved: &[Saved]) -> Vec<Part> {
    let blob = |digest: &Digest| format!("blobs/sha256/{}", digest.hex());
    let lines: Vec<Value> = saved.iter().map(index_line).collect();
    let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": lines});
    let version = br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec();
    let mut parts = vec![
        document("oci-layout", version),
        document("index.json", index.to_string().into_bytes()),
        directory("blobs/"),
        directory("blobs/sha256/"),
    ];
    let documents = blobs.documents.into_iter();
    parts.extend(documents.map(|(digest, bytes)| document(&blob(&digest), bytes)));
    for (digest, (size, diff_id)) in blobs.layers {
        parts.push(layer(&blob(&digest), size, diff_id, digest));
    }
    parts.extend(blobs.kept.into_iter().map(|(digest, size)| Part {
        entry: member(&blob(&digest), Kind::File { size }),
        content: Bytes::Blob(digest),
    }));
    parts
}

/// With the name in both of the ways that readers know: whole, and as the tag alone.
fn index_line(saved: &Saved) -> Value {
    let mut line = made::line(&saved.top);
    if let Some(name) = &saved.name {
        let tag = name.tag.as_deref().unwrap_or("latest");
        line["annotations"] = json!({
            "io.containerd.image.name": name.to_string(),
            "org.opencontainers.image.ref.name": tag,
        });
    }
    line
}

/// manifest.json and what it names (Docker's "Image Specification" version 1.2).
fn docker(blobs: Blobs, saved: &[Saved]) -> Vec<Part> {
    let config = |digest: &Digest| format!("{}.json", digest.hex());
    let archive = |digest: &Digest| format!("{}.tar", digest.hex());
    let line = |saved: &Saved| {
        let tags: Vec<String> = saved.name.iter().map(ToString::to_string).collect();
        let layers: Vec<String> = saved.layers.iter().map(|l| archive(&l.digest)).collect();
        json!({"Config": config(&saved.config.digest), "RepoTags": tags, "Layers": layers})
    };
    let lines: Vec<Value> = saved.iter().map(line).collect();
    let lines = Value::Array(lines).to_string().into_bytes();
    let mut parts = vec![document("manifest.json", lines)];
    let is_config = |digest: &Digest| saved.iter().any(|s| s.config.digest == *digest);
    for (digest, bytes) in blobs.documents {
        if is_config(&digest) {
            parts.push(document(&config(&digest), bytes));
        }
    }
    for (digest, (size, diff_id)) in blobs.layers {
        parts.push(layer(&archive(&digest), size, diff_id, digest));
    }
    parts
}
