//! The queue's consumer, on a thread of its own: it polls whatever happens, copies records out of librdkafka at once, reads
//! as far ahead as the loop needs, and pauses when too much is pending. The loop and it talk by messages only.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant};

use rdkafka::message::{BorrowedMessage, Message};
use tokio::sync::mpsc::Sender;

use super::ahead::ReadAhead;
use crate::config::{Config, Start};
use crate::kafka::{
    Gone, GroupConsumer, Headers, KafkaProblem, Lacking, Notice, PollError, TopicPartition, consumer_config, headers_of,
};
use crate::metrics::Metrics;
use crate::stage::{Budget, Intake, Seldom};

/// One record of the queue.
#[derive(Debug, Clone)]
pub struct QueueRecord {
    pub partition: i32,
    pub offset: i64,
    /// Unix milliseconds.
    pub timestamp: i64,
    pub value: Option<Vec<u8>>,
    pub headers: Headers,
}

/// What a pending event weighs beside its bytes, roughly.
const OVERHEAD: usize = 512;

impl QueueRecord {
    /// What it counts against the budget.
    pub fn weight(&self) -> usize {
        self.value.as_ref().map_or(0, Vec::len) + OVERHEAD
    }
}

/// What the feed tells the loop, in order.
#[derive(Debug)]
pub enum FromFeed {
    /// Partitions that are ours now, held until `Begin`, each with the offset it will begin at.
    Assigned(Vec<(i32, i64)>),
    Records(Vec<QueueRecord>),
    /// Ours until `HandBack`.
    Revoked(Vec<i32>),
    Lost(Vec<i32>),
    /// Kafka has deleted what lay before this offset, unread.
    Gone(i32, i64),
    /// What comes next in these partitions cannot be known; they are not read on.
    Stopped(Vec<i32>),
    /// This instance is a member of its group: the coordinator took a commit of it.
    Proved,
    Failed(KafkaProblem),
}

/// What the loop tells the feed.
#[derive(Debug)]
pub enum ToFeed {
    /// The partition's delivered set is restored: read it.
    Begin(i32),
    /// So much less is pending, of so many records taken in all; and the loop has so many contacts' events to choose from.
    Progress {
        events: usize,
        bytes: usize,
        taken: u64,
        choice: usize,
    },
    Store(Vec<(i32, i64)>),
    /// While it is open nothing more is read than there has to be to choose probes from.
    Circuit {
        open: bool,
    },
    /// Prove that this instance is a member of its group still.
    Prove,
    HandBack(Vec<i32>),
    /// Read these no more: what they hold now is not what the offsets mean.
    StopReading(Vec<TopicPartition>),
    Close,
}

/// The longest poll without a record: how long a message from the loop may wait. Each poll costs a tenth of a millisecond.
const BUSY_POLL: Duration = Duration::from_millis(20);
/// The same while nothing is pending, so that no message is urgent.
const IDLE_POLL: Duration = Duration::from_millis(50);
const BURST: usize = 256;
/// While there is enough, the group is listened to so often; a record that comes with it is taken.
const LISTEN_EVERY: Duration = Duration::from_millis(100);
/// Between two attempts to prove membership.
const PROVE_EVERY: Duration = Duration::from_millis(200);
const STAGE: &str = "deliver";

pub struct Feed {
    consumer: GroupConsumer,
    topic: String,
    loop_sender: Sender<FromFeed>,
    commands: Receiver<ToFeed>,
    metrics: Arc<Metrics>,
    budget: Budget,
    trouble: Seldom,
    ahead: ReadAhead,
    last_turn: Instant,
    circuit_open: bool,
    /// When to try again to prove membership.
    prove_at: Option<Instant>,
    paused: bool,
    /// With the offset that was stored last.
    assigned: HashMap<i32, i64>,
    held: HashSet<i32>,
}

impl Feed {
    /// # Errors
    /// When the consumer cannot be made.
    pub fn new(
        config: &Config,
        metrics: Arc<Metrics>,
        loop_sender: Sender<FromFeed>,
        commands: Receiver<ToFeed>,
    ) -> Result<Feed, KafkaProblem> {
        let client = consumer_config(config, &config.topics.deliver_group);
        let topic = config.topics.queue.clone();
        let consumer = GroupConsumer::subscribe(&client, std::slice::from_ref(&topic), config.kafka.timeout)?;
        Ok(Feed {
            consumer,
            topic,
            loop_sender,
            commands,
            metrics,
            budget: Budget::new(config.deliver),
            trouble: Seldom::default(),
            ahead: ReadAhead::new(config.concurrency),
            last_turn: Instant::now(),
            circuit_open: false,
            prove_at: None,
            paused: false,
            assigned: HashMap::new(),
            held: HashSet::new(),
        })
    }

    /// Runs until `Close`, or until the loop is gone; then leaves the group.
    pub fn run(mut self) {
        loop {
            loop {
                match self.commands.try_recv() {
                    Ok(ToFeed::Close) | Err(TryRecvError::Disconnected) => return,
                    Ok(command) => self.obey(command),
                    Err(TryRecvError::Empty) => break,
                }
            }
            let wait = match self.apply_budget() {
                Intake::HoldBack => true,
                Intake::Read => self.ahead.wanted() == 0 && self.last_turn.elapsed() < LISTEN_EVERY,
                Intake::Pause => false,
            };
            if wait {
                match self.commands.recv_timeout(BUSY_POLL) {
                    Ok(ToFeed::Close) | Err(RecvTimeoutError::Disconnected) => return,
                    Ok(command) => self.obey(command),
                    Err(RecvTimeoutError::Timeout) => {}
                }
                self.prove_if_due();
            } else if let Err(problem) = self.turn() {
                return self.tell(FromFeed::Failed(problem));
            }
        }
    }

    fn turn(&mut self) -> Result<(), KafkaProblem> {
        self.last_turn = Instant::now();
        let records = self.poll_burst()?;
        self.ahead.handed(records.len());
        if !records.is_empty() {
            self.tell(FromFeed::Records(records));
        }
        while let Some(notice) = self.consumer.next_notice() {
            self.take_notice(notice)?;
        }
        self.prove_if_due();
        Ok(())
    }

    fn prove_if_due(&mut self) {
        if self.prove_at.is_some_and(|at| Instant::now() >= at) {
            self.prove();
        }
    }

    /// The channel has room for more messages than there may be events pending, so this never waits for long; without a
    /// loop there is nobody to tell, and the commands' end says so.
    fn tell(&self, message: FromFeed) {
        let _ = self.loop_sender.blocking_send(message);
    }

    fn poll_burst(&mut self) -> Result<Vec<QueueRecord>, KafkaProblem> {
        let mut records = Vec::new();
        let most = self.ahead.wanted().clamp(1, BURST);
        let mut wait = if self.budget.events() == 0 { IDLE_POLL } else { BUSY_POLL };
        while records.len() < most {
            match self.consumer.poll(wait) {
                None => break,
                Some(Ok(message)) => {
                    let record = copy(&message);
                    self.budget.take(1, record.weight());
                    records.push(record);
                    if self.budget.is_full() {
                        break;
                    }
                }
                Some(Err(PollError::Fatal(problem))) => return Err(problem),
                Some(Err(PollError::OffsetGone)) => self.find_place_again()?,
                Some(Err(PollError::Passing(error))) => {
                    self.metrics.kafka_errors.with_label_values(&[STAGE]).inc();
                    if let Some(errors) = self.trouble.count(Instant::now()) {
                        tracing::warn!(
                            stage = STAGE,
                            error,
                            errors,
                            "the Kafka client has trouble and goes on by itself"
                        );
                    }
                }
            }
            wait = Duration::ZERO;
        }
        Ok(records)
    }

    /// Commits what was stored last, once more: only a member may. Notices that are waiting come first.
    fn prove(&mut self) {
        let offsets: Vec<_> =
            self.assigned.iter().map(|(partition, offset)| ((self.topic.clone(), *partition), *offset)).collect();
        if offsets.is_empty() || self.consumer.is_member(&offsets) {
            self.prove_at = None;
            self.tell(FromFeed::Proved);
        } else {
            self.prove_at = Some(Instant::now() + PROVE_EVERY);
        }
    }

    /// Reads on where Kafka still has records, or stops where nobody can tell what comes next.
    fn find_place_again(&mut self) -> Result<(), KafkaProblem> {
        let is_paused = |(_, partition): &TopicPartition| self.paused || self.held.contains(partition);
        let Lacking { gone, stopped } = self.consumer.find_places_again(is_paused)?;
        for Gone { place, records, first } in gone {
            self.metrics.gone(&place, records);
            if let Some(stored) = self.assigned.get_mut(&place.1) {
                *stored = first;
            }
            self.tell(FromFeed::Gone(place.1, first));
        }
        self.tell_stopped(stopped);
        Ok(())
    }

    fn tell_stopped(&self, stopped: Vec<TopicPartition>) {
        if !stopped.is_empty() {
            self.tell(FromFeed::Stopped(stopped.into_iter().map(|(_, partition)| partition).collect()));
        }
    }

    fn take_notice(&mut self, notice: Notice) -> Result<(), KafkaProblem> {
        let numbers =
            |partitions: &[TopicPartition]| partitions.iter().map(|(_, partition)| *partition).collect::<Vec<_>>();
        match notice {
            Notice::Assign(partitions) => {
                // The queue is ours: nothing in it may be skipped.
                let begins = self.consumer.assign(&partitions, Start::Earliest, true)?;
                self.consumer.store(&begins);
                begins.iter().for_each(|(place, _)| self.metrics.gone(place, 0));
                self.assigned.extend(begins.iter().map(|((_, partition), begin)| (*partition, *begin)));
                self.held.extend(numbers(&partitions));
                self.tell(FromFeed::Assigned(
                    begins.into_iter().map(|((_, partition), begin)| (partition, begin)).collect(),
                ));
                self.tell_stopped(self.consumer.stopped_of(&partitions));
            }
            Notice::Revoke(partitions) => self.tell(FromFeed::Revoked(numbers(&partitions))),
            Notice::Lost(partitions) => {
                self.forget(&numbers(&partitions));
                self.tell(FromFeed::Lost(numbers(&partitions)));
            }
        }
        Ok(())
    }

    fn obey(&mut self, command: ToFeed) {
        match command {
            ToFeed::Begin(partition) => {
                if self.held.remove(&partition) && !self.paused {
                    self.consumer.resume(&[(self.topic.clone(), partition)]);
                }
            }
            ToFeed::Progress { events, bytes, taken, choice } => {
                self.budget.give_back(events, bytes);
                self.ahead.told(taken, choice);
            }
            ToFeed::Store(offsets) => {
                let mut ours = Vec::new();
                for (partition, offset) in offsets {
                    if let Some(stored) = self.assigned.get_mut(&partition) {
                        *stored = offset;
                        ours.push(((self.topic.clone(), partition), offset));
                    }
                }
                self.consumer.store(&ours);
            }
            ToFeed::Circuit { open } => self.circuit_open = open,
            ToFeed::Prove => self.prove_at = Some(Instant::now()),
            ToFeed::HandBack(partitions) => {
                self.consumer.unassign(&self.places(partitions.iter().copied()));
                self.forget(&partitions);
            }
            ToFeed::StopReading(places) => {
                if let Err(problem) = self.consumer.stop_reading(&places) {
                    tracing::warn!(%problem, "the group could not be told that its offsets mean nothing any more");
                }
            }
            ToFeed::Close => {}
        }
    }

    fn forget(&mut self, partitions: &[i32]) {
        for partition in partitions {
            self.assigned.remove(partition);
            self.held.remove(partition);
        }
    }

    fn places(&self, partitions: impl Iterator<Item = i32>) -> Vec<TopicPartition> {
        partitions.map(|partition| (self.topic.clone(), partition)).collect()
    }

    fn apply_budget(&mut self) -> Intake {
        let enough_for_probes = self.circuit_open && self.ahead.wanted() == 0;
        // At once: what the client fetches ahead meanwhile would be held for as long as it is open.
        let intake = if enough_for_probes { Intake::Pause } else { self.budget.intake(Instant::now()) };
        let pause = intake == Intake::Pause;
        if pause != self.paused {
            let begun = self.assigned.keys().copied().filter(|partition| !self.held.contains(partition));
            let begun = self.places(begun);
            if pause {
                self.consumer.pause(&begun)
            } else {
                self.consumer.resume(&begun)
            }
            self.paused = pause;
            self.metrics.paused.with_label_values(&[STAGE]).set(pause.into());
        }
        self.metrics.pending_events.set(self.budget.events() as i64);
        self.metrics.pending_bytes.set(self.budget.bytes() as i64);
        intake
    }
}

/// A borrowed message pins librdkafka's memory: copy at once.
fn copy(message: &BorrowedMessage<'_>) -> QueueRecord {
    QueueRecord {
        partition: message.partition(),
        offset: message.offset(),
        timestamp: message.timestamp().to_millis().unwrap_or_default(),
        value: message.payload().map(<[u8]>::to_vec),
        headers: message.headers().map(headers_of).unwrap_or_default(),
    }
}
