//! The lag watch: asks the brokers for the ends of the partitions that this instance has, and tells how far behind it
//! is. On a thread and a client of its own, so that the answer is true while the stages' consumers are paused.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::sync::{mpsc, watch};

use crate::config::Config;
use crate::kafka::{self, Context, KafkaProblem, TopicPartition, admin_config};
use crate::metrics::{Metrics, set_age};
use crate::stage::{Position, StageStatus, Stop};

const EVERY: Duration = Duration::from_secs(2);
/// How long an answer of the brokers is waited for.
const PATIENCE: Duration = Duration::from_secs(5);
const RETENTION_EVERY: Duration = Duration::from_secs(60);
/// In how many rounds the queue's partitions are counted once: before its producer, which asks every ten seconds, is likely to
/// key by another number.
const GROWTH_EVERY: u32 = 3;

/// A topic that is not what it was.
#[derive(Debug)]
pub struct Changed {
    pub problem: KafkaProblem,
    /// Partitions whose end went back.
    pub not_in_topic: Vec<TopicPartition>,
}

/// Starts the watch; it ends when the stages are told to. Tells of a topic that is not what it was: its end went back, or the
/// queue has more than its `partitions` (where they are known).
pub fn watch(
    config: Arc<Config>,
    metrics: Arc<Metrics>,
    stages: Vec<watch::Receiver<StageStatus>>,
    partitions: Option<usize>,
    stop: Stop,
) -> mpsc::Receiver<Changed> {
    let (sender, problems) = mpsc::channel(1);
    let started = std::thread::Builder::new().name("lag".into()).spawn(move || {
        let client: BaseConsumer<Context> =
            match BaseConsumer::from_config_and_context(&admin_config(&config), Context::default()) {
                Ok(client) => client,
                Err(error) => return tracing::warn!(%error, "the lag is not watched"),
            };
        let mut told = HashSet::new();
        let mut ends = Ends::default();
        let mut round = 0_u32;
        while stop.deadline().is_none() {
            let positions: Vec<Position> = stages.iter().flat_map(|stage| stage.borrow().positions.clone()).collect();
            if round.is_multiple_of(GROWTH_EVERY)
                && let Some(problem) = partitions.and_then(|made_with| growth(&client, &config, made_with))
            {
                let _ = sender.try_send(Changed { problem, not_in_topic: Vec::new() });
                return;
            }
            round = round.wrapping_add(1);
            forget_gone(&config, &metrics, &mut told, &positions);
            let mut changed: Option<Changed> = None;
            for (position, end) in positions.iter().zip(ends_of(&client, &positions, &stop)) {
                // The gauge keeps what it said: the brokers are away, and that shows elsewhere.
                let Some(end) = end else { continue };
                tell(&config, &metrics, position, end);
                if let Err(problem) = ends.take(position, end) {
                    // One problem is enough to end it; of the same topic's other partitions the place is told.
                    let changed = changed.get_or_insert(Changed { problem, not_in_topic: Vec::new() });
                    changed.not_in_topic.push((position.topic.clone(), position.partition));
                }
            }
            if let Some(changed) = changed {
                // Without a service there is nobody to tell.
                let _ = sender.try_send(changed);
                return;
            }
            nap(&stop);
        }
    });
    if let Err(error) = started {
        tracing::warn!(%error, "the lag is not watched: a thread cannot be started");
    }
    problems
}

/// Tells how long the queue is kept, for as long as the service lives: people change it while something waits. What the
/// topic says, or else the setting.
pub async fn watch_retention(config: Arc<Config>, metrics: Arc<Metrics>) {
    loop {
        let told = kafka::retention(&config, &config.topics.queue).await;
        let told = told.inspect_err(|problem| tracing::debug!(%problem, "the queue's retention is not known"));
        let kept = match told.unwrap_or(config.topics.queue_retention) {
            Duration::MAX => f64::INFINITY,
            kept => kept.as_secs_f64(),
        };
        metrics.queue_retention_seconds.set(kept);
        tokio::time::sleep(RETENTION_EVERY).await;
    }
}

/// The end of each partition, where it is known. All are asked for at once, one request a broker; should that fail, one by
/// one: a partition without a leader must not hide the others.
fn ends_of(client: &BaseConsumer<Context>, positions: &[Position], stop: &Stop) -> Vec<Option<i64>> {
    let at_once = || {
        let mut list = TopicPartitionList::new();
        for Position { topic, partition, .. } in positions {
            list.add_partition_offset(topic, *partition, Offset::End)?;
        }
        client.offsets_for_times(list, PATIENCE)
    };
    let alone = |Position { topic, partition, .. }: &Position| {
        if stop.deadline().is_some() {
            return None;
        }
        let ends = client.fetch_watermarks(topic, *partition, PATIENCE);
        ends.inspect_err(|error| tracing::debug!(%error, topic, "its end is not known")).ok().map(|(_, end)| end)
    };
    match at_once() {
        Ok(found) => positions.iter().map(|position| end_in(&found, position)).collect(),
        Err(_) => positions.iter().map(alone).collect(),
    }
}

fn end_in(found: &TopicPartitionList, Position { topic, partition, .. }: &Position) -> Option<i64> {
    let found = found.find_partition(topic, *partition)?;
    match (found.error(), found.offset()) {
        (Ok(()), Offset::Offset(end)) => Some(end),
        _ => None,
    }
}

/// Partitions that were added to the queue while this instance runs.
fn growth(client: &BaseConsumer<Context>, config: &Config, made_with: usize) -> Option<KafkaProblem> {
    let queue = &config.topics.queue;
    // Without an answer the brokers are away, and that shows elsewhere.
    let metadata = client.fetch_metadata(Some(queue), PATIENCE).ok()?;
    let partitions = metadata.topics().first()?.partitions().len();
    (partitions > made_with)
        .then(|| KafkaProblem::Topic { topic: queue.clone(), problem: kafka::added(partitions, made_with) })
}

/// The ends seen last. The end of a partition only grows: one that went back is another topic's of the same name, or one
/// that was cut. Its offsets mean something else now, and a consumer whose position lies within the new ones would pass
/// over records without an error.
#[derive(Default)]
struct Ends(HashMap<(String, i32), (i64, bool)>);

impl Ends {
    fn take(&mut self, position: &Position, end: i64) -> Result<(), KafkaProblem> {
        let (last, doubted) = self.0.entry((position.topic.clone(), position.partition)).or_insert((end, false));
        if end >= *last {
            (*last, *doubted) = (end, false);
        } else if !*doubted {
            // A broker that does not know yet that it leads no more may say this too: asked once again.
            *doubted = true;
        } else {
            let problem = format!(
                "partition {} ends at offset {end} and had reached {last}: the topic was deleted and made again, or cut. \
                 What the committed offsets mean now nobody but you can know: set those of the group with \
                 kafka-consumer-groups.sh --reset-offsets (--to-earliest reads all of it; dedup makes that safe), and \
                 start again",
                position.partition
            );
            return Err(KafkaProblem::Topic { topic: position.topic.clone(), problem });
        }
        Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_that_went_back_is_told_when_it_is_seen_twice() {
        let position = Position { topic: "events".into(), partition: 3, next: 0, oldest_timestamp: 0 };
        let mut ends = Ends::default();
        for end in [5, 500, 500, 499, 500, 499] {
            assert!(ends.take(&position, end).is_ok(), "{end}");
        }
        let told = ends.take(&position, 498).expect_err("twice").to_string();
        assert!(told.contains("\"events\": partition 3 ends at offset 498 and had reached 500"), "{told}");
    }
}
