//! An event without its personal data: names and shape stay, so that one sees what is there and what is not. A text is shown only
//! where it has the form that Segment gives it: whoever writes the event may put anything anywhere. Pure.

use serde_json::{Map, Value};

use crate::counted::counted;

const CALLS: [&str; 6] = ["identify", "track", "page", "screen", "group", "alias"];
const CHANNELS: [&str; 3] = ["server", "browser", "mobile"];
const TIMES: [&str; 4] = ["timestamp", "originalTimestamp", "sentAt", "receivedAt"];

/// The value as it may be shown to anybody.
pub fn masked(bytes: &[u8]) -> Value {
    match serde_json::from_slice::<Value>(bytes) {
        Ok(Value::Object(members)) => object(members, |name, value| {
            let shown = value.as_str().is_some_and(|text| is_segments_own(name, text));
            if shown { value } else { mask(value) }
        }),
        Ok(other) => mask(other),
        Err(_) => format!("({} that cannot be read as JSON)", counted(bytes.len() as u64, "byte")).into(),
    }
}

/// The name of a member or a header, where it is one that a program would give.
pub fn name(name: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_$. -".contains(c);
    let has_letter = name.contains(|c: char| c.is_ascii_alphabetic());
    match has_letter && name.len() <= 60 && name.chars().all(is_plain) {
        true => name.to_owned(),
        false => format!("(name of {})", counted(name.chars().count() as u64, "character")),
    }
}

/// What stands for bytes that are not shown.
pub fn length(bytes: &[u8]) -> String {
    format!("({})", counted(bytes.len() as u64, "byte"))
}

/// Whether a member of the event itself holds what Segment puts there, which tells nothing of a person.
fn is_segments_own(name: &str, text: &str) -> bool {
    let is = |wanted: &str| name.eq_ignore_ascii_case(wanted);
    let one_of = |words: &[&str]| words.iter().any(|word| word.eq_ignore_ascii_case(text));
    (is("type") && one_of(&CALLS))
        || (is("channel") && one_of(&CHANNELS))
        || (TIMES.into_iter().any(is) && is_time(text))
}

/// It begins with a date: a telephone number is made of the same characters.
fn is_time(text: &str) -> bool {
    let begins = text.bytes().zip("0000-00-00".bytes()).all(|(byte, form)| match form {
        b'0' => byte.is_ascii_digit(),
        form => byte == form,
    });
    let rest = |c: char| c.is_ascii_digit() || "-:TZ+. ".contains(c);
    (10..=40).contains(&text.len()) && begins && text.chars().all(rest)
}

fn mask(value: Value) -> Value {
    match value {
        Value::Null | Value::Bool(_) => value,
        Value::Number(_) => "(number)".into(),
        Value::String(text) => format!("(text of {})", counted(text.chars().count() as u64, "character")).into(),
        Value::Array(items) => items.into_iter().map(mask).collect(),
        Value::Object(members) => object(members, |_, value| mask(value)),
    }
}

fn object(members: Map<String, Value>, mask: impl Fn(&str, Value) -> Value) -> Value {
    let mut masked = Map::new();
    for (of, value) in members {
        let value = mask(&of, value);
        let mut shown = name(&of);
        // Two that look alike are two.
        while masked.contains_key(&shown) {
            shown.push('\'');
        }
        masked.insert(shown, value);
    }
    Value::Object(masked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_shape_stay_and_nothing_personal_does() {
        let event = r#"{"type":"identify","timestamp":"2026-11-20","messageId":"ada@example.com-1","userId":815,
            "traits":{"Email":"ada@example.com","ada@example.com":true,"tags":["vip"]},"integrations":{"Nat":false}}"#;
        let text = format!("{:#}", masked(event.as_bytes()));
        for there in
            ["\"identify\"", "2026-11-20", "\"Email\": \"(text of 15 characters)\"", "\"Nat\": false", "(number)"]
        {
            assert!(text.contains(there), "{there} in {text}");
        }
        for gone in ["ada", "vip", "815"] {
            assert!(!text.contains(gone), "{gone} in {text}");
        }
        assert_eq!(masked(b"ada@example.com"), "(15 bytes that cannot be read as JSON)");
        assert_eq!(masked(b"\"ada\""), "(text of 3 characters)");
        assert_eq!((masked(b"\"a\""), name("@")), ("(text of 1 character)".into(), "(name of 1 character)".into()));
        assert_eq!(masked(b"a"), "(1 byte that cannot be read as JSON)");
        assert_eq!((length(b""), length(b"a")), ("(0 bytes)".into(), "(1 byte)".into()));
    }

    #[test]
    fn what_stands_in_segments_members_is_shown_only_in_segments_form() {
        let event = r#"{"type":"Ada","messageId":"ada%40example.com-17","channel":"+41 79 123 45 67","version":"Ada",
            "integrations":{"All":true,"Intercom":{"user_hash":"7c1d","name":"Ada","phone":"+41791234567"},"Ada":"x@y"},
            "timestamp":"+41 79 123 45 67","sentAt":"2026-11-20 for Ada","receivedAt":41791234567,
            "originalTimestamp":"2026-11-20T08:00:00.000+01:00",
            "traits":{"ada%40example.com":"x","ada%40example.org":"y","+41791234567":1,"0791234567":2,"Ada\u00e9":3}}"#;
        let masked = masked(event.as_bytes());
        let text = masked.to_string();
        assert_eq!(text.matches("Ada").count(), 1, "the name that has a plain form: {text}");
        for gone in ["ada", "41", "791", "7c1d", "@", "%40", "for"] {
            assert!(!text.replace("2026-11-20T08:00:00.000+01:00", "").contains(gone), "{gone} in {text}");
        }
        assert_eq!(masked["originalTimestamp"], "2026-11-20T08:00:00.000+01:00");
        assert_eq!(masked["integrations"]["All"], true);
        assert_eq!(masked["integrations"]["Intercom"]["name"], "(text of 3 characters)");
        assert_eq!(masked["traits"].as_object().map(Map::len), Some(5), "{text}");
        for call in [r#"{"type":"track","channel":"server"}"#, r#"{"channel":"mobile","type":"identify"}"#] {
            assert!(masked_is_whole(call), "{call}");
        }
    }

    fn masked_is_whole(event: &str) -> bool {
        serde_json::from_str::<Value>(event).is_ok_and(|whole| whole == masked(event.as_bytes()))
    }
}
