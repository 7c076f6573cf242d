//! Loading: images from this host instead of a registry, through the same unpacker and under the same names.
//!
//! All documents are judged before anything is unpacked; then layers come as in a pull, two at a time, and the
//! references last. Whatever ends it early leaves whole layers (which are right by their name) and nothing else.

mod rootfs;

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::mpsc::Sender;

use super::Store;
use super::blobs;
use super::layers::{self, Missed};
use super::layout::Layout;
use super::records::{self, Pulled};
use super::stack;
use crate::digest::Digest;
use crate::error::ImageError;
use crate::reference::Reference;
use crate::source::spool::{Room, spool};
use crate::source::{Found, Layer, Source};
use crate::unpack::decoder::Format;
use crate::unpack::stream::{Piece, channel};
use crate::{Image, LayerProgress, Progress};

/// Layers that are unpacked at once.
const AT_ONCE: usize = 2;
const PIECE: usize = 256 * 1024;
const STEP: &str = "load image";

/// Where images are loaded from.
pub enum Origin {
    /// A folder or file of this host, as an operator names it.
    Path(PathBuf),
    /// What comes, to its end; the text says from where.
    Stream(Box<dyn Read + Send>, String),
}

/// What is loaded, and under which name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// The archive is a root file system: one layer of an image whose configuration is made up.
    pub rootfs: bool,
    /// Only the image that the source calls so.
    pub only: Option<String>,
    /// What the image is called from now on; needed where the source has no name for it.
    pub tag: Option<String>,
}

type Tell<'a> = &'a (dyn Fn(Progress) + Sync);

impl Store {
    /// Loads images from an OCI image layout (a folder, or an archive of one), from what `docker save` makes, or from
    /// the archive of a root file system; archives may be compressed with gzip or zstd. Blocking. May be asked again.
    ///
    /// An archive that cannot be read at any place (a stream, a compressed file) is copied to the store's disk first,
    /// without a name; a root file system never is.
    ///
    /// # Errors
    /// The source cannot be read or is refused, or this host cannot take it. The store is as it was, but for layers
    /// that came whole.
    pub fn load(
        &self,
        origin: Origin,
        wanted: &Load,
        progress: impl Fn(Progress) + Sync,
    ) -> Result<Vec<Image>, ImageError> {
        let subject = origin.to_string();
        let refuse = |cause: String| ImageError::new(STEP, &subject, cause);
        // Nothing is collected before the references are recorded.
        let _collecting = self.leases.collect_next();
        let tag = wanted.tag.as_deref().map(parse_tag).transpose()?;
        let layout = &self.layout;
        if wanted.rootfs {
            if wanted.only.is_some() {
                return Err(refuse(
                    "a root file system has no names to choose from".into(),
                ));
            }
            let tag =
                tag.ok_or_else(|| refuse("a root file system has no name: say --tag".into()))?;
            let source = origin.stream().map_err(refuse)?;
            let found = rootfs::install(layout, source, &subject, &progress)?;
            return Ok(vec![commit(layout, found, &[tag])?]);
        }
        let source = origin.source(layout).map_err(refuse)?;
        let found = source.images(wanted.only.as_deref()).map_err(refuse)?;
        let named = names(found, tag).map_err(refuse)?;
        let layers = named.iter().flat_map(|(found, _)| &found.layers);
        install(layout, layers, &subject, &progress)?;
        let commit = |(found, names): (Found, Vec<Reference>)| {
            let unpacked = Unpacked::from(found);
            commit(layout, unpacked, &names)
        };
        named.into_iter().map(commit).collect()
    }
}

/// A name to be given: a digest cannot be.
pub(super) fn parse_tag(text: &str) -> Result<Reference, ImageError> {
    let parsed = Reference::parse(text)?;
    match parsed.digest {
        None => Ok(parsed),
        Some(_) => Err(ImageError::new(
            "tag image",
            &parsed,
            "a name with a digest cannot be given: the digest is the content's; leave it out",
        )),
    }
}

/// Each image with the names that it gets.
fn names(
    found: Vec<Found>,
    tag: Option<Reference>,
) -> Result<Vec<(Found, Vec<Reference>)>, String> {
    if let Some(tag) = tag {
        let [only] = <[Found; 1]>::try_from(found).map_err(|all| {
            format!(
                "there are {} images in it and one --tag; choose one with --only",
                all.len()
            )
        })?;
        return Ok(vec![(only, vec![tag])]);
    }
    let mut taken = HashSet::new();
    let mut named = Vec::new();
    for mut found in found {
        let names = std::mem::take(&mut found.names);
        if names.is_empty() {
            return Err(format!(
                "it has no whole name for image {}: say one with --tag",
                found.manifest_digest
            ));
        }
        for name in &names {
            if !taken.insert(name.clone()) {
                return Err(format!(
                    "two images in it are called {name}; load them one by one, with --only and --tag"
                ));
            }
        }
        named.push((found, names));
    }
    Ok(named)
}

impl Origin {
    /// To be read from its beginning to its end.
    fn stream(self) -> Result<Box<dyn Read + Send>, String> {
        match self {
            Origin::Stream(stream, _) => Ok(stream),
            Origin::Path(path) => {
                let file = open(&path)?;
                match file.metadata().map_err(|e| format!("stat: {e}"))?.is_dir() {
                    false => Ok(Box::new(file)),
                    true => Err(
                        "it is a folder, and a root file system is loaded from an archive: tar --xattrs \
                         --xattrs-include='*' -C FOLDER -c . | longshore image load --rootfs -"
                            .into(),
                    ),
                }
            }
        }
    }

    /// To be read at any place.
    fn source(self, layout: &Layout) -> Result<Source, String> {
        let path = match self {
            Origin::Path(path) => path,
            Origin::Stream(stream, _) => {
                return Source::archive(spool(layout, stream, Room::ARCHIVE)?);
            }
        };
        let mut file = open(&path)?;
        let metadata = file.metadata().map_err(|e| format!("stat: {e}"))?;
        if metadata.is_dir() {
            return Source::folder(&path);
        }
        let mut start = Vec::new();
        let read = file.by_ref().take(4).read_to_end(&mut start);
        read.map_err(|e| format!("read: {e}"))?;
        match Format::of(&start) {
            Format::Plain if metadata.is_file() => Source::archive(file),
            _ if metadata.is_file() => {
                file.rewind().map_err(|e| format!("seek: {e}"))?;
                Source::archive(spool(layout, file, Room::ARCHIVE)?)
            }
            _ => {
                let whole = io::Cursor::new(start).chain(file);
                Source::archive(spool(layout, whole, Room::ARCHIVE)?)
            }
        }
    }
}

fn open(path: &Path) -> Result<File, String> {
    File::open(path).map_err(|e| format!("open: {e}"))
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Origin::Path(path) => path.display().fmt(f),
            Origin::Stream(_, name) => f.write_str(name),
        }
    }
}

impl std::fmt::Debug for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Origin({self})")
    }
}

/// An image whose layers are in the store.
struct Unpacked {
    top: Digest,
    /// Where `top` is an index.
    index_bytes: Option<Vec<u8>>,
    /// Of its layers.
    blobs: Vec<Digest>,
    manifest_digest: Digest,
    manifest_bytes: Vec<u8>,
    config_bytes: Vec<u8>,
    config: crate::ImageConfiguration,
    diff_ids: Vec<Digest>,
}

impl From<Found> for Unpacked {
    fn from(found: Found) -> Unpacked {
        Unpacked {
            top: found.top,
            index_bytes: found.index_bytes,
            blobs: found.layers.iter().map(|l| l.blob.digest.clone()).collect(),
            manifest_digest: found.manifest_digest,
            manifest_bytes: found.manifest_bytes,
            config_bytes: found.config_bytes,
            config: found.config,
            diff_ids: found.layers.into_iter().map(|l| l.diff_id).collect(),
        }
    }
}

/// Makes all of it durable, the references last.
fn commit(layout: &Layout, image: Unpacked, names: &[Reference]) -> Result<Image, ImageError> {
    let mut paths = stack::complete(layout, &image.diff_ids)?;
    if let Some(index) = &image.index_bytes {
        blobs::keep_bytes(layout, &image.top, index)?;
    }
    let kept = image.blobs.iter().chain([&image.top]).map(blobs::path);
    paths.extend(kept.filter(|path| layout.exists(path)));
    layout.sync_all()?;
    layers::mark_synced(layout, &paths)?;
    let config_digest = Digest::of(&image.config_bytes);
    layout.write("configs", config_digest.hex(), &image.config_bytes)?;
    let digest = &image.manifest_digest;
    layout.write("manifests", digest.hex(), &image.manifest_bytes)?;
    for name in names {
        records::record(layout, name, &Pulled::new(name, &image.top, digest))?;
    }
    Ok(Image {
        reference: names
            .first()
            .map_or_else(|| digest.to_string(), ToString::to_string),
        manifest_digest: digest.to_string(),
        config: image.config,
        layers: image.diff_ids.iter().map(Digest::to_string).collect(),
    })
}

/// Unpacks what the store lacks, the largest first, so that the last one to end is a small one.
fn install<'a>(
    layout: &Layout,
    all: impl Iterator<Item = &'a Layer>,
    subject: &str,
    tell: Tell<'_>,
) -> Result<(), ImageError> {
    let mut seen = HashSet::new();
    let all = all.filter(|layer| seen.insert((&layer.diff_id, &layer.blob.digest)));
    let mut missing: Vec<&Layer> = all
        .filter(|l| !layers::is_complete(layout, &l.blob, &l.diff_id))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    tell(Progress::Started);
    for layer in &missing {
        tell(Progress::Layer(LayerProgress::waiting(&layer.blob)));
    }
    // Taken from its end.
    missing.sort_by_key(|layer| layer.blob.size);
    let queue = Mutex::new(missing);
    let failed = Mutex::new(None);
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop();
    let work = || {
        while let Some(layer) = next() {
            if let Err(error) = install_one(layout, layer, subject, tell) {
                queue.lock().unwrap_or_else(PoisonError::into_inner).clear();
                let mut first = failed.lock().unwrap_or_else(PoisonError::into_inner);
                first.get_or_insert(error);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..AT_ONCE {
            scope.spawn(work);
        }
        work();
    });
    match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        None => Ok(()),
        Some(error) => Err(error),
    }
}

fn install_one(
    layout: &Layout,
    layer: &Layer,
    subject: &str,
    tell: Tell<'_>,
) -> Result<(), ImageError> {
    let name = format!("{} of {subject}", layer.blob.digest);
    let mut progress = LayerProgress::waiting(&layer.blob);
    let (sender, pieces) = channel();
    let (fed, installed) = std::thread::scope(|scope| {
        let feeder = scope.spawn(|| {
            feed(layer.content.reader(), &sender, u64::MAX, |bytes| {
                progress.bytes = bytes;
                tell(Progress::Layer(progress.clone()));
            })
            .map(|_| drop(sender))
        });
        let installed = layers::install(layout, pieces, &layer.blob, &layer.diff_id, &name);
        (feeder.join(), installed)
    });
    let fed = fed.map_err(|_| ImageError::new(STEP, &name, "the thread that reads it failed"))?;
    match (fed, installed) {
        (_, Ok(())) => {
            tell(Progress::Layer(LayerProgress::done(&layer.blob)));
            Ok(())
        }
        (fed, Err(missed)) => Err(why(missed, fed.err(), &name)),
    }
}

/// An unpacker's failure, or the reader's, where that was first.
fn why(missed: Missed, read: Option<String>, subject: &str) -> ImageError {
    match missed {
        Missed::Aborted => {
            let cause = read.unwrap_or_else(|| "the reader stopped".to_owned());
            ImageError::new(STEP, subject, cause)
        }
        // There is nothing to fetch here, nor another registry to ask.
        Missed::Damaged(error) => ImageError {
            step: "load layer",
            ..error
        },
        Missed::Failed(error) => error,
    }
}

/// Sends all that `source` has, and says how much it was; stops early where nobody listens. Blocking.
fn feed(
    mut source: impl Read,
    sender: &Sender<Piece>,
    most: u64,
    mut told: impl FnMut(u64),
) -> Result<u64, String> {
    let mut bytes = 0;
    loop {
        let mut piece = vec![0; PIECE];
        let len = match source.read(&mut piece) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            read => read.map_err(|e| format!("read: {e}"))?,
        };
        if len == 0 {
            // Where the unpacker is gone already it has said why.
            sender.blocking_send(Piece::End).ok();
            return Ok(bytes);
        }
        bytes += len as u64;
        if bytes > most {
            return Err(format!("it has more than {most} bytes; refused"));
        }
        piece.truncate(len);
        if sender
            .blocking_send(Piece::Data(Bytes::from(piece)))
            .is_err()
        {
            return Ok(bytes);
        }
        told(bytes);
    }
}
