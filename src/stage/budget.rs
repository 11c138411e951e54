//! The budget: how much may be pending before reading pauses. It ends at the limit and goes on at half of it.
//!
//! A pause of the Kafka client throws away what it has fetched ahead, to fetch it again. So nothing more is taken for a moment
//! first: as a rule that is enough.

use std::time::{Duration, Instant};

use crate::config::Limits;

/// How long nothing is taken before the client is paused. Meanwhile nobody listens to the group either.
const HOLD_BACK: Duration = Duration::from_millis(500);

/// What the reader has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Intake {
    Read,
    /// Take nothing, and do not pause.
    HoldBack,
    Pause,
}

#[derive(Debug)]
pub struct Budget {
    limits: Limits,
    events: usize,
    bytes: usize,
    full: bool,
    full_since: Option<Instant>,
}

impl Budget {
    pub fn new(limits: Limits) -> Budget {
        Budget { limits, events: 0, bytes: 0, full: false, full_since: None }
    }

    pub fn take(&mut self, events: usize, bytes: usize) {
        self.events += events;
        self.bytes += bytes;
    }

    pub fn give_back(&mut self, events: usize, bytes: usize) {
        self.events = self.events.saturating_sub(events);
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    /// Whether nothing more may be taken; changes at the limit and at half of it only.
    pub fn is_full(&mut self) -> bool {
        let Limits { max_pending_events, max_pending_bytes } = self.limits;
        self.full = if self.full {
            self.events > max_pending_events / 2 || self.bytes > max_pending_bytes / 2
        } else {
            self.events >= max_pending_events || self.bytes >= max_pending_bytes
        };
        self.full
    }

    pub fn intake(&mut self, now: Instant) -> Intake {
        if !self.is_full() {
            self.full_since = None;
            return Intake::Read;
        }
        let since = *self.full_since.get_or_insert(now);
        if now.saturating_duration_since(since) < HOLD_BACK { Intake::HoldBack } else { Intake::Pause }
    }

    pub fn events(&self) -> usize {
        self.events
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_pause_comes_after_a_moment_without_taking_anything() {
        let mut budget = Budget::new(Limits { max_pending_events: 10, max_pending_bytes: 1000 });
        let now = Instant::now();
        budget.take(10, 0);
        assert_eq!(budget.intake(now), Intake::HoldBack);
        assert_eq!(budget.intake(now + HOLD_BACK), Intake::Pause);
        budget.give_back(5, 0);
        assert_eq!(budget.intake(now + HOLD_BACK), Intake::Read);
        budget.take(5, 0);
        assert_eq!(budget.intake(now + 2 * HOLD_BACK), Intake::HoldBack, "a new moment");
    }

    proptest! {
        #[test]
        fn the_budget_returns_to_zero_and_reading_resumes(sizes in prop::collection::vec(1usize..500, 1..100)) {
            let mut budget = Budget::new(Limits { max_pending_events: 10, max_pending_bytes: 1000 });
            for size in &sizes {
                budget.take(1, *size);
                if budget.events() >= 10 || budget.bytes() >= 1000 {
                    prop_assert!(budget.is_full());
                }
            }
            for size in &sizes {
                budget.give_back(1, *size);
            }
            prop_assert_eq!((budget.events(), budget.bytes()), (0, 0));
            prop_assert!(!budget.is_full());
        }
    }

    #[test]
    fn reading_resumes_at_half_of_the_limit_and_not_before() {
        let mut budget = Budget::new(Limits { max_pending_events: 10, max_pending_bytes: 1000 });
        budget.take(10, 10);
        assert!(budget.is_full());
        budget.give_back(4, 4);
        assert!(budget.is_full());
        budget.give_back(1, 1);
        assert!(!budget.is_full());
        budget.take(4, 4);
        assert!(!budget.is_full());
    }
}
