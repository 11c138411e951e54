//! What ingest has handed to Kafka: the producer, polled by the loop itself, and a token for each record until it is
//! acknowledged.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use slab::Slab;

use super::source::Token;
use crate::config::Config;
use crate::kafka::{Ack, KafkaProblem, OutgoingRecord, PolledProducer, Refused, producer_config};

pub struct Writes {
    producer: PolledProducer<usize>,
    /// Told by a poll of the producer: each with the place of its token. Nobody else holds it meanwhile.
    told: Arc<Mutex<Vec<Ack<usize>>>>,
    tokens: Slab<Token>,
}

impl Writes {
    /// # Errors
    /// When the producer cannot be made.
    pub fn new(config: &Config) -> Result<Writes, KafkaProblem> {
        let told = Arc::new(Mutex::new(Vec::new()));
        let tells = Arc::clone(&told);
        let on_ack = move |ack| {
            if let Ok(mut told) = tells.lock() {
                told.push(ack);
            }
        };
        let producer = PolledProducer::new(&producer_config(config), Box::new(on_ack))?;
        Ok(Writes { producer, told, tokens: Slab::new() })
    }

    /// Hands a record over, waiting while the producer's queue is full.
    ///
    /// # Errors
    /// When the producer does not take it.
    pub fn send(&mut self, mut record: OutgoingRecord<'_>, token: Token) -> Result<(), Box<Refused<Token>>> {
        const PATIENCE: Duration = Duration::from_secs(60);
        let OutgoingRecord { topic, partition, key, value, .. } = record;
        let place = self.tokens.insert(token);
        let began = Instant::now();
        loop {
            match self.producer.send(record, place) {
                Ok(()) => return Ok(()),
                Err(refused) if refused.queue_full() && began.elapsed() < PATIENCE => {
                    record = OutgoingRecord { topic, partition, key, value, headers: refused.headers };
                    self.producer.poll(Duration::from_millis(2));
                }
                Err(refused) => {
                    let Refused { error, headers, .. } = *refused;
                    return Err(Box::new(Refused { error, headers, token: self.tokens.remove(place) }));
                }
            }
        }
    }

    /// Some of what has been acknowledged since the last call; nothing if nothing has.
    pub fn acknowledged(&mut self) -> Vec<Ack<Token>> {
        self.producer.poll(Duration::ZERO);
        let told = self.told.lock().map(|mut told| std::mem::take(&mut *told)).unwrap_or_default();
        let with_token = |Ack { token, result }| Some(Ack { token: self.tokens.try_remove(token)?, result });
        told.into_iter().filter_map(with_token).collect()
    }
}
