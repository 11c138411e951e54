//! The restore: before the first event of a partition is sent, its delivered set is read back from the changelog, to the
//! end offset as it is after the partition became ours. On a thread of its own, one for each assignment.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::sync::mpsc::Sender;

use crate::config::Config;
use crate::dedup::{Delivered, DeliveredSet, Key};
use crate::kafka::{Context, KafkaProblem, reader_config};
use crate::metrics::Metrics;

/// What the restore tells the loop.
pub enum FromRestore {
    Restored { partition: i32, generation: u64, set: Box<DeliveredSet> },
    Failed(KafkaProblem),
}

/// Which partitions to restore, for which generation of each, and whether it has gone again.
pub struct Restore {
    pub config: Arc<Config>,
    pub metrics: Arc<Metrics>,
    pub partitions: Vec<(i32, u64, Arc<AtomicBool>)>,
    pub sender: Sender<FromRestore>,
}

struct Reading {
    generation: u64,
    set: DeliveredSet,
    /// Records from here to the end as it was.
    remaining: i64,
    next: i64,
    gone: Arc<AtomicBool>,
}

const PROGRESS_EVERY: Duration = Duration::from_secs(5);

impl Restore {
    /// Runs to the end on the thread it is called on.
    pub fn run(self) {
        if let Err(problem) = self.read_all() {
            // Without a loop the process is ending anyway.
            let _ = self.sender.blocking_send(FromRestore::Failed(problem));
        }
    }

    fn read_all(&self) -> Result<(), KafkaProblem> {
        let reader: BaseConsumer<Context> =
            BaseConsumer::from_config_and_context(&reader_config(&self.config), Context::default())
                .map_err(|error| KafkaProblem::Properties(error.to_string()))?;
        let mut readings = self.find_ends(&reader)?;
        let total: i64 = readings.values().map(|reading| reading.remaining).sum();
        self.metrics.restore_remaining.add(total);
        let result = self.read(&reader, &mut readings, total);
        self.metrics.restore_remaining.sub(readings.values().map(|reading| reading.remaining).sum());
        result
    }

    /// The ends are read after the partitions became ours: everything that the predecessor had acknowledged lies before.
    fn find_ends(&self, reader: &BaseConsumer<Context>) -> Result<HashMap<i32, Reading>, KafkaProblem> {
        let topic = self.config.topics.delivered.as_str();
        let mut readings = HashMap::new();
        for (partition, generation, gone) in &self.partitions {
            let ask = || reader.fetch_watermarks(topic, *partition, self.config.kafka.timeout);
            let Some((low, high)) = self.patiently(gone, ask)? else { continue };
            let set = DeliveredSet::new(self.config.dedup_retention);
            let remaining = (high - low).max(0);
            let reading = Reading { generation: *generation, set, remaining, next: low, gone: Arc::clone(gone) };
            if low < high {
                readings.insert(*partition, reading);
            } else {
                self.hand_over(*partition, reading);
            }
        }
        let mut list = TopicPartitionList::new();
        for (partition, reading) in &readings {
            list.add_partition_offset(topic, *partition, Offset::Offset(reading.next)).map_err(failed)?;
        }
        reader.assign(&list).map_err(failed)?;
        Ok(readings)
    }

    /// A broker may be away for a while: a restore that gave up would end the process for nothing. `None`: nobody waits
    /// for it any more.
    fn patiently<T>(
        &self,
        gone: &AtomicBool,
        ask: impl Fn() -> Result<T, KafkaError>,
    ) -> Result<Option<T>, KafkaProblem> {
        loop {
            match ask() {
                Ok(answer) => return Ok(Some(answer)),
                Err(_) if gone.load(Ordering::Acquire) || self.sender.is_closed() => return Ok(None),
                Err(error) if is_final(&error) => return Err(failed(error)),
                Err(error) => tracing::warn!(%error, "the delivered topic cannot be read yet; trying again"),
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    fn read(
        &self,
        reader: &BaseConsumer<Context>,
        readings: &mut HashMap<i32, Reading>,
        total: i64,
    ) -> Result<(), KafkaProblem> {
        let (began, mut told) = (Instant::now(), Instant::now());
        let (mut records, mut unreadable) = (0_u64, 0_u64);
        while !readings.is_empty() && !self.sender.is_closed() {
            self.drop_gone(readings);
            match reader.poll(Duration::from_millis(100)) {
                None => {}
                Some(Ok(message)) => {
                    records += 1;
                    self.metrics.restored.inc();
                    if let Some(reading) = readings.get_mut(&message.partition()) {
                        unreadable += u64::from(!reading.take(&message, &self.metrics));
                    }
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    if let Some(reading) = readings.remove(&partition) {
                        self.metrics.restore_remaining.sub(reading.remaining);
                        self.hand_over(partition, Reading { remaining: 0, ..reading });
                    }
                }
                Some(Err(error)) if is_final(&error) => return Err(failed(error)),
                Some(Err(error)) => tracing::warn!(%error, "reading the delivered topic goes on after this"),
            }
            if told.elapsed() > PROGRESS_EVERY {
                told = Instant::now();
                tracing::info!(records, total, partitions = readings.len(), "restoring the delivered set");
            }
        }
        if unreadable > 0 {
            tracing::warn!(unreadable, "records of the delivered topic are not this version's and were passed over");
        }
        tracing::info!(records, seconds = began.elapsed().as_secs_f64(), "the delivered set is restored");
        Ok(())
    }

    fn drop_gone(&self, readings: &mut HashMap<i32, Reading>) {
        readings.retain(|_, reading| {
            let gone = reading.gone.load(Ordering::Acquire);
            if gone {
                self.metrics.restore_remaining.sub(reading.remaining);
            }
            !gone
        });
    }

    fn hand_over(&self, partition: i32, mut reading: Reading) {
        reading.set.expire(Timestamp::now().as_millisecond());
        let restored = FromRestore::Restored { partition, generation: reading.generation, set: Box::new(reading.set) };
        let _ = self.sender.blocking_send(restored);
    }
}

impl Reading {
    /// False if the record is not one that this version writes.
    fn take(&mut self, message: &BorrowedMessage<'_>, metrics: &Metrics) -> bool {
        // Compaction leaves gaps: progress goes by offsets.
        let step = (message.offset() + 1 - self.next).min(self.remaining);
        self.next = message.offset() + 1;
        self.remaining -= step;
        metrics.restore_remaining.sub(step);
        let key = message.key().unwrap_or_default();
        match (message.payload(), key.try_into()) {
            (None, Ok(key)) => self.set.remove(&Key(key)),
            (Some(value), _) => match Delivered::decode(key, value) {
                Ok(delivered) => self.set.insert(&delivered),
                Err(_) => return false,
            },
            (None, Err(_)) => return false,
        }
        true
    }
}

fn failed(error: KafkaError) -> KafkaProblem {
    KafkaProblem::Failed { what: "restoring the delivered set".into(), error }
}

fn is_final(error: &KafkaError) -> bool {
    use RDKafkaErrorCode::{TopicAuthorizationFailed, UnknownPartition, UnknownTopic, UnknownTopicOrPartition};
    let code = error.rdkafka_error_code();
    matches!(code, Some(TopicAuthorizationFailed | UnknownPartition | UnknownTopic | UnknownTopicOrPartition))
}
