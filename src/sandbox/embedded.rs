//! The embedded broker: librdkafka's mock cluster, inside the process. For the demo and quick looks; it speaks Kafka's
//! protocol, but keeps everything in memory, compacts nothing and creates no topics on request.

use rdkafka::mocking::MockCluster;

use crate::config::Config;
use crate::kafka::KafkaProblem;

/// Starts it with the source topic and those of our own that events go through; returns its address. It lives until the process ends:
/// taking it down while clients are connected hangs.
///
/// # Errors
/// When librdkafka cannot make one.
pub fn start(config: &Config, source_topic: &str) -> Result<String, KafkaProblem> {
    let failed = |error| KafkaProblem::Failed { what: "starting the embedded broker".into(), error };
    let cluster = MockCluster::new(1).map_err(failed)?;
    let partitions = config.topics.partitions as i32;
    for topic in [source_topic, &config.topics.queue, &config.topics.delivered, &config.topics.dead_letter] {
        cluster.create_topic(topic, partitions, 1).map_err(failed)?;
    }
    let address = cluster.bootstrap_servers();
    std::mem::forget(cluster);
    Ok(address)
}
