//! `--user UID[:GID]`, read strictly: a parser that takes what it does not understand for 0 makes root
//! (CVE-2026-30892).

use std::str::FromStr;

use crate::StepError;

/// Who an exec runs as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExecUser {
    /// User id.
    pub uid: u32,
    /// Group id; the container's own if not said.
    pub gid: Option<u32>,
}

impl FromStr for ExecUser {
    type Err = StepError;

    fn from_str(text: &str) -> Result<ExecUser, StepError> {
        let parsed = match text.split_once(':') {
            Some((uid, gid)) => number(uid).zip(number(gid).map(Some)),
            None => number(text).map(|uid| (uid, None)),
        };
        let (uid, gid) = parsed.ok_or_else(|| {
            let cause = "it must read UID or UID:GID, each a number from 0 to 4294967294";
            StepError::refused("read user", format!("{text:?}"), cause)
        })?;
        Ok(ExecUser { uid, gid })
    }
}

/// Digits and nothing else. The highest number means "leave as it is" to setresuid(2).
pub(super) fn number(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits
        .then(|| text.parse().ok())
        .flatten()
        .filter(|number| *number != u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_user_is_a_number_or_two() {
        let read = |text: &str| {
            text.parse::<ExecUser>()
                .ok()
                .map(|user| (user.uid, user.gid))
        };
        assert_eq!(read("1"), Some((1, None)));
        assert_eq!(read("1000:7"), Some((1000, Some(7))));
        assert_eq!(read("4294967294:0"), Some((u32::MAX - 1, Some(0))));
        for bad in [
            "",
            ":",
            "1:",
            ":1",
            "1:2:3",
            "+1",
            "-1",
            " 1",
            "1 ",
            "1\n",
            "0x1",
            "1e3",
            "root",
            "1:root",
            "4294967295",
            "4294967296",
            "1:4294967295",
            "99999999999999999999",
            "١",
            "1.0",
        ] {
            assert_eq!(read(bad), None, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_read_is_what_was_written(text in "[0-9:+ -]{0,24}|\\PC{0,16}") {
            if let Ok(user) = text.parse::<ExecUser>() {
                let gid = user.gid.map(|gid| format!(":{gid}")).unwrap_or_default();
                let trimmed = |part: &str| match part.trim_start_matches('0') { "" => "0".to_owned(), rest => rest.to_owned() };
                let canonical: Vec<String> = text.split(':').map(trimmed).collect();
                prop_assert_eq!(format!("{}{gid}", user.uid), canonical.join(":"));
            }
        }
    }
}
