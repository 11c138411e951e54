//! What a Segment event is: the room that knows, and the only one that does.
//!
//! Bytes and a clock go in, an [`Outcome`] comes out. Nothing here does I/O, waits, logs or panics, whatever the
//! bytes are, so ingest, delivery, replay and `check` can all ask the same question and get the same answer.
//!
//! [`read`] takes a record of a source topic (a tombstone, a framed value, an envelope, a batch);
//! [`classify`] takes exactly one event (a queue record, an item of a batch).

mod batch;
mod dismiss;
mod email;
mod engage;
mod event;
mod integrations;
mod json;
mod record;
mod rules;
mod scan;
mod timestamp;

pub use dismiss::dismiss;
pub use email::normalise_email;
pub use engage::Engage;
pub use event::classify;
pub use record::read;
pub use rules::{EngageMode, Framing, Rules};

use std::borrow::Cow;

/// What a record of a source topic holds.
#[derive(Debug, Clone, PartialEq)]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly every record is one event, and a box would cost each an allocation"
)]
pub enum Reading<'a> {
    /// One event: its bytes (out of the framing and the envelope) and what it is.
    One { event: &'a [u8], outcome: Outcome<'a> },
    /// Several events, each to be passed to [`classify`]. An item is rewritten only where the batch gives it a
    /// `context` or `integrations` of its own.
    Batch(Vec<Cow<'a, [u8]>>),
}

/// What one event is. Every event has exactly one outcome.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "a box would cost each identify call an allocation")]
pub enum Outcome<'a> {
    /// To be delivered, unless its contact has been delivered that day.
    Identify(Identify<'a>),
    /// Nothing for Nat.app, and nothing wrong with it.
    Filtered(Filtered),
    /// Should have been delivered and cannot be: a dead letter. The email is known where it was found in time.
    Invalid { reason: Invalid, email: Option<String> },
}

impl Outcome<'_> {
    pub(in crate::segment) fn invalid(reason: Invalid) -> Self {
        Outcome::Invalid { reason, email: None }
    }
}

/// Why an event is nothing for Nat.app.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Filtered {
    NotIdentify,
    IntegrationsOptOut,
    EngageSkipped,
    /// Its contact is on the suppression list. Not decided here: the list is none of the event's.
    Suppressed,
    Tombstone,
}

impl Filtered {
    pub const ALL: [Filtered; 5] = [
        Filtered::NotIdentify,
        Filtered::IntegrationsOptOut,
        Filtered::EngageSkipped,
        Filtered::Suppressed,
        Filtered::Tombstone,
    ];

    /// The word for it in metrics, logs and on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Filtered::NotIdentify => "not_identify",
            Filtered::IntegrationsOptOut => "integrations_opt_out",
            Filtered::EngageSkipped => "engage_skipped",
            Filtered::Suppressed => "suppressed",
            Filtered::Tombstone => "tombstone",
        }
    }

    /// The same in plain words, for people.
    pub const fn because(self) -> &'static str {
        match self {
            Filtered::NotIdentify => "Nat.app takes identify calls only",
            Filtered::IntegrationsOptOut => {
                "its integrations switch Nat off (identify.honour_integrations = false ignores that)"
            }
            Filtered::EngageSkipped => "it comes from Engage, and engage = \"skip\"",
            Filtered::Suppressed => "its contact is on the suppression list (suppress.file)",
            Filtered::Tombstone => "a record without a value deletes a key; it is no event",
        }
    }
}

/// Why an event cannot be delivered although it is none of the filtered ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Invalid {
    Empty,
    NotJson,
    NotObject,
    MissingType,
    MissingEmail,
    InvalidEmail,
    MissingTimestamp,
    InvalidTimestamp,
    TimestampOutOfRange,
    /// A batch that would unfold to more than can be held.
    TooLarge,
    /// Handling it panicked.
    Poison,
}

impl Invalid {
    pub const ALL: [Invalid; 11] = [
        Invalid::Empty,
        Invalid::NotJson,
        Invalid::NotObject,
        Invalid::MissingType,
        Invalid::MissingEmail,
        Invalid::InvalidEmail,
        Invalid::MissingTimestamp,
        Invalid::InvalidTimestamp,
        Invalid::TimestampOutOfRange,
        Invalid::TooLarge,
        Invalid::Poison,
    ];

    /// The word for it in metrics, logs, dead-letter headers and on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Invalid::Empty => "empty",
            Invalid::NotJson => "not_json",
            Invalid::NotObject => "not_object",
            Invalid::MissingType => "missing_type",
            Invalid::MissingEmail => "missing_email",
            Invalid::InvalidEmail => "invalid_email",
            Invalid::MissingTimestamp => "missing_timestamp",
            Invalid::InvalidTimestamp => "invalid_timestamp",
            Invalid::TimestampOutOfRange => "timestamp_out_of_range",
            Invalid::TooLarge => "too_large",
            Invalid::Poison => "poison",
        }
    }

    /// The same in plain words, for people.
    pub const fn because(self) -> &'static str {
        match self {
            Invalid::Empty => "there is nothing in it",
            Invalid::NotJson => "it is not JSON (strictly: one value, UTF-8, no trailing commas, no NaN)",
            Invalid::NotObject => "it is JSON, but not an object",
            Invalid::MissingType => "it has no type, so that nobody can tell whether it is an identify call",
            Invalid::MissingEmail => "it has no email in traits, at the top, in context.traits or in properties",
            Invalid::InvalidEmail => "what stands for the email is none",
            Invalid::MissingTimestamp => "it has no timestamp (identify.timestamp_fields can name other fields)",
            Invalid::InvalidTimestamp => "its timestamp is in no format that can be understood without guessing",
            Invalid::TimestampOutOfRange => {
                "its timestamp is before identify.oldest or further ahead than identify.max_ahead"
            }
            Invalid::TooLarge => "what all items of the batch share would be written into more than can be held",
            Invalid::Poison => "handling it made this program panic, which is a defect of ours: please report it",
        }
    }

    /// Not even an event: the bytes are no JSON object.
    pub const fn is_malformed(self) -> bool {
        matches!(self, Invalid::Empty | Invalid::NotJson | Invalid::NotObject)
    }
}

/// An identify call that Nat.app can take.
#[derive(Debug, Clone, PartialEq)]
pub struct Identify<'a> {
    /// The contact: trimmed and lower-case.
    pub email: String,
    /// When it happened.
    pub instant: jiff::Timestamp,
    /// The date of `instant` in the zone of the rules.
    pub day: jiff::civil::Date,
    /// Set when Engage sent it: a property, not a visit. Also under [`EngageMode::Daily`], where it only changes
    /// the request, not what the event is a duplicate of.
    pub engage: Option<Engage<'a>>,
    pub(in crate::segment) also: Also<'a>,
}

/// What else a request tells, as it stands in the event: ingest decides without it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::segment) struct Also<'a> {
    /// Of `page`, the event's own and of `properties`: raw.
    pub(in crate::segment) urls: [Option<&'a str>; 3],
    pub(in crate::segment) context_page: Option<&'a str>,
    pub(in crate::segment) event: Option<&'a str>,
    pub(in crate::segment) message_id: Option<&'a str>,
    pub(in crate::segment) user_id: Option<&'a str>,
}

/// The members of a raw JSON object: raw key (quotes and all) and raw value. Of anything else, none.
pub fn members(object: &str) -> Vec<(&str, &str)> {
    let mut members = Vec::new();
    match scan::each_member(object, |key, value| members.push((key, value))) {
        Ok(()) => members,
        Err(_) => Vec::new(),
    }
}

impl<'a> Identify<'a> {
    /// The first that says something: of `page`, the event's own, of `context.page`, of `properties`.
    pub fn url(&self) -> Option<Cow<'a, str>> {
        let [of_page, own, of_properties] = self.also.urls;
        json::non_blank_text(of_page)
            .or_else(|| json::non_blank_text(own))
            .or_else(|| json::non_blank_text(json::look(self.also.context_page, ["url"])[0]))
            .or_else(|| json::non_blank_text(of_properties))
    }

    pub fn event(&self) -> Option<Cow<'a, str>> {
        json::non_blank_text(self.also.event)
    }

    pub fn message_id(&self) -> Option<Cow<'a, str>> {
        json::non_blank_text(self.also.message_id)
    }

    /// A number in some systems; it is passed on as it is written.
    pub fn user_id(&self) -> Option<Cow<'a, str>> {
        let raw = self.also.user_id;
        let is_number = |raw: &&str| raw.starts_with(|first: char| first == '-' || first.is_ascii_digit());
        json::non_blank_text(raw).or_else(|| raw.filter(is_number).map(Cow::Borrowed))
    }

    /// What Nat.app's timeline says below the title: the event if it says more than "identify", else the url.
    pub fn description(&self) -> Option<Cow<'a, str>> {
        self.event().filter(|event| !event.trim().eq_ignore_ascii_case("identify")).or_else(|| self.url())
    }
}
