//! Our own topics: queue, delivered, dead-letter, and the small layout topic. Made where they are missing, and verified.

use std::time::Duration;

use rdkafka::admin::{
    AdminClient, AdminOptions, ConfigResource, NewTopic, OwnedResourceSpecifier, ResourceSpecifier, TopicReplication,
};
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::error::RDKafkaErrorCode;

use super::KafkaProblem;
use super::clients::{Context, admin_config};
use super::layout::{Layout, read_layout, write_layout};
use super::topics::{denied, failed, fetch_metadata, partitions, partitions_of};
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
    /// How many partitions the contacts are keyed by.
    pub partitions: usize,
    /// How large a batch of records may be, whichever of them it is written to; `None` if they do not tell.
    pub batch_bytes: Option<usize>,
}

/// What `inspect` found.
#[derive(Debug, Default)]
pub struct Inspected {
    pub topics: Vec<TopicReport>,
    pub problems: Vec<KafkaProblem>,
    /// What no start fails of, since it costs nothing today; `inspect` tells it with the problems.
    warnings: Vec<KafkaProblem>,
    settings: Vec<ConfigResource>,
    /// The queue's number of partitions, where the layout does not say it yet.
    unwritten: Option<usize>,
}

/// More does not make writing faster: librdkafka's own default.
const LARGEST_BATCH: usize = 1_000_000;

/// One of our topics as it has to be.
struct Wanted<'a> {
    name: &'a str,
    cleanup: &'static str,
    retention: Option<Duration>,
    large: bool,
}

fn wanted(config: &Config) -> [Wanted<'_>; 4] {
    let topics = &config.topics;
    let wanted = |name, cleanup, retention, large| Wanted { name, cleanup, retention, large };
    [
        wanted(&topics.queue, "delete", Some(topics.queue_retention), true),
        wanted(&topics.delivered, "compact,delete", Some(topics.delivered_retention), false),
        wanted(&topics.dead_letter, "delete", Some(topics.dead_letter_retention), true),
        wanted(&topics.layout, "compact", None, false),
    ]
}

/// Makes those of our topics that are missing (if `create`), verifies them all, and writes the layout where there is none.
///
/// # Errors
/// The first thing that is wrong: unreachable, refused, missing, or not as it has to be.
pub async fn verify_or_create(config: &Config, create: bool) -> Result<Verified, KafkaProblem> {
    let found = look(config, create).await?;
    found.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    if let Some(problem) = found.problems.into_iter().next() {
        return Err(problem);
    }
    if let Some(partitions) = found.unwritten {
        write_layout(config, &Layout::of(partitions)).await?;
    }
    if let [queue, delivered, ..] = found.topics.as_slice()
        && delivered.created
        && !queue.created
    {
        tracing::warn!(
            topic = delivered.topic,
            "it was missing, though the queue was there, and is made anew: what had been delivered is not remembered, and \
             contact-days that come again are sent again"
        );
    }
    let partitions = found.topics.first().map_or(0, |queue| queue.partitions);
    // Half, so that nothing that a batch has around its records makes it too large.
    let half = |resource| value_of(resource, "max.message.bytes").parse::<usize>().ok().map(|bytes| bytes / 2);
    let told: Vec<usize> = found.settings.iter().filter_map(half).collect();
    let smallest = told.iter().min().filter(|_| told.len() == found.topics.len());
    let batch_bytes = smallest.map(|bytes| (*bytes).clamp(1, LARGEST_BATCH));
    Ok(Verified { topics: found.topics, partitions, batch_bytes })
}

/// Looks for everything that is wrong with our topics, and changes nothing.
///
/// # Errors
/// When the brokers cannot be asked.
pub async fn inspect(config: &Config) -> Result<Inspected, KafkaProblem> {
    let mut found = look(config, false).await?;
    found.problems.append(&mut found.warnings);
    Ok(found)
}

/// The layout, written and its topic made where there is none: then contacts are keyed by that number.
///
/// # Errors
/// When it cannot be read or made.
pub async fn ensure_layout(config: &Config, made_with: usize) -> Result<Layout, KafkaProblem> {
    let [.., topic] = wanted(config);
    if partitions_of(&fetch_metadata(config, Some(topic.name)).await?, topic.name)?.is_none() {
        create_topic(config, &admin(config)?, &topic, 1).await?;
    }
    if let Some(layout) = read_layout(config).await? {
        return Ok(layout);
    }
    let layout = Layout::of(made_with);
    write_layout(config, &layout).await?;
    Ok(layout)
}

/// Whether the queue may be written into: it is keyed as it was made, and no resize is under way. For the tools, which verify
/// nothing else. A deployment without a layout is taken as it is.
///
/// # Errors
/// What is wrong, and the way out.
pub async fn verify_keying(config: &Config) -> Result<(), KafkaProblem> {
    let topics = &config.topics;
    if partitions_of(&fetch_metadata(config, Some(&topics.layout)).await?, &topics.layout)?.is_none() {
        return Ok(());
    }
    let Some(layout) = read_layout(config).await? else { return Ok(()) };
    let queue = partitions(config, &topics.queue).await?.len();
    let delivered = partitions(config, &topics.delivered).await?.len();
    layout.problem(config, queue, delivered).map_or(Ok(()), Err)
}

fn admin(config: &Config) -> Result<AdminClient<Context>, KafkaProblem> {
    AdminClient::from_config_and_context(&admin_config(config), Context::default())
        .map_err(|error| KafkaProblem::Properties(error.to_string()))
}

async fn look(config: &Config, create: bool) -> Result<Inspected, KafkaProblem> {
    let admin = admin(config)?;
    let mut found = Inspected::default();
    for topic in wanted(config) {
        let answer = fetch_metadata(config, Some(topic.name)).await?;
        let report = match partitions_of(&answer, topic.name) {
            Ok(Some(partitions)) => Ok(TopicReport { topic: topic.name.into(), partitions, created: false }),
            Ok(None) if create => {
                let partitions = partitions_for(config, &topic, found.topics.first()).await?;
                Ok(create_topic(config, &admin, &topic, partitions).await?)
            }
            Ok(None) => Err(KafkaProblem::Missing { topic: topic.name.into() }),
            Err(problem) => Err(problem),
        };
        match report {
            Ok(report) => found.topics.push(report),
            Err(problem) => found.problems.push(problem),
        }
    }
    let names: Vec<&str> = found.topics.iter().map(|report| report.topic.as_str()).collect();
    found.settings = settings_of(config, &admin, &names).await;
    let problem = verify_layout(config, &mut found).await.err();
    found.problems.extend(problem);
    for resource in &found.settings {
        if is_topic(resource, &config.topics.delivered) {
            found.problems.extend(verify_retention(config, resource).err());
        } else if is_topic(resource, &config.topics.layout) {
            found.problems.extend(verify_compaction(config, resource).err());
        }
        let [queue, _, dead_letter, _] = wanted(config);
        for (topic, setting) in [(queue, "topics.queue_retention"), (dead_letter, "topics.dead_letter_retention")] {
            if is_topic(resource, topic.name) {
                found.problems.extend(compacted(config, &topic, resource));
                found.warnings.extend(kept_too_short(config, &topic, setting, resource));
            }
        }
    }
    Ok(found)
}

/// How many a topic that is missing is made with. Of queue and `delivered`, one that was deleted follows the other, whatever
/// the setting says now.
async fn partitions_for(
    config: &Config,
    topic: &Wanted<'_>,
    queue: Option<&TopicReport>,
) -> Result<usize, KafkaProblem> {
    let topics = &config.topics;
    let by_setting = topics.partitions as usize;
    if topic.name == topics.queue {
        let answer = fetch_metadata(config, Some(&topics.delivered)).await?;
        return Ok(partitions_of(&answer, &topics.delivered)?.unwrap_or(by_setting));
    }
    match queue {
        _ if topic.name == topics.layout => Ok(1),
        Some(queue) if topic.name == topics.delivered => Ok(queue.partitions),
        _ => Ok(by_setting),
    }
}

/// Whether queue and delivered are as many, and as many as they were made.
async fn verify_layout(config: &Config, found: &mut Inspected) -> Result<(), KafkaProblem> {
    let report = |name: &str| found.topics.iter().find(|report| report.topic == name);
    let topics = &config.topics;
    let (Some(queue), Some(delivered)) = (report(&topics.queue), report(&topics.delivered)) else { return Ok(()) };
    let layout = match report(&topics.layout) {
        // Where both have just been made there is no history.
        Some(_) if !(queue.created && delivered.created) => read_layout(config).await?,
        _ => None,
    };
    if let Some(problem) =
        layout.as_ref().and_then(|layout| layout.problem(config, queue.partitions, delivered.partitions))
    {
        return Err(problem);
    }
    if queue.partitions != delivered.partitions {
        let problem = format!(
            "it has {} partitions, but {:?} has {}: record p of one belongs to partition p of the other, so they have to be \
             as many. If it holds no contact-day that still matters, delete it and run: nat-destination topics create",
            delivered.partitions, queue.topic, queue.partitions
        );
        return Err(KafkaProblem::Topic { topic: delivered.topic.clone(), problem });
    }
    found.unwritten = layout.is_none().then_some(queue.partitions);
    Ok(())
}

async fn create_topic(
    config: &Config,
    admin: &AdminClient<Context>,
    topic: &Wanted<'_>,
    partitions: usize,
) -> Result<TopicReport, KafkaProblem> {
    let replication = if config.topics.replication == 0 { -1 } else { config.topics.replication as i32 };
    let retention = topic.retention.map(|retention| retention.as_millis().to_string());
    let largest = config.topics.max_message_bytes.to_string();
    let mut new = NewTopic::new(topic.name, partitions as i32, TopicReplication::Fixed(replication))
        .set("cleanup.policy", topic.cleanup);
    if let Some(retention) = &retention {
        new = new.set("retention.ms", retention);
    }
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
             contact-days too soon. Run: {}",
            alter(config, topic, &format!("retention.ms={needed}"))
        );
        return Err(KafkaProblem::Topic { topic: topic.clone(), problem });
    }
    Ok(())
}

/// Of a queue, whose key is the contact, compaction leaves the last event of each; dead letters have no key.
fn compacted(config: &Config, topic: &Wanted<'_>, found: &ConfigResource) -> Option<KafkaProblem> {
    let (name, policy) = (topic.name, value_of(found, "cleanup.policy"));
    let problem = format!(
        "its cleanup.policy = {policy} would remove records that nobody has read, or refuse those without a key. Run: {}",
        alter(config, name, "cleanup.policy=delete")
    );
    policy.contains("compact").then(|| KafkaProblem::Topic { topic: name.into(), problem })
}

/// Nothing is lost of it until something waits for so long.
fn kept_too_short(config: &Config, topic: &Wanted<'_>, setting: &str, found: &ConfigResource) -> Option<KafkaProblem> {
    let name = topic.name;
    let retention: i64 = value_of(found, "retention.ms").parse().ok().filter(|millis| *millis >= 0)?;
    let needed = i64::try_from(topic.retention?.as_millis()).unwrap_or(i64::MAX);
    let problem = format!(
        "its retention.ms = {retention} is shorter than {setting} ({needed} ms): Kafka deletes what waits there for longer. \
         Run: {}; or set {setting} to what it is to be",
        alter(config, name, &format!("retention.ms={needed}"))
    );
    (retention < needed).then(|| KafkaProblem::Topic { topic: name.into(), problem })
}

/// The command that sets it.
fn alter(config: &Config, topic: &str, setting: &str) -> String {
    let brokers = &config.kafka.brokers;
    format!(
        "kafka-configs.sh --bootstrap-server {brokers} --alter --entity-type topics --entity-name {topic} --add-config {setting}"
    )
}

/// Its one record has to stay for ever.
fn verify_compaction(config: &Config, layout: &ConfigResource) -> Result<(), KafkaProblem> {
    let (topic, policy) = (&config.topics.layout, value_of(layout, "cleanup.policy"));
    if policy.contains("delete") {
        let problem = format!(
            "its cleanup.policy = {policy} would delete what it says. Run: {}",
            alter(config, topic, "cleanup.policy=compact")
        );
        return Err(KafkaProblem::Topic { topic: topic.clone(), problem });
    }
    Ok(())
}
