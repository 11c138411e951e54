//! The ledger of one partition: which offsets are charged and not completed. What may be committed is the frontier,
//! the first offset that is not settled, never the highest one. Used by both stages.

use std::collections::BTreeMap;

/// Offsets charged and completed. Memory is that of the open ones only.
#[derive(Debug)]
pub struct Ledger {
    /// Offset → (parts still open, timestamp of the record).
    open: BTreeMap<i64, (u32, i64)>,
    /// One past the highest offset seen.
    next: i64,
    /// Timestamp of the last record that came, Unix milliseconds.
    last_timestamp: i64,
}

impl Ledger {
    /// `next`: the offset that will be read first. `now` stands in for a timestamp until a record comes.
    pub fn new(next: i64, now: i64) -> Ledger {
        Ledger { open: BTreeMap::new(), next, last_timestamp: now }
    }

    /// Takes in a record that needs `parts` completions; with none it is settled at once.
    pub fn charge(&mut self, offset: i64, parts: u32, timestamp: i64) {
        if parts > 0 {
            self.open.insert(offset, (parts, timestamp));
        }
        self.next = self.next.max(offset + 1);
        self.last_timestamp = timestamp;
    }

    /// One part of the record is done. Completing what is not open does nothing.
    pub fn complete(&mut self, offset: i64) {
        if let Some((parts, _)) = self.open.get_mut(&offset) {
            *parts -= 1;
            if *parts == 0 {
                self.open.remove(&offset);
            }
        }
    }

    /// The offset to commit: the next one to read after a restart.
    pub fn frontier(&self) -> i64 {
        self.open.first_key_value().map_or(self.next, |(offset, _)| *offset)
    }

    /// One past the highest offset that came.
    pub fn next(&self) -> i64 {
        self.next
    }

    /// Records that are not settled.
    pub fn open(&self) -> usize {
        self.open.len()
    }

    /// Timestamp of the oldest record that is not settled, or of the last one that came; Unix milliseconds.
    pub fn oldest_timestamp(&self) -> i64 {
        self.open.first_key_value().map_or(self.last_timestamp, |(_, (_, timestamp))| *timestamp)
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

    proptest! {
        #[test]
        fn the_frontier_is_contiguous_under_any_order_of_completion(
            parts in prop::collection::vec(0u32..3, 1..60),
            seed: u64,
        ) {
            let mut ledger = Ledger::new(0, 0);
            let mut todo = Vec::new();
            for (offset, parts) in parts.iter().enumerate() {
                ledger.charge(offset as i64, *parts, 0);
                todo.extend(std::iter::repeat_n(offset, *parts as usize));
            }
            fastrand::Rng::with_seed(seed).shuffle(&mut todo);
            let mut left = parts.clone();
            for offset in todo {
                let first_open = left.iter().position(|parts| *parts > 0).unwrap_or(parts.len());
                prop_assert_eq!(ledger.frontier(), first_open as i64);
                ledger.complete(offset as i64);
                left[offset] -= 1;
            }
            prop_assert_eq!(ledger.frontier(), parts.len() as i64);
            prop_assert_eq!(ledger.open(), 0);
        }
    }
}
