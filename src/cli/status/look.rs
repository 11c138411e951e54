//! Looking: asks every instance and Kafka, twice a second apart, so that rates can be told.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rdkafka::message::Message;
use tokio::task::JoinSet;

use super::report::{Answer, Found, Held, Report, Unread};
use crate::admin::status::Status;
use crate::cli::instances::{self, Asker, Place};
use crate::config::Config;
use crate::kafka::{self, KafkaProblem, Next, Range, RangeReader, TopicPartition};

/// Between the two samples that rates are of.
const APART: Duration = Duration::from_secs(1);

pub struct Look {
    pub config: Config,
    /// host:port of the instances.
    pub names: Vec<String>,
    pub asker: Asker,
}

impl Look {
    pub async fn twice(&self) -> Report {
        let (first, began) = (self.ask_instances().await, Instant::now());
        let told = places_of(&first);
        let (source, queue, keying, queue_retention, ()) = tokio::join!(
            self.source(&told),
            self.queue(&told),
            self.keying(),
            kafka::retention(&self.config, &self.config.topics.queue),
            tokio::time::sleep(APART)
        );
        let (second, seconds) = (self.ask_instances().await, began.elapsed().as_secs_f64());
        let (brokers, queue_topic) = (self.config.kafka.brokers.clone(), self.config.topics.queue.clone());
        // Where the brokers do not tell, it is most likely as it was made.
        let queue_retention = queue_retention.unwrap_or(self.config.topics.queue_retention);
        let at = Timestamp::now();
        Report::of(Found { at, brokers, queue_topic, queue_retention, keying, first, seconds, second, source, queue })
    }

    /// Every instance once, though it may be reached by several addresses.
    async fn ask_instances(&self) -> Vec<Answer> {
        let mut asking = JoinSet::new();
        for place in instances::places(&self.names).await {
            let asker = self.asker.clone();
            asking.spawn(async move {
                let status = status_of(&asker, &place).await;
                Answer { place: place.to_string(), status }
            });
        }
        let mut answers = asking.join_all().await;
        answers.sort_by(|a, b| a.place.cmp(&b.place));
        let mut known = BTreeSet::new();
        answers.retain(|answer| {
            // One that tells no name of its own is taken for another one each time.
            let name = answer.status.as_ref().map(|status| status.instance.clone()).unwrap_or_default();
            name.is_empty() || known.insert(name)
        });
        answers
    }

    async fn source(&self, told: &BTreeSet<TopicPartition>) -> Result<Held, KafkaProblem> {
        let topics = kafka::source_partitions(&self.config).await?;
        let places = topics.into_iter().flat_map(|(topic, count)| (0..count).map(move |p| (topic.clone(), p as i32)));
        self.lag(&self.config.source.group, places.collect(), told).await
    }

    async fn queue(&self, told: &BTreeSet<TopicPartition>) -> Result<Held, KafkaProblem> {
        let places = kafka::partitions(&self.config, &self.config.topics.queue).await?;
        self.lag(&self.config.topics.deliver_group, places, told).await
    }

    /// Not for as long as a start waits for a leader of the layout: what else is known is to be told soon.
    async fn keying(&self) -> Result<(), KafkaProblem> {
        let verified = tokio::time::timeout(self.config.kafka.timeout, kafka::verify_keying(&self.config)).await;
        verified.unwrap_or(Ok(()))
    }

    /// How many records of each partition the group has not committed, and how old the first one is where no instance tells.
    async fn lag(
        &self,
        group: &str,
        places: Vec<TopicPartition>,
        told: &BTreeSet<TopicPartition>,
    ) -> Result<Held, KafkaProblem> {
        // The ends last: a lag is never less than nothing.
        let committed = kafka::committed(&self.config, group, places.clone()).await?;
        let not_in_topic = kafka::not_in_topic(&self.config, group, places.clone()).await?;
        let ends = kafka::ends_of_led(&self.config, places).await?;
        let (mut held, mut untold) = (Held::new(), Vec::new());
        for (place, ends) in ends {
            let Some((low, end)) = ends else {
                held.insert(place, Unread::NoLeader);
                continue;
            };
            let next = committed.get(&place).copied().unwrap_or(0).max(low);
            if next > end || not_in_topic.contains(&place) {
                held.insert(place, Unread::NotInTopic);
                continue;
            }
            if next < end && !told.contains(&place) {
                untold.push(Range { place: place.clone(), begin: next, end: next + 1 });
            }
            held.insert(place, Unread::Records { events: (end - next).unsigned_abs(), oldest: None });
        }
        let config = self.config.clone();
        let oldest = tokio::task::spawn_blocking(move || first_timestamps(&config, untold)).await.unwrap_or_default();
        for (place, timestamp) in oldest {
            if let Some(Unread::Records { oldest, .. }) = held.get_mut(&place) {
                *oldest = Some(timestamp);
            }
        }
        Ok(held)
    }
}

/// Partitions whose lag an instance tells.
fn places_of(answers: &[Answer]) -> BTreeSet<TopicPartition> {
    let all = answers.iter().filter_map(|answer| answer.status.as_ref().ok());
    all.flat_map(|status| status.source.iter().chain(&status.queue))
        .map(|lag| (lag.topic.clone(), lag.partition))
        .collect()
}

/// When the one record of each range was written, Unix milliseconds; as far as Kafka tells it soon. Blocking.
fn first_timestamps(config: &Config, ranges: Vec<Range>) -> BTreeMap<TopicPartition, i64> {
    let (mut found, deadline) = (BTreeMap::new(), Instant::now() + config.kafka.timeout);
    let Ok(mut reader) = RangeReader::new(config, ranges) else { return found };
    while Instant::now() < deadline {
        match reader.next() {
            Ok(Next::Record(record)) => {
                let place = (record.topic().to_owned(), record.partition());
                found.extend(record.timestamp().to_millis().map(|timestamp| (place, timestamp)));
            }
            Ok(Next::Idle) => {}
            Ok(Next::End) | Err(_) => break,
        }
    }
    found
}

async fn status_of(asker: &Asker, place: &Place) -> Result<Status, String> {
    match asker.get(place.address.clone()?, "/status").await? {
        (200, body) => serde_json::from_str(&body).map_err(|error| format!("its answer is not understood: {error}")),
        (404, _) => Err("it tells no status: is it an instance, and not of an older version?".into()),
        (status, _) => Err(format!("it answers {status}")),
    }
}
