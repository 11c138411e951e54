//! What Nat.app was told last of Engage's keys, as the `delivered` topic has it, and how old that is, as the queue has it: for
//! who must not bring an older value back, a replay and a redrive. Blocking.

use std::collections::{BTreeMap, HashMap};

use rdkafka::message::Message;

use super::records::{each_record, tell_foreign, time_of, whole};
use super::{CommandError, Stopped};
use crate::config::Config;
use crate::dead_letter::Origin;
use crate::dedup::{Change, Delivered, Key, Kind, Place};
use crate::kafka::{Range, headers_of};

/// What Nat.app was told of a key.
#[derive(Debug, Clone, Copy)]
pub struct Accepted {
    pub place: Place,
    /// Where it stood in the queue.
    queued: (i32, i64),
    /// When the event was written to the source; where the queue has it no more, when it was accepted. Unix milliseconds.
    pub at: i64,
}

impl Accepted {
    /// As the queue's partition has it, before its age is known.
    pub fn of(partition: i32, delivered: &Delivered) -> Accepted {
        Accepted { place: delivered.place, queued: (partition, delivered.queue_offset), at: delivered.at }
    }
}

/// As dedup has it.
pub fn place_of(origin: &Origin<'_>) -> Place {
    let item = origin.item.and_then(|item| u32::try_from(item).ok()).unwrap_or(0);
    Place::of(&origin.topic, origin.partition, origin.offset, item)
}

/// What `delivered` said last of each Engage key that is wanted, with the partition. A resize has copied keys to several: in one
/// the later record counts; between two of them, time.
pub fn engage_values(
    config: &Config,
    ranges: &[Range],
    stopped: &Stopped,
    is_wanted: impl Fn(&Delivered) -> bool,
) -> Result<HashMap<Key, (i32, Delivered)>, CommandError> {
    let (mut foreign, mut said) = (0, HashMap::new());
    let mut take = |key: Key, partition: i32, at: i64, delivered: Option<Delivered>| {
        let is_earlier = |(other, later, _): &(i32, i64, _)| *other != partition && *later >= at;
        if !said.get(&key).is_some_and(is_earlier) {
            said.insert(key, (partition, at, delivered));
        }
    };
    each_record(config, ranges, "reading what was delivered", stopped, |_, record| {
        let (key, partition) = (record.key().unwrap_or_default(), record.partition());
        match record.payload().map(|value| Change::decode(key, value)) {
            Some(Ok(Change::Delivered(delivered))) if delivered.key.kind != Kind::Visit => {
                if is_wanted(&delivered) {
                    take(delivered.key.key, partition, delivered.at, Some(delivered));
                }
            }
            Some(Ok(_)) => {} // A visit, or an attempt.
            Some(Err(_)) => foreign += 1,
            // The key was forgotten.
            None => {
                let at = time_of(record);
                if let Ok(key) = key.try_into() {
                    take(Key(key), partition, at, None);
                }
            }
        }
        Ok(())
    })?;
    tell_foreign(&config.topics.delivered, foreign);
    Ok(said.into_iter().filter_map(|(key, (partition, _, delivered))| Some((key, (partition, delivered?)))).collect())
}

/// Puts the age of the event in the place of the time of its acceptance, which an outage or an earlier redrive has made late.
/// One look at the queue, from the first of them to the last.
pub fn age(config: &Config, accepted: &mut HashMap<Key, Accepted>, stopped: &Stopped) -> Result<(), CommandError> {
    let keys: BTreeMap<(i32, i64), Key> = accepted.iter().map(|(key, accepted)| (accepted.queued, *key)).collect();
    let mut ranges = whole(config, &config.topics.queue, stopped)?;
    for range in &mut ranges {
        let partition = range.place.1;
        let mut offsets = keys.range((partition, range.begin)..(partition, range.end)).map(|((_, offset), _)| *offset);
        let first = offsets.next().unwrap_or(range.end);
        (range.begin, range.end) = (first, offsets.next_back().unwrap_or(first).saturating_add(1).min(range.end));
    }
    each_record(config, &ranges, "reading the queue", stopped, |_, record| {
        let key = keys.get(&(record.partition(), record.offset()));
        let Some(accepted) = key.and_then(|key| accepted.get_mut(key)) else { return Ok(()) };
        let origin = record.headers().map(headers_of).and_then(|headers| Origin::of(&headers));
        // The queue may have been made anew since: then this is another one.
        if let Some(origin) = origin.filter(|origin| place_of(origin) == accepted.place) {
            accepted.at = origin.timestamp;
        }
        Ok(())
    })
    .map(drop)
}
