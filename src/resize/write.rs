//! Writes many records to partitions that are chosen, and knows when Kafka has them all.

use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use rdkafka::message::OwnedHeaders;

use super::{Onlooker, ResizeError};
use crate::config::Config;
use crate::kafka::{Ack, AckingProducer, KafkaProblem, OutgoingRecord, producer_config};

/// Bytes and records that may be on their way at once.
const MOST_BYTES: usize = 32 << 20;
const MOST_RECORDS: usize = 20_000;

pub struct Writer<'a> {
    topic: &'a str,
    /// Each tells its size.
    producer: AckingProducer<usize>,
    acks: Receiver<Ack<usize>>,
    records: usize,
    bytes: usize,
}

impl<'a> Writer<'a> {
    /// # Errors
    /// When the producer cannot be made.
    pub fn new(config: &Config, topic: &'a str) -> Result<Writer<'a>, KafkaProblem> {
        let (sender, acks) = channel();
        // Without a receiver nobody waits for it.
        let on_ack = Box::new(move |ack| drop(sender.send(ack)));
        Ok(Writer {
            topic,
            producer: AckingProducer::new(&producer_config(config), on_ack)?,
            acks,
            records: 0,
            bytes: 0,
        })
    }

    /// Hands one over, when there is room for it.
    ///
    /// # Errors
    /// When Kafka refuses one, and when it is told to stop.
    pub fn write(
        &mut self,
        partition: Option<i32>,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: OwnedHeaders,
        onlooker: &dyn Onlooker,
    ) -> Result<(), ResizeError> {
        while self.bytes > MOST_BYTES || self.records >= MOST_RECORDS {
            self.wait(onlooker)?;
        }
        let size = key.map_or(0, <[u8]>::len) + value.map_or(0, <[u8]>::len);
        let mut headers = headers;
        loop {
            let record = OutgoingRecord { topic: self.topic, partition, key, value, headers };
            match self.producer.send(record, size) {
                Ok(()) => break,
                // `kafka.properties` may make the client's own queue smaller.
                Err(refused) if refused.queue_full() => {
                    headers = refused.headers;
                    self.wait(onlooker)?;
                }
                Err(refused) => return Err(KafkaProblem::unwritten(self.topic, &refused.error).into()),
            }
        }
        self.records += 1;
        self.bytes += size;
        while let Ok(ack) = self.acks.try_recv() {
            self.take(ack)?;
        }
        Ok(())
    }

    /// Waits until Kafka has all of them.
    ///
    /// # Errors
    /// As `write`.
    pub fn finish(&mut self, onlooker: &dyn Onlooker) -> Result<(), ResizeError> {
        while self.records > 0 {
            self.wait(onlooker)?;
        }
        Ok(())
    }

    fn wait(&mut self, onlooker: &dyn Onlooker) -> Result<(), ResizeError> {
        super::go_on(onlooker)?;
        match self.acks.recv_timeout(Duration::from_millis(100)) {
            Ok(ack) => self.take(ack),
            Err(_) => Ok(()), // While the brokers are away it waits, as the stages do.
        }
    }

    fn take(&mut self, ack: Ack<usize>) -> Result<(), ResizeError> {
        self.records -= 1;
        self.bytes -= ack.token;
        ack.result.map(drop).map_err(|failure| KafkaProblem::unwritten(self.topic, &failure).into())
    }
}
