//! What the loop writes to Kafka: the changelog and the dead letters. An event's offset completes when its write is
//! acknowledged, not before.

use std::time::Duration;

use rdkafka::message::{Headers as _, Message, OwnedHeaders, OwnedMessage};
use tokio::sync::mpsc::UnboundedSender;

use super::feed::QueueRecord;
use crate::config::Config;
use crate::dead_letter::kept::{self, Kept, Text};
use crate::dead_letter::{Attempts, Origin, Reason, Verdict};
use crate::dedup::{Contact, Delivered, Key, Tried};
use crate::kafka::{Ack, AckingProducer, KafkaProblem, OutgoingRecord, producer_config};

/// What a write was, carried by the producer until it is acknowledged.
#[derive(Debug)]
pub struct Token {
    pub partition: i32,
    pub generation: u64,
    pub offset: i64,
    pub weight: usize,
    pub write: Write,
}

#[derive(Debug, Clone, Copy)]
pub enum Write {
    Delivered {
        kind: &'static str,
    },
    /// What was tried in vain; nothing waits for it.
    Tried,
    /// Which Engage value Nat.app has is in doubt, since this event of that contact became a dead letter, whose offset and
    /// lane wait for it.
    Doubt {
        reason: Reason,
        contact: Contact,
    },
    DeadLetter {
        reason: Reason,
        /// The contact whose lane waits for it.
        holds: Option<Contact>,
        kept: Kept,
    },
}

pub struct Writes {
    producer: AckingProducer<Token>,
    queue: String,
    delivered: String,
    dead_letter: String,
}

impl Writes {
    /// # Errors
    /// When the producer cannot be made.
    pub fn new(config: &Config, acks: UnboundedSender<Ack<Token>>) -> Result<Writes, KafkaProblem> {
        let on_ack = move |ack| {
            // Bounded by the budget, since there is one an event; and it must not block, wherever it runs. Without a loop
            // the process is ending; what is not settled will be read again.
            let _ = acks.send(ack);
        };
        Ok(Writes {
            producer: AckingProducer::new(&producer_config(config), Box::new(on_ack))?,
            queue: config.topics.queue.clone(),
            delivered: config.topics.delivered.clone(),
            dead_letter: config.topics.dead_letter.clone(),
        })
    }

    /// Waits for what is under way, at the end: it is known to be accepted, and need not be sent again.
    pub fn flush(&self, timeout: Duration) {
        self.producer.flush(timeout);
    }

    /// # Errors
    /// When the producer does not take it: the stage has to end.
    pub fn delivered(&self, delivered: &Delivered, token: Token) -> Result<(), KafkaProblem> {
        self.change(delivered.key.key, &delivered.encode(), token)
    }

    /// # Errors
    /// As `delivered`.
    pub fn tried(&self, tried: &Tried, token: Token) -> Result<(), KafkaProblem> {
        self.change(tried.key(), &tried.encode(), token)
    }

    /// The partitions are lost: what has not gone to Kafka yet must not.
    pub fn drop_unsent(&self) {
        self.producer.drop_unsent();
    }

    fn change(&self, key: Key, value: &[u8], token: Token) -> Result<(), KafkaProblem> {
        let record = OutgoingRecord {
            topic: &self.delivered,
            // Record p of one topic belongs to partition p of the other.
            partition: Some(token.partition),
            key: Some(&key.0),
            value: Some(value),
            headers: OwnedHeaders::new_with_capacity(0),
        };
        self.producer.send(record, token).map_err(|refused| KafkaProblem::unwritten(&self.delivered, &refused.error))
    }

    /// # Errors
    /// As `delivered`.
    pub fn dead_letter(
        &self,
        record: QueueRecord,
        reason: Reason,
        attempts: Option<&Attempts>,
        token: Token,
    ) -> Result<(), KafkaProblem> {
        let QueueRecord { partition, offset, timestamp, value, mut headers } = record;
        let origin = Origin::take_from(&mut headers).unwrap_or_else(|| {
            // Put into the queue by something else: this is where it came from, then.
            Origin { topic: self.queue.clone().into(), partition, offset, timestamp, key: None, item: None, road: None }
        });
        let headers = Verdict { origin: &origin, stage: "deliver", reason, attempts }.headers(&headers);
        self.letter(Text { key: origin.key.as_deref(), value: value.as_deref(), headers }, token)
    }

    /// As much of it as the topic takes.
    fn letter(&self, text: Text<'_>, token: Token) -> Result<(), KafkaProblem> {
        let Text { key, value, headers } = text;
        let outgoing = OutgoingRecord { topic: &self.dead_letter, partition: None, key, value, headers };
        match self.producer.send(outgoing, token) {
            Ok(()) => Ok(()),
            Err(refused) if refused.too_large() => {
                self.shorter(Text { key, value, headers: refused.headers }, refused.token)
            }
            Err(refused) => Err(KafkaProblem::unwritten(&self.dead_letter, &refused.error)),
        }
    }

    fn shorter(&self, text: Text<'_>, mut token: Token) -> Result<(), KafkaProblem> {
        let too_large = kept::too_large(&self.dead_letter, &text.headers);
        let Write::DeadLetter { reason, holds, kept } = token.write else { return Err(too_large) };
        let (kept, text) = kept.shorter(text, holds).ok_or(too_large)?;
        token.write = Write::DeadLetter { reason, holds, kept };
        self.letter(text, token)
    }

    /// The token of a write that is done; `None` if it had to be written again, or was dropped.
    ///
    /// # Errors
    /// When Kafka refuses it for a reason that is not the record's own: the stage has to end, and commits nothing of it.
    pub fn acknowledged(&self, ack: Ack<Token>) -> Result<Option<Token>, KafkaProblem> {
        let failure = match ack.result {
            Ok((partition, offset)) => {
                if let Write::DeadLetter { reason, .. } = ack.token.write {
                    let (from, at) = (ack.token.partition, ack.token.offset);
                    tracing::debug!(
                        reason = reason.as_str(),
                        partition,
                        offset,
                        "dead letter of {from}:{at} of the queue written"
                    );
                }
                return Ok(Some(ack.token));
            }
            // Its partition is not ours any more.
            Err(failure) if failure.dropped() => return Ok(None),
            Err(failure) => *failure,
        };
        let letter = matches!(ack.token.write, Write::DeadLetter { .. });
        match &failure.too_large {
            Some(record) if letter => {
                let headers = owned_headers(record);
                self.shorter(Text { key: record.key(), value: record.payload(), headers }, ack.token).map(|()| None)
            }
            _ => {
                let topic = match ack.token.write {
                    Write::Delivered { .. } | Write::Tried | Write::Doubt { .. } => &self.delivered,
                    Write::DeadLetter { .. } => &self.dead_letter,
                };
                Err(KafkaProblem::unwritten(topic, &failure))
            }
        }
    }
}

fn owned_headers(record: &OwnedMessage) -> OwnedHeaders {
    let capacity = record.headers().map_or(0, |headers| headers.count() + 1);
    record.headers().cloned().unwrap_or_else(|| OwnedHeaders::new_with_capacity(capacity))
}
