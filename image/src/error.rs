//! The one error of this crate, and how its sentences are made.
//!
//! There are no error codes: a caller shows the sentence as a task's reason and decides nothing by it. What
//! this crate itself must tell apart (can the registry be reached?) is a type inside `registry`.

use std::fmt::Display;

/// An error of this crate: step, subject, cause and remedy in one sentence.
#[derive(Debug, thiserror::Error)]
#[error("{step} {subject}: {cause}")]
pub struct ImageError {
    /// `resolve`, `fetch manifest`, `fetch layer`, `unpack layer`, ...
    pub step: &'static str,
    /// Reference, digest or path.
    pub subject: String,
    /// Cause and remedy.
    pub cause: String,
}

impl ImageError {
    pub(crate) fn new(
        step: &'static str,
        subject: impl Display,
        cause: impl Display,
    ) -> ImageError {
        ImageError {
            step,
            subject: subject.to_string(),
            cause: cause.to_string(),
        }
    }
}

/// At most `max` characters of foreign text, without control characters, so that a hostile registry or tar
/// entry can neither flood a log nor steer a terminal.
pub(crate) fn printable(text: &str, max: usize) -> String {
    let mut out: String = text
        .chars()
        .take(max)
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect();
    if text.chars().nth(max).is_some() {
        out.push('…');
    }
    out
}

/// [`printable`] for bytes.
pub(crate) fn printable_bytes(bytes: &[u8]) -> String {
    printable(
        &String::from_utf8_lossy(&bytes[..bytes.len().min(1024)]),
        256,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_is_cut_and_cannot_steer_a_terminal() {
        assert_eq!(printable("a\x1b[2Jb\n", 16), "a\u{fffd}[2Jb\u{fffd}");
        assert_eq!(printable("abcdef", 3), "abc…");
        assert_eq!(printable("abc", 3), "abc");
    }
}
