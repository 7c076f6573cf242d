//! One error for everything that crosses a process: which step, on what, with which errno.

use std::fmt::Display;

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

impl StepError {
    /// A refusal of our own: `cause` tells the rule and the remedy.
    pub fn refused(step: &str, subject: impl Display, cause: impl Into<String>) -> StepError {
        StepError {
            step: step.into(),
            subject: subject.to_string(),
            errno: None,
            cause: cause.into(),
        }
    }

    /// A system call failed; the cause is the errno's text.
    pub fn io(step: &str, subject: impl Display, error: impl Into<std::io::Error>) -> StepError {
        let error = error.into();
        StepError {
            step: step.into(),
            subject: subject.to_string(),
            errno: error.raw_os_error(),
            cause: error.to_string(),
        }
    }
}

/// Names the step and subject of a failed call.
pub(crate) trait Context<T> {
    /// `step` is a verb phrase, `subject` what it was done to.
    fn context(self, step: &str, subject: impl Display) -> Result<T, StepError>;
}

impl<T, E: Into<std::io::Error>> Context<T> for Result<T, E> {
    fn context(self, step: &str, subject: impl Display) -> Result<T, StepError> {
        self.map_err(|error| StepError::io(step, subject, error))
    }
}
