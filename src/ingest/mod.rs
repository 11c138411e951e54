//! The first stage: source topics → queue topic. One synchronous loop on a thread of its own, which owns all its state:
//! poll, read, hand identify calls to the queue's producer and invalid events to the dead letters, count the rest. An
//! offset is stored when everything that its record became has been acknowledged.

mod source;
mod writes;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rdkafka::message::{BorrowedMessage, Message, OwnedHeaders};
use tokio::sync::watch;

use crate::config::Config;
use crate::dead_letter::kept::{self, Kept, Text};
use crate::dead_letter::{Origin, Reason, Undeliverable, Verdict};
use crate::dedup::Contact;
use crate::kafka::{
    Ack, Gone, GroupConsumer, Headers, KafkaProblem, Lacking, Notice, OutgoingRecord, PollError, TopicPartition,
    consumer_config, headers_of,
};
use crate::metrics::{Metrics, Outcome};
use crate::mutant;
use crate::poison::{Panicked, contained};
use crate::segment::{self, Reading};
use crate::stage::{Budget, Intake, Seldom, StageStatus, Stop, Whereabouts};
use crate::suppress::Suppressed;

use source::{Sources, Token, Write};
use writes::Writes;

const STAGE: &str = "ingest";
/// How often offsets are stored and positions are told.
const TICK: Duration = Duration::from_millis(100);
/// The longest poll without a record: how long an acknowledgement may wait.
const IDLE_POLL: Duration = Duration::from_millis(50);
/// The same while nothing more is taken.
const HELD_BACK: Duration = Duration::from_millis(1);
/// How long acknowledgements are waited for before revoked partitions are handed back all the same.
const REVOKE_PATIENCE: Duration = Duration::from_secs(10);
/// Records taken in a row before the loop looks at anything else.
const BURST: usize = 500;

/// Runs until told to stop.
///
/// # Errors
/// When it cannot go on; what was not acknowledged will be read again.
pub fn run(
    config: &Config,
    metrics: Arc<Metrics>,
    status: &watch::Sender<StageStatus>,
    stop: &Stop,
    whereabouts: &Whereabouts,
    suppressed: Suppressed,
) -> Result<(), KafkaProblem> {
    let mut client = consumer_config(config, &config.source.group);
    client.set("topic.blacklist", format!("^({})$,^__", config.topics.own().map(regex_lite::escape).join("|")));
    let consumer = GroupConsumer::subscribe(&client, &config.source.topics, config.kafka.timeout)?;
    let state = State {
        config,
        metrics,
        whereabouts,
        suppressed,
        writes: Writes::new(config)?,
        sources: Sources::default(),
        stopped: Vec::new(),
        budget: Budget::new(config.ingest),
        trouble: Seldom::default(),
        paused: false,
        revoking: None,
    };
    Ingest { consumer, state }.run(status, stop)
}

struct Ingest<'a> {
    consumer: GroupConsumer,
    state: State<'a>,
}

struct State<'a> {
    config: &'a Config,
    metrics: Arc<Metrics>,
    whereabouts: &'a Whereabouts,
    suppressed: Suppressed,
    writes: Writes,
    sources: Sources,
    /// Partitions that cannot be read on, since what comes next in them cannot be known.
    stopped: Vec<TopicPartition>,
    budget: Budget,
    trouble: Seldom,
    paused: bool,
    /// Partitions to hand back when drained, or at this moment.
    revoking: Option<(Vec<(String, i32)>, Instant)>,
}

impl Ingest<'_> {
    fn run(mut self, status: &watch::Sender<StageStatus>, stop: &Stop) -> Result<(), KafkaProblem> {
        let mut next_tick = Instant::now();
        let mut assigned = false;
        loop {
            self.state.take_acks()?;
            if let Some(deadline) = stop.deadline() {
                self.consumer.stop_reading(&stop.not_in_topic())?;
                return self.finish(deadline);
            }
            assigned |= self.answer_notices()?;
            self.hand_back();
            let now = Instant::now();
            let intake = self.apply_budget(now);
            if now >= next_tick {
                next_tick = now + TICK;
                self.state.suppressed.look();
                self.consumer.store(&self.state.sources.take_frontiers());
                status.send_replace(self.state.status(assigned));
            }
            match intake {
                // Not for long: the group has to be listened to.
                Intake::HoldBack => std::thread::sleep(HELD_BACK),
                Intake::Read | Intake::Pause => self.poll_burst()?,
            }
        }
    }

    fn poll_burst(&mut self) -> Result<(), KafkaProblem> {
        let Ingest { consumer, state } = self;
        let mut wait = if state.revoking.is_some() { Duration::from_millis(5) } else { IDLE_POLL };
        // One look at the clock for all of them: it costs a thirtieth of what a record does.
        let mut now = None;
        for _ in 0..BURST {
            match consumer.poll(wait) {
                None => break,
                Some(Ok(message)) => {
                    state.take(&message, *now.get_or_insert_with(Timestamp::now))?;
                    if state.budget.is_full() {
                        break;
                    }
                }
                Some(Err(PollError::Fatal(problem))) => return Err(problem),
                Some(Err(PollError::OffsetGone)) => {
                    let Lacking { gone, stopped } = consumer.find_places_again(|_| state.paused)?;
                    for Gone { place, records, first } in gone {
                        state.metrics.gone(&place, records);
                        state.sources.pass_to(&place, first);
                    }
                    state.stopped = stopped;
                }
                Some(Err(PollError::Passing(error))) => {
                    state.metrics.kafka_errors.with_label_values(&[STAGE]).inc();
                    if let Some(errors) = state.trouble.count(Instant::now()) {
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
        Ok(())
    }

    /// True if partitions were assigned, even none.
    fn answer_notices(&mut self) -> Result<bool, KafkaProblem> {
        let mut assigned = false;
        while let Some(notice) = self.consumer.next_notice() {
            match notice {
                Notice::Assign(partitions) => {
                    let begins =
                        self.consumer.assign(&partitions, self.state.config.source.start, self.state.paused)?;
                    tracing::info!(stage = STAGE, ?partitions, "assigned");
                    self.consumer.store(&begins);
                    begins.iter().for_each(|(place, _)| self.state.metrics.gone(place, 0));
                    self.state.sources.assign(begins, Timestamp::now().as_millisecond());
                    self.state.stopped.extend(self.consumer.stopped_of(&partitions));
                    assigned = true;
                }
                Notice::Revoke(partitions) => {
                    tracing::info!(stage = STAGE, ?partitions, "revoked");
                    self.state.sources.drain(&partitions);
                    self.state.revoking = Some((partitions, Instant::now() + REVOKE_PATIENCE));
                }
                Notice::Lost(partitions) => {
                    tracing::warn!(
                        stage = STAGE,
                        ?partitions,
                        "lost: this instance was away for too long and another one has them by now, or the topic was deleted"
                    );
                    self.state.sources.remove(&partitions);
                    let revoking = self.state.revoking.take();
                    self.state.revoking =
                        revoking.filter(|(revoked, _)| revoked.iter().any(|place| !partitions.contains(place)));
                }
            }
            let ours = self.state.sources.partitions();
            self.state.stopped.retain(|place| ours.contains(place));
            self.state.publish_assignment();
        }
        Ok(assigned)
    }

    fn hand_back(&mut self) {
        let Some((partitions, patience)) = &self.state.revoking else { return };
        if self.state.sources.open(partitions) == 0 || Instant::now() >= *patience {
            self.consumer.store(&self.state.sources.take_frontiers());
            self.consumer.unassign(partitions);
            self.state.sources.remove(partitions);
            self.state.revoking = None;
            self.state.publish_assignment();
        }
    }

    fn apply_budget(&mut self, now: Instant) -> Intake {
        let intake = self.state.budget.intake(now);
        let pause = intake == Intake::Pause;
        if pause != self.state.paused {
            let partitions = self.state.sources.partitions();
            if pause {
                self.consumer.pause(&partitions)
            } else {
                self.consumer.resume(&partitions)
            }
            self.state.paused = pause;
            self.state.metrics.paused.with_label_values(&[STAGE]).set(pause.into());
        }
        intake
    }

    /// Nothing new is taken; what was handed over is waited for, stored and committed.
    fn finish(mut self, deadline: Instant) -> Result<(), KafkaProblem> {
        let mut result = Ok(());
        while result.is_ok() && self.state.budget.events() > 0 && Instant::now() < deadline {
            // The group must not think this instance dead meanwhile.
            self.consumer.pause(&self.state.sources.partitions());
            let _not_taken = self.consumer.poll(Duration::from_millis(5));
            result = self.state.take_acks();
        }
        self.consumer.store(&self.state.sources.take_frontiers());
        let unsettled = self.state.budget.events();
        if result.is_ok() && unsettled > 0 {
            tracing::warn!(
                stage = STAGE,
                unsettled,
                "shutdown.timeout is over before Kafka has taken these events: their records will be read again"
            );
        }
        result
    }
}

impl State<'_> {
    fn status(&self, assigned: bool) -> StageStatus {
        self.metrics.stopped_partitions.with_label_values(&[STAGE]).set(self.stopped.len() as i64);
        let (positions, stopped) = (self.sources.positions(), self.stopped.clone());
        StageStatus { assigned, positions, stopped, ..StageStatus::starting() }
    }

    fn publish_assignment(&self) {
        let count = self.sources.partitions().len() as i64;
        self.metrics.assigned_partitions.with_label_values(&[STAGE]).set(count);
    }

    /// Takes one source record: everything that it becomes is written or counted before the next.
    fn take(&mut self, message: &BorrowedMessage<'_>, now: Timestamp) -> Result<(), KafkaProblem> {
        let Some(slot) = self.sources.slot(message.topic(), message.partition()) else {
            return Ok(()); // Being handed back: whoever gets it reads this record again.
        };
        self.whereabouts.at(message.partition(), message.offset());
        let writes = match self.read(message, now) {
            Reading::One { event, outcome } => {
                self.metrics.events_received.inc();
                u32::from(self.take_event(message, slot, event, outcome, None)?)
            }
            Reading::Batch(items) => {
                self.metrics.events_received.inc_by(items.len() as u64);
                let mut writes = 0;
                for (number, item) in items.iter().enumerate() {
                    let judged = contained(|| segment::classify(&self.config.rules, item, now));
                    let outcome = judged.unwrap_or_else(|panicked| poison(message, &panicked));
                    writes += u32::from(self.take_event(message, slot, item, outcome, Some(number))?);
                }
                writes
            }
        };
        let timestamp = message.timestamp().to_millis().unwrap_or_default();
        self.sources.charge(slot, message.offset(), writes, timestamp);
        Ok(())
    }

    fn read<'m>(&self, message: &'m BorrowedMessage<'_>, now: Timestamp) -> Reading<'m> {
        let value = message.payload();
        let read = || {
            value.inspect(|value| mutant::poison(value));
            segment::read(&self.config.rules, value, now)
        };
        contained(read).unwrap_or_else(|panicked| {
            let (event, outcome) = (value.unwrap_or_default(), poison(message, &panicked));
            Reading::One { event, outcome }
        })
    }

    /// True if the event was handed to the producer, so that an acknowledgement will come.
    fn take_event(
        &mut self,
        message: &BorrowedMessage<'_>,
        slot: usize,
        event: &[u8],
        outcome: segment::Outcome<'_>,
        item: Option<usize>,
    ) -> Result<bool, KafkaProblem> {
        let outcome = self.suppressed.list().honoured(outcome);
        let write = match &outcome {
            segment::Outcome::Filtered(reason) => {
                self.metrics.settled(Outcome::Filtered, reason.as_str(), 1);
                return Ok(false);
            }
            segment::Outcome::Identify(_) => Write::Queue,
            segment::Outcome::Invalid { reason, email } => Write::DeadLetter {
                reason: Reason::Invalid(*reason),
                contact: email.as_deref().map(Contact::of),
                kept: Kept::Whole,
            },
        };
        let origin = origin_of(message, item);
        let token = self.sources.token(slot, message.offset(), event.len(), write);
        match outcome {
            segment::Outcome::Identify(identify) => {
                let headers = message.headers().map_or_else(OwnedHeaders::new, |headers| headers.detach());
                let record = OutgoingRecord {
                    topic: &self.config.topics.queue,
                    partition: None,
                    key: Some(identify.email.as_bytes()),
                    value: Some(event),
                    headers: origin.append_to(headers),
                };
                match self.send(record, token)? {
                    None => {}
                    Some((token, _)) => {
                        let contact = Contact::of(&identify.email);
                        self.too_large_for_queue(&origin, contact, event, &plain_headers(message), token)?
                    }
                }
            }
            _ => {
                // A record that is wrong as a whole stays as it came; of a batch, the item at fault is kept.
                let value = if item.is_some() { Some(event) } else { message.payload() };
                let Write::DeadLetter { reason, .. } = token.write else { return Ok(false) };
                self.write_dead_letter(&origin, reason, value, &plain_headers(message), token)?;
            }
        }
        Ok(true)
    }

    fn too_large_for_queue(
        &mut self,
        origin: &Origin<'_>,
        contact: Contact,
        event: &[u8],
        headers: &Headers,
        mut token: Token,
    ) -> Result<(), KafkaProblem> {
        let reason = Reason::Undeliverable(Undeliverable::TooLarge);
        token.write = Write::DeadLetter { reason, contact: Some(contact), kept: Kept::Whole };
        self.write_dead_letter(origin, reason, Some(event), headers, token)
    }

    fn write_dead_letter(
        &mut self,
        origin: &Origin<'_>,
        reason: Reason,
        value: Option<&[u8]>,
        original: &Headers,
        token: Token,
    ) -> Result<(), KafkaProblem> {
        let headers = Verdict { origin, stage: STAGE, reason, attempts: None }.headers(original);
        self.send_letter(Text { key: origin.key.as_deref(), value, headers }, token)
    }

    /// As much of it as the topic takes.
    fn send_letter(&mut self, text: Text<'_>, token: Token) -> Result<(), KafkaProblem> {
        let Text { key, value, headers } = text;
        let topic = self.config.topics.dead_letter.as_str();
        match self.send(OutgoingRecord { topic, partition: None, key, value, headers }, token)? {
            None => Ok(()),
            Some((token, headers)) => self.send_shorter(Text { key, value, headers }, token),
        }
    }

    fn send_shorter(&mut self, text: Text<'_>, mut token: Token) -> Result<(), KafkaProblem> {
        let too_large = kept::too_large(&self.config.topics.dead_letter, &text.headers);
        let Write::DeadLetter { reason, contact, kept } = token.write else { return Err(too_large) };
        let (kept, text) = kept.shorter(text, contact).ok_or(too_large)?;
        token.write = Write::DeadLetter { reason, contact, kept };
        self.send_letter(text, token)
    }

    /// Hands a record to the producer, waiting while its queue is full; gives token and headers back if it is too large.
    fn send(
        &mut self,
        record: OutgoingRecord<'_>,
        token: Token,
    ) -> Result<Option<(Token, OwnedHeaders)>, KafkaProblem> {
        let (topic, bytes) = (record.topic, token.bytes);
        match self.writes.send(record, token) {
            Ok(()) => {
                self.budget.take(1, bytes);
                Ok(None)
            }
            Err(refused) if refused.too_large() => Ok(Some((refused.token, refused.headers))),
            Err(refused) => Err(KafkaProblem::unwritten(topic, &refused.error)),
        }
    }

    fn take_acks(&mut self) -> Result<(), KafkaProblem> {
        loop {
            let acks = self.writes.acknowledged();
            if acks.is_empty() {
                return Ok(());
            }
            acks.into_iter().try_for_each(|ack| self.take_ack(ack))?;
        }
    }

    fn take_ack(&mut self, Ack { token, result }: Ack<Token>) -> Result<(), KafkaProblem> {
        self.budget.give_back(1, token.bytes);
        match result {
            Ok(_) => self.acknowledged(&token),
            Err(failure) => match &failure.too_large {
                Some(record) => self.refused_as_too_large(token, record)?,
                None => return Err(KafkaProblem::unwritten(self.topic_of(&token), &failure)),
            },
        }
        Ok(())
    }

    fn acknowledged(&mut self, token: &Token) {
        // It was received and counted here, so it is settled here, even if its partition has gone meanwhile.
        match token.write {
            Write::Queue => self.metrics.events_queued.inc(),
            Write::DeadLetter { reason, .. } => self.metrics.settled(Outcome::DeadLettered, reason.as_str(), 1),
        }
        self.sources.complete(token);
    }

    /// The broker's limit is lower than ours: the record that came back is written elsewhere.
    fn refused_as_too_large(
        &mut self,
        token: Token,
        record: &rdkafka::message::OwnedMessage,
    ) -> Result<(), KafkaProblem> {
        match token.write {
            Write::Queue => {
                let mut headers = record.headers().map(headers_of).unwrap_or_default();
                let contact = Contact::of(&String::from_utf8_lossy(record.key().unwrap_or_default()));
                let value = record.payload().unwrap_or_default();
                match Origin::take_from(&mut headers) {
                    Some(origin) => self.too_large_for_queue(&origin, contact, value, &headers, token),
                    None => Err(KafkaProblem::unwritten(record.topic(), &"a record came back without its origin")),
                }
            }
            Write::DeadLetter { .. } => {
                let headers = record.headers().map_or_else(OwnedHeaders::new, OwnedHeaders::clone);
                self.send_shorter(Text { key: record.key(), value: record.payload(), headers }, token)
            }
        }
    }

    fn topic_of(&self, token: &Token) -> &str {
        match token.write {
            Write::Queue => &self.config.topics.queue,
            Write::DeadLetter { .. } => &self.config.topics.dead_letter,
        }
    }
}

/// What becomes of an event whose handling panicked.
fn poison(message: &BorrowedMessage<'_>, panicked: &Panicked) -> segment::Outcome<'static> {
    let (topic, partition, offset, place) = (message.topic(), message.partition(), message.offset(), &panicked.0);
    tracing::error!(topic, partition, offset, place, "poison: handling this record panicked; dead letter");
    segment::Outcome::Invalid { reason: segment::Invalid::Poison, email: None }
}

fn origin_of<'m>(message: &'m BorrowedMessage<'_>, item: Option<usize>) -> Origin<'m> {
    Origin {
        topic: Cow::Borrowed(message.topic()),
        partition: message.partition(),
        offset: message.offset(),
        timestamp: message.timestamp().to_millis().unwrap_or_default(),
        key: message.key().map(Cow::Borrowed),
        item,
        road: None,
    }
}

fn plain_headers(message: &BorrowedMessage<'_>) -> Headers {
    message.headers().map(headers_of).unwrap_or_default()
}
