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
pub(in crate::registry) fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let value = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = DateTimeParser::new().parse_timestamp(value).ok()?;
    // A date that has passed means now.
    Some(until.duration_since(now).try_into().unwrap_or_default())
}

/// A time between nothing and 0.5 s, 1 s, 2 s and so on up to 16 s, any as likely as the others: many hosts that met the
/// same fault at once come back spread over all of it.
pub(in crate::registry) fn backoff(attempt: u32) -> Duration {
    share_of(Duration::from_millis(500) * 2u32.pow(attempt.clamp(1, 6) - 1))
}

/// What a busy registry asked for, and up to a quarter more: it asked everybody.
pub(in crate::registry) fn no_sooner_than(asked: Duration) -> Duration {
    asked.saturating_add(share_of(asked / 4))
}

fn share_of(most: Duration) -> Duration {
    let [one, two, three, four, ..] = crate::store::random_bytes();
    let random = u32::from_le_bytes([one, two, three, four]);
    most.mul_f64(f64::from(random) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_spread_over_all_of_a_growing_and_bounded_time() {
        for attempt in [1, 2, 3, 6, 100] {
            let most = Duration::from_millis(250 << attempt.min(6));
            let waits: Vec<Duration> = (0..200).map(|_| backoff(attempt)).collect();
            assert!(
                waits.iter().all(|wait| *wait <= most),
                "{attempt}: {waits:?}"
            );
            // Of 200 that are spread evenly some are in the first quarter and some in the last.
            assert!(waits.iter().any(|wait| *wait < most / 4), "{attempt}");
            assert!(waits.iter().any(|wait| *wait > most / 4 * 3), "{attempt}");
        }
        let asked = Duration::from_secs(8);
        let wait = no_sooner_than(asked);
        assert!(wait >= asked && wait <= asked + asked / 4, "{wait:?}");
        // Whatever a registry says.
        for seconds in [u64::MAX, u64::MAX / 4 * 3] {
            assert!(no_sooner_than(Duration::from_secs(seconds)) >= Duration::from_secs(seconds));
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
