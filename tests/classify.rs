//! The classifier answers every conformance case as the design says, and no bytes get past it without an outcome.

use jiff::Timestamp;
use nat_destination::segment::{Invalid, Outcome, Reading, Rules, classify, read};
use serde_json::{Value, json};

const EVENTS: &str = include_str!("conformance/events.jsonl");
const BYTES: &str = include_str!("conformance/bytes.jsonl");

fn now() -> Timestamp {
    "2026-11-24T12:00:00Z".parse().unwrap()
}

fn cases(lines: &str) -> impl Iterator<Item = Value> {
    lines.lines().filter(|line| !line.trim().is_empty()).map(|line| serde_json::from_str(line).unwrap())
}

/// What the cases call an outcome.
fn answer(outcome: &Outcome) -> Value {
    match outcome {
        Outcome::Identify(identify) => json!({
            "outcome": "deliver",
            "email": identify.email,
            "day": identify.day.to_string(),
            "url": identify.url(),
            "description": identify.description(),
        }),
        Outcome::Filtered(reason) => json!({"outcome": "filtered", "reason": reason.as_str()}),
        Outcome::Invalid { reason, email } => {
            let outcome = if reason.is_malformed() { "malformed" } else { "invalid" };
            let mut answer = json!({"outcome": outcome, "reason": reason.as_str()});
            if let Some(email) = email {
                answer["email"] = json!(email);
            }
            answer
        }
    }
}

/// What a record answers; a batch answers item by item, and delivers if one item does.
fn answer_of_record(value: &[u8]) -> Value {
    let rules = Rules::default();
    match read(&rules, Some(value), now()) {
        Reading::One { event, outcome } => {
            assert_eq!(classify(&rules, event, now()), outcome, "a bare event, read and classified");
            answer(&outcome)
        }
        Reading::Batch(items) => {
            let items: Vec<Value> = items.iter().map(|item| answer(&classify(&rules, item, now()))).collect();
            json!({"outcome": "deliver", "items": items})
        }
    }
}

#[test]
fn every_conformance_case_is_answered_as_expected() {
    let mut count = 0;
    let mut failures = Vec::new();
    for case in cases(EVENTS) {
        let got = answer_of_record(case["input"].as_str().unwrap().as_bytes());
        if got != case["expect"] {
            failures.push(format!("{}: got {got}, expected {}", case["name"], case["expect"]));
        }
        count += 1;
    }
    assert!(count > 100, "only {count} cases were read");
    assert!(failures.is_empty(), "{} of {count} failed:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn values_that_are_no_text_are_malformed() {
    for case in cases(BYTES) {
        let value = decode_base64(case["input_base64"].as_str().unwrap());
        let outcome = answer_of_record(&value);
        assert_eq!(outcome["outcome"], "malformed", "{}", case["name"]);
        assert_eq!(outcome["reason"], Invalid::NotJson.as_str(), "{}", case["name"]);
    }
}

/// Nesting of any depth is skipped without recursion: a stack of 128 KB is enough for a million levels.
#[test]
fn nesting_a_million_deep_is_classified_on_a_small_stack() {
    let on_small_stack = std::thread::Builder::new().stack_size(128 << 10);
    let thread = on_small_stack.spawn(|| {
        let deep = format!("{}{}", "[".repeat(1_000_000), "]".repeat(1_000_000));
        let deeper = format!("{}1{}", "{\"a\":".repeat(1_000_000), "}".repeat(1_000_000));
        let broken = "[".repeat(1_000_000);
        for nest in [&deep, &deeper] {
            let event = format!(
                r#"{{"x":{nest},"type":"identify","email":"a@example.com","traits":{{"x":{nest}}},
                "context":{{"personas":{nest}}},"timestamp":"2020-05-31","integrations":{{"x":1}}}}"#
            );
            assert_eq!(answer_of_record(event.as_bytes())["outcome"], "deliver");
            let batch = format!(r#"{{"context":{{"y":{nest}}},"batch":[{event},{nest}]}}"#);
            assert_eq!(answer_of_record(batch.as_bytes())["items"][0]["outcome"], "deliver");
            let page = format!(r#"{{"x":{nest},"type":"page"}}"#);
            assert_eq!(answer_of_record(page.as_bytes())["outcome"], "filtered");
        }
        for value in [&deep, &broken, &format!("{{\"type\":\"identify\",\"a\":{broken}")] {
            assert_eq!(answer_of_record(value.as_bytes())["outcome"], "malformed");
        }
    });
    thread.unwrap().join().unwrap();
}

#[test]
fn a_text_of_ten_megabytes_is_no_trouble_anywhere() {
    let long = "x".repeat(10 << 20);
    let event = |name: &str| {
        format!(r#"{{"type":"identify","email":"a@example.com","timestamp":"2020-05-31","{name}":"{long}"}}"#)
    };
    for name in ["unrelated", "url", "event", "messageId", "userId", "traits", "context", "integrations"] {
        assert_eq!(answer_of_record(event(name).as_bytes())["outcome"], "deliver", "{name}");
    }
    assert_eq!(answer_of_record(event("timestamp").as_bytes())["reason"], "invalid_timestamp");
    assert_eq!(answer_of_record(event("email").as_bytes())["reason"], "invalid_email");
    assert_eq!(answer_of_record(event("type").as_bytes())["reason"], "not_identify");
}

fn decode_base64(text: &str) -> Vec<u8> {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut bytes = Vec::new();
    let (mut bits, mut count) = (0_u32, 0);
    for symbol in text.bytes().filter(|symbol| *symbol != b'=') {
        let value = ALPHABET.iter().position(|known| *known == symbol).unwrap();
        bits = bits << 6 | value as u32;
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    bytes
}
