//! The layout topic: one small record that says with how many partitions the queue was made. Contacts are keyed by that
//! number; a queue that has more has moved them away from their history, and nothing else would tell.
//!
//! Key `layout`, value JSON: `{"version":1,"partitions":6}`, and the resize that is under way, if any.

use rdkafka::message::{Message, OwnedHeaders};
use serde::{Deserialize, Serialize};
use std::sync::mpsc;
use tokio::time::Instant;

use super::patience::until_known;
use super::range::{Next, RangeReader, whole};
use super::topics::denied;
use super::{AckingProducer, KafkaProblem, OutgoingRecord, producer_config};
use crate::config::Config;

const VERSION: u32 = 1;
const KEY: &[u8] = b"layout";

/// What the record says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    version: u32,
    /// How many the contacts are keyed by.
    pub partitions: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resizing: Option<Resizing>,
}

/// A resize that has begun: what it needs to go on after it was stopped anywhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resizing {
    /// How many partitions the queue had when it began. More than `partitions`, where some were added by hand.
    pub found: usize,
    pub to: usize,
    /// Where each of those ended once they were grown: what lies before is moved, what comes after has been.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends: Option<Vec<i64>>,
    /// The run that is at it: a number that it has drawn.
    #[serde(default)]
    pub by: u64,
}

impl Layout {
    pub fn of(partitions: usize) -> Layout {
        Layout { version: VERSION, partitions, resizing: None }
    }

    pub fn with(&self, resizing: Resizing) -> Layout {
        Layout { resizing: Some(resizing), ..self.clone() }
    }

    /// Why no instance may run on topics that have so many partitions, and the way out.
    pub fn problem(&self, config: &Config, queue: usize, delivered: usize) -> Option<KafkaProblem> {
        let topics = &config.topics;
        let problem = |topic: &str, problem| Some(KafkaProblem::Topic { topic: topic.into(), problem });
        if let Some(Resizing { to, .. }) = self.resizing {
            let text = format!(
                "a resize from {} to {to} partitions is under way, and until it is done nothing may run. If it was stopped, \
                 finish it: nat-destination topics resize --partitions {to}",
                self.partitions
            );
            return problem(&topics.queue, text);
        }
        let largest = queue.max(delivered);
        if largest > self.partitions {
            let topic = if queue > self.partitions { &topics.queue } else { &topics.delivered };
            return problem(topic, added(largest, self.partitions));
        }
        if queue < self.partitions {
            let text = format!(
                "it has {queue} partitions, but was made with {}, as {:?} says. If it and {:?} were made anew on purpose, \
                 delete {:?} too and start again",
                self.partitions, topics.layout, topics.delivered, topics.layout
            );
            return problem(&topics.queue, text);
        }
        None
    }
}

/// What is told of a topic that has grown.
pub fn added(partitions: usize, made_with: usize) -> String {
    format!(
        "it has {partitions} partitions, but was made with {made_with}: some were added by hand, which moves contacts away \
         from their history, and they would be sent again. Stop all instances and put it right with: \
         nat-destination topics resize --partitions {partitions}"
    )
}

/// What is told of a layout that this version cannot read.
pub const UNREADABLE: &str = "what it holds was not written by this version of the program: run the newest version that has run here, or, if the \
     record is another tool's, delete the topic and start again";

/// The record, `None` where there is none.
///
/// # Errors
/// When the topic is not there or may not be read, and when a newer version wrote it.
pub async fn read_layout(config: &Config) -> Result<Option<Layout>, KafkaProblem> {
    let last = values(config).await?.pop();
    last.map(|value| decode(&config.topics.layout, &value)).transpose()
}

/// As `read_layout`, but the ones before it too, as far as compaction has left them; oldest first.
///
/// # Errors
/// As `read_layout`.
pub async fn read_layouts(config: &Config) -> Result<Vec<Layout>, KafkaProblem> {
    values(config).await?.iter().map(|value| decode(&config.topics.layout, value)).collect()
}

async fn values(config: &Config) -> Result<Vec<Vec<u8>>, KafkaProblem> {
    // The leader may have just died, and the next one is not chosen before the brokers have noticed: `whole` waits for it, and
    // a start does not fail of it. Nor does it where another instance has just made the topic: who asks has seen it.
    let ranges = until_known(Instant::now() + config.kafka.timeout, || whole(config, &config.topics.layout)).await;
    let ranges = ranges.map_err(|problem| read_denied(config, problem))?;
    let to = config.clone();
    let read = tokio::task::spawn_blocking(move || {
        let mut reader = RangeReader::new(&to, ranges)?;
        let mut values = Vec::new();
        loop {
            match reader.next()? {
                Next::Record(record) if record.key() == Some(KEY) => match record.payload() {
                    Some(value) => values.push(value.to_vec()),
                    None => values.clear(),
                },
                Next::Record(_) | Next::Idle => {}
                Next::End => return Ok(values),
            }
        }
    });
    let read = read.await.unwrap_or_else(|error| Err(cut_short("reading", &error)));
    read.map_err(|problem| read_denied(config, problem))
}

fn decode(topic: &str, value: &[u8]) -> Result<Layout, KafkaProblem> {
    match serde_json::from_slice::<Layout>(value) {
        Ok(layout) if layout.version == VERSION && layout.partitions > 0 => Ok(layout),
        _ => Err(KafkaProblem::Topic { topic: topic.into(), problem: UNREADABLE.into() }),
    }
}

/// Writes the record and waits until Kafka has it.
///
/// # Errors
/// When Kafka does not take it.
pub async fn write_layout(config: &Config, layout: &Layout) -> Result<(), KafkaProblem> {
    let topic = config.topics.layout.clone();
    let value = serde_json::to_vec(layout).map_err(|error| KafkaProblem::Stopped(error.to_string()))?;
    let to = config.clone();
    let written = tokio::task::spawn_blocking(move || {
        let (acks, acked) = mpsc::sync_channel(1);
        let on_ack = Box::new(move |ack: super::Ack<()>| drop(acks.try_send(ack.result)));
        let producer = AckingProducer::new(&producer_config(&to), on_ack)?;
        let (key, value, headers) = (Some(KEY), Some(value.as_slice()), OwnedHeaders::new());
        let topic = to.topics.layout.as_str();
        let record = OutgoingRecord { topic, partition: Some(0), key, value, headers };
        producer.send(record, ()).map_err(|refused| KafkaProblem::unwritten(topic, &refused.error))?;
        match acked.recv_timeout(to.kafka.timeout) {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(failure)) if is_denied(&failure.error) => Err(denied(topic, "write", "WRITE")),
            Ok(Err(failure)) => Err(KafkaProblem::unwritten(topic, &failure)),
            Err(_) => Err(KafkaProblem::unwritten(topic, &"the brokers did not acknowledge it in time")),
        }
    });
    written.await.unwrap_or_else(|error| Err(cut_short(&format!("writing {topic:?}"), &error)))
}

fn is_denied(error: &rdkafka::error::KafkaError) -> bool {
    error.rdkafka_error_code() == Some(rdkafka::error::RDKafkaErrorCode::TopicAuthorizationFailed)
}

fn read_denied(config: &Config, problem: KafkaProblem) -> KafkaProblem {
    match problem {
        KafkaProblem::Failed { error, .. } if is_denied(&error) => denied(&config.topics.layout, "read", "READ"),
        problem => problem,
    }
}

fn cut_short(what: &str, error: &tokio::task::JoinError) -> KafkaProblem {
    KafkaProblem::Stopped(format!("{what} was cut short: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again_and_a_newer_versions_is_an_error() {
        let plain = Layout::of(6);
        let busy = plain.with(Resizing { found: 8, to: 12, ends: Some(vec![1, 2]), by: 3 });
        assert_eq!(serde_json::to_string(&plain).expect("JSON"), r#"{"version":1,"partitions":6}"#);
        for layout in [plain, busy] {
            let value = serde_json::to_vec(&layout).expect("JSON");
            assert_eq!(decode("t", &value).expect("its own"), layout);
        }
        for foreign in [r#"{"version":2,"partitions":6}"#, r#"{"version":1,"partitions":0}"#, "6", ""] {
            let told = decode("t.layout", foreign.as_bytes()).expect_err(foreign).to_string();
            assert!(told.contains("t.layout") && told.contains("newest version"), "{told}");
        }
    }
}
