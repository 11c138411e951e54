//! Engage: one identify call whenever a computed trait or an audience membership of a contact changes.
//!
//! Engage itself sends changes only, but a topic is written at least once and syncs are run again, so that a value
//! sometimes comes twice. Which value a contact has now is remembered, or "changes" would mean nothing.

use std::collections::HashMap;

use fastrand::Rng;

use super::json::{Dialect, Json};
use super::sdk::Call;
use super::time;

#[derive(Clone, Copy)]
enum Value {
    Boolean,
    /// Journeys say `"true"` in quotes.
    Text,
    Revenue,
    Plan,
}

struct Computation {
    class: &'static str,
    key: &'static str,
    value: Value,
}

const COMPUTATIONS: [Computation; 6] = [
    Computation { class: "audience", key: "order_completed_last_30days", value: Value::Boolean },
    Computation { class: "audience", key: "at_risk", value: Value::Boolean },
    Computation { class: "audience", key: "vip", value: Value::Boolean },
    Computation { class: "audience", key: "j_o_onboarding_step_2", value: Value::Text },
    Computation { class: "trait", key: "total_revenue_180_days", value: Value::Revenue },
    Computation { class: "trait", key: "last_plan", value: Value::Plan },
];
/// Share of repeats, in percent.
const REPEATED: u32 = 25;

/// How often each contact's value of each computation has changed.
#[derive(Default)]
pub(super) struct Values(HashMap<(u32, usize), u32>);

impl Values {
    /// The contact's next Engage call, without `integrations`.
    pub fn next(&mut self, call: &Call, rng: &mut Rng) -> String {
        let index = rng.usize(..COMPUTATIONS.len());
        let version = match self.0.get(&(call.person.number, index)) {
            None => 0,
            Some(version) if rng.u32(..100) < REPEATED => *version,
            Some(version) => version + 1,
        };
        self.0.insert((call.person.number, index), version);
        event(call, &COMPUTATIONS[index], &token(COMPUTATIONS[index].value, version))
    }
}

/// Two versions in a row are never the same value.
fn token(value: Value, version: u32) -> String {
    match value {
        Value::Boolean => (version.is_multiple_of(2)).to_string(),
        Value::Text => format!("\"{}\"", version.is_multiple_of(2)),
        Value::Revenue => format!("{}.5", 450 + 10 * version),
        Value::Plan => ["\"free\"", "\"starter\"", "\"pro\""][version as usize % 3].to_owned(),
    }
}

fn event(call: &Call, computation: &Computation, value: &str) -> String {
    Json::object(Dialect::Compact, |json| {
        json.text("channel", "server").nested("context", |context| {
            personas(context, computation);
        });
        json.text("messageId", &format!("personas_{}", call.message_id))
            .text("timestamp", &time::iso(call.at))
            .nested("traits", |traits| {
                traits.text("email", &call.email).raw(computation.key, value);
            })
            .text("type", "identify")
            .text("userId", &call.person.user_id);
        call.server_tail(json);
    })
}

/// Engage sends a call per identifier: the copy for the user id has no address, and that is normal.
pub(super) fn without_email(call: &Call, rng: &mut Rng) -> String {
    let computation = &COMPUTATIONS[rng.usize(..COMPUTATIONS.len())];
    Json::object(Dialect::Compact, |json| {
        json.nested("context", |context| personas(context, computation));
        json.text("messageId", &format!("personas_{}", call.message_id)).text("timestamp", &time::iso(call.at));
        json.nested("traits", |traits| {
            traits.raw(computation.key, &token(computation.value, 0));
        });
        json.text("type", "identify").text("userId", &call.person.user_id);
    })
}

fn personas(context: &mut Json, computation: &Computation) {
    context.nested("personas", |personas| {
        personas
            .text("computation_class", computation.class)
            .text("computation_id", &format!("cmp_{}", computation.key))
            .text("computation_key", computation.key)
            .text("namespace", "spa_2NoSpace")
            .text("space_id", "spa_2NoSpace");
    });
}
