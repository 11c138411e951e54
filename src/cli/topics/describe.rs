//! `topics describe`: each topic, what it holds and for how long, who writes and who reads it.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::super::table::{counted, number, table};
use super::super::{CommandError, SettingsArgs, Stopped, load};
use crate::config::Config;
use crate::kafka;

/// Say of each topic how large it is, what it holds and for how long, who writes and who reads it
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  nat-destination topics describe --config nat-destination.toml\n  \
    nat-destination topics describe --config nat-destination.toml --json | jq '.[].records'")]
pub struct DescribeArgs {
    #[command(flatten)]
    settings: SettingsArgs,
    /// JSON, for scripts
    #[arg(long)]
    json: bool,
}

/// One topic.
#[derive(Debug, Serialize)]
struct Described {
    topic: String,
    /// False: nothing more is known of it.
    exists: bool,
    partitions: usize,
    replication: usize,
    cleanup_policy: Option<String>,
    /// -1: for ever.
    retention_ms: Option<i64>,
    records: u64,
    holds: &'static str,
    written_by: &'static str,
    read_by: Vec<Reader>,
}

#[derive(Debug, Serialize)]
struct Reader {
    group: String,
    /// `None`: Kafka does not tell them.
    members: Option<Vec<String>>,
    lag: u64,
}

pub async fn run(args: DescribeArgs) -> Result<ExitCode, CommandError> {
    let config = load(&args.settings)?;
    let described = Stopped::listen().asking(describe_all(&config)).await?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&described).map_err(CommandError::told)?);
    } else {
        print!("{}", shown(&described));
    }
    Ok(ExitCode::SUCCESS)
}

async fn describe_all(config: &Config) -> Result<Vec<Described>, kafka::KafkaProblem> {
    let topics = &config.topics;
    let group = Some(&config.source.group);
    let source = kafka::verify_source(config).await?;
    let source =
        source.into_iter().map(|topic| (topic, "Segment events as they came, personal data", "Segment", group));
    let ours = [
        (&topics.queue, "identify calls on their way, personal data", "ingest, tools", Some(&topics.deliver_group)),
        (&topics.delivered, "dedup state: hashes and times", "deliver", None),
        (&topics.dead_letter, "what was not delivered, personal data", "ingest, deliver", None),
        (&topics.layout, "one record: how many partitions the queue was made with", "start, resize", None),
    ];
    let mut described = Vec::new();
    for (topic, holds, written_by, group) in source.chain(ours.map(|(topic, a, b, c)| (topic.clone(), a, b, c))) {
        described.push(describe(config, topic, holds, written_by, group).await?);
    }
    Ok(described)
}

async fn describe(
    config: &Config,
    topic: String,
    holds: &'static str,
    written_by: &'static str,
    group: Option<&String>,
) -> Result<Described, kafka::KafkaProblem> {
    let found = kafka::describe(config, &topic).await?;
    let mut read_by = Vec::new();
    if let (Some(group), Some(_)) = (group, &found) {
        let kafka::Reading { members, lag } = kafka::reading(config, group, std::slice::from_ref(&topic)).await?;
        read_by.push(Reader { group: group.clone(), members, lag });
    }
    let exists = found.is_some();
    let kafka::Description { partitions, replication, cleanup, retention, records } = found.unwrap_or_default();
    let (cleanup_policy, retention_ms) = (cleanup, retention);
    Ok(Described {
        topic,
        exists,
        partitions,
        replication,
        cleanup_policy,
        retention_ms,
        records,
        holds,
        written_by,
        read_by,
    })
}

fn shown(described: &[Described]) -> String {
    let head = ["topic", "partitions", "replicas", "policy", "kept", "records", "written by", "read by", "holds"];
    let row = |topic: &Described| {
        let [partitions, replicas, policy, kept, records] = match topic.exists {
            true => [
                topic.partitions.to_string(),
                topic.replication.to_string(),
                topic.cleanup_policy.clone().unwrap_or_else(|| "?".into()),
                kept(topic),
                number(topic.records),
            ],
            false => ["missing", "-", "-", "-", "-"].map(str::to_owned),
        };
        let readers = topic.read_by.iter().map(reader).collect::<Vec<_>>().join(", ");
        let (name, written_by, holds) = (topic.topic.clone(), topic.written_by.to_owned(), topic.holds.to_owned());
        vec![name, partitions, replicas, policy, kept, records, written_by, readers, holds]
    };
    table(&head, &[1, 2, 5], &described.iter().map(row).collect::<Vec<_>>())
}

fn reader(reader: &Reader) -> String {
    let lag = number(reader.lag);
    match &reader.members {
        None => format!("{} (members not told: group.protocol=consumer; lag {lag})", reader.group),
        Some(members) => format!("{} ({}, lag {lag})", reader.group, counted(members.len() as u64, "member")),
    }
}

fn kept(topic: &Described) -> String {
    match topic.retention_ms {
        _ if topic.cleanup_policy.as_deref() == Some("compact") => "for ever".into(),
        None => "?".into(),
        Some(millis) => u64::try_from(millis).map_or_else(
            |_| "for ever".into(),
            |millis| humantime::format_duration(Duration::from_millis(millis)).to_string(),
        ),
    }
}
