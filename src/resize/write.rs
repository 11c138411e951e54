//! Writes many records to partitions that are chosen, and knows when Kafka has them all.

use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rdkafka::message::OwnedHeaders;

use super::{Onlooker, ResizeError};
use crate::config::Config;
use crate::kafka::{Ack, AckingProducer, KafkaProblem, OutgoingRecord, producer_config};

/// Bytes and records that may be on their way at once.
const MOST_BYTES: usize = 32 << 20;
const MOST_RECORDS: usize = 20_000;
/// After so long without an acknowledgement it is told that it waits.
const SILENCE: Duration = Duration::from_secs(15);

pub struct Writer<'a> {
    topic: &'a str,
    /// Each tells its size.
    producer: AckingProducer<usize>,
    acks: Receiver<Ack<usize>>,
    records: usize,
    bytes: usize,
    /// The last acknowledgement, or when there was something to wait for.
    last_sign: Instant,
    /// Whether the silence since then has been told.
    told: bool,
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
            last_sign: Instant::now(),
            told: false,
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
        onlooker: &mut dyn Onlooker,
    ) -> Result<(), ResizeError> {
        if self.records == 0 {
            self.last_sign = Instant::now();
        }
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
    pub fn finish(&mut self, onlooker: &mut dyn Onlooker) -> Result<(), ResizeError> {
        while self.records > 0 {
            self.wait(onlooker)?;
        }
        Ok(())
    }

    fn wait(&mut self, onlooker: &mut dyn Onlooker) -> Result<(), ResizeError> {
        super::go_on(onlooker)?;
        match self.acks.recv_timeout(Duration::from_millis(100)) {
            Ok(ack) => self.take(ack),
            // While the brokers are away it waits, as the stages do.
            Err(_) => {
                if !self.told && self.last_sign.elapsed() >= SILENCE {
                    self.told = true;
                    onlooker.says(&self.silence());
                }
                Ok(())
            }
        }
    }

    fn silence(&self) -> String {
        format!(
            "the brokers have taken nothing for {} s of what is written to {:?}: is one of them away? It goes on as soon as they \
             do. Ctrl-C stops it, and the same command goes on where it was",
            SILENCE.as_secs(),
            self.topic
        )
    }

    fn take(&mut self, ack: Ack<usize>) -> Result<(), ResizeError> {
        (self.last_sign, self.told) = (Instant::now(), false);
        self.records -= 1;
        self.bytes -= ack.token;
        ack.result.map(drop).map_err(|failure| KafkaProblem::unwritten(self.topic, &failure).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Sources;

    /// Stops it once it is told something.
    #[derive(Default)]
    struct Listener(Option<String>);

    impl Onlooker for Listener {
        fn begins(&mut self, _: &'static str, _: u64) {}
        fn at(&mut self, _: u64) {}
        fn says(&mut self, line: &str) {
            self.0 = Some(line.into());
        }
        fn stopped(&self) -> bool {
            self.0.is_some()
        }
    }

    #[test]
    fn that_brokers_take_nothing_is_told_with_the_way_out() {
        let settings = ["kafka.brokers=127.0.0.1:1", "nat.api_key=k", "nat.url=http://127.0.0.1:1/"];
        let set = settings.map(str::to_owned).into();
        let config = Config::load(&Sources { file: None, environment: Vec::new(), set }).expect("right");
        let mut writer = Writer::new(&config, "n.queue").expect("a writer");
        let mut listener = Listener::default();
        let written = writer.write(Some(0), Some(b"k"), None, OwnedHeaders::new(), &mut listener);
        assert!(written.is_ok());
        writer.last_sign = Instant::now().checked_sub(SILENCE).expect("the clock began earlier");
        let ended = writer.finish(&mut listener);
        assert!(matches!(ended, Err(ResizeError::Stopped { begun: true })), "{ended:?}");
        let told = listener.0.expect("told");
        assert!(
            ["taken nothing for 15 s", "n.queue", "Ctrl-C stops it"].iter().all(|part| told.contains(part)),
            "{told}"
        );
    }
}
