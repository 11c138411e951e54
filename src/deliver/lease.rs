//! The lease: for how long this instance may take its partitions for its own. A group puts a member out that it has not heard
//! of for its session, and gives the partitions to others; the member may not know, being cut off or stopped. So the
//! consumer proves its membership to the coordinator now and then (a commit, which only a member's generation may make), and
//! from the moment it *began* to ask, half a session is certain. Outside of that nothing is sent and nothing is written.
//!
//! librdkafka keeps such a clock of its own, but not by the new consumer protocol, and it stops no answer that came just before.

use std::time::{Duration, Instant};

#[derive(Debug)]
pub struct Lease {
    length: Duration,
    /// When the question that was answered last was asked.
    proved: Option<Instant>,
    asked: Option<Instant>,
}

impl Lease {
    /// `session`: after what silence the group puts a member out.
    pub fn new(session: Duration) -> Lease {
        // Its last heartbeat may be a third of a session older than the proof; the rest is margin.
        Lease { length: session / 2, proved: None, asked: None }
    }

    /// Until when it holds.
    pub fn until(&self) -> Option<Instant> {
        self.proved.map(|proved| proved + self.length)
    }

    pub fn holds(&self, now: Instant) -> bool {
        self.until().is_some_and(|until| now < until)
    }

    /// True if the consumer has to be asked now.
    pub fn ask(&mut self, now: Instant) -> bool {
        let due = self.proved.is_none_or(|proved| now >= proved + self.length / 3);
        let ask = due && self.asked.is_none();
        if ask {
            self.asked = Some(now);
        }
        ask
    }

    /// The consumer has proved it.
    pub fn proved(&mut self) {
        if let Some(asked) = self.asked.take() {
            self.proved = Some(asked);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SESSION: Duration = Duration::from_secs(45);

    proptest! {
        /// However late answers come and whenever the process stands still.
        #[test]
        fn it_holds_for_half_a_session_after_a_question_that_was_answered_and_never_longer(
            steps in prop::collection::vec((0u64..60_000, any::<bool>()), 1..100),
        ) {
            let start = Instant::now();
            let (mut lease, mut now) = (Lease::new(SESSION), start);
            let (mut asked, mut answered) = (None, None);
            for (millis, answer) in steps {
                now += Duration::from_millis(millis);
                let certain = answered.is_some_and(|asked| now < asked + SESSION / 2);
                prop_assert_eq!(lease.holds(now), certain);
                if lease.ask(now) {
                    prop_assert!(asked.is_none(), "one question at a time");
                    asked = Some(now);
                }
                if answer {
                    lease.proved();
                    answered = asked.take().or(answered);
                }
            }
        }
    }

    #[test]
    fn it_is_asked_for_long_before_it_ends() {
        let start = Instant::now();
        let mut lease = Lease::new(SESSION);
        assert!(!lease.holds(start) && lease.ask(start) && !lease.ask(start));
        lease.proved();
        assert!(!lease.ask(start + SESSION / 7) && lease.ask(start + SESSION / 6));
        assert!(lease.holds(start + SESSION / 3));
    }
}
