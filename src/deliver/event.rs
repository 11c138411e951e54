//! One event on its way to Nat.app: what is sent, what it is compared by, and the attempts made so far.

use std::time::{Duration, Instant};

use bytes::Bytes;
use jiff::Timestamp;

use super::feed::QueueRecord;
use super::retry::Retries;
use crate::config;
use crate::dead_letter::{Attempts, Origin};
use crate::dedup::{Contact, DedupKey, Kind, Place};
use crate::nat::{self, Answer};
use crate::segment::{self, Filtered, Invalid, Rules};

pub struct Event {
    pub record: QueueRecord,
    pub contact: Contact,
    pub key: DedupKey,
    /// Where it came from; told for Engage events only, which nobody else asks.
    pub place: Place,
    /// The source record's, Unix milliseconds.
    pub source_timestamp: i64,
    pub body: Bytes,
    pub idempotency_key: String,
    tries: Option<Tries>,
}

/// What was tried before.
struct Tries {
    attempts: Attempts,
    first: Instant,
    /// How long the circuit had been open in all when the first attempt had failed.
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
            let key = DedupKey::of(&identify, rules.engage);
            let (place, source_timestamp) = match key.kind {
                Kind::Engage { .. } => place_of(&record),
                Kind::Visit => (Place::default(), 0),
            };
            let contact = Contact::of(&identify.email);
            let body = Bytes::from(nat::body(&identify));
            let idempotency_key = nat::idempotency_key(&key, value);
            Read::Event(Box::new(Event {
                contact,
                key,
                place,
                source_timestamp,
                body,
                idempotency_key,
                tries: None,
                record,
            }))
        }
        segment::Outcome::Filtered(reason) => Read::Filtered(reason),
        segment::Outcome::Invalid { reason, .. } => Read::Invalid(record, reason),
    }
}

fn place_of(record: &QueueRecord) -> (Place, i64) {
    match Origin::of(&record.headers) {
        Some(origin) => {
            let item = origin.item.map_or(0, |item| item as u32);
            (Place::of(&origin.topic, origin.partition, origin.offset, item), origin.timestamp)
        }
        // Put into the queue by something else: its place there is all there is.
        None => (Place::of("", record.partition, record.offset, 0), record.timestamp),
    }
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
