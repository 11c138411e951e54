//! One event on its way to Nat.app: what is sent, what it is compared by, and the attempts made so far.

use std::time::{Duration, Instant};

use bytes::Bytes;
use jiff::Timestamp;

use super::feed::QueueRecord;
use super::retry::Retries;
use crate::config;
use crate::dead_letter::Attempts;
use crate::dedup::{Contact, DedupKey};
use crate::nat::Answer;
use crate::segment::{self, Filtered, Identify, Invalid, Rules};

pub struct Event {
    pub record: QueueRecord,
    pub contact: Contact,
    pub key: DedupKey,
    pub body: Bytes,
    pub idempotency_key: String,
    tries: Option<Tries>,
}

/// What was tried before.
struct Tries {
    attempts: Attempts,
    first: Instant,
    /// How long the circuit had been open in all when the first attempt was made.
    open_at_first: Duration,
    retries: Retries,
}

/// What a queue record holds.
pub enum Read {
    Event(Box<Event>),
    Filtered(Filtered),
    Invalid(QueueRecord, Invalid),
}

/// Reads a queue record by the very rules that ingest went by.
pub fn read(record: QueueRecord, rules: &Rules, now: Timestamp) -> Read {
    let Some(value) = record.value.as_deref() else {
        return Read::Filtered(Filtered::Tombstone);
    };
    match segment::classify(rules, value, now) {
        segment::Outcome::Identify(identify) => {
            let parts = prepare(&identify, value, rules);
            let (contact, key, body, idempotency_key) = parts;
            Read::Event(Box::new(Event { contact, key, body, idempotency_key, tries: None, record }))
        }
        segment::Outcome::Filtered(reason) => Read::Filtered(reason),
        segment::Outcome::Invalid { reason, .. } => Read::Invalid(record, reason),
    }
}

fn prepare(identify: &Identify<'_>, value: &[u8], rules: &Rules) -> (Contact, DedupKey, Bytes, String) {
    let key = DedupKey::of(identify, rules.engage);
    let body = Bytes::from(crate::nat::body(identify));
    (Contact::of(&identify.email), key, body, crate::nat::idempotency_key(&key, value))
}

impl Event {
    /// Takes in an attempt that failed: how long to wait before the next, or `None` if patience is over.
    pub fn failed(
        &mut self,
        answer: Answer,
        retry_after: Option<Duration>,
        sent: Instant,
        open_time: Duration,
        settings: &config::Retry,
    ) -> Option<Duration> {
        let (now, wall) = (Instant::now(), Timestamp::now().as_millisecond());
        let tries = self.tries.get_or_insert_with(|| Tries {
            attempts: Attempts {
                count: 0,
                first: wall - (now - sent).as_millis() as i64,
                last: wall,
                answer: answer.clone(),
            },
            first: sent,
            open_at_first: open_time,
            retries: Retries::new(settings),
        });
        tries.attempts.count += 1;
        tries.attempts.last = wall;
        tries.attempts.answer = answer;
        let open_since = open_time.saturating_sub(tries.open_at_first);
        let elapsed = (now - tries.first).saturating_sub(open_since);
        let remaining = settings.max_elapsed.checked_sub(elapsed).filter(|remaining| !remaining.is_zero())?;
        let wait = tries.retries.next_wait(retry_after);
        // The last attempt is made when patience ends, not given up before; Retry-After is not cut.
        Some(wait.min(remaining).max(retry_after.unwrap_or_default()))
    }

    /// All attempts, with the one just answered.
    pub fn attempts(&mut self, answer: Answer, sent: Instant) -> Attempts {
        let wall = Timestamp::now().as_millisecond();
        let first = wall - sent.elapsed().as_millis() as i64;
        match self.tries.take() {
            Some(tries) => Attempts { count: tries.attempts.count + 1, last: wall, answer, ..tries.attempts },
            None => Attempts { count: 1, first, last: wall, answer },
        }
    }

    /// The attempts that exhausted its patience.
    pub fn exhausted(&mut self) -> Option<Attempts> {
        self.tries.take().map(|tries| tries.attempts)
    }
}
