//! A stretch of records that is fixed before it is read: from a begin to an end in each partition, without a group. What
//! comes in after that is left alone, so that every tool that reads this way ends. Blocking: for a thread.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Message, OwnedMessage};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::clients::{Context, client, is_final, is_leaderless, reader_config};
use super::patience::patiently;
use super::topics::{answered, partitions, patient_ends, tool_deadline, with_client};
use super::{KafkaProblem, TopicPartition};
use crate::config::Config;

/// Of one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    pub place: TopicPartition,
    pub begin: i64,
    /// The first offset that does not belong to it.
    pub end: i64,
}

impl Range {
    /// Offsets, which may be more than there are records.
    pub fn length(&self) -> u64 {
        u64::try_from(self.end - self.begin).unwrap_or(0)
    }
}

/// What comes next.
pub enum Next {
    Record(Box<OwnedMessage>),
    /// Nothing for a moment: time to look whether to go on.
    Idle,
    /// All of it has been read.
    End,
}

/// How long a reader waits before it says `Idle`.
const MOMENT: Duration = Duration::from_millis(100);

/// Reads one partition after the other, since librdkafka does not say of which topic it tells the end.
pub struct RangeReader {
    reader: BaseConsumer<Context>,
    brokers: String,
    patience: Duration,
    /// The first is being read. Shared, since each record asks for it.
    ranges: VecDeque<Arc<Range>>,
    /// Of the first: the offset to come, once it is assigned.
    next: Option<i64>,
    /// Where its end was told before it was reached.
    false_end: Option<i64>,
    last_sign: Instant,
    total: u64,
    left: u64,
    gone: u64,
}

impl RangeReader {
    /// # Errors
    /// When the client cannot be made.
    pub fn new(config: &Config, ranges: Vec<Range>) -> Result<RangeReader, KafkaProblem> {
        let ranges: VecDeque<_> = ranges.into_iter().filter(|range| range.begin < range.end).map(Arc::new).collect();
        let total = ranges.iter().map(|range| range.length()).sum();
        let mut settings = reader_config(config);
        settings.set("auto.offset.reset", "error"); // What is gone is to be told.
        Ok(RangeReader {
            reader: client(&settings)?,
            brokers: config.kafka.brokers.clone(),
            patience: config.kafka.timeout * 3,
            ranges,
            next: None,
            false_end: None,
            last_sign: Instant::now(),
            total,
            left: total,
            gone: 0,
        })
    }

    /// Offsets in all.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Offsets passed.
    pub fn done(&self) -> u64 {
        self.total - self.left
    }

    /// Offsets that retention had deleted before they were read.
    pub fn gone(&self) -> u64 {
        self.gone
    }

    /// The next record.
    ///
    /// # Errors
    /// When a topic has gone or may not be read, or when nothing is heard of the brokers for three times `kafka.timeout`.
    #[expect(clippy::should_implement_trait, reason = "an iterator has no `Idle`")]
    pub fn next(&mut self) -> Result<Next, KafkaProblem> {
        let Some(range) = self.ranges.front().cloned() else { return Ok(Next::End) };
        if self.next.is_none() {
            self.assign(&range.place, range.begin)?;
        }
        match self.reader.poll(MOMENT).map(|polled| polled.map(|message| message.detach())) {
            Some(Ok(message)) if message.offset() < range.end => {
                self.pass(message.offset() + 1);
                Ok(Next::Record(Box::new(message)))
            }
            Some(Ok(_)) => self.finish_partition(),
            Some(Err(KafkaError::PartitionEOF(_))) => self.at_end(&range),
            Some(Err(error)) if is_final(&error) => Err(failed(error)),
            Some(Err(error)) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AutoOffsetReset) => {
                self.out_of_range(&range, error)
            }
            Some(Err(error)) => self.idle(&range, Some(error)),
            None => self.idle(&range, None),
        }
    }

    fn assign(&mut self, (topic, partition): &TopicPartition, offset: i64) -> Result<(), KafkaProblem> {
        let mut list = TopicPartitionList::new();
        let place = list.add_partition_offset(topic, *partition, Offset::Offset(offset));
        place.and_then(|()| self.reader.assign(&list)).map_err(failed)?;
        self.next = Some(offset);
        Ok(())
    }

    fn pass(&mut self, next: i64) {
        self.last_sign = Instant::now();
        self.false_end = None;
        let passed = next - self.next.unwrap_or(next);
        self.left = self.left.saturating_sub(u64::try_from(passed).unwrap_or(0));
        self.next = Some(next);
        if self.ranges.front().is_some_and(|range| next >= range.end) {
            self.next = None;
            self.ranges.pop_front();
        }
    }

    fn finish_partition(&mut self) -> Result<Next, KafkaProblem> {
        if let Some(end) = self.ranges.front().map(|range| range.end) {
            self.pass(end);
        }
        Ok(Next::Idle)
    }

    /// The broker has no such offset: retention has deleted it, or the partition is shorter than it was.
    fn out_of_range(&mut self, range: &Range, why: KafkaError) -> Result<Next, KafkaProblem> {
        let next = self.next.unwrap_or(range.begin);
        let (topic, partition) = &range.place;
        let begin = match self.reader.fetch_watermarks(topic, *partition, self.patience) {
            Ok((low, _)) if low > next => low.min(range.end),
            Ok(_) => return self.ask_again(range, next, Some(why)),
            Err(error) if is_final(&error) => return Err(failed(error)),
            Err(error) => return self.ask_again(range, next, Some(error)),
        };
        self.gone += u64::try_from(begin - next).unwrap_or(0);
        self.pass(begin);
        if begin < range.end {
            self.assign(&range.place, begin)?;
        }
        Ok(Next::Idle)
    }

    /// The broker knows of no more. A new leader that has not caught up says so too, hence it is asked again once the
    /// partition is known to be as long as it was; the offsets that are left then hold no records (a transaction's marker).
    fn at_end(&mut self, range: &Range) -> Result<Next, KafkaProblem> {
        let next = self.next.unwrap_or(range.begin);
        if self.false_end == Some(next) {
            return self.finish_partition();
        }
        let (topic, partition) = &range.place;
        match self.reader.fetch_watermarks(topic, *partition, self.patience) {
            Ok((_, high)) if high >= range.end => self.false_end = Some(next),
            // Shorter than it was.
            Ok(_) => return self.ask_again(range, next, None),
            Err(error) if is_final(&error) => return Err(failed(error)),
            Err(error) => return self.ask_again(range, next, Some(error)),
        }
        self.assign(&range.place, next)?;
        Ok(Next::Idle)
    }

    fn ask_again(&mut self, range: &Range, next: i64, why: Option<KafkaError>) -> Result<Next, KafkaProblem> {
        std::thread::sleep(MOMENT);
        self.assign(&range.place, next)?;
        self.idle(range, why)
    }

    fn idle(&mut self, range: &Range, why: Option<KafkaError>) -> Result<Next, KafkaProblem> {
        if self.last_sign.elapsed() < self.patience {
            return Ok(Next::Idle);
        }
        if why.as_ref().is_some_and(is_leaderless) {
            let (topic, partition) = range.place.clone();
            return Err(KafkaProblem::Leaderless { topic, partition });
        }
        let silence = || why.map_or_else(|| "no answer".to_owned(), |error| error.to_string());
        let cause = self.reader.context().last_failure().unwrap_or_else(silence);
        Err(KafkaProblem::Unreachable { brokers: self.brokers.clone(), timeout: self.patience, cause })
    }
}

fn failed(error: KafkaError) -> KafkaProblem {
    KafkaProblem::Failed { what: "reading records".into(), error }
}

/// All that a topic holds now.
///
/// # Errors
/// When it is not there, or the brokers do not answer; of one partition, after three times `kafka.timeout`.
pub async fn whole(config: &Config, topic: &str) -> Result<Vec<Range>, KafkaProblem> {
    let ends = patient_ends(config, partitions(config, topic).await?).await?;
    Ok(ends.into_iter().map(|(place, (begin, end))| Range { place, begin, end }).collect())
}

/// Of what a topic holds now, the records from one time on and before another, by their own timestamps.
///
/// # Errors
/// As `whole`.
pub async fn between(
    config: &Config,
    topic: &str,
    from: Option<Timestamp>,
    to: Option<Timestamp>,
) -> Result<Vec<Range>, KafkaProblem> {
    let mut ranges = whole(config, topic).await?;
    for (time, is_begin) in [(from, true), (to, false)] {
        let Some(time) = time else { continue };
        let places: Vec<TopicPartition> = ranges.iter().map(|range| range.place.clone()).collect();
        let offsets = patiently(Some(tool_deadline(config)), || offsets_at(config, places.clone(), time)).await?;
        for (range, offset) in ranges.iter_mut().zip(offsets) {
            let offset = offset.unwrap_or(range.end).clamp(range.begin, range.end);
            if is_begin { range.begin = offset } else { range.end = offset }
        }
    }
    Ok(ranges)
}

/// The offset of the first record of each partition at that time or after it; `None` where there is none.
async fn offsets_at(
    config: &Config,
    places: Vec<TopicPartition>,
    time: Timestamp,
) -> Result<Vec<Option<i64>>, KafkaProblem> {
    let timeout = config.kafka.timeout;
    // Before 1970 there is nothing; librdkafka takes less than 0 for something else.
    let time = time.as_millisecond().max(0);
    with_client(config, places, move |client, places| {
        let mut list = TopicPartitionList::new();
        for (topic, partition) in &places {
            list.add_partition_offset(topic, *partition, Offset::Offset(time))?;
        }
        // Of a partition with an error there may be records all the same.
        let found = answered(client.offsets_for_times(list, timeout)?)?;
        let offset = |(topic, partition): &TopicPartition| match found.find_partition(topic, *partition)?.offset() {
            Offset::Offset(offset) => Some(offset),
            _ => None,
        };
        Ok(places.iter().map(offset).collect())
    })
    .await
}
