//! Every metric, declared once: name, kind, help, labels. The catalogue is what `/metrics` serves, what the tests hold
//! dashboards and rules against, and what the documentation lists.

use std::sync::Arc;

use crate::dead_letter::{Road, Undeliverable};
use crate::segment::{Filtered, Invalid};
use prometheus::core::Collector;
use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

/// The declaration of one metric.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    pub name: &'static str,
    pub kind: &'static str,
    pub labels: &'static [&'static str],
    pub help: &'static str,
}

macro_rules! catalogue {
    ($($field:ident: $type:ident = $name:literal, [$($label:literal),*], $help:literal;)*) => {
        /// Every metric of this program.
        pub const CATALOGUE: &[Metric] = &[
            $(Metric { name: $name, kind: kind::$type, labels: &[$($label),*], help: $help }),*
        ];

        /// The metrics, shared by the stages: each counter is added to by the stage that its help names.
        pub struct Metrics {
            registry: Registry,
            /// The series of `events` that most events end in, found without a look into a map.
            hot: Vec<(Outcome, &'static str, IntCounter)>,
            $(pub $field: $type,)*
        }

        impl Metrics {
            /// # Errors
            /// Never with a sound catalogue; the tests make one.
            pub fn new() -> Result<Arc<Metrics>, prometheus::Error> {
                let registry = Registry::new();
                $(let $field = new::$type($name, $help, &[$($label),*])?;
                registry.register(Box::new($field.clone()))?;)*
                let process = prometheus::process_collector::ProcessCollector::for_self();
                registry.register(Box::new(process))?;
                let mut metrics = Metrics { registry, hot: Vec::new(), $($field),* };
                metrics.hot = hot(&metrics.events);
                metrics.begin_at_zero();
                Ok(Arc::new(metrics))
            }
        }
    };
}

catalogue! {
    build_info: IntGaugeVec = "nat_destination_build_info", ["version", "librdkafka"],
        "Always 1; the labels tell what runs.";
    events_received: IntCounter = "nat_destination_events_received_total", [],
        "Events taken from the source topics; each item of a batch is one.";
    events_queued: IntCounter = "nat_destination_events_queued_total", [],
        "Identify calls that the queue topic has acknowledged.";
    events_requeued: IntCounterVec = "nat_destination_events_requeued_total", ["road"],
        "Events settled that were not received: replay, backfill or redrive had put them into the queue.";
    events: IntCounterVec = "nat_destination_events_total", ["outcome", "reason"],
        "Events settled: delivered, duplicate, filtered or dead_lettered. Over all instances, received + requeued = their sum + what is on its way; what a crash or a lost partition makes be read again is counted again.";
    http_requests: IntCounterVec = "nat_destination_http_requests_total", ["answer"],
        "Requests to Nat.app by answer: the status, timeout or connection.";
    http_request_duration: Histogram = "nat_destination_http_request_duration_seconds", [],
        "How long requests to Nat.app took, answered or not.";
    http_in_flight: IntGauge = "nat_destination_http_requests_in_flight", [],
        "Requests to Nat.app that are on their way.";
    retries: IntCounter = "nat_destination_retries_total", [],
        "Attempts that failed and will be made again.";
    pending_events: IntGauge = "nat_destination_pending_events", [],
        "Queue depth in memory: events taken from the queue topic and not settled.";
    pending_bytes: IntGauge = "nat_destination_pending_bytes", [],
        "The same in bytes of events.";
    retrying_events: IntGauge = "nat_destination_retrying_events", [],
        "Of the pending events, those that wait for their next attempt.";
    source_lag_events: IntGaugeVec = "nat_destination_source_lag_events", ["topic", "partition"],
        "Records of a source partition that are not settled.";
    source_lag_seconds: GaugeVec = "nat_destination_source_lag_seconds", ["topic", "partition"],
        "Age of the oldest record of a source partition known not to be settled; 0 where there is none.";
    queue_lag_events: IntGaugeVec = "nat_destination_queue_lag_events", ["partition"],
        "Records of a queue partition that are not settled: the queue's depth in Kafka.";
    queue_lag_seconds: GaugeVec = "nat_destination_queue_lag_seconds", ["partition"],
        "Age of the oldest record of a queue partition known not to be settled; 0 where there is none.";
    queue_retention_seconds: Gauge = "nat_destination_queue_retention_seconds", [],
        "How long Kafka keeps a record of the queue: retention.ms of the topic, looked at every minute; +Inf: for ever.";
    assigned_partitions: IntGaugeVec = "nat_destination_assigned_partitions", ["stage"],
        "Partitions that this instance has, by stage (ingest, deliver).";
    paused: IntGaugeVec = "nat_destination_paused", ["stage"],
        "1 while reading pauses because too much is pending.";
    dedup_entries: IntGaugeVec = "nat_destination_dedup_entries", ["kind"],
        "Entries of the delivered sets of this instance, by kind (visit, engage).";
    restoring_partitions: IntGauge = "nat_destination_restoring_partitions", [],
        "Assigned partitions of the queue that deliver nothing yet: their delivered sets are not restored.";
    restore_remaining: IntGauge = "nat_destination_restore_remaining_records", [],
        "Records of the delivered topic still to be read before all assigned partitions deliver, as far as brokers have told.";
    restored: IntCounter = "nat_destination_restored_records_total", [],
        "Records of the delivered topic read to restore delivered sets.";
    circuit_open: IntGaugeVec = "nat_destination_circuit_open", ["reason"],
        "1 while the circuit to Nat.app is open (or half-open) for this reason.";
    circuit_opened: Gauge = "nat_destination_circuit_opened_timestamp_seconds", [],
        "Since when the circuit to Nat.app is open, in Unix seconds; 0 while it is closed.";
    concurrency_limit: IntGauge = "nat_destination_concurrency_limit", [],
        "The most requests in flight at the moment: it adapts to Nat.app's answers, below deliver.concurrency.";
    records_gone: IntCounterVec = "nat_destination_records_gone_total", ["topic", "partition"],
        "Records that Kafka deleted before they were read: retention has overtaken this program.";
    stopped_partitions: IntGaugeVec = "nat_destination_stopped_partitions", ["stage"],
        "Partitions that are not read on since nobody can tell what comes next: the topic was made anew, or cut.";
    api_key_file_wrong: IntGauge = "nat_destination_api_key_file_wrong", [],
        "1 while nat.api_key_file holds no usable key: the one that was is used, and the next start fails.";
    suppress_file_wrong: IntGauge = "nat_destination_suppress_file_wrong", [],
        "1 while the suppression list cannot be read or has a wrong line: the one that was stays in force.";
    suppress_file_contacts: IntGauge = "nat_destination_suppress_file_contacts", [],
        "Contacts on the suppression list that is in force.";
    kafka_errors: IntCounterVec = "nat_destination_kafka_errors_total", ["stage"],
        "Errors of the Kafka clients that they recover from by themselves.";
}

/// The type words of the exposition format.
#[allow(non_upper_case_globals)]
mod kind {
    pub const IntCounter: &str = "counter";
    pub const IntCounterVec: &str = "counter";
    pub const Gauge: &str = "gauge";
    pub const IntGauge: &str = "gauge";
    pub const IntGaugeVec: &str = "gauge";
    pub const GaugeVec: &str = "gauge";
    pub const Histogram: &str = "histogram";
}

/// One constructor a type, all called alike by the macro.
#[allow(non_snake_case)]
mod new {
    use super::{Gauge, GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts};
    type Made<T> = Result<T, prometheus::Error>;

    pub fn IntCounter(name: &str, help: &str, _: &[&str]) -> Made<IntCounter> {
        IntCounter::new(name, help)
    }
    pub fn Gauge(name: &str, help: &str, _: &[&str]) -> Made<Gauge> {
        Gauge::new(name, help)
    }
    pub fn IntGauge(name: &str, help: &str, _: &[&str]) -> Made<IntGauge> {
        IntGauge::new(name, help)
    }
    pub fn IntCounterVec(name: &str, help: &str, labels: &[&str]) -> Made<IntCounterVec> {
        IntCounterVec::new(Opts::new(name, help), labels)
    }
    pub fn IntGaugeVec(name: &str, help: &str, labels: &[&str]) -> Made<IntGaugeVec> {
        IntGaugeVec::new(Opts::new(name, help), labels)
    }
    pub fn GaugeVec(name: &str, help: &str, labels: &[&str]) -> Made<GaugeVec> {
        GaugeVec::new(Opts::new(name, help), labels)
    }
    pub fn Histogram(name: &str, help: &str, _: &[&str]) -> Made<Histogram> {
        let buckets = vec![0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
        Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets))
    }
}

fn hot(events: &IntCounterVec) -> Vec<(Outcome, &'static str, IntCounter)> {
    let filtered = Filtered::ALL.iter().map(|reason| (Outcome::Filtered, reason.as_str()));
    let kinds = [Outcome::Delivered, Outcome::Duplicate].map(|outcome| ["visit", "engage"].map(|kind| (outcome, kind)));
    let hot = filtered.chain(kinds.into_iter().flatten());
    hot.map(|(outcome, reason)| (outcome, reason, events.with_label_values(&[outcome.as_str(), reason]))).collect()
}

impl Metrics {
    /// A series that first appears with its first event has no increase that an alert could see.
    fn begin_at_zero(&self) {
        for kind in ["visit", "engage"] {
            self.settled(Outcome::Delivered, kind, 0);
            self.settled(Outcome::Duplicate, kind, 0);
            self.dedup_entries.with_label_values(&[kind]).set(0);
        }
        Filtered::ALL.iter().for_each(|reason| self.settled(Outcome::Filtered, reason.as_str(), 0));
        Invalid::ALL.iter().for_each(|reason| self.settled(Outcome::DeadLettered, reason.as_str(), 0));
        Undeliverable::ALL.iter().for_each(|reason| self.settled(Outcome::DeadLettered, reason.as_str(), 0));
        for road in Road::LABELS {
            self.events_requeued.with_label_values(&[road]).inc_by(0);
        }
        for stage in ["ingest", "deliver"] {
            self.assigned_partitions.with_label_values(&[stage]).set(0);
            self.paused.with_label_values(&[stage]).set(0);
            self.stopped_partitions.with_label_values(&[stage]).set(0);
            self.kafka_errors.with_label_values(&[stage]).inc_by(0);
        }
    }

    /// Counts records that were deleted before they were read; none, to begin the series of a partition at zero.
    pub fn gone(&self, (topic, partition): &(String, i32), records: u64) {
        self.records_gone.with_label_values(&[topic.as_str(), &partition.to_string()]).inc_by(records);
    }

    /// What `/metrics` serves.
    pub fn text(&self) -> String {
        TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap_or_else(|error| format!("# {error}\n"))
    }

    /// Counts settled events.
    pub fn settled(&self, outcome: Outcome, reason: &str, events: u64) {
        match self.hot.iter().find(|hot| hot.0 == outcome && hot.1 == reason) {
            Some((_, _, counter)) => counter.inc_by(events),
            None => self.events.with_label_values(&[outcome.as_str(), reason]).inc_by(events),
        }
    }

    /// Events settled with this outcome so far.
    pub fn settled_in_all(&self, outcome: Outcome) -> u64 {
        let rows = self.settled_by_reason();
        rows.iter().filter(|(name, _, _)| name == outcome.as_str()).map(|(_, _, count)| count).sum()
    }

    /// Events settled so far by (outcome, reason), where there are any.
    pub fn settled_by_reason(&self) -> Vec<(String, String, u64)> {
        let row = |(labels, count): ([String; 2], f64)| {
            let [outcome, reason] = labels;
            (outcome, reason, count as u64)
        };
        let mut rows: Vec<_> = series(&self.events, ["outcome", "reason"]).into_iter().map(row).collect();
        rows.retain(|(_, _, count)| *count > 0);
        rows.sort();
        rows
    }
}

/// What every series of a counter or a gauge says, with the values of these labels.
pub fn series<const N: usize>(metric: &impl Collector, labels: [&str; N]) -> Vec<([String; N], f64)> {
    let mut all = Vec::new();
    for family in metric.collect() {
        for one in family.get_metric() {
            let value_of = |label: &str| {
                let pair = one.get_label().iter().find(|pair| pair.name() == label);
                pair.map(|pair| pair.value().to_owned()).unwrap_or_default()
            };
            // It is one of the two; the other says 0.
            all.push((labels.map(value_of), one.get_counter().get_value() + one.get_gauge().get_value()));
        }
    }
    all
}

/// What an event may end as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Delivered,
    Duplicate,
    Filtered,
    DeadLettered,
}

impl Outcome {
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Delivered => "delivered",
            Outcome::Duplicate => "duplicate",
            Outcome::Filtered => "filtered",
            Outcome::DeadLettered => "dead_lettered",
        }
    }
}

/// A gauge that tells an age in seconds.
pub fn set_age(gauge: &Gauge, since_millis: i64, now_millis: i64) {
    gauge.set((now_millis.saturating_sub(since_millis)).max(0) as f64 / 1000.0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_of_the_catalogue_can_be_registered_and_has_one_name() {
        let metrics = Metrics::new().expect("a sound catalogue");
        metrics.events_received.inc();
        assert!(metrics.text().contains("nat_destination_events_received_total 1"));
        assert!(CATALOGUE.iter().all(|metric| metric.name.starts_with("nat_destination_") && !metric.help.is_empty()));
    }

    #[test]
    fn settled_events_are_counted_by_outcome_and_reason() {
        let metrics = Metrics::new().expect("a sound catalogue");
        metrics.settled(Outcome::Filtered, "not_identify", 3);
        assert_eq!(metrics.settled_by_reason(), [("filtered".into(), "not_identify".into(), 3)]);
    }
}
