//! How far ahead the queue is read: until there is enough for the loop to choose from, not until the budget is full. What is
//! read further ahead has left the processor's caches when its turn comes: an event then costs a third more. Pure.
//!
//! What counts is what the loop can choose from: one event of each contact that could be sent now. Events behind another one
//! of their contact, and those that wait for their next attempt, are no choice: reading goes on past them, up to the budget.
//! While the circuit is open only good probes are: see `send::is_good_probe`.

/// How many contacts' events the loop wants to choose from.
pub fn enough(concurrency: usize) -> usize {
    (4 * concurrency).max(512)
}

/// What the consumer knows of the loop's stock.
#[derive(Debug)]
pub struct ReadAhead {
    enough: usize,
    /// Records handed to the loop, and how many of them it had taken when it last said so.
    handed: u64,
    taken: u64,
    /// How many it had to choose from then.
    choice: usize,
}

impl ReadAhead {
    pub fn new(concurrency: usize) -> ReadAhead {
        ReadAhead { enough: enough(concurrency), handed: 0, taken: 0, choice: 0 }
    }

    pub fn handed(&mut self, records: usize) {
        self.handed += records as u64;
    }

    pub fn told(&mut self, taken: u64, choice: usize) {
        (self.taken, self.choice) = (taken, choice);
    }

    /// How many records more the loop can do with. Of those under way each may be one to choose.
    pub fn wanted(&self) -> usize {
        let under_way = usize::try_from(self.handed.saturating_sub(self.taken)).unwrap_or(usize::MAX);
        self.enough.saturating_sub(self.choice.saturating_add(under_way))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn events_that_cannot_be_sent_now_are_no_reason_to_stop_reading() {
        let mut ahead = ReadAhead::new(64);
        ahead.handed(512);
        assert_eq!(ahead.wanted(), 0);
        ahead.told(512, 1); // All of one contact.
        assert_eq!(ahead.wanted(), 511);
    }

    proptest! {
        /// Whatever becomes of records and however late the loop tells, it never has more to choose from than enough, and
        /// once it has told with less, more is wanted.
        #[test]
        fn there_is_never_more_than_enough_and_reading_goes_on_when_there_is_less(
            steps in prop::collection::vec((0usize..300, 0usize..300, 0usize..300, any::<bool>()), 1..200),
        ) {
            let mut ahead = ReadAhead::new(1);
            let (mut under_way, mut taken, mut ready) = (0_usize, 0_u64, 0_usize);
            for (read, take, send, tells) in steps {
                let read = read.min(ahead.wanted());
                ahead.handed(read);
                under_way += read;
                let take = take.min(under_way);
                under_way -= take;
                taken += take as u64;
                ready += take;
                ready -= send.min(ready);
                if tells {
                    ahead.told(taken, ready);
                    prop_assert_eq!(ahead.wanted(), enough(1) - (ready + under_way).min(enough(1)));
                }
                prop_assert!(ready + under_way <= enough(1));
            }
        }
    }
}
