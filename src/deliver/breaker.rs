//! The circuit breaker of the destination: closed, open, half-open. It opens when the fault is not the event's: Nat.app
//! refuses the key, is not at this address, fails for everybody, or rejects most of what it is sent. While it is open
//! nothing is sent but one probe at a time, no event's attempts are spent and none becomes a dead letter.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::regulars::Regulars;
use crate::config;
use crate::dedup::Contact;

/// Why the circuit is open: one vocabulary for metric, log and status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenReason {
    Unauthorized,
    EndpointNotFound,
    Unavailable,
    Rejecting,
}

impl OpenReason {
    pub const ALL: [OpenReason; 4] =
        [OpenReason::Unauthorized, OpenReason::EndpointNotFound, OpenReason::Unavailable, OpenReason::Rejecting];

    pub fn as_str(self) -> &'static str {
        match self {
            OpenReason::Unauthorized => "unauthorized",
            OpenReason::EndpointNotFound => "endpoint_not_found",
            OpenReason::Unavailable => "unavailable",
            OpenReason::Rejecting => "rejecting",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed,
    Open(Open),
    /// The probe is on its way.
    HalfOpen(Open),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Open {
    reason: OpenReason,
    since: Instant,
    /// When the next probe may go.
    until: Instant,
    interval: Duration,
    /// It was rejections that opened it: only an accepted event closes it, whatever has failed since.
    guarded: bool,
}

/// What may be sent now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permit {
    All,
    /// One event, to see whether Nat.app is back.
    Probe,
    /// Not before the next probe is due, or the one on its way has come back.
    Nothing,
}

/// What an answer says about Nat.app, as opposed to the event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    Accepted,
    Rejected,
    /// Of an event that the open circuit had held, after it was answered. As a rule it has been counted: were it counted at each
    /// closing, those that were held would open the circuit again and again, however few they are among all events. If
    /// others are accepted now, its contact's next ones do not count either.
    RejectedAgain,
    /// Of a redriven event, which is known to have failed before: whoever redrives more of them than there are others must
    /// not open the circuit with it, nor keep it open.
    RejectedAsBefore,
    /// May be tried again, not before so long if Nat.app said so.
    Failed(Option<Duration>),
    Unauthorized,
    EndpointNotFound,
}

#[derive(Debug)]
pub struct Breaker {
    settings: config::Circuit,
    state: State,
    failures: Row,
    /// The last events answered for good, newest last: whose, where it was rejected.
    answered: VecDeque<Option<Contact>>,
    regulars: Regulars,
}

/// Failures in a row.
#[derive(Debug, Default)]
struct Row {
    length: u32,
    /// Whose failure began the row, and whether anybody else's followed.
    first: Option<Contact>,
    several: bool,
}

impl Row {
    fn add(&mut self, contact: Contact) {
        self.length = self.length.saturating_add(1);
        self.several |= self.first.is_some_and(|first| first != contact);
        self.first.get_or_insert(contact);
    }
}

impl Breaker {
    pub fn new(settings: config::Circuit) -> Breaker {
        Breaker {
            settings,
            state: State::Closed,
            failures: Row::default(),
            answered: VecDeque::new(),
            regulars: Regulars::default(),
        }
    }

    pub fn permit(&self, now: Instant) -> Permit {
        match self.state {
            State::Closed => Permit::All,
            State::Open(open) if now >= open.until => Permit::Probe,
            State::Open(_) | State::HalfOpen(_) => Permit::Nothing,
        }
    }

    /// The probe is on its way.
    pub fn probe_sent(&mut self) {
        if let State::Open(open) = self.state {
            self.state = State::HalfOpen(open);
        }
    }

    /// There is a new key: if it was the old one that opened it, nothing is to be waited for.
    pub fn key_changed(&mut self, now: Instant) {
        if let State::Open(open) = &mut self.state
            && open.reason == OpenReason::Unauthorized
        {
            open.until = now;
            open.interval = self.settings.probe_interval;
        }
    }

    /// The probe was not sent after all, or nobody waits for its answer any more: the next one may go.
    pub fn probe_dropped(&mut self) {
        if let State::HalfOpen(open) = self.state {
            self.state = State::Open(open);
        }
    }

    /// Takes in an answer. While it is open the probe's alone counts: a late answer to what was sent before it opened says
    /// nothing new.
    pub fn answered(&mut self, contact: Contact, signal: Signal, probe: bool, now: Instant) {
        if signal == Signal::Accepted {
            self.regulars.accepted(&contact);
        }
        match self.state {
            State::Closed => self.answered_while_closed(contact, signal, now),
            State::HalfOpen(open) if probe => self.probe_answered(open, signal, now),
            State::Open(_) | State::HalfOpen(_) => {}
        }
    }

    fn answered_while_closed(&mut self, contact: Contact, signal: Signal, now: Instant) {
        match signal {
            Signal::Accepted => {
                self.failures = Row::default();
                self.regulars.confirm_suspects();
                self.remember(None);
            }
            Signal::Rejected if self.counts(&contact) => {
                self.failures = Row::default();
                self.regulars.suspect(contact);
                self.remember(Some(contact));
                if self.most_are_rejected() {
                    self.open(OpenReason::Rejecting, None, now);
                }
            }
            Signal::RejectedAgain if self.counts(&contact) => {
                self.failures = Row::default();
                self.regulars.suspect(contact);
            }
            Signal::Rejected | Signal::RejectedAgain | Signal::RejectedAsBefore => self.failures = Row::default(),
            Signal::Failed(retry_after) => {
                self.failures.add(contact);
                if self.failures.several && self.failures.length >= self.settings.failures {
                    self.open(OpenReason::Unavailable, retry_after, now);
                }
            }
            Signal::Unauthorized => self.open(OpenReason::Unauthorized, None, now),
            Signal::EndpointNotFound => self.open(OpenReason::EndpointNotFound, None, now),
        }
    }

    fn probe_answered(&mut self, open: Open, signal: Signal, now: Instant) {
        let (reason, retry_after) = match signal {
            Signal::Accepted => return self.close(),
            Signal::Rejected | Signal::RejectedAgain | Signal::RejectedAsBefore if !open.guarded => {
                return self.close();
            }
            // It says nothing that was not known: the next one may go at once.
            Signal::RejectedAsBefore => {
                self.state = State::Open(Open { reason: OpenReason::Rejecting, until: now, ..open });
                return;
            }
            Signal::Rejected | Signal::RejectedAgain => (OpenReason::Rejecting, None),
            Signal::Failed(retry_after) => (OpenReason::Unavailable, retry_after),
            Signal::Unauthorized => (OpenReason::Unauthorized, None),
            Signal::EndpointNotFound => (OpenReason::EndpointNotFound, None),
        };
        let interval = (open.interval * 2).min(self.settings.max_probe_interval);
        let until = now + interval.max(retry_after.unwrap_or_default());
        self.state = State::Open(Open { reason, until, interval, ..open });
    }

    fn open(&mut self, reason: OpenReason, retry_after: Option<Duration>, now: Instant) {
        let interval = self.settings.probe_interval;
        let until = now + interval.max(retry_after.unwrap_or_default());
        let guarded = reason == OpenReason::Rejecting;
        self.state = State::Open(Open { reason, since: now, until, interval, guarded });
    }

    fn close(&mut self) {
        self.state = State::Closed;
        self.failures = Row::default();
        self.answered.clear();
        self.regulars.clear_suspects();
    }

    /// Whether a rejection of this contact's event says anything, to a guard that is on.
    fn counts(&self, contact: &Contact) -> bool {
        self.settings.rejections > 0 && !self.regulars.holds(contact)
    }

    fn remember(&mut self, rejected: Option<Contact>) {
        if self.answered.len() >= self.settings.rejections {
            self.answered.pop_front();
        }
        if self.settings.rejections > 0 {
            self.answered.push_back(rejected);
        }
    }

    /// More than half of the window is rejected, and not all of it one contact's.
    fn most_are_rejected(&self) -> bool {
        // The newest alone can have made it so.
        let Some(Some(newest)) = self.answered.back() else { return false };
        let mut rejected = 0;
        let mut several = false;
        for contact in self.answered.iter().flatten() {
            rejected += 1;
            several |= contact != newest;
        }
        several && rejected > self.settings.rejections / 2
    }

    /// Why it is open, and since when.
    pub fn is_open(&self) -> Option<(OpenReason, Instant)> {
        match self.state {
            State::Closed => None,
            State::Open(open) | State::HalfOpen(open) => Some((open.reason, open.since)),
        }
    }

    /// When the next probe may go.
    pub fn next_probe(&self) -> Option<Instant> {
        match self.state {
            State::Open(open) => Some(open.until),
            State::Closed | State::HalfOpen(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn breaker() -> (Breaker, Instant) {
        let settings =
            config::Circuit { failures: 3, rejections: 4, probe_interval: SECOND, max_probe_interval: 3 * SECOND };
        (Breaker::new(settings), Instant::now())
    }
    fn contact(n: u8) -> Contact {
        Contact([n; 16])
    }
    fn reason(breaker: &Breaker) -> Option<OpenReason> {
        breaker.is_open().map(|(reason, _)| reason)
    }

    #[test]
    fn one_contacts_failures_never_open_the_circuit() {
        let (mut breaker, now) = breaker();
        for signal in [Signal::Failed(None), Signal::Rejected] {
            (0..100).for_each(|_| breaker.answered(contact(1), signal, false, now));
            assert_eq!(breaker.permit(now), Permit::All);
        }
    }

    #[test]
    fn a_rejection_counts_once() {
        let (mut breaker, now) = breaker();
        (1..=100).for_each(|n| breaker.answered(contact(n), Signal::RejectedAgain, false, now));
        assert_eq!(breaker.permit(now), Permit::All);
    }

    #[test]
    fn contacts_that_are_rejected_while_others_are_accepted_count_once_until_they_are_accepted() {
        let (mut breaker, now) = breaker();
        let take = |breaker: &mut Breaker, who, signal| breaker.answered(contact(who), signal, false, now);
        (1..=10).for_each(|n| {
            take(&mut breaker, n, Signal::Rejected);
            take(&mut breaker, 100 + n, Signal::Accepted);
        });
        (0..10).for_each(|_| (1..=10).for_each(|n| take(&mut breaker, n, Signal::Rejected)));
        assert_eq!(reason(&breaker), None, "hardly anything else is sent any more, and nothing is wrong with Nat.app");
        (1..=3).for_each(|n| take(&mut breaker, n, Signal::Accepted));
        (1..=2).for_each(|n| take(&mut breaker, n, Signal::Rejected));
        assert_eq!(reason(&breaker), None);
        take(&mut breaker, 3, Signal::Rejected);
        assert_eq!(reason(&breaker), Some(OpenReason::Rejecting), "they had been accepted");
    }

    #[test]
    fn contacts_that_the_open_circuit_held_and_that_are_rejected_again_after_it_count_no_more() {
        let (mut breaker, mut now) = breaker();
        (1..=3).for_each(|n| breaker.answered(contact(n), Signal::Rejected, false, now));
        assert_eq!(reason(&breaker), Some(OpenReason::Rejecting));
        now += SECOND;
        breaker.probe_sent();
        breaker.answered(contact(9), Signal::Accepted, true, now);
        (1..=3).for_each(|n| breaker.answered(contact(n), Signal::RejectedAgain, false, now));
        breaker.answered(contact(8), Signal::Accepted, false, now);
        (0..10).for_each(|_| (1..=3).for_each(|n| breaker.answered(contact(n), Signal::Rejected, false, now)));
        assert_eq!(reason(&breaker), None, "others were accepted meanwhile");
    }

    #[test]
    fn a_mass_rejection_opens_it_each_time_however_few_contacts_there_are() {
        let (mut breaker, mut now) = breaker();
        for _ in 0..5 {
            for n in [1, 1, 2] {
                assert_eq!(reason(&breaker), None);
                breaker.answered(contact(n), Signal::Rejected, false, now);
            }
            assert_eq!(reason(&breaker), Some(OpenReason::Rejecting), "nobody else was accepted meanwhile");
            now += SECOND;
            breaker.probe_sent();
            breaker.answered(contact(3), Signal::Accepted, true, now);
        }
    }

    #[test]
    fn without_the_guard_nobody_is_remembered() {
        let (breaker, now) = breaker();
        let mut breaker = Breaker::new(config::Circuit { rejections: 0, ..breaker.settings });
        (0..100).for_each(|n| breaker.answered(contact(n), Signal::Rejected, false, now));
        assert!(!breaker.regulars.has_suspects() && breaker.permit(now) == Permit::All);
    }

    #[test]
    fn a_redriven_event_that_is_rejected_as_before_neither_opens_it_nor_makes_the_next_probe_wait() {
        let (mut breaker, now) = breaker();
        (1..=100).for_each(|n| breaker.answered(contact(n), Signal::RejectedAsBefore, false, now));
        assert_eq!(breaker.permit(now), Permit::All);
        (1..=4).for_each(|n| breaker.answered(contact(n), Signal::Rejected, false, now));
        assert_eq!(reason(&breaker), Some(OpenReason::Rejecting));
        let due = now + SECOND;
        for n in 1..=100 {
            assert_eq!(breaker.permit(due), Permit::Probe);
            breaker.probe_sent();
            breaker.answered(contact(n), Signal::RejectedAsBefore, true, due);
        }
        assert_eq!(reason(&breaker), Some(OpenReason::Rejecting));
        breaker.probe_sent();
        breaker.answered(contact(1), Signal::Rejected, true, due);
        assert_eq!(breaker.next_probe(), Some(due + 2 * SECOND), "doubled once, by the one that says something new");
    }

    #[test]
    fn failures_in_a_row_across_contacts_open_it() {
        let (mut breaker, now) = breaker();
        let failed = Signal::Failed(None);
        breaker.answered(contact(1), failed, false, now);
        breaker.answered(contact(2), failed, false, now);
        breaker.answered(contact(2), Signal::Accepted, false, now);
        breaker.answered(contact(3), failed, false, now);
        breaker.answered(contact(3), failed, false, now);
        assert_eq!(reason(&breaker), None);
        breaker.answered(contact(1), failed, false, now);
        assert_eq!(reason(&breaker), Some(OpenReason::Unavailable));
    }

    #[test]
    fn rejections_of_most_events_open_it_and_only_an_accepted_event_closes_it() {
        let (mut breaker, mut now) = breaker();
        let mut answers = [Signal::Rejected, Signal::Accepted, Signal::Rejected, Signal::Accepted].into_iter().cycle();
        (0..40).for_each(|n| breaker.answered(contact(n), answers.next().expect("endless"), false, now));
        assert_eq!(reason(&breaker), None, "half of them is not most of them");
        breaker.answered(contact(101), Signal::Rejected, false, now);
        breaker.answered(contact(102), Signal::Rejected, false, now);
        assert_eq!(reason(&breaker), Some(OpenReason::Rejecting));
        for (signal, then) in [
            (Signal::Rejected, Some(OpenReason::Rejecting)),
            (Signal::Failed(None), Some(OpenReason::Unavailable)),
            (Signal::Rejected, Some(OpenReason::Rejecting)),
            (Signal::Accepted, None),
        ] {
            now += 3 * SECOND;
            assert_eq!(breaker.permit(now), Permit::Probe);
            breaker.probe_sent();
            breaker.answered(contact(1), signal, true, now);
            assert_eq!(reason(&breaker), then, "after {signal:?}");
        }
        breaker.answered(contact(1), Signal::Rejected, false, now);
        assert_eq!(reason(&breaker), None, "the window begins anew");
    }

    #[test]
    fn no_probe_goes_before_retry_after() {
        let (mut breaker, now) = breaker();
        (1..=3).for_each(|n| breaker.answered(contact(n), Signal::Failed(Some(60 * SECOND)), false, now));
        assert_eq!(breaker.permit(now + 59 * SECOND), Permit::Nothing);
        assert_eq!(breaker.permit(now + 60 * SECOND), Permit::Probe);
    }

    #[test]
    fn a_new_key_is_probed_at_once_if_it_was_the_old_one_that_opened_the_circuit() {
        for (signal, permit) in [(Signal::Unauthorized, Permit::Probe), (Signal::EndpointNotFound, Permit::Nothing)] {
            let (mut breaker, now) = breaker();
            breaker.answered(contact(1), signal, false, now);
            assert_eq!(breaker.permit(now), Permit::Nothing);
            breaker.key_changed(now);
            assert_eq!(breaker.permit(now), permit, "{signal:?}");
        }
    }

    #[test]
    fn while_open_one_probe_at_a_time_goes_and_each_failure_doubles_the_wait() {
        let (mut breaker, now) = breaker();
        breaker.answered(contact(1), Signal::Unauthorized, false, now);
        assert_eq!(breaker.permit(now), Permit::Nothing);
        let mut at = now + SECOND;
        for wait in [2, 3, 3] {
            assert_eq!(breaker.permit(at), Permit::Probe);
            breaker.probe_sent();
            assert_eq!(breaker.permit(at + 100 * SECOND), Permit::Nothing);
            breaker.answered(contact(1), Signal::Unauthorized, true, at);
            assert_eq!(breaker.permit(at + wait * SECOND - SECOND / 2), Permit::Nothing);
            at += wait * SECOND;
        }
        breaker.probe_sent();
        breaker.answered(contact(1), Signal::Accepted, true, at);
        assert_eq!(breaker.permit(at), Permit::All);
    }

    /// The model: a plain account of what the rules say, over any run of answers.
    #[derive(Debug, Default)]
    struct Model {
        open: Option<OpenReason>,
        guarded: bool,
        half_open: bool,
        failed: Vec<u8>,
        window: Vec<Option<u8>>,
        /// Rejected since the last event was accepted; and those rejected before, and not accepted since.
        suspects: HashSet<u8>,
        regulars: HashSet<u8>,
    }

    impl Model {
        fn take(&mut self, who: u8, signal: Signal, probe: bool) {
            if signal == Signal::Accepted {
                self.suspects.remove(&who);
                self.regulars.remove(&who);
            }
            if self.open.is_some() && !(probe && self.half_open) {
                return;
            }
            let was_open = self.open.is_some();
            self.half_open = false;
            let next = match signal {
                Signal::Unauthorized => Some(OpenReason::Unauthorized),
                Signal::EndpointNotFound => Some(OpenReason::EndpointNotFound),
                Signal::Failed(_) if was_open => Some(OpenReason::Unavailable),
                Signal::Failed(_) => {
                    self.failed.push(who);
                    let several = self.failed.iter().any(|other| *other != self.failed[0]);
                    (several && self.failed.len() >= 3).then_some(OpenReason::Unavailable)
                }
                Signal::Rejected | Signal::RejectedAgain | Signal::RejectedAsBefore if was_open => {
                    self.guarded.then_some(OpenReason::Rejecting)
                }
                Signal::Accepted if was_open => None,
                Signal::RejectedAsBefore => {
                    self.failed.clear();
                    None
                }
                Signal::Rejected | Signal::RejectedAgain if self.regulars.contains(&who) => {
                    self.failed.clear();
                    None
                }
                Signal::RejectedAgain => {
                    self.failed.clear();
                    self.suspects.insert(who);
                    None
                }
                Signal::Accepted | Signal::Rejected => {
                    self.failed.clear();
                    match signal {
                        Signal::Accepted => self.regulars.extend(self.suspects.drain()),
                        _ => drop(self.suspects.insert(who)),
                    }
                    self.window.push((signal == Signal::Rejected).then_some(who));
                    let last = &self.window[self.window.len().saturating_sub(4)..];
                    let rejected: Vec<u8> = last.iter().flatten().copied().collect();
                    let several = rejected.iter().any(|other| *other != rejected[0]);
                    (signal == Signal::Rejected && several && rejected.len() > 2).then_some(OpenReason::Rejecting)
                }
            };
            if was_open && next.is_none() {
                *self = Model { regulars: std::mem::take(&mut self.regulars), ..Model::default() };
            }
            self.guarded |= !was_open && next == Some(OpenReason::Rejecting);
            self.open = next;
        }
    }

    fn signal() -> impl Strategy<Value = Signal> {
        prop_oneof![
            4 => Just(Signal::Accepted),
            4 => Just(Signal::Rejected),
            2 => Just(Signal::RejectedAgain),
            2 => Just(Signal::RejectedAsBefore),
            4 => (0u64..10).prop_map(|s| Signal::Failed((s > 5).then(|| s * SECOND.as_secs()).map(Duration::from_secs))),
            1 => Just(Signal::Unauthorized),
            1 => Just(Signal::EndpointNotFound),
        ]
    }

    proptest! {
        #[test]
        fn it_does_what_the_model_says_whatever_comes_back(
            steps in prop::collection::vec((0u8..4, signal(), any::<bool>(), 0u64..5000), 1..300),
        ) {
            let (mut breaker, mut now) = breaker();
            let mut model = Model::default();
            for (who, signal, late, pause) in steps {
                now += Duration::from_millis(pause);
                match breaker.permit(now) {
                    Permit::All => prop_assert_eq!(model.open, None),
                    Permit::Probe => {
                        prop_assert!(model.open.is_some() && !model.half_open);
                        breaker.probe_sent();
                        model.half_open = true;
                        prop_assert_eq!(breaker.permit(now), Permit::Nothing, "one probe at a time");
                    }
                    Permit::Nothing => prop_assert!(model.open.is_some()),
                }
                let probe = model.half_open && !late;
                breaker.answered(contact(who), signal, probe, now);
                model.take(who, signal, probe);
                prop_assert_eq!(reason(&breaker), model.open);
                if let Some(until) = breaker.next_probe() {
                    prop_assert!(until <= now + 10 * SECOND, "a probe is always due");
                }
            }
        }
    }
}
