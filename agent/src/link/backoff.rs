//! How long to wait before the next try: full jitter, so that a fleet does not come back in step.

use std::time::Duration;

use rustix::rand::{GetRandomFlags, getrandom};

const FIRST: Duration = Duration::from_millis(250);
const MOST: Duration = Duration::from_secs(30);
/// A session this long was a good one.
const GOOD: Duration = Duration::from_secs(60);
/// A control plane that asks for a reconnect sooner than this is treated as failing.
const TOO_SOON: Duration = Duration::from_secs(10);

/// Counts tries in vain.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

/// How a try ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// It failed, or the session broke, after this time of session.
    Broken(Duration),
    /// The control plane asked for a reconnect, after this time of session.
    Asked(Duration),
}

impl Backoff {
    /// The longest wait before the next try.
    pub(super) fn bound(&mut self, ended: Ended) -> Duration {
        match ended {
            Ended::Asked(after) if after >= TOO_SOON => {
                self.failures = 0;
                return Duration::ZERO;
            }
            Ended::Broken(after) | Ended::Asked(after) if after >= GOOD => self.failures = 0,
            Ended::Broken(_) | Ended::Asked(_) => {}
        }
        let bound = FIRST.saturating_mul(2u32.saturating_pow(self.failures));
        self.failures = self.failures.saturating_add(1);
        bound.min(MOST)
    }
}

/// A random time up to `bound`.
pub(super) fn jitter(bound: Duration) -> Duration {
    let mut bytes = [0; 4];
    // Without random numbers the full wait is the safe one.
    match getrandom(&mut bytes, GetRandomFlags::empty()) {
        Ok(4) => bound.mul_f64(f64::from(u32::from_ne_bytes(bytes)) / f64::from(u32::MAX)),
        _ => bound,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_to_thirty_seconds_and_a_good_session_resets_them() {
        let mut backoff = Backoff::default();
        let broken = Ended::Broken(Duration::ZERO);
        let bounds: Vec<u128> = (0..9).map(|_| backoff.bound(broken).as_millis()).collect();
        assert_eq!(
            bounds,
            [250, 500, 1000, 2000, 4000, 8000, 16000, 30000, 30000]
        );
        assert_eq!(backoff.bound(Ended::Broken(GOOD)), FIRST);
    }

    #[test]
    fn only_an_asked_reconnect_is_at_once_and_not_from_a_server_that_asks_all_the_time() {
        let mut backoff = Backoff::default();
        assert_eq!(backoff.bound(Ended::Asked(TOO_SOON)), Duration::ZERO);
        assert_eq!(backoff.bound(Ended::Asked(Duration::ZERO)), FIRST);
        assert_eq!(backoff.bound(Ended::Asked(Duration::ZERO)), FIRST * 2);
    }

    #[test]
    fn jitter_stays_below_its_bound() {
        for _ in 0..100 {
            assert!(jitter(FIRST) <= FIRST);
        }
        assert_eq!(jitter(Duration::ZERO), Duration::ZERO);
    }
}
