//! What a container may be called.

use crate::StepError;

/// The OCI text leaves the characters open; these are the ones that are safe in a path, in a cgroup's name
/// and on a screen.
pub(crate) fn check_id(id: &str) -> Result<(), StepError> {
    let safe = |byte: u8| byte.is_ascii_alphanumeric() || b"_+-.".contains(&byte);
    let good = !id.is_empty() && id.len() <= 255 && !id.starts_with('.') && id.bytes().all(safe);
    if good {
        return Ok(());
    }
    Err(StepError::refused(
        "name container",
        format!("{id:?}"),
        "an id is 1 to 255 of A-Z a-z 0-9 _ + - . and begins with no dot",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_cannot_be_paths() {
        for bad in [
            "",
            ".",
            "..",
            "a/b",
            "a\0",
            "a b",
            ".hidden",
            &"x".repeat(256),
        ] {
            assert!(check_id(bad).is_err(), "{bad:?}");
        }
        assert!(check_id("task-1_web.2+x").is_ok());
    }
}
