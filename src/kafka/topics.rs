//! The topics: the three of our own are created or verified, the source's are found, and ends and commits are read.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::admin::{
    AdminClient, AdminOptions, ConfigResource, NewTopic, OwnedResourceSpecifier, ResourceSpecifier, TopicReplication,
};
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::metadata::Metadata;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use regex_lite::Regex;

use super::clients::{Context, admin_config, client, reader_config};
use super::{KafkaProblem, TopicPartition};
use crate::config::Config;

/// What was found or done about one topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicReport {
    pub topic: String,
    pub partitions: usize,
    pub created: bool,
}

/// What `verify_or_create` found.
#[derive(Debug)]
pub struct Verified {
    pub topics: Vec<TopicReport>,
    /// How large a batch of records may be, whichever of them it is written to; `None` if they do not tell.
    pub batch_bytes: Option<usize>,
}

/// More does not make writing faster: librdkafka's own default.
const LARGEST_BATCH: usize = 1_000_000;

/// One of our topics as it has to be.
struct Wanted<'a> {
    name: &'a str,
    cleanup: &'static str,
    retention: Duration,
    large: bool,
}

fn wanted(config: &Config) -> [Wanted<'_>; 3] {
    let topics = &config.topics;
    [
        Wanted { name: &topics.queue, cleanup: "delete", retention: topics.queue_retention, large: true },
        Wanted {
            name: &topics.delivered,
            cleanup: "compact,delete",
            retention: topics.delivered_retention,
            large: false,
        },
        Wanted { name: &topics.dead_letter, cleanup: "delete", retention: topics.dead_letter_retention, large: true },
    ]
}

/// Makes those of the three topics that are missing (if `create`) and verifies them all.
///
/// # Errors
/// The first thing that is wrong: unreachable, refused, missing, or not as it has to be.
pub async fn verify_or_create(config: &Config, create: bool) -> Result<Verified, KafkaProblem> {
    let admin: AdminClient<Context> = AdminClient::from_config_and_context(&admin_config(config), Context::default())
        .map_err(|error| KafkaProblem::Properties(error.to_string()))?;
    let mut reports = Vec::new();
    for topic in wanted(config) {
        let found = partitions_of(&fetch_metadata(config, Some(topic.name)).await?, topic.name)?;
        let report = match found {
            Some(partitions) => TopicReport { topic: topic.name.into(), partitions, created: false },
            None if create => create_topic(config, &admin, &topic, &reports).await?,
            None => {
                let problem = "it is missing; create it with: nat-destination topics create".into();
                return Err(KafkaProblem::Topic { topic: topic.name.into(), problem });
            }
        };
        reports.push(report);
    }
    let (queue, delivered) = (&reports[0], &reports[1]);
    if queue.partitions != delivered.partitions {
        let problem = format!(
            "it has {} partitions, but {:?} has {}: record p of one belongs to partition p of the other, so they have to be \
             as many. If it holds no contact-day that still matters, delete it and run: nat-destination topics create",
            delivered.partitions, queue.topic, queue.partitions
        );
        return Err(KafkaProblem::Topic { topic: delivered.topic.clone(), problem });
    }
    let names: Vec<&str> = reports.iter().map(|report| report.topic.as_str()).collect();
    let settings = settings_of(config, &admin, &names).await;
    let delivered = settings.iter().find(|resource| is_topic(resource, &config.topics.delivered));
    delivered.map_or(Ok(()), |delivered| verify_retention(config, delivered))?;
    // Half, so that nothing that a batch has around its records makes it too large.
    let half = |resource| value_of(resource, "max.message.bytes").parse::<usize>().ok().map(|bytes| bytes / 2);
    let told: Vec<usize> = settings.iter().filter_map(half).collect();
    let smallest = told.iter().min().filter(|_| told.len() == reports.len());
    Ok(Verified { topics: reports, batch_bytes: smallest.map(|bytes| (*bytes).clamp(1, LARGEST_BATCH)) })
}

async fn create_topic(
    config: &Config,
    admin: &AdminClient<Context>,
    topic: &Wanted<'_>,
    earlier: &[TopicReport],
) -> Result<TopicReport, KafkaProblem> {
    // `delivered` follows `queue`, whatever the setting says now.
    let partitions = match earlier.first() {
        Some(queue) if topic.name == config.topics.delivered => queue.partitions,
        _ => config.topics.partitions as usize,
    };
    let replication = if config.topics.replication == 0 { -1 } else { config.topics.replication as i32 };
    let retention = topic.retention.as_millis().to_string();
    let largest = config.topics.max_message_bytes.to_string();
    let mut new = NewTopic::new(topic.name, partitions as i32, TopicReplication::Fixed(replication))
        .set("cleanup.policy", topic.cleanup)
        .set("retention.ms", &retention);
    if topic.large {
        new = new.set("max.message.bytes", &largest);
    }
    let options =
        AdminOptions::new().operation_timeout(Some(config.kafka.timeout)).request_timeout(Some(config.kafka.timeout));
    let results = admin.create_topics(&[new], &options).await.map_err(|error| failed("creating topics", error))?;
    let problem = |problem: String| KafkaProblem::Topic { topic: topic.name.into(), problem };
    for result in results {
        match result {
            // Another instance was quicker.
            Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((_, RDKafkaErrorCode::TopicAuthorizationFailed | RDKafkaErrorCode::ClusterAuthorizationFailed)) => {
                return Err(denied(topic.name, "create", "CREATE"));
            }
            Err((_, RDKafkaErrorCode::InvalidReplicationFactor)) => {
                return Err(problem(format!(
                    "topics.replication = {}: there are not as many brokers; lower it",
                    config.topics.replication
                )));
            }
            Err((_, code)) => return Err(problem(format!("it cannot be created: {code}"))),
        }
    }
    let partitions = wait_until_there(config, topic.name).await?;
    Ok(TopicReport { topic: topic.name.into(), partitions, created: true })
}

/// A topic that was just created is not known to every broker at once.
async fn wait_until_there(config: &Config, topic: &str) -> Result<usize, KafkaProblem> {
    let deadline = tokio::time::Instant::now() + config.kafka.timeout;
    loop {
        if let Some(partitions) = partitions_of(&fetch_metadata(config, Some(topic)).await?, topic)? {
            return Ok(partitions);
        }
        if tokio::time::Instant::now() > deadline {
            return Err(KafkaProblem::Topic {
                topic: topic.into(),
                problem: "it was created and is still not there".into(),
            });
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// What the brokers tell of the topics' settings; it may be less than was asked for.
async fn settings_of(config: &Config, admin: &AdminClient<Context>, topics: &[&str]) -> Vec<ConfigResource> {
    let options = AdminOptions::new().request_timeout(Some(config.kafka.timeout));
    let resources: Vec<_> = topics.iter().map(|topic| ResourceSpecifier::Topic(topic)).collect();
    let described = admin.describe_configs(&resources, &options).await.unwrap_or_default();
    let settings: Vec<ConfigResource> = described.into_iter().flatten().collect();
    for topic in topics {
        if !settings.iter().any(|resource| is_topic(resource, topic)) {
            tracing::warn!(topic, "its configuration cannot be read (ACL DESCRIBE_CONFIGS); it is taken to be right");
        }
    }
    settings
}

fn is_topic(resource: &ConfigResource, topic: &str) -> bool {
    matches!(&resource.specifier, OwnedResourceSpecifier::Topic(name) if name == topic)
}

fn value_of(resource: &ConfigResource, name: &str) -> String {
    resource.get(name).and_then(|entry| entry.value.clone()).unwrap_or_default()
}

/// Without compaction an entry is kept all the same until its retention; without `delete` old ones would stay for ever.
/// With a shorter retention than the dedup's, contact-days would be forgotten too soon: that is the one that matters.
fn verify_retention(config: &Config, delivered: &ConfigResource) -> Result<(), KafkaProblem> {
    let topic = &config.topics.delivered;
    let retention: i64 = value_of(delivered, "retention.ms").parse().unwrap_or(-1);
    let needed = i64::try_from(config.topics.delivered_retention.as_millis()).unwrap_or(i64::MAX);
    if value_of(delivered, "cleanup.policy").contains("delete") && retention >= 0 && retention < needed {
        let problem = format!(
            "its retention.ms = {retention} is shorter than dedup.retention ({needed} ms): a restart would forget \
             contact-days too soon. Run: kafka-configs.sh --alter --entity-type topics --entity-name {topic} \
             --add-config retention.ms={needed}"
        );
        return Err(KafkaProblem::Topic { topic: topic.clone(), problem });
    }
    Ok(())
}

/// Finds the source topics; each name has to exist, each pattern to match something.
///
/// # Errors
/// When one does not, or the brokers do not answer.
pub async fn verify_source(config: &Config) -> Result<Vec<String>, KafkaProblem> {
    Ok(source_partitions(config).await?.into_keys().collect())
}

/// The source topics and their number of partitions.
///
/// # Errors
/// As `verify_source`.
pub async fn source_partitions(config: &Config) -> Result<BTreeMap<String, usize>, KafkaProblem> {
    let metadata = fetch_metadata(config, None).await?;
    let mut found = BTreeMap::new();
    let problem = |topic: &str, problem: String| KafkaProblem::Source { topic: topic.into(), problem };
    for wanted in &config.source.topics {
        let before = found.len();
        if wanted.starts_with('^') {
            let pattern = Regex::new(wanted).map_err(|error| problem(wanted, error.to_string()))?;
            for topic in metadata
                .topics()
                .iter()
                .filter(|topic| pattern.is_match(topic.name()) && !is_internal(config, topic.name()))
            {
                found.insert(topic.name().to_owned(), topic.partitions().len());
            }
            if found.len() == before {
                return Err(problem(wanted, "no topic matches this expression; is it anchored as meant, and are the ACLs there to DESCRIBE the topics?".into()));
            }
        } else {
            let one = fetch_metadata(config, Some(wanted)).await?;
            match partitions_of(&one, wanted)? {
                Some(partitions) => found.insert(wanted.clone(), partitions),
                None => {
                    return Err(problem(
                        wanted,
                        "there is no such topic; create it, or name the topic that Segment events come in".into(),
                    ));
                }
            };
        }
    }
    Ok(found)
}

fn is_internal(config: &Config, topic: &str) -> bool {
    let ours = [&config.topics.queue, &config.topics.delivered, &config.topics.dead_letter];
    topic.starts_with("__") || ours.iter().any(|own| *own == topic)
}

async fn fetch_metadata(config: &Config, topic: Option<&str>) -> Result<Metadata, KafkaProblem> {
    let timeout = config.kafka.timeout;
    with_client(config, topic.map(str::to_owned), move |client, topic| client.fetch_metadata(topic.as_deref(), timeout))
        .await
}

/// Asks the brokers on a thread that may block, and explains a timeout by what the client last saw.
pub(super) async fn with_client<A: Send + 'static, R: Send + 'static>(
    config: &Config,
    argument: A,
    ask: impl FnOnce(&BaseConsumer<Context>, A) -> Result<R, KafkaError> + Send + 'static,
) -> Result<R, KafkaProblem> {
    let (settings, brokers, timeout) = (admin_config(config), config.kafka.brokers.clone(), config.kafka.timeout);
    let asked = tokio::task::spawn_blocking(move || {
        let client = client(&settings)?;
        ask(&client, argument).map_err(|error| {
            // Its log lines are served by polling: the last ones say why.
            (0..50).for_each(|_| drop(client.poll(Duration::ZERO)));
            let cause = client.context().last_failure().unwrap_or_else(|| error.to_string());
            explain(error, brokers, timeout, cause)
        })
    });
    asked.await.unwrap_or_else(|error| Err(KafkaProblem::Stopped(format!("asking the brokers was cut short: {error}"))))
}

fn explain(error: KafkaError, brokers: String, timeout: Duration, cause: String) -> KafkaProblem {
    use RDKafkaErrorCode::{
        AllBrokersDown, Authentication, BrokerTransportFailure, OperationTimedOut, Resolve, SSL,
        SaslAuthenticationFailed,
    };
    let authentication = cause.to_ascii_lowercase().contains("authentication");
    match error.rdkafka_error_code() {
        Some(Authentication | SaslAuthenticationFailed) => KafkaProblem::Credentials(cause),
        _ if authentication => KafkaProblem::Credentials(cause),
        Some(AllBrokersDown | BrokerTransportFailure | OperationTimedOut | Resolve | SSL) => {
            KafkaProblem::Unreachable { brokers, timeout, cause }
        }
        _ => failed("asking the brokers", error),
    }
}

fn failed(what: &str, error: KafkaError) -> KafkaProblem {
    KafkaProblem::Failed { what: what.into(), error }
}

fn denied(topic: &str, operation: &'static str, acl: &str) -> KafkaProblem {
    KafkaProblem::Denied { topic: topic.into(), operation, acl: format!("{acl} on topic {topic}") }
}

/// How many partitions a topic has; `None` if it is not there.
fn partitions_of(metadata: &Metadata, name: &str) -> Result<Option<usize>, KafkaProblem> {
    let Some(topic) = metadata.topics().iter().find(|topic| topic.name() == name) else {
        return Ok(None);
    };
    match topic.error().map(RDKafkaErrorCode::from) {
        None => Ok(Some(topic.partitions().len()).filter(|partitions| *partitions > 0)),
        Some(
            RDKafkaErrorCode::UnknownTopicOrPartition
            | RDKafkaErrorCode::UnknownTopic
            | RDKafkaErrorCode::LeaderNotAvailable,
        ) => Ok(None),
        Some(RDKafkaErrorCode::TopicAuthorizationFailed) => Err(denied(name, "describe", "DESCRIBE")),
        Some(code) => Err(KafkaProblem::Topic { topic: name.into(), problem: code.to_string() }),
    }
}

/// The offsets of the first record of each partition, and of the one that comes next.
///
/// # Errors
/// When the brokers do not answer.
pub async fn ends(
    config: &Config,
    partitions: Vec<TopicPartition>,
) -> Result<BTreeMap<TopicPartition, (i64, i64)>, KafkaProblem> {
    let timeout = config.kafka.timeout;
    with_client(config, partitions, move |client, partitions| {
        let mut ends = BTreeMap::new();
        for (topic, partition) in partitions {
            let ends_of_it = client.fetch_watermarks(&topic, partition, timeout)?;
            ends.insert((topic, partition), ends_of_it);
        }
        Ok(ends)
    })
    .await
}

/// What a group has committed, 0 where nothing.
///
/// # Errors
/// When the brokers do not answer.
pub async fn committed(
    config: &Config,
    group: &str,
    partitions: Vec<TopicPartition>,
) -> Result<BTreeMap<TopicPartition, i64>, KafkaProblem> {
    let timeout = config.kafka.timeout;
    let mut settings = admin_config(config);
    settings.set("group.id", group).set("enable.auto.commit", "false");
    let asked = tokio::task::spawn_blocking(move || {
        let client = client(&settings)?;
        let mut list = TopicPartitionList::new();
        for (topic, partition) in &partitions {
            list.add_partition(topic, *partition);
        }
        let list =
            client.committed_offsets(list, timeout).map_err(|error| failed("reading committed offsets", error))?;
        let offset = |offset: Offset| if let Offset::Offset(offset) = offset { offset } else { 0 };
        Ok(list.elements().iter().map(|e| ((e.topic().to_owned(), e.partition()), offset(e.offset()))).collect())
    });
    asked
        .await
        .unwrap_or_else(|error| Err(KafkaProblem::Stopped(format!("reading committed offsets was cut short: {error}"))))
}

/// The partitions of one topic.
///
/// # Errors
/// When it is not there, or the brokers do not answer.
pub async fn partitions(config: &Config, topic: &str) -> Result<Vec<TopicPartition>, KafkaProblem> {
    let count = partitions_of(&fetch_metadata(config, Some(topic)).await?, topic)?;
    let count =
        count.ok_or_else(|| KafkaProblem::Topic { topic: topic.into(), problem: "it is not there any more".into() })?;
    Ok((0..count).map(|partition| (topic.to_owned(), partition as i32)).collect())
}

/// Of these partitions, the ones that hold a record at the given offset or after it. The end alone does not tell: a
/// transaction leaves markers behind its records, which take up offsets and which nobody reads.
///
/// # Errors
/// When the brokers do not answer.
pub async fn with_records_after(
    config: &Config,
    offsets: Vec<(TopicPartition, i64)>,
) -> Result<Vec<TopicPartition>, KafkaProblem> {
    let (settings, timeout) = (reader_config(config), config.kafka.timeout);
    let asked = tokio::task::spawn_blocking(move || {
        let reader = client(&settings)?;
        let mut holding = Vec::new();
        for ((topic, partition), offset) in offsets {
            let mut list = TopicPartitionList::new();
            let place = list.add_partition_offset(&topic, partition, Offset::Offset(offset));
            place.and_then(|()| reader.assign(&list)).map_err(|error| failed("looking for records", error))?;
            // Its end says that there is none; anything else, silence included, that there may be.
            if !matches!(reader.poll(timeout), Some(Err(KafkaError::PartitionEOF(end))) if end == partition) {
                holding.push((topic, partition));
            }
        }
        Ok(holding)
    });
    asked
        .await
        .unwrap_or_else(|error| Err(KafkaProblem::Stopped(format!("looking for records was cut short: {error}"))))
}
