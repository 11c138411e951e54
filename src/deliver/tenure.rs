//! Partitions that come and go, and the records of those that are here: what the queue's consumer and the restore tell.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::event::{self, Id, Read};
use super::feed::{FromFeed, QueueRecord, ToFeed};
use super::partition::Partition;
use super::restore::{FromRestore, Restore, ToRestore};
use super::{Deliver, LONGEST_REVOKE, LaneId, STAGE};
use crate::dead_letter::{Reason, Road};
use crate::dedup::{Contact, Delivered};
use crate::kafka::KafkaProblem;
use crate::metrics::Outcome;
use crate::mutant::{self, Mutant};

impl Deliver {
    pub(super) fn on_feed(&mut self, news: FromFeed) -> Result<(), KafkaProblem> {
        match news {
            FromFeed::Records(records) => {
                let now = Timestamp::now();
                self.taken += records.len() as u64;
                records.into_iter().try_for_each(|record| self.take_record(record, now))
            }
            FromFeed::Assigned(begins) => self.on_assigned(begins),
            FromFeed::Revoked(partitions) => {
                tracing::info!(stage = STAGE, ?partitions, "revoked; finishing what is in flight");
                for partition in &partitions {
                    if let Some(partition) = self.partitions.get_mut(partition) {
                        partition.draining = true;
                    }
                }
                let patience = (self.config.nat.timeout + Duration::from_secs(2)).min(LONGEST_REVOKE);
                self.revoking = Some((partitions, Instant::now() + patience));
                Ok(())
            }
            FromFeed::Lost(partitions) => {
                tracing::warn!(
                    stage = STAGE,
                    ?partitions,
                    "lost: this instance was away for too long and another one has them by now, or the topic was deleted"
                );
                self.remove(&partitions);
                if self.partitions.is_empty() {
                    self.writes.drop_unsent();
                }
                self.revoking =
                    self.revoking.take().filter(|(revoked, _)| revoked.iter().any(|p| !partitions.contains(p)));
                Ok(())
            }
            FromFeed::Gone(partition, first) => {
                if let Some(partition) = self.partitions.get_mut(&partition) {
                    partition.pass_to(first);
                }
                Ok(())
            }
            FromFeed::Stopped(partitions) => {
                self.stopped.extend(partitions);
                Ok(())
            }
            FromFeed::Proved => {
                self.lease.proved();
                Ok(())
            }
            FromFeed::Failed(problem) => Err(problem),
        }
    }

    fn on_assigned(&mut self, begins: Vec<(i32, i64)>) -> Result<(), KafkaProblem> {
        self.assigned = true;
        let partitions: Vec<i32> = begins.iter().map(|(partition, _)| *partition).collect();
        tracing::info!(stage = STAGE, ?partitions, "assigned");
        self.remove(&partitions); // An assignment may be told again: what was begun under the earlier one ends here.
        let mut restoring = Vec::new();
        for (partition, begin) in begins {
            self.generations += 1;
            let gone = Arc::new(AtomicBool::new(false));
            let (generation, gone_too) = (self.generations, Arc::clone(&gone));
            restoring.push(ToRestore { partition, generation, begin, gone: gone_too });
            let now = Timestamp::now().as_millisecond();
            self.partitions.insert(partition, Partition::new(self.generations, begin, now, gone));
        }
        self.metrics.assigned_partitions.with_label_values(&[STAGE]).set(self.partitions.len() as i64);
        if restoring.is_empty() {
            return Ok(());
        }
        let restore = Restore {
            config: Arc::clone(&self.config),
            metrics: Arc::clone(&self.metrics),
            partitions: restoring,
            sender: self.restored.clone(),
        };
        let started = std::thread::Builder::new().name("restore".into()).spawn(move || restore.run());
        started.map(drop).map_err(|error| KafkaProblem::Stopped(format!("a thread cannot be started: {error}")))
    }

    pub(super) fn on_restored(&mut self, restored: FromRestore) -> Result<(), KafkaProblem> {
        match restored {
            FromRestore::Failed(problem) => return Err(problem),
            FromRestore::Restored { partition: number, generation, restored } => {
                if let Some(partition) = self.partitions.get_mut(&number)
                    && partition.generation == generation
                {
                    partition.delivered = Some(restored.set);
                    partition.tried = restored.tried;
                    self.tell_feed(ToFeed::Begin(number));
                }
            }
        }
        Ok(())
    }

    /// Takes one record into its contact's lane, or settles it where it stands.
    fn take_record(&mut self, record: QueueRecord, now: Timestamp) -> Result<(), KafkaProblem> {
        let number = record.partition;
        let (offset, weight) = (record.offset, record.weight());
        let Some(partition) = self.partitions.get_mut(&number).filter(|partition| !partition.draining) else {
            // Not ours, or not any more: whoever has it reads it again.
            self.settled.0 += 1;
            self.settled.1 += weight;
            return Ok(());
        };
        let Some(delivered) = &mut partition.delivered else {
            // Dropping it would skip it: the frontier would pass it with the next one.
            let told =
                format!("offset {offset} of queue partition {number} came before its delivered set was restored");
            return Err(KafkaProblem::Stopped(told));
        };
        partition.pending_events += 1;
        partition.pending_bytes += weight;
        partition.ledger.charge(offset, 1, record.timestamp);
        if let Some(road) = Road::of(&record.headers) {
            partition.requeued.insert(offset, road);
        }
        self.whereabouts.at(number, offset);
        // What was tried before the record was there was another one's, of a queue made anew since.
        let tried = partition.tried.remove(&offset).filter(|tried| tried.last >= record.timestamp);
        // Behind another event of its contact it has to wait for what becomes of that one.
        let is_known = |id: &Id| {
            (!partition.lanes.holds(&id.contact) || mutant::is(Mutant::MarkOnReceipt))
                && delivered.contains(&id.key, id.place, id.source_timestamp)
        };
        match event::read(record, &self.config.rules, self.suppressed.list(), now, is_known) {
            Read::Event(mut event) => {
                if let Some(tried) = tried {
                    event.resume(&tried, &self.config.retry);
                }
                if mutant::is(Mutant::MarkOnReceipt) {
                    let at = now.as_millisecond();
                    delivered.insert(&Delivered { key: event.id.key, at, queue_offset: offset, place: event.id.place });
                }
                if mutant::is(Mutant::ForgetLaneOrder) {
                    event.id.contact = Contact(u128::from(offset.unsigned_abs()).to_be_bytes());
                }
                let lane = LaneId { partition: number, generation: partition.generation, contact: event.id.contact };
                if partition.lanes.push(lane.contact, event) {
                    self.advance(lane);
                }
            }
            Read::Duplicate(id) => self.duplicate(&id, number, offset, weight),
            Read::Filtered(reason) => {
                self.metrics.settled(Outcome::Filtered, reason.as_str(), 1);
                self.settle(number, offset, weight);
            }
            Read::Invalid(record, reason) => self.write_dead_letter(record, None, Reason::Invalid(reason), None)?,
        }
        Ok(())
    }

    pub(super) fn hand_back(&mut self, now: Instant) {
        let Some((partitions, patience)) = &self.revoking else { return };
        let quiet = partitions.iter().filter_map(|partition| self.partitions.get(partition)).all(Partition::is_quiet);
        if quiet || now >= *patience {
            let partitions = partitions.clone();
            self.store_frontiers();
            self.remove(&partitions);
            self.tell_feed(ToFeed::HandBack(partitions));
            self.revoking = None;
        }
    }

    fn remove(&mut self, partitions: &[i32]) {
        for number in partitions {
            self.stopped.remove(number);
            if let Some(partition) = self.partitions.remove(number) {
                self.settled.0 += partition.pending_events;
                self.settled.1 += partition.pending_bytes;
            }
        }
        self.metrics.assigned_partitions.with_label_values(&[STAGE]).set(self.partitions.len() as i64);
    }
}
