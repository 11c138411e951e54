//! What replay and backfill share: events judged by the very rules of ingest, put into the queue, and a bookmark that follows
//! what the brokers have taken, so that a tool killed anywhere goes on from there. Blocking: for a thread.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::table::{number, table};
use super::{CommandError, suppress_list};
use crate::config::Config;
use crate::enqueue::{Enqueue, Entry};
use crate::kafka::{Bookmark, KafkaProblem, TopicPartition};
use crate::poison::contained;
use crate::segment::{self, Invalid, Outcome, Reading, Rules};
use crate::stage::Ledger;
use crate::suppress::SuppressList;

/// How often the bookmark is saved: what came after it is sent again when a tool was killed, and is a duplicate.
const SAVE_EVERY: Duration = Duration::from_secs(1);

/// One count of a summary: its name in JSON, what people read, and how many. One that is seldom more than nothing is left
/// out for people where it is nothing.
pub struct Count {
    pub name: &'static str,
    pub words: &'static str,
    pub count: u64,
    pub seldom: bool,
}

/// What a tool has done: a table, or one JSON object.
pub fn summary(tool: &str, counts: &[Count], json: bool) -> String {
    if json {
        let fields = counts.iter().map(|count| (count.name.to_owned(), count.count.into()));
        return format!("{}\n", serde_json::Value::Object(fields.collect()));
    }
    let told = counts.iter().filter(|count| !count.seldom || count.count > 0);
    let rows: Vec<_> = told.map(|count| vec![count.words.to_owned(), number(count.count)]).collect();
    table(&[tool, "events"], &[1], &rows)
}

/// One event of a record or a line.
pub struct Judged<'a> {
    /// Its place in a batch.
    pub item: Option<usize>,
    pub event: Cow<'a, [u8]>,
    pub outcome: Outcome<'a>,
}

/// What ingest goes by, as it is at the start.
pub struct Judge {
    rules: Rules,
    list: SuppressList,
    now: Timestamp,
}

impl Judge {
    /// # Errors
    /// When the suppression list cannot be read.
    pub fn new(config: &Config) -> Result<Judge, CommandError> {
        let list = suppress_list(config)?;
        Ok(Judge { rules: config.rules.clone(), list: list.unwrap_or_default(), now: Timestamp::now() })
    }

    /// Takes a record or a line apart, as ingest does, and hands each event to `take`.
    ///
    /// # Errors
    /// What `take` says.
    pub fn each(
        &self,
        value: Option<&[u8]>,
        mut take: impl FnMut(Judged<'_>) -> Result<(), CommandError>,
    ) -> Result<(), CommandError> {
        let Judge { rules, list, now } = self;
        let poison = || Outcome::Invalid { reason: Invalid::Poison, email: None };
        match contained(|| segment::read(rules, value, *now)) {
            Ok(Reading::One { event, outcome }) => {
                take(Judged { item: None, event: event.into(), outcome: list.honoured(outcome) })
            }
            Ok(Reading::Batch(items)) => items.iter().enumerate().try_for_each(|(number, item)| {
                let outcome = contained(|| segment::classify(rules, item, *now)).unwrap_or_else(|_| poison());
                take(Judged { item: Some(number), event: Cow::Borrowed(item), outcome: list.honoured(outcome) })
            }),
            Err(_) => take(Judged { item: None, event: value.unwrap_or_default().into(), outcome: poison() }),
        }
    }
}

/// Where an event stood: which of the feeder's places, and the offset or the line there.
#[derive(Debug, Clone, Copy)]
pub struct Token {
    place: usize,
    offset: i64,
}

pub struct Feeder {
    enqueue: Enqueue<Token>,
    /// `None`: what is read cannot be read again.
    bookmark: Option<Bookmark>,
    places: Vec<(TopicPartition, Ledger)>,
    saved: BTreeMap<TopicPartition, i64>,
    next_save: Instant,
    /// Events of the record that is being read.
    parts: u32,
    /// Taken by the queue.
    pub queued: u64,
    /// Larger than the queue takes: the places of those not asked for yet.
    too_large: Vec<i64>,
}

impl Feeder {
    /// `begins`: the places that are read, each with the offset that comes first.
    pub fn new(
        enqueue: Enqueue<Token>,
        bookmark: Option<Bookmark>,
        begins: impl IntoIterator<Item = (TopicPartition, i64)>,
    ) -> Feeder {
        Feeder {
            enqueue,
            bookmark,
            places: begins.into_iter().map(|(place, begin)| (place, Ledger::new(begin, 0))).collect(),
            saved: BTreeMap::new(),
            next_save: Instant::now() + SAVE_EVERY,
            parts: 0,
            queued: 0,
            too_large: Vec::new(),
        }
    }

    /// For the next feeder, once nothing is under way: a producer takes half a second to make.
    pub fn into_enqueue(self) -> Enqueue<Token> {
        self.enqueue
    }

    /// Puts an event of the record at that place and offset into the queue.
    ///
    /// # Errors
    /// When Kafka does not take it.
    pub fn send(&mut self, place: usize, offset: i64, entry: Entry<'_>) -> Result<(), KafkaProblem> {
        self.parts += 1;
        self.enqueue.send(entry, Token { place, offset })
    }

    /// All events of that record have been sent, or none was to be. The bookmark is saved when it is time.
    ///
    /// # Errors
    /// When Kafka does not take what was sent, or the bookmark.
    pub fn passed(&mut self, place: usize, offset: i64) -> Result<(), KafkaProblem> {
        let parts = std::mem::take(&mut self.parts);
        if let Some((_, ledger)) = self.places.get_mut(place) {
            ledger.charge(offset, parts, 0);
        }
        self.take_acks(false)
    }

    /// Whether the bookmark will be saved with the next record: what must not be behind it is to be written before.
    pub fn is_about_to_save(&self) -> bool {
        Instant::now() >= self.next_save
    }

    /// Offsets of events that were larger than the queue takes, since the last call.
    pub fn take_too_large(&mut self) -> Vec<i64> {
        std::mem::take(&mut self.too_large)
    }

    /// Waits for all that is under way.
    ///
    /// # Errors
    /// When Kafka does not take it.
    pub fn wait(&mut self) -> Result<(), KafkaProblem> {
        self.take_acks(true)
    }

    /// Saves how far all of it has got.
    ///
    /// # Errors
    /// When Kafka does not take the bookmark.
    pub fn save(&mut self) -> Result<(), KafkaProblem> {
        self.next_save = Instant::now() + SAVE_EVERY;
        let Some(bookmark) = &self.bookmark else { return Ok(()) };
        let frontiers = self.places.iter().map(|(place, ledger)| (place.clone(), ledger.frontier()));
        let moved: BTreeMap<_, _> = frontiers.filter(|(place, next)| self.saved.get(place) != Some(next)).collect();
        bookmark.save(&moved)?;
        self.saved.extend(moved);
        Ok(())
    }

    fn take_acks(&mut self, all: bool) -> Result<(), KafkaProblem> {
        let done = if all { self.enqueue.finish()? } else { self.enqueue.acknowledged()? };
        for enqueued in done {
            match enqueued.place {
                Some(_) => self.queued += 1,
                None => self.too_large.push(enqueued.token.offset),
            }
            if let Some((_, ledger)) = self.places.get_mut(enqueued.token.place) {
                ledger.complete(enqueued.token.offset);
            }
        }
        Ok(())
    }
}
