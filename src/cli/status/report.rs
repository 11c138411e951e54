//! What was found, put together: one lag a partition, sums over the instances, and what is wrong (`problems`). Pure.

mod problems;

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use crate::admin::status::{Circuit, Lag, Settled, Status};
use crate::kafka::{KafkaProblem, TopicPartition};
use crate::metrics::Outcome;

/// What a partition holds that its group has not committed.
#[derive(Debug, Clone, Copy)]
pub enum Unread {
    Records {
        events: u64,
        /// When the first was written, Unix milliseconds; where no instance tells how old it is.
        oldest: Option<i64>,
    },
    /// Nobody can tell.
    NoLeader,
    /// Nor can anybody where the offset is not in the topic.
    NotInTopic,
}

pub type Held = BTreeMap<TopicPartition, Unread>;

/// What one instance said, or why it said nothing.
pub struct Answer {
    pub place: String,
    pub status: Result<Status, String>,
}

/// All that was asked.
pub struct Found {
    pub at: Timestamp,
    pub brokers: String,
    pub queue_topic: String,
    /// `Duration::MAX`: for ever.
    pub queue_retention: Duration,
    /// Whether the queue is keyed as it was made.
    pub keying: Result<(), KafkaProblem>,
    pub first: Vec<Answer>,
    /// From the first answers to the second ones.
    pub seconds: f64,
    pub second: Vec<Answer>,
    pub source: Result<Held, KafkaProblem>,
    pub queue: Result<Held, KafkaProblem>,
}

#[derive(Debug, Serialize)]
pub struct Report {
    pub at: String,
    pub brokers: String,
    pub queue_topic: String,
    pub healthy: bool,
    pub problems: Vec<String>,
    pub circuit: Option<Circuit>,
    pub in_flight: u64,
    pub concurrency_limit: u64,
    /// Of all instances together; absent: at least one has none.
    pub rate_limit: Option<u64>,
    /// Of each instance that has one.
    pub rate_limits: BTreeMap<String, u64>,
    pub rates: Option<Rates>,
    pub oldest_waiting_seconds: Option<f64>,
    pub dedup_entries: BTreeMap<String, u64>,
    pub source: Vec<PartitionLag>,
    pub queue: Vec<PartitionLag>,
    pub outcomes: Vec<Settled>,
    pub sum: Sum,
    pub instances: Vec<Instance>,
}

/// One second's worth.
#[derive(Debug, Serialize)]
pub struct Rates {
    pub received: f64,
    pub delivered: f64,
    pub requests: f64,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PartitionLag {
    pub topic: String,
    pub partition: i32,
    pub events: Option<u64>,
    pub seconds: Option<f64>,
    /// Who has it.
    pub instance: Option<String>,
}

/// received + requeued = delivered + duplicate + filtered + dead-lettered + on its way.
#[derive(Debug, PartialEq, Serialize)]
pub struct Sum {
    pub received: u64,
    pub requeued: u64,
    pub delivered: u64,
    pub duplicate: u64,
    pub filtered: u64,
    pub dead_lettered: u64,
    /// Below nothing where the instances have settled what was received before they started.
    pub on_its_way: i64,
}

#[derive(Debug, Serialize)]
pub struct Instance {
    pub place: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
}

impl Report {
    pub fn of(found: Found) -> Report {
        let Found { at, brokers, queue_topic, queue_retention, keying, first, seconds, second, source, queue } = found;
        let rates = rates(&first, &second, seconds);
        let instances: Vec<Instance> = second.into_iter().map(|answer| instance(answer, &queue_topic)).collect();
        let all: Vec<&Status> = instances.iter().filter_map(|instance| instance.status.as_ref()).collect();
        let mut problems = problems::of_instances(&instances, at);
        problems.extend(problems::of_keying(keying));
        let mut taken = |what: &str, held: Result<Held, KafkaProblem>, lags: fn(&Status) -> &[Lag]| {
            let held = held.unwrap_or_else(|problem| {
                problems.push(format!("the lag of {what} cannot be read from Kafka: {problem}"));
                Held::new()
            });
            problems.extend(problems::of_leaderless(&held));
            problems.extend(problems::of_not_in_topic(&held, &all));
            let lag = by_partition(held, at, &instances, lags);
            problems.extend(problems::of_unread(&lag, &all));
            lag
        };
        let source = taken("the source", source, |status| &status.source);
        let queue = taken("the queue", queue, |status| &status.queue);
        problems.extend(problems::of_age(&queue, queue_retention));
        let sum_of = |count: fn(&Status) -> u64| all.iter().map(|status| count(status)).sum::<u64>();
        let rate_limits = rate_limits(&instances);
        let outcomes = outcomes(&all);
        let ages = all.iter().filter_map(|status| status.oldest_waiting_seconds);
        let ages = ages.chain(source.iter().chain(&queue).filter_map(|lag| lag.seconds));
        Report {
            at: format!("{at:.0}"),
            brokers,
            queue_topic,
            healthy: problems.is_empty(),
            problems,
            circuit: all.iter().find_map(|status| status.circuit.clone()),
            in_flight: sum_of(|status| status.in_flight),
            concurrency_limit: sum_of(|status| status.concurrency_limit),
            rate_limit: (!all.is_empty() && rate_limits.len() == all.len()).then(|| rate_limits.values().sum()),
            rate_limits,
            rates,
            oldest_waiting_seconds: ages.max_by(f64::total_cmp),
            dedup_entries: dedup_entries(&all),
            source,
            queue,
            sum: sum(&outcomes, sum_of(|status| status.received), sum_of(|status| status.requeued)),
            outcomes,
            instances,
        }
    }
}

fn rate_limits(instances: &[Instance]) -> BTreeMap<String, u64> {
    let limit = |instance: &Instance| {
        let limit = instance.status.as_ref().map(|status| u64::from(status.rate_limit))?;
        (limit > 0).then(|| (instance.place.clone(), limit))
    };
    instances.iter().filter_map(limit).collect()
}

/// One of another deployment is none of ours.
fn instance(answer: Answer, queue_topic: &str) -> Instance {
    let checked = answer.status.and_then(|status| match status.queue_topic == queue_topic {
        true => Ok(status),
        false => Err(format!("it is of another deployment, whose queue topic is {:?}", status.queue_topic)),
    });
    let (status, error) = match checked {
        Ok(status) => (Some(status), None),
        Err(error) => (None, Some(error)),
    };
    Instance { place: answer.place, error, status }
}

/// What an instance says of its partitions is younger than what its group has committed; for the others Kafka speaks.
fn by_partition(held: Held, at: Timestamp, instances: &[Instance], lags: fn(&Status) -> &[Lag]) -> Vec<PartitionLag> {
    let mut all: BTreeMap<TopicPartition, PartitionLag> = BTreeMap::new();
    let row = |(topic, partition): &TopicPartition| PartitionLag {
        topic: topic.clone(),
        partition: *partition,
        events: None,
        seconds: None,
        instance: None,
    };
    for (place, unread) in held {
        let lag = all.entry(place.clone()).or_insert_with(|| row(&place));
        let Unread::Records { events, oldest } = unread else { continue };
        let age = |oldest| at.as_millisecond().saturating_sub(oldest).max(0) as f64 / 1000.0;
        // Where nothing waits, nothing is old.
        lag.seconds = oldest.map(age).or((events == 0).then_some(0.0));
        lag.events = Some(events);
    }
    for Instance { place: who, status, .. } in instances {
        for lag in status.iter().flat_map(lags) {
            let place = (lag.topic.clone(), lag.partition);
            let known = all.entry(place.clone()).or_insert_with(|| row(&place));
            known.events = lag.events.or(known.events);
            known.seconds = lag.seconds;
            known.instance = Some(who.clone());
        }
    }
    all.into_values().collect()
}

fn rates(first: &[Answer], second: &[Answer], seconds: f64) -> Option<Rates> {
    let before: BTreeMap<&str, &Status> =
        first.iter().filter_map(|answer| answer.status.as_ref().ok()).map(|s| (s.instance.as_str(), s)).collect();
    let pairs: Vec<(&Status, &Status)> = second
        .iter()
        .filter_map(|answer| answer.status.as_ref().ok())
        .filter_map(|now| Some((*before.get(now.instance.as_str())?, now)))
        .collect();
    let rate = |count: fn(&Status) -> u64| {
        pairs.iter().map(|(before, now)| count(now).saturating_sub(count(before))).sum::<u64>() as f64 / seconds
    };
    (!pairs.is_empty()).then(|| Rates {
        received: rate(|status| status.received),
        delivered: rate(|status| settled(&status.outcomes, Outcome::Delivered)),
        requests: rate(|status| status.requests),
    })
}

fn settled(outcomes: &[Settled], outcome: Outcome) -> u64 {
    outcomes.iter().filter(|row| row.outcome == outcome.as_str()).map(|row| row.events).sum()
}

fn outcomes(all: &[&Status]) -> Vec<Settled> {
    let mut counts: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    for row in all.iter().flat_map(|status| &status.outcomes) {
        *counts.entry((&row.outcome, &row.reason)).or_default() += row.events;
    }
    let row = |((outcome, reason), events): ((&str, &str), u64)| Settled {
        outcome: outcome.to_owned(),
        reason: reason.to_owned(),
        events,
    };
    counts.into_iter().map(row).collect()
}

fn sum(outcomes: &[Settled], received: u64, requeued: u64) -> Sum {
    // An outcome that only a newer version knows is settled too.
    let all: u64 = outcomes.iter().map(|row| row.events).sum();
    Sum {
        received,
        requeued,
        delivered: settled(outcomes, Outcome::Delivered),
        duplicate: settled(outcomes, Outcome::Duplicate),
        filtered: settled(outcomes, Outcome::Filtered),
        dead_lettered: settled(outcomes, Outcome::DeadLettered),
        on_its_way: (received + requeued) as i64 - all as i64,
    }
}

fn dedup_entries(all: &[&Status]) -> BTreeMap<String, u64> {
    let mut entries = BTreeMap::new();
    for (kind, count) in all.iter().flat_map(|status| &status.dedup_entries) {
        *entries.entry(kind.clone()).or_default() += count;
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::status::Place;

    fn status(instance: &str, partitions: std::ops::Range<i32>) -> Status {
        let lag = |topic: &str| {
            let lag = |partition| Lag {
                topic: topic.into(),
                partition,
                events: Some(5),
                seconds: Some(f64::from(partition)),
            };
            partitions.clone().map(lag).collect()
        };
        let settled = |outcome: &str, events| Settled { outcome: outcome.into(), reason: "visit".into(), events };
        Status {
            instance: instance.into(),
            queue_topic: "n.queue".into(),
            source: lag("events"),
            queue: lag("n.queue"),
            received: 100,
            requests: 70,
            outcomes: vec![settled("delivered", 60), settled("duplicate", 30)],
            ..Status::default()
        }
    }

    fn found(answers: &[Result<Status, String>]) -> Found {
        let answers = |earlier: u64| {
            let answer = |status: &Result<Status, String>| {
                let mut status = status.clone();
                if let Ok(status) = &mut status {
                    status.received -= earlier;
                }
                let place = status.as_ref().map_or("gone:1".into(), |status| format!("{}:1", status.instance));
                Answer { place, status }
            };
            answers.iter().map(answer).collect()
        };
        let unread = Unread::Records { events: 7, oldest: Some(-9_000) };
        let held = |topic: &str| Ok((0..4).map(|partition| ((topic.to_owned(), partition), unread)).collect());
        Found {
            at: Timestamp::UNIX_EPOCH,
            brokers: "k:9092".into(),
            queue_topic: "n.queue".into(),
            queue_retention: Duration::from_secs(7 * 86_400),
            keying: Ok(()),
            first: answers(20),
            seconds: 2.0,
            second: answers(0),
            source: held("events"),
            queue: held("n.queue"),
        }
    }

    #[test]
    fn two_healthy_instances_are_added_up() {
        let report = Report::of(found(&[Ok(status("a", 0..2)), Ok(status("b", 2..4))]));
        assert!(report.healthy && report.problems.is_empty(), "{:?}", report.problems);
        let Sum { received, delivered, duplicate, on_its_way, .. } = report.sum;
        assert_eq!((received, delivered, duplicate, on_its_way), (200, 120, 60, 20));
        assert_eq!(report.rates.expect("two samples").received, 20.0);
        let holders: Vec<_> = report.queue.iter().map(|lag| lag.instance.as_deref().expect("one has it")).collect();
        assert_eq!(holders, ["a:1", "a:1", "b:1", "b:1"]);
        assert_eq!(report.queue[0].events, Some(5), "the instance's own word is younger");
    }

    /// The one problem that there is.
    fn problem(answers: &[Result<Status, String>]) -> String {
        problem_of(found(answers))
    }

    fn problem_of(found: Found) -> String {
        let report = Report::of(found);
        assert!(!report.healthy);
        assert_eq!(report.problems.len(), 1, "{:?}", report.problems);
        report.problems[0].clone()
    }

    #[test]
    fn each_thing_that_is_wrong_is_told() {
        let whole = || status("a", 0..4);
        let circuit = Some(Circuit { reason: "unauthorized".into(), since: "then".into() });
        assert!(problem(&[Ok(Status { circuit, ..whole() })]).contains("circuit to Nat.app is open: unauthorized"));
        assert!(problem(&[Ok(Status { stuck: vec!["ingest".into()], ..whole() })]).contains("a:1 is stuck: ingest"));
        assert!(problem(&[Ok(Status { cut_off: true, ..whole() })]).contains("cut off"));
        assert!(problem(&[Ok(Status { restoring: 2, ..whole() })]).contains("a:1 restores 2 partitions"));
        let held = |until: &str| Status { held_until: Some(until.into()), ..whole() };
        let told = problem(&[Ok(held("1970-01-02T00:00:00Z"))]);
        assert!(told.contains("a:1 sends nothing: Nat.app said not to come back before 1970-01-02"), "{told}");
        assert!(Report::of(found(&[Ok(held("1970-01-01T00:01:00Z"))])).healthy, "no longer than many a Retry-After");
        let told = problem(&[Ok(Status { api_key_file_wrong: true, ..whole() })]);
        assert!(told.contains("a:1: nat.api_key_file holds no usable key"), "{told}");
        let stopped = vec![Place { topic: "events".into(), partition: 1 }];
        assert!(problem(&[Ok(Status { stopped, ..whole() })]).contains("partition 1 of events"));
        assert!(problem(&[Ok(whole()), Err("refused".into())]).contains("gone:1 gives no status: refused"));
        let other = Status { queue_topic: "other.queue".into(), ..status("b", 0..4) };
        assert!(problem(&[Ok(whole()), Ok(other)]).contains("another deployment"));
        let half = Report::of(found(&[Ok(status("a", 0..3))]));
        assert!(half.problems.iter().all(|problem| problem.contains("has partition 3 of")), "{:?}", half.problems);
        assert_eq!(half.problems.len(), 2);
    }

    #[test]
    fn the_rate_limit_of_one_instance_of_several_is_told() {
        let report = |limits: [u32; 2]| {
            let of = |name, partitions, rate_limit| Ok(Status { rate_limit, ..status(name, partitions) });
            Report::of(found(&[of("a", 0..2, limits[0]), of("b", 2..4, limits[1])]))
        };
        let told = |limits| {
            let Report { rate_limit, rate_limits, .. } = report(limits);
            (rate_limit, rate_limits.into_iter().map(|(place, limit)| format!("{place} {limit}")).collect::<Vec<_>>())
        };
        assert_eq!(told([0, 0]), (None, vec![]));
        assert_eq!(told([0, 6]), (None, vec!["b:1 6".to_owned()]));
        assert_eq!(told([4, 6]).0, Some(10));
        let line = |limits| super::super::screen::text(&report(limits), Default::default());
        assert!(line([0, 0]).contains("requests, no rate limit\n"), "{}", line([0, 0]));
        let one = line([0, 6]);
        assert!(one.contains("requests, at most 6 a second at 1 of 2 instances, no rate limit at the rest\n"), "{one}");
        assert!(line([4, 6]).contains("requests, at most 10 a second\n"), "{}", line([4, 6]));
    }

    #[test]
    fn what_nobody_says_of_itself_is_told_too() {
        let retention =
            |seconds| Found { queue_retention: Duration::from_secs(seconds), ..found(&[Ok(status("a", 0..4))]) };
        // The oldest is in partition 3, and three seconds old.
        assert!(Report::of(retention(6)).healthy);
        let told = problem_of(retention(5));
        assert!(told.contains("has waited for 3s; Kafka deletes it after 5s (retention.ms of the topic)"), "{told}");
        let mut led_by_nobody = found(&[Ok(status("a", 0..4))]);
        let away = [1, 3].map(|partition| (("events".to_owned(), partition), Unread::NoLeader));
        led_by_nobody.source.as_mut().expect("known").extend(away);
        let told = problem_of(led_by_nobody);
        assert!(told.starts_with("partitions 1, 3 of events have no leader"), "{told}");
        let mut made_anew = found(&[]);
        made_anew.queue.as_mut().expect("known").insert(("n.queue".to_owned(), 2), Unread::NotInTopic);
        let Report { problems, queue, .. } = Report::of(made_anew);
        assert!(problems[1].starts_with("the offset of partition 2 of n.queue is not in the topic"), "{problems:?}");
        assert_eq!((queue[2].events, queue[2].seconds), (None, None), "what waits in it cannot be known");
        let unread = Report::of(found(&[Ok(status("a", 0..1))])).problems;
        assert_eq!(unread[0], "no instance that answers has partitions 1, 2, 3 of events");
        let keying = || Err(KafkaProblem::Topic { topic: "n.queue".into(), problem: "a resize is under way".into() });
        let told = problem_of(Found { keying: keying(), ..found(&[Ok(status("a", 0..4))]) });
        assert!(told.contains("n.queue") && told.contains("a resize is under way"), "{told}");
    }

    #[test]
    fn the_runbook_says_of_each_problem_what_to_do() {
        let wrong = Status {
            circuit: Some(Circuit::default()),
            stuck: vec!["ingest".into()],
            cut_off: true,
            restoring: 2,
            held_until: Some("1970-01-02T00:00:00Z".into()),
            stopped: vec![Place { topic: "events".into(), partition: 1 }],
            api_key_file_wrong: true,
            suppress_file_wrong: true,
            ..status("a", 0..3)
        };
        let other = Status { queue_topic: "other.queue".into(), ..status("b", 0..4) };
        let topic = |problem: String| Err(KafkaProblem::Topic { topic: "n.queue".into(), problem });
        let all_at_once = Found {
            queue_retention: Duration::from_secs(1),
            source: Err(KafkaProblem::Stopped("away".into())),
            queue: Ok(Held::from([
                (("n.queue".to_owned(), 3), Unread::NoLeader),
                (("n.queue".to_owned(), 0), Unread::NotInTopic),
            ])),
            keying: topic("a resize from 3 to 6 partitions is under way, and so on".into()),
            ..found(&[Ok(wrong), Ok(other), Err("refused".into())])
        };
        let added = Found { keying: topic(crate::kafka::added(5, 3)), ..found(&[]) };
        let unreadable = Found { keying: topic(crate::kafka::UNREADABLE.into()), ..found(&[]) };
        let problems = [all_at_once, added, unreadable].map(|found| Report::of(found).problems).concat();
        assert_eq!(problems.len(), 20, "{problems:#?}");
        let runbook = include_str!("../../../deploy/runbook.md");
        let (_, table) = runbook.split_once("| line | what it means | what to do |\n|---|---|---|\n").expect("a table");
        let rows: Vec<&str> = table.lines().map_while(|line| line.strip_prefix("| `")?.split('`').next()).collect();
        let fits = |problem: &str, row: &str| {
            let mut pieces = row.split('…');
            let begin = pieces.next().and_then(|first| problem.strip_prefix(first));
            begin.and_then(|begin| pieces.try_fold(begin, |rest, piece| Some(rest.split_once(piece)?.1))).is_some()
        };
        for problem in &problems {
            assert!(rows.iter().any(|row| fits(problem, row)), "the runbook has no row for {problem:?}");
        }
        for row in &rows {
            assert!(problems.iter().any(|problem| fits(problem, row)), "status says no such thing: {row:?}");
        }
    }

    #[test]
    fn without_an_instance_the_lag_is_kafkas_word() {
        let told = problem(&[]);
        assert!(told.contains("no instance answers"), "{told}");
        let report = Report::of(found(&[]));
        assert!(report.source.iter().all(|lag| lag.events == Some(7) && lag.instance.is_none()));
        assert!(report.rates.is_none());
    }
}
