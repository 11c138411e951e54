//! What `/status` tells: all that an operator asks of one instance, as JSON that this and other versions of the program
//! read. A member that is not known is passed over, and one that is missing has its default.

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;
use prometheus::core::Collector;
use serde::{Deserialize, Serialize};

use super::{Served, stuck, troubles, why_not_ready};
use crate::metrics::series;
use crate::stage::{Position, StageStatus};

/// One instance, at one moment.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    pub version: String,
    /// Another one for each start of each process.
    pub instance: String,
    /// The deployment that it is of, by its queue topic.
    pub queue_topic: String,
    pub started_at: String,
    pub ready: bool,
    pub not_ready: Vec<String>,
    /// Stages that say nothing any more.
    pub stuck: Vec<String>,
    /// What a person should know of it, ready or not.
    pub troubles: Vec<String>,
    pub circuit: Option<Circuit>,
    /// The group does not confirm that it is a member: nothing is sent.
    pub cut_off: bool,
    /// Nat.app said not to come back before.
    pub held_until: Option<String>,
    /// Partitions that cannot be read on.
    pub stopped: Vec<Place>,
    /// The key's file holds none, and the key that was is used.
    pub api_key_file_wrong: bool,
    /// The suppression list is, and the one that was stays in force.
    pub suppress_file_wrong: bool,
    /// Partitions that wait for their delivered set.
    pub restoring: u64,
    pub in_flight: u64,
    pub concurrency_limit: u64,
    /// Requests a second; 0: no limit.
    pub rate_limit: u32,
    /// The source partitions that it has, and how far behind it is in each.
    pub source: Vec<Lag>,
    /// The same of the queue.
    pub queue: Vec<Lag>,
    /// The age of the oldest event that waits; absent: none does.
    pub oldest_waiting_seconds: Option<f64>,
    pub pending: u64,
    pub retrying: u64,
    /// Since its start, as all that follows.
    pub received: u64,
    pub queued: u64,
    /// Settled events that replay, backfill or redrive had put into the queue.
    pub requeued: u64,
    pub requests: u64,
    pub outcomes: Vec<Settled>,
    /// By kind: visit, engage.
    pub dedup_entries: BTreeMap<String, u64>,
}

/// Why the circuit to Nat.app is open, and since when.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Circuit {
    pub reason: String,
    pub since: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default)]
pub struct Place {
    pub topic: String,
    pub partition: i32,
}

/// How far behind a partition is; absent: not known yet.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Lag {
    pub topic: String,
    pub partition: i32,
    pub events: Option<u64>,
    /// The age of the oldest record that is not settled.
    pub seconds: Option<f64>,
}

/// How many events have come to this end.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Settled {
    pub outcome: String,
    pub reason: String,
    pub events: u64,
}

impl Status {
    pub(super) fn of(served: &Served) -> Status {
        let (ingest, deliver) = (served.ingest.borrow().clone(), served.deliver.borrow().clone());
        let metrics = &served.metrics;
        let source_lag = Lags::of(&metrics.source_lag_events, &metrics.source_lag_seconds, ["topic", "partition"]);
        let queue_lag = Lags::of(&metrics.queue_lag_events, &metrics.queue_lag_seconds, ["", "partition"]);
        let source: Vec<Lag> = ingest.positions.iter().map(|at| source_lag.at(&at.topic, at)).collect();
        let queue: Vec<Lag> = deliver.positions.iter().map(|at| queue_lag.at("", at)).collect();
        let ages = source.iter().chain(&queue).filter_map(|lag| lag.seconds);
        let not_ready = why_not_ready(&ingest, &deliver);
        Status {
            version: env!("CARGO_PKG_VERSION").into(),
            instance: served.instance.clone(),
            queue_topic: served.queue.clone(),
            started_at: told(served.started_at),
            ready: not_ready.is_empty(),
            not_ready,
            stuck: stuck(served),
            troubles: troubles(&ingest, &deliver, metrics),
            oldest_waiting_seconds: ages.filter(|age| *age > 0.0).max_by(f64::total_cmp),
            rate_limit: *served.rate_limit.borrow(),
            source: sorted(source),
            queue: sorted(queue),
            ..Status::of_stages(&ingest, &deliver).with_counts(served)
        }
    }

    fn of_stages(ingest: &StageStatus, deliver: &StageStatus) -> Status {
        let circuit = |open: crate::stage::CircuitOpen| Circuit { reason: open.reason.into(), since: told(open.since) };
        let place = |(topic, partition): &(String, i32)| Place { topic: topic.clone(), partition: *partition };
        Status {
            circuit: deliver.circuit.map(circuit),
            cut_off: deliver.cut_off,
            held_until: deliver.held_until.map(told),
            stopped: ingest.stopped.iter().chain(&deliver.stopped).map(place).collect(),
            restoring: deliver.restoring as u64,
            ..Status::default()
        }
    }

    fn with_counts(self, served: &Served) -> Status {
        let metrics = &served.metrics;
        let gauge = |value: i64| u64::try_from(value).unwrap_or(0);
        let sum = |metric: &prometheus::IntCounterVec| series(metric, []).iter().map(|([], n)| *n as u64).sum();
        let settled = |(outcome, reason, events)| Settled { outcome, reason, events };
        let entries = series(&metrics.dedup_entries, ["kind"]).into_iter();
        Status {
            in_flight: gauge(metrics.http_in_flight.get()),
            concurrency_limit: gauge(metrics.concurrency_limit.get()),
            pending: gauge(metrics.pending_events.get()),
            retrying: gauge(metrics.retrying_events.get()),
            api_key_file_wrong: metrics.api_key_file_wrong.get() > 0,
            suppress_file_wrong: metrics.suppress_file_wrong.get() > 0,
            received: metrics.events_received.get(),
            queued: metrics.events_queued.get(),
            requeued: sum(&metrics.events_requeued),
            requests: sum(&metrics.http_requests),
            outcomes: metrics.settled_by_reason().into_iter().map(settled).collect(),
            dedup_entries: entries.map(|([kind], entries)| (kind, entries as u64)).collect(),
            ..self
        }
    }
}

/// To the second: nobody asks for more.
fn told(time: Timestamp) -> String {
    format!("{time:.0}")
}

fn sorted(mut lags: Vec<Lag>) -> Vec<Lag> {
    lags.sort_by(|a, b| (&a.topic, a.partition).cmp(&(&b.topic, b.partition)));
    lags
}

/// What the lag watch has told, by topic and partition.
struct Lags {
    events: HashMap<[String; 2], f64>,
    seconds: HashMap<[String; 2], f64>,
}

impl Lags {
    fn of(events: &impl Collector, seconds: &impl Collector, labels: [&str; 2]) -> Lags {
        Lags {
            events: series(events, labels).into_iter().collect(),
            seconds: series(seconds, labels).into_iter().collect(),
        }
    }

    fn at(&self, topic: &str, position: &Position) -> Lag {
        let key = [topic.to_owned(), position.partition.to_string()];
        Lag {
            topic: position.topic.clone(),
            partition: position.partition,
            events: self.events.get(&key).map(|events| *events as u64),
            seconds: self.seconds.get(&key).copied(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_of_another_version_is_read() {
        let newer = r#"{"version":"9.0.0","received":7,"moon":"full","circuit":{"reason":"tired","since":"2030-01-01T00:00:00Z","x":[]}}"#;
        let status: Status = serde_json::from_str(newer).expect("it is read");
        assert_eq!((status.received, status.circuit.expect("open").reason.as_str()), (7, "tired"));
        assert_eq!(serde_json::from_str::<Status>("{}").expect("it is read"), Status::default());
    }
}
