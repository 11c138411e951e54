//! The road by which an event came into the queue, where it was not ingest that put it there: a header of the queue's
//! record. It tells what was put there again from what was received, and a dead letter how often it was redriven.

use std::fmt;

use crate::kafka::Headers;

/// `replay`, `backfill` or `redrive/N`, behind the other headers that the queue adds.
pub const ROAD: &str = "nat.road";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Road {
    Replay,
    Backfill,
    /// With how often this event has been redriven by now.
    Redrive(u32),
}

impl Road {
    pub const LABELS: [&'static str; 3] = ["replay", "backfill", "redrive"];

    /// The label in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Road::Replay => "replay",
            Road::Backfill => "backfill",
            Road::Redrive(_) => "redrive",
        }
    }

    /// How often it was redriven.
    pub fn redrives(self) -> u32 {
        match self {
            Road::Redrive(count) => count,
            Road::Replay | Road::Backfill => 0,
        }
    }

    /// The road that a queue record's headers tell: the last of them, if it is one.
    pub fn of(headers: &Headers) -> Option<Road> {
        let (_, road) = headers.last().filter(|(name, _)| name == ROAD)?;
        Road::parse(road.as_deref()?)
    }

    pub fn parse(text: &[u8]) -> Option<Road> {
        match std::str::from_utf8(text).ok()? {
            "replay" => Some(Road::Replay),
            "backfill" => Some(Road::Backfill),
            text => text.strip_prefix("redrive/")?.parse().ok().map(Road::Redrive),
        }
    }
}

impl fmt::Display for Road {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Road::Redrive(count) => write!(f, "redrive/{count}"),
            Road::Replay | Road::Backfill => f.write_str(self.as_str()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again_and_anything_else_is_no_road() {
        for road in [Road::Replay, Road::Backfill, Road::Redrive(0), Road::Redrive(7)] {
            assert_eq!(Road::parse(road.to_string().as_bytes()), Some(road));
        }
        for other in ["", "redrive", "redrive/", "redrive/-1", "replay/1", "by sea"] {
            assert_eq!(Road::parse(other.as_bytes()), None, "{other:?}");
        }
    }
}
