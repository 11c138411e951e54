//! Topics and what is in them before the clock runs: events as Segment's Kafka destination writes them, queue records,
//! a changelog of ten million entries.

use std::time::Duration;

use nat_destination::dedup::Contact;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};

use crate::stand_in::{STAMP, micros};

pub const PARTITIONS: i32 = 6;
const PATIENCE: Duration = Duration::from_secs(120);
const DAY: &str = "2026-11-20T08:00:00.000Z";

pub type Plain = ThreadedProducer<DefaultProducerContext>;

/// With the settings of the program's own producers where they cost or save something.
pub fn producer(brokers: &str, linger: &str) -> Result<Plain, String> {
    let mut client = ClientConfig::new();
    client.set("bootstrap.servers", brokers).set("enable.idempotence", "true").set("acks", "all");
    client.set("max.in.flight", "1").set("linger.ms", linger).set("compression.type", "lz4");
    client.set("partitioner", "murmur2_random").set("queue.buffering.max.messages", "1000000");
    client.set("queue.buffering.max.kbytes", "2097151").create().map_err(|error| error.to_string())
}

pub fn create_topic(brokers: &str, topic: &str, settings: &[(&str, &str)]) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", brokers).create().map_err(|error| error.to_string())?;
    let new = NewTopic::new(topic, PARTITIONS, TopicReplication::Fixed(1));
    let new = settings.iter().fold(new, |new, (name, value)| new.set(name, value));
    let options = AdminOptions::new().operation_timeout(Some(PATIENCE));
    let results = runtime.block_on(admin.create_topics(&[new], &options)).map_err(|error| error.to_string())?;
    results.into_iter().try_for_each(|result| result.map(drop).map_err(|(topic, error)| format!("{topic}: {error}")))
}

/// Waits while the client's queue is full.
pub fn send(producer: &Plain, mut record: BaseRecord<'_, [u8], [u8]>) -> Result<(), String> {
    loop {
        match producer.send(record) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                record = back;
                std::thread::sleep(Duration::from_millis(1));
            }
            Err((error, _)) => return Err(error.to_string()),
        }
    }
}

/// Fills a new topic; `key` and value of each record by its number.
pub fn fill(
    brokers: &str,
    topic: &str,
    records: u64,
    settings: &[(&str, &str)],
    record: impl Fn(u64) -> (Option<Vec<u8>>, Vec<u8>),
) -> Result<(), String> {
    create_topic(brokers, topic, settings)?;
    produce(brokers, topic, records, record)
}

/// The same, into a topic that is there.
pub fn produce(
    brokers: &str,
    topic: &str,
    records: u64,
    record: impl Fn(u64) -> (Option<Vec<u8>>, Vec<u8>),
) -> Result<(), String> {
    let producer = producer(brokers, "20")?;
    for number in 0..records {
        let (key, value) = record(number);
        let mut outgoing: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(topic).payload(&value);
        outgoing.key = key.as_deref();
        // Without a key: over the partitions in turn, as many producers do that have none.
        outgoing.partition = key.is_none().then_some((number % PARTITIONS as u64) as i32);
        send(&producer, outgoing)?;
    }
    producer.flush(PATIENCE).map_err(|error| error.to_string())
}

/// An identify call of so many bytes.
pub fn identify(contact: u64, message: &str, bytes: usize) -> Vec<u8> {
    let head = format!(
        r#"{{"type":"identify","messageId":"{message}","timestamp":"{DAY}","userId":"u{contact}","traits":{{"email":"p{contact}@example.com","plan":"pro"}},"page":{{"url":"https://example.com/pricing"}},"context":{{"library":{{"name":"analytics.js","version":"2.11.1"}},"note":""#
    );
    padded(head, contact, bytes)
}

/// A call that is nothing for Nat.app, of so many bytes.
pub fn track(contact: u64, message: &str, bytes: usize) -> Vec<u8> {
    let head = format!(
        r#"{{"type":"track","event":"Order Completed","messageId":"{message}","timestamp":"{DAY}","userId":"u{contact}","properties":{{"total":27.5,"currency":"USD"}},"context":{{"library":{{"name":"analytics.js","version":"2.11.1"}},"note":""#
    );
    padded(head, contact, bytes)
}

/// Closes text and two objects after enough words that no compression makes much of.
fn padded(mut event: String, seed: u64, bytes: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    while event.len() + 3 < bytes {
        event.push(random.alphanumeric());
    }
    event.push_str("\"}}");
    event.into_bytes()
}

/// One in twenty is an identify call.
pub fn mixed(number: u64, bytes: usize) -> Vec<u8> {
    match number % 20 {
        7 => identify(number, &format!("m{number}"), bytes),
        _ => track(number, &format!("m{number}"), bytes),
    }
}

/// Now, as a message id that the stand-in can tell the delay from.
pub fn stamped(contact: u64, bytes: usize) -> Vec<u8> {
    identify(contact, &format!("{STAMP}{}", micros()), bytes)
}

/// Key and value of a visit in the `delivered` topic, as src/dedup/changelog.rs documents them.
pub fn visit(number: u64, at: i64) -> (Vec<u8>, Vec<u8>) {
    let key = Contact::of(&format!("p{number}@example.com")).0.to_vec();
    let mut value = vec![1, 1];
    value.extend(at.to_be_bytes());
    value.extend((number as i64).to_be_bytes());
    (key, value)
}
