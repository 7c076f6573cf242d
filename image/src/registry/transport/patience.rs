//! How long we wait: for a busy registry, and before we ask again.

use std::time::Duration;

use http::header::{self, HeaderMap};
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimeParser;

/// How often a request is sent to a registry that is busy.
pub(super) const ATTEMPTS: u32 = 4;
/// How often a connection is tried that does not come about or breaks before the answer.
pub(super) const CONNECTIONS: u32 = 3;
/// A registry that wants us to wait longer than this is reported as busy instead.
pub(super) const RETRY_AFTER_MAX: Duration = Duration::from_secs(30);

/// What a Retry-After header asks for (RFC 9110, section 10.2.3): seconds, or a date.
pub(super) fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let value = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = DateTimeParser::new().parse_timestamp(value).ok()?;
    // A date that has passed means now.
    Some(until.duration_since(now).try_into().unwrap_or_default())
}

/// 0.5 s, 1 s, 2 s, each up to a quarter longer, so that many hosts do not come back at once.
pub(super) fn backoff(attempt: u32) -> Duration {
    let base = Duration::from_millis(500) * 2u32.pow(attempt.clamp(1, 6) - 1);
    let jitter = crate::store::random_bytes()[0];
    base + base * u32::from(jitter) / 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_grows_and_stays_bounded() {
        for attempt in 1..ATTEMPTS {
            let base = Duration::from_millis(250 << attempt);
            let wait = backoff(attempt);
            assert!(
                wait >= base && wait <= base + base / 4,
                "{attempt}: {wait:?}"
            );
        }
    }

    #[test]
    fn seconds_and_dates_are_read() {
        let now: Timestamp = "2026-11-23T12:00:00Z".parse().unwrap();
        let read = |value: &str| {
            let headers = [(header::RETRY_AFTER, value.parse().unwrap())];
            retry_after(&headers.into_iter().collect(), now)
        };
        assert_eq!(read("7"), Some(Duration::from_secs(7)));
        assert_eq!(
            read("Mon, 23 Nov 2026 12:00:09 GMT"),
            Some(Duration::from_secs(9))
        );
        assert_eq!(read("Mon, 23 Nov 2026 11:00:00 GMT"), Some(Duration::ZERO));
        for none in ["", "-1", "soon", "1.5"] {
            assert_eq!(read(none), None, "{none}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }
}
