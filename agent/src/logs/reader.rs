//! Reads one container's log from its oldest rotation on, across rotations that happen meanwhile.

use std::fs::File;
use std::io::{BufRead, BufReader, Read as _};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

const NAME: &str = "log.jsonl";
/// A line longer than this is not the monitor's; it is skipped.
const LONGEST_LINE: u64 = 1 << 20;

/// One line of the monitor's: a piece of what the program wrote.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Written")]
pub(crate) struct Line {
    /// The text with its line end, where it had one.
    pub(crate) text: String,
    pub(crate) stream: Stream,
    /// When it was read from the pipe.
    pub(crate) time: jiff::Timestamp,
}

/// Where the program wrote it to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

/// A line as it stands in the file.
#[derive(Debug, Deserialize)]
struct Written {
    log: String,
    stream: Stream,
    time: String,
}

impl TryFrom<Written> for Line {
    type Error = jiff::Error;

    fn try_from(written: Written) -> Result<Line, jiff::Error> {
        Ok(Line {
            time: written.time.parse()?,
            stream: written.stream,
            text: written.log,
        })
    }
}

/// A place in a log.
#[derive(Debug)]
pub(crate) struct Reader {
    dir: PathBuf,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    file: BufReader<File>,
    inode: u64,
    /// A line that has no end yet.
    partial: Vec<u8>,
}

impl Reader {
    /// A reader at the oldest line. The directory need not be there yet.
    pub(crate) fn new(dir: &Path) -> Reader {
        Reader {
            dir: dir.to_owned(),
            open: None,
        }
    }

    /// The next line that is written out; None at the present end: ask again later.
    pub(crate) fn next_line(&mut self) -> std::io::Result<Option<Line>> {
        loop {
            if self.open.is_none() && !self.open_next(None)? {
                return Ok(None);
            }
            let Some(open) = &mut self.open else {
                return Ok(None);
            };
            match open.read()? {
                Piece::Line(line) => return Ok(Some(line)),
                Piece::Unreadable => {}
                Piece::End => {
                    let inode = open.inode;
                    if !self.is_rotated(inode)? {
                        return Ok(None);
                    }
                    // What was written between the end we saw and the rotation.
                    if let Some(Piece::Line(line)) =
                        self.open.as_mut().map(Open::read).transpose()?
                    {
                        return Ok(Some(line));
                    }
                    if !self.open_next(Some(inode))? {
                        return Ok(None);
                    }
                }
            }
        }
    }

    fn is_rotated(&self, inode: u64) -> std::io::Result<bool> {
        let files = files(&self.dir)?;
        Ok(files.last().is_some_and(|newest| newest.1 != inode))
    }

    /// Opens the file after the one with this inode: the oldest one if that is gone already.
    fn open_next(&mut self, after: Option<u64>) -> std::io::Result<bool> {
        let files = files(&self.dir)?;
        let place = files.iter().position(|file| Some(file.1) == after);
        let Some((path, _)) = files.get(place.map_or(0, |place| place + 1)) else {
            return Ok(false);
        };
        let file = match File::open(path) {
            Ok(file) => file,
            // It was rotated away this very moment; the next call finds it under its new name.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(false),
            Err(e) => return Err(e),
        };
        self.open = Some(Open {
            inode: file.metadata()?.ino(),
            file: BufReader::new(file),
            partial: Vec::new(),
        });
        Ok(true)
    }
}

enum Piece {
    Line(Line),
    Unreadable,
    End,
}

impl Open {
    fn read(&mut self) -> std::io::Result<Piece> {
        let room = LONGEST_LINE.saturating_sub(self.partial.len() as u64);
        let read = (&mut self.file)
            .take(room)
            .read_until(b'\n', &mut self.partial)?;
        if self.partial.last() == Some(&b'\n') {
            let line = std::mem::take(&mut self.partial);
            return Ok(serde_json::from_slice(&line).map_or(Piece::Unreadable, Piece::Line));
        }
        if self.partial.len() as u64 >= LONGEST_LINE {
            // The rest of it is skipped piece by piece, each of which is unreadable too.
            self.partial.clear();
            return Ok(Piece::Unreadable);
        }
        debug_assert!(read as u64 <= room);
        Ok(Piece::End)
    }
}

/// The log's files with their inodes, the oldest first.
fn files(dir: &Path) -> std::io::Result<Vec<(PathBuf, u64)>> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let mut found: Vec<(u32, PathBuf, u64)> = Vec::new();
    for entry in entries {
        let entry = entry?;
        if let (Some(age), Ok(meta)) = (age_of(&entry.file_name()), entry.metadata()) {
            found.push((age, entry.path(), meta.ino()));
        }
    }
    found.sort_by_key(|(age, ..)| std::cmp::Reverse(*age));
    Ok(found
        .into_iter()
        .map(|(_, path, ino)| (path, ino))
        .collect())
}

/// 0 for the file that is written to, n for its nth rotation.
fn age_of(name: &std::ffi::OsStr) -> Option<u32> {
    let rest = name.to_str()?.strip_prefix(NAME)?;
    if rest.is_empty() {
        return Some(0);
    }
    rest.strip_prefix('.')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn write(dir: &Path, name: &str, texts: &[&str]) {
        let mut file = std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(dir.join(name))
            .unwrap();
        for text in texts {
            let line = serde_json::json!({"log": text, "stream": "stdout", "time": "2026-01-01T00:00:00Z"});
            writeln!(file, "{line}").unwrap();
        }
    }

    fn all(reader: &mut Reader) -> Vec<String> {
        std::iter::from_fn(|| reader.next_line().unwrap())
            .map(|line| line.text)
            .collect()
    }

    #[test]
    fn rotations_are_read_from_the_oldest_on() {
        let dir = tempfile::tempdir().unwrap();
        let mut reader = Reader::new(&dir.path().join("not-there-yet"));
        assert!(all(&mut reader).is_empty());
        write(dir.path(), "log.jsonl.10", &["a"]);
        write(dir.path(), "log.jsonl.2", &["b"]);
        write(dir.path(), "log.jsonl", &["c"]);
        write(dir.path(), "log.jsonl.tmp", &["never"]);
        assert_eq!(all(&mut Reader::new(dir.path())), ["a", "b", "c"]);
    }

    #[test]
    fn following_loses_nothing_when_the_log_is_rotated() {
        let dir = tempfile::tempdir().unwrap();
        let mut reader = Reader::new(dir.path());
        write(dir.path(), "log.jsonl", &["a"]);
        assert_eq!(all(&mut reader), ["a"]);
        write(dir.path(), "log.jsonl", &["b"]);
        std::fs::rename(dir.path().join("log.jsonl"), dir.path().join("log.jsonl.1")).unwrap();
        write(dir.path(), "log.jsonl", &["c"]);
        assert_eq!(all(&mut reader), ["b", "c"]);
        // Twice rotated between two looks.
        write(dir.path(), "log.jsonl", &["d"]);
        std::fs::rename(
            dir.path().join("log.jsonl.1"),
            dir.path().join("log.jsonl.2"),
        )
        .unwrap();
        std::fs::rename(dir.path().join("log.jsonl"), dir.path().join("log.jsonl.1")).unwrap();
        write(dir.path(), "log.jsonl", &["e"]);
        assert_eq!(all(&mut reader), ["d", "e"]);
    }

    #[test]
    fn torn_and_foreign_lines_are_skipped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log.jsonl");
        std::fs::write(&path, "not json\n{\"log\":1}\n").unwrap();
        write(dir.path(), "log.jsonl", &["good"]);
        let mut reader = Reader::new(dir.path());
        assert_eq!(all(&mut reader), ["good"]);
        // A line that is still being written is not there yet.
        let mut file = std::fs::OpenOptions::new()
            .append(true)
            .open(&path)
            .unwrap();
        let (first, rest) =
            r#"{"log":"whole","stream":"stderr","time":"2026-01-01T00:00:00Z"}"#.split_at(9);
        file.write_all(first.as_bytes()).unwrap();
        assert!(all(&mut reader).is_empty());
        writeln!(file, "{rest}").unwrap();
        assert_eq!(all(&mut reader), ["whole"]);
        let long = "x".repeat(3 << 20);
        writeln!(file, "{long}").unwrap();
        write(dir.path(), "log.jsonl", &["after"]);
        assert_eq!(all(&mut reader), ["after"]);
    }
}
