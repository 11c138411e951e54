//! Three real brokers, reached by the harness directly and by each instance through proxies of its slot; and the topics.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{Headers as _, Message};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::clock::{MILLI, Micros};
use crate::events::{Header, SOURCE_PARTITIONS};
use crate::plan::{BROKERS, Fault, Kind, SLOTS};
use crate::proxy::{Link, Passages, Proxy};

/// The tests' own way to start brokers; not all of it is needed here.
#[allow(dead_code, unused_imports)]
#[path = "../support/kafka.rs"]
mod kafka;

/// Of a topic or a broker: name and value.
type Properties<'a> = &'a [(&'a str, &'a str)];

const PATIENCE: Duration = Duration::from_secs(60);
/// Of the queue, the changelog and the dead letters.
pub const PARTITIONS: i32 = 6;
/// How long a member of a group may be silent.
pub const SESSION: Duration = Duration::from_secs(4);

const PROPERTIES: Properties<'static> = &[
    ("group.consumer.session.timeout.ms", "4000"),
    ("group.consumer.heartbeat.interval.ms", "500"),
    ("min.insync.replicas", "2"),
    ("transaction.state.log.min.isr", "2"),
    ("unclean.leader.election.enable", "false"),
    // A stopped broker is out of the replicas in sync before a producer loses patience.
    ("replica.lag.time.max.ms", "3000"),
    ("controller.quorum.election.timeout.ms", "500"),
    ("controller.quorum.fetch.timeout.ms", "1000"),
];

/// The roads of one slot.
pub struct Roads {
    pub to_brokers: Vec<Proxy>,
    pub to_nat: Proxy,
}

pub struct Cluster {
    kafka: Mutex<kafka::Kafka>,
    pub brokers: String,
    pub roads: Vec<Roads>,
}

/// A record as it lies in a topic.
#[derive(Debug, Clone)]
pub struct Record {
    pub partition: i32,
    pub offset: i64,
    /// The topic's: of the queue and the changelog, when the broker appended it.
    pub at: Micros,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<Header>,
}

impl Record {
    /// The last header of that name, as text.
    pub fn header(&self, name: &str) -> Option<String> {
        let (_, value) = self.headers.iter().rev().find(|(known, _)| known == name)?;
        Some(String::from_utf8_lossy(value.as_deref()?).into_owned())
    }
}

impl Cluster {
    pub async fn start(passages: Passages) -> std::io::Result<Arc<Cluster>> {
        let mut roads = Vec::new();
        for _ in 0..SLOTS {
            let mut to_brokers = Vec::new();
            for _ in 0..BROKERS {
                to_brokers.push(Proxy::listen(None).await?);
            }
            roads.push(Roads { to_brokers, to_nat: Proxy::listen(Some(Arc::clone(&passages))).await? });
        }
        let ports = |broker: usize| roads.iter().map(|roads| roads.to_brokers[broker].port).collect();
        let proxies = (0..BROKERS).map(ports).collect();
        let options = kafka::Options { nodes: BROKERS as u16, properties: PROPERTIES, proxies };
        let kafka = tokio::task::spawn_blocking(move || kafka::Kafka::start(options)).await?;
        for (broker, listeners) in kafka.behind_proxies().iter().enumerate() {
            for (slot, address) in listeners.iter().enumerate() {
                roads[slot].to_brokers[broker].lead_to(address.parse().expect("an address"));
            }
        }
        let brokers = kafka.brokers().to_owned();
        Ok(Arc::new(Cluster { kafka: Mutex::new(kafka), brokers, roads }))
    }

    pub fn lead_to_nat(&self, address: SocketAddr) {
        self.roads.iter().for_each(|roads| roads.to_nat.lead_to(address));
    }

    /// The brokers as an instance in that slot knows them.
    pub fn brokers_of(&self, slot: usize) -> String {
        let address = |proxy: &Proxy| format!("127.0.0.1:{}", proxy.port);
        self.roads[slot].to_brokers.iter().map(address).collect::<Vec<_>>().join(",")
    }

    // ── faults ───────────────────────────────────────────────────────────────────────────────────────────────────

    /// Puts a fault on the roads that it concerns.
    pub fn apply(&self, id: usize, fault: &Fault) {
        let link = match fault.kind {
            Kind::CutBroker | Kind::CutBrokers | Kind::CutBrokerForAll | Kind::CutNat => Link::Cut,
            Kind::StallBroker | Kind::StallBrokers | Kind::StallNat => Link::Stalled,
            _ => Link::Slow { delay: Duration::from_millis(20 + (fault.share * 180.0) as u64) },
        };
        self.concerned(fault).into_iter().for_each(|proxy| proxy.apply(id, link));
    }

    pub fn lift(&self, id: usize, fault: &Fault) {
        self.concerned(fault).into_iter().for_each(|proxy| proxy.lift(id));
    }

    fn concerned(&self, fault: &Fault) -> Vec<&Proxy> {
        let roads = &self.roads[fault.slot];
        match fault.kind {
            kind if kind.is_of_the_road_to_nat() => vec![&roads.to_nat],
            Kind::CutBrokers | Kind::StallBrokers => roads.to_brokers.iter().collect(),
            Kind::CutBrokerForAll => self.roads.iter().map(|roads| &roads.to_brokers[fault.broker]).collect(),
            _ => vec![&roads.to_brokers[fault.broker]],
        }
    }

    fn kafka(&self) -> MutexGuard<'_, kafka::Kafka> {
        self.kafka.lock().expect("unpoisoned")
    }

    /// `kill -9` of a broker.
    pub fn kill(&self, broker: usize) {
        self.kafka().kill(broker as u16 + 1);
    }

    /// Blocks until it answers again.
    pub fn restart(&self, broker: usize) {
        self.kafka().restart(broker as u16 + 1);
    }

    pub fn signal(&self, broker: usize, signal: &str) {
        if let Some(process) = self.kafka().process(broker as u16 + 1) {
            let _ = Command::new("kill").args([signal, &process.to_string()]).status();
        }
    }

    // ── topics ───────────────────────────────────────────────────────────────────────────────────────────────────

    /// The source topic and the three of the service, with the brokers' append times where they are evidence.
    pub async fn create_topics(&self, prefix: &str) -> Result<(), String> {
        let admin: AdminClient<DefaultClientContext> = self.client().create().map_err(|error| error.to_string())?;
        let append_time = ("message.timestamp.type", "LogAppendTime");
        let week = ("retention.ms", "604800000");
        let topics: [(String, i32, Properties<'_>); 4] = [
            (format!("{prefix}-source"), SOURCE_PARTITIONS, &[]),
            (format!("{prefix}.queue"), PARTITIONS, &[append_time, week, ("max.message.bytes", "16777216")]),
            (
                format!("{prefix}.delivered"),
                PARTITIONS,
                // Every record is evidence: none is compacted away while a run lasts.
                &[append_time, week, ("cleanup.policy", "compact,delete"), ("min.compaction.lag.ms", "86400000")],
            ),
            (
                format!("{prefix}.dead-letter"),
                PARTITIONS,
                &[("retention.ms", "2592000000"), ("max.message.bytes", "16777216")],
            ),
        ];
        let new = topics.iter().map(|(name, partitions, settings)| {
            let new = NewTopic::new(name, *partitions, TopicReplication::Fixed(BROKERS as i32));
            settings.iter().fold(new.set("min.insync.replicas", "2"), |new, (name, value)| new.set(name, value))
        });
        let new: Vec<_> = new.collect();
        let options = AdminOptions::new().operation_timeout(Some(PATIENCE));
        let created = admin.create_topics(&new, &options).await.map_err(|error| error.to_string())?;
        created.into_iter().try_for_each(|result| result.map(drop).map_err(|(topic, code)| format!("{topic}: {code}")))
    }

    pub fn client(&self) -> ClientConfig {
        let mut client = ClientConfig::new();
        client.set("bootstrap.servers", &self.brokers).set("reconnect.backoff.max.ms", "1000");
        client
    }

    fn reader(&self, group: &str) -> Result<BaseConsumer, KafkaError> {
        let mut client = self.client();
        client.set("group.id", group).set("enable.auto.commit", "false").set("enable.partition.eof", "true");
        client.set("auto.offset.reset", "earliest").create()
    }

    /// Everything that lies in a topic.
    pub fn read(&self, topic: &str, partitions: i32) -> Result<Vec<Record>, KafkaError> {
        let reader = self.reader("chaos-reader")?;
        let mut list = TopicPartitionList::new();
        for partition in 0..partitions {
            list.add_partition_offset(topic, partition, Offset::Beginning)?;
        }
        reader.assign(&list)?;
        drop(list);
        let mut records = Vec::new();
        let mut ended = HashSet::new();
        // An end may be told twice, and early by a leader that has not caught up: the broker's own word counts.
        let mut next: HashMap<i32, i64> = HashMap::new();
        while ended.len() < partitions as usize {
            match reader.poll(PATIENCE) {
                Some(Ok(message)) => {
                    next.insert(message.partition(), message.offset() + 1);
                    records.push(copy(&message));
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    let (_, high) = reader.fetch_watermarks(topic, partition, PATIENCE)?;
                    let read = next.get(&partition).copied().unwrap_or(0);
                    if read < high {
                        println!("note: {topic} {partition} was read to {read} of {high} and told its end");
                        reader.seek(topic, partition, Offset::Offset(read), PATIENCE)?;
                        continue;
                    }
                    ended.insert(partition);
                }
                // The client goes on by itself.
                Some(Err(KafkaError::MessageConsumption(_))) => {}
                Some(Err(error)) => return Err(error),
                None => return Err(KafkaError::Canceled),
            }
        }
        Ok(records)
    }

    /// Per partition of a topic: what a group has committed (nothing: the beginning) and the end.
    pub fn progress(&self, group: &str, topic: &str, partitions: i32) -> Result<Progress, KafkaError> {
        let reader = self.reader(group)?;
        let mut list = TopicPartitionList::new();
        for partition in 0..partitions {
            list.add_partition(topic, partition);
        }
        let timeout = Duration::from_secs(5);
        let committed = reader.committed_offsets(list, timeout)?;
        let mut progress = Progress::new();
        for element in committed.elements() {
            element.error()?;
            let committed = if let Offset::Offset(offset) = element.offset() { offset } else { 0 };
            let (low, high) = reader.fetch_watermarks(topic, element.partition(), timeout)?;
            progress.insert(element.partition(), (committed.max(low), high));
        }
        Ok(progress)
    }
}

/// (committed, end) by partition.
pub type Progress = HashMap<i32, (i64, i64)>;

pub fn behind(progress: &Progress) -> i64 {
    progress.values().map(|(committed, end)| end - committed).sum()
}

fn copy(message: &rdkafka::message::BorrowedMessage<'_>) -> Record {
    let headers = message.headers().into_iter().flat_map(|headers| headers.iter());
    Record {
        partition: message.partition(),
        offset: message.offset(),
        at: message.timestamp().to_millis().unwrap_or_default() * MILLI,
        key: message.key().map(<[u8]>::to_vec),
        value: message.payload().map(<[u8]>::to_vec),
        headers: headers.map(|header| (header.key.to_owned(), header.value.map(<[u8]>::to_vec))).collect(),
    }
}
