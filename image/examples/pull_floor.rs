//! What a pull cannot do without, each step alone on one thread, for `scripts/bench pull`: prints seconds as JSON.
//!
//!   pull_floor HOST:PORT REPOSITORY TO BLOB...
//!
//! fetch (to nowhere), sha256 of what came, inflate, sha256 of that, and the files of the archives below TO, which
//! must be empty. Summed and divided by the cores it is the least time that this machine needs for the image. All
//! but the fetch are from memory to memory or to the page cache. Gzip only.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::time::Instant;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Timespec, Timestamps};
use sha2::Digest as _;

type Error = Box<dyn std::error::Error>;

fn main() -> Result<(), Error> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [host, repository, to, blobs @ ..] = &words[..] else {
        return Err("usage: pull_floor HOST:PORT REPOSITORY TO BLOB...".into());
    };
    let mut took = [0.0; 5];
    let mut clock = |step: usize, work: &mut dyn FnMut() -> Result<(), Error>| {
        let began = Instant::now();
        let done = work();
        took[step] += began.elapsed().as_secs_f64();
        done
    };
    for (number, blob) in blobs.iter().enumerate() {
        let mut compressed = Vec::new();
        clock(0, &mut || fetch(host, repository, blob, nowhere))?;
        fetch(host, repository, blob, |bytes| {
            compressed.extend_from_slice(bytes)
        })?;
        clock(1, &mut || hash(&compressed))?;
        let mut raw = Vec::with_capacity(compressed.len() * 4);
        inflate(&compressed, |bytes| raw.extend_from_slice(bytes))?;
        clock(2, &mut || inflate(&compressed, nowhere))?;
        clock(3, &mut || hash(&raw))?;
        let below = format!("{to}/{number}");
        rustix::fs::mkdir(below.as_str(), Mode::RWXU)?;
        rustix::process::umask(Mode::empty());
        clock(4, &mut || files(&raw, &below))?;
    }
    let [fetch, hash, inflate, hash_raw, files] = took;
    println!(
        "{{\"fetch\": {fetch:.4}, \"hash\": {hash:.4}, \"inflate\": {inflate:.4}, \"hash_raw\": {hash_raw:.4}, \
         \"files\": {files:.4}}}"
    );
    Ok(())
}

fn fetch(
    host: &str,
    repository: &str,
    blob: &str,
    mut take: impl FnMut(&[u8]),
) -> Result<(), Error> {
    let mut socket = TcpStream::connect(host)?;
    write!(
        socket,
        "GET /v2/{repository}/blobs/{blob} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n"
    )?;
    let mut buffer = vec![0; 256 * 1024];
    let (mut head, mut in_head) = (Vec::new(), true);
    loop {
        let len = socket.read(&mut buffer)?;
        if len == 0 {
            return Ok(());
        }
        if !in_head {
            take(&buffer[..len]);
            continue;
        }
        head.extend_from_slice(&buffer[..len]);
        if let Some(end) = head.windows(4).position(|four| four == b"\r\n\r\n") {
            if !head.starts_with(b"HTTP/1.1 200") {
                return Err(String::from_utf8_lossy(&head[..end]).into_owned().into());
            }
            take(&head[end + 4..]);
            in_head = false;
        }
    }
}

fn nowhere(bytes: &[u8]) {
    std::hint::black_box(bytes);
}

fn hash(bytes: &[u8]) -> Result<(), Error> {
    std::hint::black_box(sha2::Sha256::digest(bytes));
    Ok(())
}

fn inflate(bytes: &[u8], mut take: impl FnMut(&[u8])) -> Result<(), Error> {
    let mut decoder = flate2::bufread::MultiGzDecoder::new(bytes);
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match decoder.read(&mut buffer)? {
            0 => return Ok(()),
            len => take(&buffer[..len]),
        }
    }
}

/// The cheapest calls that give each entry its name, bytes, owner, mode and time.
fn files(raw: &[u8], below: &str) -> Result<(), Error> {
    let root = rustix::fs::openat(
        CWD,
        below,
        OFlags::RDONLY | OFlags::DIRECTORY,
        Mode::empty(),
    )?;
    let mut parents: HashMap<Vec<u8>, OwnedFd> = HashMap::new();
    let mut archive = tar::Archive::new(raw);
    for entry in archive.entries()? {
        let entry = entry?;
        let at = usize::try_from(entry.raw_file_position())?;
        let data = &raw[at..at + usize::try_from(entry.size())?];
        let path = entry.path_bytes();
        let path = path.strip_prefix(b"./").unwrap_or(&path);
        let path = path.strip_suffix(b"/").unwrap_or(path);
        if path.is_empty() {
            continue;
        }
        let (above, last) = match path.iter().rposition(|b| *b == b'/') {
            Some(at) => (&path[..at], &path[at + 1..]),
            None => (&b"."[..], path),
        };
        if !parents.contains_key(above) {
            // Archives are in directory order: the few above the last one are enough.
            if parents.len() > 16 {
                parents.clear();
            }
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            let parent = match rustix::fs::openat(&root, above, flags, Mode::empty()) {
                Ok(parent) => parent,
                Err(_) => {
                    std::fs::create_dir_all(format!("{below}/{}", String::from_utf8_lossy(above)))?;
                    rustix::fs::openat(&root, above, flags, Mode::empty())?
                }
            };
            parents.insert(above.to_vec(), parent);
        }
        one(
            entry.header(),
            &parents[above],
            last,
            data,
            &root,
            entry.link_name_bytes(),
        )?;
    }
    Ok(())
}

fn one(
    header: &tar::Header,
    parent: &OwnedFd,
    last: &[u8],
    data: &[u8],
    root: &OwnedFd,
    link: Option<std::borrow::Cow<'_, [u8]>>,
) -> Result<(), Error> {
    let mode = Mode::from_bits_truncate(header.mode()?);
    let time = Timespec {
        tv_sec: i64::try_from(header.mtime()?)?,
        tv_nsec: 0,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    let (uid, gid) = (u32::try_from(header.uid()?)?, u32::try_from(header.gid()?)?);
    let owner = (
        Some(rustix::fs::Uid::from_raw(uid)),
        Some(rustix::fs::Gid::from_raw(gid)),
    );
    let nofollow = AtFlags::SYMLINK_NOFOLLOW;
    match header.entry_type() {
        tar::EntryType::Regular | tar::EntryType::Continuous => {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
            let file = rustix::fs::openat(parent, last, flags, mode)?;
            let mut rest = data;
            while !rest.is_empty() {
                rest = &rest[rustix::io::write(&file, rest)?..];
            }
            if uid != 0 || gid != 0 {
                rustix::fs::fchown(&file, owner.0, owner.1)?;
            }
            if header.mode()? & 0o7000 != 0 {
                rustix::fs::fchmod(&file, mode)?;
            }
            rustix::fs::futimens(&file, &times)?;
        }
        tar::EntryType::Directory => match rustix::fs::mkdirat(parent, last, mode | Mode::RWXU) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {
                rustix::fs::utimensat(parent, last, &times, nofollow)?;
            }
            Err(e) => return Err(e.into()),
        },
        tar::EntryType::Symlink => {
            rustix::fs::symlinkat(&*link.unwrap_or_default(), parent, last)?;
            rustix::fs::utimensat(parent, last, &times, nofollow)?;
        }
        tar::EntryType::Link => {
            let link = link.unwrap_or_default();
            let from = link.strip_prefix(b"./").unwrap_or(&link);
            rustix::fs::linkat(root, from, parent, last, AtFlags::empty())?;
        }
        _ => rustix::fs::mknodat(parent, last, FileType::CharacterDevice, mode, 0)?,
    }
    Ok(())
}
