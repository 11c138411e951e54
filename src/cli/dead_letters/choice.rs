//! Which letters a redrive takes, and why not the others. It is known when all have been read: their notes stand behind them.

use std::collections::{BTreeMap, HashSet};

use jiff::Timestamp;

use super::scan::{Found, Place, Redriven};
use super::told_since::{EngageEvent, ToldSince};
use crate::cli::time::horizon;
use crate::cli::{CommandError, Stopped};
use crate::config::Config;
use crate::dead_letter::record::{Sendable, Today, today};
use crate::dead_letter::{Kind, Letter, Origin, Road};
use crate::dedup::Key;

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
            PassedOver::Foreign => "foreign",
        }
    }

    pub fn because(self) -> &'static str {
        match self {
            PassedOver::AlreadyRedriven => "taken by an earlier redrive",
            PassedOver::RedrivenTooOften => "redriven --max-redrives times already, and dead again each time",
            PassedOver::StillInvalid => "by today's rules they are invalid still",
            PassedOver::NothingForNat => "by today's rules they are filtered",
            PassedOver::ToldSince => "Engage's, older than the value that Nat.app has",
            PassedOver::Forgettable => "older than dedup.retention by the time that it came to them",
            PassedOver::Truncated => {
                "their beginning only is here; replay the whole from the source topic (show tells where)"
            }
            PassedOver::TooLarge => "larger than the queue topic takes (max.message.bytes)",
            PassedOver::Foreign => "another tool wrote them",
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

/// A letter to be taken.
#[derive(Debug, Clone, Copy)]
pub struct Taken {
    /// The number of its reason.
    pub reason: u16,
    events: u32,
    /// Of its batch.
    invalid: u32,
}

/// What the first reading finds out.
pub struct Choice<'a> {
    config: &'a Config,
    max_redrives: u32,
    /// Letters from before this are older than the retention. Unix milliseconds.
    horizon: i64,
    taken: BTreeMap<Place, Taken>,
    reasons: Vec<String>,
    passed_over: BTreeMap<Place, PassedOver>,
    redriven: Redriven,
    /// Of letters older than the retention.
    forgettable: BTreeMap<Place, Vec<Key>>,
    engage: BTreeMap<Place, Vec<EngageEvent>>,
}

/// What is to be redriven.
#[derive(Debug, Default)]
pub struct Chosen {
    pub letters: BTreeMap<Place, Taken>,
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

impl Choice<'_> {
    pub fn new(config: &Config, max_redrives: u32, now: Timestamp) -> Choice<'_> {
        Choice {
            config,
            max_redrives,
            horizon: horizon(config.dedup_retention, now),
            taken: BTreeMap::new(),
            reasons: Vec::new(),
            passed_over: BTreeMap::new(),
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
        let place = found.place();
        match sendable(self.config, self.max_redrives, found) {
            Err(why) => drop(self.passed_over.insert(place, why)),
            Ok((letter, events, invalid)) => self.take(found, letter, &events, invalid),
        }
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
        let reason = self.reason(&letter.reason);
        self.taken.insert(place, Taken { reason, events: events.len() as u32, invalid: invalid as u32 });
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
        for place in self.redriven.places() {
            if self.taken.remove(&place).is_some() || self.passed_over.contains_key(&place) {
                self.passed_over.insert(place, PassedOver::AlreadyRedriven);
            }
        }
        self.engage.retain(|place, _| self.taken.contains_key(place));
        let told = ToldSince::find(self.config, self.engage.values().flatten(), stopped)?;
        let mut items_left = Counts::new();
        for (place, events) in &self.engage {
            let Some(taken) = self.taken.get_mut(place) else { continue };
            let told: Vec<Key> = events.iter().filter(|event| told.holds(event)).map(|event| event.key).collect();
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
        let mut chosen = Chosen { reasons: self.reasons, items_left, told, ..Chosen::default() };
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
}

/// A letter, its events that could be sent, and how many others of its batch are invalid; or why it is passed over.
pub fn sendable<'a>(
    config: &Config,
    max_redrives: u32,
    found: &'a Found,
) -> Result<(&'a Letter, Vec<Sendable<'a>>, u64), PassedOver> {
    let Kind::Letter(letter) = &found.kind else { return Err(PassedOver::Foreign) };
    if letter.truncated.is_some() {
        return Err(PassedOver::Truncated);
    }
    if letter.redrives >= max_redrives {
        return Err(PassedOver::RedrivenTooOften);
    }
    match today(&config.rules, found.value(), letter.is_event, Timestamp::now()) {
        Today::Events(events, invalid) => Ok((letter, events, invalid)),
        Today::Filtered => Err(PassedOver::NothingForNat),
        Today::Invalid(_) => Err(PassedOver::StillInvalid),
    }
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
