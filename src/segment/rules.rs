//! The settings that change what an event is. The defaults are those of the design; `conformance/` speaks of them.

use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;

#[derive(Debug, Clone)]
pub struct Rules {
    /// Where a day begins and ends.
    pub zone: TimeZone,
    /// Whether `userId` is the last place in which an email is looked for.
    pub user_id_as_email: bool,
    /// Top-level members to take the time from; the first one that is not missing decides, even if it is unusable.
    pub timestamp_fields: Vec<String>,
    /// Whether a customer's `integrations` can switch Nat off.
    pub honour_integrations: bool,
    pub engage: EngageMode,
    /// Events before this are out of range: a broken clock, not a visit.
    pub oldest: Timestamp,
    /// So are events further ahead than this.
    pub max_ahead: Duration,
    /// Member names that lead to the event inside an envelope, outermost first. Empty: there is no envelope.
    pub envelope: Vec<String>,
    pub framing: Framing,
}

/// 2000-01-01T00:00:00Z. Segment is younger; what is older comes from clocks and casts.
const OLDEST: Timestamp = Timestamp::constant(946_684_800, 0);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

impl Default for Rules {
    fn default() -> Self {
        Rules {
            zone: TimeZone::UTC,
            user_id_as_email: false,
            timestamp_fields: vec!["timestamp".to_owned()],
            honour_integrations: true,
            engage: EngageMode::Changes,
            oldest: OLDEST,
            max_ahead: DAY,
            envelope: Vec::new(),
            framing: Framing::None,
        }
    }
}

/// What is done with the identify calls that Engage sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EngageMode {
    /// Each change of a property is delivered.
    #[default]
    Changes,
    /// As any identify call: one a day.
    Daily,
    /// None is delivered.
    Skip,
}

/// What stands in front of the JSON of a source record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Framing {
    #[default]
    None,
    /// Confluent's five bytes: a zero and the schema's id.
    SchemaRegistry,
}
