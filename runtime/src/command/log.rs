//! Where a command says what its caller should know: standard error, and the file of `--log`.
//!
//! A success is silent. What the caller asked for and does not get, though the command goes on, is a complaint: in the
//! file or, without one, on standard error. Other warnings go to the file alone: callers read a container's standard
//! error as the container's. `--debug` adds what was planned, and, without a file, says everything on standard error.
//! A line of JSON is what containerd's shim and conmon read: `{"level":...,"msg":...,"time":...}`.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::SystemTime;

use serde_json::json;

use crate::StepError;
use crate::clock::rfc3339;
use crate::error::Context;

/// How a line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Format {
    /// `time="..." level=error msg="..."`
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// What a line is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Debug,
    Warning,
    Error,
}

/// The log of one command.
#[derive(Debug, Default)]
pub(crate) struct Log {
    file: Option<File>,
    format: Format,
    debug: bool,
}

impl Log {
    /// Opens the file, if there is one; it is appended to, as others may write there too.
    pub(crate) fn open(path: Option<&Path>, format: Format, debug: bool) -> Result<Log, StepError> {
        let open = |path: &Path| {
            File::options()
                .append(true)
                .create(true)
                .mode(0o644)
                .open(path)
                .context("open log", path.display())
        };
        Ok(Log {
            file: path.map(open).transpose()?,
            format,
            debug,
        })
    }

    /// What went wrong, once, at the end.
    pub(crate) fn error(&self, message: &str) {
        eprintln!("error: {}", one_line(message));
        if self.file.is_some() {
            self.write(Level::Error, message);
        }
    }

    /// What could not be done and does not matter enough to anybody but the reader of a log.
    pub(crate) fn warning(&self, message: &str) {
        self.write(Level::Warning, message);
    }

    /// What was left out, and whatever else the OCI text wants somebody to hear: on standard error where there is no log.
    pub(crate) fn complaint(&self, message: &str) {
        match &self.file {
            Some(_) => self.write(Level::Warning, message),
            None => eprintln!("warning: {}", one_line(message)),
        }
    }

    /// What somebody wants who asks why.
    pub(crate) fn debug(&self, message: impl FnOnce() -> String) {
        if self.debug {
            self.write(Level::Debug, &message());
        }
    }

    fn write(&self, level: Level, message: &str) {
        let line = self.line(level, message, SystemTime::now());
        // One write, so that lines of several processes do not mix. A full disk is no reason to fail.
        match &self.file {
            Some(file) => drop({ file }.write_all(line.as_bytes())),
            None if self.debug => drop(std::io::stderr().write_all(line.as_bytes())),
            None => {}
        }
    }

    fn line(&self, level: Level, message: &str, now: SystemTime) -> String {
        let level = match level {
            Level::Debug => "debug",
            Level::Warning => "warning",
            Level::Error => "error",
        };
        let time = rfc3339(now);
        match self.format {
            Format::Text => format!("time=\"{time}\" level={level} msg={message:?}\n"),
            Format::Json => {
                format!(
                    "{}\n",
                    json!({"level": level, "msg": message, "time": time})
                )
            }
        }
    }
}

/// Names that an image or a spec chose are part of a message: they begin no line of their own and steer no terminal.
fn one_line(message: &str) -> String {
    let mut line = String::with_capacity(message.len());
    for letter in message.chars() {
        match letter.is_control() {
            true => line.extend(letter.escape_default()),
            false => line.push(letter),
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_json_has_what_shims_read() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let log = Log::open(Some(file.path()), Format::Json, false).unwrap();
        log.warning("a \"quoted\"\nline");
        log.debug(|| unreachable!("nobody asked"));
        let text = std::fs::read_to_string(file.path()).unwrap();
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            (&line["level"], &line["msg"]),
            (&"warning".into(), &"a \"quoted\"\nline".into())
        );
        assert!(line["time"].as_str().unwrap().ends_with('Z'));
        assert_eq!(text.lines().count(), 1);
    }

    #[test]
    fn a_line_of_text_is_one_line() {
        let log = Log::default();
        let line = log.line(Level::Error, "a\nb", SystemTime::UNIX_EPOCH);
        assert_eq!(
            line,
            "time=\"1970-01-01T00:00:00.000000000Z\" level=error msg=\"a\\nb\"\n"
        );
    }
}
