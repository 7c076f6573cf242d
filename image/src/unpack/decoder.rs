//! From a layer's bytes as they travel to the bytes of its tar archive.
//!
//! The first bytes decide, not the media type: registries mislabel layers, and containerd goes by the bytes as well.
//! gzip (RFC 1952; eStargz is gzip in many members), zstd (RFC 8878; zstd:chunked is zstd in many frames, with
//! its table of contents in a skippable one) and bytes that are no compression at all.
//!
//! Absent on purpose: eStargz's and zstd:chunked's tables of contents. Such layers are read as what they are,
//! tar archives, from front to back. xz and bzip2, which the image specification does not know, end as a bad
//! archive.

use std::io::{self, BufRead, Cursor, Read};

use flate2::bufread::MultiGzDecoder;

use super::Fail;

/// log2 of the largest window that a zstd frame may ask for: 32 MiB. RFC 8878 (section 3.1.1.1.2) wants every decoder to have 8 MiB,
/// but the encoder below most image builders (klauspost/compress) used 16 and 32 MiB at its higher levels until 2024, and such
/// images are still pulled. A frame's window is memory that is held as long as the layer is on its way, so this times the
/// number of layers that move at once is what hostile layers can take: 256 MiB with our defaults.
const WINDOW_LOG_MAX: u32 = 25;
/// Enough to tell the formats apart.
const MAGIC: usize = 4;

/// The archive's bytes.
pub(crate) fn decoder<'a>(mut source: impl BufRead + 'a) -> Result<Box<dyn Read + 'a>, Fail> {
    let start = start(&mut source).map_err(Fail::stream)?;
    let format = Format::of(&start);
    let whole = Cursor::new(start).chain(source);
    Ok(match format {
        Format::Gzip => Box::new(MultiGzDecoder::new(whole)),
        Format::Zstd => Box::new(Zstd::new(whole).map_err(Fail::stream)?),
        Format::Plain => Box::new(whole),
    })
}

/// What bytes are compressed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Gzip,
    Zstd,
    /// Not at all.
    Plain,
}

impl Format {
    /// By how they begin; four bytes are enough.
    pub(crate) fn of(start: &[u8]) -> Format {
        match start {
            [0x1f, 0x8b, ..] => Format::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd] => Format::Zstd,
            // A skippable frame may come first (RFC 8878, section 3.1.2).
            [0x50..=0x5f, 0x2a, 0x4d, 0x18] => Format::Zstd,
            _ => Format::Plain,
        }
    }
}

/// The first bytes, however small the pieces are in which they come.
fn start(source: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut start = Vec::with_capacity(MAGIC);
    source.by_ref().take(MAGIC as u64).read_to_end(&mut start)?;
    Ok(start)
}

/// A zstd decoder with a bounded window, whose refusal names what was too large.
struct Zstd<'a, R: BufRead>(zstd::stream::read::Decoder<'a, R>);

impl<R: BufRead> Zstd<'_, R> {
    fn new(source: R) -> io::Result<Self> {
        let mut decoder = zstd::stream::read::Decoder::with_buffer(source)?;
        decoder.window_log_max(WINDOW_LOG_MAX)?;
        Ok(Zstd(decoder))
    }
}

impl<R: BufRead> Read for Zstd<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer).map_err(|e| {
            // The library's only word for a window beyond the bound.
            if e.to_string().contains("too much memory") {
                let max = (1u32 << WINDOW_LOG_MAX) / (1024 * 1024);
                return io::Error::other(format!(
                    "the layer's zstd window is larger than {max} MiB; refused: push the image with a lower \
                     compression level, or without zstd's --long"
                ));
            }
            e
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<Vec<u8>, String> {
        // One byte at a time, as a slow registry sends.
        let slow = io::BufReader::with_capacity(1, bytes);
        let mut out = Vec::new();
        let mut decoder = decoder(slow).map_err(|e| e.to_string())?;
        decoder.read_to_end(&mut out).map_err(|e| e.to_string())?;
        Ok(out)
    }

    /// `window_log` as an encoder's choice, with a content that makes it use it.
    fn zstd(content: &[u8], window_log: u32) -> Vec<u8> {
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(window_log).unwrap();
        encoder.include_checksum(true).unwrap();
        io::Write::write_all(&mut encoder, content).unwrap();
        encoder.finish().unwrap()
    }

    const SKIPPABLE: [u8; 12] = [0x5e, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, b't', b'o', b'c', 0];

    #[test]
    fn zstd_is_read_frame_by_frame_and_skippable_frames_are_skipped() {
        let chunked = [
            &zstd(b"one", 20)[..],
            &zstd(b"", 20),
            &zstd(b"two", 20),
            &SKIPPABLE,
        ]
        .concat();
        assert_eq!(read(&chunked).unwrap(), b"onetwo");
        let skipped_first = [&SKIPPABLE[..], &zstd(b"one", 20)].concat();
        assert_eq!(read(&skipped_first).unwrap(), b"one");
    }

    #[test]
    fn what_is_no_compression_is_passed_on() {
        for plain in [&b""[..], b"a", b"\x1f", b"\x28\xb5\x2f", b"plain text"] {
            assert_eq!(read(plain).unwrap(), plain);
        }
    }

    #[test]
    fn a_frame_that_is_cut_damaged_or_followed_by_noise_is_an_error() {
        let good = zstd(&b"content ".repeat(1000), 20);
        let mut damaged = good.clone();
        damaged[10] ^= 0xff;
        let cut = good[..good.len() - 1].to_vec();
        let noise = [&good[..], b"noise"].concat();
        for bad in [damaged, cut, noise] {
            assert!(read(&bad).is_err());
        }
    }

    #[test]
    fn a_window_beyond_the_bound_is_refused_by_name() {
        assert_eq!(read(&zstd(b"x", 25)).unwrap(), b"x");
        let error = read(&zstd(b"x", 26)).unwrap_err();
        assert!(
            error.contains("zstd window is larger than 32 MiB"),
            "{error}"
        );
    }
}
