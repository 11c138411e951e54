//! Sending: from the head of a lane to the verdict on it. A lane is in one place at a time: ready, in flight, waiting for
//! its next attempt, or held by its dead letter until that is acknowledged.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use jiff::Timestamp;

use super::breaker::{OpenReason, Permit, Signal};
use super::event::{AfterFailure, Id};
use super::feed::{QueueRecord, ToFeed};
use super::partition::Partition;
use super::retry::FailedAttempt;
use super::writes::{Token, Write};
use super::{Answered, Deliver, LaneId};
use crate::dead_letter::{Attempts, Kept, Reason, Undeliverable};
use crate::dedup::{Contact, Delivered, DeliveredSet};
use crate::kafka::KafkaProblem;
use crate::metrics::Outcome;
use crate::mutant::{self, Mutant};
use crate::nat::{Answer, Verdict};
use crate::segment::Filtered;

/// A hold that is worth a line in the log, as it is worth one of `status`.
const LONG_HOLD: Duration = Duration::from_secs(60);

impl Deliver {
    /// The lane has a new head: duplicates end here, anything else may be sent.
    pub(super) fn advance(&mut self, lane: LaneId) {
        while let Some(partition) = self.partitions.get_mut(&lane.partition) {
            let Some(head) = partition.lanes.head(&lane.contact) else { return };
            let contains = |set: &DeliveredSet| set.contains(&head.id.key, head.id.place, head.id.source_timestamp);
            if !partition.delivered.as_ref().is_some_and(contains) || mutant::is(Mutant::MarkOnReceipt) {
                return self.schedule.make_ready(lane);
            }
            if let Some(event) = partition.lanes.pop(&lane.contact) {
                self.duplicate(&event.id, lane.partition, event.record.offset, event.record.weight());
            }
        }
    }

    pub(super) fn duplicate(&mut self, id: &Id, partition: i32, offset: i64, weight: usize) {
        let kind = id.key.kind.as_str();
        self.metrics.settled(Outcome::Duplicate, kind, 1);
        tracing::debug!(contact = %id.contact, kind, "duplicate");
        self.settle(partition, offset, weight);
    }

    /// Its contact was put on the suppression list while it waited.
    fn suppress(&mut self, lane: LaneId) {
        let Some(partition) = self.partitions.get_mut(&lane.partition) else { return };
        if let Some(event) = partition.lanes.pop(&lane.contact) {
            self.metrics.settled(Outcome::Filtered, Filtered::Suppressed.as_str(), 1);
            self.settle(lane.partition, event.record.offset, event.record.weight());
        }
        self.advance(lane);
    }

    /// Sends as many heads as may be sent now.
    pub(super) fn dispatch(&mut self, now: Instant) {
        while self.may_send(now) {
            let probe = match self.breaker.permit(now) {
                Permit::All if self.pace.may_send(self.in_flight, now) => false,
                // One at a time it is, whatever else is in flight.
                Permit::Probe if self.pace.may_send(0, now) => true,
                Permit::All | Permit::Probe | Permit::Nothing => return,
            };
            let next = match probe {
                true => self.schedule.next_probe(|lane| is_good_probe(&self.partitions, lane)),
                false => self.schedule.next_ready(),
            };
            let Some(lane) = next else { return };
            let Some(partition) =
                self.partitions.get_mut(&lane.partition).filter(|p| p.generation == lane.generation && !p.draining)
            else {
                continue;
            };
            if self.suppressed.list().holds(&lane.contact) {
                self.suppress(lane);
                continue;
            }
            let Some(event) = partition.lanes.head(&lane.contact) else { continue };
            let (body, idempotency_key) = (event.body.clone(), event.idempotency_key.clone());
            partition.requests_in_flight += 1;
            if probe {
                self.breaker.probe_sent();
                // A probe that needs a new key finds it, however young that is.
                self.client.key().read_again();
            }
            self.pace.sent(now);
            self.send(lane, body, &idempotency_key, probe, now);
        }
    }

    fn send(&mut self, lane: LaneId, body: Bytes, idempotency_key: &str, probe: bool, now: Instant) {
        let request = self.client.send(body, idempotency_key);
        self.in_flight += 1;
        self.metrics.http_in_flight.set(self.in_flight as i64);
        let (answers, metrics) = (self.answers.clone(), Arc::clone(&self.metrics));
        let lease = self.lease.until();
        tokio::spawn(async move {
            // A process that stood still between the decision and this may have lost the partition.
            let answer = if lease.is_some_and(|until| Instant::now() < until) {
                let (answer, took) = request.await;
                metrics.http_request_duration.observe(took.as_secs_f64());
                Some(answer)
            } else {
                None
            };
            // Without a loop there is nobody to tell: the event will be read and sent again.
            let _ = answers.send(Answered { lane, answer, sent: now, probe }).await;
        });
    }

    pub(super) fn on_answer(&mut self, answered: Answered) -> Result<(), KafkaProblem> {
        let Answered { lane, answer, sent, probe } = answered;
        let now = Instant::now();
        if let Some(answer) = &answer {
            self.metrics.http_requests.with_label_values(&[&answer.label()]).inc();
            self.tell_pace(answer, sent, now);
            self.tell_breaker(lane, answer, now, probe);
        } else if probe {
            self.breaker.probe_dropped();
        }
        self.in_flight -= 1;
        self.metrics.http_in_flight.set(self.in_flight as i64);
        let Some(partition) = self.partitions.get_mut(&lane.partition).filter(|p| p.generation == lane.generation)
        else {
            return Ok(()); // Not ours any more: its new owner sends it again, with the same Idempotency-Key.
        };
        partition.requests_in_flight -= 1;
        let Some(answer) = answer else {
            self.schedule.make_ready(lane);
            return Ok(());
        };
        let verdict = answer.verdict();
        let open = self.breaker.is_open().map(|(reason, _)| reason);
        let redriven = partition.lanes.head(&lane.contact).is_some_and(|event| event.is_redriven());
        // A redriven event that is rejected was so before: to hold it would tell nothing, and keep the circuit busy.
        let as_before = redriven && verdict == Verdict::Rejected && open == Some(OpenReason::Rejecting);
        match verdict {
            Verdict::Accepted => self.accepted(lane),
            Verdict::Unauthorized if mutant::is(Mutant::DropOn401) => self.drop_event(lane),
            // Not this event's fault, or it cannot be known: no attempt is spent, and nothing becomes a dead letter. It goes
            // behind the others: the next probe is another contact's, since this event may be why this one failed.
            _ if open.is_some() && !as_before => {
                if let Some(event) = partition.lanes.head(&lane.contact) {
                    event.held = true;
                }
                self.schedule.make_ready(lane);
                Ok(())
            }
            Verdict::Rejected => {
                let Some(event) = partition.lanes.head(&lane.contact) else { return Ok(()) };
                let at = Timestamp::now().as_millisecond();
                let attempts = event.attempts(answer, at - millis(now - sent), at, &self.config.retry);
                self.give_up(lane, Undeliverable::Rejected, &attempts)
            }
            Verdict::Retry(retry_after) => self.retry(lane, answer, retry_after, sent, now),
            Verdict::Unauthorized | Verdict::EndpointNotFound => {
                self.schedule.make_ready(lane);
                Ok(())
            }
        }
    }

    fn tell_pace(&mut self, answer: &Answer, sent: Instant, now: Instant) {
        if self.breaker.is_open().is_none() {
            match (answer.verdict(), answer.is_overload()) {
                (_, true) => self.pace.overloaded(sent, now),
                (Verdict::Accepted | Verdict::Rejected, false) => self.pace.answered(self.in_flight),
                _ => {}
            }
        }
        if let Verdict::Retry(Some(retry_after)) = answer.verdict() {
            if self.pace.held_until(now).is_none() && retry_after >= LONG_HOLD {
                let seconds = retry_after.as_secs();
                tracing::warn!(
                    seconds,
                    "Nat.app said not to come back before that (Retry-After): nothing is sent until then"
                );
            }
            self.pace.hold(now + retry_after);
        }
    }

    fn tell_breaker(&mut self, lane: LaneId, answer: &Answer, now: Instant, probe: bool) {
        let partition = self.partitions.get_mut(&lane.partition).filter(|p| p.generation == lane.generation);
        let head = partition.and_then(|p| p.lanes.head(&lane.contact));
        let (held, redriven) = head.map_or((false, false), |event| (event.held, event.is_redriven()));
        let signal = match answer.verdict() {
            Verdict::Accepted => Signal::Accepted,
            Verdict::Rejected if redriven => Signal::RejectedAsBefore,
            Verdict::Rejected if held => Signal::RejectedAgain,
            Verdict::Rejected => Signal::Rejected,
            Verdict::Retry(retry_after) => Signal::Failed(retry_after),
            Verdict::Unauthorized => Signal::Unauthorized,
            Verdict::EndpointNotFound => Signal::EndpointNotFound,
        };
        let before = self.breaker.is_open();
        self.breaker.answered(lane.contact, signal, probe, now);
        match (before, self.breaker.is_open()) {
            (None, Some((reason, _))) => {
                let answer = answer.label();
                let todo = what_to_do(reason);
                tracing::error!(
                    reason = reason.as_str(),
                    answer,
                    "circuit open: {todo}; nothing is lost, the lag grows"
                );
                self.pace.start_again();
                self.tell_feed(ToFeed::Circuit { open: true });
            }
            (Some((_, since)), None) => {
                tracing::info!(seconds = (now - since).as_secs_f64(), "circuit closed: Nat.app takes events again");
                // Or else new events would stand behind all that may open it again.
                self.schedule.bring_forward(|lane| is_good_probe(&self.partitions, lane));
                self.tell_feed(ToFeed::Circuit { open: false });
            }
            (Some((before, _)), Some((reason, _))) if before != reason => {
                let (answer, todo) = (answer.label(), what_to_do(reason));
                tracing::error!(
                    reason = reason.as_str(),
                    answer,
                    "the circuit stays open, for another reason now: {todo}; nothing is lost, the lag grows"
                );
            }
            (Some(_), Some((reason, _))) if probe => {
                tracing::warn!(reason = reason.as_str(), answer = %answer.label(), "probe failed; the circuit stays open");
            }
            _ => {}
        }
    }

    /// What the mutant `drop_on_401` does.
    fn drop_event(&mut self, lane: LaneId) -> Result<(), KafkaProblem> {
        let Some(partition) = self.partitions.get_mut(&lane.partition) else { return Ok(()) };
        if let Some(event) = partition.lanes.pop(&lane.contact) {
            self.settle(lane.partition, event.record.offset, event.record.weight());
        }
        self.advance(lane);
        Ok(())
    }

    fn accepted(&mut self, lane: LaneId) -> Result<(), KafkaProblem> {
        let Some(partition) = self.partitions.get_mut(&lane.partition) else { return Ok(()) };
        let Some(event) = partition.lanes.pop(&lane.contact) else { return Ok(()) };
        let at = Timestamp::now().as_millisecond();
        let delivered = Delivered { key: event.id.key, at, queue_offset: event.record.offset, place: event.id.place };
        if let Some(set) = &mut partition.delivered {
            set.insert(&delivered);
        }
        tracing::debug!(contact = %event.id.contact, kind = event.id.key.kind.as_str(), "delivered");
        partition.writes_in_flight += 1;
        let token = Token {
            partition: lane.partition,
            generation: lane.generation,
            offset: event.record.offset,
            weight: event.record.weight(),
            write: Write::Delivered { kind: event.id.key.kind.as_str() },
        };
        if self.unremembered == 0 {
            self.last_remembered = Instant::now();
        }
        self.unremembered += 1;
        let result = self.writes.delivered(&delivered, token);
        self.advance(lane);
        result
    }

    fn retry(
        &mut self,
        lane: LaneId,
        answer: Answer,
        retry_after: Option<Duration>,
        sent: Instant,
        now: Instant,
    ) -> Result<(), KafkaProblem> {
        let Some(partition) = self.partitions.get_mut(&lane.partition) else { return Ok(()) };
        let Some(head) = partition.lanes.head(&lane.contact) else { return Ok(()) };
        let (offset, wall, clock) = (head.record.offset, Timestamp::now().as_millisecond(), self.patience.at(now));
        let attempt = FailedAttempt {
            sent: wall - millis(now - sent),
            now: wall,
            clock_sent: clock.saturating_sub(now - sent),
            clock,
            retry_after,
        };
        match head.failed(answer, &attempt, &self.config.retry) {
            AfterFailure::Wait(wait, tried) => {
                self.metrics.retries.inc();
                self.schedule.wait(lane, now + wait);
                partition.writes_in_flight += 1;
                let LaneId { partition, generation, .. } = lane;
                self.writes.tried(&tried, Token { partition, generation, offset, weight: 0, write: Write::Tried })
            }
            AfterFailure::Exhausted(attempts) => self.give_up(lane, Undeliverable::RetriesExhausted, &attempts),
        }
    }

    /// The event becomes a dead letter. It stays at the head of its lane until that is acknowledged: were a later event
    /// of the contact delivered before, and then a crash, this one would be taken for settled when it is read again.
    fn give_up(&mut self, lane: LaneId, reason: Undeliverable, attempts: &Attempts) -> Result<(), KafkaProblem> {
        let Some(partition) = self.partitions.get_mut(&lane.partition) else { return Ok(()) };
        let Some(event) = partition.lanes.head(&lane.contact) else { return Ok(()) };
        let status = attempts.answer.status();
        tracing::warn!(contact = %event.id.contact, reason = reason.as_str(), status, attempts = attempts.count, "dead letter");
        let record = event.record.clone();
        self.write_dead_letter(record, Some(lane.contact), Reason::Undeliverable(reason), Some(attempts))
    }

    pub(super) fn write_dead_letter(
        &mut self,
        record: QueueRecord,
        holds: Option<Contact>,
        reason: Reason,
        attempts: Option<&Attempts>,
    ) -> Result<(), KafkaProblem> {
        let Some(partition) = self.partitions.get_mut(&record.partition) else { return Ok(()) };
        partition.writes_in_flight += 1;
        let token = Token {
            partition: record.partition,
            generation: partition.generation,
            offset: record.offset,
            weight: record.weight(),
            write: Write::DeadLetter { reason, holds, kept: Kept::Whole },
        };
        self.writes.dead_letter(record, reason, attempts, token)
    }
}

/// Whether the lane's head would say something new of Nat.app. One that has failed may be why the circuit is open, and of
/// what a tool put into the queue again a whole file may be bad.
pub(super) fn is_good_probe(partitions: &HashMap<i32, Partition>, lane: &LaneId) -> bool {
    let partition = partitions.get(&lane.partition).filter(|p| p.generation == lane.generation);
    partition
        .and_then(|p| p.lanes.first(&lane.contact))
        .is_some_and(|event| !event.has_failed() && event.road.is_none())
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

fn what_to_do(reason: OpenReason) -> &'static str {
    match reason {
        OpenReason::Unauthorized => "Nat.app refuses the API key: put the right one where nat.api_key_file says",
        OpenReason::EndpointNotFound => "Nat.app is not at nat.url: correct it and restart",
        OpenReason::Unavailable => "Nat.app does not take events at the moment",
        OpenReason::Rejecting => {
            "Nat.app rejects most of what it is sent: look at the newest dead letters for its words. It closes when an \
             event is accepted, or restart with circuit.rejections = 0 to make dead letters of them all"
        }
    }
}
