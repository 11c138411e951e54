//! Copies what was delivered to every partition that its contact can be in now. An entry's key is a hash and does not tell
//! its contact, but the partition that it lies in leaves a few only: those of its class.
//!
//! One class at a time is in memory. An Engage value may lie in several of its partitions, copied by an earlier resize: the
//! one accepted last is the one to copy, so that no partition is left with an older one behind it.

use std::collections::HashMap;

use jiff::Timestamp;
use rdkafka::message::{Message, OwnedHeaders};

use super::write::Writer;
use super::{Onlooker, ResizeError, Resized, go_on};
use crate::config::Config;
use crate::dedup::{Change, Delivered, Key};
use crate::kafka::{Classes, Next, Range, RangeReader, Resizing, whole};

/// The queue offset of a copy: in its new partition it stands before everything.
const BEFORE_ALL: i64 = -1;

/// What one class remembers, and in which partition each was found last.
type Entries = HashMap<Key, (Delivered, i32)>;

pub fn carry(
    config: &Config,
    made_with: usize,
    resizing: &Resizing,
    onlooker: &mut dyn Onlooker,
    resized: &mut Resized,
) -> Result<(), ResizeError> {
    let topic = &config.topics.delivered;
    let ranges = tokio::runtime::Handle::current().block_on(whole(config, topic))?;
    // Contacts may have been keyed by either number; nothing else holds entries, but copies of this very resize.
    let classes = Classes::of(&[made_with, resizing.found, resizing.to]);
    let sources: Vec<Range> =
        ranges.into_iter().filter(|range| (range.place.1 as usize) < resizing.found.max(made_with)).collect();
    onlooker.begins("carrying what was delivered", sources.iter().map(Range::length).sum());
    let mut writer = Writer::new(config, topic)?;
    let mut done = 0;
    for class in 0..classes.count() {
        let of_class = |range: &&Range| range.place.1 as usize % classes.count() == class;
        let mut reader = RangeReader::new(config, sources.iter().filter(of_class).cloned().collect())?;
        let entries = read(config, &mut reader, done, onlooker, resized)?;
        done += reader.total();
        for (key, (delivered, found_in)) in entries {
            resized.entries += 1;
            let value = Delivered { queue_offset: BEFORE_ALL, ..delivered }.encode();
            for partition in classes.members(class, resizing.to).map(|partition| partition as i32) {
                if partition != found_in {
                    let (key, value) = (Some(key.0.as_slice()), Some(value.as_slice()));
                    writer.write(Some(partition), key, value, OwnedHeaders::new(), onlooker)?;
                    resized.copies += 1;
                }
            }
        }
    }
    writer.finish(onlooker)
}

fn read(
    config: &Config,
    reader: &mut RangeReader,
    before: u64,
    onlooker: &mut dyn Onlooker,
    resized: &mut Resized,
) -> Result<Entries, ResizeError> {
    let oldest = Timestamp::now().as_millisecond().saturating_sub(config.dedup_retention.as_millis() as i64);
    let mut entries = Entries::default();
    loop {
        match reader.next()? {
            Next::Record(record) => {
                let key = record.key().unwrap_or_default();
                match (record.payload(), key.try_into()) {
                    (None, Ok(key)) => drop(entries.remove(&Key(key))),
                    (Some(value), _) => match Change::decode(key, value) {
                        Ok(Change::Delivered(delivered)) if delivered.at >= oldest => {
                            take(&mut entries, delivered, record.partition());
                        }
                        // Expired, or attempts at an event that is going to be moved: its patience begins anew.
                        Ok(_) => {}
                        Err(_) => resized.unreadable += 1,
                    },
                    (None, Err(_)) => resized.unreadable += 1,
                }
            }
            Next::Idle => {}
            Next::End => return Ok(entries),
        }
        onlooker.at(before + reader.done());
        go_on(onlooker)?;
    }
}

/// The one accepted last; in one partition the later record, as in the restore.
fn take(entries: &mut Entries, delivered: Delivered, partition: i32) {
    let key = delivered.key.key;
    let is_newer = |(known, found_in): &(Delivered, i32)| {
        (delivered.at, delivered.queue_offset) > (known.at, known.queue_offset)
            || (*found_in == partition && delivered.queue_offset >= known.queue_offset)
    };
    if entries.get(&key).is_none_or(is_newer) {
        entries.insert(key, (delivered, partition));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dedup::{DedupKey, Kind, Place};

    #[test]
    fn of_copies_of_one_value_the_one_accepted_last_is_carried() {
        let key = DedupKey { key: Key([7; 16]), kind: Kind::Engage { value: 1 } };
        let entry = |at, queue_offset| Delivered { key, at, queue_offset, place: Place::default() };
        // Copied to 7 by an earlier resize and delivered anew there; 1 still has the old one, whichever is read first.
        let of = |order: [(i64, i64, i32); 2]| {
            let mut entries = Entries::default();
            order.into_iter().for_each(|(at, offset, partition)| take(&mut entries, entry(at, offset), partition));
            entries.remove(&key.key).map(|(entry, partition)| (entry.at, partition))
        };
        assert_eq!(of([(100, 40, 1), (200, 3, 7)]), Some((200, 7)));
        assert_eq!(of([(200, 3, 7), (100, 40, 1)]), Some((200, 7)));
        // A record that was written late, after its partition had gone to another instance.
        assert_eq!(of([(200, 41, 1), (100, 40, 1)]), Some((200, 1)));
        // In one partition the queue's order counts, not the clock of whoever owned it.
        assert_eq!(of([(200, 40, 1), (100, 41, 1)]), Some((100, 1)));
    }
}
