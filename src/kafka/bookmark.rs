//! How far a tool has got, so that it can be stopped and run again: offsets committed by a group of its own, which nobody
//! joins. Kafka is the only store. Blocking, but for `remove`: for a thread.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::clients::{Context, admin_config, client, is_final};
use super::members::is_a_members_alone;
use super::topics::answered;
use super::{KafkaProblem, TopicPartition};
use crate::config::Config;

pub struct Bookmark {
    client: Arc<BaseConsumer<Context>>,
    group: String,
    timeout: Duration,
}

const A_MOMENT: Duration = Duration::from_millis(100);

/// A client takes a tenth of a second to end, which a backfill would wait for with each of its files.
impl Drop for Bookmark {
    fn drop(&mut self) {
        let client = Arc::clone(&self.client);
        // Without a thread it ends here.
        let _ = std::thread::Builder::new().name("bookmark".into()).spawn(move || drop(client));
    }
}

impl Bookmark {
    /// # Errors
    /// When the client cannot be made.
    pub fn new(config: &Config, group: &str) -> Result<Bookmark, KafkaProblem> {
        let mut settings = admin_config(config);
        settings.set("group.id", group).set("enable.auto.commit", "false");
        Ok(Bookmark { client: Arc::new(client(&settings)?), group: group.to_owned(), timeout: config.kafka.timeout })
    }

    /// What was saved of these partitions, where anything was.
    ///
    /// # Errors
    /// When the brokers do not tell.
    pub fn load(&self, places: &[TopicPartition]) -> Result<BTreeMap<TopicPartition, i64>, KafkaProblem> {
        let ask = || {
            let mut list = TopicPartitionList::new();
            for (topic, partition) in places {
                list.add_partition(topic, *partition);
            }
            self.client.committed_offsets(list, self.timeout).and_then(answered)
        };
        let found = self.patiently(ask).map_err(|error| self.failed("read", error))?;
        let saved = found.elements().into_iter().filter_map(|element| match element.offset() {
            Offset::Offset(offset) => Some(((element.topic().to_owned(), element.partition()), offset)),
            _ => None,
        });
        Ok(saved.collect())
    }

    /// Saves where to go on, and waits until Kafka has it.
    ///
    /// # Errors
    /// When the brokers do not take it.
    pub fn save(&self, next: &BTreeMap<TopicPartition, i64>) -> Result<(), KafkaProblem> {
        if next.is_empty() {
            return Ok(());
        }
        let mut list = TopicPartitionList::new();
        for ((topic, partition), offset) in next {
            list.add_partition_offset(topic, *partition, Offset::Offset(*offset))
                .map_err(|error| self.failed("written", error))?;
        }
        let commit = || self.client.commit(&list, CommitMode::Sync);
        self.patiently(commit).map_err(|error| self.failed("written", error))
    }

    /// A coordinator that has just moved, or been made, knows of nothing for a moment.
    fn patiently<T>(&self, ask: impl Fn() -> Result<T, KafkaError>) -> Result<T, KafkaError> {
        let deadline = Instant::now() + self.timeout;
        loop {
            match ask() {
                Err(error) if is_passing(&error) && Instant::now() < deadline => std::thread::sleep(A_MOMENT),
                result => return result,
            }
        }
    }

    /// Forgets all that these groups hold: the tool has come to its end.
    ///
    /// # Errors
    /// When the brokers do not let one go; then it stays until `offsets.retention.minutes` of theirs.
    pub async fn remove(config: &Config, mut groups: Vec<String>) -> Result<(), KafkaProblem> {
        let admin: AdminClient<Context> =
            AdminClient::from_config_and_context(&admin_config(config), Context::default())
                .map_err(|error| KafkaProblem::Properties(error.to_string()))?;
        let options = AdminOptions::new().request_timeout(Some(config.kafka.timeout));
        let failed = |group: &str, error| {
            let what = format!("the bookmark of group {group:?} cannot be removed");
            KafkaProblem::Failed { what, error }
        };
        let deadline = Instant::now() + config.kafka.timeout;
        while !groups.is_empty() {
            let names: Vec<&str> = groups.iter().map(String::as_str).collect();
            let results = admin.delete_groups(&names, &options).await.map_err(|error| failed(names[0], error))?;
            groups.clear();
            for (group, code) in results.into_iter().filter_map(Result::err) {
                match KafkaError::AdminOp(code) {
                    KafkaError::AdminOp(RDKafkaErrorCode::GroupIdNotFound) => {}
                    KafkaError::AdminOp(RDKafkaErrorCode::GroupAuthorizationFailed) => {
                        return Err(KafkaProblem::Stopped(undeletable(&group)));
                    }
                    error if is_passing(&error) && Instant::now() < deadline => groups.push(group),
                    error => return Err(failed(&group, error)),
                }
            }
            if !groups.is_empty() {
                tokio::time::sleep(A_MOMENT).await;
            }
        }
        Ok(())
    }

    fn failed(&self, done: &str, error: KafkaError) -> KafkaProblem {
        let what = format!("the bookmark of group {:?} cannot be {done}", self.group);
        KafkaProblem::Failed { what, error }
    }
}

fn undeletable(group: &str) -> String {
    format!(
        "the bookmark of group {group:?} cannot be removed: ask for the ACL DELETE on that group and run the same command again, \
         which until then would go on from the bookmark"
    )
}

fn is_passing(error: &KafkaError) -> bool {
    let denied = error.rdkafka_error_code() == Some(RDKafkaErrorCode::GroupAuthorizationFailed);
    !is_final(error) && !denied && !is_a_members_alone(error)
}
