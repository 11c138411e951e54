//! What is wrong with a deployment: a line for each thing, which deploy/runbook.md has a row for. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;

use super::{Held, Instance, PartitionLag, Unread};
use crate::admin::status::{Circuit, Status};
use crate::cli::table::counted;
use crate::kafka::KafkaProblem;

/// A shorter hold than this is Nat.app's way to slow us down, and over before anybody has read of it.
const LONG_HOLD: Duration = Duration::from_secs(60);

/// What the instances say of themselves, and where they are not.
pub fn of_instances(instances: &[Instance], at: Timestamp) -> Vec<String> {
    let mut problems = Vec::new();
    if instances.iter().all(|instance| instance.status.is_none()) {
        problems.push("no instance answers; they are looked for where status.instances or --instance says".to_owned());
    }
    for Instance { place, error, status } in instances {
        problems.extend(error.iter().map(|error| format!("{place} gives no status: {error}")));
        problems.extend(status.iter().flat_map(|status| of_instance(place, status, at)));
    }
    problems
}

fn of_instance(place: &str, status: &Status, at: Timestamp) -> Vec<String> {
    let mut problems: Vec<String> = status.stuck.iter().map(|stuck| format!("{place} is stuck: {stuck}")).collect();
    if let Some(Circuit { reason, since }) = &status.circuit {
        problems.push(format!("{place}: the circuit to Nat.app is open: {reason}, since {since}"));
    }
    if status.cut_off {
        problems.push(format!("{place} is cut off from Kafka and sends nothing"));
    }
    if status.restoring > 0 {
        let count = status.restoring;
        problems.push(format!(
            "{place} restores {} of the queue; nothing of that is delivered yet",
            counted(count, "partition")
        ));
    }
    if let Some(until) = status.held_until.as_ref().filter(|until| is_long_hold(until, at)) {
        problems.push(format!("{place} sends nothing: Nat.app said not to come back before {until}"));
    }
    for stopped in &status.stopped {
        let (topic, partition) = (&stopped.topic, stopped.partition);
        problems.push(format!("{place} cannot read partition {partition} of {topic} on; its log says why"));
    }
    if status.api_key_file_wrong {
        problems.push(format!(
            "{place}: nat.api_key_file holds no usable key, the one that was is used; the next start fails"
        ));
    }
    if status.suppress_file_wrong {
        problems.push(format!("{place}: suppress.file is wrong, the list that was stays in force; its log says why"));
    }
    problems
}

/// One that is not understood is another version's: told, rather than passed over.
fn is_long_hold(until: &str, at: Timestamp) -> bool {
    until.parse::<Timestamp>().map_or(true, |until| until.duration_since(at).as_secs() > LONG_HOLD.as_secs() as i64)
}

/// Partitions that Kafka has and no instance reads. Where none answers, that is known already.
pub fn of_unread(lag: &[PartitionLag], all: &[&Status]) -> Vec<String> {
    let stopped = stopped(all);
    let is_missing = |lag: &&PartitionLag| {
        lag.instance.is_none() && !all.is_empty() && !stopped.contains(&(&lag.topic, lag.partition))
    };
    let missing = by_topic(lag.iter().filter(is_missing).map(|lag| (lag.topic.as_str(), lag.partition)));
    missing
        .map(|(topic, partitions)| format!("no instance that answers has {} of {topic}", named(&partitions)))
        .collect()
}

/// Partitions that no instance can read on. Where one has found that out, it says so itself.
pub fn of_not_in_topic(held: &Held, all: &[&Status]) -> Vec<String> {
    let stopped = stopped(all);
    let untold = places(held, |unread| matches!(unread, Unread::NotInTopic)).filter(|place| !stopped.contains(place));
    let told = |(topic, partitions): (&str, Vec<String>)| {
        let it = named(&partitions);
        format!("the offset of {it} of {topic} is not in the topic: it was deleted and made again, or cut")
    };
    by_topic(untold).map(told).collect()
}

fn stopped<'s>(all: &[&'s Status]) -> BTreeSet<(&'s str, i32)> {
    all.iter().flat_map(|status| &status.stopped).map(|place| (place.topic.as_str(), place.partition)).collect()
}

fn places(held: &Held, which: impl Fn(&Unread) -> bool) -> impl Iterator<Item = (&str, i32)> {
    held.iter().filter(move |(_, unread)| which(unread)).map(|((topic, partition), _)| (topic.as_str(), *partition))
}

fn by_topic<'t>(places: impl Iterator<Item = (&'t str, i32)>) -> impl Iterator<Item = (&'t str, Vec<String>)> {
    let mut topics: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (topic, partition) in places {
        topics.entry(topic).or_default().push(partition.to_string());
    }
    topics.into_iter()
}

/// Partitions that nobody can read or write, since their brokers are away.
pub fn of_leaderless(held: &Held) -> Vec<String> {
    let told = |(topic, partitions): (&str, Vec<String>)| {
        let (have, what) = match partitions.len() {
            1 => ("has", "what is in it waits for its broker"),
            _ => ("have", "what is in them waits for their brokers"),
        };
        format!("{} of {topic} {have} no leader: {what}", named(&partitions))
    };
    by_topic(places(held, |unread| matches!(unread, Unread::NoLeader))).map(told).collect()
}

/// partition 3; partitions 3, 4.
fn named(partitions: &[String]) -> String {
    format!("partition{} {}", if partitions.len() == 1 { "" } else { "s" }, partitions.join(", "))
}

/// The queue's oldest event has used up half of the time that Kafka keeps it.
pub fn of_age(queue: &[PartitionLag], retention: Duration) -> Option<String> {
    let oldest = queue.iter().filter_map(|lag| lag.seconds).max_by(f64::total_cmp)?;
    let is_old = oldest > retention.as_secs_f64() / 2.0;
    is_old.then(|| {
        let [oldest, kept] = [oldest as u64, retention.as_secs()].map(Duration::from_secs);
        let [oldest, kept] = [oldest, kept].map(humantime::format_duration);
        format!("the oldest event of the queue has waited for {oldest}; Kafka deletes it after {kept} (retention.ms of the topic)")
    })
}

/// Why no instance starts, as each of them says. That Kafka is out of reach the lag tells.
pub fn of_keying(keying: Result<(), KafkaProblem>) -> Option<String> {
    match keying {
        Err(problem @ KafkaProblem::Topic { .. }) => Some(problem.to_string()),
        _ => None,
    }
}
