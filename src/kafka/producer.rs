//! The producer: a write counts when its delivery report says so, and the report comes back as a message that carries
//! the token the write was made with.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::ClientContext;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, DeliveryResult, Message, OwnedHeaders, OwnedMessage};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext, PurgeConfig};
use rdkafka::util::IntoOpaque;

use super::clients::log_line;
use super::{KafkaProblem, headers_of};

/// One record to write.
pub struct OutgoingRecord<'a> {
    pub topic: &'a str,
    /// `None`: by the key.
    pub partition: Option<i32>,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    pub headers: OwnedHeaders,
}

/// What became of a write.
#[derive(Debug)]
pub struct Ack<T> {
    pub token: T,
    /// The partition and offset that it was written to.
    pub result: Result<(i32, i64), Box<WriteFailure>>,
}

/// A write that Kafka did not take.
#[derive(Debug)]
pub struct WriteFailure {
    pub error: KafkaError,
    /// The record, if it is larger than the topic takes: the one failure that is the record's own.
    pub too_large: Option<OwnedMessage>,
}

impl fmt::Display for WriteFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.error)?;
        if too_large(&self.error) && self.too_large.is_none() {
            f.write_str(
                ", although the record is small: the topic takes smaller batches (max.message.bytes) than at the start of \
                 this program, or than kafka.properties.batch.size. Start it again, and it will know",
            )?;
        }
        Ok(())
    }
}

impl WriteFailure {
    /// Whether it was taken back by `drop_unsent`.
    pub fn dropped(&self) -> bool {
        self.error.rdkafka_error_code() == Some(RDKafkaErrorCode::PurgeQueue)
    }
}

/// A record that the client did not take, with what is needed to try otherwise.
#[derive(Debug)]
pub struct Refused<T> {
    pub error: KafkaError,
    pub headers: OwnedHeaders,
    pub token: T,
}

impl<T> Refused<T> {
    pub fn too_large(&self) -> bool {
        too_large(&self.error)
    }
    pub fn queue_full(&self) -> bool {
        self.error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull)
    }
}

fn too_large(error: &KafkaError) -> bool {
    use RDKafkaErrorCode::{InvalidMessageSize, MessageBatchTooLarge, MessageSizeTooLarge};
    matches!(error.rdkafka_error_code(), Some(MessageSizeTooLarge | MessageBatchTooLarge | InvalidMessageSize))
}

type OnAck<T> = Box<dyn Fn(Ack<T>) + Send + Sync>;

pub struct AckContext<T> {
    on_ack: OnAck<T>,
    /// No batch of several records is larger, bytes.
    batch: usize,
}

impl<T> AckContext<T> {
    /// Whether a record that was refused as too large is that itself, or may have been in a batch that is.
    fn went_alone(&self, record: &BorrowedMessage<'_>) -> bool {
        let headers = record.headers().map(headers_of).unwrap_or_default();
        let of_headers = headers.iter().map(|(name, value)| name.len() + value.as_ref().map_or(0, Vec::len));
        record.payload_len() + record.key_len() + of_headers.sum::<usize>() > self.batch
    }
}

impl<T: IntoOpaque + 'static> ClientContext for AckContext<T> {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log_line(level, facility, message);
    }
    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(target: "librdkafka", %error, reason, "client error");
    }
}

impl<T: IntoOpaque + 'static> ProducerContext for AckContext<T> {
    type DeliveryOpaque = T;

    fn delivery(&self, result: &DeliveryResult<'_>, token: T) {
        let result = match result {
            Ok(message) if message.offset() >= 0 => Ok((message.partition(), message.offset())),
            // Not its own acknowledgement: librdkafka concluded it from a later record's, and can be wrong (see
            // `producer_config`). What is written twice does no harm, what is not written is lost.
            Ok(_) => {
                let error = KafkaError::MessageProduction(RDKafkaErrorCode::Inconsistent);
                Err(Box::new(WriteFailure { error, too_large: None }))
            }
            Err((error, message)) => {
                // Only a record that is too large is needed again: it is written elsewhere.
                let too_large = (too_large(error) && self.went_alone(message)).then(|| message.detach());
                Err(Box::new(WriteFailure { error: error.clone(), too_large }))
            }
        };
        (self.on_ack)(Ack { token, result });
    }
}

/// Tells acknowledgements when it is polled, on the thread that polls: what a record needed is freed where it was allocated,
/// which saves ingest a tenth of its CPU. Ends its client when dropped, and writes nothing more.
pub struct PolledProducer<T: IntoOpaque + 'static>(BaseProducer<AckContext<T>>);

impl<T: IntoOpaque + 'static> PolledProducer<T> {
    /// # Errors
    /// When a property is not one.
    pub fn new(client: &ClientConfig, on_ack: OnAck<T>) -> Result<Self, KafkaProblem> {
        let batch = client.get("batch.size").and_then(|bytes| bytes.parse().ok()).unwrap_or(0);
        let producer = BaseProducer::from_config_and_context(client, AckContext { on_ack, batch });
        producer.map(PolledProducer).map_err(|error| KafkaProblem::Properties(error.to_string()))
    }

    /// Tells the acknowledgements of one answer, or more while there is time.
    pub fn poll(&self, time: Duration) {
        self.0.poll(time);
    }

    /// Hands the record to the client; its acknowledgement comes later with the token.
    ///
    /// # Errors
    /// When the client does not take it: too large, or its queue is full.
    pub fn send(&self, record: OutgoingRecord<'_>, token: T) -> Result<(), Box<Refused<T>>> {
        let mut outgoing: BaseRecord<'_, [u8], [u8], T> =
            BaseRecord::with_opaque_to(record.topic, token).headers(record.headers);
        outgoing.partition = record.partition;
        outgoing.key = record.key;
        outgoing.payload = record.value;
        self.0.send(outgoing).map_err(|(error, outgoing)| {
            let headers = outgoing.headers.unwrap_or_else(OwnedHeaders::new);
            Box::new(Refused { error, headers, token: outgoing.delivery_opaque })
        })
    }
}

/// How long a poll for acknowledgements may wait, and a client lives on without anybody. rdkafka spins through the last
/// millisecond of each poll; its own ThreadedProducer, which polls ten times a second, costs a hundredth of a core for nothing.
const LONGEST_POLL: Duration = Duration::from_secs(5);

/// A producer that is polled by a thread of its own, for those who cannot wait.
pub struct AckingProducer<T: Send + Sync + 'static> {
    /// Shared with the thread that polls, which ends when it is the last to hold it.
    producer: Arc<PolledProducer<Box<T>>>,
}

impl<T: Send + Sync + 'static> Drop for AckingProducer<T> {
    fn drop(&mut self) {
        self.producer.0.purge(PurgeConfig::default().queue().inflight());
    }
}

impl<T: Send + Sync + 'static> AckingProducer<T> {
    /// `on_ack` runs on the client's own thread.
    ///
    /// # Errors
    /// When a property is not one.
    pub fn new(client: &ClientConfig, on_ack: OnAck<T>) -> Result<Self, KafkaProblem> {
        let on_ack = move |Ack { token, result }: Ack<Box<T>>| on_ack(Ack { token: *token, result });
        let producer = Arc::new(PolledProducer::new(client, Box::new(on_ack))?);
        let polled = Arc::clone(&producer);
        std::thread::Builder::new()
            .name("acknowledgements".into())
            .spawn(move || {
                while Arc::strong_count(&polled) > 1 {
                    polled.poll(LONGEST_POLL);
                }
            })
            .map_err(|error| KafkaProblem::Stopped(format!("a thread cannot be started: {error}")))?;
        Ok(AckingProducer { producer })
    }

    /// As `PolledProducer::send`.
    ///
    /// # Errors
    /// When the client does not take it: too large, or its queue is full.
    pub fn send(&self, record: OutgoingRecord<'_>, token: T) -> Result<(), Box<Refused<T>>> {
        self.producer.send(record, Box::new(token)).map_err(|refused| {
            let Refused { error, headers, token } = *refused;
            Box::new(Refused { error, headers, token: *token })
        })
    }

    /// Takes back what has not gone to a broker yet; its acknowledgements say `dropped`.
    pub fn drop_unsent(&self) {
        self.producer.0.purge(PurgeConfig::default().queue());
    }

    /// Waits until everything handed over is acknowledged or the time is up.
    pub fn flush(&self, timeout: Duration) {
        if let Err(error) = self.producer.0.flush(timeout) {
            tracing::warn!(%error, "some records were not written in time; they will be read and written again");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::mem::ManuallyDrop;
    use std::sync::mpsc;

    use rdkafka::mocking::MockCluster;
    use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

    use super::*;

    #[test]
    fn a_write_that_only_a_later_one_acknowledges_has_failed() {
        // As `producer_config` does not have it: two requests under way, and the first one is refused.
        let cluster = ManuallyDrop::new(MockCluster::new(1).expect("a cluster"));
        cluster.create_topic("t", 1, 1).expect("created");
        cluster.broker_round_trip_time(1, Duration::from_millis(50)).expect("slow");
        let mut client = ClientConfig::new();
        client.set("bootstrap.servers", cluster.bootstrap_servers());
        client.set("enable.idempotence", "true").set("batch.num.messages", "1");
        let (acks, acked) = mpsc::channel();
        let on_ack =
            Box::new(move |ack: Ack<u8>| acks.send((ack.token, ack.result.is_ok())).expect("somebody listens"));
        let producer = AckingProducer::new(&client, on_ack).expect("a producer");
        cluster.request_errors(RDKafkaApiKey::Produce, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION]);
        for token in 0..2 {
            let headers = OwnedHeaders::new();
            let record = OutgoingRecord { topic: "t", partition: Some(0), key: None, value: Some(b"v"), headers };
            producer.send(record, token).expect("taken");
        }
        let mut results: Vec<_> = (0..2).map(|_| acked.recv_timeout(Duration::from_secs(30)).expect("told")).collect();
        results.sort();
        assert_eq!(results, [(0, false), (1, true)]);
    }
}
