//! `demo`: the whole job inside one process, on the embedded broker and the Nat.app stand-in, with every event accounted
//! for at the end. What runs is the same service as `run`'s.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use indicatif::ProgressBar;
use jiff::Timestamp;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::progress::bar_style;
use super::{CommandError, start_logs, told_to_stop};
use crate::config::{Config, Log as LogSettings, Sources};
use crate::dead_letter::{Kind, Letter};
use crate::kafka::{AckingProducer, Context, OutgoingRecord, producer_config, reader_config};
use crate::metrics::Metrics;
use crate::sandbox::embedded;
use crate::sandbox::generator::{Generated, Generator, Options};
use crate::sandbox::stand_in::{Behaviour, Log, StandIn};
use crate::segment::{self, Outcome, Reading};
use crate::service::Service;

const SOURCE: &str = "segment-events";
const RECORDS: usize = 6000;

/// See it work: some thousands of events through the real service, without Kafka or Nat.app
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    nat-destination demo\n  \
    nat-destination demo --keep-running     (then look at /metrics, until Ctrl-C)")]
pub struct DemoArgs {
    /// How many records the demo sends through
    #[arg(long, default_value_t = RECORDS)]
    records: usize,
    /// Leave the service and its /metrics up afterwards
    #[arg(long)]
    keep_running: bool,
    /// Another seed is another day at work
    #[arg(long, default_value_t = 7)]
    seed: u64,
    /// Where /metrics is served
    #[arg(long, default_value = "127.0.0.1:0", value_name = "ADDRESS")]
    listen: std::net::SocketAddr,
    /// Show the service's log
    #[arg(long, short)]
    verbose: bool,
}

pub async fn run(args: DemoArgs) -> Result<ExitCode, CommandError> {
    let level = if args.verbose { "info" } else { "off" };
    start_logs(&LogSettings { format: "human".into(), level: level.into() });
    let options = Options {
        identify: 0.5,
        contacts: 600,
        bad: 0.03,
        engage: 0.2,
        seed: args.seed,
        ..Options::at(Timestamp::now())
    };
    let events: Vec<Generated> = Generator::new(options).take(args.records).collect();
    let unlucky = first_contact(&events);
    let behaviour = Behaviour {
        latency: Duration::from_millis(2),
        unavailable: 0.03,
        throttle: 0.002,
        reject_emails: unlucky.iter().cloned().collect(),
        api_key: Some("demo-key".into()),
        ..Behaviour::default()
    };
    let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    let stand_in = StandIn::start(any, behaviour, Log::Memory).await.map_err(CommandError::told)?;
    let config = demo_config(&stand_in.url(), &args)?;
    println!("Nat destination, the demo: {} records through the real service.", args.records);
    println!("  embedded broker     {} (librdkafka's, in this process)", config.kafka.brokers);
    println!(
        "  Nat.app stand-in    {}: 3 % answers of 503, a few of 429, and one contact that it rejects",
        stand_in.url()
    );
    let to_write = config.clone();
    tokio::task::spawn_blocking(move || produce(&to_write, &events)).await.map_err(CommandError::told)??;
    let began = Instant::now();
    let mut service = Service::start(config.clone(), false).await.map_err(CommandError::told)?;
    println!("  service             http://{}/metrics\n", service.admin);
    let (view, metrics) = (View::new(), std::sync::Arc::clone(&service.metrics));
    tokio::select! {
        caught_up = Service::caught_up(&config) => caught_up.map_err(CommandError::told)?,
        ended = service.ended() => return ended.map(|()| ExitCode::FAILURE).map_err(CommandError::told),
        () = view.follow(&metrics) => {}
    }
    view.end();
    let right = account(&service, &stand_in, began.elapsed());
    let letters = tokio::task::spawn_blocking(move || dead_letters(&config)).await.map_err(CommandError::told)??;
    show_dead_letters(&letters);
    println!(
        "\nWhere to go next:\n  nat-destination check --print-example > nat-destination.toml\n  nat-destination check --config nat-destination.toml\n  nat-destination run --config nat-destination.toml"
    );
    if args.keep_running {
        println!("\nStill running: http://{}/metrics  (Ctrl-C ends it)", service.admin);
        told_to_stop().await?;
    }
    service.stop();
    service.ended().await.map_err(CommandError::told)?;
    stand_in.shutdown().await;
    Ok(if right { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn demo_config(url: &str, args: &DemoArgs) -> Result<Config, CommandError> {
    let set = |brokers: &str| Sources {
        set: vec![
            format!("kafka.brokers={brokers}"),
            format!("source.topics={SOURCE}"),
            format!("nat.url={url}"),
            "nat.api_key=demo-key".into(),
            format!("admin.listen={}", args.listen),
            "retry.initial_interval=100ms".into(),
        ],
        ..Sources::default()
    };
    // The broker needs the topics' names, and gives the address that the configuration needs.
    let before = Config::load(&set("embedded")).map_err(CommandError::Settings)?;
    let address = embedded::start(&before, SOURCE).map_err(CommandError::told)?;
    Config::load(&set(&address)).map_err(CommandError::Settings)
}

/// The contact that the stand-in will reject.
fn first_contact(events: &[Generated]) -> Option<String> {
    events.iter().find_map(|event| {
        match segment::read(&segment::Rules::default(), event.value.as_deref(), Timestamp::now()) {
            Reading::One { outcome: Outcome::Identify(identify), .. } => Some(identify.email),
            _ => None,
        }
    })
}

fn produce(config: &Config, events: &[Generated]) -> Result<(), CommandError> {
    let producer = AckingProducer::<()>::new(&producer_config(config), Box::new(|_| {})).map_err(CommandError::told)?;
    for event in events {
        let record = OutgoingRecord {
            topic: SOURCE,
            partition: None,
            key: event.key.as_deref(),
            value: event.value.as_deref(),
            headers: rdkafka::message::OwnedHeaders::new(),
        };
        producer.send(record, ()).map_err(|refused| CommandError::told(refused.error))?;
    }
    producer.flush(Duration::from_secs(30));
    Ok(())
}

const BAR: &str = "{bar:40} {human_pos}/{human_len} events settled  {rate}\n{msg}";

/// A live line on a terminal, a plain one a second elsewhere.
struct View {
    bar: Option<ProgressBar>,
}

impl View {
    fn new() -> View {
        let bar = || ProgressBar::new(0).with_style(bar_style(BAR));
        View { bar: std::io::stdout().is_terminal().then(bar) }
    }

    /// Never ends by itself.
    async fn follow(&self, metrics: &Metrics) {
        let began = Instant::now();
        let every = if self.bar.is_some() { Duration::from_millis(100) } else { Duration::from_secs(1) };
        loop {
            let by_outcome = by_outcome(metrics);
            let settled: u64 = by_outcome.values().sum();
            let received = metrics.events_received.get();
            let counts: Vec<String> = by_outcome.iter().map(|(outcome, count)| format!("{outcome} {count}")).collect();
            match &self.bar {
                Some(bar) => {
                    bar.set_length(received);
                    bar.set_position(settled);
                    bar.set_message(counts.join("   "));
                }
                None => println!(
                    "  {:>4.0} s  {settled}/{received} events settled  {}",
                    began.elapsed().as_secs_f64(),
                    counts.join("  ")
                ),
            }
            tokio::time::sleep(every).await;
        }
    }

    fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn by_outcome(metrics: &Metrics) -> BTreeMap<String, u64> {
    let mut sums = BTreeMap::new();
    for (outcome, _, count) in metrics.settled_by_reason() {
        *sums.entry(outcome).or_insert(0) += count;
    }
    sums
}

/// The table in which every event has its place. False if they do not add up.
fn account(service: &Service, stand_in: &StandIn, took: Duration) -> bool {
    let received = service.metrics.events_received.get();
    println!("{:<16}{:<26}{:>8}", "outcome", "reason", "events");
    let rows = service.metrics.settled_by_reason();
    for (outcome, reason, count) in &rows {
        println!("{outcome:<16}{reason:<26}{count:>8}");
    }
    let settled: u64 = rows.iter().map(|(_, _, count)| count).sum();
    let delivered: u64 = rows.iter().filter(|(outcome, _, _)| outcome == "delivered").map(|(_, _, count)| count).sum();
    println!("{:-<50}\n{:<42}{settled:>8}\n{:<42}{received:>8}", "", "sum", "received");
    println!("{:<42}{:>8}", "accepted by the stand-in", stand_in.accepted());
    println!(
        "\n{} requests, {} retries, {:.1} s.",
        stand_in.requests(),
        service.metrics.retries.get(),
        took.as_secs_f64()
    );
    let right = settled == received && delivered == stand_in.accepted();
    println!(
        "{}",
        if right { "Every event is accounted for." } else { "The sums DIFFER: this is a bug, please report it." }
    );
    right
}

/// Up to two of each reason, read back from the topic as any consumer would.
fn dead_letters(config: &Config) -> Result<Vec<(String, Letter)>, CommandError> {
    let reader: BaseConsumer<Context> =
        BaseConsumer::from_config_and_context(&reader_config(config), Context::default())
            .map_err(CommandError::told)?;
    let mut list = TopicPartitionList::new();
    for partition in 0..config.topics.partitions as i32 {
        list.add_partition_offset(&config.topics.dead_letter, partition, Offset::Beginning)
            .map_err(CommandError::told)?;
    }
    reader.assign(&list).map_err(CommandError::told)?;
    drop(list);
    let (mut letters, mut by_reason, mut ended) = (Vec::new(), BTreeMap::new(), 0);
    let deadline = Instant::now() + Duration::from_secs(10);
    while ended < config.topics.partitions && Instant::now() < deadline {
        match reader.poll(Duration::from_millis(200)) {
            Some(Ok(message)) => {
                let Kind::Letter(letter) = Kind::read(&message) else { continue };
                let seen = by_reason.entry(letter.reason.clone()).or_insert(0);
                *seen += 1;
                if *seen <= 2 {
                    letters.push((format!("{}:{}", message.partition(), message.offset()), *letter));
                }
            }
            Some(Err(_)) => ended += 1, // The end of a partition: nothing is written any more.
            None => {}
        }
    }
    letters.sort_by(|(_, a), (_, b)| a.reason.cmp(&b.reason));
    Ok(letters)
}

fn show_dead_letters(letters: &[(String, Letter)]) {
    println!("\nA few dead letters (partition:offset, reason, what happened):");
    for (place, letter) in letters {
        let status = letter.status.map(|status| format!(" {status}")).unwrap_or_default();
        let reason = format!("{}{status}", letter.reason);
        println!("  {place:<7} {reason:<24} {}", letter.message.as_deref().unwrap_or_default());
    }
}
