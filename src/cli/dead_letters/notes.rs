//! The notes of what a redrive has taken, on their way into the dead-letter topic.

use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use super::scan::Place;
use crate::config::Config;
use crate::dead_letter::Note;
use crate::enqueue::Unacknowledged;
use crate::kafka::{Ack, AckingProducer, KafkaProblem, OutgoingRecord, tool_producer_config};

/// Writes them.
pub struct Notes {
    producer: AckingProducer<()>,
    acks: Receiver<Ack<()>>,
    topic: String,
    under_way: Unacknowledged,
}

impl Notes {
    pub fn new(config: &Config) -> Result<Notes, KafkaProblem> {
        let (sender, acks) = channel();
        let on_ack = move |ack| {
            let _ = sender.send(ack); // Without a receiver nobody waits for it.
        };
        let producer = AckingProducer::new(&tool_producer_config(config), Box::new(on_ack))?;
        let topic = config.topics.dead_letter.clone();
        Ok(Notes { producer, acks, topic, under_way: Unacknowledged::new(Instant::now()) })
    }

    /// Into the letter's own partition: there retention deletes the letter first, so that none is left without its note.
    pub fn write(&mut self, Place { partition, offset }: Place) -> Result<(), KafkaProblem> {
        self.under_way.begin(Instant::now());
        let mut headers = Note { partition, offset }.headers();
        loop {
            let partition = Some(partition);
            let record = OutgoingRecord { topic: &self.topic, partition, key: None, value: None, headers };
            match self.producer.send(record, ()) {
                Ok(()) => {
                    self.under_way.count += 1;
                    return Ok(());
                }
                Err(refused) if refused.queue_full() => {
                    headers = refused.headers;
                    self.acknowledged()?;
                    std::thread::sleep(Duration::from_millis(2));
                }
                Err(refused) => return Err(self.unwritten(&refused.error)),
            }
        }
    }

    pub fn acknowledged(&mut self) -> Result<(), KafkaProblem> {
        while let Ok(ack) = self.acks.try_recv() {
            self.acknowledge(ack)?;
        }
        match self.under_way.is_given_up(Instant::now()) {
            true => Err(self.unwritten(&"no broker has taken a record for a minute")),
            false => Ok(()),
        }
    }

    pub fn finish(&mut self) -> Result<(), KafkaProblem> {
        while self.under_way.count > 0 {
            match self.acks.recv_timeout(Duration::from_millis(100)) {
                Ok(ack) => self.acknowledge(ack)?,
                Err(_) => self.acknowledged()?,
            }
        }
        Ok(())
    }

    fn acknowledge(&mut self, ack: Ack<()>) -> Result<(), KafkaProblem> {
        self.under_way.taken(Instant::now());
        ack.result.map(drop).map_err(|failure| self.unwritten(&failure))
    }

    fn unwritten(&self, error: &dyn std::fmt::Display) -> KafkaProblem {
        let problem = format!(
            "it cannot be noted what was redriven: {error}. Run the same command again: what is in the queue twice is sent once"
        );
        KafkaProblem::Topic { topic: self.topic.clone(), problem }
    }
}
