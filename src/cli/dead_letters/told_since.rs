//! Which Engage values Nat.app was told after an event that is to be sent again, or will be told, since they wait in the queue:
//! neither redrive nor replay may bring an older one back. Dedup knows that within one source partition, and is left to it
//! there; of two partitions only the times tell.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rdkafka::message::{Message, OwnedMessage};

use super::outcomes::since;
use crate::cli::accepted::{Accepted, age, engage_values, place_of};
use crate::cli::progress::Progress;
use crate::cli::records::whole;
use crate::cli::{CommandError, Stopped};
use crate::config::Config;
use crate::dead_letter::Origin;
use crate::dedup::{DedupKey, Key, Kind, Place};
use crate::kafka::{self, KafkaProblem, Next, Range, RangeReader, headers_of};
use crate::poison::contained;
use crate::segment::{self, Outcome};

/// How often it is looked at what has come into the queue: a million letters are to cost little.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// An Engage event that is to be sent again, or of the queue.
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

    /// What a record of the queue holds, if it is one.
    fn queued(config: &Config, record: &OwnedMessage, now: Timestamp) -> Option<EngageEvent> {
        let value = record.payload()?;
        let Ok(Outcome::Identify(identify)) = contained(|| segment::classify(&config.rules, value, now)) else {
            return None;
        };
        let key = DedupKey::of(&identify, config.rules.engage);
        // What something else put there has its place in the queue alone, as dedup has it.
        let unknown = || Origin {
            topic: "".into(),
            partition: record.partition(),
            offset: record.offset(),
            timestamp: record.timestamp().to_millis().unwrap_or_default(),
            key: None,
            item: None,
            road: None,
        };
        let origin = record.headers().map(headers_of).and_then(|headers| Origin::of(&headers));
        EngageEvent::of(&key, &origin.unwrap_or_else(unknown))
    }
}

#[derive(Debug, Clone, Default)]
pub struct ToldSince {
    /// The keys that are asked for, each with the time of its oldest letter's event; `None`: all there are.
    oldest: Option<HashMap<Key, i64>>,
    accepted: HashMap<Key, Accepted>,
    /// Of what was not settled at the first look, or came in after it: source partitions, each with its youngest event's time.
    waiting: HashMap<Key, Vec<(u64, i64)>>,
    /// How far the queue has been looked at, and when.
    queue: Vec<Range>,
    looked: Option<Instant>,
}

impl ToldSince {
    /// Looks for what was accepted of the keys of these events, and for what waits. Blocking.
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
        let looked = Some(Instant::now());
        // Before the ends: what is settled meanwhile is then found as delivered.
        let settled = stopped.ask(settled(config))?;
        let queue = whole(config, &config.topics.queue, stopped)?;
        let mut accepted = accepted(config, |key| oldest.contains_key(key), stopped)?;
        // An event is older than its acceptance, so that these alone may be younger than a letter's.
        accepted.retain(|key, accepted| oldest.get(key).is_some_and(|oldest| accepted.at > *oldest));
        age(config, &mut accepted, stopped)?;
        let oldest = Some(oldest);
        let mut told = ToldSince { oldest, accepted, queue: queue.clone(), looked, ..ToldSince::default() };
        told.read(config, since(&settled, queue), true, stopped).map_err(CommandError::told)?;
        Ok(told)
    }

    /// What waits: of the queue that which lies behind `settled`, whatever its key. What was accepted before that was asked for
    /// is left to whoever asks. Blocking.
    ///
    /// # Errors
    /// When the queue cannot be read.
    pub fn waiting(config: &Config, settled: &[Range], stopped: &Stopped) -> Result<ToldSince, CommandError> {
        let looked = Some(Instant::now());
        let queue = whole(config, &config.topics.queue, stopped)?;
        let mut told = ToldSince { queue: queue.clone(), looked, ..ToldSince::default() };
        told.read(config, since(settled, queue), true, stopped)?;
        Ok(told)
    }

    /// Looks at what has come into the queue since the last look, if that is a while ago. What was accepted meanwhile has been
    /// there, or was waiting at the first look. Blocking.
    ///
    /// # Errors
    /// When the queue cannot be read.
    pub fn look_again(&mut self, config: &Config, stopped: &Stopped) -> Result<(), CommandError> {
        if self.looked.is_none_or(|looked| looked.elapsed() < LOOK_EVERY) {
            return Ok(());
        }
        self.looked = Some(Instant::now());
        let places = self.queue.iter().map(|range| range.place.clone()).collect();
        let ends = match stopped.ask(kafka::patient_ends(config, places)) {
            // The redrive tells what it has done.
            Err(CommandError::Stopped) => return Ok(()),
            ends => ends?,
        };
        let range = |(place, (begin, end))| Range { place, begin, end };
        let queue: Vec<Range> = ends.into_iter().map(range).collect();
        let before = std::mem::replace(&mut self.queue, queue.clone());
        self.read(config, since(&before, queue), false, stopped).map_err(CommandError::told)
    }

    fn read(
        &mut self,
        config: &Config,
        ranges: Vec<Range>,
        is_told: bool,
        stopped: &Stopped,
    ) -> Result<(), KafkaProblem> {
        let (mut reader, now) = (RangeReader::new(config, ranges)?, Timestamp::now());
        let mut progress = is_told.then(|| Progress::new("reading what waits", "records", reader.total()));
        while !stopped.is_so() {
            match reader.next()? {
                Next::Record(record) => {
                    EngageEvent::queued(config, &record, now).iter().for_each(|event| self.add_waiting(event));
                }
                Next::Idle => {}
                Next::End => break,
            }
            progress.iter_mut().for_each(|progress| progress.at(reader.done()));
        }
        Ok(())
    }

    /// This event is in the queue, or comes into it now.
    pub fn add_waiting(&mut self, event: &EngageEvent) {
        let EngageEvent { key, place: Place { source, .. }, timestamp } = *event;
        let is_asked_for = |oldest: &HashMap<Key, i64>| oldest.get(&key).is_some_and(|oldest| timestamp > *oldest);
        if !self.oldest.as_ref().is_none_or(is_asked_for) {
            return;
        }
        let sources = self.waiting.entry(key).or_default();
        match sources.iter_mut().find(|(other, _)| *other == source) {
            Some((_, at)) => *at = timestamp.max(*at),
            None => sources.push((source, timestamp)),
        }
    }

    /// Whether Nat.app was told a younger value than this one, which comes from another partition, or will be.
    pub fn holds(&self, event: &EngageEvent) -> bool {
        let is_younger = |source: u64, at: i64| source != event.place.source && at > event.timestamp;
        let accepted = self.accepted.get(&event.key);
        let mut waiting = self.waiting.get(&event.key).into_iter().flatten();
        accepted.is_some_and(|accepted| is_younger(accepted.place.source, accepted.at))
            || waiting.any(|(source, at)| is_younger(*source, *at))
    }
}

/// Of each partition of the queue, what the service has settled.
pub async fn settled(config: &Config) -> Result<Vec<Range>, KafkaProblem> {
    let places = kafka::partitions(config, &config.topics.queue).await?;
    let committed = kafka::patient_committed(config, &config.topics.deliver_group, places).await?;
    Ok(committed.into_iter().map(|(place, end)| Range { place, begin: 0, end }).collect())
}

/// The last acceptance of each key that is wanted. What was given up was not accepted: the one before it counts.
fn accepted(
    config: &Config,
    is_wanted: impl Fn(&Key) -> bool,
    stopped: &Stopped,
) -> Result<HashMap<Key, Accepted>, CommandError> {
    let ranges = whole(config, &config.topics.delivered, stopped)?;
    let given_up = Kind::Engage { value: Kind::IN_DOUBT };
    let values = engage_values(config, &ranges, stopped, |delivered| {
        delivered.key.kind != given_up && is_wanted(&delivered.key.key)
    })?;
    Ok(values.into_iter().map(|(key, (partition, delivered))| (key, Accepted::of(partition, &delivered))).collect())
}
