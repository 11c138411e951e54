//! What Kafka holds of one contact. Keys of the delivered topic are hashes that nobody can turn back, so they are reckoned:
//! of every day that the rules allow, and of every Engage key that an event of the contact tells of.

use std::collections::{BTreeMap, HashMap, HashSet};

use jiff::civil::Date;
use jiff::{SignedDuration, Timestamp};
use rdkafka::message::{Message, OwnedMessage};

use super::letter::{Event, Letter, events_of};
use crate::cli::dead_letters::scan::{Found, Redriven};
use crate::cli::progress::Progress;
use crate::cli::records::whole;
use crate::cli::{CommandError, Stopped, suppress_list};
use crate::config::Config;
use crate::dead_letter::Origin;
use crate::dedup::{Change, Contact, Delivered, Key, Kind, Tried, is_remembered};
use crate::kafka::{self, KafkaProblem, Next, Range, RangeReader};
use crate::poison::contained;
use crate::segment::{EngageMode, Rules};
use crate::suppress::SuppressList;

const YEAR: SignedDuration = SignedDuration::from_hours(366 * 24);

/// All of it.
#[derive(Debug)]
pub struct Known {
    pub contact: Contact,
    pub partition: i32,
    /// `None`: there is no list.
    pub suppressed: Option<bool>,
    /// By queue offset; of all days, since a delivery's record is looked up here.
    pub queued: BTreeMap<i64, Queued>,
    /// The only one that is asked about.
    day: Option<Date>,
    pub deliveries: Vec<Delivery>,
    pub letters: Vec<Letter>,
    /// Dead letters that hold nothing that can be read: they may be anybody's.
    pub illegible: u64,
    /// Which letters a redrive has taken: the note of it may stand anywhere behind it, in any partition.
    pub redriven: Redriven,
    /// Engage entries of the partition whose queue record has gone, so that nobody can tell whose they are.
    pub unattributed: u64,
    /// Records of the delivered partition that a newer version wrote, or another tool: they may be this contact's.
    pub unreadable: u64,
}

/// A record of the queue.
#[derive(Debug)]
pub struct Queued {
    /// When it came into the queue, Unix milliseconds.
    pub at: i64,
    pub origin: Option<Origin<'static>>,
    pub event: Event,
    pub state: State,
    pub tried: Option<Tried>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It is what was delivered.
    Delivered,
    /// Its offset is not committed.
    Waiting,
    /// Likewise, but what it says has been delivered already.
    Duplicate,
    /// A duplicate, filtered, or a dead letter.
    Settled,
}

/// An entry of the delivered topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    pub delivered: Delivered,
    pub what: What,
    /// Not older than `dedup.retention`, by whole days as deliver goes.
    pub remembered: bool,
}

impl Delivery {
    /// Not delivered but given up: which Engage value Nat.app has nobody knows.
    pub fn is_in_doubt(&self) -> bool {
        self.delivered.key.kind == Kind::Engage { value: Kind::IN_DOUBT }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    Visit(Date),
    Engage {
        key: String,
        /// `None`: only its hash is known.
        value: Option<String>,
    },
}

impl What {
    pub fn is_engage(&self, name: &str) -> bool {
        matches!(self, What::Engage { key, .. } if key == name)
    }
}

#[derive(Default)]
struct Letters {
    of_contact: Vec<Letter>,
    illegible: u64,
}

/// What is read, fixed before.
struct Ranges {
    partition: i32,
    /// First offset of the queue partition that is not settled.
    frontier: i64,
    queue: Range,
    delivered: Range,
    letters: Vec<Range>,
}

impl Known {
    /// Reads it all. `engage`: keys that no event tells of any more.
    ///
    /// # Errors
    /// When a resize is under way or partitions were added by hand, so that the contact's entries may be in others; and when
    /// the brokers do not answer, or it is told to stop.
    pub async fn gather(
        config: &Config,
        email: &str,
        engage: &[String],
        stopped: Stopped,
    ) -> Result<Known, CommandError> {
        let list = suppress_list(config)?;
        stopped.asking(kafka::verify_keying(config)).await?;
        let ranges = stopped.asking(ranges(config, email)).await?;
        let (config, email, engage) = (config.clone(), email.to_owned(), engage.to_owned());
        let known = stopped.working(move |stopped| {
            let total = [&ranges.queue, &ranges.delivered].into_iter().chain(&ranges.letters).map(Range::length).sum();
            let progress = Progress::new("reading", "records", total);
            let mut reading = Reading { config: &config, email: &email, stopped, progress, done: 0 };
            reading.all(ranges, engage, list.as_ref())
        });
        known.await
    }

    /// What concerns this day; Engage values have none, and stay.
    pub fn of_day(mut self, day: Date) -> Known {
        self.day = Some(day);
        self.deliveries.retain(|delivery| !matches!(delivery.what, What::Visit(other) if other != day));
        for letter in &mut self.letters {
            letter.events.retain(|event| event.day == Some(day));
        }
        self.letters.retain(|letter| !letter.events.is_empty());
        self
    }

    /// Of these states, in the order of the queue.
    pub fn in_state(&self, states: &'static [State]) -> impl Iterator<Item = (i64, &Queued)> {
        let queued = self.queued.iter().map(|(offset, queued)| (*offset, queued));
        let is_asked = |queued: &Queued| self.day.is_none_or(|day| queued.event.day == Some(day));
        queued.filter(move |(_, queued)| states.contains(&queued.state) && is_asked(queued))
    }
}

async fn ranges(config: &Config, email: &str) -> Result<Ranges, KafkaProblem> {
    let topics = &config.topics;
    let partitions = kafka::partitions(config, &topics.queue).await?.len();
    let partition = kafka::partition_of(email.as_bytes(), i32::try_from(partitions).unwrap_or(i32::MAX));
    let place = |topic: &str| (topic.to_owned(), partition);
    let (queue, delivered) = (place(&topics.queue), place(&topics.delivered));
    // Before the ends: what is settled meanwhile is then found as delivered.
    let committed = kafka::patient_committed(config, &topics.deliver_group, vec![queue.clone()]).await?;
    let ends = kafka::patient_ends(config, vec![queue.clone(), delivered.clone()]).await?;
    let range = |place: kafka::TopicPartition| {
        let (begin, end) = ends.get(&place).copied().unwrap_or_default();
        Range { place, begin, end }
    };
    Ok(Ranges {
        partition,
        frontier: committed.get(&queue).copied().unwrap_or_default(),
        queue: range(queue),
        delivered: range(delivered),
        letters: kafka::whole(config, &topics.dead_letter).await?,
    })
}

struct Reading<'a> {
    config: &'a Config,
    email: &'a str,
    stopped: &'a Stopped,
    progress: Progress,
    done: u64,
}

/// The delivered topic's partition, as far as it may be this contact's.
#[derive(Default)]
struct Changes {
    delivered: HashMap<Key, Delivered>,
    tried: HashMap<i64, Tried>,
    /// Engage entries of records that the queue holds no more.
    orphans: HashSet<Key>,
    /// There are some that a resize carried here from another partition.
    carried: bool,
    unreadable: u64,
}

impl Reading<'_> {
    fn all(&mut self, ranges: Ranges, named: Vec<String>, list: Option<&SuppressList>) -> Result<Known, CommandError> {
        let oldest = ranges.queue.begin;
        let mut queued = BTreeMap::new();
        let rules = &self.config.rules;
        let email = self.email;
        self.each(vec![ranges.queue], |message| {
            if message.key() == Some(email.as_bytes()) {
                queued.insert(message.offset(), Queued::of(&message, rules, email));
            }
        })?;
        let (letters, redriven) = self.letters(ranges.letters)?;
        let events = queued
            .values()
            .map(|queued| &queued.event)
            .chain(letters.of_contact.iter().flat_map(|letter| &letter.events));
        let mut engage: Vec<(String, String)> = events.filter_map(|event| event.engage.clone()).collect();
        let whats_of = |engage: &[(String, String)]| {
            whats(rules, email, engage.iter().map(|(key, _)| key.clone()).chain(named.clone()), Timestamp::now())
        };
        let (mut whats, mut changes) = (whats_of(&engage), Changes::default());
        let delivered = vec![ranges.delivered];
        self.each(delivered.clone(), |message| changes.take(&message, &whats, oldest))?;
        if changes.carried {
            // Their records stand where the contact was before a resize.
            self.elsewhere(ranges.partition, |event| engage.extend(event.engage))?;
            (whats, changes) = (whats_of(&engage), Changes::default());
            self.each(delivered, |message| changes.take(&message, &whats, oldest))?;
        }
        let deliveries = changes.deliveries(&whats, &engage, self.config);
        for (offset, queued) in &mut queued {
            queued.state = state(*offset, queued, rules, ranges.frontier, &deliveries);
            let tried = changes.tried.remove(offset);
            queued.tried = tried.filter(|tried| queued.state == State::Waiting && tried.last >= queued.at);
        }
        let contact = Contact::of(email);
        Ok(Known {
            contact,
            partition: ranges.partition,
            suppressed: list.map(|list| list.holds(&contact)),
            queued,
            day: None,
            deliveries,
            letters: letters.of_contact,
            illegible: letters.illegible,
            redriven,
            unattributed: changes.orphans.len() as u64,
            unreadable: changes.unreadable,
        })
    }

    /// The contact's events in all other partitions of the queue.
    fn elsewhere(&mut self, partition: i32, mut take: impl FnMut(Event)) -> Result<(), CommandError> {
        let mut ranges = whole(self.config, &self.config.topics.queue, self.stopped)?;
        ranges.retain(|range| range.place.1 != partition);
        let (rules, email) = (&self.config.rules, self.email);
        self.each(ranges, |message| {
            if message.key() == Some(email.as_bytes()) {
                take(Queued::of(&message, rules, email).event);
            }
        })
    }

    /// The contact's dead letters, and all notes of redrives.
    fn letters(&mut self, ranges: Vec<Range>) -> Result<(Letters, Redriven), CommandError> {
        let (config, email) = (self.config, self.email);
        let (mut letters, mut redriven) = (Letters::default(), Redriven::default());
        self.each(ranges, |message| {
            let found = Found::new(Box::new(message));
            if !redriven.note(&found) {
                letters.of_contact.extend(Letter::of(&found, config, email));
                letters.illegible += u64::from(found.is_illegible(config));
            }
        })?;
        // They were read one partition after the other.
        letters.of_contact.sort_by_key(|letter| (letter.row.at, letter.row.place));
        Ok((letters, redriven))
    }

    /// # Errors
    /// When told to stop, too: what was read in part is told as nothing.
    fn each(&mut self, ranges: Vec<Range>, mut take: impl FnMut(OwnedMessage)) -> Result<(), CommandError> {
        let mut reader = RangeReader::new(self.config, ranges)?;
        while !self.stopped.is_so() {
            match reader.next()? {
                Next::Record(message) => take(*message),
                Next::Idle => {}
                Next::End => {
                    self.done += reader.total();
                    return Ok(());
                }
            }
            self.progress.at(self.done + reader.done());
        }
        Err(CommandError::Stopped)
    }
}

/// Every key that an entry of this contact can have, and what it stands for. An entry may have been written by other rules: so
/// the days are those of today's rules, those of the defaults, and a year ahead.
fn whats(rules: &Rules, email: &str, engage: impl Iterator<Item = String>, now: Timestamp) -> HashMap<Key, What> {
    let ahead = SignedDuration::try_from(rules.max_ahead).unwrap_or(SignedDuration::MAX).max(YEAR);
    let day = |time: Timestamp| rules.zone.to_datetime(time).date();
    let first = day(rules.oldest.min(Rules::default().oldest));
    let last = day(now.checked_add(ahead).unwrap_or(Timestamp::MAX));
    let days = std::iter::successors(Some(first), |day| day.tomorrow().ok());
    let visits = days.take_while(|day| *day <= last).map(|day| (Key::of_visit(email, day), What::Visit(day)));
    let engage = engage.map(|key| (Key::of_engage(email, &key), What::Engage { key, value: None }));
    visits.chain(engage).collect()
}

fn state(offset: i64, queued: &Queued, rules: &Rules, frontier: i64, deliveries: &[Delivery]) -> State {
    let event = &queued.event;
    // Of a queue made anew, whose offsets begin again, the place alone does not tell. What it says may not either: other rules
    // than today's made it a visit of that day.
    let is_it = |delivery: &Delivery| {
        let same = match &delivery.what {
            What::Engage { key, .. } => event.engage.as_ref().is_some_and(|(of, _)| of == key),
            What::Visit(day) => event.day == Some(*day),
        };
        let same = same || queued.at <= delivery.delivered.at;
        same && delivery.delivered.queue_offset == offset && !delivery.is_in_doubt()
    };
    if deliveries.iter().any(is_it) {
        return State::Delivered;
    }
    let says_the_same = |delivery: &Delivery| match (&delivery.what, &event.engage) {
        (What::Engage { key, value }, Some((of, is))) if rules.engage == EngageMode::Changes => {
            key == of && value.as_deref() == Some(is.trim())
        }
        (What::Visit(day), None) => event.day == Some(*day),
        (What::Visit(day), Some(_)) => rules.engage == EngageMode::Daily && event.day == Some(*day),
        _ => false,
    };
    match offset >= frontier {
        true if deliveries.iter().any(|delivery| delivery.remembered && says_the_same(delivery)) => State::Duplicate,
        true => State::Waiting,
        false => State::Settled,
    }
}

impl Queued {
    fn of(message: &OwnedMessage, rules: &Rules, email: &str) -> Queued {
        let at = message.timestamp().to_millis().unwrap_or_default();
        let headers = message.headers().map(kafka::headers_of).unwrap_or_default();
        let read = || message.payload().map(|value| events_of(value, rules, at, email));
        // It is one event: ingest has taken batches apart.
        let event = contained(read).ok().flatten().and_then(|events| events.into_iter().next()).unwrap_or_default();
        Queued { at, origin: Origin::of(&headers), event, state: State::Settled, tried: None }
    }
}

impl Changes {
    fn take(&mut self, message: &OwnedMessage, whats: &HashMap<Key, What>, oldest: i64) {
        let key = message.key().unwrap_or_default();
        match message.payload().map(|value| Change::decode(key, value)) {
            Some(Ok(Change::Delivered(delivered))) => {
                let key = delivered.key.key;
                if whats.contains_key(&key) {
                    self.delivered.insert(key, delivered);
                } else if matches!(delivered.key.kind, Kind::Engage { .. }) {
                    let gone = delivered.queue_offset < oldest;
                    self.carried |= delivered.queue_offset < 0;
                    if gone {
                        self.orphans.insert(key)
                    } else {
                        self.orphans.remove(&key)
                    };
                }
            }
            Some(Ok(Change::Tried(tried))) => drop(self.tried.insert(tried.queue_offset, tried)),
            Some(Err(_)) => self.unreadable += 1,
            None => {
                if let Ok(key) = key.try_into().map(Key) {
                    self.delivered.remove(&key);
                    self.orphans.remove(&key);
                }
            }
        }
    }

    /// With the values of those whose hash is one of an event's.
    fn deliveries(&self, whats: &HashMap<Key, What>, engage: &[(String, String)], config: &Config) -> Vec<Delivery> {
        let now = Timestamp::now().as_millisecond();
        let usual = ["true", "false"].map(str::to_owned);
        let mut deliveries: Vec<Delivery> = Vec::new();
        for (key, delivered) in &self.delivered {
            let Some(what) = whats.get(key) else { continue };
            let what = match what {
                What::Engage { key, .. } => {
                    let mut values = engage.iter().filter(|(of, _)| of == key).map(|(_, value)| value).chain(&usual);
                    let value = values.find(|value| Kind::of_value(value) == delivered.key.kind);
                    What::Engage { key: key.clone(), value: value.map(|value| value.trim().to_owned()) }
                }
                What::Visit(day) => What::Visit(*day),
            };
            let remembered = is_remembered(delivered.at, config.dedup_retention, now);
            deliveries.push(Delivery { delivered: *delivered, what, remembered });
        }
        deliveries.sort_by_key(|delivery| (delivery.delivered.at, delivery.delivered.queue_offset));
        deliveries
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_day_that_rules_may_have_allowed_and_every_engage_key_is_reckoned() {
        let oldest = |text: &str| Rules { oldest: text.parse().expect("a time"), ..Rules::default() };
        let now: Timestamp = "2026-11-26T12:00:00Z".parse().expect("a time");
        let whats = |text: &str| super::whats(&oldest(text), "ada@example.com", ["vip".to_owned()].into_iter(), now);
        let day = |text: &str| text.parse::<Date>().expect("a day");
        let has = |oldest, text| whats(oldest).contains_key(&Key::of_visit("ada@example.com", day(text)));
        let strict = "2026-11-01T00:00:00Z";
        assert!(has(strict, "2026-11-01") && has(strict, "2026-11-27"));
        assert!(has(strict, "2026-10-31") && has(strict, "2000-01-01"), "its rules may have been others");
        assert!(!has(strict, "1999-12-31") && has("1999-01-01T00:00:00Z", "1999-12-31"));
        assert!(has(strict, "2027-11-01") && !has(strict, "2028-11-01"));
        assert!(whats(strict).contains_key(&Key::of_engage("ada@example.com", "vip")));
    }

    #[test]
    fn the_last_change_counts_and_engage_entries_without_a_record_are_nobodys() {
        let whats = whats(&Rules::default(), "ada@example.com", ["vip".to_owned()].into_iter(), Timestamp::now());
        let record = |key: Key, value: Option<Vec<u8>>| {
            let timestamp = rdkafka::Timestamp::NotAvailable;
            OwnedMessage::new(value, Some(key.0.to_vec()), "delivered".into(), timestamp, 0, 0, None)
        };
        let entry = |key: Key, queue_offset: i64| {
            let key = crate::dedup::DedupKey { key, kind: Kind::of_value("true") };
            record(key.key, Some(Delivered { key, at: 0, queue_offset, place: Default::default() }.encode()))
        };
        let (vip, other) = (Key::of_engage("ada@example.com", "vip"), Key::of_engage("ada@example.com", "other"));
        let mut changes = Changes::default();
        let mut after = |message: OwnedMessage| {
            changes.take(&message, &whats, 100);
            (changes.delivered.len(), changes.orphans.len())
        };
        assert_eq!(after(entry(vip, 5)), (1, 0));
        assert_eq!(after(entry(other, 5)), (1, 1));
        assert_eq!(after(entry(other, 100)), (1, 0), "the record is there: another contact's, or it would be known");
        assert_eq!(after(entry(other, 99)), (1, 1));
        assert_eq!(after(record(other, None)), (1, 0));
        assert_eq!(after(record(vip, None)), (0, 0));
        assert_eq!(after(record(vip, Some(b"newer".to_vec()))), (0, 0));
        assert_eq!(changes.unreadable, 1);
    }

    #[test]
    fn what_a_record_says_again_is_a_duplicate_and_anything_else_waits() {
        let day: Date = "2026-11-20".parse().expect("a day");
        let delivered = |kind| Delivered {
            key: crate::dedup::DedupKey { key: Key([0; 16]), kind },
            at: 0,
            queue_offset: 3,
            place: Default::default(),
        };
        let visit = Delivery { delivered: delivered(Kind::Visit), what: What::Visit(day), remembered: true };
        let what = What::Engage { key: "vip".into(), value: Some("true".into()) };
        let engage = Delivery { delivered: delivered(Kind::of_value("true")), what, remembered: true };
        let event = |day: Option<Date>, value: Option<&str>| Event {
            day,
            engage: value.map(|value| ("vip".to_owned(), value.to_owned())),
        };
        let rules = Rules::default();
        let state_at = |at, offset, event: &Event, delivery: &Delivery| {
            let queued = Queued { at, origin: None, event: event.clone(), state: State::Settled, tried: None };
            super::state(offset, &queued, &rules, 5, std::slice::from_ref(delivery))
        };
        assert_eq!(state_at(0, 3, &Event::default(), &visit), State::Delivered, "today's rules make nothing of it");
        assert_eq!(state_at(1, 3, &Event::default(), &visit), State::Settled, "of a queue made anew");
        // Its clock was ahead of the one by which it was delivered.
        let state = |offset, event: &Event, delivery: &Delivery| state_at(1, offset, event, delivery);
        assert_eq!(state(3, &event(Some(day), None), &visit), State::Delivered);
        assert_eq!(state(3, &event(day.tomorrow().ok(), None), &visit), State::Settled);
        assert_eq!(state(4, &event(Some(day), None), &visit), State::Settled);
        assert_eq!(state(5, &event(Some(day), None), &visit), State::Duplicate);
        assert_eq!(state(5, &event(day.tomorrow().ok(), None), &visit), State::Waiting);
        assert_eq!(state(5, &event(Some(day), Some("true")), &visit), State::Waiting);
        assert_eq!(state(5, &event(Some(day), Some("true")), &engage), State::Duplicate);
        assert_eq!(state(5, &event(Some(day), Some("false")), &engage), State::Waiting);
        let forgotten = Delivery { remembered: false, ..visit };
        assert_eq!(state(5, &event(Some(day), None), &forgotten), State::Waiting);
    }
}
