//! The second stage: queue topic → Nat.app. One asynchronous loop owns all state by value. What runs outside of it (the
//! queue's consumer, the requests, the producer, the restore) talks to it by messages. Answers, acknowledgements and
//! restored sets carry the partition's generation, so that nothing late can touch what is not its own any more.
//!
//! One event's way: `take_record` → its contact's lane → `advance` (a duplicate ends here) → `dispatch` → the request →
//! `on_answer` → the changelog or the dead letters → `on_ack`, where its offset completes.

mod breaker;
mod event;
mod feed;
mod lanes;
mod partition;
mod restore;
mod retry;
mod send;
mod writes;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::{mpsc, watch};

use crate::config::Config;
use crate::dead_letter::Reason;
use crate::dedup::Contact;
use crate::kafka::{Ack, KafkaProblem};
use crate::metrics::{Metrics, Outcome};
use crate::nat::{Answer, NatClient};
use crate::stage::{StageStatus, Stop};

use breaker::{Breaker, OpenReason};
use event::Read;
use feed::{Feed, FromFeed, QueueRecord, ToFeed};
use partition::Partition;
use restore::{FromRestore, Restore};
use writes::{Token, Write, Writes};

const STAGE: &str = "deliver";
/// How often offsets are stored and positions are told.
const TICK: Duration = Duration::from_millis(100);
/// Revoked partitions are handed back when they are quiet: when every request has been answered or has timed out. A
/// request that outlives even this may be accepted here and sent again by the next owner.
const LONGEST_REVOKE: Duration = Duration::from_secs(60);
/// How long the last writes may take at the end.
const LAST_WRITES: Duration = Duration::from_secs(2);

/// A contact's lane, by partition and generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct LaneId {
    partition: i32,
    generation: u64,
    contact: Contact,
}

/// A request that has come back.
struct Answered {
    lane: LaneId,
    answer: Answer,
    sent: Instant,
    probe: bool,
}

/// Runs until told to stop.
///
/// # Errors
/// When it cannot go on; what was not settled will be read again.
pub async fn run(
    config: Arc<Config>,
    metrics: Arc<Metrics>,
    client: NatClient,
    status: watch::Sender<StageStatus>,
    mut stop: Stop,
) -> Result<(), KafkaProblem> {
    let (mut deliver, mut channels, feed) = Deliver::new(config, metrics, client)?;
    let feed = std::thread::Builder::new()
        .name("queue-consumer".into())
        .spawn(move || feed.run())
        .map_err(|error| KafkaProblem::Stopped(format!("a thread cannot be started: {error}")))?;
    let result = deliver.run(&mut channels, &status, &mut stop).await;
    deliver.tell_feed(ToFeed::Close);
    // The feed must be able to end whatever it still has to tell.
    channels.feed.close();
    while channels.feed.recv().await.is_some() {}
    let ended = tokio::task::spawn_blocking(move || {
        // Both wait for Kafka, which a runtime's thread must not.
        deliver.writes.flush(LAST_WRITES);
        drop(deliver);
        feed.join()
    });
    let crashed = !matches!(ended.await, Ok(Ok(())));
    match result {
        Ok(()) if crashed => Err(KafkaProblem::Stopped("the queue's consumer has crashed".into())),
        result => result,
    }
}

/// What reports back to the loop.
struct Channels {
    feed: mpsc::Receiver<FromFeed>,
    answers: mpsc::Receiver<Answered>,
    acks: mpsc::UnboundedReceiver<Ack<Token>>,
    restored: mpsc::Receiver<FromRestore>,
}

struct Deliver {
    config: Arc<Config>,
    metrics: Arc<Metrics>,
    client: NatClient,
    breaker: Breaker,
    writes: Writes,
    to_feed: std::sync::mpsc::Sender<ToFeed>,
    answers: mpsc::Sender<Answered>,
    restored: mpsc::Sender<FromRestore>,
    partitions: HashMap<i32, Partition>,
    generations: u64,
    /// Lanes whose head may be sent.
    ready: VecDeque<LaneId>,
    /// Lanes whose head waits for its next attempt.
    waiting: BinaryHeap<Reverse<(Instant, LaneId)>>,
    in_flight: usize,
    revoking: Option<(Vec<i32>, Instant)>,
    /// What was settled since the feed was last told.
    settled: (usize, usize),
    assigned: bool,
    stopping: bool,
}

impl Deliver {
    fn new(
        config: Arc<Config>,
        metrics: Arc<Metrics>,
        client: NatClient,
    ) -> Result<(Deliver, Channels, Feed), KafkaProblem> {
        // One message an event at most, and a few that are none.
        let capacity = config.deliver.max_pending_events + 1024;
        let (feed_sender, feed_receiver) = mpsc::channel(capacity);
        let (to_feed, commands) = std::sync::mpsc::channel();
        let (answers, answers_receiver) = mpsc::channel(config.concurrency + 1);
        let (acks, acks_receiver) = mpsc::unbounded_channel();
        let (restored, restored_receiver) = mpsc::channel(1024);
        let writes = Writes::new(&config, acks)?;
        let feed = Feed::new(&config, Arc::clone(&metrics), feed_sender, commands)?;
        let deliver = Deliver {
            breaker: Breaker::new(config.circuit),
            writes,
            metrics,
            client,
            to_feed,
            answers,
            restored,
            partitions: HashMap::new(),
            generations: 0,
            ready: VecDeque::new(),
            waiting: BinaryHeap::new(),
            in_flight: 0,
            revoking: None,
            settled: (0, 0),
            assigned: false,
            stopping: false,
            config,
        };
        let channels = Channels {
            feed: feed_receiver,
            answers: answers_receiver,
            acks: acks_receiver,
            restored: restored_receiver,
        };
        Ok((deliver, channels, feed))
    }

    /// What is under way comes before what is new: an arm can only starve those below it.
    async fn run(
        &mut self,
        channels: &mut Channels,
        status: &watch::Sender<StageStatus>,
        stop: &mut Stop,
    ) -> Result<(), KafkaProblem> {
        let mut deadline = None;
        let mut next_tick = Instant::now() + TICK;
        loop {
            tokio::select! {
                biased;
                told = stop.told(), if !self.stopping => {
                    deadline = told;
                    self.stopping = true;
                }
                Some(answered) = channels.answers.recv() => {
                    self.on_answer(answered)?;
                    while let Ok(answered) = channels.answers.try_recv() {
                        self.on_answer(answered)?;
                    }
                }
                Some(ack) = channels.acks.recv() => {
                    self.on_ack(ack)?;
                    while let Ok(ack) = channels.acks.try_recv() {
                        self.on_ack(ack)?;
                    }
                }
                Some(restored) = channels.restored.recv() => self.on_restored(restored)?,
                news = channels.feed.recv() => match news {
                    Some(news) => self.on_feed(news)?,
                    None => return Err(KafkaProblem::Stopped("the queue's consumer has ended by itself".into())),
                },
                () = tokio::time::sleep_until(self.next_wake(next_tick).into()) => {}
            }
            let now = Instant::now();
            self.wake_waiting(now);
            self.dispatch(now);
            self.hand_back(now);
            self.tell_settled();
            if now >= next_tick {
                next_tick = now + TICK;
                self.tick(status);
            }
            if self.stopping && (self.is_quiet() || deadline.is_none_or(|deadline| now >= deadline)) {
                self.store_frontiers();
                return Ok(());
            }
        }
    }

    fn next_wake(&self, next_tick: Instant) -> Instant {
        let retry = self.waiting.peek().map(|Reverse((at, _))| *at);
        // Only where `dispatch` would send one.
        let may_send = !self.stopping && !self.ready.is_empty() && self.in_flight < self.config.concurrency;
        let probe = self.breaker.next_probe().filter(|_| may_send);
        [retry, probe].into_iter().flatten().fold(next_tick, Instant::min)
    }

    fn is_quiet(&self) -> bool {
        self.partitions.values().all(Partition::is_quiet)
    }

    // ── what the feed tells ──────────────────────────────────────────────────────────────────────────────────────

    fn on_feed(&mut self, news: FromFeed) -> Result<(), KafkaProblem> {
        match news {
            FromFeed::Records(records) => {
                let now = Timestamp::now();
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
                tracing::warn!(stage = STAGE, ?partitions, "lost to another instance: this one was away for too long");
                self.remove(&partitions);
                self.revoking =
                    self.revoking.take().filter(|(revoked, _)| revoked.iter().any(|p| !partitions.contains(p)));
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
            restoring.push((partition, self.generations, Arc::clone(&gone)));
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

    fn on_restored(&mut self, restored: FromRestore) -> Result<(), KafkaProblem> {
        match restored {
            FromRestore::Failed(problem) => return Err(problem),
            FromRestore::Restored { partition: number, generation, set } => {
                if let Some(partition) = self.partitions.get_mut(&number)
                    && partition.generation == generation
                {
                    partition.delivered = Some(*set);
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
        if partition.delivered.is_none() {
            // Dropping it would skip it: the frontier would pass it with the next one.
            let told =
                format!("offset {offset} of queue partition {number} came before its delivered set was restored");
            return Err(KafkaProblem::Stopped(told));
        }
        partition.pending_events += 1;
        partition.pending_bytes += weight;
        partition.ledger.charge(offset, 1, record.timestamp);
        match event::read(record, &self.config.rules, now) {
            Read::Event(event) => {
                let lane = LaneId { partition: number, generation: partition.generation, contact: event.contact };
                if partition.lanes.push(lane.contact, *event) {
                    self.advance(lane);
                }
            }
            Read::Filtered(reason) => {
                self.metrics.settled(Outcome::Filtered, reason.as_str(), 1);
                self.settle(number, offset, weight);
            }
            Read::Invalid(record, reason) => self.write_dead_letter(record, None, Reason::Invalid(reason), None)?,
        }
        Ok(())
    }

    // ── the end of an event ──────────────────────────────────────────────────────────────────────────────────────

    fn on_ack(&mut self, ack: Ack<Token>) -> Result<(), KafkaProblem> {
        let Some(token) = self.writes.acknowledged(ack)? else { return Ok(()) };
        let Some(partition) = self.partitions.get_mut(&token.partition).filter(|p| p.generation == token.generation)
        else {
            return Ok(());
        };
        partition.writes_in_flight -= 1;
        match token.write {
            Write::Delivered { kind } => self.metrics.settled(Outcome::Delivered, kind, 1),
            Write::DeadLetter { reason, holds, .. } => {
                self.metrics.settled(Outcome::DeadLettered, reason.as_str(), 1);
                if let Some(contact) = holds {
                    partition.lanes.pop(&contact);
                    self.advance(LaneId { partition: token.partition, generation: token.generation, contact });
                }
            }
        }
        self.settle(token.partition, token.offset, token.weight);
        Ok(())
    }

    fn settle(&mut self, number: i32, offset: i64, weight: usize) {
        if let Some(partition) = self.partitions.get_mut(&number) {
            partition.ledger.complete(offset);
            partition.pending_events -= 1;
            partition.pending_bytes -= weight;
            self.settled.0 += 1;
            self.settled.1 += weight;
        }
    }

    // ── partitions that go ───────────────────────────────────────────────────────────────────────────────────────

    fn hand_back(&mut self, now: Instant) {
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
            if let Some(partition) = self.partitions.remove(number) {
                self.settled.0 += partition.pending_events;
                self.settled.1 += partition.pending_bytes;
            }
        }
        self.metrics.assigned_partitions.with_label_values(&[STAGE]).set(self.partitions.len() as i64);
    }

    // ── now and then ─────────────────────────────────────────────────────────────────────────────────────────────

    fn tick(&mut self, status: &watch::Sender<StageStatus>) {
        self.store_frontiers();
        let now = Timestamp::now().as_millisecond();
        let (mut visits, mut engage, mut restoring) = (0, 0, 0);
        for partition in self.partitions.values_mut() {
            match &mut partition.delivered {
                Some(set) => {
                    set.expire(now);
                    visits += set.visits();
                    engage += set.engage_values();
                }
                None => restoring += 1,
            }
        }
        self.metrics.dedup_entries.with_label_values(&["visit"]).set(visits as i64);
        self.metrics.dedup_entries.with_label_values(&["engage"]).set(engage as i64);
        self.metrics.retrying_events.set(self.waiting.len() as i64);
        let open = self.breaker.open_reason();
        for reason in OpenReason::ALL {
            self.metrics.circuit_open.with_label_values(&[reason.as_str()]).set((open == Some(reason)).into());
        }
        let topic = &self.config.topics.queue;
        status.send_replace(StageStatus {
            assigned: self.assigned,
            restoring,
            circuit: open.map(OpenReason::as_str),
            positions: self.partitions.iter().map(|(number, partition)| partition.position(topic, *number)).collect(),
            beat: Instant::now(),
        });
    }

    fn store_frontiers(&mut self) {
        let frontiers =
            self.partitions.iter_mut().filter_map(|(number, partition)| Some((*number, partition.take_frontier()?)));
        let frontiers: Vec<(i32, i64)> = frontiers.collect();
        if !frontiers.is_empty() {
            self.tell_feed(ToFeed::Store(frontiers));
        }
    }

    fn tell_settled(&mut self) {
        let (events, bytes) = std::mem::take(&mut self.settled);
        if events > 0 {
            self.tell_feed(ToFeed::Settled { events, bytes });
        }
    }

    /// Without a feed the loop finds out by its channel's end.
    fn tell_feed(&self, command: ToFeed) {
        let _ = self.to_feed.send(command);
    }
}
