//! Puts what waits in the queue into its contact's new partition, behind what is there, and passes the old records over: the
//! owner of the old partition could deliver them, but would tell nobody of it who gets the contact's next event.
//!
//! The group's offsets are moved past the old ones when Kafka has all the new ones. Stopped before that, it does it all
//! again: what is in the queue twice then is a duplicate, as after a crash of ingest.

use std::collections::BTreeMap;

use rdkafka::message::{Message, OwnedHeaders};

use super::write::Writer;
use super::{Onlooker, ResizeError, Resized, go_on};
use crate::config::Config;
use crate::kafka::{self, Bookmark, KafkaProblem, Next, Range, RangeReader, Resizing, TopicPartition, partition_of};

pub fn rekey(
    config: &Config,
    resizing: &Resizing,
    onlooker: &mut dyn Onlooker,
    resized: &mut Resized,
) -> Result<Frontier, ResizeError> {
    let queue = &config.topics.queue;
    let bookmark = Bookmark::new(config, &config.topics.deliver_group)?;
    let ends: BTreeMap<TopicPartition, i64> =
        (0..).zip(resizing.ends.iter().flatten()).map(|(partition, end)| ((queue.clone(), partition), *end)).collect();
    let (ranges, ends) = waiting(config, &bookmark, &ends)?;
    let mut reader = RangeReader::new(config, ranges)?;
    onlooker.begins("keying anew what waits in the queue", reader.total());
    let mut writer = Writer::new(config, queue)?;
    loop {
        match reader.next()? {
            Next::Record(record) => {
                let partition = record.key().map(|key| partition_of(key, resizing.to as i32));
                let headers = record.headers().cloned().unwrap_or_else(OwnedHeaders::new);
                writer.write(partition, record.key(), record.payload(), headers, onlooker)?;
                resized.moved += 1;
            }
            Next::Idle => {}
            Next::End => break,
        }
        onlooker.at(reader.done());
        go_on(onlooker)?;
    }
    writer.finish(onlooker)?;
    Ok(Frontier { bookmark, ends })
}

/// Where the group goes on, behind what was moved.
pub struct Frontier {
    bookmark: Bookmark,
    ends: BTreeMap<TopicPartition, i64>,
}

impl Frontier {
    /// The last step, which is to be done when Kafka has all the new records.
    ///
    /// # Errors
    /// When Kafka does not take it.
    pub fn pass(&self) -> Result<(), KafkaProblem> {
        self.bookmark.save(&self.ends)
    }
}

/// What lies between what the group has settled and the ends, and where it goes on: never before what it has settled. A
/// partition that it has never had begins at its first record.
fn waiting(
    config: &Config,
    bookmark: &Bookmark,
    ends: &BTreeMap<TopicPartition, i64>,
) -> Result<(Vec<Range>, BTreeMap<TopicPartition, i64>), KafkaProblem> {
    let places: Vec<TopicPartition> = ends.keys().cloned().collect();
    let settled = bookmark.load(&places)?;
    let first = tokio::runtime::Handle::current().block_on(kafka::patient_ends(config, places))?;
    let range = |(place, end): (&TopicPartition, &i64)| {
        let low = first.get(place).map_or(0, |(low, _)| *low);
        let begin = settled.get(place).copied().unwrap_or(0).max(low);
        Range { place: place.clone(), begin, end: begin.max(*end) }
    };
    let ranges: Vec<Range> = ends.iter().map(range).collect();
    let ends = ranges.iter().map(|range| (range.place.clone(), range.end)).collect();
    Ok((ranges, ends))
}
