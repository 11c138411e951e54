//! Batches: Segment's `{"batch":[…]}` holds many events, and what it says in `context` and `integrations` holds
//! for each.
//!
//! An event must mean the same alone as in its batch, since it travels alone from here on. So what the batch says is
//! written into the items, object by object, where the item does not say it itself. Only identify calls
//! are rewritten: nothing that a batch can say makes another call of an item.

use std::borrow::Cow;
use std::collections::HashSet;

use super::event::Event;
use super::{Filtered, Invalid, Outcome, Rules, json, members};

/// The most bytes that are written into the items of one batch. Real batches need a thousandth; without an end,
/// a record of one megabyte with a large context and many small items would unfold to gigabytes.
const MAX_ADDED: usize = 64 << 20;

/// The events of a batch; `None` when it is none. A batch without events, or one that would unfold without
/// measure, is one outcome by itself.
pub(super) fn open<'a>(rules: &Rules, envelope: &Event<'a>) -> Option<Result<Vec<Cow<'a, [u8]>>, Outcome<'a>>> {
    let items = json::items(envelope.batch()?);
    if items.is_empty() {
        return Some(Err(Outcome::Filtered(Filtered::NotIdentify)));
    }
    let shared = [Shared::new("context", envelope.context.raw), Shared::new("integrations", envelope.integrations)];
    let mut added = 0;
    let mut events = Vec::with_capacity(items.len());
    for item in items {
        let event = complete(rules, item, &shared);
        if let Cow::Owned(text) = &event {
            added += text.len().saturating_sub(item.len());
        }
        if added > MAX_ADDED {
            return Some(Err(Outcome::invalid(Invalid::TooLarge)));
        }
        events.push(match event {
            Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
            Cow::Owned(text) => Cow::Owned(text.into_bytes()),
        });
    }
    Some(Ok(events))
}

/// An object that the batch shares with its items, and its members as raw keys and values.
struct Shared<'a> {
    name: &'static str,
    object: &'a str,
    members: Vec<(&'a str, &'a str)>,
}

impl<'a> Shared<'a> {
    /// Without members, and so of no effect, when it is missing or no object.
    fn new(name: &'static str, raw: Option<&'a str>) -> Self {
        let object = raw.filter(|raw| json::is_object(raw)).unwrap_or("{}");
        Shared { name, object, members: members(object) }
    }

    /// What the item's own raw object becomes; `None` when it stays as it is.
    fn merged_into(&self, own: Option<&str>) -> Option<String> {
        if self.members.is_empty() {
            return None;
        }
        let Some(own) = own.filter(|raw| *raw != "null") else {
            return Some(self.object.to_owned());
        };
        if !json::is_object(own) {
            return None;
        }
        let own_members = members(own);
        let own_names: HashSet<_> = own_members.iter().map(|(key, _)| self.name_of(key)).collect();
        let mut merged = String::from("{");
        for (key, value) in &self.members {
            if !own_names.contains(&self.name_of(key)) {
                push_member(&mut merged, key, value);
            }
        }
        if merged.len() == 1 {
            return None;
        }
        for (key, value) in own_members {
            push_member(&mut merged, key, value);
        }
        merged.push('}');
        Some(merged)
    }

    /// What makes two keys the same: as everywhere, ASCII case does not count, but among `integrations`, where the
    /// only pair with one meaning is `All` and `all`.
    fn name_of<'k>(&self, raw_key: &'k str) -> Cow<'k, str> {
        match json::text_within(raw_key) {
            name if self.name == "integrations" && name != "All" => name,
            name => Cow::Owned(name.to_ascii_lowercase()),
        }
    }
}

fn push_member(object: &mut String, key: &str, value: &str) {
    if !object.ends_with('{') {
        object.push(',');
    }
    object.push_str(key);
    object.push(':');
    object.push_str(value);
}

/// The item with what the batch says for it.
fn complete<'a>(rules: &Rules, item: &'a str, shared: &[Shared<'_>; 2]) -> Cow<'a, str> {
    let mut text = Cow::Borrowed(item);
    for object in shared {
        // Parsed again after a change, because the places have moved.
        let Some(changed) = with_shared(rules, &text, object) else {
            continue;
        };
        text = Cow::Owned(changed);
    }
    text
}

fn with_shared(rules: &Rules, item: &str, shared: &Shared<'_>) -> Option<String> {
    if shared.members.is_empty() {
        return None;
    }
    let event = Event::parse(rules, item.as_bytes()).ok()?;
    if !event.is_identify() {
        return None;
    }
    let own = match shared.name {
        "context" => event.context.raw,
        _ => event.integrations,
    };
    let merged = shared.merged_into(own)?;
    Some(match own {
        Some(own) => replaced(item, own, &merged),
        None => inserted(item, shared.name, &merged),
    })
}

/// `item` with `own`, a part of it, replaced.
fn replaced(item: &str, own: &str, merged: &str) -> String {
    let start = own.as_ptr().addr() - item.as_ptr().addr();
    let end = start + own.len();
    [&item[..start], merged, &item[end..]].concat()
}

/// `item`, an identify call and so an object with a member at least, with another one in front.
fn inserted(item: &str, name: &str, value: &str) -> String {
    let rest = item.strip_prefix('{').unwrap_or(item);
    ["{\"", name, "\":", value, ",", rest].concat()
}

#[cfg(test)]
mod tests {
    use super::super::{Reading, classify};
    use super::*;

    fn opened(value: &str) -> Vec<String> {
        let now = "2026-11-24T12:00:00Z".parse().unwrap();
        match super::super::read(&Rules::default(), Some(value.as_bytes()), now) {
            Reading::Batch(items) => items.iter().map(|item| String::from_utf8(item.to_vec()).unwrap()).collect(),
            Reading::One { outcome, .. } => vec![format!("{outcome:?}")],
        }
    }

    /// The item that `item` becomes in a batch that shares these members.
    fn in_batch(shared: &str, item: &str) -> String {
        opened(&format!(r#"{{{shared},"batch":[{item}]}}"#)).remove(0)
    }

    #[test]
    fn items_are_taken_out_byte_for_byte() {
        let batch = r#"{"batch" : [ {"type" : "identify"} ,5, {"a":"\ud83d"},null ],"type":"Batch","sentAt":1}"#;
        assert_eq!(opened(batch), [r#"{"type" : "identify"}"#, "5", r#"{"a":"\ud83d"}"#, "null"]);
    }

    #[test]
    fn a_call_that_also_holds_a_batch_is_that_call() {
        assert_eq!(opened(r#"{"type":"track","batch":[5]}"#), ["Filtered(NotIdentify)"]);
        assert_eq!(opened(r#"{"type":"batch","batch":{}}"#), ["Filtered(NotIdentify)"]);
        assert_eq!(opened(r#"{"batch":[]}"#), ["Filtered(NotIdentify)"]);
        assert_eq!(opened(r#"{"type":null,"batch":[5]}"#), ["5"]);
    }

    #[test]
    fn a_batch_in_a_batch_is_a_dead_letter_and_not_forgotten() {
        let now = "2026-11-24T12:00:00Z".parse().unwrap();
        let item = opened(r#"{"batch":[{"type":"batch","batch":[{"type":"identify"}]}]}"#).remove(0);
        let outcome = classify(&Rules::default(), item.as_bytes(), now);
        assert_eq!(outcome, Outcome::invalid(Invalid::MissingType));
    }

    #[test]
    fn what_the_batch_says_holds_for_an_item_that_does_not_say_it() {
        let shared = r#""context":{"ip": 1},"Integrations":{"All":false}"#;
        assert_eq!(
            in_batch(shared, r#"{ "type":"identify", "a":1e400 }"#),
            r#"{"integrations":{"All":false},"context":{"ip": 1}, "type":"identify", "a":1e400 }"#
        );
        assert_eq!(
            in_batch(shared, r#"{"context":null,"type":"identify","integrations": null }"#),
            r#"{"context":{"ip": 1},"type":"identify","integrations": {"All":false} }"#
        );
    }

    #[test]
    fn members_of_the_item_win_one_by_one() {
        let shared = r#""context":{"ip":1,"PAGE":{"url":"b"}},"integrations":{"All":false,"Nat":false}"#;
        assert_eq!(
            in_batch(shared, r#"{"type":"identify","context":{"page" : {}}, "integrations":{"all":true}}"#),
            r#"{"type":"identify","context":{"ip":1,"page":{}}, "integrations":{"Nat":false,"all":true}}"#
        );
        // The last of repeated members is the one that counts, and the one that is completed.
        assert_eq!(
            in_batch(r#""context":{"ip":1}"#, r#"{"type":"identify","context":{"a":1},"context":{"b":2}}"#),
            r#"{"type":"identify","context":{"a":1},"context":{"ip":1,"b":2}}"#
        );
    }

    #[test]
    fn an_item_that_needs_nothing_stays_as_it_is() {
        let shared = r#""context":{"ip":1},"integrations":[]"#;
        for item in [
            r#"{"type":"track"}"#,
            r#"{"type":"identify","context":{"IP" : 2}}"#,
            r#"{"type":"identify","context":"none"}"#,
            "{}",
            "[]",
        ] {
            assert_eq!(in_batch(shared, item), item);
        }
    }

    #[test]
    fn a_batch_that_would_unfold_without_measure_is_a_dead_letter() {
        let context = "x".repeat(500_000);
        let items = vec![r#"{"type":"identify"}"#; 20_000].join(",");
        let batch = format!(r#"{{"context":{{"x":"{context}"}},"batch":[{items}]}}"#);
        assert_eq!(opened(&batch), ["Invalid { reason: TooLarge, email: None }"]);
    }
}
