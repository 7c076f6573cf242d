//! Texts that the kernel makes while they are read: /proc and control files.
//!
//! Their size is known to nobody before. `std::fs::read` asks for it in vain, begins with 32 bytes and doubles: for
//! /proc/self/mountinfo of a busy host that is a dozen reads.

use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// What the kernel gives at once, most often.
const ROOM: usize = 4 << 10;

/// The text of a file in /proc.
pub(crate) fn read(path: impl AsRef<Path>) -> Result<Vec<u8>, Errno> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = rustix::fs::open(path.as_ref(), flags, Mode::empty())?;
    let mut text = Vec::new();
    read_to_end(&file, &mut text)?;
    Ok(text)
}

/// As [`read`], for a text that is UTF-8.
pub(crate) fn read_string(path: impl AsRef<Path>) -> Result<String, Errno> {
    String::from_utf8(read(path)?).map_err(|_| Errno::ILSEQ)
}

/// What is left of an open file. A short read is no end: the kernel gives whole lines.
///
/// By way of the stack: most texts are a few bytes, and room for the longest would be a mapping for each.
pub(crate) fn read_to_end(file: impl AsFd, text: &mut Vec<u8>) -> Result<(), Errno> {
    let mut part = [0; ROOM];
    loop {
        match rustix::io::read(&file, &mut part[..]) {
            Ok(0) => return Ok(()),
            Ok(length) => text.extend_from_slice(&part[..length]),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_longer_than_the_room_is_read_whole() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let long = "line\n".repeat(ROOM);
        std::fs::write(file.path(), &long).unwrap();
        assert_eq!(read_string(file.path()).as_deref(), Ok(long.as_str()));
        assert_eq!(read("/proc/self/nothing"), Err(Errno::NOENT));
    }
}
