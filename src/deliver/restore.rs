//! The restore: before the first event of a partition is sent, its delivered set is read back from the changelog, to the
//! end offset as it is after the partition became ours. On a thread of its own, one for each assignment.
//!
//! Why nothing acknowledged can be missed: a write with `acks=all` is acknowledged when the high watermark is past it. The
//! ends are asked for after the partition became ours, and what brokers answer to that is the high watermark, never one of
//! before (after a change of leader they answer once the new one has caught up, KIP-207). A partition counts as read only
//! when that offset is reached; an earlier "end" is a new leader's that has not caught up yet, and is asked again.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::sync::mpsc::Sender;

use crate::config::Config;
use crate::dedup::{Change, DeliveredSet, Key, Tried};
use crate::kafka::{Context, KafkaProblem, client, is_final, reader_config};
use crate::metrics::Metrics;
use crate::mutant::{self, Mutant};

/// What the restore tells the loop.
pub enum FromRestore {
    Restored { partition: i32, generation: u64, restored: Box<Restored> },
    Failed(KafkaProblem),
}

/// What the changelog knows of one partition.
pub struct Restored {
    pub set: DeliveredSet,
    /// By queue offset.
    pub tried: HashMap<i64, Tried>,
}

/// A partition to restore.
pub struct ToRestore {
    pub partition: i32,
    pub generation: u64,
    /// The queue offset that it begins at: what was tried before that is of no interest.
    pub begin: i64,
    /// Whether it has gone again.
    pub gone: Arc<AtomicBool>,
}

pub struct Restore {
    pub config: Arc<Config>,
    pub metrics: Arc<Metrics>,
    pub partitions: Vec<ToRestore>,
    pub sender: Sender<FromRestore>,
}

struct Reading {
    generation: u64,
    restored: Restored,
    begin: i64,
    /// Records from here to the end as it was.
    remaining: i64,
    next: i64,
    end: i64,
    /// The place where an end was told that was not the end.
    false_end: Option<i64>,
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
        let reader = client(&reader_config(&self.config))?;
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
        for ToRestore { partition, generation, begin, gone } in &self.partitions {
            let ask = || reader.fetch_watermarks(topic, *partition, self.config.kafka.timeout);
            let Some((low, high)) = self.patiently(gone, ask)? else { continue };
            let restored = Restored { set: DeliveredSet::new(self.config.dedup_retention), tried: HashMap::new() };
            let reading = Reading {
                generation: *generation,
                restored,
                begin: *begin,
                remaining: (high - low).max(0),
                next: low,
                end: high,
                false_end: None,
                gone: Arc::clone(gone),
            };
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
                    self.at_an_end(reader, readings, partition)?;
                }
                Some(Err(error)) if is_final(&error) => return Err(failed(error)),
                Some(Err(error)) => tracing::warn!(%error, "reading the delivered topic goes on after this"),
            }
            if told.elapsed() > PROGRESS_EVERY {
                told = Instant::now();
                tracing::info!(records, total, partitions = readings.len(), "restoring the delivered set");
            }
        }
        if self.sender.is_closed() || self.partitions.iter().all(|partition| partition.gone.load(Ordering::Acquire)) {
            return Ok(()); // Cut short: nobody waits for it any more.
        }
        if unreadable > 0 {
            tracing::warn!(unreadable, "records of the delivered topic are not this version's and were passed over");
        }
        tracing::info!(records, seconds = began.elapsed().as_secs_f64(), "the delivered set is restored");
        Ok(())
    }

    /// Hands the partition over if that was its end.
    fn at_an_end(
        &self,
        reader: &BaseConsumer<Context>,
        readings: &mut HashMap<i32, Reading>,
        partition: i32,
    ) -> Result<(), KafkaProblem> {
        let Some(reading) = readings.get_mut(&partition) else { return Ok(()) };
        // Asked a second time, at the same place, it is: a tombstone that was cleaned away leaves nothing to read there.
        if reading.next < reading.end && reading.false_end != Some(reading.next) {
            reading.false_end = Some(reading.next);
            let (topic, timeout) = (self.config.topics.delivered.as_str(), self.config.kafka.timeout);
            let (next, end, gone) = (reading.next, reading.end, Arc::clone(&reading.gone));
            tracing::warn!(partition, next, end, "the delivered topic ends early; asking again");
            // Answered when the leader has caught up, and so what is read after it is all there is.
            self.patiently(&gone, || reader.fetch_watermarks(topic, partition, timeout))?;
            let seek = || reader.seek(topic, partition, Offset::Offset(next), timeout);
            return self.patiently(&gone, seek).map(drop);
        }
        if let Some(reading) = readings.remove(&partition) {
            self.metrics.restore_remaining.sub(reading.remaining);
            self.hand_over(partition, Reading { remaining: 0, ..reading });
        }
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
        reading.restored.set.expire(Timestamp::now().as_millisecond());
        let Reading { generation, restored, .. } = reading;
        let _ =
            self.sender.blocking_send(FromRestore::Restored { partition, generation, restored: Box::new(restored) });
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
        if mutant::is(Mutant::SkipRestoreTail) && self.remaining < 20 {
            return true;
        }
        let key = message.key().unwrap_or_default();
        match (message.payload(), key.try_into()) {
            (None, Ok(key)) => self.restored.set.remove(&Key(key)),
            (Some(value), _) => match Change::decode(key, value) {
                Ok(Change::Delivered(delivered)) => self.restored.set.insert(&delivered),
                Ok(Change::Tried(tried)) if tried.queue_offset >= self.begin => {
                    self.restored.tried.insert(tried.queue_offset, tried);
                }
                Ok(Change::Tried(_)) => {}
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
