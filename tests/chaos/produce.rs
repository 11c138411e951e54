//! Segment's part: writes the events at a steady rate on a connection that no fault touches but a broker's own. What the
//! brokers have not acknowledged in the end is not counted as produced.

use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};

use crate::events::{Generator, Produced};

/// What the thread is told.
const FULL: u8 = 0;
const CALM: u8 = 1;
const STOP: u8 = 2;
/// Records a second when calm.
const CALM_RATE: f64 = 30.0;

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
    pace: Arc<AtomicU8>,
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
        // With more, librdkafka can take a refused record for written.
        client.set("max.in.flight", "1");
        let producer = client.create_with_context(Context(Arc::clone(&acknowledged)))?;
        let (pace, sent) = (Arc::new(AtomicU8::new(FULL)), Arc::new(AtomicUsize::new(0)));
        let (told, count) = (Arc::clone(&pace), Arc::clone(&sent));
        let thread = std::thread::spawn(move || produce(&producer, &topic, rate, generator, &told, &count));
        Ok(Production { pace, sent, acknowledged, thread })
    }

    /// From now on a trickle of good events. Without any, contacts that always fail would be all that Nat.app hears, and
    /// that looks like an outage: the circuit opens, and their patience stands still.
    pub fn calm_down(&self) {
        self.pace.store(CALM, Ordering::Release);
    }

    /// Sent and acknowledged so far.
    pub fn counts(&self) -> (usize, usize) {
        (self.sent.load(Ordering::Relaxed), self.acknowledged.acknowledged.load(Ordering::Relaxed))
    }

    /// Blocks until everything is acknowledged. What was sent, and how much of it is in Kafka.
    pub fn end(self) -> Result<(Vec<Produced>, usize), String> {
        self.pace.store(STOP, Ordering::Release);
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
    pace: &AtomicU8,
    sent: &AtomicUsize,
) -> Result<Vec<Produced>, KafkaError> {
    let (mut last, mut due, mut produced) = (Instant::now(), 0.0, Vec::new());
    loop {
        let rate = match pace.load(Ordering::Acquire) {
            FULL => f64::from(rate),
            CALM => CALM_RATE,
            _ => break,
        };
        if rate == CALM_RATE {
            generator.calm_down();
        }
        due += last.elapsed().as_secs_f64() * rate;
        last = Instant::now();
        while (produced.len() as f64) < due {
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
        let headers = record
            .headers
            .iter()
            .fold(OwnedHeaders::new(), |headers, (key, value)| headers.insert(Header { key, value: value.as_deref() }));
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
