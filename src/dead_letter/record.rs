//! What a record of the dead-letter topic tells: a letter of ours, the note that one has been redriven, or something that
//! another tool wrote or changed. Our headers stand behind the original ones and are taken off from the end, so that an
//! original header of the same name stays. What a newer version writes is read as far as it is known. Pure.

use std::borrow::Cow;

use jiff::Timestamp;
use rdkafka::message::Message;

use super::{Note, Origin, Reason, header, origin};
use crate::address::without_addresses;
use crate::dedup::{Contact, DedupKey};
use crate::kafka::{Headers, headers_of};
use crate::poison::contained;
use crate::segment::{self, Outcome, Reading, Rules};

/// The first of our headers: Kafka Connect's names come first.
const FIRST: &str = "__connect.errors.topic";
const MESSAGE: &str = "__connect.errors.exception.message";
const CONNECT: &str = "__connect.errors.";
const OURS: &str = "nat.";

/// What a record is.
#[derive(Debug)]
pub enum Kind {
    Letter(Box<Letter>),
    Note(Note),
    /// Another tool wrote or changed it: our headers are missing, not whole, or others stand behind them.
    Foreign(Headers),
}

/// What our headers tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    /// The word; see `Reason::of`.
    pub reason: String,
    pub status: Option<u16>,
    /// Nat.app's words, redacted.
    pub answer: Option<String>,
    pub attempts: Option<u32>,
    /// Unix milliseconds.
    pub first_attempt: Option<i64>,
    /// Unix milliseconds.
    pub last_attempt: Option<i64>,
    /// How often the event had been redriven when it became this letter.
    pub redrives: u32,
    /// Without the key, which is the letter's own.
    pub origin: Option<Origin<'static>>,
    /// What happened in plain words.
    pub message: Option<String>,
    /// Whether the value is one event; else it is a source record as it came.
    pub is_event: bool,
    /// The length of the whole, where the dead-letter topic does not hold it.
    pub truncated: Option<u64>,
    /// Of one that is cut: whose it is.
    pub contact: Option<Contact>,
    /// Key and headers of the source record are left out.
    pub bare: bool,
    /// The source record's headers.
    pub original: Headers,
    /// Names of ours that this version does not know.
    pub newer: Vec<String>,
}

impl Kind {
    pub fn read(message: &impl Message) -> Kind {
        let headers = message.headers().map(headers_of).unwrap_or_default();
        Kind::of(message.key(), message.payload(), headers)
    }

    pub fn of(key: Option<&[u8]>, value: Option<&[u8]>, headers: Headers) -> Kind {
        if let Some(note) = Note::of(key, value, &headers) {
            return Kind::Note(note);
        }
        let ours = |name: &str| name.starts_with(CONNECT) || name.starts_with(OURS);
        let begin = begin_of_ours(&headers);
        let Some(begin) = begin.filter(|begin| headers[*begin..].iter().all(|(name, _)| ours(name))) else {
            return Kind::Foreign(headers);
        };
        let mut original = headers;
        let told = Told(original.split_off(begin));
        match told.text(header::REASON) {
            // It is shown, and another tool may have written anything there.
            Some(reason) => Kind::Letter(Box::new(Letter::of(without_addresses(&reason), &told, original))),
            None => {
                original.extend(told.0);
                Kind::Foreign(original)
            }
        }
    }
}

impl Letter {
    fn of(reason: String, told: &Told, original: Headers) -> Letter {
        let origin = told.text(origin::SOURCE).and_then(|text| Origin::parse(&text)).or_else(|| told.origin());
        let in_batch = origin.as_ref().is_some_and(|origin| origin.item.is_some());
        Letter {
            reason,
            status: told.number(header::STATUS),
            answer: told.text(header::ANSWER),
            attempts: told.number(header::ATTEMPTS),
            first_attempt: told.number(header::FIRST_ATTEMPT),
            last_attempt: told.number(header::LAST_ATTEMPT),
            redrives: told.number(header::REDRIVE_COUNT).unwrap_or(0),
            message: told.text(MESSAGE),
            // Ingest keeps a record that is wrong as a whole as it came, with its framing and envelope.
            is_event: in_batch || told.text("__connect.errors.stage").is_some_and(|stage| stage == "TASK_PUT"),
            truncated: told.number(header::TRUNCATED),
            contact: told.text(header::CONTACT).and_then(|hash| Contact::of_hash(&hash)),
            bare: told.text(header::BARE).is_some(),
            newer: told.newer(),
            origin,
            original,
        }
    }
}

/// Where our headers begin, in a letter of ours.
pub(super) fn begin_of_ours(headers: &Headers) -> Option<usize> {
    headers.iter().rposition(|(name, _)| name == FIRST)
}

/// Our own headers of one letter.
struct Told(Headers);

impl Told {
    fn text(&self, name: &str) -> Option<String> {
        let (_, value) = self.0.iter().find(|(other, _)| other == name)?;
        Some(String::from_utf8_lossy(value.as_deref()?).into_owned())
    }

    fn number<N: std::str::FromStr>(&self, name: &str) -> Option<N> {
        self.text(name)?.parse().ok()
    }

    /// By Kafka Connect's headers, where a newer version writes ours otherwise.
    fn origin(&self) -> Option<Origin<'static>> {
        Some(Origin {
            topic: self.text(FIRST)?.into(),
            partition: self.number("__connect.errors.partition")?,
            offset: self.number("__connect.errors.offset")?,
            timestamp: -1,
            key: None,
            item: None,
            road: None,
        })
    }

    fn newer(&self) -> Vec<String> {
        let known = [
            origin::SOURCE,
            header::REASON,
            header::STATUS,
            header::ANSWER,
            header::ATTEMPTS,
            header::FIRST_ATTEMPT,
            header::LAST_ATTEMPT,
            header::REDRIVE_COUNT,
            header::TRUNCATED,
            header::CONTACT,
            header::BARE,
        ];
        let names = self.0.iter().map(|(name, _)| name);
        names.filter(|name| name.starts_with(OURS) && !known.contains(&name.as_str())).cloned().collect()
    }
}

/// What today's rules make of a letter's value.
#[derive(Debug, Clone, PartialEq)]
pub enum Today<'a> {
    /// What could be sent; and how many others of the batch are invalid.
    Events(Vec<Sendable<'a>>, u64),
    /// Nothing for Nat.app.
    Filtered,
    Invalid(Reason),
}

/// An identify call that could be sent.
#[derive(Debug, Clone, PartialEq)]
pub struct Sendable<'a> {
    pub email: String,
    pub event: Cow<'a, [u8]>,
    /// Its place in the batch.
    pub item: Option<usize>,
    pub key: DedupKey,
}

/// Classifies a value by the rules that ingest goes by. Whatever has been made right since then is right now.
pub fn today<'a>(rules: &Rules, value: Option<&'a [u8]>, is_event: bool, now: Timestamp) -> Today<'a> {
    let poison = Today::Invalid(Reason::Invalid(segment::Invalid::Poison));
    contained(|| classify(rules, value, is_event, now)).unwrap_or(poison)
}

fn reading<'a>(rules: &Rules, value: Option<&'a [u8]>, is_event: bool, now: Timestamp) -> Reading<'a> {
    match value {
        Some(event) if is_event => Reading::One { event, outcome: segment::classify(rules, event, now) },
        value => segment::read(rules, value, now),
    }
}

fn classify<'a>(rules: &Rules, value: Option<&'a [u8]>, is_event: bool, now: Timestamp) -> Today<'a> {
    match reading(rules, value, is_event, now) {
        Reading::One { event, outcome: Outcome::Identify(identify) } => {
            let key = DedupKey::of(&identify, rules.engage);
            Today::Events(vec![Sendable { email: identify.email, event: event.into(), item: None, key }], 0)
        }
        Reading::One { outcome: Outcome::Filtered(_), .. } => Today::Filtered,
        Reading::One { outcome: Outcome::Invalid { reason, .. }, .. } => Today::Invalid(Reason::Invalid(reason)),
        Reading::Batch(items) => batch(rules, items, now),
    }
}

fn batch<'a>(rules: &Rules, items: Vec<Cow<'a, [u8]>>, now: Timestamp) -> Today<'a> {
    let (mut events, mut invalid) = (Vec::new(), Vec::new());
    for (number, event) in items.into_iter().enumerate() {
        let (email, key) = match segment::classify(rules, &event, now) {
            Outcome::Filtered(_) => continue,
            Outcome::Invalid { reason, .. } => {
                invalid.push(reason);
                continue;
            }
            Outcome::Identify(identify) => {
                let key = DedupKey::of(&identify, rules.engage);
                (identify.email, key)
            }
        };
        events.push(Sendable { email, event, item: Some(number), key });
    }
    match invalid.first() {
        Some(reason) if events.is_empty() => Today::Invalid(Reason::Invalid(*reason)),
        None if events.is_empty() => Today::Filtered,
        _ => Today::Events(events, invalid.len() as u64),
    }
}

/// Whose event a letter is, where its email can be told; a batch is nobody's alone.
pub fn contact(rules: &Rules, value: Option<&[u8]>, is_event: bool, now: Timestamp) -> Option<Contact> {
    let find = || match reading(rules, value, is_event, now) {
        Reading::One { outcome, .. } => of(outcome),
        Reading::Batch(_) => None,
    };
    contained(find).ok().flatten()
}

/// Whether a letter is this contact's event, or a batch that holds one.
pub fn concerns(wanted: Contact, rules: &Rules, value: Option<&[u8]>, is_event: bool, now: Timestamp) -> bool {
    let is_theirs = |outcome: Outcome<'_>| of(outcome) == Some(wanted);
    let find = || match reading(rules, value, is_event, now) {
        Reading::One { outcome, .. } => is_theirs(outcome),
        Reading::Batch(items) => items.iter().any(|event| is_theirs(segment::classify(rules, event, now))),
    };
    contained(find).unwrap_or(false)
}

/// Whether nobody can tell whose event a value is, though it may be somebody's: it cannot be read at all.
pub fn is_illegible(rules: &Rules, value: Option<&[u8]>, is_event: bool, now: Timestamp) -> bool {
    use segment::Invalid::{NotJson, NotObject, Poison};
    let unread = |reason| matches!(reason, NotJson | NotObject | Poison);
    let find = || match reading(rules, value, is_event, now) {
        Reading::One { outcome: Outcome::Invalid { reason, email: None }, .. } => unread(reason),
        _ => false,
    };
    contained(find).unwrap_or(true)
}

fn of(outcome: Outcome<'_>) -> Option<Contact> {
    match outcome {
        Outcome::Identify(identify) => Some(Contact::of(&identify.email)),
        Outcome::Invalid { email, .. } => email.map(|email| Contact::of(&email)),
        Outcome::Filtered(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Attempts, Road, Undeliverable, Verdict};
    use super::*;
    use crate::kafka::headers_of;
    use crate::nat::Answer;

    fn verdict_headers(original: &Headers, road: Option<Road>) -> Headers {
        let origin =
            Origin { topic: "events".into(), partition: 2, offset: 7, timestamp: 1000, key: None, item: None, road };
        let answer = Answer::Status { status: 422, retry_after: None, body: "no".into() };
        let attempts = Attempts { count: 3, first: 10, last: 20, answer };
        let reason = Reason::Undeliverable(Undeliverable::Rejected);
        headers_of(&Verdict { origin: &origin, stage: "deliver", reason, attempts: Some(&attempts) }.headers(original))
    }

    fn letter(headers: Headers) -> Letter {
        match Kind::of(None, Some(b"{}"), headers) {
            Kind::Letter(letter) => *letter,
            other => panic!("a letter: {other:?}"),
        }
    }

    fn plain(headers: &[(&str, &str)]) -> Headers {
        headers.iter().map(|(name, value)| ((*name).to_owned(), Some(value.as_bytes().to_vec()))).collect()
    }

    #[test]
    fn what_a_verdict_writes_is_read_again_and_the_original_headers_stay_even_of_our_names() {
        // A dead letter that came in as a source record: the original headers are a dead letter's own.
        let once = verdict_headers(&plain(&[("trace", "t"), ("nat.reason", "theirs")]), None);
        let twice = letter(verdict_headers(&once, Some(Road::Redrive(2))));
        assert_eq!(twice.original, once);
        assert_eq!((twice.reason.as_str(), twice.status, twice.redrives), ("rejected", Some(422), 2));
        assert_eq!((twice.attempts, twice.first_attempt, twice.last_attempt), (Some(3), Some(10), Some(20)));
        assert_eq!(twice.origin.map(|origin| origin.to_string()).as_deref(), Some("events/2/7/1000"));
        assert_eq!((twice.answer.as_deref(), twice.is_event, twice.newer.len()), (Some("no"), true, 0));
        assert_eq!(letter(once).original, plain(&[("trace", "t"), ("nat.reason", "theirs")]));
    }

    #[test]
    fn a_newer_versions_letter_is_read_as_far_as_it_is_known() {
        let mut headers = verdict_headers(&Vec::new(), None);
        for (name, value) in &mut headers {
            if name == "nat.reason" {
                *value = Some(b"suppressed".to_vec());
            }
            if name == "nat.source" {
                *value = Some(b"v2:whatever".to_vec());
            }
        }
        headers.extend(plain(&[("nat.shard", "9")]));
        let letter = letter(headers);
        assert_eq!((letter.reason.as_str(), Reason::of(&letter.reason)), ("suppressed", None));
        assert_eq!(letter.newer, ["nat.shard"]);
        assert_eq!(letter.origin.map(|origin| (origin.partition, origin.offset)), Some((2, 7)));
    }

    #[test]
    fn no_address_is_taken_for_a_reason() {
        let mut headers = verdict_headers(&Vec::new(), None);
        for (_, value) in headers.iter_mut().filter(|(name, _)| name == "nat.reason") {
            *value = Some(b"no ada@example.com".to_vec());
        }
        assert_eq!(letter(headers).reason, "no (redacted)");
    }

    #[test]
    fn what_another_tool_wrote_is_foreign() {
        let connect = plain(&[("trace", "t"), (FIRST, "x"), ("__connect.errors.offset", "1")]);
        let behind = [verdict_headers(&Vec::new(), None), plain(&[("mirrored", "yes")])].concat();
        for headers in [Vec::new(), plain(&[("nat.reason", "rejected")]), connect, behind] {
            match Kind::of(None, Some(b"{}"), headers.clone()) {
                Kind::Foreign(kept) => assert_eq!(kept, headers),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn what_is_made_right_is_right_today_and_what_is_not_is_not() {
        let now: Timestamp = "2026-11-24T12:00:00Z".parse().expect("a time");
        let event = br#"{"type":"identify","timestamp":"2026-11-20","userId":"Ada@example.com"}"#;
        let missing = Today::Invalid(Reason::Invalid(segment::Invalid::MissingEmail));
        assert_eq!(today(&Rules::default(), Some(event), false, now), missing);
        let rules = Rules { user_id_as_email: true, ..Rules::default() };
        let sent = |letter: Today<'_>| match letter {
            Today::Events(events, invalid) => {
                (events.into_iter().map(|sent| (sent.email, sent.event.into_owned(), sent.item)).collect(), invalid)
            }
            other => panic!("{other:?}"),
        };
        let right = ("ada@example.com".to_owned(), event.to_vec(), None);
        assert_eq!(sent(today(&rules, Some(event), false, now)), (vec![right], 0));
        assert_eq!(contact(&rules, Some(event), true, now), Some(Contact::of("ada@example.com")));
        assert_eq!(today(&rules, Some(br#"{"type":"track"}"#), true, now), Today::Filtered);
        let batch = |items: &[&str]| format!(r#"{{"batch":[{}]}}"#, items.join(","));
        let (good, bad) = (String::from_utf8_lossy(event), r#"{"type":"identify","timestamp":"2026-11-20"}"#);
        let mixed = batch(&[bad, r#"{"type":"track"}"#, &good]);
        let of = |email| concerns(Contact::of(email), &rules, Some(mixed.as_bytes()), false, now);
        assert!(of("ada@example.com") && !of("bob@example.com"));
        assert_eq!(contact(&rules, Some(mixed.as_bytes()), false, now), None, "it is nobody's alone");
        let (events, invalid): (Vec<_>, u64) = sent(today(&rules, Some(mixed.as_bytes()), false, now));
        assert_eq!((events.len(), events[0].2, invalid), (1, Some(2), 1));
        assert_eq!(
            today(&rules, Some(batch(&[bad, bad]).as_bytes()), false, now),
            missing,
            "not that nothing is for Nat.app"
        );
        let tracks = batch(&[r#"{"type":"track"}"#]);
        assert_eq!(today(&rules, Some(tracks.as_bytes()), false, now), Today::Filtered);
    }

    #[test]
    fn every_reason_has_a_word_that_leads_back_to_it() {
        for word in Reason::words() {
            let reason = Reason::of(word).expect(word);
            assert_eq!(reason.as_str(), word);
            assert!(!reason.what_to_do().is_empty());
        }
    }
}
