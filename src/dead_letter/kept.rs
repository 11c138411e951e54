//! How much of its source record a dead letter holds. Where the dead-letter topic does not take all of it: the value's beginning;
//! and where not even that, less of the value, and neither key nor headers of the source. The whole stands in the source topic, at
//! the place that our headers name, for as long as that keeps it. Pure.

use rdkafka::message::{Header, OwnedHeaders};

use super::{header, origin};
use crate::dedup::Contact;
use crate::kafka::{Headers, KafkaProblem, headers_of};

/// Of a value that the dead-letter topic does not take, this much is kept; and where that is too much, so much.
const BEGINNING: usize = 64 * 1024;
const LEAST: usize = 4 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    Whole,
    Beginning,
    /// Without key and headers of the source.
    Least,
}

/// What is written.
#[derive(Debug)]
pub struct Text<'a> {
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    pub headers: OwnedHeaders,
}

impl Kept {
    /// The same letter, shorter than this; its contact stays known. `None`: there is no shorter one.
    pub fn shorter<'a>(self, text: Text<'a>, contact: Option<Contact>) -> Option<(Kept, Text<'a>)> {
        let Text { mut key, value, mut headers } = text;
        let length = value.map_or(0, <[u8]>::len);
        let (kept, most) = match self {
            Kept::Whole if length > BEGINNING => (Kept::Beginning, BEGINNING),
            Kept::Whole | Kept::Beginning => (Kept::Least, LEAST),
            Kept::Least => return None,
        };
        if kept == Kept::Least {
            key = None;
            headers = without_originals(&headers).insert(Header { key: header::BARE, value: Some("true") });
        }
        // From the second time on these stand there.
        if self == Kept::Whole {
            if length > most {
                headers = headers.insert(Header { key: header::TRUNCATED, value: Some(&length.to_string()) });
            }
            if let Some(contact) = contact {
                headers = headers.insert(Header { key: header::CONTACT, value: Some(&contact.whole()) });
            }
        }
        let value = value.map(|value| &value[..length.min(most)]);
        Some((kept, Text { key, value, headers }))
    }
}

/// Where even the shortest is too large.
pub fn too_large(topic: &str, headers: &OwnedHeaders) -> KafkaProblem {
    let headers = headers_of(headers);
    let source = headers.iter().rfind(|(name, _)| name == origin::SOURCE).and_then(|(_, value)| value.as_deref());
    let source = source.map_or_else(|| "a record".into(), String::from_utf8_lossy);
    let what = format!(
        "even the shortest dead letter of {source} (topic/partition/offset/time) is too large for it: raise its \
         max.message.bytes, and topics.max_message_bytes"
    );
    KafkaProblem::unwritten(topic, &what)
}

fn without_originals(headers: &OwnedHeaders) -> OwnedHeaders {
    let mut all: Headers = headers_of(headers);
    let ours = all.split_off(super::record::begin_of_ours(&all).unwrap_or(0));
    ours.iter().fold(OwnedHeaders::new_with_capacity(ours.len() + 3), |headers, (key, value)| {
        headers.insert(Header { key, value: value.as_deref() })
    })
}

#[cfg(test)]
mod tests {
    use super::super::{Kind, Letter, Origin, Reason, Undeliverable, Verdict};
    use super::*;

    fn text<'a>(key: &'a [u8], value: &'a [u8]) -> Text<'a> {
        let origin =
            Origin { topic: "events".into(), partition: 2, offset: 7, timestamp: 5, key: None, item: None, road: None };
        let reason = Reason::Undeliverable(Undeliverable::Rejected);
        let original = vec![("huge".to_owned(), Some(vec![b'x'; 100_000])), ("nat.reason".to_owned(), None)];
        let headers = Verdict { origin: &origin, stage: "deliver", reason, attempts: None }.headers(&original);
        Text { key: Some(key), value: Some(value), headers }
    }

    fn letter(text: &Text<'_>) -> Letter {
        match Kind::of(text.key, text.value, headers_of(&text.headers)) {
            Kind::Letter(letter) => *letter,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_letter_gets_shorter_in_two_steps_and_is_one_still() {
        let (key, value, ada) = (vec![b'k'; 90_000], vec![b'v'; 200_000], Contact::of("ada@example.com"));
        let (kept, beginning) = Kept::Whole.shorter(text(&key, &value), Some(ada)).expect("shorter");
        let told = letter(&beginning);
        assert_eq!(
            (kept, beginning.value.map(<[u8]>::len), told.truncated),
            (Kept::Beginning, Some(BEGINNING), Some(200_000))
        );
        assert_eq!((told.contact, told.original.len(), told.bare), (Some(ada), 2, false));
        let (kept, least) = kept.shorter(beginning, Some(ada)).expect("shorter still");
        let told = letter(&least);
        assert_eq!((kept, least.key, least.value.map(<[u8]>::len)), (Kept::Least, None, Some(LEAST)));
        assert_eq!((told.truncated, told.contact, told.bare), (Some(200_000), Some(ada), true));
        assert!(told.original.is_empty() && told.newer.is_empty() && told.reason == "rejected", "{told:?}");
        assert!(too_large("n.dead-letter", &least.headers).to_string().contains("of events/2/7/5 (topic/"));
        assert!(kept.shorter(least, Some(ada)).is_none());
    }

    #[test]
    fn a_small_value_beside_a_large_key_or_header_stays_whole() {
        let key = vec![b'k'; 90_000];
        let (kept, least) = Kept::Whole.shorter(text(&key, b"{}"), None).expect("shorter");
        let told = letter(&least);
        assert_eq!((kept, least.value, told.truncated, told.bare), (Kept::Least, Some(&b"{}"[..]), None, true));
        let tombstone = Text { value: None, ..text(&key, b"") };
        assert_eq!(Kept::Whole.shorter(tombstone, None).expect("shorter").1.value, None);
    }
}
