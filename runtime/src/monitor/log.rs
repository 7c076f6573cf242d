//! The container's output on disk, in docker's json-file lines: {"log","stream","time"}.
//!
//! A line longer than 16 KiB becomes several entries, of which only the last ends in a newline. Five files of
//! 10 MiB are kept: `log.jsonl` and `log.jsonl.1` (newest) to `.4`. A disk that refuses never stops
//! the container: lines are dropped and counted, and the first entry that can be written again says how many.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::time::SystemTime;

use rustix::fs::{Mode, OFlags};
use serde::Serialize;

use crate::clock;

const NAME: &str = "log.jsonl";
const FILES: usize = 5;
const FILE_MAX: u64 = 10 << 20;
const ENTRY_MAX: usize = 16 << 10;

#[derive(Serialize)]
struct Entry<'a> {
    log: &'a str,
    stream: &'a str,
    time: &'a str,
}

/// The files of one container.
#[derive(Debug)]
pub(super) struct LogFiles {
    directory: OwnedFd,
    file: Option<File>,
    size: u64,
    file_max: u64,
    lost: u64,
}

impl LogFiles {
    pub(super) fn new(directory: OwnedFd) -> LogFiles {
        LogFiles {
            directory,
            file: None,
            size: 0,
            file_max: FILE_MAX,
            lost: 0,
        }
    }

    /// Stores one entry, or counts it as lost.
    pub(super) fn append(&mut self, log: &[u8], stream: &str, now: SystemTime) {
        let time = clock::rfc3339(now);
        if self.lost > 0 {
            let note = format!(
                "longshore: {} log entries were lost: the disk refused them\n",
                self.lost
            );
            if self.write(&note, "stderr", &time).is_ok() {
                self.lost = 0;
            }
        }
        if self
            .write(&String::from_utf8_lossy(log), stream, &time)
            .is_err()
        {
            self.lost += 1;
        }
    }

    fn write(&mut self, log: &str, stream: &str, time: &str) -> std::io::Result<()> {
        let mut line = serde_json::to_vec(&Entry { log, stream, time })?;
        line.push(b'\n');
        if self.file.is_some() && self.size + line.len() as u64 > self.file_max {
            self.rotate()?;
        }
        if self.file.is_none() {
            self.open()?;
        }
        let Some(file) = &mut self.file else {
            return Err(std::io::ErrorKind::NotFound.into());
        };
        if let Err(error) = file.write_all(&line) {
            // Half a line would spoil the next one.
            drop(file.set_len(self.size));
            return Err(error);
        }
        self.size += line.len() as u64;
        Ok(())
    }

    fn open(&mut self) -> std::io::Result<()> {
        let flags =
            OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::openat(
            &self.directory,
            NAME,
            flags,
            Mode::from_raw_mode(0o600),
        )?);
        self.size = file.metadata()?.len();
        self.file = Some(file);
        Ok(())
    }

    fn rotate(&mut self) -> std::io::Result<()> {
        let name = |age: usize| {
            if age == 0 {
                NAME.to_owned()
            } else {
                format!("{NAME}.{age}")
            }
        };
        for age in (0..FILES - 1).rev() {
            match rustix::fs::renameat(&self.directory, name(age), &self.directory, name(age + 1)) {
                Ok(()) | Err(rustix::io::Errno::NOENT) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        self.file = None;
        Ok(())
    }
}

/// Cuts one stream into entries.
#[derive(Debug)]
pub(super) struct Lines {
    stream: &'static str,
    pending: Vec<u8>,
}

impl Lines {
    pub(super) fn new(stream: &'static str) -> Lines {
        Lines {
            stream,
            pending: Vec::new(),
        }
    }

    /// Stores the entries that `bytes` completes.
    pub(super) fn feed(&mut self, bytes: &[u8], files: &mut LogFiles, now: SystemTime) {
        self.pending.extend_from_slice(bytes);
        let mut done = 0;
        while let Some(length) = entry(&self.pending[done..]) {
            files.append(&self.pending[done..done + length], self.stream, now);
            done += length;
        }
        self.pending.drain(..done);
    }

    /// Stores what is left of a stream that has ended.
    pub(super) fn end(&mut self, files: &mut LogFiles, now: SystemTime) {
        if !self.pending.is_empty() {
            files.append(&std::mem::take(&mut self.pending), self.stream, now);
        }
    }
}

/// Length of the first complete entry: a line with its newline, or as much of one as fits, cut between
/// two characters.
fn entry(pending: &[u8]) -> Option<usize> {
    let window = &pending[..pending.len().min(ENTRY_MAX)];
    if let Some(newline) = window.iter().position(|byte| *byte == b'\n') {
        return Some(newline + 1);
    }
    if pending.len() < ENTRY_MAX {
        return None;
    }
    // A UTF-8 character is at most 4 bytes: a continuation byte just after the cut belongs to one before it.
    let begins = |at: &usize| pending.get(*at).is_none_or(|byte| byte & 0xc0 != 0x80);
    Some(
        (ENTRY_MAX - 3..=ENTRY_MAX)
            .rev()
            .find(begins)
            .unwrap_or(ENTRY_MAX),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn logged(chunks: &[&[u8]]) -> Vec<String> {
        let directory = tempfile::tempdir().unwrap();
        let mut files = LogFiles::new(File::open(directory.path()).unwrap().into());
        let mut lines = Lines::new("stdout");
        for chunk in chunks {
            lines.feed(chunk, &mut files, SystemTime::UNIX_EPOCH);
        }
        lines.end(&mut files, SystemTime::UNIX_EPOCH);
        let text = std::fs::read_to_string(directory.path().join(NAME)).unwrap_or_default();
        let entry = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap();
        text.lines()
            .map(|line| entry(line)["log"].as_str().unwrap().to_owned())
            .collect()
    }

    #[test]
    fn lines_are_whole_whatever_the_chunks_were() {
        assert_eq!(
            logged(&[b"on", b"e\ntwo", b"\n", b"rest"]),
            ["one\n", "two\n", "rest"]
        );
        assert!(logged(&[]).is_empty());
    }

    #[test]
    fn a_long_line_is_cut_between_characters() {
        let line = "€".repeat(ENTRY_MAX);
        let entries = logged(&[line.as_bytes()]);
        assert!(
            entries.len() > 1
                && entries
                    .iter()
                    .all(|entry| entry.len() <= ENTRY_MAX && !entry.contains('\u{fffd}'))
        );
        assert_eq!(entries.concat(), line);
    }

    #[test]
    fn the_format_is_docker_s() {
        let directory = tempfile::tempdir().unwrap();
        let mut files = LogFiles::new(File::open(directory.path()).unwrap().into());
        files.append(b"a \"b\"\n", "stderr", SystemTime::UNIX_EPOCH);
        let text = std::fs::read_to_string(directory.path().join(NAME)).unwrap();
        let expected = expect_test::expect![[r#"
            {"log":"a \"b\"\n","stream":"stderr","time":"1970-01-01T00:00:00.000000000Z"}
        "#]];
        expected.assert_eq(&text);
    }

    #[test]
    fn five_files_are_kept() {
        let directory = tempfile::tempdir().unwrap();
        let mut files = LogFiles::new(File::open(directory.path()).unwrap().into());
        files.file_max = 200;
        for number in 0..100 {
            files.append(
                format!("{number}\n").as_bytes(),
                "stdout",
                SystemTime::UNIX_EPOCH,
            );
        }
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), FILES);
        assert!(
            std::fs::read_to_string(directory.path().join(NAME))
                .unwrap()
                .contains("99\\n")
        );
    }

    #[test]
    fn what_the_disk_refuses_is_counted_and_told() {
        let directory = tempfile::tempdir().unwrap();
        let mut files = LogFiles::new(File::open(directory.path()).unwrap().into());
        let blocker = directory.path().join(NAME);
        std::fs::create_dir(&blocker).unwrap();
        files.append(b"lost\n", "stdout", SystemTime::UNIX_EPOCH);
        files.append(b"lost too\n", "stdout", SystemTime::UNIX_EPOCH);
        std::fs::remove_dir(&blocker).unwrap();
        files.append(b"kept\n", "stdout", SystemTime::UNIX_EPOCH);
        let text = std::fs::read_to_string(&blocker).unwrap();
        assert!(
            text.contains("2 log entries were lost") && text.contains("kept"),
            "{text}"
        );
    }

    proptest! {
        #[test]
        fn no_byte_of_text_is_lost(text in "[a-z€\n]{0,2000}", cut in 0usize..2000) {
            let (head, tail) = text.as_bytes().split_at(cut.min(text.len()));
            prop_assert_eq!(logged(&[head, tail]).concat(), text);
        }
    }
}
