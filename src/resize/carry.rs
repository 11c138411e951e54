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
use crate::dedup::{Change, DedupKey, Delivered, Key, Kind, Place};
use crate::kafka::{Classes, Next, Range, RangeReader, Resizing, whole};

/// The queue offset of a copy: in its new partition it stands before everything.
const BEFORE_ALL: i64 = -1;

/// Hashed anew: written in the order of the delivered set's own hashes, they would be slow to restore.
type Entries = HashMap<Key, Known>;

/// What was said last of a key, and where. As small as it can be: there are many at a time.
struct Known {
    last: Last,
    at: i64,
    queue_offset: i64,
    partition: i32,
}

enum Last {
    Forgotten,
    Visit,
    Engage(Box<(u64, Place)>),
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
        let count = entries.len() as u64;
        for (number, (key, known)) in (0..).zip(entries) {
            onlooker.at(done + half(reader.total()) + half(reader.total()) * number / count.max(1));
            let value = known.copy(key).map(|delivered| delivered.encode());
            resized.entries += u64::from(value.is_some());
            for partition in classes.members(class, resizing.to).map(|partition| partition as i32) {
                if partition != known.partition {
                    let key = Some(key.0.as_slice());
                    writer.write(Some(partition), key, value.as_deref(), OwnedHeaders::new(), onlooker)?;
                    resized.copies += u64::from(value.is_some());
                }
            }
        }
        done += reader.total();
    }
    writer.finish(onlooker)
}

/// A record counts half once it is read, and whole once what it says is written.
fn half(records: u64) -> u64 {
    records / 2
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
                        let forgotten = Known { last: Last::Forgotten, at, queue_offset: BEFORE_ALL, partition };
                        take(&mut entries, Key(key), forgotten);
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
        onlooker.at(before + half(reader.done()));
        go_on(onlooker)?;
    }
}

impl Known {
    fn of(delivered: Delivered, partition: i32) -> Known {
        let Delivered { key, at, queue_offset, place } = delivered;
        let last = match key.kind {
            Kind::Visit => Last::Visit,
            Kind::Engage { value } => Last::Engage(Box::new((value, place))),
        };
        Known { last, at, queue_offset, partition }
    }

    /// The same for another partition; `None`: it was forgotten.
    fn copy(&self, key: Key) -> Option<Delivered> {
        let (kind, place) = match &self.last {
            Last::Forgotten => return None,
            Last::Visit => (Kind::Visit, Place::default()),
            Last::Engage(last) => (Kind::Engage { value: last.0 }, last.1),
        };
        Some(Delivered { key: DedupKey { key, kind }, at: self.at, queue_offset: BEFORE_ALL, place })
    }

    /// In one partition the later record counts, as in the restore; between two of them, time.
    fn is_after(&self, other: &Known) -> bool {
        let is_later = matches!(self.last, Last::Forgotten) || self.queue_offset >= other.queue_offset;
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
    fn a_copy_says_what_the_original_said() {
        let place = Place { source: 7, offset: 8, item: 9 };
        for (kind, place) in [(Kind::Visit, Place::default()), (Kind::Engage { value: 5 }, place)] {
            let original = Delivered { key: DedupKey { key: Key([7; 16]), kind }, at: 100, queue_offset: 40, place };
            let copy = Known::of(original, 1).copy(Key([7; 16]));
            assert_eq!(copy, Some(Delivered { queue_offset: BEFORE_ALL, ..original }));
        }
        assert!(size_of::<(Key, Known)>() <= 56, "a class of millions is in memory");
    }

    #[test]
    fn what_was_forgotten_stays_forgotten_whichever_copy_is_read_first() {
        let key = DedupKey { key: Key([7; 16]), kind: Kind::Visit };
        let delivered = |partition| {
            let place = Place::default();
            Known::of(Delivered { key, at: 100, queue_offset: 40, place }, partition)
        };
        let forgotten = || Known { last: Last::Forgotten, at: 200, queue_offset: BEFORE_ALL, partition: 1 };
        for order in [[delivered(7), forgotten()], [forgotten(), delivered(7)], [delivered(1), forgotten()]] {
            let mut entries = Entries::default();
            order.into_iter().for_each(|found| take(&mut entries, key.key, found));
            assert!(entries[&key.key].copy(key.key).is_none());
        }
        // Delivered again since then.
        let mut entries = Entries::default();
        [forgotten(), delivered(1)].into_iter().for_each(|found| take(&mut entries, key.key, found));
        assert!(entries[&key.key].copy(key.key).is_some());
    }
}
