//! Dismissal is exact: it is compared with the full classifier over texts made of everything that could mislead it.

use jiff::Timestamp;
use proptest::prelude::*;

use super::super::record::read_fully;
use super::super::{Filtered, Invalid, Outcome, Reading, Rules};
use super::*;

/// What the full classifier says, in a word.
fn in_full(value: &[u8]) -> &'static str {
    let now: Timestamp = "2026-11-24T12:00:00Z".parse().unwrap();
    match read_fully(&Rules::default(), value, now) {
        Reading::Batch(_) => "batch",
        Reading::One { outcome, .. } => match outcome {
            Outcome::Identify(_) => "identify",
            Outcome::Filtered(reason) => reason.as_str(),
            Outcome::Invalid { reason, .. } => reason.as_str(),
        },
    }
}

#[test]
fn other_calls_are_dismissed() {
    for event in [
        r#"{"type":"track"}"#,
        " \r\n\t{ \"type\"\t:\n\"track\" } \n",
        r#"{"type":"track","context":{"device":{"type":"ios"}},"properties":{"type":"a"}}"#,
        r#"{"context":{"device":{"type":"ios"}},"userId":"\\","type":"page","a":["\"",{}]}"#,
        r#"{"event":"type","x":"\"type\":null","a\"type":[],"type":"screen","b":"x"}"#,
        r#"{"Type":"x","type":"group"}"#,
        r#"{"type":" "}"#,
        r#"{"type":"track","batch":[{"type":"alias"}]}"#,
        r#"{"a":"\u00e9\u2028","type":"track"}"#,
        r#"{"type":"track","event":"identify","x":"\"type\":\"identify\""}"#,
    ] {
        assert!(dismiss(event.as_bytes()), "{event}");
        assert_eq!(in_full(event.as_bytes()), Filtered::NotIdentify.as_str(), "{event}");
    }
}

#[test]
fn whatever_may_be_more_is_left_to_the_parser() {
    for event in [
        "",
        " ",
        "[]",
        r#"[{"type":"track"}]"#,
        r#""type":"track""#,
        r#"{"type":"identify"}"#,
        r#"{"type" : "IdEnTiFy"}"#,
        r#"{"type":"track","x":{"type":"IDENTIFY"}}"#,
        r#"{"type":"identify","type":"track"}"#,
        r#"{"type":"track","type":"identify"}"#,
        r#"{"type":"track","type":"\u0069dentify"}"#,
        r#"{"type":"track","type":"\u0049DENTIFY"}"#,
        r#"{"type":"track","\u0074ype":null}"#,
        r#"{"type":"track","type":null}"#,
        r#"{"type":"track","type" : ""}"#,
        r#"{"type":"track","x":{"type":5}}"#,
        r#"{"type":"batch","batch":[]}"#,
        r#"{"type":"track","type":"BATCH","batch":[5]}"#,
        r#"{"batch":[{"type":"track"}]}"#,
        r#"{"context":{"type":"track"}}"#,
        r#"{"context":{},"x":[{"type":"track"}]}"#,
        r#"{"x":"\"type\":\"track\""}"#,
        r#"{"x":"type","y":"track"}"#,
        r#"{"Type":"track"}"#,
        r#"{"type":"#,
        r#"{"type":""#,
        r#"{"type":"i"#,
        r#"{"type":"iden"#,
        r#"{"type" : "bat"#,
        r#"{"x":"{\\\"type\":\"track\"}"}"#,
    ] {
        assert!(!dismiss(event.as_bytes()), "{event}");
    }
}

#[test]
fn a_broken_record_of_another_type_may_be_dismissed_and_one_with_a_type_identify_never() {
    let cut = br#"{"type":"track","properties":{"a":"#;
    assert!(dismiss(cut));
    assert_eq!(in_full(cut), Invalid::NotJson.as_str());
    assert!(!dismiss(br#"{"type":"track"}{"type":"identify","email":"a@example.com"}"#));
    assert!(!dismiss(br#"{"type":"track","properties":{"type":"identify"#));
    assert!(!dismiss(br#"{"properties":{"type":"track","a":"#));
    assert!(dismiss(b"{\"type\":\"track\",\"a\":\"\xff\"}"));
}

#[test]
fn type_is_found_at_the_top_from_both_ends() {
    let filler = r#""x":{"type":"t","y":["\\\"{[",{}]},"#.repeat(9);
    let padding = filler.trim_end_matches(',');
    for event in [
        format!(r#"{{{filler}"type":"track"}}"#),
        format!(r#"{{"type":"track",{padding}}}"#),
        format!(r#"{{{filler}"type":"track",{padding}}}"#),
    ] {
        assert!(dismiss(event.as_bytes()), "{event}");
        assert!(is_at_top_from_front(event.as_bytes(), event.len() - 1));
        assert!(is_at_top_from_back(event.as_bytes(), 0));
    }
    let nested = format!("{{{padding}}}");
    assert!(!is_at_top_from_front(nested.as_bytes(), nested.len() - 1));
    assert!(!is_at_top_from_back(nested.as_bytes(), 0));
}

/// Raw texts that keys and values are made of: the words of the rules, in cases, with escapes, and look-alikes.
fn word() -> impl Strategy<Value = String> {
    #[rustfmt::skip]
    const WORDS: &[&str] = &[
        "type", "type", "type", "type", "type", "Type", "TYPE", r"\u0074ype", r"typ\u0065", r#"\"type\""#,
        r"\\type", r#"\"type\":\"track\""#, r#"\"type\":null"#, r"type\\", r#"type\""#, "identify", "Identify",
        "IDENTIFY", r"\u0069dentify", r"identif\u0079", r"\\u0069dentify", "track", "track", "track", "track",
        "page", "batch", "Batch", r"b\u0061tch", "traits", "context", "email", "a@example.com", "timestamp",
        "2020-05-31", "", " ", r"\\", r#"\""#, r#"\\\\\""#, "{", "}", "[", "]", ":", ",", r"\u00e9", r"\ud83d",
        r"\/", "é",
    ];
    prop::sample::select(WORDS).prop_map(str::to_owned)
}

fn space() -> impl Strategy<Value = &'static str> {
    prop::sample::select(&["", "", "", "", " ", "\n", "\t\r\n "][..])
}

/// JSON values of every kind, objects with keys that matter, deep enough to hide them.
fn value() -> impl Strategy<Value = String> {
    let text = || word().prop_map(|word| format!("\"{word}\""));
    let leaf = prop_oneof![
        6 => text(),
        1 => prop::sample::select(&["null", "true", "5", "-1e400"][..]).prop_map(str::to_owned),
    ];
    leaf.prop_recursive(4, 24, 5, |inner| {
        prop_oneof![
            1 => prop::collection::vec(inner.clone(), 0..4).prop_map(|items| format!("[{}]", items.join(","))),
            3 => object_of(inner),
        ]
    })
}

fn object_of(value: impl Strategy<Value = String>) -> impl Strategy<Value = String> {
    let member = (word(), space(), space(), value)
        .prop_map(|(key, before, after, value)| format!("{before}\"{key}\"{before}:{after}{value}{after}"));
    prop::collection::vec(member, 0..6).prop_map(|members| format!("{{{}}}", members.join(",")))
}

/// Mostly objects, some of them other calls by all appearance.
fn record() -> impl Strategy<Value = String> {
    let inside = (object_of(value()), 0..3_u8, object_of(value())).prop_map(|(first, kind, second)| match kind {
        0 => format!(r#"{{"type":"track","a":{first},"b":{second}}}"#),
        1 => format!(r#"{{"a":{first},"b":{second},"type":"page"}}"#),
        _ => glued(&first, &second),
    });
    prop_oneof![object_of(value()), inside, value()]
}

/// One object with the members of both, and a type between them. Not JSON if one of them has no members.
fn glued(first: &str, second: &str) -> String {
    let front = first.strip_suffix('}').unwrap_or(first);
    let back = second.strip_prefix('{').unwrap_or(second);
    format!(r#"{front},"type":"track",{back}"#)
}

/// Cuts, deletes or changes a byte, or leaves the text whole.
fn broken(text: String, at: prop::sample::Index, how: u8) -> Vec<u8> {
    let mut bytes = text.into_bytes();
    if bytes.is_empty() {
        return bytes;
    }
    let at = at.index(bytes.len());
    match how {
        0 => bytes.truncate(at),
        1 => drop(bytes.remove(at)),
        2 => bytes[at] = b'"',
        3 => bytes[at] = b'\\',
        4 => bytes[at] = 0xff,
        5 => drop(bytes.drain(..at)),
        6 => bytes.insert(at, b'}'),
        7 => bytes.insert(at, b'{'),
        _ => {}
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]

    #[test]
    fn what_is_dismissed_is_no_identify_call(text in record()) {
        // Not all of these texts are JSON (see `glued`), and the promise says which are.
        let is_json = serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok();
        if dismiss(text.as_bytes()) {
            let answer = in_full(text.as_bytes());
            prop_assert!(answer == "not_identify" || (!is_json && answer == "not_json"), "{}: {}", answer, text);
        }
    }

    #[test]
    fn of_broken_records_nothing_but_not_json_is_lost(text in record(), at: prop::sample::Index, how in 0..8_u8) {
        let bytes = broken(text, at, how);
        if dismiss(&bytes) {
            let answer = in_full(&bytes);
            let is_json = serde_json::from_slice::<serde::de::IgnoredAny>(&bytes).is_ok();
            let may_be = answer == "not_identify" || answer == "not_json";
            prop_assert!(may_be, "{}: {}", answer, bytes.escape_ascii());
            // Of serde_json's JSON only what is no UTF-8 is none of ours.
            prop_assert!(!is_json || str::from_utf8(&bytes).is_err() || answer == "not_identify");
        }
    }

    #[test]
    fn an_identify_call_or_a_batch_that_is_cut_anywhere_is_never_dismissed(
        text in object_of(value()),
        call in prop::sample::select(&["identify", "Identify", "batch", "BATCH"][..]),
        at: prop::sample::Index,
    ) {
        let whole = format!(r#"{{"type":"{call}",{}"#, text.strip_prefix('{').unwrap_or(&text));
        for cut in [at.index(whole.len()), at.index(r#"{"type":"identify"#.len())] {
            prop_assert!(!dismiss(&whole.as_bytes()[..cut]), "{}", &whole.as_bytes()[..cut].escape_ascii());
        }
    }

    #[test]
    fn reading_from_the_back_agrees_with_reading_from_the_front(text in object_of(value())) {
        let front = is_at_top_from_front(text.as_bytes(), text.len() - 1);
        prop_assert_eq!(front, is_at_top_from_back(text.as_bytes(), 0), "{}", text);
    }
}

/// More on request: `PROPTEST_CASES=1000000`.
fn cases() -> u32 {
    let configured = std::env::var("PROPTEST_CASES").ok();
    configured.and_then(|cases| cases.parse().ok()).unwrap_or(2_000)
}
