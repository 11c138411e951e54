//! One dead letter, as far as it concerns a contact: whose it is, what became of it. Never its body.

use jiff::Timestamp;
use jiff::civil::Date;

use crate::cli::dead_letters::row::Row;
use crate::cli::dead_letters::scan::Found;
use crate::config::Config;
use crate::dead_letter::Kind;
use crate::dedup::Contact;
use crate::poison::contained;
use crate::segment::{self, Outcome, Reading, Rules};

#[derive(Debug)]
pub struct Letter {
    pub row: Row,
    /// At least one; several where it is a batch.
    pub events: Vec<Event>,
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
        let mut events = contained(|| events_of(value, &config.rules, found.at(), email)).unwrap_or_default();
        if let Kind::Letter(letter) = &found.kind
            && events.is_empty()
            && letter.contact == Some(Contact::of(email))
        {
            events.push(Event::default()); // It is cut: nothing more can be told of it.
        }
        (!events.is_empty()).then(|| Letter { row: Row::of(config, found), events })
    }
}

/// Those of a record's events that are this contact's. What deliver wrote is a bare event; what ingest wrote is the source
/// record, in its framing, its envelope or its batch.
pub fn events_of(value: &[u8], rules: &Rules, at: i64, email: &str) -> Vec<Event> {
    let now = Timestamp::from_millisecond(at).unwrap_or(Timestamp::UNIX_EPOCH);
    if let Some(event) = if_of(segment::classify(rules, value, now), email) {
        return vec![event];
    }
    match segment::read(rules, Some(value), now) {
        Reading::One { outcome, .. } => if_of(outcome, email).into_iter().collect(),
        Reading::Batch(items) => {
            items.iter().filter_map(|item| if_of(segment::classify(rules, item, now), email)).collect()
        }
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
            assert_eq!(days(&events_of(value.as_bytes(), &rules, AT, "ada@example.com")), ["2025-11-20"], "{value}");
            assert_eq!(events_of(value.as_bytes(), &rules, AT, "bob@example.com"), []);
        }
    }

    fn days(events: &[Event]) -> Vec<String> {
        events.iter().filter_map(|event| event.day).map(|day| day.to_string()).collect()
    }

    #[test]
    fn all_of_a_contacts_events_in_a_batch_are_found() {
        let event = |day: &str, email: &str| format!(r#"{{"type":"identify","timestamp":"{day}","email":"{email}"}}"#);
        let [first, bobs] = [event("2025-11-20", "ada@example.com"), event("2025-11-21", "bob@example.com")];
        let engage = r#"{"type":"identify","timestamp":"2025-11-22","email":"ada@example.com","traits":{"vip":true},
            "context":{"personas":{"computation_class":"audience","computation_key":"vip"}}}"#;
        let batch = format!(r#"{{"batch":[{first},{bobs},{{"type":"track"}},{engage}]}}"#);
        let events = events_of(batch.as_bytes(), &Rules::default(), AT, "ada@example.com");
        assert_eq!(days(&events), ["2025-11-20", "2025-11-22"]);
        assert_eq!(events[1].engage, Some(("vip".to_owned(), "true".to_owned())));
    }

    #[test]
    fn one_without_a_usable_time_is_its_contacts_all_the_same() {
        let event = br#"{"type":"identify","email":"ada@example.com"}"#;
        assert_eq!(events_of(event, &Rules::default(), AT, "ada@example.com"), [Event::default()]);
        assert_eq!(events_of(b"\xff", &Rules::default(), AT, "ada@example.com"), []);
    }
}
