//! How long to wait before the next attempt at one event: exponential with full jitter, never less than Nat.app's
//! `Retry-After`. The intervals are `backoff`'s (unmaintained, RUSTSEC-2025-0012; this file is all that uses it).

use std::time::Duration;

use backoff::backoff::Backoff;
use backoff::{ExponentialBackoff, ExponentialBackoffBuilder};

use crate::config;

/// The attempts at one event so far.
#[derive(Debug)]
pub struct Retries {
    intervals: ExponentialBackoff,
}

impl Retries {
    pub fn new(settings: &config::Retry) -> Retries {
        // With a randomization factor of one, `backoff` draws between nothing and twice the current interval: full
        // jitter below a ceiling that begins at `initial_interval` and ends at `max_interval`.
        let intervals = ExponentialBackoffBuilder::new()
            .with_initial_interval(settings.initial_interval / 2)
            .with_max_interval(settings.max_interval / 2)
            .with_multiplier(2.0)
            .with_randomization_factor(1.0)
            .with_max_elapsed_time(None)
            .build();
        Retries { intervals }
    }

    /// The wait before the next attempt.
    pub fn next_wait(&mut self, retry_after: Option<Duration>) -> Duration {
        let drawn = self.intervals.next_backoff().unwrap_or(self.intervals.max_interval);
        drawn.max(retry_after.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SETTINGS: config::Retry = config::Retry {
        initial_interval: Duration::from_millis(500),
        max_interval: Duration::from_secs(60),
        max_elapsed: Duration::from_secs(900),
    };

    proptest! {
        #[test]
        fn each_wait_is_below_its_ceiling_which_doubles_and_ends(attempts in 1usize..20) {
            let mut retries = Retries::new(&SETTINGS);
            let mut ceiling = SETTINGS.initial_interval;
            for _ in 0..attempts {
                let wait = retries.next_wait(None);
                prop_assert!(wait <= ceiling + Duration::from_millis(1), "{wait:?} of {ceiling:?}");
                ceiling = (ceiling * 2).min(SETTINGS.max_interval);
            }
        }

        #[test]
        fn retry_after_is_never_undercut(seconds in 0u64..600) {
            let wait = Retries::new(&SETTINGS).next_wait(Some(Duration::from_secs(seconds)));
            prop_assert!(wait >= Duration::from_secs(seconds));
        }
    }

    #[test]
    fn the_jitter_is_full() {
        let waits: Vec<_> = (0..2000).map(|_| Retries::new(&SETTINGS).next_wait(None)).collect();
        let shorter = waits.iter().filter(|wait| **wait < SETTINGS.initial_interval / 4).count();
        assert!((300..700).contains(&shorter), "a quarter of 2000 should be in the lowest quarter: {shorter}");
    }
}
