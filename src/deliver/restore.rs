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
use std::sync::mpsc::{Receiver, Sender as FoundSender, channel};
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
use crate::stage::Seldom;

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
    /// Once it has been asked for, it stays.
    end: i64,
    /// The place where an end was told that was not the end.
    false_end: Option<i64>,
    gone: Arc<AtomicBool>,
}

#[derive(Default)]
struct Counts {
    records: u64,
    /// Of them, what is not this version's.
    unreadable: u64,
}

/// A partition whose end is known; `None`: nobody waits for it any more. One for each that was asked for.
type Found = Result<Option<(i32, Reading)>, KafkaProblem>;

const PROGRESS_EVERY: Duration = Duration::from_secs(5);
/// Records between two looks at what else has happened. One at each took some 7 % of the time.
const AT_A_TIME: usize = 256;
/// How long a partition's end is waited for at first. A leader that is there answers sooner.
const SHORT_PATIENCE: Duration = Duration::from_secs(1);

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
        let (over, mut readings) = (AtomicBool::new(false), HashMap::new());
        let result = std::thread::scope(|scope| {
            let (sender, found) = channel();
            let (reader, over) = (&reader, &over);
            let ask = |partitions| {
                let sender = sender.clone();
                scope.spawn(move || self.find_ends(reader, partitions, &sender, over));
            };
            let result = self.read(reader, &ask, &found, &mut readings);
            over.store(true, Ordering::Release);
            result
        });
        self.metrics.restore_remaining.sub(readings.values().map(|reading| reading.remaining).sum());
        result
    }

    /// The ends are read after the partitions became ours: everything that the predecessor had acknowledged lies before.
    /// One after the other, and round after round: a partition without a leader answers nothing for a while, which must not
    /// hold up the others.
    fn find_ends(
        &self,
        reader: &BaseConsumer<Context>,
        mut waiting: Vec<(i32, Reading)>,
        found: &FoundSender<Found>,
        over: &AtomicBool,
    ) {
        let (topic, longest) = (self.config.topics.delivered.as_str(), self.config.kafka.timeout);
        let (mut patience, mut trouble) = (SHORT_PATIENCE.min(longest), Seldom::default());
        while !waiting.is_empty() {
            let (mut without, mut problem) = (Vec::new(), None);
            for (partition, mut reading) in waiting {
                if over.load(Ordering::Acquire) || self.sender.is_closed() || reading.is_gone() {
                    let _ = found.send(Ok(None)); // An error says that nobody reads any more, here and below.
                    continue;
                }
                let answer = match reader.fetch_watermarks(topic, partition, patience) {
                    Ok((low, high)) => {
                        reading.lies(low, high);
                        Ok(Some((partition, reading)))
                    }
                    Err(error) if is_final(&error) => Err(failed(error)),
                    Err(error) => {
                        problem = Some(error);
                        without.push((partition, reading));
                        continue;
                    }
                };
                let _ = found.send(answer);
            }
            waiting = without;
            if let Some(error) = problem
                && patience == longest
                && trouble.count(Instant::now()).is_some()
            {
                tell_waiting(&error, &waiting);
            }
            if !waiting.is_empty() {
                std::thread::sleep(Duration::from_millis(200));
            }
            patience = (patience * 2).min(longest);
        }
    }

    fn reading(&self, to: &ToRestore) -> Reading {
        let restored = Restored { set: DeliveredSet::new(self.config.dedup_retention), tried: HashMap::new() };
        let (generation, begin, gone) = (to.generation, to.begin, Arc::clone(&to.gone));
        Reading { generation, restored, begin, remaining: 0, next: 0, end: 0, false_end: None, gone }
    }

    /// Begins with a partition whose end is known.
    fn begin(
        &self,
        reader: &BaseConsumer<Context>,
        readings: &mut HashMap<i32, Reading>,
        (partition, reading): (i32, Reading),
    ) -> Result<(), KafkaProblem> {
        if reading.next >= reading.end {
            self.hand_over(partition, reading);
            return Ok(());
        }
        let mut list = TopicPartitionList::new();
        let place = list.add_partition_offset(&self.config.topics.delivered, partition, Offset::Offset(reading.next));
        place.and_then(|()| reader.incremental_assign(&list)).map_err(failed)?;
        self.metrics.restore_remaining.add(reading.remaining);
        readings.insert(partition, reading);
        Ok(())
    }

    fn read(
        &self,
        reader: &BaseConsumer<Context>,
        ask: &dyn Fn(Vec<(i32, Reading)>),
        found: &Receiver<Found>,
        readings: &mut HashMap<i32, Reading>,
    ) -> Result<(), KafkaProblem> {
        let (began, mut told) = (Instant::now(), Instant::now());
        let mut counts = Counts::default();
        ask(self.partitions.iter().map(|to| (to.partition, self.reading(to))).collect());
        let mut asked = self.partitions.len();
        while !self.sender.is_closed() && (asked > 0 || !readings.is_empty()) {
            // With nothing to read it waits for the first.
            let first = if readings.is_empty() { found.recv().ok() } else { None };
            for found in first.into_iter().chain(found.try_iter()) {
                asked -= 1;
                if let Some(found) = found? {
                    self.begin(reader, readings, found)?;
                }
            }
            self.drop_gone(reader, readings)?;
            if let Some(again) = self.take_some(reader, readings, &mut counts)? {
                asked += 1;
                ask(vec![again]);
            }
            if told.elapsed() > PROGRESS_EVERY {
                told = Instant::now();
                let (records, left) = (counts.records, self.metrics.restore_remaining.get());
                tracing::info!(records, left, partitions = readings.len(), "restoring the delivered set");
            }
        }
        if self.sender.is_closed() || self.partitions.iter().all(|partition| partition.gone.load(Ordering::Acquire)) {
            return Ok(()); // Cut short: nobody waits for it any more.
        }
        let Counts { records, unreadable } = counts;
        if unreadable > 0 {
            tracing::warn!(unreadable, "records of the delivered topic are not this version's and were passed over");
        }
        tracing::info!(records, seconds = began.elapsed().as_secs_f64(), "the delivered set is restored");
        Ok(())
    }

    /// Takes what comes, but not for long; what comes back is a partition whose end has to be asked for again.
    fn take_some(
        &self,
        reader: &BaseConsumer<Context>,
        readings: &mut HashMap<i32, Reading>,
        counts: &mut Counts,
    ) -> Result<Option<(i32, Reading)>, KafkaProblem> {
        for _ in 0..AT_A_TIME {
            match reader.poll(Duration::from_millis(100)) {
                None => break,
                Some(Ok(message)) => {
                    if let Some(reading) = readings.get_mut(&message.partition()) {
                        counts.records += 1;
                        self.metrics.restored.inc();
                        counts.unreadable += u64::from(!reading.take(&message, &self.metrics));
                    }
                }
                // It may have been the last.
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    let again = self.at_an_end(reader, readings, partition)?;
                    return Ok(again.map(|reading| (partition, reading)));
                }
                Some(Err(error)) if is_final(&error) => return Err(failed(error)),
                Some(Err(error)) => tracing::warn!(%error, "reading the delivered topic goes on after this"),
            }
        }
        Ok(None)
    }

    /// Hands the partition over if that was its end, or tells that it has to be asked again.
    fn at_an_end(
        &self,
        reader: &BaseConsumer<Context>,
        readings: &mut HashMap<i32, Reading>,
        partition: i32,
    ) -> Result<Option<Reading>, KafkaProblem> {
        let Some(mut reading) = readings.remove(&partition) else { return Ok(None) };
        self.leave(reader, partition)?;
        self.metrics.restore_remaining.sub(reading.remaining);
        let Reading { next, end, false_end, .. } = reading;
        // Told a second time, at the same place, it is: a tombstone that was cleaned away leaves nothing to read there.
        if next >= end || false_end == Some(next) {
            self.hand_over(partition, reading);
            return Ok(None);
        }
        tracing::warn!(partition, next, end, "the delivered topic ends early; asking again");
        // Answered when the leader has caught up, and so what is read after it is all there is.
        reading.false_end = Some(next);
        Ok(Some(reading))
    }

    fn drop_gone(
        &self,
        reader: &BaseConsumer<Context>,
        readings: &mut HashMap<i32, Reading>,
    ) -> Result<(), KafkaProblem> {
        for (partition, reading) in readings.extract_if(|_, reading| reading.is_gone()) {
            self.metrics.restore_remaining.sub(reading.remaining);
            self.leave(reader, partition)?;
        }
        Ok(())
    }

    /// Or it would go on fetching what is written there from now on, for as long as another partition takes.
    fn leave(&self, reader: &BaseConsumer<Context>, partition: i32) -> Result<(), KafkaProblem> {
        let mut list = TopicPartitionList::new();
        list.add_partition(&self.config.topics.delivered, partition);
        reader.incremental_unassign(&list).map_err(failed)
    }

    fn hand_over(&self, partition: i32, mut reading: Reading) {
        reading.restored.set.expire(Timestamp::now().as_millisecond());
        let Reading { generation, restored, .. } = reading;
        let _ =
            self.sender.blocking_send(FromRestore::Restored { partition, generation, restored: Box::new(restored) });
    }
}

impl Reading {
    fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    /// Of one that has been asked for again the end is as it was.
    fn lies(&mut self, low: i64, high: i64) {
        if self.false_end.is_none() {
            (self.next, self.end, self.remaining) = (low, high, (high - low).max(0));
        }
    }

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

fn tell_waiting(error: &KafkaError, waiting: &[(i32, Reading)]) {
    let partitions: Vec<i32> = waiting.iter().map(|(partition, _)| *partition).collect();
    tracing::warn!(
        %error,
        ?partitions,
        "the delivered topic cannot be read yet: has each of these partitions a leader? Trying again"
    );
}

fn failed(error: KafkaError) -> KafkaProblem {
    KafkaProblem::Failed { what: "restoring the delivered set".into(), error }
}
