//! The dead letter: the source record's key, value and headers untouched, plus what became of it in headers. The names
//! are Kafka Connect's (`__connect.errors.*`, KIP-298), so that existing tools read them, and ours (`nat.*`).

use rdkafka::message::{Header, OwnedHeaders};

use crate::kafka::Headers;
use crate::nat::Answer;
use crate::segment::Invalid;

pub mod kept;
pub mod masked;
pub mod note;
pub mod origin;
pub mod record;
pub mod road;
pub mod select;

pub use kept::Kept;
pub use note::Note;
pub use origin::Origin;
pub use record::{Kind, Letter};
pub use road::Road;
pub use select::Filter;

/// Our own headers.
pub mod header {
    pub const REASON: &str = "nat.reason";
    pub const STATUS: &str = "nat.status";
    pub const ANSWER: &str = "nat.answer";
    pub const ATTEMPTS: &str = "nat.attempts";
    /// Unix milliseconds.
    pub const FIRST_ATTEMPT: &str = "nat.first_attempt";
    /// Unix milliseconds.
    pub const LAST_ATTEMPT: &str = "nat.last_attempt";
    pub const REDRIVE_COUNT: &str = "nat.redrive_count";
    /// Only where the dead-letter topic does not take the whole value: the length of it, in bytes.
    pub const TRUNCATED: &str = "nat.value.truncated";
    /// Only where it does not take the whole: whose event it is, where that is known. The contact's hash.
    pub const CONTACT: &str = "nat.contact";
    /// Only where it does not take them: the source record's key and headers are left out.
    pub const BARE: &str = "nat.bare";
}

/// What can be done about any letter that is cut.
pub const CUT: &str = "replay it from its source topic: what is cut here cannot be redriven";

/// Why an event cannot be delivered, though it is a right identify call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Undeliverable {
    Rejected,
    RetriesExhausted,
    /// Larger than the queue topic takes.
    TooLarge,
}

impl Undeliverable {
    pub const ALL: [Undeliverable; 3] =
        [Undeliverable::Rejected, Undeliverable::RetriesExhausted, Undeliverable::TooLarge];

    pub fn as_str(self) -> &'static str {
        match self {
            Undeliverable::Rejected => "rejected",
            Undeliverable::RetriesExhausted => "retries_exhausted",
            Undeliverable::TooLarge => "too_large",
        }
    }
}

/// Why a record is a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    Invalid(Invalid),
    Undeliverable(Undeliverable),
}

impl Reason {
    /// The word in metrics, logs and headers.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Invalid(reason) => reason.as_str(),
            Reason::Undeliverable(reason) => reason.as_str(),
        }
    }

    /// Every word that this version writes, each once.
    pub fn words() -> Vec<&'static str> {
        let undeliverable = Undeliverable::ALL.into_iter().map(Undeliverable::as_str);
        let invalid = Invalid::ALL.into_iter().map(Invalid::as_str);
        let mut words: Vec<_> = undeliverable.chain(invalid).collect();
        words.sort_unstable();
        words.dedup();
        words
    }

    /// The reason that a header names; `None`: a word of a newer version. `too_large` is a batch's only where ingest says so,
    /// which makes no difference to what is to be done.
    pub fn of(word: &str) -> Option<Reason> {
        let undeliverable = Undeliverable::ALL.into_iter().find(|reason| reason.as_str() == word);
        let invalid = Invalid::ALL.into_iter().find(|reason| reason.as_str() == word);
        undeliverable.map(Reason::Undeliverable).or(invalid.map(Reason::Invalid))
    }

    /// What whoever is on call can do about it.
    pub fn what_to_do(self) -> &'static str {
        match self {
            Reason::Undeliverable(Undeliverable::Rejected) => {
                "Nat.app's answer says what it does not like. When that is mended there, redrive it; when the event is at \
                 fault, mend whoever sends it. The contact's day is not used up: its next event is tried"
            }
            Reason::Undeliverable(Undeliverable::RetriesExhausted) => {
                "Nat.app failed at it for as long as retry.max_elapsed allows. When it is well again, redrive it"
            }
            Reason::Undeliverable(Undeliverable::TooLarge) | Reason::Invalid(Invalid::TooLarge) => {
                "raise topics.max_message_bytes and max.message.bytes of the queue topic, then redrive it; or make whoever \
                 sends it send less"
            }
            Reason::Invalid(Invalid::MissingEmail | Invalid::InvalidEmail) => {
                "Nat.app knows contacts by their email only. Identify calls without one are normal; where the address stands \
                 in userId, set identify.user_id_as_email and redrive it"
            }
            Reason::Invalid(Invalid::MissingTimestamp | Invalid::InvalidTimestamp) => {
                "if its time stands in another field, name that in identify.timestamp_fields and redrive it; else mend \
                 whoever sends it"
            }
            Reason::Invalid(Invalid::TimestampOutOfRange) => {
                "a clock is wrong where it was sent; or set identify.oldest and identify.max_ahead otherwise and redrive it"
            }
            Reason::Invalid(Invalid::MissingType | Invalid::NotJson | Invalid::NotObject | Invalid::Empty) => {
                "if the event stands in a wrapper or in schema-registry framing, say so in the settings [source] and redrive \
                 it; else mend whoever sends it"
            }
            Reason::Invalid(Invalid::Poison) => {
                "report it with the place that the log names; redrive it with the version in which that is mended"
            }
        }
    }

    /// The same where the letter holds its beginning only.
    pub fn what_to_do_of_cut(self) -> &'static str {
        match self {
            Reason::Undeliverable(Undeliverable::TooLarge) | Reason::Invalid(Invalid::TooLarge) => {
                "raise topics.max_message_bytes and max.message.bytes of the queue topic, then replay it from its source \
                 topic: what is cut here cannot be redriven"
            }
            Reason::Invalid(_) => {
                "mend whoever sends it; or, where the settings [source] or [identify] are at fault, mend them, then replay it \
                 from its source topic: what is cut here cannot be redriven"
            }
            Reason::Undeliverable(_) => CUT,
        }
    }

    /// The same in plain words.
    pub fn because(self) -> &'static str {
        match self {
            Reason::Invalid(reason) => reason.because(),
            Reason::Undeliverable(Undeliverable::Rejected) => "Nat.app rejects it",
            Reason::Undeliverable(Undeliverable::RetriesExhausted) => "Nat.app did not take it for retry.max_elapsed",
            Reason::Undeliverable(Undeliverable::TooLarge) => {
                "it is larger than the queue takes (topics.max_message_bytes, and max.message.bytes of the topic)"
            }
        }
    }
}

/// The attempts made before an event was given up. Unix milliseconds.
#[derive(Debug, Clone)]
pub struct Attempts {
    pub count: u32,
    pub first: i64,
    pub last: i64,
    pub answer: Answer,
}

/// What the headers of a dead letter tell.
#[derive(Debug)]
pub struct Verdict<'a> {
    pub origin: &'a Origin<'a>,
    /// `ingest` or `deliver`.
    pub stage: &'static str,
    pub reason: Reason,
    pub attempts: Option<&'a Attempts>,
}

impl Verdict<'_> {
    /// What happened in plain words; no personal data.
    fn message(&self) -> String {
        let because = self.reason.because();
        match self.attempts {
            None => format!("not delivered: {because}"),
            Some(Attempts { count, answer, .. }) => {
                let status = answer.status().map(|status| format!("HTTP {status}: ")).unwrap_or_default();
                format!("not delivered: {because}; attempts: {count}; the last answer: {status}{}", answer.text())
            }
        }
    }

    /// The headers of the dead letter: the original ones, then these.
    pub fn headers(&self, original: &Headers) -> OwnedHeaders {
        let origin = self.origin;
        let (stage, class) = match self.stage {
            "ingest" => ("VALUE_CONVERTER", "nat_destination::ingest"),
            _ => ("TASK_PUT", "nat_destination::deliver"),
        };
        let mut told: Vec<(&str, String)> = vec![
            ("__connect.errors.topic", origin.topic.clone().into_owned()),
            ("__connect.errors.partition", origin.partition.to_string()),
            ("__connect.errors.offset", origin.offset.to_string()),
            ("__connect.errors.connector.name", "nat-destination".into()),
            ("__connect.errors.task.id", "0".into()),
            ("__connect.errors.stage", stage.into()),
            ("__connect.errors.class.name", class.into()),
            ("__connect.errors.exception.class.name", format!("nat_destination::{}", self.reason.as_str())),
            ("__connect.errors.exception.message", self.message()),
            (origin::SOURCE, origin.to_string()),
            (header::REASON, self.reason.as_str().into()),
            (header::REDRIVE_COUNT, origin.road.map_or(0, Road::redrives).to_string()),
        ];
        if let Some(attempts) = self.attempts {
            told.extend(attempts.answer.status().map(|status| (header::STATUS, status.to_string())));
            told.push((header::ANSWER, attempts.answer.text().to_owned()));
            told.push((header::ATTEMPTS, attempts.count.to_string()));
            told.push((header::FIRST_ATTEMPT, attempts.first.to_string()));
            told.push((header::LAST_ATTEMPT, attempts.last.to_string()));
        }
        let capacity = original.len() + told.len();
        let kept = original.iter().fold(OwnedHeaders::new_with_capacity(capacity), |headers, (key, value)| {
            headers.insert(Header { key, value: value.as_deref() })
        });
        told.iter().fold(kept, |headers, (key, value)| headers.insert(Header { key, value: Some(value) }))
    }
}
