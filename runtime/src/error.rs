//! One error for everything that crosses a process: which step, on what, with which errno.

/// A step failed: on which subject, with which errno. `Display` is one sentence without the source.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, thiserror::Error)]
#[error("{step} {subject}: {cause}")]
pub struct StepError {
    /// What was being done, as a verb phrase: `mount`, `resolve entrypoint`, `set user`.
    pub step: String,
    /// The path, id or value it was done to.
    pub subject: String,
    /// errno, where the kernel refused.
    pub errno: Option<i32>,
    /// The cause and, where there is one, the remedy.
    pub cause: String,
}
