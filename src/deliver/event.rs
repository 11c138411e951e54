//! One event on its way to Nat.app: what is sent, what it is compared by, and the attempts made so far.

use bytes::Bytes;
use jiff::Timestamp;

use super::feed::QueueRecord;
use super::retry::{FailedAttempt, Tries};
use crate::config;
use crate::dead_letter::{Attempts, Origin, Road};
use crate::dedup::{Contact, DedupKey, Kind, Place, Tried};
use crate::mutant;
use crate::nat::{self, Answer};
use crate::poison::{Panicked, contained};
use crate::segment::{self, Filtered, Invalid, Rules};
use crate::suppress::SuppressList;

pub struct Event {
    pub record: QueueRecord,
    pub id: Id,
    pub body: Bytes,
    pub idempotency_key: String,
    tries: Option<Box<Tries>>,
    /// It was answered, and the open circuit held it.
    pub held: bool,
    /// By which a tool put it into the queue again.
    pub road: Option<Road>,
}

/// Whose event it is, and what it is compared by with those before it.
#[derive(Debug, Clone, Copy)]
pub struct Id {
    pub contact: Contact,
    pub key: DedupKey,
    /// Where it came from; told for Engage events only, which nobody else asks.
    pub place: Place,
    /// The source record's, Unix milliseconds; likewise.
    pub source_timestamp: i64,
}

/// What comes after an attempt that failed.
pub enum AfterFailure {
    /// The next attempt, after so long; and what a restart has to know.
    Wait(std::time::Duration, Tried),
    /// Patience is over.
    Exhausted(Attempts),
}

/// What a queue record holds.
pub enum Read {
    Event(Box<Event>),
    Duplicate(Id),
    Filtered(Filtered),
    Invalid(QueueRecord, Invalid),
}

/// What is found out about a queue record.
enum Judged {
    Event { id: Id, body: Bytes, idempotency_key: String },
    Duplicate(Id),
    Filtered(Filtered),
    Invalid(Invalid),
}

/// Reads a queue record by the very rules that ingest went by. For a duplicate, if `is_known` says so already, no request is
/// made.
pub fn read(
    record: QueueRecord,
    rules: &Rules,
    suppressed: &SuppressList,
    now: Timestamp,
    is_known: impl FnOnce(&Id) -> bool,
) -> Read {
    match contained(|| judge(&record, rules, suppressed, now, is_known)) {
        Ok(Judged::Event { id, body, idempotency_key }) => {
            let road = Road::of(&record.headers);
            Read::Event(Box::new(Event { id, body, idempotency_key, tries: None, held: false, road, record }))
        }
        Ok(Judged::Duplicate(id)) => Read::Duplicate(id),
        Ok(Judged::Filtered(reason)) => Read::Filtered(reason),
        Ok(Judged::Invalid(reason)) => Read::Invalid(record, reason),
        Err(Panicked(place)) => {
            let QueueRecord { partition, offset, .. } = record;
            tracing::error!(partition, offset, place, "poison: handling this queue record panicked; dead letter");
            Read::Invalid(record, Invalid::Poison)
        }
    }
}

fn judge(
    record: &QueueRecord,
    rules: &Rules,
    suppressed: &SuppressList,
    now: Timestamp,
    is_known: impl FnOnce(&Id) -> bool,
) -> Judged {
    let Some(value) = record.value.as_deref() else {
        return Judged::Filtered(Filtered::Tombstone);
    };
    mutant::poison(value);
    match suppressed.honoured(segment::classify(rules, value, now)) {
        segment::Outcome::Identify(identify) => {
            let key = DedupKey::of(&identify, rules.engage);
            let (place, source_timestamp) = match key.kind {
                Kind::Engage { .. } => place_of(record),
                Kind::Visit => (Place::default(), 0),
            };
            let id = Id { contact: Contact::of(&identify.email), key, place, source_timestamp };
            if is_known(&id) {
                return Judged::Duplicate(id);
            }
            let body = Bytes::from(nat::body(&identify));
            let idempotency_key = nat::idempotency_key(&key, value);
            Judged::Event { id, body, idempotency_key }
        }
        segment::Outcome::Filtered(reason) => Judged::Filtered(reason),
        segment::Outcome::Invalid { reason, .. } => Judged::Invalid(reason),
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
    /// Goes on where an earlier process left off.
    pub fn resume(&mut self, tried: &Tried, settings: &config::Retry) {
        self.tries = Some(Box::new(Tries::resumed(tried, settings)));
    }

    /// Whether it was a dead letter before.
    pub fn is_redriven(&self) -> bool {
        matches!(self.road, Some(Road::Redrive(_)))
    }

    pub fn has_failed(&self) -> bool {
        self.held || self.tries.is_some()
    }

    /// Takes in an attempt that failed.
    pub fn failed(&mut self, answer: Answer, attempt: &FailedAttempt, settings: &config::Retry) -> AfterFailure {
        let tries = self.tries.get_or_insert_with(|| Box::new(Tries::none(settings)));
        match tries.failed(attempt, settings) {
            Some(wait) => AfterFailure::Wait(wait, tries.tried(self.record.offset, attempt.clock)),
            None => AfterFailure::Exhausted(attempts(tries, answer)),
        }
    }

    /// All attempts, with the one just answered for good. Unix milliseconds.
    pub fn attempts(&mut self, answer: Answer, sent: i64, now: i64, settings: &config::Retry) -> Attempts {
        let tries = self.tries.get_or_insert_with(|| Box::new(Tries::none(settings)));
        tries.count(sent, now);
        attempts(tries, answer)
    }
}

fn attempts(tries: &Tries, answer: Answer) -> Attempts {
    Attempts { count: tries.attempts, first: tries.first, last: tries.last, answer }
}
