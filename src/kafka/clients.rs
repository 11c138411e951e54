//! The clients' configuration. What the promise rests on is set here and cannot be overridden; all else may be, by
//! `kafka.properties.*`.

use std::sync::Mutex;

use rdkafka::ClientConfig;
use rdkafka::ClientContext;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::KafkaProblem;
use crate::config::Config;

/// More than a stage takes in before it looks at its budget again.
const BURST: usize = 10_000;

/// What every client has: its log lines go to tracing, and the last failure is kept to explain a timeout by.
#[derive(Default)]
pub struct Context {
    last_failure: Mutex<Option<String>>,
}

impl Context {
    /// The last connection or authentication failure that the client was told of.
    pub fn last_failure(&self) -> Option<String> {
        self.last_failure.lock().ok()?.clone()
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log_line(level, facility, message);
        if facility == "FAIL"
            && let Ok(mut last) = self.last_failure.lock()
        {
            *last = Some(shorten(message));
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(target: "librdkafka", %error, reason, "client error");
    }
}

/// Its consumers are readers: they join no group, so there are no rebalances to answer.
impl ConsumerContext for Context {}

/// One of librdkafka's log lines. It repeats connection failures, and a producer's wait for a coordinator that comes up
/// (`GETPID`), for each broker and attempt, so that they are kept to `debug`: what they lead to is told by the stage that it
/// concerns.
pub fn log_line(level: RDKafkaLogLevel, facility: &str, message: &str) {
    use RDKafkaLogLevel::{Alert, Critical, Debug, Emerg, Error, Info, Notice, Warning};
    match (level, facility) {
        (_, "CONFWARN" | "FAIL" | "ERROR" | "GETPID") | (Info | Debug, _) => {
            tracing::debug!(target: "librdkafka", facility, "{message}");
        }
        (Emerg | Alert | Critical | Error | Warning, _) => tracing::warn!(target: "librdkafka", facility, "{message}"),
        (Notice, _) => tracing::info!(target: "librdkafka", facility, "{message}"),
    }
}

/// `[thrd:…]: localhost:1/bootstrap: Connect to … failed: Connection refused (after 0ms …)` → what a reader needs of it.
fn shorten(message: &str) -> String {
    let text = message.split_once("]: ").map_or(message, |(_, text)| text);
    text.split(" (after ").next().unwrap_or(text).to_owned()
}

/// A consumer that joins no group: it asks and reads.
///
/// # Errors
/// When a property is not one.
pub fn client(settings: &ClientConfig) -> Result<BaseConsumer<Context>, KafkaProblem> {
    BaseConsumer::from_config_and_context(settings, Context::default())
        .map_err(|error| KafkaProblem::Properties(error.to_string()))
}

/// Whether asking again cannot help: the topic or the permission is missing.
pub fn is_final(error: &KafkaError) -> bool {
    use RDKafkaErrorCode::{TopicAuthorizationFailed, UnknownTopic, UnknownTopicOrPartition};
    let code = error.rdkafka_error_code();
    matches!(code, Some(TopicAuthorizationFailed | UnknownTopic | UnknownTopicOrPartition))
}

/// Whether a partition that is there has no leader: librdkafka says then that it does not know it, or that it has just let go
/// of the broker that was.
pub fn is_leaderless(error: &KafkaError) -> bool {
    use RDKafkaErrorCode::{DestroyBroker, UnknownPartition};
    matches!(error.rdkafka_error_code(), Some(UnknownPartition | DestroyBroker))
}

fn base(config: &Config) -> ClientConfig {
    let mut client = ClientConfig::new();
    client.set("client.id", "nat-destination");
    client.set("log.connection.close", "false");
    // A broker that comes back is found soon: an outage must cost nothing but lag.
    client.set("reconnect.backoff.max.ms", "2000");
    // A broker that has just come back may tell of topics as they are not; the client would believe it for five minutes.
    client.set("topic.metadata.refresh.interval.ms", "10000");
    for (property, value) in &config.kafka.properties {
        // It is the brokers' by the new protocol, and librdkafka refuses it; it is known to `Kafka::session_timeout`.
        if !(property == "session.timeout.ms" && config.kafka.new_protocol()) {
            client.set(property, value);
        }
    }
    client.set("bootstrap.servers", &config.kafka.brokers);
    client.set_log_level(RDKafkaLogLevel::Info);
    client
}

/// For questions to the brokers.
pub fn admin_config(config: &Config) -> ClientConfig {
    base(config)
}

/// A member of a consumer group. Offsets are stored by hand, when settled, and committed by the client: the one way on
/// which results are reported, the last store is sent at revoke and at close, and a lost assignment commits nothing.
pub fn consumer_config(config: &Config, group: &str) -> ClientConfig {
    let mut client = base(config);
    if !config.kafka.new_protocol() {
        client.set("partition.assignment.strategy", "cooperative-sticky");
    }
    client.set("group.id", group);
    client.set("enable.auto.commit", "true");
    client.set("enable.auto.offset.store", "false");
    set_default(&mut client, config, "auto.commit.interval.ms", "1000");
    // By the new protocol this is also how long the group waits for a member to hand a partition back. librdkafka forgets to
    // ask again what it is to hand back when the answer that said so is lost with its broker: that partition stands still
    // meanwhile. Longer than the longest revoke.
    let longest = config.kafka.session_timeout().as_millis().max(120_000);
    set_default(&mut client, config, "max.poll.interval.ms", &longest.to_string());
    // We say where a partition without a committed offset begins. An offset that is gone is an error, never a skip.
    client.set("auto.offset.reset", "error");
    client.set("enable.partition.eof", "false");
    set_default(&mut client, config, "fetch.wait.max.ms", "100");
    fetch_defaults(&mut client, config);
    client
}

/// Reads partitions from end to end without a group: the restore, and the tools.
pub fn reader_config(config: &Config) -> ClientConfig {
    let mut client = base(config);
    // librdkafka wants a group even of a reader that never joins or commits.
    client.set("group.id", format!("{}.reader", config.topics.deliver_group));
    client.set("enable.auto.commit", "false");
    client.set("enable.auto.offset.store", "false");
    client.set("auto.offset.reset", "earliest");
    client.set("enable.partition.eof", "true");
    // The end of a partition is told when this has passed: one after the other, 300 partitions of a few records took 31 s with
    // 100, and take 0.7 s with 1. Nobody waits for what comes after the end.
    set_default(&mut client, config, "fetch.wait.max.ms", "1");
    fetch_defaults(&mut client, config);
    client
}

fn fetch_defaults(client: &mut ClientConfig, config: &Config) {
    // librdkafka would read ahead up to 64 MiB: so much that none of it is in the processor's caches when its turn comes.
    set_default(client, config, "queued.max.messages.kbytes", "2048");
    set_default(client, config, "queued.min.messages", "20000");
    // Where that much has been read ahead librdkafka looks again a second later, long after it has been taken: at full speed
    // that takes three milliseconds.
    set_default(client, config, "fetch.queue.backoff.ms", "1");
}

/// An idempotent producer that never gives up: what cannot be written now is written later, or the stage stops.
pub fn producer_config(config: &Config) -> ClientConfig {
    let mut client = base(config);
    client.set("enable.idempotence", "true");
    client.set("acks", "all");
    // With more, the second batch of a new producer can be asked of a broker that has just refused the first: no longer, or
    // not yet, the partition's leader. A leader that does not know the producer misses nothing and takes the second, and
    // librdkafka then reports the first as written too (confluent-kafka-go issue 921). It would be lost.
    client.set("max.in.flight", "1");
    client.set("message.timeout.ms", "0");
    // The Java client's partitioner, so that every producer keys alike.
    client.set("partitioner", "murmur2_random");
    // Room for the headers that this program adds.
    let largest = config.topics.max_message_bytes.saturating_add(64 * 1024).min(1_000_000_000);
    set_default(&mut client, config, "message.max.bytes", &largest.to_string());
    // The budgets bound what is pending; the client's own queue must not be smaller.
    let events = config.ingest.max_pending_events.max(config.deliver.max_pending_events) + BURST;
    let kbytes = config.ingest.max_pending_bytes.max(config.deliver.max_pending_bytes) / 1024 * 4;
    set_default(&mut client, config, "queue.buffering.max.messages", &events.clamp(100_000, 10_000_000).to_string());
    set_default(&mut client, config, "queue.buffering.max.kbytes", &kbytes.clamp(1_048_576, 2_097_151).to_string());
    // One request at a time is under way, so that batches grow with the rate by themselves: at full speed 0, 5 and 20 cost
    // the same. At 1,000 events a second 0 gains nothing, and 20 doubles the delay (p50 11 ms, 24) for a sixth of the CPU.
    set_default(&mut client, config, "linger.ms", "5");
    // A topic that takes less than a batch refuses the whole batch, the small records in it too: larger records than this
    // go alone, and no batch of several is larger.
    set_default(&mut client, config, "batch.size", &config.topics.batch_bytes.to_string());
    set_default(&mut client, config, "compression.type", "lz4");
    client
}

/// That of a tool, which has no budget but the client's own queue and may run in the service's small container: 20,000 records
/// or 64 MiB, or four of the largest there may be.
pub fn tool_producer_config(config: &Config) -> ClientConfig {
    let mut client = producer_config(config);
    let kbytes = (config.topics.max_message_bytes / 1024 * 4).clamp(64 * 1024, 2_097_151);
    set_default(&mut client, config, "queue.buffering.max.messages", "20000");
    set_default(&mut client, config, "queue.buffering.max.kbytes", &kbytes.to_string());
    client
}

fn set_default(client: &mut ClientConfig, config: &Config, property: &str, value: &str) {
    if !config.kafka.properties.contains_key(property) {
        client.set(property, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Sources;

    fn config(more: &[&str]) -> Config {
        let set = ["kafka.brokers=k:1", "nat.api_key=k", "nat.url=http://127.0.0.1:1/"].iter().chain(more);
        let set = set.map(|setting| (*setting).to_owned()).collect();
        Config::load(&Sources { file: None, environment: Vec::new(), set }).expect("right")
    }

    #[test]
    fn a_tool_holds_little_and_has_room_for_the_largest_record_and_does_as_the_user_says() {
        let held = |more: &[&str]| {
            let client = tool_producer_config(&config(more));
            ["queue.buffering.max.messages", "queue.buffering.max.kbytes"]
                .map(|name| client.get(name).unwrap_or("").to_owned())
        };
        assert_eq!(held(&[]), ["20000", "65536"]);
        assert_eq!(held(&["topics.max_message_bytes=100 MiB"]), ["20000", "409600"]);
        assert_eq!(held(&["kafka.properties.queue.buffering.max.messages=5"]), ["5", "65536"]);
    }
}
