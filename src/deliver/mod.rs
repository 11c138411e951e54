//! The second stage: queue topic → Nat.app. One asynchronous loop owns all state by value. What runs outside of it (the
//! queue's consumer, the requests, the producer, the restore) talks to it by messages. Answers, acknowledgements and
//! restored sets carry the partition's generation, so that nothing late can touch what is not its own any more.
//!
//! One event's way: `take_record` → its contact's lane → `advance` (a duplicate ends here) → `dispatch` → the request →
//! `on_answer` → the changelog or the dead letters → `on_ack`, where its offset completes.

mod ahead;
mod breaker;
mod event;
mod feed;
mod lanes;
mod lease;
mod pace;
mod partition;
mod regulars;
mod restore;
mod retry;
mod schedule;
mod send;
mod tenure;
mod writes;

use std::collections::{BTreeSet, HashMap};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::{mpsc, watch};
use tokio::time::Sleep;

use crate::config::{Config, Limits};
use crate::dead_letter::Reason;
use crate::dedup::Contact;
use crate::kafka::{Ack, KafkaProblem};
use crate::metrics::{Metrics, Outcome};
use crate::nat::{Answer, Carried, NatClient};
use crate::stage::{CircuitOpen, StageStatus, Stop, Whereabouts};
use crate::suppress::Suppressed;

use breaker::Breaker;
pub use breaker::OpenReason;
use feed::{Feed, FromFeed, ToFeed};
use lease::Lease;
use pace::Pace;
use partition::Partition;
use restore::FromRestore;
use retry::PatienceClock;
use schedule::Schedule;
use writes::{Token, Write, Writes};

const STAGE: &str = "deliver";
/// How often offsets are stored and positions are told.
const TICK: Duration = Duration::from_millis(100);
/// Revoked partitions are handed back when they are quiet: when every request has been answered or has timed out. A
/// request that outlives even this may be accepted here and sent again by the next owner.
const LONGEST_REVOKE: Duration = Duration::from_secs(60);
/// How long the last writes may take at the end.
const LAST_WRITES: Duration = Duration::from_secs(2);

/// Acceptances that the changelog has not acknowledged, beyond which nothing more is sent: while Kafka takes no writes, a
/// crash must not make Nat.app be told again of all that there is.
const MOST_UNREMEMBERED: usize = 1024;
/// And this is how long it goes on without one acknowledgement.
const LONGEST_UNREMEMBERED: Duration = Duration::from_secs(1);

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
    /// `None`: it was not sent, since the lease had run out before.
    answer: Option<Answer>,
    sent: Instant,
    probe: bool,
}

/// What the loop wakes for.
enum Woken {
    Stop(Option<Instant>),
    Answered(Answered),
    Ack(Ack<Token>),
    Restored(FromRestore),
    Feed(Option<FromFeed>),
    Time,
}

/// What can be changed while it runs.
pub struct Live {
    /// Requests a second; 0: no limit.
    pub rate_limit: watch::Receiver<u32>,
    pub suppressed: Suppressed,
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
    whereabouts: Arc<Whereabouts>,
    live: Live,
) -> Result<(), KafkaProblem> {
    let (mut deliver, mut channels, feed) = Deliver::new(config, metrics, client, whereabouts, live)?;
    let feed = std::thread::Builder::new()
        .name("queue-consumer".into())
        .spawn(move || feed.run())
        .map_err(|error| KafkaProblem::Stopped(format!("a thread cannot be started: {error}")))?;
    let result = deliver.run(&mut channels, &status, &mut stop).await;
    deliver.tell_feed(ToFeed::StopReading(stop.not_in_topic()));
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
    whereabouts: Arc<Whereabouts>,
    suppressed: Suppressed,
    breaker: Breaker,
    pace: Pace,
    /// Both can be changed while it runs.
    rate_limit: watch::Receiver<u32>,
    key: watch::Receiver<Carried>,
    patience: PatienceClock,
    lease: Lease,
    /// Whether the lease held when last looked at.
    leased: bool,
    /// An answer that came when it did not; no more are taken until it does.
    late: Option<Answered>,
    writes: Writes,
    to_feed: std::sync::mpsc::Sender<ToFeed>,
    answers: mpsc::Sender<Answered>,
    restored: mpsc::Sender<FromRestore>,
    partitions: HashMap<i32, Partition>,
    generations: u64,
    schedule: Schedule<LaneId>,
    in_flight: usize,
    /// Acceptances that the changelog has not acknowledged.
    unremembered: usize,
    /// When it last acknowledged one, or the first of those was accepted.
    last_remembered: Instant,
    revoking: Option<(Vec<i32>, Instant)>,
    /// What was settled since the feed was last told.
    settled: (usize, usize),
    /// Records that came from it.
    taken: u64,
    /// How many events there were to choose from when it was last told.
    told_choice: usize,
    /// Partitions that cannot be read on; see `FromFeed::Stopped`.
    stopped: BTreeSet<i32>,
    assigned: bool,
    stopping: bool,
}

impl Deliver {
    fn new(
        config: Arc<Config>,
        metrics: Arc<Metrics>,
        client: NatClient,
        whereabouts: Arc<Whereabouts>,
        live: Live,
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
        let Live { rate_limit, suppressed } = live;
        let pace = Pace::new(config.concurrency, *rate_limit.borrow());
        let deliver = Deliver {
            breaker: Breaker::new(config.circuit),
            pace,
            rate_limit,
            key: client.key().news(),
            patience: PatienceClock::new(Instant::now()),
            lease: Lease::new(config.kafka.session_timeout()),
            leased: false,
            late: None,
            whereabouts,
            suppressed,
            writes,
            metrics,
            client,
            to_feed,
            answers,
            restored,
            partitions: HashMap::new(),
            generations: 0,
            schedule: Schedule::new(),
            in_flight: 0,
            unremembered: 0,
            last_remembered: Instant::now(),
            revoking: None,
            settled: (0, 0),
            taken: 0,
            told_choice: 0,
            stopped: BTreeSet::new(),
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

    async fn run(
        &mut self,
        channels: &mut Channels,
        status: &watch::Sender<StageStatus>,
        stop: &mut Stop,
    ) -> Result<(), KafkaProblem> {
        let mut deadline = None;
        let mut next_tick = Instant::now() + TICK;
        let mut alarm = pin!(tokio::time::sleep_until(next_tick.into()));
        loop {
            self.set_alarm(alarm.as_mut(), next_tick);
            let woken = self.next(channels, stop, alarm.as_mut()).await;
            // The process may have stood still in there.
            self.look_at_lease(Instant::now());
            match woken {
                Woken::Stop(told) => {
                    deadline = told;
                    self.stopping = true;
                }
                Woken::Answered(answered) if !self.leased => self.late = Some(answered),
                woken => self.handle(woken)?,
            }
            self.take_rest(channels)?;
            let now = Instant::now();
            self.look_at_lease(now);
            if let Some(answered) = self.late.take_if(|_| self.leased) {
                self.on_answer(answered)?;
            }
            self.patience.set(self.breaker.is_open().is_none() && self.pace.held_until(now).is_none(), now);
            self.schedule.wake(now);
            self.take_changes(now);
            self.dispatch(now);
            self.hand_back(now);
            if now >= next_tick {
                next_tick = now + TICK;
                self.tick(status);
                self.tell_progress();
            } else if self.much_is_settled() {
                self.tell_progress();
            }
            if self.stopping && (self.is_quiet() || deadline.is_none_or(|deadline| now >= deadline)) {
                self.store_frontiers();
                self.tell_cut_off();
                return Ok(());
            }
        }
    }

    /// What is under way comes before what is new: an arm can only starve those below it. Without a lease only the consumer
    /// is listened to: what it says of the partitions comes before anything is done for them.
    async fn next(&self, channels: &mut Channels, stop: &mut Stop, alarm: Pin<&mut Sleep>) -> Woken {
        tokio::select! {
            biased;
            told = stop.told(), if !self.stopping => Woken::Stop(told),
            Some(answered) = channels.answers.recv(), if self.leased => Woken::Answered(answered),
            Some(ack) = channels.acks.recv() => Woken::Ack(ack),
            Some(restored) = channels.restored.recv() => Woken::Restored(restored),
            news = channels.feed.recv() => Woken::Feed(news),
            () = alarm => Woken::Time,
        }
    }

    /// One alarm for all turns: setting it costs more than a turn, so it may go off earlier than it need, never later.
    fn set_alarm(&self, alarm: Pin<&mut Sleep>, next_tick: Instant) {
        let wake = self.next_wake(next_tick).into();
        if alarm.is_elapsed() || wake < alarm.deadline() {
            alarm.reset(wake);
        }
    }

    fn handle(&mut self, woken: Woken) -> Result<(), KafkaProblem> {
        match woken {
            Woken::Answered(answered) => self.on_answer(answered),
            Woken::Ack(ack) => self.on_ack(ack),
            Woken::Restored(restored) => self.on_restored(restored),
            Woken::Feed(Some(news)) => self.on_feed(news),
            Woken::Feed(None) => Err(KafkaProblem::Stopped("the queue's consumer has ended by itself".into())),
            Woken::Stop(_) | Woken::Time => Ok(()),
        }
    }

    /// What else has come by now: one turn for all of it.
    fn take_rest(&mut self, channels: &mut Channels) -> Result<(), KafkaProblem> {
        while self.leased
            && let Ok(answered) = channels.answers.try_recv()
        {
            self.on_answer(answered)?;
        }
        while let Ok(ack) = channels.acks.try_recv() {
            self.on_ack(ack)?;
        }
        Ok(())
    }

    /// Asks for the lease in time, and tells when it is gone and back.
    fn look_at_lease(&mut self, now: Instant) {
        if self.lease.ask(now) {
            self.tell_feed(ToFeed::Prove);
        }
        let leased = self.lease.holds(now) || self.partitions.is_empty();
        if self.leased && self.cut_off(leased) {
            tracing::warn!(
                stage = STAGE,
                "the group has not confirmed for half a session that this instance is a member: it is cut off from Kafka, or \
                 stood still. Nothing is sent until it does"
            );
        } else if leased && !self.leased && !self.partitions.is_empty() {
            tracing::debug!(stage = STAGE, "the group confirms that this instance is a member");
        }
        self.leased = leased;
    }

    /// It had a lease, and has none. At the start there is none yet.
    fn cut_off(&self, leased: bool) -> bool {
        !leased && self.lease.until().is_some()
    }

    fn next_wake(&self, next_tick: Instant) -> Instant {
        let retry = self.schedule.next_due();
        // Only where `dispatch` would send one then.
        let may_send = self.may_send(Instant::now());
        let has_ready = may_send && self.schedule.has_ready();
        let paced = self.pace.next_send().filter(|_| has_ready && self.in_flight < self.pace.limit());
        let has_any = may_send && !self.schedule.is_empty();
        let probe = self.breaker.next_probe().max(self.pace.next_send()).filter(|_| has_any);
        let next = if self.breaker.is_open().is_some() { probe } else { paced };
        [retry, next].into_iter().flatten().fold(next_tick, Instant::min)
    }

    /// Whether anything at all may be sent, as far as this instance and Kafka are concerned.
    fn may_send(&self, now: Instant) -> bool {
        let remembers = self.unremembered == 0
            || self.unremembered < MOST_UNREMEMBERED.max(4 * self.config.concurrency)
                && now < self.last_remembered + LONGEST_UNREMEMBERED;
        !self.stopping && self.leased && remembers
    }

    /// At the end.
    fn tell_cut_off(&self) {
        let requests: usize = self.partitions.values().map(|partition| partition.requests_in_flight).sum();
        let writes: usize = self.partitions.values().map(|partition| partition.writes_in_flight).sum();
        if requests + writes > 0 {
            tracing::warn!(
                stage = STAGE,
                requests,
                writes,
                "shutdown.timeout is over before these were done: their events will be read again, and may be sent again"
            );
        }
    }

    fn is_quiet(&self) -> bool {
        self.partitions.values().all(Partition::is_quiet)
    }

    // ── the end of an event ──────────────────────────────────────────────────────────────────────────────────────

    fn on_ack(&mut self, ack: Ack<Token>) -> Result<(), KafkaProblem> {
        if matches!(ack.token.write, Write::Delivered { .. }) {
            self.unremembered -= 1;
            self.last_remembered = Instant::now();
        }
        let Some(token) = self.writes.acknowledged(ack)? else { return Ok(()) };
        let Some(partition) = self.partitions.get_mut(&token.partition).filter(|p| p.generation == token.generation)
        else {
            return Ok(());
        };
        partition.writes_in_flight -= 1;
        match token.write {
            Write::Tried => return Ok(()),
            Write::Delivered { kind } => self.metrics.settled(Outcome::Delivered, kind, 1),
            Write::DeadLetter { reason, holds: None, .. } => {
                self.metrics.settled(Outcome::DeadLettered, reason.as_str(), 1);
            }
            Write::DeadLetter { reason, holds: Some(contact), .. } => {
                if let Some(doubted) = partition.doubt(&contact, Timestamp::now().as_millisecond()) {
                    partition.writes_in_flight += 1;
                    return self.writes.delivered(&doubted, Token { write: Write::Doubt { reason, contact }, ..token });
                }
                self.buried(&token, reason, contact);
            }
            Write::Doubt { reason, contact } => self.buried(&token, reason, contact),
        }
        self.settle(token.partition, token.offset, token.weight);
        Ok(())
    }

    /// The head of a lane is a dead letter, and all of that is written down.
    fn buried(&mut self, token: &Token, reason: Reason, contact: Contact) {
        self.metrics.settled(Outcome::DeadLettered, reason.as_str(), 1);
        let Token { partition, generation, .. } = *token;
        if let Some(partition) = self.partitions.get_mut(&partition) {
            partition.lanes.pop(&contact);
        }
        self.advance(LaneId { partition, generation, contact });
    }

    fn settle(&mut self, number: i32, offset: i64, weight: usize) {
        if let Some(partition) = self.partitions.get_mut(&number) {
            partition.ledger.complete(offset);
            if let Some(road) = partition.requeued.remove(&offset) {
                self.metrics.events_requeued.with_label_values(&[road.as_str()]).inc();
            }
            partition.pending_events -= 1;
            partition.pending_bytes -= weight;
            self.settled.0 += 1;
            self.settled.1 += weight;
        }
    }

    // ── now and then ─────────────────────────────────────────────────────────────────────────────────────────────

    fn tick(&mut self, status: &watch::Sender<StageStatus>) {
        self.store_frontiers();
        self.suppressed.look();
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
        self.metrics.restoring_partitions.set(restoring as i64);
        self.metrics.dedup_entries.with_label_values(&["visit"]).set(visits as i64);
        self.metrics.dedup_entries.with_label_values(&["engage"]).set(engage as i64);
        self.metrics.retrying_events.set(self.schedule.waiting() as i64);
        self.metrics.concurrency_limit.set(self.pace.limit() as i64);
        self.metrics.stopped_partitions.with_label_values(&[STAGE]).set(self.stopped.len() as i64);
        let circuit = self.circuit();
        for reason in OpenReason::ALL {
            let is_it = circuit.is_some_and(|circuit| circuit.reason == reason.as_str());
            self.metrics.circuit_open.with_label_values(&[reason.as_str()]).set(is_it.into());
        }
        self.metrics.circuit_opened.set(circuit.map_or(0.0, |circuit| circuit.since.as_millisecond() as f64 / 1000.0));
        let topic = &self.config.topics.queue;
        status.send_replace(StageStatus {
            assigned: self.assigned,
            restoring,
            circuit,
            cut_off: self.cut_off(self.leased),
            held_until: self.held_until(),
            stopped: self.stopped.iter().map(|partition| (topic.clone(), *partition)).collect(),
            positions: self.partitions.iter().map(|(number, partition)| partition.position(topic, *number)).collect(),
            beat: Instant::now(),
        });
    }

    /// What was changed while it runs: the next request goes by it.
    fn take_changes(&mut self, now: Instant) {
        // An error says that nobody is left who could change it.
        if self.rate_limit.has_changed().unwrap_or(false) {
            let rate_limit = *self.rate_limit.borrow_and_update();
            self.pace.set_rate_limit(rate_limit, now);
        }
        if self.key.has_changed().unwrap_or(false) {
            self.key.mark_unchanged();
            self.breaker.key_changed(now);
        }
    }

    /// Why the circuit is open and since when, as people tell the time.
    fn circuit(&self) -> Option<CircuitOpen> {
        let (reason, since) = self.breaker.is_open()?;
        Some(CircuitOpen { reason: reason.as_str(), since: wall_time(since) })
    }

    fn held_until(&self) -> Option<Timestamp> {
        self.pace.held_until(Instant::now()).map(wall_time)
    }

    fn store_frontiers(&mut self) {
        let frontiers =
            self.partitions.iter_mut().filter_map(|(number, partition)| Some((*number, partition.take_frontier()?)));
        let frontiers: Vec<(i32, i64)> = frontiers.collect();
        if !frontiers.is_empty() {
            self.tell_feed(ToFeed::Store(frontiers));
        }
    }

    /// Whether the consumer could read on now and does not know it. Each message wakes its thread, so not at each event.
    fn much_is_settled(&self) -> bool {
        let (events, bytes) = self.settled;
        let Limits { max_pending_events, max_pending_bytes } = self.config.deliver;
        let enough = ahead::enough(self.config.concurrency);
        let runs_out = self.told_choice > enough / 2 && self.schedule.ready() <= enough / 2;
        runs_out || events * 4 >= enough.min(max_pending_events) || bytes * 16 >= max_pending_bytes
    }

    fn tell_progress(&mut self) {
        let (events, bytes) = std::mem::take(&mut self.settled);
        let (taken, choice) = (self.taken, self.choice());
        self.told_choice = choice;
        self.tell_feed(ToFeed::Progress { events, bytes, taken, choice });
    }

    /// How many contacts' events there are to choose from; see `ReadAhead`.
    fn choice(&self) -> usize {
        if self.breaker.is_open().is_none() {
            return self.schedule.ready();
        }
        self.schedule.all_ready().filter(|lane| send::is_good_probe(&self.partitions, lane)).count()
    }

    /// Without a feed the loop finds out by its channel's end.
    fn tell_feed(&self, command: ToFeed) {
        let _ = self.to_feed.send(command);
    }
}

/// When that was, or will be, by the clock on the wall.
fn wall_time(instant: Instant) -> Timestamp {
    let now = (Instant::now(), Timestamp::now());
    let ahead = instant.saturating_duration_since(now.0).as_millis() as i64;
    let ago = now.0.saturating_duration_since(instant).as_millis() as i64;
    Timestamp::from_millisecond(now.1.as_millisecond() + ahead - ago).unwrap_or(now.1)
}
