//! What the brokers say of a topic and of those who read it, for people.

use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, ConfigResource, ResourceSpecifier};
use rdkafka::config::FromClientConfigAndContext;

use super::clients::{Context, admin_config};
use super::members::listed_members;
use super::topics::{denied, ends, failed, fetch_metadata, partitions_of, patient_committed};
use super::{KafkaProblem, TopicPartition, partitions};
use crate::config::Config;

/// One topic as it is. `None`: the brokers do not tell.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Description {
    pub partitions: usize,
    pub replication: usize,
    pub cleanup: Option<String>,
    /// Milliseconds; -1: for ever.
    pub retention: Option<i64>,
    /// Offsets from the first record to the last: compaction and transactions leave some of them empty.
    pub records: u64,
}

/// A group that reads a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// `None`: of the new consumer protocol they are not told.
    pub members: Option<Vec<String>>,
    /// Records that it has not settled.
    pub lag: u64,
}

/// `None`: there is no such topic.
///
/// # Errors
/// When the brokers do not answer, or do not let it be described.
pub async fn describe(config: &Config, topic: &str) -> Result<Option<Description>, KafkaProblem> {
    let metadata = fetch_metadata(config, Some(topic)).await?;
    let Some(count) = partitions_of(&metadata, topic)? else { return Ok(None) };
    let replicas = metadata.topics().iter().flat_map(|topic| topic.partitions()).map(|p| p.replicas().len());
    let replication = replicas.min().unwrap_or(0);
    drop(metadata);
    let ends = ends(config, partitions(config, topic).await?).await?;
    let records = ends.values().map(|(low, high)| u64::try_from(high - low).unwrap_or(0)).sum();
    let settings = settings(config, topic).await?;
    let value = |name: &str| settings.as_ref()?.get(name)?.value.clone();
    let retention = value("retention.ms").and_then(|millis| millis.parse().ok());
    Ok(Some(Description { partitions: count, replication, cleanup: value("cleanup.policy"), retention, records }))
}

/// How long Kafka keeps what comes into a topic, as the topic itself says; `Duration::MAX`: for ever.
///
/// # Errors
/// When the brokers do not tell: they are away, or want the ACL DESCRIBE_CONFIGS.
pub async fn retention(config: &Config, topic: &str) -> Result<Duration, KafkaProblem> {
    let settings = settings(config, topic).await?;
    let told = settings.as_ref().and_then(|settings| settings.get("retention.ms")?.value.as_ref()?.parse::<i64>().ok());
    let millis = told.ok_or_else(|| denied(topic, "describe the configuration of", "DESCRIBE_CONFIGS"))?;
    Ok(u64::try_from(millis).map_or(Duration::MAX, Duration::from_millis))
}

/// `None`: the brokers do not tell.
async fn settings(config: &Config, topic: &str) -> Result<Option<ConfigResource>, KafkaProblem> {
    let admin: AdminClient<Context> = AdminClient::from_config_and_context(&admin_config(config), Context::default())
        .map_err(|error| KafkaProblem::Properties(error.to_string()))?;
    let options = AdminOptions::new().request_timeout(Some(config.kafka.timeout));
    let settings = admin.describe_configs([&ResourceSpecifier::Topic(topic)], &options).await;
    Ok(settings.map_err(|error| failed("describing topics", error))?.into_iter().flatten().next())
}

/// How far a group is with these topics.
///
/// # Errors
/// When the brokers do not answer.
pub async fn reading(config: &Config, group: &str, topics: &[String]) -> Result<Reading, KafkaProblem> {
    let mut places: Vec<TopicPartition> = Vec::new();
    for topic in topics {
        places.extend(partitions(config, topic).await?);
    }
    let settled = patient_committed(config, group, places.clone()).await?;
    let ends = ends(config, places).await?;
    let behind = |(place, (low, end)): (&TopicPartition, &(i64, i64))| {
        let next = settled.get(place).copied().unwrap_or(0).max(*low);
        u64::try_from(end - next).unwrap_or(0)
    };
    let lag = ends.iter().map(behind).sum();
    Ok(Reading { members: listed_members(config, group).await?, lag })
}
