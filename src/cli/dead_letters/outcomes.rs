//! What came of events that were redriven: waited for by what the deliver group has committed, then read from the topics
//! that the outcomes are written to.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use rdkafka::message::Message;
use serde_json::json;

use super::scan;
use crate::cli::progress::Progress;
use crate::cli::records::whole;
use crate::cli::{CommandError, Stopped};
use crate::config::Config;
use crate::dead_letter::Kind;
use crate::dedup::{self, Change};
use crate::kafka::{self, Group, KafkaProblem, Next, Range, RangeReader, TopicPartition};

/// How often committed offsets are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Nothing settled for so long is worth a word.
const LONGEST_STILL: Duration = Duration::from_secs(15);

/// A partition of the queue, and an offset.
pub type QueuePlace = (i32, i64);

/// An event in the queue: by what its dead letter would be known, were it to become one again.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sent {
    pub source: String,
    pub redrives: u32,
}

/// Where the outcomes begin to be written.
pub struct Watch {
    delivered: Vec<Range>,
    letters: Vec<Range>,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcomes {
    delivered: u64,
    dead_again: u64,
    /// What was neither: that leaves no record.
    duplicate_or_filtered: u64,
    /// Kafka deleted these from the queue, and they are not known to be delivered or dead again. Some may be duplicates.
    gone: u64,
    /// Records of `delivered` that this version cannot read: some of the events may stand there.
    unreadable: u64,
}

impl Outcomes {
    pub fn json(&self) -> serde_json::Value {
        json!({
            "delivered": self.delivered, "duplicate_or_filtered": self.duplicate_or_filtered,
            "dead_again": self.dead_again, "gone": self.gone, "unreadable": self.unreadable,
        })
    }

    pub fn lines(&self) -> impl Iterator<Item = (&'static str, u64, &'static str)> {
        let unreadable = "records of another tool or a newer version; if deliveries, they count as duplicate here";
        let lines = [
            ("delivered", self.delivered, ""),
            (
                "duplicate or filtered",
                self.duplicate_or_filtered,
                "Nat.app had been told by then, or their contact is suppressed",
            ),
            ("dead again", self.dead_again, "dead letters anew: list them, newest first"),
        ];
        let gone = "Kafka deleted them from the queue: delivered or not, nobody can tell; --again takes them once more";
        let seldom = [("gone", self.gone, gone), ("unreadable", self.unreadable, unreadable)];
        lines.into_iter().chain(seldom.into_iter().filter(|(_, count, _)| *count > 0))
    }
}

impl Watch {
    pub async fn begin(config: &Config) -> Result<Watch, CommandError> {
        let delivered = kafka::whole(config, &config.topics.delivered).await.map_err(CommandError::told)?;
        let letters = kafka::whole(config, &config.topics.dead_letter).await.map_err(CommandError::told)?;
        Ok(Watch { delivered, letters })
    }

    /// Blocking. `None`: it was stopped before all were settled.
    pub fn wait(
        self,
        config: &Config,
        sent: &BTreeMap<QueuePlace, Sent>,
        stopped: &Stopped,
    ) -> Result<Option<Outcomes>, CommandError> {
        let settled = wait_until_settled(config, sent, stopped)?;
        if !settled {
            return Ok(None);
        }
        let delivered = since(&self.delivered, whole(config, &config.topics.delivered, stopped)?);
        let letters = since(&self.letters, whole(config, &config.topics.dead_letter, stopped)?);
        let Some((accepted, unreadable)) = accepted(config, delivered, sent, stopped).map_err(CommandError::told)?
        else {
            return Ok(None);
        };
        // Of one event there may be several in the queue, another redrive's too: each is one letter at most.
        let mut awaited: BTreeMap<&Sent, u64> = BTreeMap::new();
        for (_, sent) in sent.iter().filter(|(place, _)| !accepted.contains(place)) {
            *awaited.entry(sent).or_insert(0) += 1;
        }
        let mut dead_again = 0;
        let all = scan::read(config, letters, "reading outcomes", stopped, |found| {
            if let Kind::Letter(letter) = &found.kind {
                let source = letter.origin.as_ref().map(ToString::to_string).unwrap_or_default();
                let again = Sent { source, redrives: letter.redrives };
                if let Some(left) = awaited.get_mut(&again).filter(|left| **left > 0) {
                    *left -= 1;
                    dead_again += 1;
                }
            }
            Ok(ControlFlow::Continue(()))
        })?;
        if !all {
            return Ok(None);
        }
        let queue = whole(config, &config.topics.queue, stopped)?;
        let begins: BTreeMap<i32, i64> = queue.into_iter().map(|range| (range.place.1, range.begin)).collect();
        let is_gone = |(partition, offset): &&QueuePlace| begins.get(partition).is_some_and(|begin| offset < begin);
        let deleted = sent.keys().filter(|place| !accepted.contains(place)).filter(is_gone).count() as u64;
        let delivered = accepted.len() as u64;
        let neither = (sent.len() as u64).saturating_sub(delivered + dead_again);
        let gone = deleted.min(neither);
        Ok(Some(Outcomes { delivered, dead_again, duplicate_or_filtered: neither - gone, gone, unreadable }))
    }
}

/// Each has been settled when the deliver group has committed beyond it, whichever instance did it.
fn wait_until_settled(
    config: &Config,
    sent: &BTreeMap<QueuePlace, Sent>,
    stopped: &Stopped,
) -> Result<bool, CommandError> {
    let place = |partition: i32| -> TopicPartition { (config.topics.queue.clone(), partition) };
    let partitions: BTreeSet<i32> = sent.keys().map(|(partition, _)| *partition).collect();
    let places: Vec<_> = partitions.into_iter().map(place).collect();
    let mut progress = Progress::new("waiting for their outcomes", "events", sent.len() as u64);
    // How many were settled when that last changed, and when; `None` once it has been told that nothing moves.
    let mut moved = Some((0, Instant::now()));
    let group = Group::new(config, &config.topics.deliver_group).map_err(CommandError::told)?;
    while !stopped.is_so() {
        match group.committed(&places) {
            Ok(committed) => {
                let is_settled = |(partition, offset): &&QueuePlace| {
                    committed.get(&place(*partition)).is_some_and(|next| next > offset)
                };
                let settled = sent.keys().filter(is_settled).count();
                if settled == sent.len() {
                    return Ok(true);
                }
                progress.at(settled as u64);
                if moved.is_some_and(|(before, _)| before != settled) {
                    moved = Some((settled, Instant::now()));
                } else if moved.take_if(|(_, since)| since.elapsed() > LONGEST_STILL).is_some() {
                    progress.say(
                        "nothing is settled at the moment: is the service running, and its circuit closed? Ctrl-C ends \
                                  the waiting, and takes nothing back",
                    );
                }
            }
            // A coordinator that moves, or brokers that are away for a moment.
            Err(problem) if problem.is_passing() => {}
            Err(problem) => return Err(CommandError::told(problem)),
        }
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(false)
}

/// What has been written between two looks.
pub fn since(before: &[Range], now: Vec<Range>) -> Vec<Range> {
    let begin = |place: &TopicPartition| before.iter().find(|range| range.place == *place).map(|range| range.end);
    now.into_iter()
        .map(|range| Range { begin: begin(&range.place).unwrap_or(range.begin).max(range.begin), ..range })
        .collect()
}

/// Which of them the changelog says were accepted, and how many of its records nobody here can read.
fn accepted(
    config: &Config,
    ranges: Vec<Range>,
    sent: &BTreeMap<QueuePlace, Sent>,
    stopped: &Stopped,
) -> Result<Option<(BTreeSet<QueuePlace>, u64)>, KafkaProblem> {
    let mut reader = RangeReader::new(config, ranges)?;
    let (mut accepted, mut unreadable) = (BTreeSet::new(), 0);
    let given_up = dedup::Kind::Engage { value: dedup::Kind::IN_DOUBT };
    while !stopped.is_so() {
        match reader.next()? {
            Next::Record(message) => {
                let Some(value) = message.payload() else { continue }; // A key is forgotten.
                match Change::decode(message.key().unwrap_or_default(), value) {
                    Ok(Change::Delivered(delivered)) if delivered.key.kind != given_up => {
                        // Record p of one topic belongs to partition p of the other.
                        let place = (message.partition(), delivered.queue_offset);
                        if sent.contains_key(&place) {
                            accepted.insert(place);
                        }
                    }
                    Ok(_) => {} // Given up, or an attempt.
                    Err(_) => unreadable += 1,
                }
            }
            Next::Idle => {}
            Next::End => return Ok(Some((accepted, unreadable))),
        }
    }
    Ok(None)
}
