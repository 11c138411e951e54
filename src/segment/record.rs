//! A record of a source topic: what has to be taken off before there is an event to classify.

use jiff::Timestamp;

use super::event::Event;
use super::{Filtered, Framing, Outcome, Reading, Rules, batch, dismiss, json};

/// Reads what a source record holds. Most records are dismissed without being parsed.
pub fn read<'a>(rules: &Rules, value: Option<&'a [u8]>, now: Timestamp) -> Reading<'a> {
    let Some(value) = value else {
        return Reading::One { event: &[], outcome: Outcome::Filtered(Filtered::Tombstone) };
    };
    let value = unframed(rules.framing, value);
    // The type of an envelope says nothing about the event inside.
    if rules.envelope.is_empty() && dismiss(value) {
        return Reading::One { event: value, outcome: Outcome::Filtered(Filtered::NotIdentify) };
    }
    read_fully(rules, value, now)
}

/// As `read`, of a value without framing, and without the short cut of dismissal.
pub(super) fn read_fully<'a>(rules: &Rules, value: &'a [u8], now: Timestamp) -> Reading<'a> {
    let event = inside_envelope(&rules.envelope, value);
    let outcome = match Event::parse(rules, event) {
        Ok(parsed) => match batch::open(rules, &parsed) {
            Some(Ok(items)) => return Reading::Batch(items),
            Some(Err(outcome)) => outcome,
            None => parsed.outcome(rules, now),
        },
        Err(reason) => Outcome::invalid(reason),
    };
    Reading::One { event, outcome }
}

/// Takes off what the framing puts in front. A value that has none is left as it is: producers get mixed.
fn unframed(framing: Framing, value: &[u8]) -> &[u8] {
    match (framing, value) {
        (Framing::SchemaRegistry, [0, _, _, _, _, event @ ..]) => event,
        _ => value,
    }
}

/// The bytes that the path leads to. Where it leads to nothing, the record is no envelope but a bare event.
fn inside_envelope<'a>(path: &[String], value: &'a [u8]) -> &'a [u8] {
    let Some((outermost, deeper)) = path.split_first() else {
        return value;
    };
    let found = json::object(value)
        .and_then(|text| json::members(text, [outermost.as_str()]))
        .map(|[found]| found)
        .unwrap_or(None);
    deeper
        .iter()
        .fold(found, |found, name| json::look(found, [name.as_str()])[0])
        .filter(|event| *event != "null")
        .map_or(value, str::as_bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Invalid, classify};
    use super::*;

    const IDENTIFY: &str = r#"{"type":"identify","email":"a@example.com","timestamp":"2020-05-31"}"#;

    fn now() -> Timestamp {
        "2026-11-24T12:00:00Z".parse().unwrap()
    }

    fn word(outcome: &Outcome) -> &'static str {
        match outcome {
            Outcome::Identify(_) => "identify",
            Outcome::Filtered(reason) => reason.as_str(),
            Outcome::Invalid { reason, .. } => reason.as_str(),
        }
    }

    /// The event's bytes and its outcome in a word; of a batch the number of items.
    fn reading<'a>(rules: &Rules, value: &'a [u8]) -> (&'a [u8], String) {
        match read(rules, Some(value), now()) {
            Reading::One { event, outcome } => (event, word(&outcome).to_owned()),
            Reading::Batch(items) => (value, format!("batch of {}", items.len())),
        }
    }

    fn jitsu() -> Rules {
        Rules { envelope: vec!["data".to_owned(), "httpPayload".to_owned()], ..Rules::default() }
    }

    #[test]
    fn a_tombstone_is_filtered_and_an_empty_value_invalid() {
        let tombstone = read(&Rules::default(), None, now());
        let outcome = Outcome::Filtered(Filtered::Tombstone);
        assert_eq!(tombstone, Reading::One { event: b"", outcome });
        assert_eq!(reading(&Rules::default(), b" ").1, Invalid::Empty.as_str());
    }

    #[test]
    fn framing_is_taken_off_where_it_is_configured_and_there() {
        let framed = [b"\x00\x00\x00\x00\x2a", IDENTIFY.as_bytes()].concat();
        let rules = Rules { framing: Framing::SchemaRegistry, ..Rules::default() };
        let event = IDENTIFY.as_bytes();
        assert_eq!(reading(&rules, &framed), (event, "identify".to_owned()));
        assert_eq!(reading(&rules, event), (event, "identify".to_owned()));
        assert_eq!(reading(&rules, &framed[..5]).1, "empty");
        assert_eq!(reading(&rules, &framed[..3]).1, "not_json");
        assert_eq!(reading(&Rules::default(), &framed).1, "not_json");
    }

    #[test]
    fn the_event_in_an_envelope_is_read_whatever_the_envelope_calls_itself() {
        for kind in ["track", "identify", "", "batch"] {
            let value = format!(r#"{{"type":"{kind}","DATA":{{"httpPayload": {IDENTIFY} }}}}"#);
            let expected = (IDENTIFY.as_bytes(), "identify".to_owned());
            assert_eq!(reading(&jitsu(), value.as_bytes()), expected);
        }
        let batch = format!(r#"{{"data":{{"httpPayload":{{"batch":[{IDENTIFY},5]}}}}}}"#);
        assert_eq!(reading(&jitsu(), batch.as_bytes()).1, "batch of 2");
        let text = r#"{"data":{"httpPayload":"{}"}}"#;
        assert_eq!(reading(&jitsu(), text.as_bytes()).1, "not_object");
    }

    #[test]
    fn a_record_without_the_envelope_is_a_bare_event() {
        let expected = (IDENTIFY.as_bytes(), "identify".to_owned());
        assert_eq!(reading(&jitsu(), IDENTIFY.as_bytes()), expected);
        for rest in [r#""data":5"#, r#""data":{}"#, r#""data":{"httpPayload":null}"#] {
            let value = IDENTIFY.replacen('{', &format!("{{{rest},"), 1);
            assert_eq!(reading(&jitsu(), value.as_bytes()).1, "identify", "{rest}");
        }
        assert_eq!(reading(&jitsu(), br#"{"data":{"httpPayload":{}}x"#).1, "not_json");
    }

    proptest! {
        #[test]
        fn any_bytes_have_an_outcome(bytes: Vec<u8>, framed: bool, enveloped: bool) {
            let mut rules = if enveloped { jitsu() } else { Rules::default() };
            rules.framing = if framed { Framing::SchemaRegistry } else { Framing::None };
            read(&rules, Some(&bytes), now());
            classify(&rules, &bytes, now());
        }

        #[test]
        fn any_change_of_an_event_has_an_outcome(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        ) {
            let mut bytes = IDENTIFY.as_bytes().to_vec();
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            let classified = classify(&Rules::default(), &bytes, now());
            if let Reading::One { outcome, .. } = read(&Rules::default(), Some(&bytes), now()) {
                prop_assert!(outcome == classified || word(&classified) == "not_json");
            }
        }
    }
}
