//! The source partitions that this instance has: a ledger each, and the tokens by which acknowledged writes find them.

use std::collections::HashMap;

use crate::dead_letter::{Kept, Reason};
use crate::dedup::Contact;
use crate::kafka::TopicPartition;
use crate::stage::{Ledger, Position};

/// What a write was, kept until it is acknowledged.
#[derive(Debug)]
pub struct Token {
    slot: usize,
    generation: u64,
    offset: i64,
    pub bytes: usize,
    pub write: Write,
}

#[derive(Debug, Clone, Copy)]
pub enum Write {
    Queue,
    /// With its contact, where that is known.
    DeadLetter {
        reason: Reason,
        contact: Option<Contact>,
        kept: Kept,
    },
}

#[derive(Debug)]
struct Source {
    place: TopicPartition,
    generation: u64,
    ledger: Ledger,
    /// Being handed back: nothing more is taken.
    draining: bool,
    stored: i64,
}

/// Slots are reused by generation: what belongs to an earlier one touches nothing.
#[derive(Debug, Default)]
pub struct Sources {
    slots: Vec<Option<Source>>,
    generations: u64,
    by_place: HashMap<TopicPartition, usize>,
    /// Records come in runs of one partition.
    last: usize,
}

impl Sources {
    pub fn assign(&mut self, begins: Vec<(TopicPartition, i64)>, now: i64) {
        for (place, offset) in begins {
            self.generations += 1;
            let ledger = Ledger::new(offset, now);
            let source =
                Source { place: place.clone(), generation: self.generations, ledger, draining: false, stored: offset };
            let slot = *self.by_place.entry(place).or_insert_with(|| {
                self.slots.push(None);
                self.slots.len() - 1
            });
            self.slots[slot] = Some(source);
        }
    }

    pub fn drain(&mut self, places: &[TopicPartition]) {
        for place in places {
            if let Some(source) = self.source_mut(place) {
                source.draining = true;
            }
        }
    }

    pub fn remove(&mut self, places: &[TopicPartition]) {
        for place in places {
            if let Some(slot) = self.by_place.get(place) {
                self.slots[*slot] = None;
            }
        }
    }

    fn source_mut(&mut self, place: &TopicPartition) -> Option<&mut Source> {
        let slot = *self.by_place.get(place)?;
        self.slots.get_mut(slot)?.as_mut()
    }

    /// Where a partition's state lies, if records of it are taken now.
    pub fn slot(&mut self, topic: &str, partition: i32) -> Option<usize> {
        let is_it = |source: &Option<Source>| {
            source.as_ref().is_some_and(|source| source.place.1 == partition && source.place.0 == topic)
        };
        if !self.slots.get(self.last).is_some_and(is_it) {
            self.last = self.slots.iter().position(is_it)?;
        }
        let source = self.slots[self.last].as_ref()?;
        (!source.draining).then_some(self.last)
    }

    pub fn token(&self, slot: usize, offset: i64, bytes: usize, write: Write) -> Token {
        let generation = self.slots.get(slot).and_then(Option::as_ref).map_or(0, |source| source.generation);
        Token { slot, generation, offset, bytes, write }
    }

    pub fn charge(&mut self, slot: usize, offset: i64, writes: u32, timestamp: i64) {
        if let Some(Some(source)) = self.slots.get_mut(slot) {
            source.ledger.charge(offset, writes, timestamp);
        }
    }

    /// Does nothing if the partition is not ours any more.
    pub fn complete(&mut self, token: &Token) {
        if let Some(Some(source)) = self.slots.get_mut(token.slot)
            && source.generation == token.generation
        {
            source.ledger.complete(token.offset);
        }
    }

    /// Before this offset nothing will come any more.
    pub fn pass_to(&mut self, place: &TopicPartition, first: i64) {
        if let Some(source) = self.source_mut(place) {
            source.ledger.pass_to(first);
        }
    }

    /// The frontiers that have moved since the last call.
    pub fn take_frontiers(&mut self) -> Vec<(TopicPartition, i64)> {
        let mut moved = Vec::new();
        for source in self.slots.iter_mut().flatten() {
            let frontier = source.ledger.frontier();
            if frontier > source.stored {
                source.stored = frontier;
                moved.push((source.place.clone(), frontier));
            }
        }
        moved
    }

    /// Records of these partitions that are not settled.
    pub fn open(&self, places: &[TopicPartition]) -> usize {
        let sources = self.slots.iter().flatten().filter(|source| places.contains(&source.place));
        sources.map(|source| source.ledger.open()).sum()
    }

    pub fn partitions(&self) -> Vec<TopicPartition> {
        self.slots.iter().flatten().map(|source| source.place.clone()).collect()
    }

    pub fn positions(&self) -> Vec<Position> {
        let position = |source: &Source| Position {
            topic: source.place.0.clone(),
            partition: source.place.1,
            next: source.ledger.frontier(),
            oldest_timestamp: source.ledger.oldest_timestamp(),
        };
        self.slots.iter().flatten().map(position).collect()
    }
}
