//! The budget: how much may be pending before reading pauses. It pauses at the limit and resumes at half of it, since
//! each pause throws away what the Kafka client had fetched ahead.

use crate::config::Limits;

#[derive(Debug)]
pub struct Budget {
    limits: Limits,
    events: usize,
    bytes: usize,
    paused: bool,
}

impl Budget {
    pub fn new(limits: Limits) -> Budget {
        Budget { limits, events: 0, bytes: 0, paused: false }
    }

    pub fn take(&mut self, events: usize, bytes: usize) {
        self.events += events;
        self.bytes += bytes;
    }

    pub fn give_back(&mut self, events: usize, bytes: usize) {
        self.events = self.events.saturating_sub(events);
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    /// Whether reading has to pause; changes at the limit and at half of it only.
    pub fn must_pause(&mut self) -> bool {
        let Limits { max_pending_events, max_pending_bytes } = self.limits;
        if self.paused {
            self.paused = self.events > max_pending_events / 2 || self.bytes > max_pending_bytes / 2;
        } else {
            self.paused = self.events >= max_pending_events || self.bytes >= max_pending_bytes;
        }
        self.paused
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

    proptest! {
        #[test]
        fn the_budget_returns_to_zero_and_reading_resumes(sizes in prop::collection::vec(1usize..500, 1..100)) {
            let mut budget = Budget::new(Limits { max_pending_events: 10, max_pending_bytes: 1000 });
            for size in &sizes {
                budget.take(1, *size);
                if budget.events() >= 10 || budget.bytes() >= 1000 {
                    prop_assert!(budget.must_pause());
                }
            }
            for size in &sizes {
                budget.give_back(1, *size);
            }
            prop_assert_eq!((budget.events(), budget.bytes()), (0, 0));
            prop_assert!(!budget.must_pause());
        }
    }

    #[test]
    fn reading_resumes_at_half_of_the_limit_and_not_before() {
        let mut budget = Budget::new(Limits { max_pending_events: 10, max_pending_bytes: 1000 });
        budget.take(10, 10);
        assert!(budget.must_pause());
        budget.give_back(4, 4);
        assert!(budget.must_pause());
        budget.give_back(1, 1);
        assert!(!budget.must_pause());
        budget.take(4, 4);
        assert!(!budget.must_pause());
    }
}
