//! One queue partition while it is ours: its ledger, its lanes, its delivered set. What is left of it when it goes is
//! dropped, and read again by whoever gets it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::event::Event;
use super::lanes::Lanes;
use crate::dead_letter::Road;
use crate::dedup::{Contact, Delivered, DeliveredSet, Tried};
use crate::mutant::{self, Mutant};
use crate::stage::{Ledger, Position};

pub struct Partition {
    /// What began under an earlier generation touches nothing of this one.
    pub generation: u64,
    pub ledger: Ledger,
    pub lanes: Lanes<Contact, Box<Event>>,
    /// `None` until restored; nothing is read before.
    pub delivered: Option<DeliveredSet>,
    /// What an earlier owner had tried in vain, by offset; each is taken out as its event comes.
    pub tried: HashMap<i64, Tried>,
    /// Of what is pending, what was put into the queue again, by offset.
    pub requeued: HashMap<i64, Road>,
    /// Being handed back: nothing more is sent.
    pub draining: bool,
    pub requests_in_flight: usize,
    pub writes_in_flight: usize,
    /// What it has of the budget.
    pub pending_events: usize,
    pub pending_bytes: usize,
    stored: i64,
    /// Tells the restore that nobody waits for it any more.
    gone: Arc<AtomicBool>,
}

impl Partition {
    pub fn new(generation: u64, begin: i64, now: i64, gone: Arc<AtomicBool>) -> Partition {
        Partition {
            generation,
            ledger: Ledger::new(begin, now),
            lanes: Lanes::default(),
            delivered: None,
            tried: HashMap::new(),
            requeued: HashMap::new(),
            draining: false,
            requests_in_flight: 0,
            writes_in_flight: 0,
            pending_events: 0,
            pending_bytes: 0,
            stored: begin,
            gone,
        }
    }

    /// The head of that lane was given up at this time: what is to be written down of the Engage value before it.
    pub fn doubt(&mut self, contact: &Contact, at: i64) -> Option<Delivered> {
        let Event { id, record, .. } = &**self.lanes.head(contact)?;
        let given_up = Delivered { key: id.key, at, queue_offset: record.offset, place: id.place };
        self.delivered.as_mut()?.doubt(&given_up)
    }

    /// Nothing of it is under way outside of the loop.
    pub fn is_quiet(&self) -> bool {
        self.requests_in_flight == 0 && self.writes_in_flight == 0
    }

    /// Before this offset nothing will come any more.
    pub fn pass_to(&mut self, first: i64) {
        self.ledger.pass_to(first);
    }

    /// The frontier, if it has moved since the last call.
    pub fn take_frontier(&mut self) -> Option<i64> {
        let frontier = if mutant::is(Mutant::CommitHighest) { self.ledger.next() } else { self.ledger.frontier() };
        let moved = frontier > self.stored;
        self.stored = frontier;
        moved.then_some(frontier)
    }

    pub fn position(&self, topic: &str, partition: i32) -> Position {
        Position {
            topic: topic.to_owned(),
            partition,
            next: self.ledger.frontier(),
            oldest_timestamp: self.ledger.oldest_timestamp(),
        }
    }
}

impl Drop for Partition {
    fn drop(&mut self) {
        self.gone.store(true, Ordering::Release);
    }
}
