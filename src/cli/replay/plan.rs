//! What a replay reads: from where to where in each partition, fixed at its first start and kept with its bookmark, so that
//! a second run goes on to the same end.

use std::collections::BTreeMap;

use super::super::CommandError;
use super::super::table::counted;
use super::ReplayArgs;
use crate::cli::dead_letters::told_since::settled;
use crate::config::{Config, Start};
use crate::kafka::{self, Bookmark, KafkaProblem, Range, TopicPartition};

pub struct Plan {
    /// The group of the bookmark.
    pub group: String,
    pub ranges: Vec<Range>,
    /// An earlier run was stopped.
    pub goes_on: bool,
    /// Offsets that ingest has not come to yet, and the partitions that they are in.
    pub left_to_ingest: (u64, usize),
    /// All of the dead-letter topic.
    pub dead_letters: Vec<Range>,
    /// What deliver had settled of the queue before that.
    pub settled: Vec<Range>,
    /// All of the delivered topic.
    pub delivered: Vec<Range>,
}

impl Plan {
    /// # Errors
    /// When a topic is not there or not one of the source's, or the brokers do not answer.
    pub async fn make(config: &Config, args: &ReplayArgs) -> Result<Plan, CommandError> {
        let places = places(config, &args.topics).await?;
        let group = group(config, args);
        let saved = if args.restart { None } else { saved(config, &group, &places).await? };
        let goes_on = saved.is_some();
        let (ranges, left_to_ingest) = match saved {
            Some(ranges) => (ranges, (0, 0)),
            None => fresh(config, args, &by_topic(&places)).await.map_err(CommandError::told)?,
        };
        let whole = async |topic: &str| kafka::whole(config, topic).await.map_err(CommandError::told);
        // First what is settled: what is so meanwhile is then found as delivered.
        let settled = settled(config).await?;
        let (dead_letters, delivered) =
            (whole(&config.topics.dead_letter).await?, whole(&config.topics.delivered).await?);
        Ok(Plan { group, ranges, goes_on, left_to_ingest, dead_letters, settled, delivered })
    }

    /// Keeps begins and ends, so that a second run knows them. When it begins to feed and not before: one that was
    /// refused is to leave nothing. Blocking.
    ///
    /// # Errors
    /// When the brokers do not take it.
    pub fn keep(&self, config: &Config) -> Result<(), KafkaProblem> {
        if self.goes_on {
            return Ok(());
        }
        let of =
            |offset: fn(&Range) -> i64| self.ranges.iter().map(|range| (range.place.clone(), offset(range))).collect();
        let (begins, ends): (BTreeMap<_, _>, BTreeMap<_, _>) = (of(|range| range.begin), of(|range| range.end));
        Bookmark::new(config, &end_group(&self.group))?.save(&ends)?;
        Bookmark::new(config, &self.group)?.save(&begins)
    }

    /// Offsets, which may be more than there are records.
    pub fn length(&self) -> u64 {
        self.ranges.iter().map(Range::length).sum()
    }

    /// What is to be said before it starts.
    pub fn remarks(&self) -> Vec<String> {
        let mut remarks = Vec::new();
        if self.goes_on {
            let left = counted(self.length(), "offset");
            remarks.push(format!(
                "goes on where an earlier run of this replay was stopped: {left} left (--restart begins again)"
            ));
        }
        let (offsets, partitions) = self.left_to_ingest;
        if offsets > 0 {
            remarks.push(format!(
                "the replay ends where ingest has got to. Still to come to it, and into the queue by that way: {} in {} (an \
                 Engage value must not be overtaken by an older one)",
                counted(offsets, "offset"),
                counted(partitions as u64, "partition")
            ));
        }
        remarks
    }
}

/// The partitions of the source topics, or of those that were asked for.
async fn places(config: &Config, wanted: &[String]) -> Result<Vec<TopicPartition>, CommandError> {
    let there = kafka::source_partitions(config).await.map_err(CommandError::told)?;
    if let Some(other) = wanted.iter().find(|topic| !there.contains_key(*topic)) {
        let known: Vec<&str> = there.keys().map(String::as_str).collect();
        return Err(CommandError::Told(format!(
            "--topic {other}: it is none of the source topics, which are {}",
            known.join(", ")
        )));
    }
    let chosen = there.into_iter().filter(|(topic, _)| wanted.is_empty() || wanted.contains(topic));
    Ok(chosen.flat_map(|(topic, count)| (0..count as i32).map(move |partition| (topic.clone(), partition))).collect())
}

fn by_topic(places: &[TopicPartition]) -> Vec<&str> {
    let mut topics: Vec<&str> = places.iter().map(|(topic, _)| topic.as_str()).collect();
    topics.dedup();
    topics
}

/// One bookmark for each range of time and topics, as they were asked for: of an expression more may appear meanwhile.
fn group(config: &Config, args: &ReplayArgs) -> String {
    let mut topics = if args.topics.is_empty() { config.source.topics.clone() } else { args.topics.clone() };
    topics.sort();
    topics.dedup();
    let to = args.to.map_or_else(|| "-".to_owned(), |to| to.as_millisecond().to_string());
    let range = format!("{}/{to}/{}", args.from.as_millisecond(), topics.join("/"));
    let hash = blake3::hash(range.as_bytes()).to_hex();
    format!("{}replay.{}", config.topics.queue.trim_end_matches("queue"), &hash.as_str()[..16])
}

/// The bookmark of the ends, which never moves.
fn end_group(group: &str) -> String {
    format!("{group}.end")
}

/// What the topics hold of the time asked for, but for what is left to ingest.
async fn fresh(
    config: &Config,
    args: &ReplayArgs,
    topics: &[&str],
) -> Result<(Vec<Range>, (u64, usize)), KafkaProblem> {
    let mut ranges = Vec::new();
    for topic in topics {
        ranges.extend(kafka::between(config, topic, Some(args.from), args.to).await?);
    }
    let left = leave_to_ingest(config, &mut ranges).await?;
    Ok((ranges, left))
}

/// What an earlier run that was stopped has left.
async fn saved(config: &Config, group: &str, places: &[TopicPartition]) -> Result<Option<Vec<Range>>, CommandError> {
    let next = load(config, group, places).await?;
    let ends = load(config, &end_group(group), places).await?;
    if next.is_empty() {
        return Ok(None);
    }
    let range = |(place, end): (TopicPartition, i64)| {
        let begin = next.get(&place).map_or(end, |next| *next.min(&end));
        Range { place, begin, end }
    };
    Ok(Some(ends.into_iter().map(range).collect()))
}

/// Asks a bookmark on a thread that may block.
async fn load(
    config: &Config,
    group: &str,
    places: &[TopicPartition],
) -> Result<BTreeMap<TopicPartition, i64>, CommandError> {
    let (config, group, places) = (config.clone(), group.to_owned(), places.to_vec());
    let load = move || Bookmark::new(&config, &group)?.load(&places);
    tokio::task::spawn_blocking(load).await.map_err(CommandError::told)?.map_err(CommandError::told)
}

/// Forgets how far it has got: it is done, or is to begin again.
///
/// # Errors
/// When the brokers do not let the bookmark go.
pub async fn forget(config: &Config, group: &str) -> Result<(), KafkaProblem> {
    Bookmark::remove(config, vec![group.to_owned(), end_group(group)]).await
}

/// Cuts off what ingest has not committed yet; says how many offsets in how many partitions that is.
async fn leave_to_ingest(config: &Config, ranges: &mut [Range]) -> Result<(u64, usize), KafkaProblem> {
    let places = ranges.iter().map(|range| range.place.clone()).collect();
    let committed = kafka::patient_committed(config, &config.source.group, places).await?;
    let (mut offsets, mut partitions) = (0, 0);
    for range in ranges {
        let next = committed.get(&range.place).copied().unwrap_or(0);
        // What is there before ingest is first started, it never comes to if it is to begin at the end.
        if next == 0 && config.source.start == Start::Latest {
            continue;
        }
        let reached = next.max(range.begin);
        if reached < range.end {
            offsets += Range { begin: reached, ..range.clone() }.length();
            partitions += 1;
            range.end = reached;
        }
    }
    Ok((offsets, partitions))
}
