//! A bad day, reproducibly: what fails is a function of the seed, the event and the attempt, never of the time or of
//! the order in which requests happen to come in. Only the rate limit follows the clock, as a rate must.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// A number in [0, 1), the same for the same arguments.
pub(super) fn draw(seed: u64, what: &str, key: &[u8], attempt: u32) -> f64 {
    let mut hash = mix(seed ^ 0x9e37_79b9_7f4a_7c15);
    for byte in what.bytes().chain(attempt.to_le_bytes()).chain(key.iter().copied()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    // The upper 53 bits are what an f64 holds exactly.
    (mix(hash) >> 11) as f64 / (1u64 << 53) as f64
}

/// The end of splitmix64: every bit of the input moves every bit of the output.
fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// How often each event has been tried. In shards, so that connections rarely wait for each other.
#[derive(Default)]
pub(super) struct Attempts([Mutex<HashMap<u64, u32>>; 16]);

impl Attempts {
    /// 0 the first time.
    pub fn next(&self, key: &[u8]) -> u32 {
        let hash = key.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        let hash = mix(hash);
        let shard = &self.0[(hash >> 60) as usize];
        let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
        let count = shard.entry(hash).or_default();
        *count += 1;
        *count - 1
    }
}

/// A token bucket that holds a second's worth and starts full.
#[derive(Default)]
pub(super) struct Bucket(Mutex<Option<(Instant, f64)>>);

impl Bucket {
    pub fn take(&self, limit: u32) -> bool {
        self.take_at(limit, Instant::now())
    }

    fn take_at(&self, limit: u32, now: Instant) -> bool {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let full = f64::from(limit);
        let tokens = match *state {
            Some((last, tokens)) => (tokens + now.saturating_duration_since(last).as_secs_f64() * full).min(full),
            None => full,
        };
        let taken = tokens >= 1.0;
        *state = Some((now, if taken { tokens - 1.0 } else { tokens }));
        taken
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_share_is_met() {
        let hits = (0..100_000u32).filter(|n| draw(7, "reject", &n.to_le_bytes(), 0) < 0.2).count();
        assert!((19_000..21_000).contains(&hits), "{hits}");
    }

    #[test]
    fn another_seed_or_attempt_is_another_draw() {
        let first = draw(1, "attempt", b"key", 0);
        assert_eq!(first, draw(1, "attempt", b"key", 0));
        assert_ne!(first, draw(2, "attempt", b"key", 0));
        assert_ne!(first, draw(1, "attempt", b"key", 1));
    }

    #[test]
    fn attempts_are_counted_per_event() {
        let attempts = Attempts::default();
        assert_eq!([attempts.next(b"a"), attempts.next(b"a"), attempts.next(b"b")], [0, 1, 0]);
    }

    #[test]
    fn the_bucket_gives_its_rate_and_no_more() {
        let bucket = Bucket::default();
        let start = Instant::now();
        let taken = (0..10_000).filter(|ms| bucket.take_at(50, start + Duration::from_millis(*ms))).count();
        // Ten seconds at 50 a second and the 50 it starts with.
        assert!((548..=550).contains(&taken), "{taken}");
    }
}
