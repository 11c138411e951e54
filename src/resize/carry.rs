//! Copies what was delivered to every partition that its contact can be in now. An entry's key is a hash and does not tell
//! its contact, but the partition that it lies in leaves a few only: those of its class.
//!
//! One class at a time is in memory. A key may lie in several of its partitions, copied by an earlier resize: what was said
//! of it last, wherever, is what is copied, so that no partition is left with an older value, or with what was forgotten.

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

type Entries = HashMap<Key, Known>;

/// What was said last of a key, and where.
struct Known {
    /// `None`: it was forgotten.
    delivered: Option<Delivered>,
    at: i64,
    queue_offset: i64,
    partition: i32,
}

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
        for (key, known) in entries {
            resized.entries += u64::from(known.delivered.is_some());
            let value = known.delivered.map(|delivered| Delivered { queue_offset: BEFORE_ALL, ..delivered }.encode());
            for partition in classes.members(class, resizing.to).map(|partition| partition as i32) {
                if partition != known.partition {
                    let key = Some(key.0.as_slice());
                    writer.write(Some(partition), key, value.as_deref(), OwnedHeaders::new(), onlooker)?;
                    resized.copies += u64::from(value.is_some());
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
                let (key, partition) = (record.key().unwrap_or_default(), record.partition());
                match (record.payload(), key.try_into()) {
                    (None, Ok(key)) => {
                        let at = record.timestamp().to_millis().unwrap_or(i64::MAX);
                        take(
                            &mut entries,
                            Key(key),
                            Known { delivered: None, at, queue_offset: BEFORE_ALL, partition },
                        );
                    }
                    (Some(value), _) => match Change::decode(key, value) {
                        Ok(Change::Delivered(delivered)) if delivered.at >= oldest => {
                            take(&mut entries, delivered.key.key, Known::of(delivered, partition));
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

impl Known {
    fn of(delivered: Delivered, partition: i32) -> Known {
        let Delivered { at, queue_offset, .. } = delivered;
        Known { delivered: Some(delivered), at, queue_offset, partition }
    }

    /// In one partition the later record counts, as in the restore; between two of them, time.
    fn is_after(&self, other: &Known) -> bool {
        let is_later = self.delivered.is_none() || self.queue_offset >= other.queue_offset;
        (self.partition == other.partition && is_later) || (self.at, self.queue_offset) > (other.at, other.queue_offset)
    }
}

fn take(entries: &mut Entries, key: Key, found: Known) {
    if entries.get(&key).is_none_or(|known| found.is_after(known)) {
        entries.insert(key, found);
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
            order.into_iter().for_each(|(at, offset, partition)| {
                take(&mut entries, key.key, Known::of(entry(at, offset), partition))
            });
            entries.remove(&key.key).map(|known| (known.at, known.partition))
        };
        assert_eq!(of([(100, 40, 1), (200, 3, 7)]), Some((200, 7)));
        assert_eq!(of([(200, 3, 7), (100, 40, 1)]), Some((200, 7)));
        // A record that was written late, after its partition had gone to another instance.
        assert_eq!(of([(200, 41, 1), (100, 40, 1)]), Some((200, 1)));
        // In one partition the queue's order counts, not the clock of whoever owned it.
        assert_eq!(of([(200, 40, 1), (100, 41, 1)]), Some((100, 1)));
    }

    #[test]
    fn what_was_forgotten_stays_forgotten_whichever_copy_is_read_first() {
        let key = DedupKey { key: Key([7; 16]), kind: Kind::Visit };
        let delivered = |partition| {
            let place = Place::default();
            Known::of(Delivered { key, at: 100, queue_offset: 40, place }, partition)
        };
        let forgotten = || Known { delivered: None, at: 200, queue_offset: BEFORE_ALL, partition: 1 };
        for order in [[delivered(7), forgotten()], [forgotten(), delivered(7)], [delivered(1), forgotten()]] {
            let mut entries = Entries::default();
            order.into_iter().for_each(|found| take(&mut entries, key.key, found));
            assert!(entries[&key.key].delivered.is_none());
        }
        // Delivered again since then.
        let mut entries = Entries::default();
        [forgotten(), delivered(1)].into_iter().for_each(|found| take(&mut entries, key.key, found));
        assert!(entries[&key.key].delivered.is_some());
    }
}
