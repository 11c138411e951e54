//! Sending: from the head of a lane to the verdict on it. A lane is in one place at a time: ready, in flight, waiting for
//! its next attempt, or held by its dead letter until that is acknowledged.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::breaker::{OpenReason, Permit};
use super::feed::QueueRecord;
use super::writes::{Token, Write};
use super::{Answered, Deliver, LaneId};
use crate::dead_letter::{Attempts, Reason, Undeliverable};
use crate::dedup::{Contact, Delivered};
use crate::kafka::KafkaProblem;
use crate::metrics::Outcome;
use crate::nat::{Answer, Verdict};

impl Deliver {
    /// The lane has a new head: duplicates end here, anything else may be sent.
    pub(super) fn advance(&mut self, lane: LaneId) {
        while let Some(partition) = self.partitions.get_mut(&lane.partition) {
            let Some(head) = partition.lanes.head(&lane.contact) else { return };
            if !partition
                .delivered
                .as_ref()
                .is_some_and(|set| set.contains(&head.key, head.place, head.source_timestamp))
            {
                self.ready.push_back(lane);
                return;
            }
            if let Some(event) = partition.lanes.pop(&lane.contact) {
                self.metrics.settled(Outcome::Duplicate, event.key.kind.as_str(), 1);
                tracing::debug!(contact = %event.contact, kind = event.key.kind.as_str(), "duplicate");
                self.settle(lane.partition, event.record.offset, event.record.weight());
            }
        }
    }

    pub(super) fn wake_waiting(&mut self, now: Instant) {
        while self.waiting.peek().is_some_and(|Reverse((at, _))| *at <= now) {
            if let Some(Reverse((_, lane))) = self.waiting.pop() {
                self.ready.push_back(lane);
            }
        }
    }

    /// Sends as many heads as may be sent now.
    pub(super) fn dispatch(&mut self, now: Instant) {
        while !self.stopping && self.in_flight < self.config.concurrency {
            let probe = match self.breaker.permit(now) {
                Permit::All => false,
                Permit::Probe => true,
                Permit::Nothing => return,
            };
            let Some(lane) = self.ready.pop_front() else { return };
            let Some(partition) =
                self.partitions.get_mut(&lane.partition).filter(|p| p.generation == lane.generation && !p.draining)
            else {
                continue;
            };
            let Some(event) = partition.lanes.head(&lane.contact) else { continue };
            if probe {
                self.breaker.probe_sent();
                if let Err(error) = self.client.read_key_again() {
                    tracing::warn!(%error, "the API key cannot be read again; the one that was is used");
                }
            }
            let request = self.client.send(event.body.clone(), &event.idempotency_key);
            partition.requests_in_flight += 1;
            self.in_flight += 1;
            self.metrics.http_in_flight.set(self.in_flight as i64);
            let (answers, metrics) = (self.answers.clone(), Arc::clone(&self.metrics));
            tokio::spawn(async move {
                let (answer, took) = request.await;
                metrics.http_request_duration.observe(took.as_secs_f64());
                // Without a loop there is nobody to tell: the event will be read and sent again.
                let _ = answers.send(Answered { lane, answer, sent: now, probe }).await;
            });
        }
    }

    pub(super) fn on_answer(&mut self, answered: Answered) -> Result<(), KafkaProblem> {
        let Answered { lane, answer, sent, probe } = answered;
        let now = Instant::now();
        self.in_flight -= 1;
        self.metrics.http_in_flight.set(self.in_flight as i64);
        self.metrics.http_requests.with_label_values(&[&answer.label()]).inc();
        let verdict = answer.verdict();
        self.tell_breaker(lane.contact, &answer, verdict, now, probe);
        let Some(partition) = self.partitions.get_mut(&lane.partition).filter(|p| p.generation == lane.generation)
        else {
            return Ok(()); // Not ours any more: its new owner sends it again, with the same Idempotency-Key.
        };
        partition.requests_in_flight -= 1;
        match verdict {
            Verdict::Accepted => self.accepted(lane),
            Verdict::Rejected => {
                let Some(event) = partition.lanes.head(&lane.contact) else { return Ok(()) };
                let attempts = event.attempts(answer, sent);
                self.give_up(lane, Undeliverable::Rejected, &attempts)
            }
            // Not this event's fault, or the circuit is open anyway: no attempt is spent.
            _ if self.breaker.open_reason().is_some() => {
                // Behind the others: the next probe is another contact's, since this event may be why this one failed.
                self.ready.push_back(lane);
                Ok(())
            }
            Verdict::Retry(retry_after) => self.retry(lane, answer, retry_after, sent, now),
            Verdict::Unauthorized | Verdict::EndpointNotFound => {
                self.ready.push_back(lane);
                Ok(())
            }
        }
    }

    fn tell_breaker(&mut self, contact: Contact, answer: &Answer, verdict: Verdict, now: Instant, probe: bool) {
        let before = self.breaker.open_reason();
        if before.is_some() && !probe {
            return; // A late answer to what was sent before it opened: the probe's alone tells.
        }
        match verdict {
            Verdict::Accepted | Verdict::Rejected => {
                if self.breaker.answered(now) {
                    tracing::info!("circuit closed: Nat.app answers again");
                }
            }
            Verdict::Retry(retry_after) => self.breaker.failed(contact, retry_after, now),
            Verdict::Unauthorized => self.breaker.open(OpenReason::Unauthorized, None, now),
            Verdict::EndpointNotFound => self.breaker.open(OpenReason::EndpointNotFound, None, now),
        }
        let after = self.breaker.open_reason();
        if let (None, Some(reason)) = (before, after) {
            let todo = match reason {
                OpenReason::Unauthorized => {
                    "Nat.app refuses the API key: put the right one where nat.api_key_file says"
                }
                OpenReason::EndpointNotFound => "Nat.app is not at nat.url: correct it and restart",
                OpenReason::Unavailable => "Nat.app does not take events at the moment",
            };
            tracing::error!(reason = reason.as_str(), answer = %answer.label(), "circuit open: {todo}; nothing is lost, the lag grows");
        } else if probe && after.is_some() {
            tracing::warn!(reason = after.map(OpenReason::as_str), answer = %answer.label(), "probe failed; the circuit stays open");
        }
    }

    fn accepted(&mut self, lane: LaneId) -> Result<(), KafkaProblem> {
        let Some(partition) = self.partitions.get_mut(&lane.partition) else { return Ok(()) };
        let Some(event) = partition.lanes.pop(&lane.contact) else { return Ok(()) };
        let at = Timestamp::now().as_millisecond();
        let delivered = Delivered { key: event.key, at, queue_offset: event.record.offset, place: event.place };
        if let Some(set) = &mut partition.delivered {
            set.insert(&delivered);
        }
        tracing::debug!(contact = %event.contact, kind = event.key.kind.as_str(), "delivered");
        partition.writes_in_flight += 1;
        let token = Token {
            partition: lane.partition,
            generation: lane.generation,
            offset: event.record.offset,
            weight: event.record.weight(),
            write: Write::Delivered { kind: event.key.kind.as_str() },
        };
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
        let open_time = self.breaker.open_time(now);
        let Some(partition) = self.partitions.get_mut(&lane.partition) else { return Ok(()) };
        let Some(head) = partition.lanes.head(&lane.contact) else { return Ok(()) };
        if let Some(wait) = head.failed(answer, retry_after, sent, open_time, &self.config.retry) {
            self.metrics.retries.inc();
            self.waiting.push(Reverse((now + wait, lane)));
            return Ok(());
        }
        let Some(attempts) = head.exhausted() else { return Ok(()) };
        self.give_up(lane, Undeliverable::RetriesExhausted, &attempts)
    }

    /// The event becomes a dead letter. It stays at the head of its lane until that is acknowledged: were a later event
    /// of the contact delivered before, and then a crash, this one would be taken for settled when it is read again.
    fn give_up(&mut self, lane: LaneId, reason: Undeliverable, attempts: &Attempts) -> Result<(), KafkaProblem> {
        let Some(partition) = self.partitions.get_mut(&lane.partition) else { return Ok(()) };
        let Some(event) = partition.lanes.head(&lane.contact) else { return Ok(()) };
        let status = attempts.answer.status();
        tracing::warn!(contact = %event.contact, reason = reason.as_str(), status, attempts = attempts.count, "dead letter");
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
            write: Write::DeadLetter { reason, holds, shortened: false },
        };
        self.writes.dead_letter(record, reason, attempts, token)
    }
}
