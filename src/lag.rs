//! The lag watch: asks the brokers for the ends of the partitions that this instance has, and tells how far behind it
//! is. On a thread and a client of its own, so that the answer is true while the stages' consumers are paused.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use tokio::sync::watch;

use crate::config::Config;
use crate::kafka::{Context, admin_config};
use crate::metrics::{Metrics, set_age};
use crate::stage::{Position, StageStatus, Stop};

const EVERY: Duration = Duration::from_secs(2);

/// Starts the watch; it ends when the stages are told to.
pub fn watch(config: Arc<Config>, metrics: Arc<Metrics>, stages: Vec<watch::Receiver<StageStatus>>, stop: Stop) {
    let started = std::thread::Builder::new().name("lag".into()).spawn(move || {
        let client: BaseConsumer<Context> =
            match BaseConsumer::from_config_and_context(&admin_config(&config), Context::default()) {
                Ok(client) => client,
                Err(error) => return tracing::warn!(%error, "the lag is not watched"),
            };
        let mut told = HashSet::new();
        while stop.deadline().is_none() {
            let positions: Vec<Position> = stages.iter().flat_map(|stage| stage.borrow().positions.clone()).collect();
            forget_gone(&config, &metrics, &mut told, &positions);
            for position in &positions {
                if stop.deadline().is_some() {
                    return;
                }
                match client.fetch_watermarks(&position.topic, position.partition, Duration::from_secs(5)) {
                    Ok((_, end)) => tell(&config, &metrics, position, end),
                    // The gauge keeps what it said: the brokers are away, and that shows elsewhere.
                    Err(error) => tracing::debug!(%error, topic = position.topic, "its end is not known"),
                }
            }
            nap(&stop);
        }
    });
    if let Err(error) = started {
        tracing::warn!(%error, "the lag is not watched: a thread cannot be started");
    }
}

fn nap(stop: &Stop) {
    for _ in 0..20 {
        if stop.deadline().is_none() {
            std::thread::sleep(EVERY / 20);
        }
    }
}

fn tell(config: &Config, metrics: &Metrics, position: &Position, end: i64) {
    let behind = (end - position.next).max(0);
    let partition = position.partition.to_string();
    let (events, seconds) = if position.topic == config.topics.queue {
        (
            metrics.queue_lag_events.with_label_values(&[&partition]),
            metrics.queue_lag_seconds.with_label_values(&[&partition]),
        )
    } else {
        let labels = [position.topic.as_str(), partition.as_str()];
        (metrics.source_lag_events.with_label_values(&labels), metrics.source_lag_seconds.with_label_values(&labels))
    };
    events.set(behind);
    match behind {
        0 => seconds.set(0.0),
        _ => set_age(&seconds, position.oldest_timestamp, Timestamp::now().as_millisecond()),
    }
}

/// A partition that has gone to another instance is told there.
fn forget_gone(config: &Config, metrics: &Metrics, told: &mut HashSet<(String, i32)>, positions: &[Position]) {
    let now: HashSet<(String, i32)> = positions.iter().map(|p| (p.topic.clone(), p.partition)).collect();
    for (topic, partition) in told.difference(&now) {
        let partition = partition.to_string();
        // An error says that it was never told.
        if *topic == config.topics.queue {
            let _ = metrics.queue_lag_events.remove_label_values(&[&partition]);
            let _ = metrics.queue_lag_seconds.remove_label_values(&[&partition]);
        } else {
            let _ = metrics.source_lag_events.remove_label_values(&[topic, &partition]);
            let _ = metrics.source_lag_seconds.remove_label_values(&[topic, &partition]);
        }
    }
    *told = now;
}
