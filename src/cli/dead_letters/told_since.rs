//! Which Engage values Nat.app was told after a dead letter's event: a redrive must not bring an older one back. Dedup knows
//! that within one source partition, and is left to it there; of two partitions only the times tell.

use std::collections::{BTreeMap, HashMap};

use rdkafka::message::Message;
use tokio::runtime::Handle;

use crate::cli::replay::{each_record, engage_values};
use crate::cli::{CommandError, Stopped};
use crate::config::Config;
use crate::dead_letter::Origin;
use crate::dedup::{DedupKey, Delivered, Key, Kind, Place};
use crate::kafka::{self, Range, headers_of};

/// An Engage event of a dead letter.
#[derive(Debug, Clone, Copy)]
pub struct EngageEvent {
    pub key: Key,
    place: Place,
    /// The source record's own, Unix milliseconds.
    timestamp: i64,
}

impl EngageEvent {
    pub fn of(key: &DedupKey, origin: &Origin<'_>) -> Option<EngageEvent> {
        let event = EngageEvent { key: key.key, place: place_of(origin), timestamp: origin.timestamp };
        (key.kind != Kind::Visit).then_some(event)
    }
}

/// As dedup has it.
fn place_of(origin: &Origin<'_>) -> Place {
    let item = origin.item.and_then(|item| u32::try_from(item).ok()).unwrap_or(0);
    Place::of(&origin.topic, origin.partition, origin.offset, item)
}

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

#[derive(Debug, Default)]
pub struct ToldSince(HashMap<Key, Accepted>);

impl ToldSince {
    /// Looks for what was accepted of the keys of these events. Blocking.
    ///
    /// # Errors
    /// When the topics cannot be read.
    pub fn find<'a>(
        config: &Config,
        events: impl Iterator<Item = &'a EngageEvent>,
        stopped: &Stopped,
    ) -> Result<ToldSince, CommandError> {
        let mut oldest: HashMap<Key, i64> = HashMap::new();
        for event in events {
            let at = oldest.entry(event.key).or_insert(i64::MAX);
            *at = event.timestamp.min(*at);
        }
        if oldest.is_empty() {
            return Ok(ToldSince::default());
        }
        let mut accepted = accepted(config, |key| oldest.contains_key(key), stopped)?;
        // An event is older than its acceptance, so that these alone may be younger than a letter's.
        accepted.retain(|key, accepted| oldest.get(key).is_some_and(|oldest| accepted.at > *oldest));
        age(config, &mut accepted, stopped)?;
        Ok(ToldSince(accepted))
    }

    /// Whether Nat.app was told a younger value than this one, which comes from another partition.
    pub fn holds(&self, event: &EngageEvent) -> bool {
        let is_younger =
            |accepted: &Accepted| accepted.place.source != event.place.source && accepted.at > event.timestamp;
        self.0.get(&event.key).is_some_and(is_younger)
    }
}

/// The last acceptance of each key that is wanted. What was given up was not accepted: the one before it counts.
fn accepted(
    config: &Config,
    is_wanted: impl Fn(&Key) -> bool,
    stopped: &Stopped,
) -> Result<HashMap<Key, Accepted>, CommandError> {
    let ranges = whole(config, &config.topics.delivered)?;
    let given_up = Kind::Engage { value: Kind::IN_DOUBT };
    let values = engage_values(config, &ranges, stopped, |delivered| {
        delivered.key.kind != given_up && is_wanted(&delivered.key.key)
    })?;
    Ok(values.into_iter().map(|(key, (partition, delivered))| (key, Accepted::of(partition, &delivered))).collect())
}

/// Puts the age of the event in the place of the time of its acceptance, which an outage or an earlier redrive has made late.
/// One look at the queue, from the first of them to the last.
pub fn age(config: &Config, accepted: &mut HashMap<Key, Accepted>, stopped: &Stopped) -> Result<(), CommandError> {
    let keys: BTreeMap<(i32, i64), Key> = accepted.iter().map(|(key, accepted)| (accepted.queued, *key)).collect();
    let mut ranges = whole(config, &config.topics.queue)?;
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
}

fn whole(config: &Config, topic: &str) -> Result<Vec<Range>, CommandError> {
    Handle::current().block_on(kafka::whole(config, topic)).map_err(CommandError::told)
}
