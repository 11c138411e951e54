//! Everything that is Kafka's and not ours: the clients' configuration, the group consumer with its rebalances, the
//! producer with its acknowledgements, the topics. The traps that each works around are told where it does.

mod bookmark;
mod clients;
mod describe;
mod group;
mod grow;
mod keying;
mod layout;
mod members;
mod own;
mod patience;
mod producer;
mod range;
mod topics;

pub use bookmark::Bookmark;
pub use clients::{
    Context, admin_config, client, consumer_config, is_final, producer_config, reader_config, tool_producer_config,
};
pub use describe::{Description, Reading, describe, reading, retention};
pub use group::{Gone, GroupConsumer, Lacking, Notice, PollError, TopicPartition};
pub use grow::{grow, may_grow};
pub use keying::{Classes, partition_of};
pub use layout::{Layout, Resizing, UNREADABLE, added, read_layout, read_layouts, write_layout};
pub use members::members;
pub use own::{Inspected, TopicReport, Verified, ensure_layout, inspect, verify_keying, verify_or_create};
pub use patience::patiently;
pub use producer::{Ack, AckingProducer, OutgoingRecord, PolledProducer, Refused, WriteFailure};
pub use range::{Next, Range, RangeReader, between, whole};
pub use topics::{
    Group, committed, ends, ends_of_led, not_in_topic, partitions, patient_committed, patient_ends, source_partitions,
    verify_source, with_records_after,
};

use std::time::Duration;

use crate::poison::contained;

/// A record's headers as plain data.
pub type Headers = Vec<(String, Option<Vec<u8>>)>;

/// The headers of a record. rdkafka panics on a header name that is not UTF-8, which anybody can produce: what comes from
/// that one on is left out of what we look at, and stays where it is in the source.
pub fn headers_of(headers: &impl rdkafka::message::Headers) -> Headers {
    let read = |number| {
        let header = headers.try_get(number)?;
        Some((header.key.to_owned(), header.value.map(<[u8]>::to_vec)))
    };
    (0..headers.count()).map_while(|number| contained(|| read(number)).ok().flatten()).collect()
}

/// What is wrong with Kafka, told so that the reader knows what to do.
#[derive(Debug, thiserror::Error)]
pub enum KafkaProblem {
    #[error("kafka.brokers = \"{brokers}\": no broker answered within {} ({cause}). Is the address right, is the broker up, and does kafka.properties.security.protocol match its listener?", humantime::format_duration(*.timeout))]
    Unreachable { brokers: String, timeout: Duration, cause: String },
    #[error("kafka.properties: the client cannot be made: {0}")]
    Properties(String),
    #[error("kafka.properties.sasl.*: the broker refused the credentials: {0}")]
    Credentials(String),
    #[error("source.topics = {topic:?}: {problem}")]
    Source { topic: String, problem: String },
    #[error("topic {topic:?}: {problem}")]
    Topic { topic: String, problem: String },
    #[error("topic {topic:?}: it is missing; create it with: nat-destination topics create")]
    Missing { topic: String },
    #[error("topic {topic:?}: the broker does not let this program {operation} it; ask for an ACL: {acl}")]
    Denied { topic: String, operation: &'static str, acl: String },
    #[error("topic {topic:?}: partition {partition} has no leader. Is its broker away? Run it again once that is back")]
    Leaderless { topic: String, partition: i32 },
    #[error("{what}: {error}")]
    Failed { what: String, error: rdkafka::error::KafkaError },
    #[error("{0}")]
    Stopped(String),
}

impl KafkaProblem {
    /// A write that failed. Nothing is committed of it; the stage has to end, and reads it again when it is started.
    pub fn unwritten(topic: &str, error: &dyn std::fmt::Display) -> KafkaProblem {
        let problem =
            format!("it cannot be written: {error}. Nothing is lost: what was not written will be read again");
        KafkaProblem::Topic { topic: topic.into(), problem }
    }
}
