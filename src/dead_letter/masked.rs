//! An event without its personal data: names and shape stay, so that one sees what is there and what is not. Pure.

use serde_json::Value;

/// Members of the event itself whose text is Segment's own and tells nothing of a person.
const SHOWN: [&str; 9] = [
    "type",
    "timestamp",
    "originalTimestamp",
    "sentAt",
    "receivedAt",
    "channel",
    "version",
    "integrations",
    "messageId",
];

/// The value as it may be shown to anybody.
pub fn masked(bytes: &[u8]) -> Value {
    match serde_json::from_slice::<Value>(bytes) {
        Ok(Value::Object(members)) => {
            let member = |(name, value): (String, Value)| {
                let shown = SHOWN.iter().any(|shown| shown.eq_ignore_ascii_case(&name));
                (name_of(name), if shown { without_addresses(value) } else { mask(value) })
            };
            Value::Object(members.into_iter().map(member).collect())
        }
        Ok(other) => mask(other),
        Err(_) => format!("({} bytes that cannot be read as JSON)", bytes.len()).into(),
    }
}

fn mask(value: Value) -> Value {
    match value {
        Value::Null | Value::Bool(_) => value,
        Value::Number(_) => "(number)".into(),
        Value::String(text) => format!("(text of {} characters)", text.chars().count()).into(),
        Value::Array(items) => items.into_iter().map(mask).collect(),
        Value::Object(members) => members.into_iter().map(|(name, value)| (name_of(name), mask(value))).collect(),
    }
}

/// What looks like an address is one, wherever it stands.
fn without_addresses(value: Value) -> Value {
    match value {
        Value::String(text) if text.contains('@') => mask(text.into()),
        Value::Array(_) => mask(value),
        Value::Object(members) => {
            members.into_iter().map(|(name, value)| (name_of(name), without_addresses(value))).collect()
        }
        other => other,
    }
}

fn name_of(name: String) -> String {
    if name.contains('@') { format!("(name of {} characters)", name.chars().count()) } else { name }
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
    }
}
