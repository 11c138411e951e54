//! What an event is does not depend on how it is written, and the checks come in their order.

use jiff::tz::TimeZone;
use proptest::prelude::*;

use super::*;

fn now() -> Timestamp {
    "2026-11-24T12:00:00Z".parse().unwrap()
}

fn classified<'a>(rules: &Rules, event: &'a str) -> Outcome<'a> {
    classify(rules, event.as_bytes(), now())
}

fn word(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Identify(_) => "identify",
        Outcome::Filtered(reason) => reason.as_str(),
        Outcome::Invalid { reason, .. } => reason.as_str(),
    }
}

fn identified<'a>(rules: &Rules, event: &'a str) -> Identify<'a> {
    match classified(rules, event) {
        Outcome::Identify(identify) => identify,
        other => panic!("{other:?}: {event}"),
    }
}

/// The identify call of ada with other members.
fn ada(members: &str) -> String {
    format!(
        r#"{{"type":"identify","traits":{{"email":"ada@example.com"}},"timestamp":"2020-05-31T23:30:00Z",{members}}}"#
    )
}

const ENGAGE: &str = r#""context":{"personas":{"computation_key":"vip"}}"#;

#[test]
fn the_checks_come_in_their_order() {
    let rules = Rules { engage: EngageMode::Skip, ..Rules::default() };
    // Everything is wrong with the first one, and each next one has one thing less.
    for (event, reason) in [
        (r#"{"type":5,"integrations":{"Nat":false},"context":{"personas":{"computation_key":"k"}}}"#, "missing_type"),
        (
            r#"{"type":"identify","integrations":{"Nat":false},"context":{"personas":{"computation_key":"k"}}}"#,
            "integrations_opt_out",
        ),
        (r#"{"type":"identify","context":{"personas":{"computation_key":"k"}}}"#, "engage_skipped"),
        (r#"{"type":"identify"}"#, "missing_email"),
        (r#"{"type":"identify","email":"a@example.com"}"#, "missing_timestamp"),
        (r#"{"type":"identify","email":"a@example.com","timestamp":"2020-05-31"}"#, "identify"),
    ] {
        assert_eq!(word(&classified(&rules, event)), reason, "{event}");
    }
}

#[test]
fn an_event_invalid_by_its_time_still_tells_its_contact() {
    for (time, reason) in [
        ("null", Invalid::MissingTimestamp),
        ("true", Invalid::InvalidTimestamp),
        ("1e400", Invalid::TimestampOutOfRange),
    ] {
        let event = format!(r#"{{"type":"identify","email":"A@example.com","timestamp":{time}}}"#);
        let email = Some("a@example.com".to_owned());
        assert_eq!(classified(&Rules::default(), &event), Outcome::Invalid { reason, email });
    }
}

#[test]
fn a_type_that_is_no_text_is_missing_and_another_text_is_another_call() {
    for (kind, expected) in [
        ("null", "missing_type"),
        ("\"\"", "missing_type"),
        ("[\"identify\"]", "missing_type"),
        ("\" \"", "not_identify"),
        ("\" identify\"", "not_identify"),
        ("\"\\ud83d\"", "not_identify"),
        ("\"IDENTIFY\"", "missing_email"),
        ("\"\\u0069dentify\"", "missing_email"),
    ] {
        let event = format!(r#"{{"type":{kind}}}"#);
        assert_eq!(word(&classified(&Rules::default(), &event)), expected, "{kind}");
    }
    let exact_wins = r#"{"Type":"identify","type":"track","TYPE":"identify"}"#;
    assert_eq!(word(&classified(&Rules::default(), exact_wins)), "not_identify");
}

#[test]
fn the_user_id_is_an_email_only_where_the_rules_say_so() {
    let event = r#"{"type":"identify","userId":"U@example.com","timestamp":1590947747}"#;
    assert_eq!(word(&classified(&Rules::default(), event)), "missing_email");
    let rules = Rules { user_id_as_email: true, ..Rules::default() };
    assert_eq!(identified(&rules, event).email, "u@example.com");
    let elsewhere = event.replace("\"userId\"", r#""properties":{"eMail":"p@example.com"},"userId""#);
    assert_eq!(identified(&rules, &elsewhere).email, "p@example.com");
}

#[test]
fn a_lone_surrogate_makes_an_email_invalid_and_is_replaced_elsewhere() {
    let event = r#"{"type":"identify","email":"a\ud83d@example.com","timestamp":1590947747}"#;
    assert_eq!(word(&classified(&Rules::default(), event)), "invalid_email");
    let event = ada(r#""event":"Hi \ud83d","messageId":"\ude00\ud83d\ude00""#);
    let identify = identified(&Rules::default(), &event);
    assert_eq!(identify.description().as_deref(), Some("Hi \u{fffd}"));
    assert_eq!(identify.message_id().as_deref(), Some("\u{fffd}\u{1f600}"));
}

#[test]
fn the_first_timestamp_field_that_is_there_decides() {
    let rules = Rules {
        timestamp_fields: ["timestamp", "originalTimestamp", "sentAt"].map(str::to_owned).to_vec(),
        ..Rules::default()
    };
    let day = |members: &str| {
        let event = format!(r#"{{"type":"identify","email":"a@example.com",{members}}}"#);
        match classified(&rules, &event) {
            Outcome::Identify(identify) => identify.day.to_string(),
            other => word(&other).to_owned(),
        }
    };
    assert_eq!(day(r#""sentAt":"2020-05-03","originaltimestamp":"2020-05-02""#), "2020-05-02");
    assert_eq!(day(r#""sentAt":"2020-05-03","originalTimestamp":" ","timestamp":null"#), "2020-05-03");
    assert_eq!(day(r#""sentAt":"2020-05-03","timestamp":"NOW""#), "invalid_timestamp");
    assert_eq!(day(r#""sentAt":"2020-05-03","timestamp":5"#), "timestamp_out_of_range");
    assert_eq!(day(r#""receivedAt":"2020-05-03""#), "missing_timestamp");
    let none = Rules { timestamp_fields: Vec::new(), ..Rules::default() };
    assert_eq!(word(&classified(&none, &ada("\"a\":1"))), "missing_timestamp");
}

#[test]
fn the_day_is_that_of_the_configured_zone() {
    let event = ada("\"a\":1");
    let rules = Rules { zone: TimeZone::get("Europe/Paris").unwrap(), ..Rules::default() };
    assert_eq!(identified(&Rules::default(), &event).day.to_string(), "2020-05-31");
    assert_eq!(identified(&rules, &event).day.to_string(), "2020-06-01");
}

#[test]
fn the_url_is_the_first_text_of_four_places() {
    let mut members = vec![
        r#""properties":{"url":"d"}"#,
        r#""context":{"page":{"URL":"c"}}"#,
        r#""url":" b ""#,
        r#""page":{"url":"a"}"#,
    ];
    for expected in ["a", " b ", "c", "d"] {
        let event = ada(&members.join(","));
        assert_eq!(identified(&Rules::default(), &event).description().as_deref(), Some(expected));
        members.pop();
    }
    let event = ada(r#""page":{"url":" "},"url":5,"context":{"page":{"url":{}}},"properties":{"url":"d"}"#);
    assert_eq!(identified(&Rules::default(), &event).url().as_deref(), Some("d"));
}

#[test]
fn an_event_that_says_just_identify_describes_nothing() {
    for event in ["Identify", " identify ", " ", ""] {
        let event = ada(&format!(r#""event":"{event}","url":"u""#));
        assert_eq!(identified(&Rules::default(), &event).description().as_deref(), Some("u"));
    }
    let event = ada(r#""event":"identify""#);
    assert_eq!(identified(&Rules::default(), &event).description(), None);
}

#[test]
fn ids_are_texts_and_a_user_id_may_be_a_number() {
    let event = ada(r#""userId":12345678901234567890123,"messageId":5"#);
    let identify = identified(&Rules::default(), &event);
    assert_eq!(identify.user_id().as_deref(), Some("12345678901234567890123"));
    assert_eq!(identify.message_id(), None);
    let event = ada(r#""userId":" ","messageId":"m""#);
    let identify = identified(&Rules::default(), &event);
    assert_eq!((identify.user_id(), identify.message_id().as_deref()), (None, Some("m")));
}

#[test]
fn an_engage_event_is_known_as_one_in_every_mode_that_delivers_it() {
    let event = ada(ENGAGE);
    for engage in [EngageMode::Changes, EngageMode::Daily, EngageMode::Skip] {
        let rules = Rules { engage, ..Rules::default() };
        match classified(&rules, &event) {
            Outcome::Identify(identify) => assert!(identify.engage.is_some(), "{engage:?}"),
            other => assert_eq!((word(&other), engage), ("engage_skipped", EngageMode::Skip)),
        }
    }
}

#[test]
fn opt_outs_are_only_honoured_where_the_rules_say_so() {
    let event = ada(r#""integrations":{"All":false}"#);
    assert_eq!(word(&classified(&Rules::default(), &event)), "integrations_opt_out");
    let rules = Rules { honour_integrations: false, ..Rules::default() };
    assert_eq!(identified(&rules, &event).email, "ada@example.com");
}

/// The members of one event, in the spelling that the properties below change.
const MEMBERS: [(&str, &str); 9] = [
    ("type", "\"identify\""),
    ("timestamp", "\"2020-05-31T17:55:47.263Z\""),
    ("traits", r#"{"name":"Ada","email":"Ada@Example.com","vip":true}"#),
    ("email", "\"placeholder@example.com\""),
    ("context", r#"{"page":{"url":"https://example.com/\u00e9"},"personas":{"computation_key":"vip"}}"#),
    ("event", "\"Logged in\""),
    ("userId", "42"),
    ("messageId", "\"m-1\""),
    ("integrations", r#"{"All":false,"Nat":true}"#),
];

fn written(members: &[(String, String)], space: &str) -> String {
    let members: Vec<String> =
        members.iter().map(|(key, value)| format!("{space}\"{key}\"{space}:{space}{value}{space}")).collect();
    format!("{space}{{{}}}{space}", members.join(","))
}

proptest! {
    #[test]
    fn order_space_case_and_unknown_members_change_nothing(
        members in Just(MEMBERS.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec()).prop_shuffle(),
        space in "[ \t\r\n]{0,3}",
        upper: [bool; 9],
        unknown in prop::collection::vec(("x[a-z]{0,8}", any::<prop::sample::Index>(), 0..4_usize), 0..4),
        mark: bool,
    ) {
        let plain = written(&MEMBERS.map(|(key, value)| (key.to_owned(), value.to_owned())), "");
        let mut members = members;
        for (member, upper) in members.iter_mut().zip(upper) {
            if upper {
                member.0 = member.0.to_uppercase();
            }
        }
        for (key, at, value) in unknown {
            let value = ["1e999", "{\"type\":\"track\"}", "[\"\\ud83d\"]", "\"type\""][value];
            members.insert(at.index(members.len() + 1), (key, value.to_owned()));
        }
        let mut event = written(&members, &space);
        if mark {
            event.insert(0, '\u{feff}');
        }
        prop_assert_eq!(classified(&Rules::default(), &event), classified(&Rules::default(), &plain));
    }
}
