//! The circuit breaker of the destination: closed, open, half-open. It opens when the fault is not the event's: Nat.app
//! refuses the key, is not at this address, or fails for everybody. While it is open nothing is sent but one probe at a
//! time, and no event's attempts are spent.

use std::time::{Duration, Instant};

use crate::config;
use crate::dedup::Contact;

/// Why the circuit is open: one vocabulary for metric, log and status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenReason {
    Unauthorized,
    EndpointNotFound,
    Unavailable,
}

impl OpenReason {
    pub const ALL: [OpenReason; 3] = [OpenReason::Unauthorized, OpenReason::EndpointNotFound, OpenReason::Unavailable];

    pub fn as_str(self) -> &'static str {
        match self {
            OpenReason::Unauthorized => "unauthorized",
            OpenReason::EndpointNotFound => "endpoint_not_found",
            OpenReason::Unavailable => "unavailable",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed,
    /// Until the next probe may go.
    Open {
        reason: OpenReason,
        until: Instant,
        interval: Duration,
    },
    /// The probe is on its way.
    HalfOpen {
        reason: OpenReason,
        interval: Duration,
    },
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

#[derive(Debug)]
pub struct Breaker {
    settings: config::Circuit,
    state: State,
    failures: u32,
    /// Whose failure began the row, and whether anybody else's followed.
    first_failed: Option<Contact>,
    several_failed: bool,
    opened_at: Option<Instant>,
    open_before: Duration,
}

impl Breaker {
    pub fn new(settings: config::Circuit) -> Breaker {
        Breaker {
            settings,
            state: State::Closed,
            failures: 0,
            first_failed: None,
            several_failed: false,
            opened_at: None,
            open_before: Duration::ZERO,
        }
    }

    pub fn permit(&self, now: Instant) -> Permit {
        match self.state {
            State::Closed => Permit::All,
            State::Open { until, .. } if now >= until => Permit::Probe,
            State::Open { .. } | State::HalfOpen { .. } => Permit::Nothing,
        }
    }

    /// The probe is on its way.
    pub fn probe_sent(&mut self) {
        if let State::Open { reason, interval, .. } = self.state {
            self.state = State::HalfOpen { reason, interval };
        }
    }

    /// Nat.app took or rejected an event: it is there. True if that closed the circuit.
    pub fn answered(&mut self, now: Instant) -> bool {
        self.failures = 0;
        self.first_failed = None;
        self.several_failed = false;
        if !matches!(self.state, State::HalfOpen { .. }) {
            return false;
        }
        self.state = State::Closed;
        if let Some(opened_at) = self.opened_at.take() {
            self.open_before += now.duration_since(opened_at);
        }
        true
    }

    /// A failure that may be retried, not before `retry_after` if Nat.app said so.
    pub fn failed(&mut self, contact: Contact, retry_after: Option<Duration>, now: Instant) {
        match self.state {
            State::Closed => {
                self.failures = self.failures.saturating_add(1);
                self.several_failed |= self.first_failed.is_some_and(|first| first != contact);
                self.first_failed.get_or_insert(contact);
                if self.several_failed && self.failures >= self.settings.failures {
                    self.open(OpenReason::Unavailable, retry_after, now);
                }
            }
            State::HalfOpen { reason, .. } => self.open(reason, retry_after, now),
            State::Open { .. } => {}
        }
    }

    /// Opens, or after a failed probe stays open for longer.
    pub fn open(&mut self, reason: OpenReason, retry_after: Option<Duration>, now: Instant) {
        let interval = match self.state {
            State::Closed => self.settings.probe_interval,
            State::HalfOpen { interval, .. } => (interval * 2).min(self.settings.max_probe_interval),
            State::Open { .. } => return,
        };
        self.opened_at.get_or_insert(now);
        let until = now + interval.max(retry_after.unwrap_or_default());
        self.state = State::Open { reason, until, interval };
    }

    pub fn open_reason(&self) -> Option<OpenReason> {
        match self.state {
            State::Closed => None,
            State::Open { reason, .. } | State::HalfOpen { reason, .. } => Some(reason),
        }
    }

    /// When the next probe may go.
    pub fn next_probe(&self) -> Option<Instant> {
        match self.state {
            State::Open { until, .. } => Some(until),
            _ => None,
        }
    }

    /// How long the circuit has been open in all: time that no event's patience is charged for.
    pub fn open_time(&self, now: Instant) -> Duration {
        self.open_before + self.opened_at.map_or(Duration::ZERO, |opened_at| now.duration_since(opened_at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn breaker() -> (Breaker, Instant) {
        let settings = config::Circuit { failures: 3, probe_interval: SECOND, max_probe_interval: 3 * SECOND };
        (Breaker::new(settings), Instant::now())
    }
    fn contact(n: u8) -> Contact {
        Contact([n; 16])
    }

    #[test]
    fn one_contacts_failures_never_open_the_circuit() {
        let (mut breaker, now) = breaker();
        (0..100).for_each(|_| breaker.failed(contact(1), None, now));
        assert_eq!(breaker.permit(now), Permit::All);
    }

    #[test]
    fn failures_in_a_row_across_contacts_open_it() {
        let (mut breaker, now) = breaker();
        breaker.failed(contact(1), None, now);
        breaker.failed(contact(2), None, now);
        breaker.answered(now);
        breaker.failed(contact(3), None, now);
        breaker.failed(contact(3), None, now);
        assert_eq!(breaker.open_reason(), None);
        breaker.failed(contact(1), None, now);
        assert_eq!(breaker.open_reason(), Some(OpenReason::Unavailable));
    }

    #[test]
    fn no_probe_goes_before_retry_after() {
        let (mut breaker, now) = breaker();
        (1..=3).for_each(|n| breaker.failed(contact(n), Some(60 * SECOND), now));
        assert_eq!(breaker.permit(now + 59 * SECOND), Permit::Nothing);
        assert_eq!(breaker.permit(now + 60 * SECOND), Permit::Probe);
    }

    #[test]
    fn while_open_one_probe_at_a_time_goes_and_each_failure_doubles_the_wait() {
        let (mut breaker, now) = breaker();
        breaker.open(OpenReason::Unauthorized, None, now);
        assert_eq!(breaker.permit(now), Permit::Nothing);
        let mut at = now + SECOND;
        for wait in [2, 3, 3] {
            assert_eq!(breaker.permit(at), Permit::Probe);
            breaker.probe_sent();
            assert_eq!(breaker.permit(at + 100 * SECOND), Permit::Nothing);
            breaker.open(OpenReason::Unauthorized, None, at);
            assert_eq!(breaker.permit(at + wait * SECOND - SECOND / 2), Permit::Nothing);
            at += wait * SECOND;
        }
        breaker.probe_sent();
        assert!(breaker.answered(at));
        assert_eq!(breaker.permit(at), Permit::All);
        assert_eq!(breaker.open_time(at + 50 * SECOND), at - now);
    }

    #[test]
    fn a_late_answer_to_an_earlier_request_does_not_close_it() {
        let (mut breaker, now) = breaker();
        breaker.open(OpenReason::EndpointNotFound, None, now);
        assert!(!breaker.answered(now));
        assert_eq!(breaker.open_reason(), Some(OpenReason::EndpointNotFound));
    }
}
