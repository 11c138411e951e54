//! The bare clients: the same I/O as the program's, without a rule, a promise or a second look.

use std::sync::Arc;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Header, Message, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::sync::{Semaphore, mpsc};

use crate::child::{done, say};
use crate::load::{self, PARTITIONS};

/// Reads so many records.
pub fn consume(brokers: &str, topic: &str, events: u64) -> Result<(), String> {
    let mut bytes = 0;
    read(brokers, topic, events, |value| {
        bytes += value.len();
        Ok(())
    })?;
    std::hint::black_box(bytes);
    done(events)
}

/// Reads so many records and writes each to another topic.
pub fn copy(brokers: &str, from: &str, to: &str, events: u64) -> Result<(), String> {
    let producer = load::producer(brokers, "5")?;
    read(brokers, from, events, |value| {
        let record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(to).payload(value);
        load::send(&producer, record)
    })?;
    flushed(&producer, events)
}

/// Reads so many records and writes one in `every` to another topic, with a key and a header as long as those of the queue's
/// records are.
pub fn label(brokers: &str, from: &str, to: &str, events: u64, every: u64) -> Result<(), String> {
    let producer = load::producer(brokers, "5")?;
    let mut number = 0;
    read(brokers, from, events, |value| {
        number += 1;
        if number % every != 0 {
            return Ok(());
        }
        let (key, source) = (format!("p{number}@example.com"), format!("{from}/0/{number}/1763596800000"));
        let headers = OwnedHeaders::new().insert(Header { key: "nat.source", value: Some(&source) });
        load::send(&producer, BaseRecord::to(to).payload(value).key(key.as_bytes()).headers(headers))
    })?;
    flushed(&producer, events)
}

/// Reads so many records, posts each, and writes thirty bytes for each answer.
pub fn pipe(brokers: &str, from: &str, to: &str, url: &str, in_flight: usize, events: u64) -> Result<(), String> {
    let producer = Arc::new(load::producer(brokers, "5")?);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    let (sender, mut receiver) = mpsc::channel::<Vec<u8>>(4096);
    let (writer, url, to) = (Arc::clone(&producer), url.to_owned(), to.to_owned());
    let posting = runtime.spawn(async move {
        let client = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(in_flight).build();
        let client = client.map_err(|error| error.to_string())?;
        let permits = Arc::new(Semaphore::new(in_flight));
        while let Some(event) = receiver.recv().await {
            let permit = Arc::clone(&permits).acquire_owned().await.map_err(|error| error.to_string())?;
            let request = client.post(&url).header("content-type", "application/json").body(event).send();
            let (writer, to) = (Arc::clone(&writer), to.clone());
            tokio::spawn(async move {
                if let Ok(answer) = request.await {
                    let _ = answer.bytes().await;
                    let _ = load::send(&writer, BaseRecord::to(&to).payload(&[7; 30]));
                }
                drop(permit);
            });
        }
        let all = u32::try_from(in_flight).unwrap_or(u32::MAX);
        permits.acquire_many(all).await.map(drop).map_err(|error| error.to_string())
    });
    read(brokers, from, events, |value| sender.blocking_send(value.to_vec()).map_err(|error| error.to_string()))?;
    drop(sender);
    runtime.block_on(posting).map_err(|error| error.to_string())??;
    flushed(&producer, events)
}

fn flushed(producer: &load::Plain, events: u64) -> Result<(), String> {
    producer.flush(Duration::from_secs(60)).map_err(|error| error.to_string())?;
    done(events)
}

fn read(
    brokers: &str,
    topic: &str,
    events: u64,
    mut take: impl FnMut(&[u8]) -> Result<(), String>,
) -> Result<(), String> {
    let mut client = ClientConfig::new();
    client.set("bootstrap.servers", brokers).set("group.id", "bare").set("enable.auto.commit", "false");
    // As the program's own consumer: what it reads ahead, and how long a broker may wait for more.
    client.set("queued.max.messages.kbytes", "2048").set("queued.min.messages", "20000");
    client.set("fetch.wait.max.ms", "100").set("fetch.queue.backoff.ms", "1");
    let consumer: BaseConsumer = client.create().map_err(|error| error.to_string())?;
    let mut partitions = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        let added = partitions.add_partition_offset(topic, partition, Offset::Beginning);
        added.map_err(|error| error.to_string())?;
    }
    consumer.assign(&partitions).map_err(|error| error.to_string())?;
    let mut read = 0;
    while read < events {
        let Some(message) = consumer.poll(Duration::from_millis(100)) else { continue };
        let message = message.map_err(|error| error.to_string())?;
        if read == 0 {
            say("first");
        }
        read += 1;
        take(message.payload().unwrap_or_default())?;
    }
    Ok(())
}
