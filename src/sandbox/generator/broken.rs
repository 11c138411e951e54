//! Records that are no visit and never will be: each has one fault, whose reason is beyond doubt.

use fastrand::Rng;

use super::json::{Dialect, Json};
use super::sdk::{self, Call};
use super::{engage, time};

const NO_TIMESTAMP: [&str; 2] = ["null", "\"\""];
const BAD_TIMESTAMP: [&str; 8] = [
    "\"NOW\"",
    "\"2023-11-22T10:12:44.75705:30\"",
    "\"Sun May 31 2020 17:55:47 GMT+0200 (CEST)\"",
    "\"2015-2-02T00:30:08.276Z\"",
    "\"2020-02-30T00:00:00Z\"",
    "\"2020-05-31T24:00:00Z\"",
    "\"5/31/2020\"",
    "\"2020-05\"",
];
const OUT_OF_RANGE: [&str; 4] =
    ["\"1970-01-01T00:33:40+00:00\"", "\"2999-01-01T00:00:00Z\"", "1590947747263000", "\"1999-12-31T23:59:59.999Z\""];
const BAD_EMAIL: [&str; 9] = [
    "12345",
    "true",
    "[\"a@example.com\",\"b@example.com\"]",
    "{\"primary\":\"a@example.com\"}",
    "\"badRecord.email.com\"",
    "\"root@localhost\"",
    "\"a@example.com\\nBcc: x@example.com\"",
    "\"@example.com\"",
    "\"b4c9a289323b21a01c3e940f150eb9b8c542587f1abfd8f0e1cc1ffc5e475514\"",
];
const NO_EMAIL: [&str; 3] = ["null", "\"\"", "\"   \""];

/// The value of a record with one fault; none is a tombstone.
pub(super) fn value(call: &Call, rng: &mut Rng) -> Option<Vec<u8>> {
    let sound = |rng: &mut Rng| sdk::identify(call, rng);
    let text = match rng.u32(..30) {
        0 => return None,
        1 => String::new(),
        2..=8 => anonymous(call),
        9..=12 => engage::without_email(call, rng),
        13 => with(call, pick(&NO_EMAIL, rng), &call.time),
        14..=16 => with(call, pick(&BAD_EMAIL, rng), &call.time),
        17 => with(call, &quoted(&call.email), pick(&NO_TIMESTAMP, rng)),
        18 => without_timestamp(call),
        19..=20 => with(call, &quoted(&call.email), pick(&BAD_TIMESTAMP, rng)),
        21 => with(call, &quoted(&call.email), pick(&OUT_OF_RANGE, rng)),
        22 => without_type(call),
        23 => cut(sound(rng), rng),
        24 => format!("[{}]", sound(rng)),
        25 => pick(&["null", "5", "\"identify\"", "[]"], rng).to_owned(),
        26 => pick(&["hello", "<html><body>502 Bad Gateway</body></html>", "identify"], rng).to_owned(),
        // What Python writes for float("nan").
        27 => with(call, "NaN", &call.time),
        28 => sound(rng) + pick(&["x", "}", "{\"type\":\"identify\"}"], rng),
        _ => return Some(binary(&sound(rng), rng)),
    };
    Some(text.into_bytes())
}

/// An item that ends as a dead letter wherever it stands.
pub(super) fn anonymous(call: &Call) -> String {
    Json::object(Dialect::Compact, |json| {
        json.text("type", "identify").text("anonymousId", &call.person.anonymous_id).raw("timestamp", &call.time);
        json.nested("traits", |traits| {
            traits.text("name", &call.person.name).text("theme", "dark");
        });
        call.browser_context(json);
        json.text("messageId", &format!("ajs-next-{}", call.message_id));
    })
}

/// An identify call with these JSON tokens for its address and its timestamp.
fn with(call: &Call, email: &str, timestamp: &str) -> String {
    Json::object(Dialect::Compact, |json| {
        json.raw("timestamp", timestamp).text("type", "identify").text("userId", &call.person.user_id);
        json.nested("traits", |traits| {
            traits.raw("email", email).text("name", &call.person.name);
        });
        Call::library(json, "@segment/analytics-node", "3.1.0");
        json.text("messageId", &call.message_id);
    })
}

/// The example body of Segment's partner page: every time but the one that counts.
fn without_timestamp(call: &Call) -> String {
    Json::object(Dialect::Compact, |json| {
        json.text("anonymousId", &call.person.anonymous_id).text("messageId", &call.message_id);
        json.text("receivedAt", &time::iso(call.at)).text("sentAt", &time::iso(call.at));
        json.nested("traits", |traits| call.traits(traits));
        json.text("type", "identify").text("userId", &call.person.user_id).text("version", "1.1");
    })
}

fn without_type(call: &Call) -> String {
    Json::object(Dialect::Compact, |json| {
        json.raw("timestamp", &call.time).text("userId", &call.person.user_id);
        json.nested("traits", |traits| call.traits(traits));
        json.text("messageId", &call.message_id);
    })
}

/// Cut somewhere after it has said that it is an identify call, as a crash or a size limit cuts.
fn cut(mut text: String, rng: &mut Rng) -> String {
    let said = text.to_ascii_lowercase().rfind("identify").map_or(1, |at| at + "identify\"".len());
    let mut end = rng.usize(said.min(text.len() - 1)..text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}

/// The same event in UTF-16, or compressed without anybody saying so.
fn binary(text: &str, rng: &mut Rng) -> Vec<u8> {
    match rng.bool() {
        true => [0xff, 0xfe].into_iter().chain(text.encode_utf16().flat_map(u16::to_le_bytes)).collect(),
        false => [0x1f, 0x8b, 0x08, 0, 0, 0, 0, 0, 0, 3].into_iter().chain((0..120).map(|_| rng.u8(..))).collect(),
    }
}

fn pick<'a>(from: &[&'a str], rng: &mut Rng) -> &'a str {
    from[rng.usize(..from.len())]
}

/// An address needs no escaping.
fn quoted(email: &str) -> String {
    format!("\"{email}\"")
}
