//! Tar, written as a stream: ustar headers, and PAX records for what they cannot hold.
//!
//! Deterministic: the same entries are the same bytes, whoever writes them and when. Absent on purpose: GNU's
//! extensions, names of owners, and sparse files (the image specification advises against them: a hole is written as
//! the zeros that it is read as, and many an unpacker knows nothing else).

use std::io::{self, Read, Write};

use crate::unpack::archive::{Entry, Kind, Time};

const BLOCK: u64 = 512;
/// What seven octal digits hold, and eleven.
const OCTAL_7: u64 = (1 << 21) - 1;
const OCTAL_11: u64 = (1 << 33) - 1;
const ZEROS: [u8; 1024] = [0; 1024];

/// An archive in the making.
pub(crate) struct Writer<W> {
    out: W,
    buffer: Vec<u8>,
}

impl<W: Write> Writer<W> {
    pub(crate) fn new(out: W) -> Writer<W> {
        Writer {
            out,
            buffer: vec![0; 256 * 1024],
        }
    }

    /// Writes an entry; a file's bytes are taken from `data`, which must have as many as the entry says.
    pub(crate) fn entry(&mut self, entry: &Entry, mut data: impl Read) -> io::Result<()> {
        self.headers(entry)?;
        let Kind::File { size } = entry.kind else {
            return Ok(());
        };
        let mut left = size;
        while left > 0 {
            let most =
                usize::try_from(left).map_or(self.buffer.len(), |l| l.min(self.buffer.len()));
            match data.read(&mut self.buffer[..most]) {
                Ok(0) => {
                    let cause = format!("it has {} bytes, and had {size} before", size - left);
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, cause));
                }
                Ok(len) => {
                    self.out.write_all(&self.buffer[..len])?;
                    left -= len as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        self.pad(size)
    }

    /// Writes a file's header; its bytes are written to what is returned, as many as the entry says.
    pub(crate) fn stream(&mut self, entry: &Entry) -> io::Result<Data<'_, W>> {
        let Kind::File { size } = entry.kind else {
            return Err(io::Error::other("only a file has bytes"));
        };
        self.headers(entry)?;
        Ok(Data {
            writer: self,
            size,
            left: size,
        })
    }

    /// Writes the end mark and gives the output back.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.out.write_all(&ZEROS)?;
        Ok(self.out)
    }

    fn headers(&mut self, entry: &Entry) -> io::Result<()> {
        let pax = pax(entry);
        if !pax.is_empty() {
            let header = plain_header(b'x', b"pax", pax.len() as u64);
            self.out.write_all(header.as_bytes())?;
            self.out.write_all(&pax)?;
            self.pad(pax.len() as u64)?;
        }
        self.out.write_all(header(entry).as_bytes())
    }

    fn pad(&mut self, len: u64) -> io::Result<()> {
        let padding = usize::try_from(len.next_multiple_of(BLOCK) - len).unwrap_or(0);
        self.out.write_all(&ZEROS[..padding])
    }
}

/// The bytes of one file, on their way into the archive.
pub(crate) struct Data<'a, W> {
    writer: &'a mut Writer<W>,
    size: u64,
    left: u64,
}

impl<W: Write> Data<'_, W> {
    /// After the last byte.
    pub(crate) fn finish(self) -> io::Result<()> {
        match self.left {
            0 => self.writer.pad(self.size),
            left => Err(io::Error::other(format!("{left} bytes are missing"))),
        }
    }
}

impl<W: Write> Write for Data<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() as u64 > self.left {
            return Err(io::Error::other("it is longer than it was said to be"));
        }
        let len = self.writer.out.write(bytes)?;
        self.left -= len as u64;
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.out.flush()
    }
}

/// A member of an archive of ours that is no part of an image: root's, readable by all, of no time.
pub(crate) fn member(name: &str, kind: Kind) -> Entry {
    Entry {
        path: name.as_bytes().to_vec(),
        mode: match kind {
            Kind::Directory => 0o755,
            _ => 0o644,
        },
        kind,
        uid: 0,
        gid: 0,
        mtime: Time::default(),
        xattrs: Vec::new(),
        sparse: None,
    }
}

/// Bytes of a member in the archive, its header included.
pub(crate) fn member_len(entry: &Entry) -> u64 {
    let extension = match pax(entry).len() as u64 {
        0 => 0,
        len => BLOCK + len.next_multiple_of(BLOCK),
    };
    let data = match entry.kind {
        Kind::File { size } => size.next_multiple_of(BLOCK),
        _ => 0,
    };
    extension + BLOCK + data
}

/// The end mark.
pub(crate) const END_LEN: u64 = 2 * BLOCK;

/// Where a name or a number does not fit into its field, the record before the header has it, and the field what fits.
fn header(entry: &Entry) -> tar::Header {
    let (kind, link, size): (u8, &[u8], u64) = match &entry.kind {
        Kind::File { size } => (b'0', b"", *size),
        Kind::Hardlink(target) => (b'1', target, 0),
        Kind::Symlink(target) => (b'2', target, 0),
        Kind::Character { .. } => (b'3', b"", 0),
        Kind::Block { .. } => (b'4', b"", 0),
        Kind::Directory => (b'5', b"", 0),
        Kind::Fifo => (b'6', b"", 0),
    };
    let mut header = plain_header(kind, &entry.path, size.min(OCTAL_11));
    header.set_mode(u32::from(entry.mode));
    header.set_uid(u64::from(entry.uid).min(OCTAL_7));
    header.set_gid(u64::from(entry.gid).min(OCTAL_7));
    header.set_mtime(seconds_in_header(entry.mtime));
    let old = header.as_old_mut();
    let fits = link.len().min(old.linkname.len());
    old.linkname[..fits].copy_from_slice(&link[..fits]);
    if let (Kind::Character { major, minor } | Kind::Block { major, minor }, Some(ustar)) =
        (&entry.kind, header.as_ustar_mut())
    {
        ustar.set_device_major(*major);
        ustar.set_device_minor(*minor);
    }
    header.set_cksum();
    header
}

fn plain_header(kind: u8, name: &[u8], size: u64) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::new(kind));
    let field = &mut header.as_old_mut().name;
    let fits = name.len().min(field.len());
    field[..fits].copy_from_slice(&name[..fits]);
    header.set_size(size);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_cksum();
    header
}

fn seconds_in_header(time: Time) -> u64 {
    u64::try_from(time.seconds).unwrap_or(0).min(OCTAL_11)
}

fn pax(entry: &Entry) -> Vec<u8> {
    let mut records = Vec::new();
    if !fits(&entry.path) {
        record(b"path", &entry.path, &mut records);
    }
    match &entry.kind {
        Kind::Hardlink(target) | Kind::Symlink(target) if !fits(target) => {
            record(b"linkpath", target, &mut records);
        }
        Kind::File { size } if *size > OCTAL_11 => {
            record(b"size", size.to_string().as_bytes(), &mut records);
        }
        _ => {}
    }
    for (key, id) in [(&b"uid"[..], entry.uid), (b"gid", entry.gid)] {
        if u64::from(id) > OCTAL_7 {
            record(key, id.to_string().as_bytes(), &mut records);
        }
    }
    let time = entry.mtime;
    if time.nanoseconds != 0 || i64::try_from(seconds_in_header(time)) != Ok(time.seconds) {
        record(b"mtime", decimal(time).as_bytes(), &mut records);
    }
    for (name, value) in &entry.xattrs {
        record(
            &[b"SCHILY.xattr.", name.as_slice()].concat(),
            value,
            &mut records,
        );
    }
    records
}

/// Up to 100 bytes of plain text; readers differ in what other bytes in a header mean.
fn fits(name: &[u8]) -> bool {
    name.len() <= 100 && name.iter().all(|b| matches!(b, 1..=0x7f))
}

/// `length key=value\n`, the length counting itself.
fn record(key: &[u8], value: &[u8], records: &mut Vec<u8>) {
    let rest = key.len() + value.len() + 3;
    let mut len = rest + 1;
    while len != rest + len.to_string().len() {
        len = rest + len.to_string().len();
    }
    records.extend_from_slice(len.to_string().as_bytes());
    records.push(b' ');
    records.extend_from_slice(key);
    records.push(b'=');
    records.extend_from_slice(value);
    records.push(b'\n');
}

/// Seconds with a fraction, perhaps before 1970: -2 and 750 million nanoseconds are -1.25.
fn decimal(time: Time) -> String {
    let (sign, seconds, nanoseconds) = match (time.seconds < 0, time.nanoseconds) {
        (false, n) => ("", time.seconds.unsigned_abs(), n),
        (true, 0) => ("-", time.seconds.unsigned_abs(), 0),
        (true, n) => ("-", time.seconds.unsigned_abs() - 1, 1_000_000_000 - n),
    };
    match nanoseconds {
        0 => format!("{sign}{seconds}"),
        n => format!("{sign}{seconds}.{n:09}"),
    }
}

impl<W> std::fmt::Debug for Data<'_, W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Data")
            .field("left", &self.left)
            .finish_non_exhaustive()
    }
}

impl<W> std::fmt::Debug for Writer<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Writer")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unpack::archive::Archive;
    use proptest::prelude::*;

    fn written(entry: &Entry, data: &[u8]) -> Vec<u8> {
        let mut writer = Writer::new(Vec::new());
        writer.entry(entry, data).unwrap();
        writer.finish().unwrap()
    }

    #[track_caller]
    fn comes_back(entry: &Entry, data: &[u8]) {
        let bytes = written(entry, data);
        assert_eq!(bytes.len() as u64, member_len(entry) + END_LEN);
        let mut archive = Archive::new(bytes.as_slice());
        let read = archive.next().unwrap().unwrap();
        assert_eq!(read.path, entry.path);
        assert_eq!(read.kind, entry.kind);
        assert_eq!(
            (read.mode, read.uid, read.gid),
            (entry.mode, entry.uid, entry.gid)
        );
        assert_eq!(read.mtime, entry.mtime);
        assert_eq!(read.xattrs, entry.xattrs);
        assert_eq!(archive.data().unwrap(), data);
        assert!(archive.next().unwrap().is_none());
        archive.drain().unwrap();
    }

    #[test]
    fn entries_come_back_from_the_reader_as_they_were() {
        let long = vec![b'n'; 240];
        let mut file = member("a", Kind::File { size: 3 });
        comes_back(&file, b"abc");
        file.path = "größe/".repeat(30).trim_end_matches('/').into();
        file.mode = 0o6755;
        (file.uid, file.gid) = (3_000_000, u32::MAX - 1);
        file.mtime = Time {
            seconds: -2,
            nanoseconds: 750_000_000,
        };
        file.xattrs = vec![
            (b"user.a".to_vec(), b"x\0=y\n".to_vec()),
            (b"security.capability".to_vec(), vec![1, 0, 0, 2]),
        ];
        comes_back(&file, b"abc");
        for kind in [
            Kind::Symlink(long.clone()),
            Kind::Hardlink(long),
            Kind::Symlink(b"../\xff".to_vec()),
            Kind::Directory,
            Kind::Fifo,
            Kind::Character {
                major: 4095,
                minor: 1_048_575,
            },
            Kind::Block { major: 8, minor: 1 },
        ] {
            comes_back(&member("d/e", kind), b"");
        }
    }

    #[test]
    fn a_file_beyond_eight_gibibytes_says_its_size_in_a_record() {
        let large = member("l", Kind::File { size: OCTAL_11 + 7 });
        assert!(pax(&large).ends_with(b" size=8589934598\n"));
        assert!(pax(&member("l", Kind::File { size: OCTAL_11 })).is_empty());
    }

    #[test]
    fn a_file_that_shrank_is_an_error() {
        let mut writer = Writer::new(Vec::new());
        let error = writer.entry(&member("a", Kind::File { size: 4 }), &b"abc"[..]);
        assert!(
            error
                .unwrap_err()
                .to_string()
                .contains("3 bytes, and had 4")
        );
    }

    proptest! {
        #[test]
        fn any_time_comes_back(seconds in -(1i64 << 40)..(1i64 << 40), nanoseconds in 0u32..1_000_000_000) {
            let mut file = member("a", Kind::File { size: 0 });
            file.mtime = Time { seconds, nanoseconds };
            comes_back(&file, b"");
        }

        #[test]
        fn a_records_length_counts_itself(value in proptest::collection::vec(any::<u8>(), 0..1200)) {
            let mut records = Vec::new();
            record(b"k", &value, &mut records);
            let space = records.iter().position(|b| *b == b' ').unwrap();
            let said: usize = std::str::from_utf8(&records[..space]).unwrap().parse().unwrap();
            prop_assert_eq!(said, records.len());
        }
    }
}
