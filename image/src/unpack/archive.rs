//! Tar, read as a stream: ustar, PAX and GNU long names, every length bounded before it is believed.
//!
//! The `tar` crate decodes the 512-byte header; the walk from header to header is ours, because that crate
//! reads extension records of any size into memory. Refused by name: multi-volume archives and other types that no
//! image needs. Absent on purpose: global PAX records (they are read past: Go's reader,
//! by which images are made, gives them no effect).

mod sparse;

use std::io::{BufRead, ErrorKind};

use super::Fail;
pub(crate) use sparse::Sparse;
use sparse::{MapReader, Records};

const BLOCK: usize = 512;
/// Longest PAX record sets of one entry together; its extended attributes are the bulk of them.
const PAX_MAX: u64 = 1024 * 1024;
/// Most extended attributes of one entry; their names alone must fit into 64 KiB for listxattr(2).
const XATTRS_MAX: usize = 1024;
/// Longest GNU long name, its NUL included; longer ones could not be created anyway.
const LONG_NAME_MAX: u64 = 4096;

/// A point in time as files carry it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct Time {
    pub(crate) seconds: i64,
    pub(crate) nanoseconds: u32,
}

/// What kind of thing an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// So many bytes follow; of a sparse file the pieces.
    File {
        size: u64,
    },
    Directory,
    /// Any text; it is only data to us.
    Symlink(Vec<u8>),
    /// The name of an entry.
    Hardlink(Vec<u8>),
    Fifo,
    Character {
        major: u32,
        minor: u32,
    },
    Block {
        major: u32,
        minor: u32,
    },
}

/// One entry, extensions applied.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) path: Vec<u8>,
    pub(crate) kind: Kind,
    /// Permission bits with setuid, setgid and sticky.
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Time,
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Where the bytes go if the file has holes.
    pub(crate) sparse: Option<Sparse>,
}

/// Extensions that precede an entry.
#[derive(Debug, Default, PartialEq)]
struct Extensions {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<Time>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    sparse: Records,
}

/// A tar stream.
pub(crate) struct Archive<R> {
    reader: R,
    /// Data bytes of the current entry that nobody read yet.
    data: u64,
    /// Padding after them.
    padding: u64,
}

impl<R: BufRead> Archive<R> {
    pub(crate) fn new(reader: R) -> Archive<R> {
        Archive {
            reader,
            data: 0,
            padding: 0,
        }
    }

    /// The next entry; None at the end of the archive. What was not read of the last one is skipped.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>, Fail> {
        let mut extensions = Extensions::default();
        // Nothing forbids an entry many extension headers, and all of them are kept until it comes.
        let mut pax_left = PAX_MAX;
        loop {
            self.skip_rest()?;
            let Some(block) = self.block()? else {
                return Ok(None);
            };
            let header = tar::Header::from_byte_slice(&block);
            check_sum(&block)?;
            let size = size(header)?;
            match header.entry_type().as_byte() {
                b'x' => {
                    let records = self.extension(size, pax_left)?;
                    pax_left -= size;
                    pax(&records, &mut extensions)?;
                }
                b'g' => self.expect_data(size)?,
                b'L' => extensions.path = Some(until_nul(self.extension(size, LONG_NAME_MAX)?)),
                b'K' => extensions.link = Some(until_nul(self.extension(size, LONG_NAME_MAX)?)),
                b'S' => return self.gnu_sparse(header, extensions).map(Some),
                _ if extensions.sparse.is_sparse() => {
                    return self.pax_sparse(header, extensions).map(Some);
                }
                _ => {
                    let entry = entry(header, extensions)?;
                    if let Kind::File { size } = entry.kind {
                        self.expect_data(size)?;
                    }
                    return Ok(Some(entry));
                }
            }
        }
    }

    /// GNU tar's own sparse file: pieces in the header, and in as many blocks behind it as it takes.
    fn gnu_sparse(&mut self, header: &tar::Header, ext: Extensions) -> Result<Entry, Fail> {
        let bad = || Fail::content("a sparse file's header is malformed");
        let gnu = header.as_gnu().ok_or_else(bad)?;
        let real = gnu.real_size().map_err(|_| bad())?;
        let mut numbers = Vec::new();
        sparse::pairs(&gnu.sparse, &mut numbers)?;
        let mut more = gnu.is_extended();
        while more {
            let block = self.block()?.ok_or_else(bad)?;
            let mut extended = tar::GnuExtSparseHeader::new();
            extended.as_mut_bytes().copy_from_slice(&block);
            sparse::pairs(&extended.sparse, &mut numbers)?;
            more = extended.is_extended();
        }
        let mut entry = entry(header, ext)?;
        let Kind::File { size } = entry.kind else {
            return Err(bad());
        };
        entry.sparse = Some(sparse::checked(real, numbers, size)?);
        self.expect_data(size)?;
        Ok(entry)
    }

    /// A sparse file by PAX records; the newest form has its map before the bytes.
    fn pax_sparse(&mut self, header: &tar::Header, mut ext: Extensions) -> Result<Entry, Fail> {
        let mut records = std::mem::take(&mut ext.sparse);
        if let Some(name) = records.name.take() {
            ext.path = Some(name);
        }
        let mut entry = entry(header, ext)?;
        let Kind::File { size } = &mut entry.kind else {
            return Err(Fail::content("what is sparse is no file"));
        };
        self.expect_data(*size)?;
        let mut in_data = None;
        if records.map_is_in_data() {
            let mut map = MapReader::default();
            while !map.take(&self.data_block()?)? {}
            in_data = Some(map.numbers());
            *size = self.data;
        }
        entry.sparse = Some(records.checked(in_data, self.data)?);
        Ok(entry)
    }

    /// The next 512 bytes of the current entry.
    fn data_block(&mut self) -> Result<[u8; BLOCK], Fail> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            let piece = self.data()?;
            if piece.is_empty() {
                return Err(Fail::content("a sparse file's map is cut short"));
            }
            let len = piece.len().min(BLOCK - filled);
            block[filled..filled + len].copy_from_slice(&piece[..len]);
            filled += len;
            self.consume(len);
        }
        Ok(block)
    }

    /// The next piece of the current entry's bytes, empty at their end; call `consume` with what was used.
    pub(crate) fn data(&mut self) -> Result<&[u8], Fail> {
        if self.data == 0 {
            return Ok(&[]);
        }
        let buffer = self.reader.fill_buf().map_err(Fail::stream)?;
        if buffer.is_empty() {
            return Err(Fail::content("the archive ends inside an entry"));
        }
        let len = usize::try_from(self.data).map_or(buffer.len(), |left| left.min(buffer.len()));
        Ok(&buffer[..len])
    }

    pub(crate) fn consume(&mut self, len: usize) {
        self.reader.consume(len);
        self.data -= len as u64;
    }

    /// The reader, which stands behind the header of the current entry until its bytes are asked for.
    pub(crate) fn reader(&mut self) -> &mut R {
        &mut self.reader
    }

    /// Gives up the rest of the current entry: how many bytes the caller must move the reader by.
    pub(crate) fn leave(&mut self) -> u64 {
        std::mem::take(&mut self.data) + std::mem::take(&mut self.padding)
    }

    /// What lies behind the archive's end must be read too: both digests are over all bytes.
    pub(crate) fn drain(mut self) -> Result<(), Fail> {
        loop {
            let len = self.reader.fill_buf().map_err(Fail::stream)?.len();
            if len == 0 {
                return Ok(());
            }
            self.reader.consume(len);
        }
    }

    fn expect_data(&mut self, size: u64) -> Result<(), Fail> {
        if size > i64::MAX as u64 {
            return Err(Fail::content("an entry claims an impossible size"));
        }
        self.data = size;
        self.padding = size.next_multiple_of(BLOCK as u64) - size;
        Ok(())
    }

    fn skip_rest(&mut self) -> Result<(), Fail> {
        self.data += std::mem::take(&mut self.padding);
        while self.data > 0 {
            let len = self.data()?.len();
            self.consume(len);
        }
        Ok(())
    }

    /// The next header block; None at a zero block (the end mark) or a clean end of the stream.
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, Fail> {
        let mut block = [0; BLOCK];
        if self.reader.fill_buf().map_err(Fail::stream)?.is_empty() {
            return Ok(None);
        }
        self.reader
            .read_exact(&mut block)
            .map_err(|e| match e.kind() {
                ErrorKind::UnexpectedEof => Fail::content("the archive ends inside a header"),
                _ => Fail::stream(e),
            })?;
        Ok((block != [0; BLOCK]).then_some(block))
    }

    fn extension(&mut self, size: u64, max: u64) -> Result<Vec<u8>, Fail> {
        if size > max {
            return Err(Fail::content(format!(
                "an extension header has {size} bytes; at most {max} are read for this entry"
            )));
        }
        self.expect_data(size)?;
        let mut bytes = Vec::new();
        loop {
            let piece = self.data()?;
            if piece.is_empty() {
                return Ok(bytes);
            }
            bytes.extend_from_slice(piece);
            let len = piece.len();
            self.consume(len);
        }
    }
}

/// A numeric field of a header, by its place in the block (tar(5)). Blank is 0, as other readers have it.
fn number(
    header: &tar::Header,
    place: std::ops::Range<usize>,
    read: impl FnOnce(&tar::Header) -> std::io::Result<u64>,
) -> Result<u64, Fail> {
    if header.as_bytes()[place]
        .iter()
        .all(|b| matches!(b, 0 | b' '))
    {
        return Ok(0);
    }
    read(header).map_err(|_| Fail::content("a number in a header is none"))
}

fn size(header: &tar::Header) -> Result<u64, Fail> {
    number(header, 124..136, tar::Header::entry_size)
}

/// The sum over the header with its own field as spaces, of unsigned or (old tars) signed bytes.
fn check_sum(block: &[u8; BLOCK]) -> Result<(), Fail> {
    let header = tar::Header::from_byte_slice(block);
    let claimed = i64::from(header.cksum().unwrap_or(u32::MAX));
    let bytes = || {
        let field = 148..156;
        (0..BLOCK).map(move |i| if field.contains(&i) { b' ' } else { block[i] })
    };
    let unsigned: i64 = bytes().map(i64::from).sum();
    let signed: i64 = bytes().map(|b| i64::from(b.cast_signed())).sum();
    if claimed != unsigned && claimed != signed {
        return Err(Fail::content(
            "a header's check sum is wrong: not a tar archive, or a damaged one",
        ));
    }
    Ok(())
}

fn entry(header: &tar::Header, ext: Extensions) -> Result<Entry, Fail> {
    let path = ext.path.unwrap_or_else(|| header.path_bytes().into_owned());
    let link = || {
        let own = header.link_name_bytes().map(|name| name.into_owned());
        ext.link.clone().or(own).unwrap_or_default()
    };
    let device = |field: std::io::Result<Option<u32>>| {
        let bad = || Fail::content("a device number is none");
        field.map_err(|_| bad())?.ok_or_else(bad)
    };
    let kind = match header.entry_type().as_byte() {
        // Before POSIX a directory was a file whose name ends in a slash.
        b'0' | b'\0' | b'7' if path.ends_with(b"/") => Kind::Directory,
        b'0' | b'\0' | b'7' | b'S' => Kind::File {
            size: ext.size.map_or_else(|| size(header), Ok)?,
        },
        b'1' => Kind::Hardlink(link()),
        b'2' => Kind::Symlink(link()),
        b'3' => Kind::Character {
            major: device(header.device_major())?,
            minor: device(header.device_minor())?,
        },
        b'4' => Kind::Block {
            major: device(header.device_major())?,
            minor: device(header.device_minor())?,
        },
        b'5' => Kind::Directory,
        b'6' => Kind::Fifo,
        other => {
            return Err(unsupported(
                &path,
                &format!("entries of type {other:#04x} are"),
            ));
        }
    };
    Ok(Entry {
        kind,
        mode: (number(header, 100..108, |h| h.mode().map(u64::from))? & 0o7777) as u16,
        uid: owner(ext.uid, || number(header, 108..116, tar::Header::uid))?,
        gid: owner(ext.gid, || number(header, 116..124, tar::Header::gid))?,
        mtime: match ext.mtime {
            Some(time) => time,
            None => Time {
                seconds: i64::try_from(number(header, 136..148, tar::Header::mtime)?).unwrap_or(0),
                nanoseconds: 0,
            },
        },
        xattrs: ext.xattrs,
        sparse: None,
        path,
    })
}

fn unsupported(path: &[u8], what: &str) -> Fail {
    Fail::entry(path, format!("{what} not supported"))
}

/// (uid_t)-1 means "leave as it is" to chown(2) and is nobody's id.
fn owner(extension: Option<u64>, field: impl FnOnce() -> Result<u64, Fail>) -> Result<u32, Fail> {
    let id = extension.map_or_else(field, Ok)?;
    let id = u32::try_from(id).ok().filter(|id| *id != u32::MAX);
    id.ok_or_else(|| Fail::content("an owner's number is out of range"))
}

fn until_nul(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some(end) = bytes.iter().position(|b| *b == 0) {
        bytes.truncate(end);
    }
    bytes
}

/// Reads PAX records: `length key=value\n`, the length counting all of it.
fn pax(mut records: &[u8], ext: &mut Extensions) -> Result<(), Fail> {
    let bad = || Fail::content("a PAX record is malformed");
    while !records.is_empty() {
        let space = records
            .iter()
            .take(20)
            .position(|b| *b == b' ')
            .ok_or_else(bad)?;
        let len: usize = decimal(&records[..space]).ok_or_else(bad)?;
        if len <= space + 1 || len > records.len() || records[len - 1] != b'\n' {
            return Err(bad());
        }
        let record = &records[space + 1..len - 1];
        let equals = record.iter().position(|b| *b == b'=').ok_or_else(bad)?;
        record_into(&record[..equals], &record[equals + 1..], ext)?;
        records = &records[len..];
    }
    Ok(())
}

fn record_into(key: &[u8], value: &[u8], ext: &mut Extensions) -> Result<(), Fail> {
    let bad = || Fail::content("a PAX record holds a bad number");
    match key {
        b"path" => ext.path = Some(value.to_vec()),
        b"linkpath" => ext.link = Some(value.to_vec()),
        b"size" => ext.size = Some(decimal(value).ok_or_else(bad)?),
        b"uid" => ext.uid = Some(decimal(value).ok_or_else(bad)?),
        b"gid" => ext.gid = Some(decimal(value).ok_or_else(bad)?),
        b"mtime" => ext.mtime = Some(time(value).ok_or_else(bad)?),
        k => {
            if let Some(key) = k.strip_prefix(b"GNU.sparse.") {
                return ext.sparse.take(key, value).then_some(()).ok_or_else(bad);
            }
            if let Some(name) = k.strip_prefix(b"SCHILY.xattr.") {
                ext.xattrs.retain(|(known, _)| known != name);
                if ext.xattrs.len() == XATTRS_MAX {
                    let cause = format!("an entry has more than {XATTRS_MAX} extended attributes");
                    return Err(Fail::content(cause));
                }
                ext.xattrs.push((name.to_vec(), value.to_vec()));
            }
        }
    }
    Ok(())
}

fn decimal<T: std::str::FromStr>(digits: &[u8]) -> Option<T> {
    // `parse` alone would accept a plus sign.
    let all_digits = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    all_digits.then(|| std::str::from_utf8(digits).ok()?.parse().ok())?
}

/// Seconds with an optional fraction, and perhaps before 1970.
fn time(text: &[u8]) -> Option<Time> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let dot = text.iter().position(|b| *b == b'.');
    let (whole, fraction) = match dot {
        Some(dot) => (&text[..dot], &text[dot + 1..]),
        None => (text, &b""[..]),
    };
    let seconds: i64 = decimal(whole)?;
    let mut digits = [b'0'; 9];
    for (slot, digit) in digits.iter_mut().zip(fraction) {
        *slot = *digit;
    }
    let nanoseconds: u32 = decimal(&digits)?;
    Some(match (negative, nanoseconds) {
        (false, _) => Time {
            seconds,
            nanoseconds,
        },
        (true, 0) => Time {
            seconds: -seconds,
            nanoseconds: 0,
        },
        (true, n) => Time {
            seconds: -seconds - 1,
            nanoseconds: 1_000_000_000 - n,
        },
    })
}

impl<R> std::fmt::Debug for Archive<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Archive")
            .field("data", &self.data)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
