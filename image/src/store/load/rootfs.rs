//! The archive of a root file system as an image: one layer, streamed into the store, and documents made up around it.

use std::io::{self, BufReader, Read};

use super::{PIECE, STEP, Tell, Unpacked, feed, why};
use crate::Progress;
use crate::digest::Digest;
use crate::error::ImageError;
use crate::manifest::media::{OCI_CONFIG, OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD};
use crate::manifest::platform::Host;
use crate::manifest::{self, Descriptor, made};
use crate::store::layers::{self, Adopted};
use crate::store::layout::Layout;
use crate::unpack::decoder::Format;
use crate::unpack::stream::channel;

/// The archive as it comes, compressed or not: the unpacker's own bound counts only what comes out.
const ROOTFS_MAX: u64 = 64 * 1024 * 1024 * 1024;

/// One layer and what is made up around it.
pub(super) fn install(
    layout: &Layout,
    source: Box<dyn Read + Send>,
    subject: &str,
    tell: Tell<'_>,
) -> Result<Unpacked, ImageError> {
    let mut source = BufReader::with_capacity(PIECE, source);
    let mut start = Vec::new();
    let read = source.by_ref().take(4).read_to_end(&mut start);
    read.map_err(|e| ImageError::new(STEP, subject, format!("read: {e}")))?;
    let media_type = match Format::of(&start) {
        Format::Gzip => OCI_LAYER_GZIP,
        Format::Zstd => OCI_LAYER_ZSTD,
        Format::Plain => OCI_LAYER,
    };
    tell(Progress::Started);
    let (sender, pieces) = channel();
    let (fed, adopted) = std::thread::scope(|scope| {
        let adopter = scope.spawn(|| layers::adopt(layout, pieces, subject));
        let fed = feed(
            io::Cursor::new(start).chain(source),
            &sender,
            ROOTFS_MAX,
            |bytes| {
                tell(Progress::Fetched { bytes, of: 0 });
            },
        );
        drop(sender);
        (fed, adopter.join())
    });
    let adopted = adopted.map_err(|_| ImageError::new(STEP, subject, "the unpacker failed"))?;
    let (size, Adopted { digest, diff_id }) = match (fed, adopted) {
        (Ok(size), Ok(adopted)) => (size, adopted),
        (fed, Err(missed)) => return Err(why(missed, fed.err(), subject)),
        (Err(cause), Ok(_)) => return Err(ImageError::new(STEP, subject, cause)),
    };
    let layer = Descriptor {
        media_type: media_type.to_owned(),
        digest,
        size,
    };
    made_up(layer, diff_id).map_err(|cause| ImageError::new(STEP, subject, cause))
}

fn made_up(layer: Descriptor, diff_id: Digest) -> Result<Unpacked, String> {
    let architecture = Host::here().architecture;
    let config_bytes = made::bare_config(architecture, &diff_id);
    let (config, diff_ids) = manifest::parse_config(&config_bytes, 1, architecture)?;
    let config_blob = Descriptor {
        media_type: OCI_CONFIG.to_owned(),
        digest: Digest::of(&config_bytes),
        size: config_bytes.len() as u64,
    };
    let manifest_bytes = made::manifest(&config_blob, std::iter::once(&layer));
    let manifest_digest = Digest::of(&manifest_bytes);
    Ok(Unpacked {
        top: manifest_digest.clone(),
        index_bytes: None,
        blobs: vec![layer.digest],
        manifest_digest,
        manifest_bytes,
        config_bytes,
        config,
        diff_ids,
    })
}
