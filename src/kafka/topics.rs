//! Questions about topics: the source's are found, and partitions, ends and commits are read.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::metadata::Metadata;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use regex_lite::Regex;
use tokio::time::Instant;

use super::clients::{Context, admin_config, client, is_leaderless, reader_config};
use super::group::NOT_IN_TOPIC;
use super::patience::patiently;
use super::{KafkaProblem, TopicPartition};
use crate::config::Config;

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
    topic.starts_with("__") || config.topics.own().contains(&topic)
}

pub(super) async fn fetch_metadata(config: &Config, topic: Option<&str>) -> Result<Metadata, KafkaProblem> {
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

pub(super) fn failed(what: &str, error: KafkaError) -> KafkaProblem {
    KafkaProblem::Failed { what: what.into(), error }
}

pub(super) fn denied(topic: &str, operation: &'static str, acl: &str) -> KafkaProblem {
    KafkaProblem::Denied { topic: topic.into(), operation, acl: format!("{acl} on topic {topic}") }
}

/// How many partitions a topic has; `None` if it is not there.
pub(super) fn partitions_of(metadata: &Metadata, name: &str) -> Result<Option<usize>, KafkaProblem> {
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
/// When the brokers do not answer, or a partition has no leader.
pub async fn ends(
    config: &Config,
    partitions: Vec<TopicPartition>,
) -> Result<BTreeMap<TopicPartition, (i64, i64)>, KafkaProblem> {
    let timeout = config.kafka.timeout;
    let ends = with_client(config, partitions, move |client, partitions| {
        let mut ends = BTreeMap::new();
        for (topic, partition) in partitions {
            match client.fetch_watermarks(&topic, partition, timeout) {
                Ok(ends_of_it) => drop(ends.insert((topic, partition), ends_of_it)),
                Err(error) if is_leaderless(&error) => return Ok(Err((topic, partition))),
                Err(error) => return Err(error),
            }
        }
        Ok(Ok(ends))
    });
    ends.await?.map_err(|(topic, partition)| KafkaProblem::Leaderless { topic, partition })
}

/// As `ends`, but without waiting for the partitions that have no leader: `None`.
///
/// # Errors
/// When the brokers do not answer.
pub async fn ends_of_led(
    config: &Config,
    partitions: Vec<TopicPartition>,
) -> Result<BTreeMap<TopicPartition, Option<(i64, i64)>>, KafkaProblem> {
    let timeout = config.kafka.timeout;
    with_client(config, partitions, move |client, partitions| {
        let (mut led, mut ends) = (BTreeSet::new(), BTreeMap::new());
        for topic in partitions.iter().map(|(topic, _)| topic.as_str()).collect::<BTreeSet<_>>() {
            let metadata = client.fetch_metadata(Some(topic), timeout)?;
            let all = metadata.topics().iter().flat_map(|topic| topic.partitions());
            led.extend(
                all.filter(|partition| partition.leader() >= 0).map(|partition| (topic.to_owned(), partition.id())),
            );
        }
        for place in partitions {
            let known = match led.contains(&place).then(|| client.fetch_watermarks(&place.0, place.1, timeout)) {
                Some(Err(error)) if !is_leaderless(&error) => return Err(error),
                asked => asked.and_then(Result::ok),
            };
            ends.insert(place, known);
        }
        Ok(ends)
    })
    .await
}

/// As `ends`, for who has heard of the partitions from a broker just now: one that has no leader, or whose broker does not
/// answer, is waited for.
///
/// # Errors
/// As `ends`, after three times `kafka.timeout`.
pub async fn patient_ends(
    config: &Config,
    partitions: Vec<TopicPartition>,
) -> Result<BTreeMap<TopicPartition, (i64, i64)>, KafkaProblem> {
    patiently(Some(tool_deadline(config)), || ends(config, partitions.clone())).await
}

/// Until when a tool asks again what the brokers do not answer.
pub(super) fn tool_deadline(config: &Config) -> Instant {
    Instant::now() + 3 * config.kafka.timeout
}

/// A group as somebody sees it who is no member. Blocking: for a thread.
pub struct Group {
    client: BaseConsumer<Context>,
    timeout: Duration,
}

impl Group {
    /// # Errors
    /// When the client cannot be made.
    pub fn new(config: &Config, group: &str) -> Result<Group, KafkaProblem> {
        let mut settings = admin_config(config);
        settings.set("group.id", group).set("enable.auto.commit", "false");
        Ok(Group { client: client(&settings)?, timeout: config.kafka.timeout })
    }

    /// What it has committed, 0 where nothing.
    ///
    /// # Errors
    /// When the brokers do not answer.
    pub fn committed(&self, partitions: &[TopicPartition]) -> Result<BTreeMap<TopicPartition, i64>, KafkaProblem> {
        let list = self.ask(partitions)?;
        let offset = |offset: Offset| if let Offset::Offset(offset) = offset { offset } else { 0 };
        Ok(list.elements().iter().map(|e| ((e.topic().to_owned(), e.partition()), offset(e.offset()))).collect())
    }

    fn ask(&self, partitions: &[TopicPartition]) -> Result<TopicPartitionList, KafkaProblem> {
        let mut list = TopicPartitionList::new();
        for (topic, partition) in partitions {
            list.add_partition(topic, *partition);
        }
        let asked = self.client.committed_offsets(list, self.timeout);
        asked.and_then(answered).map_err(|error| failed("reading committed offsets", error))
    }
}

/// An answer to a question about several partitions may have an error for one of them alone.
pub(super) fn answered(list: TopicPartitionList) -> Result<TopicPartitionList, KafkaError> {
    list.elements().iter().try_for_each(|element| element.error())?;
    Ok(list)
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
    of_group(config, group, move |group| group.committed(&partitions)).await
}

/// Of these partitions, those whose committed offset is known not to be in the topic (`group::NOT_IN_TOPIC`).
///
/// # Errors
/// When the brokers do not answer.
pub async fn not_in_topic(
    config: &Config,
    group: &str,
    partitions: Vec<TopicPartition>,
) -> Result<BTreeSet<TopicPartition>, KafkaProblem> {
    of_group(config, group, move |group| {
        let list = group.ask(&partitions)?;
        let found = list.elements().into_iter().filter(|element| element.metadata() == NOT_IN_TOPIC);
        Ok(found.map(|element| (element.topic().to_owned(), element.partition())).collect())
    })
    .await
}

async fn of_group<T: Send + 'static>(
    config: &Config,
    group: &str,
    ask: impl FnOnce(&Group) -> Result<T, KafkaProblem> + Send + 'static,
) -> Result<T, KafkaProblem> {
    let (config, group) = (config.clone(), group.to_owned());
    let asked = tokio::task::spawn_blocking(move || ask(&Group::new(&config, &group)?));
    asked
        .await
        .unwrap_or_else(|error| Err(KafkaProblem::Stopped(format!("reading committed offsets was cut short: {error}"))))
}

/// As `committed`, for a tool: a coordinator that moves is waited for.
///
/// # Errors
/// As `committed`, after three times `kafka.timeout`.
pub async fn patient_committed(
    config: &Config,
    group: &str,
    partitions: Vec<TopicPartition>,
) -> Result<BTreeMap<TopicPartition, i64>, KafkaProblem> {
    patiently(Some(tool_deadline(config)), || committed(config, group, partitions.clone())).await
}

/// The partitions of one topic.
///
/// # Errors
/// When it is not there, or the brokers do not answer.
pub async fn partitions(config: &Config, topic: &str) -> Result<Vec<TopicPartition>, KafkaProblem> {
    let count = partitions_of(&fetch_metadata(config, Some(topic)).await?, topic)?;
    let count = count.ok_or_else(|| match config.topics.own().contains(&topic) {
        true => KafkaProblem::Missing { topic: topic.into() },
        false => KafkaProblem::Topic { topic: topic.into(), problem: "it is not there any more".into() },
    })?;
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
