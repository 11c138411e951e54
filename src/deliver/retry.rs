//! How long to wait before the next attempt at one event: exponential with full jitter, never less than Nat.app's
//! `Retry-After`. The intervals are `backoff`'s (unmaintained, RUSTSEC-2025-0012; this file is all that uses it). And when
//! to give up: when the patience spent on the event, over all restarts, reaches `retry.max_elapsed`.

use std::time::{Duration, Instant};

use backoff::backoff::Backoff;
use backoff::{ExponentialBackoff, ExponentialBackoffBuilder};

use crate::config;
use crate::dedup::Tried;

/// The attempts at one event so far. Times of day are Unix milliseconds; `clock` is the reading of the patience clock,
/// which stands still while nothing may be sent.
#[derive(Debug)]
pub struct Tries {
    pub attempts: u32,
    pub first: i64,
    pub last: i64,
    /// Patience spent before this process took the event up.
    spent_before: Duration,
    /// The clock at its first attempt by this process.
    since: Option<Duration>,
    intervals: Intervals,
}

/// A failed attempt.
#[derive(Debug, Clone, Copy)]
pub struct FailedAttempt {
    pub sent: i64,
    pub now: i64,
    /// The patience clock when it was sent, and now.
    pub clock_sent: Duration,
    pub clock: Duration,
    pub retry_after: Option<Duration>,
}

impl Tries {
    pub fn none(settings: &config::Retry) -> Tries {
        let intervals = Intervals::new(settings);
        Tries { attempts: 0, first: 0, last: 0, spent_before: Duration::ZERO, since: None, intervals }
    }

    /// Goes on where another process, or this one at another time, left off.
    pub fn resumed(tried: &Tried, settings: &config::Retry) -> Tries {
        let mut intervals = Intervals::new(settings);
        // More would not make the interval longer.
        for _ in 0..tried.attempts.min(64) {
            intervals.next_wait();
        }
        let spent_before = Duration::from_millis(tried.spent);
        let Tried { attempts, first, last, .. } = *tried;
        Tries { attempts, first, last, spent_before, since: None, intervals }
    }

    /// Takes in one more attempt, whatever came of it.
    pub fn count(&mut self, sent: i64, now: i64) {
        if self.attempts == 0 {
            self.first = sent;
        }
        self.attempts = self.attempts.saturating_add(1);
        self.last = now;
    }

    /// Takes in an attempt that failed: how long to wait before the next, or `None` if patience is over.
    pub fn failed(&mut self, attempt: &FailedAttempt, settings: &config::Retry) -> Option<Duration> {
        self.count(attempt.sent, attempt.now);
        self.since.get_or_insert(attempt.clock_sent);
        let left = settings.max_elapsed.checked_sub(self.spent(attempt.clock)).filter(|left| !left.is_zero())?;
        // The last attempt is made when patience ends, not given up before; Retry-After is not cut.
        Some(self.intervals.next_wait().min(left).max(attempt.retry_after.unwrap_or_default()))
    }

    fn spent(&self, clock: Duration) -> Duration {
        self.spent_before + self.since.map_or(Duration::ZERO, |since| clock.saturating_sub(since))
    }

    /// What a restart has to know.
    pub fn tried(&self, queue_offset: i64, clock: Duration) -> Tried {
        let spent = u64::try_from(self.spent(clock).as_millis()).unwrap_or(u64::MAX);
        Tried { queue_offset, attempts: self.attempts, first: self.first, last: self.last, spent }
    }
}

/// Time that events are charged for: it stands still while the circuit is open, or Nat.app said not to come back yet.
#[derive(Debug)]
pub struct PatienceClock {
    reading: Duration,
    last: Instant,
    running: bool,
}

impl PatienceClock {
    pub fn new(now: Instant) -> PatienceClock {
        PatienceClock { reading: Duration::ZERO, last: now, running: true }
    }

    /// From now on it runs, or stands still.
    pub fn set(&mut self, running: bool, now: Instant) {
        self.reading = self.at(now);
        self.last = now;
        self.running = running;
    }

    pub fn at(&self, now: Instant) -> Duration {
        let passed = if self.running { now.saturating_duration_since(self.last) } else { Duration::ZERO };
        self.reading + passed
    }
}

/// The waits between attempts.
#[derive(Debug)]
struct Intervals {
    intervals: ExponentialBackoff,
}

impl Intervals {
    fn new(settings: &config::Retry) -> Intervals {
        // With a randomization factor of one, `backoff` draws between nothing and twice the current interval: full
        // jitter below a ceiling that begins at `initial_interval` and ends at `max_interval`.
        let intervals = ExponentialBackoffBuilder::new()
            .with_initial_interval(settings.initial_interval / 2)
            .with_max_interval(settings.max_interval / 2)
            .with_multiplier(2.0)
            .with_randomization_factor(1.0)
            .with_max_elapsed_time(None)
            .build();
        Intervals { intervals }
    }

    fn next_wait(&mut self) -> Duration {
        self.intervals.next_backoff().unwrap_or(self.intervals.max_interval)
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

    fn attempt(clock: Duration, retry_after: Option<Duration>) -> FailedAttempt {
        FailedAttempt { sent: 0, now: 0, clock_sent: clock, clock, retry_after }
    }

    proptest! {
        #[test]
        fn each_wait_is_below_its_ceiling_which_doubles_and_ends(attempts in 1usize..20) {
            let mut intervals = Intervals::new(&SETTINGS);
            let mut ceiling = SETTINGS.initial_interval;
            for _ in 0..attempts {
                let wait = intervals.next_wait();
                prop_assert!(wait <= ceiling + Duration::from_millis(1), "{wait:?} of {ceiling:?}");
                ceiling = (ceiling * 2).min(SETTINGS.max_interval);
            }
        }

        #[test]
        fn retry_after_is_never_undercut(seconds in 0u64..6000) {
            let retry_after = Duration::from_secs(seconds);
            let wait = Tries::none(&SETTINGS).failed(&attempt(Duration::ZERO, Some(retry_after)), &SETTINGS);
            prop_assert!(wait >= Some(retry_after));
        }

        /// Whenever it crashes: what is recorded after each attempt is all that is left, and the clock begins anew.
        #[test]
        fn patience_ends_over_any_number_of_restarts(
            crashes in prop::collection::vec(any::<bool>(), 1..200),
            took in 0u64..5000,
        ) {
            let took = Duration::from_millis(took);
            let (mut tries, mut clock, mut active) = (Tries::none(&SETTINGS), Duration::ZERO, Duration::ZERO);
            for crash in crashes.into_iter().cycle().take(2000) {
                let sent = clock;
                clock += took;
                active += took;
                let failed = FailedAttempt { sent: 5, now: 6, clock_sent: sent, clock, retry_after: None };
                let Some(wait) = tries.failed(&failed, &SETTINGS) else {
                    prop_assert!(active >= SETTINGS.max_elapsed, "given up after {active:?}");
                    return Ok(());
                };
                prop_assert!(active < SETTINGS.max_elapsed + took, "still tried after {active:?}");
                if crash {
                    // The wait itself is forgotten.
                    tries = Tries::resumed(&tries.tried(3, clock), &SETTINGS);
                    clock = Duration::ZERO;
                } else {
                    clock += wait;
                    active += wait;
                }
            }
            // Attempts that take no time at all and crash each time spend no patience; nothing real is like that.
            prop_assert!(took < Duration::from_millis(500), "never given up, spent {active:?}");
        }
    }

    #[test]
    fn the_patience_clock_stands_still_while_nothing_may_be_sent() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut clock = PatienceClock::new(start);
        clock.set(true, after(5));
        clock.set(false, after(10));
        assert_eq!(clock.at(after(3600)), Duration::from_secs(10));
        clock.set(false, after(3600));
        clock.set(true, after(7200));
        assert_eq!(clock.at(after(7205)), Duration::from_secs(15));
    }

    #[test]
    fn the_jitter_is_full() {
        let waits: Vec<_> = (0..2000).map(|_| Intervals::new(&SETTINGS).next_wait()).collect();
        let shorter = waits.iter().filter(|wait| **wait < SETTINGS.initial_interval / 4).count();
        assert!((300..700).contains(&shorter), "a quarter of 2000 should be in the lowest quarter: {shorter}");
    }

    #[test]
    fn what_was_tried_before_a_restart_counts() {
        let mut tries = Tries::none(&SETTINGS);
        assert!(tries.failed(&attempt(Duration::ZERO, None), &SETTINGS).is_some());
        assert!(tries.failed(&attempt(Duration::from_secs(600), None), &SETTINGS).is_some());
        let tried = tries.tried(7, Duration::from_secs(600));
        assert_eq!((tried.attempts, tried.spent), (2, 600_000));
        let mut resumed = Tries::resumed(&tried, &SETTINGS);
        assert!(resumed.failed(&attempt(Duration::from_secs(5), None), &SETTINGS).is_some());
        assert!(resumed.failed(&attempt(Duration::from_secs(304), None), &SETTINGS).is_some());
        assert!(resumed.failed(&attempt(Duration::from_secs(305), None), &SETTINGS).is_none());
        assert_eq!(resumed.attempts, 5);
    }
}
