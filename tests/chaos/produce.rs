//! Segment's part: writes the events at a steady rate on a connection that no fault touches but a broker's own. What the
//! brokers have not acknowledged in the end is not counted as produced.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};

use crate::events::{Generator, Produced};

/// How long the last acknowledgements are waited for.
const PATIENCE: Duration = Duration::from_secs(90);

#[derive(Default)]
struct Acknowledged {
    acknowledged: AtomicUsize,
    failed: Mutex<Option<KafkaError>>,
}

struct Context(Arc<Acknowledged>);

impl ClientContext for Context {}

impl ProducerContext for Context {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        match result {
            Ok(_) => drop(self.0.acknowledged.fetch_add(1, Ordering::Relaxed)),
            Err((error, _)) => *self.0.failed.lock().expect("unpoisoned") = Some(error.clone()),
        }
    }
}

pub struct Production {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicUsize>,
    acknowledged: Arc<Acknowledged>,
    thread: JoinHandle<Result<Vec<Produced>, KafkaError>>,
}

impl Production {
    pub fn start(
        mut client: ClientConfig,
        topic: String,
        rate: u32,
        generator: Generator,
    ) -> Result<Production, KafkaError> {
        let acknowledged = Arc::new(Acknowledged::default());
        client.set("enable.idempotence", "true").set("message.timeout.ms", "0").set("linger.ms", "5");
        let producer = client.create_with_context(Context(Arc::clone(&acknowledged)))?;
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&sent));
        let thread = std::thread::spawn(move || produce(&producer, &topic, rate, generator, &stopped, &count));
        Ok(Production { stop, sent, acknowledged, thread })
    }

    /// Sent and acknowledged so far.
    pub fn counts(&self) -> (usize, usize) {
        (self.sent.load(Ordering::Relaxed), self.acknowledged.acknowledged.load(Ordering::Relaxed))
    }

    /// Blocks until everything is acknowledged. What was sent, and how much of it is in Kafka.
    pub fn end(self) -> Result<(Vec<Produced>, usize), String> {
        self.stop.store(true, Ordering::Release);
        let produced = self.thread.join().map_err(|_| "the producer has crashed")?;
        let produced = produced.map_err(|error| format!("the source topic cannot be written: {error}"))?;
        if let Some(error) = self.acknowledged.failed.lock().expect("unpoisoned").take() {
            return Err(format!("the source topic cannot be written: {error}"));
        }
        Ok((produced, self.acknowledged.acknowledged.load(Ordering::Relaxed)))
    }
}

fn produce(
    producer: &ThreadedProducer<Context>,
    topic: &str,
    rate: u32,
    mut generator: Generator,
    stop: &AtomicBool,
    sent: &AtomicUsize,
) -> Result<Vec<Produced>, KafkaError> {
    let (began, mut produced) = (Instant::now(), Vec::new());
    while !stop.load(Ordering::Acquire) {
        let due = (began.elapsed().as_secs_f64() * f64::from(rate)) as usize;
        while produced.len() < due {
            let record = generator.record();
            send(producer, topic, &record)?;
            produced.push(record);
        }
        sent.store(produced.len(), Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(5));
    }
    producer.flush(PATIENCE)?;
    Ok(produced)
}

fn send(producer: &ThreadedProducer<Context>, topic: &str, record: &Produced) -> Result<(), KafkaError> {
    loop {
        let headers = record.headers.iter().fold(OwnedHeaders::new(), |headers, (key, value)| {
            headers.insert(Header { key, value: value.as_deref() })
        });
        let mut outgoing: BaseRecord<'_, [u8], [u8]> =
            BaseRecord::to(topic).partition(record.partition).headers(headers);
        outgoing.key = record.key.as_deref();
        outgoing.payload = record.value.as_deref();
        match producer.send(outgoing) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err((error, _)) => return Err(error),
        }
    }
}
