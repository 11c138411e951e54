//! `generate`: realistic Segment events into a topic, for the local stack and for benchmarks.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use jiff::Timestamp;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::FromClientConfig;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::message::{Header, OwnedHeaders};

use super::progress::Progress;
use super::table::counted;
use super::{CommandError, STOPPED, SettingsArgs, Stopped, share, start_logs};
use crate::config::{Config, Log};
use crate::kafka::{self, Ack, AckingProducer, OutgoingRecord};
use crate::sandbox::generator::{Generated, Generator, Options};

/// Write realistic Segment events to a topic
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    nat-destination generate --set kafka.brokers=localhost:9092 --count 100000 --identify 0.05\n  \
    nat-destination generate --config nat-destination.toml --rate 200 --contacts 5000    (until Ctrl-C)\n\n\
    The same --seed writes the same events. All call types and formats, duplicates, Engage flips, bad records.")]
pub struct GenerateArgs {
    #[command(flatten)]
    settings: SettingsArgs,
    /// The topic; without it the first of source.topics
    #[arg(long)]
    topic: Option<String>,
    /// Partitions of the topic, if it is missing and has to be created
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    partitions: u32,
    /// How many records; without it until Ctrl-C
    #[arg(long)]
    count: Option<u64>,
    /// Records a second; without it as fast as it can
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// How many people the events are about
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    contacts: u32,
    /// Share of identify calls
    #[arg(long, default_value_t = 0.05, value_parser = share, value_name = "SHARE")]
    identify: f64,
    /// Share of Engage's among the identify calls
    #[arg(long, default_value_t = 0.1, value_parser = share, value_name = "SHARE")]
    engage: f64,
    /// Share of broken and invalid records
    #[arg(long, default_value_t = 0.01, value_parser = share, value_name = "SHARE")]
    bad: f64,
    /// The events spread over so many days before now
    #[arg(long, default_value_t = 3)]
    days: u32,
    /// Pad events to about so many bytes
    #[arg(long)]
    size: Option<usize>,
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

pub async fn run(args: GenerateArgs) -> Result<ExitCode, CommandError> {
    start_logs(&Log { format: "auto".into(), level: "warn".into() });
    let config = Config::load_offline(&args.settings.sources()).map_err(CommandError::Settings)?;
    if config.kafka.brokers.is_empty() {
        return Err(CommandError::Told("kafka.brokers has to be set: --set kafka.brokers=localhost:9092".into()));
    }
    let topic = match (&args.topic, config.source.topics.first()) {
        (Some(topic), _) => topic.clone(),
        (None, Some(topic)) if !topic.starts_with('^') => topic.clone(),
        _ => return Err(CommandError::Told("--topic has to name a topic: source.topics is an expression".into())),
    };
    let (stopped, count) = (Stopped::listen(), args.count);
    stopped.asking(create_topic(&config, &topic, args.partitions)).await?;
    let written = stopped.working(move |stopped| write(&args, &config, &topic, stopped)).await?;
    eprintln!("{} written", counted(written, "record"));
    // Without a count it goes on until Ctrl-C: that is done, then.
    Ok(if count.is_some_and(|count| written < count) { ExitCode::from(STOPPED) } else { ExitCode::SUCCESS })
}

async fn create_topic(config: &Config, topic: &str, partitions: u32) -> Result<(), CommandError> {
    // Tells an unreachable broker better than creating would.
    let wanted = Config {
        source: crate::config::Source { topics: vec![topic.to_owned()], ..config.source.clone() },
        ..config.clone()
    };
    match kafka::source_partitions(&wanted).await {
        Ok(_) => return Ok(()),
        Err(kafka::KafkaProblem::Source { .. }) => {}
        Err(problem) => return Err(CommandError::told(problem)),
    }
    let admin: AdminClient<DefaultClientContext> =
        AdminClient::from_config(&kafka::admin_config(config)).map_err(CommandError::told)?;
    let replication = if config.topics.replication == 0 { -1 } else { config.topics.replication as i32 };
    let largest = config.topics.max_message_bytes.to_string();
    let new = NewTopic::new(topic, partitions as i32, TopicReplication::Fixed(replication))
        .set("max.message.bytes", &largest);
    let options = AdminOptions::new().operation_timeout(Some(config.kafka.timeout));
    for result in admin.create_topics(&[new], &options).await.map_err(CommandError::told)? {
        match result {
            Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((topic, code)) => return Err(CommandError::Told(format!("topic {topic:?} cannot be created: {code}"))),
        }
    }
    Ok(())
}

/// Writes until the count is reached or it is told to stop; returns how many the broker has.
fn write(args: &GenerateArgs, config: &Config, topic: &str, stopped: &Stopped) -> Result<u64, CommandError> {
    let (sender, acks) = std::sync::mpsc::channel::<Ack<()>>();
    let on_ack = move |ack| {
        let _ = sender.send(ack); // The receiver lives as long as this function.
    };
    let producer =
        AckingProducer::new(&kafka::producer_config(config), Box::new(on_ack)).map_err(CommandError::told)?;
    let options = Options {
        seed: args.seed,
        contacts: args.contacts,
        identify: args.identify,
        bad: args.bad,
        engage: args.engage,
        days: args.days,
        size: args.size,
        now: Timestamp::now(),
    };
    let mut progress = Progress::new("generate", "records", args.count.unwrap_or(0));
    let (began, mut sent) = (Instant::now(), 0_u64);
    for record in Generator::new(options).take(args.count.map_or(usize::MAX, |count| count as usize)) {
        if stopped.is_so() {
            break;
        }
        pace(args.rate, began, sent);
        send(&producer, topic, &record)?;
        sent += 1;
        progress.at(sent);
    }
    producer.flush(Duration::from_secs(60));
    drop(progress);
    let mut written = 0;
    for ack in acks.try_iter() {
        ack.result
            .map_err(|failure| CommandError::Told(format!("topic {topic:?} cannot be written: {}", failure.error)))?;
        written += 1;
    }
    Ok(written)
}

fn send(producer: &AckingProducer<()>, topic: &str, record: &Generated) -> Result<(), CommandError> {
    loop {
        let headers = record
            .headers
            .iter()
            .fold(OwnedHeaders::new(), |headers, (key, value)| headers.insert(Header { key, value: Some(value) }));
        let outgoing = OutgoingRecord {
            topic,
            partition: None,
            key: record.key.as_deref(),
            value: record.value.as_deref(),
            headers,
        };
        match producer.send(outgoing, ()) {
            Ok(()) => return Ok(()),
            Err(refused) if refused.queue_full() => std::thread::sleep(Duration::from_millis(1)),
            Err(refused) => {
                return Err(CommandError::Told(format!("topic {topic:?} cannot be written: {}", refused.error)));
            }
        }
    }
}

/// Waits until it is the record's turn.
fn pace(rate: Option<u32>, began: Instant, sent: u64) {
    if let Some(rate) = rate {
        let due = began + Duration::from_secs_f64(sent as f64 / f64::from(rate));
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
}
