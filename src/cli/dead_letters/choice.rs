//! Which letters a redrive takes, and why not the others. It is known when all have been read: their notes stand behind them.

use std::collections::{BTreeMap, HashMap, HashSet};

use jiff::Timestamp;

use super::scan::{Found, Place, Redriven};
use super::told_since::{EngageEvent, ToldSince};
use crate::cli::time::horizon;
use crate::cli::{CommandError, Stopped};
use crate::config::Config;
use crate::dead_letter::record::{Sendable, Today, today};
use crate::dead_letter::{Kind, Letter, Origin, Road};
use crate::dedup::{Contact, Key};
use crate::suppress::SuppressList;

/// Why a letter is not redriven, or one event of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PassedOver {
    AlreadyRedriven,
    RedrivenTooOften,
    StillInvalid,
    NothingForNat,
    ToldSince,
    Forgettable,
    Truncated,
    TooLarge,
    Copy,
    Gone,
    Foreign,
}

impl PassedOver {
    pub fn as_str(self) -> &'static str {
        match self {
            PassedOver::AlreadyRedriven => "already_redriven",
            PassedOver::RedrivenTooOften => "redriven_too_often",
            PassedOver::StillInvalid => "still_invalid",
            PassedOver::NothingForNat => "nothing_for_nat",
            PassedOver::ToldSince => "told_since",
            PassedOver::Forgettable => "forgettable",
            PassedOver::Truncated => "truncated",
            PassedOver::TooLarge => "too_large",
            PassedOver::Copy => "copy",
            PassedOver::Gone => "gone",
            PassedOver::Foreign => "foreign",
        }
    }

    pub fn because(self) -> &'static str {
        match self {
            PassedOver::AlreadyRedriven => "taken by an earlier redrive",
            PassedOver::RedrivenTooOften => "redriven --max-redrives times already, and dead again each time",
            PassedOver::StillInvalid => "by today's rules they are invalid still",
            PassedOver::NothingForNat => "by today's rules they are filtered",
            PassedOver::ToldSince => "Engage's, older than the value that Nat.app has or that waits for it",
            PassedOver::Forgettable => "older than dedup.retention by the time that it came to them",
            PassedOver::Truncated => {
                "their beginning only is here; replay the whole from the source topic (show tells where)"
            }
            PassedOver::TooLarge => "larger than the queue topic takes (max.message.bytes)",
            PassedOver::Copy => "of an event that another of these letters is of, and that is sent once",
            PassedOver::Gone => "Kafka deleted them before it came to them",
            PassedOver::Foreign => "another tool wrote or changed them",
        }
    }
}

/// How many, and why.
pub type Counts = BTreeMap<PassedOver, u64>;

pub fn count(counts: &mut Counts, why: PassedOver, more: u64) {
    if more > 0 {
        *counts.entry(why).or_insert(0) += more;
    }
}

/// Which event a letter is of: a hash of where it came from and of its value, so that nothing that is not the same is taken for
/// it. There may be millions.
type Event = [u8; 16];

/// A letter to be taken.
#[derive(Debug, Clone, Copy)]
pub struct Taken {
    /// The number of its reason.
    pub reason: u16,
    event: Event,
    redrives: u32,
    events: u32,
    /// Of its batch.
    invalid: u32,
}

/// What the first reading finds out.
pub struct Choice<'a> {
    config: &'a Config,
    list: &'a SuppressList,
    max_redrives: u32,
    /// Takes also what an earlier redrive has taken.
    again: bool,
    /// Letters from before this are older than the retention. Unix milliseconds.
    horizon: i64,
    taken: BTreeMap<Place, Taken>,
    reasons: Vec<String>,
    passed_over: BTreeMap<Place, PassedOver>,
    too_often: Vec<(Place, Event)>,
    redriven: Redriven,
    /// Of letters older than the retention.
    forgettable: BTreeMap<Place, Vec<Key>>,
    engage: BTreeMap<Place, Vec<EngageEvent>>,
}

/// What is to be redriven.
#[derive(Debug, Default)]
pub struct Chosen {
    pub letters: BTreeMap<Place, Taken>,
    /// Of those, the other letters of the same event, which are noted with it.
    pub copies: BTreeMap<Place, Vec<Place>>,
    pub reasons: Vec<String>,
    pub events: u64,
    /// Letters.
    pub passed_over: Counts,
    /// Events of batches whose others are taken.
    pub items_left: Counts,
    /// Contact-days and Engage values that were delivered since, perhaps, and forgotten.
    pub forgettable: HashSet<Key>,
    pub told: ToldSince,
}

impl Chosen {
    /// Neither taken nor passed over: the filter takes none.
    pub fn is_nothing(&self) -> bool {
        self.letters.is_empty() && self.passed_over.is_empty()
    }
}

impl<'a> Choice<'a> {
    pub fn new(
        config: &'a Config,
        list: &'a SuppressList,
        max_redrives: u32,
        again: bool,
        now: Timestamp,
    ) -> Choice<'a> {
        Choice {
            config,
            list,
            max_redrives,
            again,
            horizon: horizon(config.dedup_retention, now),
            taken: BTreeMap::new(),
            reasons: Vec::new(),
            passed_over: BTreeMap::new(),
            too_often: Vec::new(),
            redriven: Redriven::default(),
            forgettable: BTreeMap::new(),
            engage: BTreeMap::new(),
        }
    }

    pub fn horizon(&self) -> i64 {
        self.horizon
    }

    pub fn decide(&mut self, found: &Found) {
        if self.redriven.note(found) {
            return;
        }
        match self.letter(found) {
            Err(why) => drop(self.passed_over.insert(found.place(), why)),
            Ok((letter, events, invalid)) => self.take(found, letter, &events, invalid),
        }
    }

    fn letter<'f>(&mut self, found: &'f Found) -> Result<(&'f Letter, Vec<Sendable<'f>>, u64), PassedOver> {
        let Kind::Letter(letter) = &found.kind else { return Err(PassedOver::Foreign) };
        if letter.truncated.is_some() {
            return Err(PassedOver::Truncated);
        }
        let (events, invalid) = sendable(self.config, self.list, found, letter, Timestamp::now())?;
        // Last: what is wrong with the letter itself says more.
        if letter.redrives >= self.max_redrives {
            self.too_often.push((found.place(), event(self.config, found, letter)));
            return Err(PassedOver::RedrivenTooOften);
        }
        Ok((letter, events, invalid))
    }

    fn take(&mut self, found: &Found, letter: &Letter, events: &[Sendable<'_>], invalid: u64) {
        let place = found.place();
        let engage =
            events.iter().filter_map(|sent| EngageEvent::of(&sent.key, &origin(self.config, found, letter, sent.item)));
        let engage: Vec<_> = engage.collect();
        if !engage.is_empty() {
            self.engage.insert(place, engage);
        }
        // Had its contact-day been used up when it was given up, it would be a duplicate and no letter; but for one that was
        // invalid, which nobody asks.
        if found.at() < self.horizon {
            self.forgettable.insert(place, events.iter().map(|sent| sent.key.key).collect());
        }
        let (reason, redrives) = (self.reason(&letter.reason), letter.redrives);
        let (event, events, invalid) = (event(self.config, found, letter), events.len() as u32, invalid as u32);
        self.taken.insert(place, Taken { reason, event, redrives, events, invalid });
    }

    /// There are few reasons, and there may be millions of letters.
    fn reason(&mut self, reason: &str) -> u16 {
        let known = self.reasons.iter().position(|known| known == reason);
        let number = known.unwrap_or_else(|| {
            self.reasons.push(reason.to_owned());
            self.reasons.len() - 1
        });
        u16::try_from(number).unwrap_or(u16::MAX)
    }

    /// When all notes are known. Blocking.
    ///
    /// # Errors
    /// When what was delivered cannot be read.
    pub fn settle(mut self, stopped: &Stopped) -> Result<Chosen, CommandError> {
        for place in self.redriven.places().filter(|_| !self.again) {
            if self.taken.remove(&place).is_some() || self.passed_over.contains_key(&place) {
                self.passed_over.insert(place, PassedOver::AlreadyRedriven);
            }
        }
        let copies = self.leave_copies();
        self.engage.retain(|place, _| self.taken.contains_key(place));
        let told_since = ToldSince::find(self.config, self.engage.values().flatten(), stopped)?;
        // As it will be while they are sent, one after the other.
        let mut planned = told_since.clone();
        let mut items_left = Counts::new();
        for (place, events) in &self.engage {
            let Some(taken) = self.taken.get_mut(place) else { continue };
            let (told, sent): (Vec<_>, Vec<_>) = events.iter().partition(|event| planned.holds(event));
            sent.into_iter().for_each(|event| planned.add_waiting(event));
            let told: Vec<Key> = told.into_iter().map(|event| event.key).collect();
            let left = told.len() as u32;
            taken.events -= left;
            if let Some(keys) = self.forgettable.get_mut(place) {
                keys.retain(|key| !told.contains(key));
            }
            if taken.events == 0 {
                self.taken.remove(place);
                self.passed_over.insert(*place, PassedOver::ToldSince);
            } else {
                count(&mut items_left, PassedOver::ToldSince, left.into());
            }
        }
        let mut chosen = Chosen { copies, reasons: self.reasons, items_left, told: told_since, ..Chosen::default() };
        for taken in self.taken.values() {
            chosen.events += u64::from(taken.events);
            count(&mut chosen.items_left, PassedOver::StillInvalid, taken.invalid.into());
        }
        self.passed_over.into_values().for_each(|why| count(&mut chosen.passed_over, why, 1));
        self.forgettable.retain(|place, _| self.taken.contains_key(place));
        chosen.forgettable = self.forgettable.into_values().flatten().collect();
        chosen.letters = self.taken;
        Ok(chosen)
    }

    /// Two redrives at a time, or one killed before its note, put an event into the queue twice, and rejected again it is two
    /// letters. One of them is taken, the one that was redriven most often: were all, they would double with each redrive.
    fn leave_copies(&mut self) -> BTreeMap<Place, Vec<Place>> {
        let open = self.too_often.iter().filter(|(place, _)| self.redriven.at(*place).is_none());
        let given_up: HashSet<Event> = open.map(|(_, event)| *event).collect();
        let mut best: HashMap<Event, (u32, Place)> = HashMap::with_capacity(self.taken.len());
        for (place, Taken { event, redrives, .. }) in &self.taken {
            let best = best.entry(*event).or_insert((*redrives, *place));
            if *redrives > best.0 {
                *best = (*redrives, *place);
            }
        }
        let mut copies: BTreeMap<Place, Vec<Place>> = BTreeMap::new();
        self.taken.retain(|place, taken| {
            let why = match best.get(&taken.event) {
                _ if given_up.contains(&taken.event) => PassedOver::RedrivenTooOften,
                Some((_, one)) if one != place => {
                    copies.entry(*one).or_default().push(*place);
                    PassedOver::Copy
                }
                _ => return true,
            };
            self.passed_over.insert(*place, why);
            false
        });
        copies
    }
}

/// What could be sent of a letter by today's rules and suppression list, and how many others of its batch are invalid; or why
/// it is passed over.
pub fn sendable<'a>(
    config: &Config,
    list: &SuppressList,
    found: &'a Found,
    letter: &Letter,
    now: Timestamp,
) -> Result<(Vec<Sendable<'a>>, u64), PassedOver> {
    match today(&config.rules, found.value(), letter.is_event, now) {
        Today::Events(mut events, invalid) => {
            events.retain(|sent| list.is_empty() || !list.holds(&Contact::of(&sent.email)));
            match (events.is_empty(), invalid) {
                (false, _) => Ok((events, invalid)),
                (true, 0) => Err(PassedOver::NothingForNat),
                (true, _) => Err(PassedOver::StillInvalid),
            }
        }
        Today::Filtered => Err(PassedOver::NothingForNat),
        Today::Invalid(_) => Err(PassedOver::StillInvalid),
    }
}

fn event(config: &Config, found: &Found, letter: &Letter) -> Event {
    let mut hasher = blake3::Hasher::new();
    hasher.update(origin(config, found, letter, None).to_string().as_bytes()).update(b"\n");
    let mut event = Event::default();
    hasher.update(found.value().unwrap_or_default()).finalize_xof().fill(&mut event);
    event
}

/// Where the event came from: the same as before, with the road that it takes now.
pub fn origin<'a>(config: &'a Config, found: &'a Found, letter: &'a Letter, item: Option<usize>) -> Origin<'a> {
    let road = Some(Road::Redrive(letter.redrives.saturating_add(1)));
    let key = found.key().map(Into::into);
    match letter.origin.clone() {
        Some(origin) => Origin { item: item.or(origin.item), key, road, ..origin },
        None => Origin {
            topic: config.topics.dead_letter.as_str().into(),
            partition: found.place().partition,
            offset: found.place().offset,
            timestamp: found.at(),
            key,
            item,
            road,
        },
    }
}
