//! Puts events into the queue again: what replay, backfill and redrive share. Keyed as ingest keys them, at a rate, and
//! with a token for each event that comes back when the brokers have it. Blocking: for a thread.

use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rdkafka::message::OwnedHeaders;

use crate::config::Config;
use crate::dead_letter::Origin;
use crate::kafka::{self, Ack, AckingProducer, KafkaProblem, OutgoingRecord, tool_producer_config};

/// An event on its way into the queue.
pub struct Entry<'a> {
    /// The contact: the normalised email.
    pub email: &'a str,
    pub event: &'a [u8],
    /// The source record's own.
    pub headers: OwnedHeaders,
    /// With the road that it takes.
    pub origin: &'a Origin<'a>,
}

/// An event that is done with.
#[derive(Debug)]
pub struct Enqueued<T> {
    pub token: T,
    /// Partition and offset in the queue; `None`: it is larger than the queue takes.
    pub place: Option<(i32, i64)>,
}

pub struct Enqueue<T: Send + Sync + 'static> {
    producer: AckingProducer<T>,
    acks: Receiver<Ack<T>>,
    queue: String,
    rate: Option<Rate>,
    /// What was refused before it was sent.
    refused: Vec<Enqueued<T>>,
    under_way: Unacknowledged,
}

/// Without one sign of the brokers for so long, a tool gives up; what it had them take is kept in mind.
const PATIENCE: Duration = Duration::from_secs(60);

impl<T: Send + Sync + 'static> Enqueue<T> {
    /// `rate`: events a second at most.
    ///
    /// # Errors
    /// When the queue is being resized or partitions were added to it, and when the producer cannot be made.
    pub fn new(config: &Config, rate: Option<u32>) -> Result<Enqueue<T>, KafkaProblem> {
        tokio::runtime::Handle::current().block_on(kafka::verify_keying(config))?;
        let (sender, acks) = channel();
        let on_ack = move |ack| {
            let _ = sender.send(ack); // Without a receiver nobody waits for it.
        };
        Ok(Enqueue {
            producer: AckingProducer::new(&tool_producer_config(config), Box::new(on_ack))?,
            acks,
            queue: config.topics.queue.clone(),
            rate: rate.map(|rate| Rate::new(rate, Instant::now())),
            refused: Vec::new(),
            under_way: Unacknowledged::new(Instant::now()),
        })
    }

    /// Hands an event over, when its turn has come.
    ///
    /// # Errors
    /// When Kafka takes nothing for a minute.
    pub fn send(&mut self, entry: Entry<'_>, token: T) -> Result<(), KafkaProblem> {
        if let Some(rate) = &mut self.rate {
            let wait = rate.take(Instant::now());
            std::thread::sleep(wait);
        }
        self.under_way.begin(Instant::now());
        let (mut headers, mut token) = (entry.origin.append_to(entry.headers), token);
        loop {
            let record = OutgoingRecord {
                topic: &self.queue,
                partition: None,
                key: Some(entry.email.as_bytes()),
                value: Some(entry.event),
                headers,
            };
            match self.producer.send(record, token) {
                Ok(()) => {
                    self.under_way.count += 1;
                    return Ok(());
                }
                Err(refused) if refused.queue_full() && !self.under_way.is_given_up(Instant::now()) => {
                    (headers, token) = (refused.headers, refused.token);
                    std::thread::sleep(Duration::from_millis(2));
                }
                Err(refused) if refused.too_large() => {
                    self.refused.push(Enqueued { token: refused.token, place: None });
                    return Ok(());
                }
                Err(refused) => return Err(unwritten(&self.queue, &refused.error)),
            }
        }
    }

    /// What the brokers have taken since the last call, in no order.
    ///
    /// # Errors
    /// When they refuse one for a reason that is not its own, or take nothing for a minute.
    pub fn acknowledged(&mut self) -> Result<Vec<Enqueued<T>>, KafkaProblem> {
        let mut done = std::mem::take(&mut self.refused);
        while let Ok(ack) = self.acks.try_recv() {
            done.push(self.acknowledge(ack)?);
        }
        if self.under_way.is_given_up(Instant::now()) {
            return Err(unwritten(&self.queue, &"no broker has taken a record for a minute"));
        }
        Ok(done)
    }

    /// Waits for all that is under way.
    ///
    /// # Errors
    /// As `acknowledged`.
    pub fn finish(&mut self) -> Result<Vec<Enqueued<T>>, KafkaProblem> {
        let mut done = self.acknowledged()?;
        while self.under_way.count > 0 {
            match self.acks.recv_timeout(Duration::from_millis(100)) {
                Ok(ack) => done.push(self.acknowledge(ack)?),
                Err(_) => done.extend(self.acknowledged()?),
            }
        }
        Ok(done)
    }

    fn acknowledge(&mut self, Ack { token, result }: Ack<T>) -> Result<Enqueued<T>, KafkaProblem> {
        self.under_way.taken(Instant::now());
        match result {
            Ok(place) => Ok(Enqueued { token, place: Some(place) }),
            Err(failure) if failure.too_large.is_some() => Ok(Enqueued { token, place: None }),
            Err(failure) => Err(unwritten(&self.queue, &failure)),
        }
    }
}

fn unwritten(queue: &str, error: &dyn std::fmt::Display) -> KafkaProblem {
    let problem =
        format!("it cannot be written: {error}. What was written is kept in mind: run the same command again");
    KafkaProblem::Topic { topic: queue.into(), problem }
}

/// How many records the brokers have not acknowledged yet, and since when they have been silent.
#[derive(Debug)]
pub struct Unacknowledged {
    pub count: usize,
    /// When the brokers last took one, or the first of those under way was sent.
    last_sign: Instant,
}

impl Unacknowledged {
    pub fn new(now: Instant) -> Unacknowledged {
        Unacknowledged { count: 0, last_sign: now }
    }

    /// One is about to be sent. Where nothing was under way, the brokers had nothing to say.
    pub fn begin(&mut self, now: Instant) {
        if self.count == 0 {
            self.last_sign = now;
        }
    }

    /// One was acknowledged.
    pub fn taken(&mut self, now: Instant) {
        self.count -= 1;
        self.last_sign = now;
    }

    pub fn is_given_up(&self, now: Instant) -> bool {
        self.count > 0 && now.saturating_duration_since(self.last_sign) > PATIENCE
    }
}

/// So many a second, evenly. A stall is not made up for: Nat.app would get it all at once.
struct Rate {
    interval: Duration,
    next: Instant,
}

impl Rate {
    fn new(a_second: u32, now: Instant) -> Rate {
        Rate { interval: Duration::from_secs(1) / a_second.max(1), next: now }
    }

    /// How long to wait for the next one.
    fn take(&mut self, now: Instant) -> Duration {
        let wait = self.next.saturating_duration_since(now);
        self.next = self.next.max(now) + self.interval;
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_between_two_records_is_no_silence_of_the_brokers() {
        let begin = Instant::now();
        let minutes = |count| begin + count * PATIENCE;
        let mut under_way = Unacknowledged::new(begin);
        let send = |under_way: &mut Unacknowledged, now| {
            under_way.begin(now);
            under_way.count += 1;
        };
        send(&mut under_way, begin);
        under_way.taken(begin);
        send(&mut under_way, minutes(5));
        assert!(!under_way.is_given_up(minutes(6)), "five minutes without one to send");
        send(&mut under_way, minutes(6));
        assert!(under_way.is_given_up(minutes(7)), "two minutes without an answer");
        under_way.taken(minutes(7));
        assert!(!under_way.is_given_up(minutes(8)));
    }

    #[test]
    fn a_rate_is_even_and_makes_up_for_no_stall() {
        let begin = Instant::now();
        let mut rate = Rate::new(10, begin);
        let millis = |wait: Duration| wait.as_millis();
        assert_eq!([millis(rate.take(begin)), millis(rate.take(begin)), millis(rate.take(begin))], [0, 100, 200]);
        let later = begin + Duration::from_secs(5);
        assert_eq!([millis(rate.take(later)), millis(rate.take(later))], [0, 100]);
    }
}
