//! The other calls: most of any Segment topic. None of them may reach Nat.app, whatever they look like inside.

use fastrand::Rng;

use super::json::{Dialect, Json};
use super::people::uuid;
use super::sdk::Call;

const EVENTS: [&str; 8] = [
    "Order Completed",
    "Song Played",
    "Signed Up",
    "Report Exported",
    "Invite Sent",
    "Søk utført",
    "User logged in",
    "identify_form_submitted",
];

pub(super) fn other(call: &Call, rng: &mut Rng) -> String {
    match rng.u32(..100) {
        0..35 => track_browser(call, rng),
        35..60 => track_server(call, rng),
        60..70 => track_mobile(call, rng),
        70..88 => page(call),
        88..93 => screen(call, rng),
        93..98 => group(call, rng),
        _ => alias(call, rng),
    }
}

fn track_browser(call: &Call, rng: &mut Rng) -> String {
    let event = EVENTS[rng.usize(..EVENTS.len())];
    let trap = rng.u32(..20) == 0;
    Json::object(Dialect::Compact, |json| {
        json.raw("timestamp", &call.time).text("event", event).nested("properties", |properties| {
            properties.raw("revenue", "39.95").text("currency", "EUR").text("email", &call.email);
            if trap {
                // Says identify, and is none: only the type at the top counts.
                properties.text("type", "identify").text("source", "\"type\":\"identify\"");
            }
        });
        json.text("type", "track").text("userId", &call.person.user_id);
        call.browser_context(json);
        json.text("messageId", &format!("ajs-next-{}", call.message_id)).text("anonymousId", &call.person.anonymous_id);
        call.server_tail(json);
    })
}

fn track_server(call: &Call, rng: &mut Rng) -> String {
    let event = EVENTS[rng.usize(..EVENTS.len())];
    let python = rng.bool();
    let (dialect, name, version) = match python {
        true => (Dialect::Python, "analytics-python", "2.4.0"),
        false => (Dialect::Compact, "@segment/analytics-node", "3.1.0"),
    };
    Json::object(dialect, |json| {
        json.raw("timestamp", &call.time).text("type", "track").text("userId", &call.person.user_id);
        json.text("event", event).nested("properties", |properties| {
            properties.text("orderId", &call.message_id).raw("total", "27.5").raw("products", "[1,2,3]");
        });
        Call::library(json, name, version);
        json.text("messageId", &call.message_id);
        call.server_tail(json);
    })
}

fn track_mobile(call: &Call, rng: &mut Rng) -> String {
    let event = EVENTS[rng.usize(..EVENTS.len())];
    let android = rng.bool();
    Json::object(Dialect::Compact, |json| {
        json.text("anonymousId", &call.person.anonymous_id).text("channel", "mobile");
        call.mobile_context(json, android, Some(&call.email));
        json.text("event", event).raw("properties", "{}").text("messageId", &call.message_id);
        json.raw("timestamp", &call.time).text("type", "track").text("userId", &call.person.user_id);
    })
}

fn page(call: &Call) -> String {
    let url = call.url();
    Json::object(Dialect::Compact, |json| {
        json.raw("timestamp", &call.time).text("type", "page").text("name", call.title());
        json.nested("properties", |properties| {
            properties.text("url", &url).text("title", call.title());
        });
        json.text("anonymousId", &call.person.anonymous_id);
        call.browser_context(json);
        json.text("messageId", &format!("ajs-next-{}", call.message_id));
        call.server_tail(json);
    })
}

fn screen(call: &Call, rng: &mut Rng) -> String {
    let android = rng.bool();
    Json::object(Dialect::Compact, |json| {
        json.text("anonymousId", &call.person.anonymous_id);
        call.mobile_context(json, android, None);
        json.text("name", call.title()).raw("properties", "{}").text("messageId", &call.message_id);
        json.raw("timestamp", &call.time).text("type", "screen").text("userId", &call.person.user_id);
    })
}

fn group(call: &Call, rng: &mut Rng) -> String {
    let group = rng.u32(..5_000);
    Json::object(Dialect::Compact, |json| {
        json.text("type", "group").text("userId", &call.person.user_id).text("groupId", &format!("org_{group}"));
        // A group's address is not a contact's.
        json.nested("traits", |traits| {
            traits.text("name", "Acme, Inc.").text("email", "office@acme.example").raw("employees", "42");
        });
        json.raw("timestamp", &call.time).text("messageId", &call.message_id);
        call.server_tail(json);
    })
}

fn alias(call: &Call, rng: &mut Rng) -> String {
    let previous = uuid(rng);
    Json::object(Dialect::Compact, |json| {
        json.text("type", "alias").text("userId", &call.person.user_id).text("previousId", &previous);
        json.raw("timestamp", &call.time).text("messageId", &call.message_id);
        call.server_tail(json);
    })
}
