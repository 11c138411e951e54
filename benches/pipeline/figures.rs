//! The figures: what is measured against what, and the target of each. How is in the files beside.

use crate::bench::{Bench, Row};
use crate::{life, stages, state, whole};

/// What median is wanted.
#[derive(Debug, Clone, Copy)]
pub enum Target {
    AtLeast(f64),
    AtMost(f64),
}

pub struct Figure {
    pub name: &'static str,
    pub what: &'static str,
    /// Of `ours` and `bare`.
    pub unit: &'static str,
    /// What `value` is.
    pub value: &'static str,
    /// `None`: nobody asked for one; it is here for those who plan.
    pub target: Option<Target>,
    pub measure: fn(&Bench) -> Result<Row, String>,
}

pub const FIGURES: &[Figure] = &[
    Figure {
        name: "ingest-mixed",
        what: "ingest alone, 1 KB events, 5 % identify, against a bare consumer",
        unit: "events/s",
        value: "ratio",
        target: Some(Target::AtLeast(0.9)),
        measure: stages::ingest_mixed,
    },
    Figure {
        name: "ingest-identify",
        what: "ingest alone, 700 B, all identify, against consume and produce: CPU an event",
        unit: "µs",
        value: "ratio",
        target: Some(Target::AtMost(1.5)),
        measure: stages::ingest_identify,
    },
    Figure {
        name: "deliver",
        what: "deliver alone, all different contacts, instant answers, 64 in flight, against consume, POST, 30 bytes",
        unit: "events/s",
        value: "ratio",
        target: Some(Target::AtLeast(0.9)),
        measure: stages::deliver,
    },
    Figure {
        name: "deliver-20ms",
        what: "deliver, answers after 20 ms, 256 in flight, against 256 / 20 ms",
        unit: "events/s",
        value: "ratio",
        target: Some(Target::AtLeast(0.95)),
        measure: stages::deliver_slow,
    },
    Figure {
        name: "pipeline-identify",
        what: "whole pipeline, 700 B, all identify, two a contact-day, against Redpanda Connect",
        unit: "events/s",
        value: "times",
        target: Some(Target::AtLeast(3.0)),
        measure: whole::pipeline_identify,
    },
    Figure {
        name: "pipeline-mixed",
        what: "whole pipeline, 1 KB events, 5 % identify, against Redpanda Connect",
        unit: "events/s",
        value: "times",
        target: Some(Target::AtLeast(10.0)),
        measure: whole::pipeline_mixed,
    },
    Figure {
        name: "latency",
        what: "from the source's producer to Nat.app's door at 1,000 events/s, p99, less that of bare consume, produce, consume, POST",
        unit: "ms",
        value: "ms more",
        target: Some(Target::AtMost(20.0)),
        measure: whole::latency,
    },
    Figure {
        name: "memory",
        what: "resident memory a contact-day at 10 M entries, less that of a program without any",
        unit: "B",
        value: "B",
        target: Some(Target::AtMost(32.0)),
        measure: state::memory_of_entries,
    },
    Figure {
        name: "restore",
        what: "restore of 10 M entries against a bare consumer of the same topic",
        unit: "entries/s",
        value: "ratio",
        target: Some(Target::AtLeast(0.7)),
        measure: state::restore,
    },
    Figure {
        name: "resize",
        what: "topics resize of 10 M entries from 6 to 12 partitions, its wait of 5 s included, against consume and produce",
        unit: "entries/s",
        value: "ratio",
        target: None,
        measure: state::resize,
    },
    Figure {
        name: "outage-memory",
        what: "resident memory in an outage with 1 M events waiting, against 10 k waiting (bare)",
        unit: "MiB",
        value: "ratio",
        target: Some(Target::AtMost(1.1)),
        measure: life::outage_memory,
    },
    Figure {
        name: "set-growth",
        what: "deliver: CPU an event with 10 M contact-days remembered, against 1 M (bare)",
        unit: "µs",
        value: "ratio",
        target: Some(Target::AtMost(1.15)),
        measure: state::set_growth,
    },
    Figure {
        name: "start",
        what: "from the start of the process to the first request, one event waiting, empty state",
        unit: "s",
        value: "s",
        target: Some(Target::AtMost(1.0)),
        measure: life::start,
    },
    Figure {
        name: "idle",
        what: "CPU of one core without events",
        unit: "%",
        value: "%",
        target: Some(Target::AtMost(1.0)),
        measure: life::idle,
    },
];
