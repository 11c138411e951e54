//! The ledger of one partition: which offsets are charged and not completed. What may be committed is the frontier,
//! the first offset that is not settled, never the highest one. Used by both stages.

use std::collections::VecDeque;

/// Offsets charged and completed.
#[derive(Debug)]
pub struct Ledger {
    /// By offset. The first one is open; of those behind it that are settled there are never many more than open ones.
    charged: VecDeque<Charged>,
    /// How many of them are open.
    open: usize,
    /// One past the highest offset seen.
    next: i64,
    /// Timestamp of the last record that came, Unix milliseconds.
    last_timestamp: i64,
}

#[derive(Debug)]
struct Charged {
    offset: i64,
    timestamp: i64,
    /// Still open; none: settled.
    parts: u32,
}

impl Ledger {
    /// `next`: the offset that will be read first. `now` stands in for a timestamp until a record comes.
    pub fn new(next: i64, now: i64) -> Ledger {
        Ledger { charged: VecDeque::new(), open: 0, next, last_timestamp: now }
    }

    /// Takes in a record that needs `parts` completions; with none it is settled at once. One that is charged again, or after
    /// later ones, holds the frontier like any other.
    pub fn charge(&mut self, offset: i64, parts: u32, timestamp: i64) {
        if parts > 0 {
            let record = Charged { offset, timestamp, parts };
            match self.charged.back() {
                Some(last) if last.offset >= offset => self.insert(record),
                _ => self.charged.push_back(record),
            }
            self.open += 1;
        }
        self.next = self.next.max(offset + 1);
        self.last_timestamp = timestamp;
    }

    /// Before this offset nothing will come any more.
    pub fn pass_to(&mut self, first: i64) {
        self.next = self.next.max(first);
    }

    /// One part of the record is done. Completing what is not open does nothing.
    pub fn complete(&mut self, offset: i64) {
        let Some(record) = self.find(offset).filter(|record| record.parts > 0) else { return };
        record.parts -= 1;
        if record.parts == 0 {
            self.open -= 1;
            self.forget_settled();
        }
    }

    /// Kafka gives a partition's records in order, so that this is for what should not happen.
    fn insert(&mut self, record: Charged) {
        match self.charged.binary_search_by_key(&record.offset, |charged| charged.offset) {
            Ok(at) => {
                self.open -= usize::from(self.charged[at].parts > 0);
                self.charged[at] = record;
            }
            Err(at) => self.charged.insert(at, record),
        }
    }

    fn find(&mut self, offset: i64) -> Option<&mut Charged> {
        // Right at once where no offsets are left out, which is nearly always.
        let guess = usize::try_from(offset - self.charged.front()?.offset).ok()?;
        let at = match self.charged.get(guess) {
            Some(record) if record.offset == offset => guess,
            _ => self.charged.binary_search_by_key(&offset, |record| record.offset).ok()?,
        };
        self.charged.get_mut(at)
    }

    fn forget_settled(&mut self) {
        const FEW: usize = 1024;
        while self.charged.front().is_some_and(|first| first.parts == 0) {
            self.charged.pop_front();
        }
        // One that waits for hours must not keep all that have passed it.
        if self.charged.len() > 2 * self.open + FEW {
            self.charged.retain(|record| record.parts > 0);
        }
    }

    /// The offset to commit: the next one to read after a restart.
    pub fn frontier(&self) -> i64 {
        self.charged.front().map_or(self.next, |first| first.offset)
    }

    /// One past the highest offset that came.
    pub fn next(&self) -> i64 {
        self.next
    }

    /// Records that are not settled.
    pub fn open(&self) -> usize {
        self.open
    }

    /// Timestamp of the oldest record that is not settled, or of the last one that came; Unix milliseconds.
    pub fn oldest_timestamp(&self) -> i64 {
        self.charged.front().map_or(self.last_timestamp, |first| first.timestamp)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_hole_holds_the_frontier() {
        let mut ledger = Ledger::new(0, 0);
        for offset in 5..9 {
            ledger.charge(offset, 1, 0);
        }
        ledger.complete(7);
        ledger.complete(5);
        assert_eq!(ledger.frontier(), 6);
        ledger.complete(6);
        assert_eq!(ledger.frontier(), 8);
    }

    #[test]
    fn a_batch_is_settled_with_its_last_item() {
        let mut ledger = Ledger::new(0, 0);
        ledger.charge(3, 2, 0);
        ledger.charge(4, 0, 0);
        ledger.complete(3);
        assert_eq!(ledger.frontier(), 3);
        ledger.complete(3);
        assert_eq!(ledger.frontier(), 5);
    }

    #[test]
    fn what_is_gone_is_passed_once_all_before_it_is_settled() {
        let mut ledger = Ledger::new(0, 0);
        ledger.charge(3, 1, 0);
        ledger.pass_to(60);
        assert_eq!(ledger.frontier(), 3);
        ledger.complete(3);
        ledger.pass_to(50);
        assert_eq!(ledger.frontier(), 60);
    }

    #[test]
    fn a_record_that_comes_again_or_late_holds_the_frontier() {
        let mut ledger = Ledger::new(0, 0);
        for offset in [5, 7, 5, 7, 6] {
            ledger.charge(offset, 1, 0);
        }
        assert_eq!((ledger.frontier(), ledger.open()), (5, 3));
        ledger.complete(5);
        ledger.complete(7);
        assert_eq!((ledger.frontier(), ledger.open()), (6, 1));
        ledger.charge(7, 1, 0);
        ledger.complete(6);
        assert_eq!((ledger.frontier(), ledger.open()), (7, 1));
        ledger.complete(7);
        assert_eq!((ledger.frontier(), ledger.open()), (8, 0));
    }

    #[test]
    fn one_that_waits_does_not_keep_all_that_pass_it() {
        let mut ledger = Ledger::new(0, 0);
        ledger.charge(0, 1, 0);
        for offset in 1..1_000_000 {
            ledger.charge(offset, 1, 0);
            ledger.complete(offset);
        }
        assert!(ledger.charged.capacity() < 10_000, "{}", ledger.charged.capacity());
        assert_eq!((ledger.frontier(), ledger.open()), (0, 1));
        ledger.complete(0);
        assert_eq!((ledger.frontier(), ledger.open()), (1_000_000, 0));
    }

    proptest! {
        #[test]
        fn the_frontier_is_contiguous_under_any_order_of_completion(
            parts in prop::collection::vec(0u32..3, 1..60),
            distance in 1..4_i64,
            seed: u64,
        ) {
            let mut ledger = Ledger::new(0, 0);
            let mut todo = Vec::new();
            for (offset, parts) in parts.iter().enumerate() {
                ledger.charge(offset as i64 * distance, *parts, 0);
                todo.extend(std::iter::repeat_n(offset, *parts as usize));
            }
            fastrand::Rng::with_seed(seed).shuffle(&mut todo);
            let mut left = parts.clone();
            for offset in todo {
                let first_open = left.iter().position(|parts| *parts > 0).unwrap_or(parts.len());
                prop_assert_eq!(ledger.frontier(), first_open as i64 * distance);
                prop_assert_eq!(ledger.open(), left.iter().filter(|parts| **parts > 0).count());
                ledger.complete(offset as i64 * distance);
                left[offset] -= 1;
            }
            prop_assert_eq!(ledger.frontier(), (parts.len() as i64 - 1) * distance + 1);
            prop_assert_eq!(ledger.open(), 0);
            // Nothing more to complete: nothing happens.
            ledger.complete(0);
            prop_assert_eq!(ledger.open(), 0);
        }
    }
}
