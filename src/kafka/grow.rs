//! Adds partitions to a topic, and waits until the brokers know of them.

use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions};
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::error::RDKafkaErrorCode;

use super::KafkaProblem;
use super::clients::{Context, admin_config};
use super::topics::{denied, partitions};
use crate::config::Config;

/// As many brokers as that may be asked until each of them has learned of it.
const ASKED: usize = 5;

/// Does nothing where the topic has as many already.
///
/// # Errors
/// When the brokers do not let it grow.
pub async fn grow(config: &Config, topic: &str, to: usize) -> Result<(), KafkaProblem> {
    if partitions(config, topic).await?.len() >= to {
        return Ok(());
    }
    let admin: AdminClient<Context> = AdminClient::from_config_and_context(&admin_config(config), Context::default())
        .map_err(|error| KafkaProblem::Properties(error.to_string()))?;
    let options =
        AdminOptions::new().operation_timeout(Some(config.kafka.timeout)).request_timeout(Some(config.kafka.timeout));
    let grown = admin.create_partitions(&[NewPartitions::new(topic, to)], &options).await;
    for result in
        grown.map_err(|error| KafkaProblem::Failed { what: format!("adding partitions to {topic:?}"), error })?
    {
        use RDKafkaErrorCode::{ClusterAuthorizationFailed, TopicAuthorizationFailed};
        match result {
            Ok(_) => {}
            Err((_, TopicAuthorizationFailed | ClusterAuthorizationFailed)) => {
                return Err(denied(topic, "add partitions to", "ALTER"));
            }
            Err((_, code)) => {
                let problem = format!("partitions cannot be added: {code}");
                return Err(KafkaProblem::Topic { topic: topic.into(), problem });
            }
        }
    }
    wait_until_known(config, topic, to).await
}

/// Whoever is asked next may not have heard of it yet: a few in a row have to know.
async fn wait_until_known(config: &Config, topic: &str, to: usize) -> Result<(), KafkaProblem> {
    let deadline = tokio::time::Instant::now() + config.kafka.timeout;
    let mut in_a_row = 0;
    while in_a_row < ASKED {
        in_a_row = if partitions(config, topic).await?.len() == to { in_a_row + 1 } else { 0 };
        if tokio::time::Instant::now() > deadline {
            let problem = format!("it was grown to {to} partitions, and not every broker says so yet; try again");
            return Err(KafkaProblem::Topic { topic: topic.into(), problem });
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}
