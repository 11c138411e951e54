//! One dead letter, as far as it concerns a contact: whose it is, what became of it. Never its body.

use jiff::Timestamp;
use jiff::civil::Date;

use crate::cli::dead_letters::row::Row;
use crate::cli::dead_letters::scan::Found;
use crate::config::Config;
use crate::poison::contained;
use crate::segment::{self, Outcome, Reading, Rules};

#[derive(Debug)]
pub struct Letter {
    pub row: Row,
    pub event: Event,
}

/// What of an event tells which entry is its.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Event {
    /// `None`: its time is not usable.
    pub day: Option<Date>,
    /// Key and raw value.
    pub engage: Option<(String, String)>,
}

impl Letter {
    /// `None`: it is another contact's, or nobody's.
    pub fn of(found: &Found, config: &Config, email: &str) -> Option<Letter> {
        let value = found.value()?;
        let event = contained(|| event_of(value, &config.rules, found.at(), email)).ok().flatten()?;
        Some(Letter { row: Row::of(config, found), event })
    }
}

/// The first of a record's events that is this contact's. What deliver wrote is a bare event; what ingest wrote is the source
/// record, in its framing, its envelope or its batch.
pub fn event_of(value: &[u8], rules: &Rules, at: i64, email: &str) -> Option<Event> {
    let now = Timestamp::from_millisecond(at).unwrap_or(Timestamp::UNIX_EPOCH);
    if let Some(event) = if_of(segment::classify(rules, value, now), email) {
        return Some(event);
    }
    match segment::read(rules, Some(value), now) {
        Reading::One { outcome, .. } => if_of(outcome, email),
        Reading::Batch(items) => items.iter().find_map(|item| if_of(segment::classify(rules, item, now), email)),
    }
}

fn if_of(outcome: Outcome<'_>, wanted: &str) -> Option<Event> {
    match outcome {
        Outcome::Identify(identify) if identify.email == wanted => {
            let engage = identify.engage.map(|engage| (engage.key.into_owned(), engage.value.to_owned()));
            Some(Event { day: Some(identify.day), engage })
        }
        Outcome::Invalid { email: Some(email), .. } if email == wanted => Some(Event::default()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: i64 = 1_764_200_000_000;

    #[test]
    fn a_contacts_event_is_found_bare_in_an_envelope_and_in_a_batch() {
        let event = r#"{"type":"identify","timestamp":"2025-11-20T08:00:00Z","email":"Ada@example.com"}"#;
        let rules = Rules { envelope: vec!["httpPayload".into()], ..Rules::default() };
        let wrapped = format!(r#"{{"httpPayload":{event}}}"#);
        let batch = format!(r#"{{"httpPayload":{{"batch":[{{"type":"track"}},{event}]}}}}"#);
        for value in [event, &wrapped, &batch] {
            let found = event_of(value.as_bytes(), &rules, AT, "ada@example.com");
            assert_eq!(
                found.and_then(|event| event.day).map(|day| day.to_string()),
                Some("2025-11-20".into()),
                "{value}"
            );
            assert_eq!(event_of(value.as_bytes(), &rules, AT, "bob@example.com"), None);
        }
    }

    #[test]
    fn one_without_a_usable_time_is_its_contacts_all_the_same() {
        let event = br#"{"type":"identify","email":"ada@example.com"}"#;
        assert_eq!(event_of(event, &Rules::default(), AT, "ada@example.com"), Some(Event::default()));
        assert_eq!(event_of(b"\xff", &Rules::default(), AT, "ada@example.com"), None);
    }
}
