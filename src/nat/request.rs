//! The request: one event in Nat.app's recommended format, whatever format it came in.

use serde::Serialize;
use serde_json::value::RawValue;

use crate::dedup::DedupKey;
use crate::segment::{self, Engage, Identify};

#[derive(Serialize)]
struct Body<'a> {
    r#type: &'static str,
    timestamp: String,
    traits: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    page: Option<Page<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    event: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none", rename = "messageId")]
    message_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none", rename = "userId")]
    user_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<Context<'a>>,
}

#[derive(Serialize)]
struct Page<'a> {
    url: &'a str,
}

#[derive(Serialize)]
struct Context<'a> {
    personas: &'a RawValue,
}

/// The email alone; an Engage event keeps its other traits as they came.
fn traits(email: &str, engage: Option<&Engage<'_>>) -> Option<Box<RawValue>> {
    let mut object = format!("{{\"email\":{}", serde_json::Value::from(email));
    for (key, value) in engage.map(|engage| segment::members(engage.traits)).unwrap_or_default() {
        let bare = key.trim_matches('"');
        if !bare.eq_ignore_ascii_case("email") {
            object.push_str(&format!(",{key}:{value}"));
        }
    }
    object.push('}');
    RawValue::from_string(object).ok()
}

/// The body of the request. It depends on the event alone, so that every attempt sends the same bytes.
pub fn body(identify: &Identify<'_>) -> Vec<u8> {
    let engage = identify.engage.as_ref();
    let personas = engage.and_then(|engage| serde_json::from_str::<&RawValue>(engage.personas).ok());
    let (url, event) = (identify.url(), identify.event());
    let (message_id, user_id) = (identify.message_id(), identify.user_id());
    let body = Body {
        r#type: "identify",
        timestamp: format!("{:.3}", identify.instant),
        traits: traits(&identify.email, engage),
        page: url.as_deref().map(|url| Page { url }),
        event: event.as_deref(),
        message_id: message_id.as_deref(),
        user_id: user_id.as_deref(),
        context: personas.map(|personas| Context { personas }),
    };
    // Serialising texts and checked JSON into memory has nothing that can fail.
    serde_json::to_vec(&body).unwrap_or_default()
}

/// The same for every attempt at one event, another for the next event of that day: a server that remembers the first
/// one's 400 must not answer it to the second.
pub fn idempotency_key(key: &DedupKey, event: &[u8]) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&key.key.0);
    hasher.update(event);
    hasher.finalize().to_hex()[..32].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::{Outcome, Rules, classify};

    fn request(event: &str) -> String {
        let now = "2026-11-24T00:00:00Z".parse().expect("a time");
        match classify(&Rules::default(), event.as_bytes(), now) {
            Outcome::Identify(identify) => String::from_utf8(body(&identify)).expect("text"),
            other => panic!("{event} is {other:?}"),
        }
    }

    #[test]
    fn every_format_becomes_the_recommended_one() {
        let alternative = r#"{"timestamp":"2020-05-31T19:55:47.2634+02:00","type":"Identify","email":" Test@Example.com ","event":"User logged in"}"#;
        assert_eq!(
            request(alternative),
            r#"{"type":"identify","timestamp":"2020-05-31T17:55:47.263Z","traits":{"email":"test@example.com"},"event":"User logged in"}"#
        );
        let browser = r#"{"type":"identify","timestamp":1590947747,"userId":"u","messageId":"m","traits":{"email":"a@b.cc","x":1},"context":{"page":{"url":"https://x"}}}"#;
        assert_eq!(
            request(browser),
            r#"{"type":"identify","timestamp":"2020-05-31T17:55:47.000Z","traits":{"email":"a@b.cc"},"page":{"url":"https://x"},"messageId":"m","userId":"u"}"#
        );
    }

    #[test]
    fn an_engage_event_keeps_its_traits_and_personas() {
        let engage = r#"{"type":"identify","timestamp":"2020-05-31T17:55:47Z","traits":{"Email":"A@b.cc","vip":"true","n":1e400},"context":{"personas":{"computation_key":"vip"},"ip":"1.2.3.4"}}"#;
        assert_eq!(
            request(engage),
            r#"{"type":"identify","timestamp":"2020-05-31T17:55:47.000Z","traits":{"email":"a@b.cc","vip":"true","n":1e400},"context":{"personas":{"computation_key":"vip"}}}"#
        );
    }

    #[test]
    fn the_idempotency_key_is_the_events_own() {
        let key = |event: &[u8]| {
            idempotency_key(&DedupKey { key: crate::dedup::Key([1; 16]), kind: crate::dedup::Kind::Visit }, event)
        };
        assert_eq!(key(b"a"), key(b"a"));
        assert_ne!(key(b"a"), key(b"b"));
        assert_eq!(key(b"a").len(), 32);
    }
}
