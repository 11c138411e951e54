//! What the stand-in reads of a request's body.
//!
//! As tolerant as a JavaScript server: the last of repeated keys wins, and a lone surrogate or a number out of range in
//! a field nobody asks for is nobody's business. That is why the members of an object stay raw text here: serde_json's
//! `Value` would refuse the whole body for one such field, and a derived struct for a repeated key.

use std::borrow::Cow;
use std::fmt;

use jiff::Timestamp;
use jiff::tz::Offset;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use super::log::Engage;

#[derive(Debug, Default)]
pub(super) struct Event {
    pub kind: Option<String>,
    /// As it was sent: whether it had been normalised is for the oracle to see.
    pub email: Option<String>,
    pub has_timestamp: bool,
    /// The UTC date of a timestamp that could be read.
    pub day: Option<String>,
    pub engage: Option<Engage>,
    pub message_id: Option<String>,
}

impl Event {
    /// An error: not JSON, or JSON but no object.
    pub fn read(body: &[u8]) -> Result<Event, serde_json::Error> {
        let root: Object = serde_json::from_slice(body)?;
        let traits = root.object("traits").unwrap_or_default();
        let personas = root.object("context").and_then(|context| context.object("personas")).unwrap_or_default();
        let timestamp = root.text("timestamp");
        Ok(Event {
            kind: root.text("type"),
            email: traits.text("email").or_else(|| root.text("email")),
            has_timestamp: root.get("timestamp").is_some_and(|raw| raw.get() != "null"),
            day: timestamp.and_then(|text| text.parse::<Timestamp>().ok()).map(utc_day),
            engage: personas.text("computation_key").map(|key| {
                let value = traits.get(&key).map_or(Value::Null, value_of);
                Engage { key, value }
            }),
            message_id: root.text("messageId"),
        })
    }
}

fn utc_day(instant: Timestamp) -> String {
    Offset::UTC.to_datetime(instant).date().to_string()
}

/// A value `Value` cannot hold (a lone surrogate) is logged as its text; it still differs from every other.
fn value_of(raw: &RawValue) -> Value {
    serde_json::from_str(raw.get()).unwrap_or_else(|_| Value::String(raw.get().to_owned()))
}

/// An object's members in their order, values untouched. Keys are bytes, since a lone surrogate is no `str`.
#[derive(Default)]
struct Object<'j>(Vec<(Cow<'j, [u8]>, &'j RawValue)>);

impl<'j> Object<'j> {
    fn get(&self, key: &str) -> Option<&'j RawValue> {
        self.0.iter().rev().find(|(name, _)| **name == *key.as_bytes()).map(|(_, value)| *value)
    }

    /// A text that says something.
    fn text(&self, key: &str) -> Option<String> {
        let text: String = serde_json::from_str(self.get(key)?.get()).ok()?;
        (!text.trim().is_empty()).then_some(text)
    }

    fn object(&self, key: &str) -> Option<Object<'j>> {
        serde_json::from_str(self.get(key)?.get()).ok()
    }
}

impl<'de> Deserialize<'de> for Object<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Object<'de>;

            fn expecting(&self, text: &mut fmt::Formatter) -> fmt::Result {
                text.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::with_capacity(8);
                while let Some((Key(key), value)) = map.next_entry()? {
                    members.push((key, value));
                }
                Ok(Object(members))
            }
        }
        deserializer.deserialize_map(Members)
    }
}

struct Key<'j>(Cow<'j, [u8]>);

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl<'de> Visitor<'de> for Bytes {
            type Value = Key<'de>;

            fn expecting(&self, text: &mut fmt::Formatter) -> fmt::Result {
                text.write_str("an object's key")
            }

            fn visit_bytes<E>(self, key: &[u8]) -> Result<Self::Value, E> {
                Ok(Key(Cow::Owned(key.to_vec())))
            }

            fn visit_borrowed_bytes<E>(self, key: &'de [u8]) -> Result<Self::Value, E> {
                Ok(Key(Cow::Borrowed(key)))
            }
        }
        deserializer.deserialize_bytes(Bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_of_repeated_keys_wins() {
        let event = Event::read(br#"{"type":"track","type":"identify","email":"a@x.io","email":"b@x.io"}"#).unwrap();
        assert_eq!(event.kind.as_deref(), Some("identify"));
        assert_eq!(event.email.as_deref(), Some("b@x.io"));
    }

    #[test]
    fn what_nobody_asks_for_may_be_odd() {
        let body = br#"{"type":"identify","\ud83d":"\ud83d","x":1e400,"traits":{"email":"a@x.io","n":"\udc00"}}"#;
        let event = Event::read(body).unwrap();
        assert_eq!(event.email.as_deref(), Some("a@x.io"));
    }

    #[test]
    fn the_day_is_the_utc_date() {
        let event = Event::read(br#"{"timestamp":"2020-05-31T23:30:00-04:00"}"#).unwrap();
        assert_eq!(event.day.as_deref(), Some("2020-06-01"));
    }

    #[test]
    fn an_engage_event_shows_its_key_and_value() {
        let body = br#"{"traits":{"email":"a@x.io","vip":false},"context":{"personas":{"computation_key":"vip"}}}"#;
        let engage = Event::read(body).unwrap().engage.unwrap();
        assert_eq!((engage.key.as_str(), engage.value), ("vip", Value::Bool(false)));
    }
}
