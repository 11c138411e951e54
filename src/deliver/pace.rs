//! How fast to send: the most requests in flight, which adapts to Nat.app's answers below a ceiling; the rate limit of
//! the configuration; and the time before which Nat.app said not to come back. Pure; the clock is passed in.
//!
//! The limit moves as TCP's window does: it begins low and doubles with each round of answers, until the first sign of
//! overload halves it; from there on it grows by one a round. So an outage's end is no stampede.

use std::time::{Duration, Instant};

/// Where the limit begins, and begins again after the circuit was open.
const START: f64 = 4.0;
/// A loop that was held up sends what it is behind by, up to this much.
const CATCH_UP: Duration = Duration::from_millis(10);

#[derive(Debug)]
pub struct Pace {
    ceiling: f64,
    limit: f64,
    /// Below this the limit doubles each round, above it grows by one.
    threshold: f64,
    last_cut: Option<Instant>,
    /// Between two requests, by the rate limit.
    spacing: Option<Duration>,
    next_slot: Option<Instant>,
    held_until: Option<Instant>,
}

impl Pace {
    /// `ceiling`: the most requests in flight. `rate_limit`: requests a second, 0 for no limit.
    pub fn new(ceiling: usize, rate_limit: u32) -> Pace {
        let ceiling = ceiling.max(1) as f64;
        Pace {
            ceiling,
            limit: START.min(ceiling),
            threshold: ceiling,
            last_cut: None,
            spacing: spacing(rate_limit),
            next_slot: None,
            held_until: None,
        }
    }

    /// Another rate limit from now on: the next request waits as long as the new one says.
    pub fn set_rate_limit(&mut self, rate_limit: u32, now: Instant) {
        self.spacing = spacing(rate_limit);
        self.next_slot = self.spacing.and_then(|spacing| Some(self.next_slot?.min(now + spacing)));
    }

    /// The most requests in flight at the moment.
    pub fn limit(&self) -> usize {
        self.limit as usize
    }

    pub fn may_send(&self, in_flight: usize, now: Instant) -> bool {
        in_flight < self.limit() && self.next_send().is_none_or(|at| now >= at)
    }

    /// Before when nothing is sent, whatever is in flight.
    pub fn next_send(&self) -> Option<Instant> {
        self.next_slot.max(self.held_until)
    }

    /// Until when Nat.app said not to come back, if that is still to come.
    pub fn held_until(&self, now: Instant) -> Option<Instant> {
        self.held_until.filter(|until| now < *until)
    }

    pub fn sent(&mut self, now: Instant) {
        if let Some(spacing) = self.spacing {
            let due = self.next_slot.unwrap_or(now).max(now.checked_sub(CATCH_UP).unwrap_or(now));
            self.next_slot = Some(due + spacing);
        }
    }

    /// An answer that is no sign of overload. `in_flight`: how many there were with it. A limit that was not in use has
    /// not been tested, and does not grow.
    pub fn answered(&mut self, in_flight: usize) {
        if (in_flight as f64) * 2.0 < self.limit {
            return;
        }
        let step = if self.limit < self.threshold { 1.0 } else { 1.0 / self.limit };
        self.limit = (self.limit + step).min(self.ceiling);
    }

    /// A sign of overload, on a request that was sent at `sent`. Those that were on their way together cut once.
    pub fn overloaded(&mut self, sent: Instant, now: Instant) {
        if self.last_cut.is_none_or(|cut| sent >= cut) {
            self.last_cut = Some(now);
            self.limit = (self.limit / 2.0).max(1.0);
            self.threshold = self.limit;
        }
    }

    /// Nat.app says when to come back: nobody comes before.
    pub fn hold(&mut self, until: Instant) {
        self.held_until = self.held_until.max(Some(until));
    }

    /// The circuit has opened: what was known of Nat.app's strength is old by the time that it closes.
    pub fn start_again(&mut self) {
        self.threshold = (self.limit / 2.0).max(START.min(self.ceiling));
        self.limit = START.min(self.ceiling);
    }
}

fn spacing(rate_limit: u32) -> Option<Duration> {
    (rate_limit > 0).then(|| Duration::from_secs(1) / rate_limit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: Duration = Duration::from_millis(1);

    #[derive(Debug, Clone, Copy)]
    enum Step {
        Send,
        Answer,
        Overload,
        Hold(u64),
        StartAgain,
        Wait(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            20 => Just(Step::Send),
            12 => Just(Step::Answer),
            2 => Just(Step::Overload),
            1 => (0u64..300).prop_map(Step::Hold),
            1 => Just(Step::StartAgain),
            8 => (0u64..40).prop_map(Step::Wait),
        ]
    }

    proptest! {
        #[test]
        fn the_ceiling_the_rate_and_the_hold_are_kept_whatever_happens(
            ceiling in 1usize..300,
            rate in 0u32..500,
            steps in prop::collection::vec(step(), 1..400),
        ) {
            let mut now = Instant::now();
            let mut pace = Pace::new(ceiling, rate);
            let (mut in_flight, mut sent_at, mut held_until) = (0, Vec::new(), now);
            for step in steps {
                match step {
                    Step::Send => while pace.may_send(in_flight, now) {
                        prop_assert!(now >= held_until, "sent while held");
                        pace.sent(now);
                        sent_at.push(now);
                        in_flight += 1;
                        prop_assert!(in_flight <= ceiling);
                    },
                    Step::Answer if in_flight > 0 => {
                        pace.answered(in_flight);
                        in_flight -= 1;
                    }
                    Step::Overload if in_flight > 0 => {
                        pace.overloaded(now, now);
                        in_flight -= 1;
                    }
                    Step::Hold(millis) => {
                        pace.hold(now + millis as u32 * MS);
                        held_until = held_until.max(now + millis as u32 * MS);
                    }
                    Step::StartAgain => pace.start_again(),
                    Step::Wait(millis) => now += millis as u32 * MS,
                    Step::Answer | Step::Overload => {}
                }
                prop_assert!((1..=ceiling).contains(&pace.limit()));
            }
            if rate > 0 {
                // In any span: its length times the rate, what may be caught up, and the one that begins it.
                for (first, begin) in sent_at.iter().enumerate() {
                    for (last, end) in sent_at.iter().enumerate().skip(first) {
                        let most = (*end - *begin + CATCH_UP).as_secs_f64() * f64::from(rate) + 1.0;
                        prop_assert!((last - first + 1) as f64 <= most + 1e-6, "{} in {:?}", last - first + 1, *end - *begin);
                    }
                }
            }
        }
    }

    #[test]
    fn it_doubles_each_round_until_the_first_overload_and_then_grows_by_one() {
        let now = Instant::now();
        let mut pace = Pace::new(1000, 0);
        let round = |pace: &mut Pace| {
            let limit = pace.limit();
            (0..limit).for_each(|_| pace.answered(limit));
            pace.limit()
        };
        assert_eq!([round(&mut pace), round(&mut pace), round(&mut pace)], [8, 16, 32]);
        pace.overloaded(now, now);
        assert_eq!(pace.limit(), 16);
        assert_eq!([round(&mut pace), round(&mut pace)], [16, 17]);
    }

    #[test]
    fn a_burst_of_overload_cuts_once() {
        let now = Instant::now();
        let mut pace = Pace::new(64, 0);
        (0..60).for_each(|_| pace.answered(64));
        (0..64).for_each(|_| pace.overloaded(now, now + MS));
        assert_eq!(pace.limit(), 32);
        pace.overloaded(now + 2 * MS, now + 3 * MS);
        assert_eq!(pace.limit(), 16);
    }

    #[test]
    fn after_an_open_circuit_it_begins_low_again() {
        let mut pace = Pace::new(64, 0);
        (0..60).for_each(|_| pace.answered(64));
        assert_eq!(pace.limit(), 64);
        pace.start_again();
        assert_eq!(pace.limit(), 4);
    }

    #[test]
    fn the_rate_is_reached_by_a_loop_that_wakes_late() {
        let (start, mut sent) = (Instant::now(), 0);
        let mut pace = Pace::new(1000, 200);
        // It looks every 7 ms, where requests are 5 ms apart.
        for turn in 0..1000 {
            let now = start + turn * 7 * MS;
            while pace.may_send(0, now) {
                pace.sent(now);
                sent += 1;
            }
        }
        assert!((1395..=1403).contains(&sent), "7 s at 200 a second: {sent}");
    }

    #[test]
    fn an_idle_limit_does_not_grow() {
        let mut pace = Pace::new(64, 0);
        (0..100).for_each(|_| pace.answered(1));
        assert_eq!(pace.limit(), 4);
    }

    #[test]
    fn another_rate_limit_holds_from_the_next_request_on() {
        let start = Instant::now();
        let mut pace = Pace::new(1000, 1);
        pace.sent(start);
        assert!(!pace.may_send(0, start + 900 * MS), "one a second");
        pace.set_rate_limit(100, start);
        assert!(!pace.may_send(0, start + 9 * MS) && pace.may_send(0, start + 10 * MS), "a hundred a second");
        pace.set_rate_limit(0, start);
        assert!(pace.may_send(0, start), "no limit");
        pace.set_rate_limit(1, start);
        pace.sent(start);
        assert!(!pace.may_send(0, start + 900 * MS), "one a second again");
    }
}
