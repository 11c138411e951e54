//! `forget`: takes back that a contact was delivered, by tombstones in the delivered topic. What else holds something of that
//! person is told.

use std::process::ExitCode;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use clap::Args;
use rdkafka::message::OwnedHeaders;
use serde_json::json;

use super::email;
use super::known::{Delivery, Known, What};
use super::tell::{self, untold};
use crate::cli::progress::Progress;
use crate::cli::table::{counted, printable};
use crate::cli::time::shown;
use crate::cli::{CommandError, STOPPED, SettingsArgs, Stopped, load, start_logs};
use crate::config::{Config, Log};
use crate::enqueue::Unacknowledged;
use crate::kafka::{self, Ack, AckingProducer, KafkaProblem, OutgoingRecord, TopicPartition, tool_producer_config};

/// How often it is looked whether to stop.
const MOMENT: Duration = Duration::from_millis(100);

/// Forget that a contact was delivered: its next event is sent again
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    nat-destination forget --config nat-destination.toml --contact ada@example.com --dry-run\n  \
    nat-destination forget --config nat-destination.toml --contact ada@example.com\n  \
    nat-destination forget --config nat-destination.toml --contact ada@example.com --engage vip_audience\n\n\
    Instances that run have the entries in memory: they count until each has been restarted. A deletion request takes more \
    than this, suppress.file first: deploy/privacy.md.")]
pub struct ForgetArgs {
    /// The contact's email address; it is hashed here
    #[arg(long, value_name = "EMAIL", value_parser = email)]
    contact: String,
    /// An audience or trait of Engage whose value is to be forgotten besides all others, where no event tells of it any more;
    /// may be repeated
    #[arg(long, value_name = "KEY")]
    engage: Vec<String>,
    /// Tell what would be forgotten, and write nothing
    #[arg(long)]
    dry_run: bool,
    /// One JSON object: whether anything was forgotten, and what was known as `explain --contact --json` tells it
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: SettingsArgs,
}

pub async fn run(args: ForgetArgs) -> Result<ExitCode, CommandError> {
    start_logs(&Log { format: "human".into(), level: "error".into() });
    let config = load(&args.settings)?;
    let stopped = Stopped::listen();
    let known = Known::gather(&config, &args.contact, &args.engage, stopped.clone()).await?;
    if !args.dry_run {
        let places = stopped.asking(kafka::partitions(&config, &config.topics.delivered)).await?;
        let (of, entries) = (config.clone(), known.deliveries.clone());
        let write = move |stopped: &Stopped| write_tombstones(&of, &places, &entries, stopped);
        let written = stopped.working(move |stopped| write(stopped).map_err(CommandError::told)).await?;
        if !written {
            eprintln!("stopped: entries of this contact may be forgotten or not; run it again to forget all");
            return Ok(ExitCode::from(STOPPED));
        }
        // One that has begun since may have read the entries before, and would carry them on.
        kafka::verify_keying(&config).await.map_err(CommandError::told)?;
    }
    match args.json {
        true => println!(
            "{}",
            json!({ "forgotten": !args.dry_run && !known.deliveries.is_empty(), "known": tell::json(&known) })
        ),
        false => print!("{}", told(&config, &known, &args.engage, args.dry_run)),
    }
    Ok(ExitCode::SUCCESS)
}

/// In every partition: a resize leaves copies of an entry in several, and carries them on. Waits until the brokers have all;
/// false if told to stop before.
fn write_tombstones(
    config: &Config,
    places: &[TopicPartition],
    entries: &[Delivery],
    stopped: &Stopped,
) -> Result<bool, KafkaProblem> {
    let (sender, acks) = channel();
    let producer = AckingProducer::new(&tool_producer_config(config), Box::new(move |ack| drop(sender.send(ack))))?;
    let topic = config.topics.delivered.as_str();
    let total = places.len() * entries.len();
    let progress = Progress::new("forgetting", "tombstones", total as u64);
    let mut written = Written { topic, acks, progress, count: 0, under_way: Unacknowledged::new(Instant::now()) };
    let tombstones = places.iter().flat_map(|(_, partition)| entries.iter().map(move |entry| (*partition, entry)));
    for (partition, entry) in tombstones {
        let key = Some(entry.delivered.key.key.0.as_slice());
        written.under_way.begin(Instant::now());
        loop {
            let headers = OwnedHeaders::new();
            match producer.send(OutgoingRecord { topic, partition: Some(partition), key, value: None, headers }, ()) {
                Ok(()) => break written.under_way.count += 1,
                Err(refused) if !refused.queue_full() => return Err(written.problem(&refused.error)),
                // They are more than the client holds at a time.
                Err(_) if stopped.is_so() => return Ok(false),
                Err(_) => written.wait()?,
            }
        }
    }
    while written.count < total {
        if stopped.is_so() {
            return Ok(false);
        }
        written.wait()?;
    }
    Ok(true)
}

/// What the brokers have taken.
struct Written<'a> {
    topic: &'a str,
    acks: Receiver<Ack<()>>,
    progress: Progress,
    count: usize,
    under_way: Unacknowledged,
}

impl Written<'_> {
    /// For the next one, or a moment.
    fn wait(&mut self) -> Result<(), KafkaProblem> {
        match self.acks.recv_timeout(MOMENT) {
            Ok(ack) => {
                ack.result.map_err(|failure| self.problem(&failure))?;
                self.count += 1;
                self.under_way.taken(Instant::now());
            }
            Err(_) if self.under_way.is_given_up(Instant::now()) => {
                return Err(self.problem(&"the brokers do not answer"));
            }
            Err(_) => {}
        }
        self.progress.at(self.count as u64);
        Ok(())
    }

    fn problem(&self, cause: &dyn std::fmt::Display) -> KafkaProblem {
        let problem = format!("not all entries could be forgotten: {cause}. Run it again");
        KafkaProblem::Topic { topic: self.topic.into(), problem }
    }
}

fn told(config: &Config, known: &Known, engage: &[String], dry_run: bool) -> String {
    let (contact, partition) = (known.contact, known.partition);
    let entries = counted(known.deliveries.len() as u64, "entry");
    let would = if dry_run { "would be forgotten" } else { "forgotten" };
    let topic = &config.topics.delivered;
    let mut text = format!("contact {contact}: {entries} of {topic}, partition {partition}, {would}\n");
    for delivery in &known.deliveries {
        let at = shown(delivery.delivered.at);
        text += &match &delivery.what {
            What::Visit(day) => format!("  the visit of {day}, delivered {at}\n"),
            What::Engage { key, .. } if delivery.is_in_doubt() => {
                format!("  the value of {} (Engage), in doubt since {at}\n", printable(key))
            }
            What::Engage { key, .. } => format!("  the value of {} (Engage), delivered {at}\n", printable(key)),
        };
    }
    let is_there = |name: &str| known.deliveries.iter().any(|delivery| delivery.what.is_engage(name));
    for name in engage.iter().filter(|name| !is_there(name)) {
        text += &format!("  no value of {} (Engage) is there to be forgotten\n", printable(name));
    }
    text += &untold(known);
    if !known.deliveries.is_empty() && !dry_run {
        text += &format!(
            "\nInstances that run have them in memory: they count until the instance that has partition {partition} has been \
             restarted. Restart all of them, one after the other.\n"
        );
    }
    text + &what_else(config, known)
}

fn what_else(config: &Config, known: &Known) -> String {
    let kept = |time| humantime::format_duration(time).to_string();
    let suppressed = match known.suppressed {
        Some(true) => "it is on the suppression list: nothing more of it is delivered.".to_owned(),
        _ => format!(
            "it is not on the suppression list: its next event is delivered, and remembered. To prevent that, put {} into \
             suppress.file first.",
            known.contact.whole()
        ),
    };
    format!(
        "\nWhat else there is of this contact:\n  \
         {suppressed}\n  \
         {}: records with its address as the key: {}; the topic's retention ends them (topics.queue_retention = {}).\n  \
         {}: dead letters: {}; the topic's retention ends them (topics.dead_letter_retention = {}).\n  \
         The source topics, and Nat.app itself, are not this program's.\n",
        config.topics.queue,
        known.queued.len(),
        kept(config.topics.queue_retention),
        config.topics.dead_letter,
        known.letters.len(),
        kept(config.topics.dead_letter_retention),
    )
}
