//! Adds partitions to a topic, and waits until the brokers know of them.

use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions};
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::error::RDKafkaErrorCode;

use super::KafkaProblem;
use super::clients::{Context, admin_config};
use super::topics::{denied, failed, partitions};
use crate::config::Config;

/// As many brokers as that may be asked until each of them has learned of it.
const ASKED: usize = 5;

/// Does nothing where the topic has as many already.
///
/// # Errors
/// When the brokers do not let it grow.
pub async fn grow(config: &Config, topic: &str, to: usize) -> Result<(), KafkaProblem> {
    ask(config, topic, to, AdminOptions::new()).await?;
    wait_until_known(config, topic, to).await
}

/// Whether the brokers would let it grow; nothing is changed.
///
/// # Errors
/// When they would not.
pub async fn may_grow(config: &Config, topic: &str, to: usize) -> Result<(), KafkaProblem> {
    ask(config, topic, to, AdminOptions::new().validate_only(true)).await
}

async fn ask(config: &Config, topic: &str, to: usize, options: AdminOptions) -> Result<(), KafkaProblem> {
    use RDKafkaErrorCode::{ClusterAuthorizationFailed, TopicAuthorizationFailed};
    if partitions(config, topic).await?.len() >= to {
        return Ok(());
    }
    let admin: AdminClient<Context> = AdminClient::from_config_and_context(&admin_config(config), Context::default())
        .map_err(|error| KafkaProblem::Properties(error.to_string()))?;
    let timeout = Some(config.kafka.timeout);
    let options = options.operation_timeout(timeout).request_timeout(timeout);
    let asked = admin.create_partitions(&[NewPartitions::new(topic, to)], &options).await;
    for result in asked.map_err(|error| failed("adding partitions", error))? {
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
    Ok(())
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
