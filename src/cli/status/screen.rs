//! The report as people read it: one screen, the worst first.

use std::fmt::Write;
use std::time::Duration;

use jiff::Timestamp;

use super::report::{Instance, PartitionLag, Rates, Report, Sum};
use crate::admin::status::Status;
use crate::cli::table::{counted, number, table};

/// How much is shown of what can be long.
#[derive(Debug, Clone, Copy)]
pub struct Detail {
    /// Of a topic no more than these, the ones furthest behind.
    pub partitions: usize,
    /// Of the outcomes.
    pub reasons: bool,
}

impl Default for Detail {
    fn default() -> Detail {
        Detail { partitions: 12, reasons: true }
    }
}

pub fn text(report: &Report, detail: Detail) -> String {
    let mut text = String::new();
    head(&mut text, report);
    overview(&mut text, report);
    partitions(&mut text, report, detail.partitions);
    instances(&mut text, report);
    if detail.reasons {
        outcomes(&mut text, report);
    }
    if one_answers(report) {
        // Writing into a String does not fail.
        let _ = writeln!(text, "\n{}", law(&report.sum));
    }
    text
}

fn one_answers(report: &Report) -> bool {
    report.instances.iter().any(|instance| instance.status.is_some())
}

fn head(text: &mut String, report: &Report) {
    let health = if report.healthy { "healthy" } else { "UNHEALTHY" };
    let _ = writeln!(text, "{health}  {} on {}, {}", report.queue_topic, report.brokers, report.at);
    for problem in &report.problems {
        let _ = writeln!(text, "  - {problem}");
    }
}

/// Where no instance answers, what Kafka says of the lag is all that is known.
fn overview(text: &mut String, report: &Report) {
    let mut lines = vec![("waiting", waiting(report))];
    if one_answers(report) {
        let circuit = report.circuit.as_ref();
        let circuit = circuit.map_or("closed".into(), |open| format!("open: {}, since {}", open.reason, open.since));
        lines.insert(0, ("circuit", circuit));
        lines.extend([("in flight", in_flight(report)), ("rates", rates(report)), ("dedup", dedup(report))]);
    }
    for (name, value) in lines {
        let _ = writeln!(text, "{name:<10} {value}");
    }
}

fn waiting(report: &Report) -> String {
    // What has waited for less than a second is not waiting.
    let oldest = report.oldest_waiting_seconds.filter(|age| *age >= 1.0);
    let oldest = oldest.map_or(String::new(), |age| format!("; the oldest for {}", duration(age)));
    format!("source {}, queue {}{oldest}", total(&report.source), total(&report.queue))
}

fn in_flight(report: &Report) -> String {
    format!("{} of at most {} requests, {}", report.in_flight, report.concurrency_limit, rate_limit(report))
}

fn rate_limit(report: &Report) -> String {
    let limits = &report.rate_limits;
    let at_most = || format!("at most {} a second", number(limits.values().sum()));
    if limits.is_empty() {
        return "no rate limit".to_owned();
    }
    if report.rate_limit.is_some() {
        return at_most();
    }
    let answering = report.instances.iter().filter(|instance| instance.status.is_some()).count();
    format!("{} at {} of {answering} instances, no rate limit at the rest", at_most(), limits.len())
}

fn rates(report: &Report) -> String {
    report.rates.as_ref().map_or("not known: no instance has answered twice".into(), |rates| {
        let Rates { received, delivered, requests } = rates;
        format!("received {received:.0}/s, delivered {delivered:.0}/s, requests {requests:.0}/s")
    })
}

fn dedup(report: &Report) -> String {
    let entry = |(kind, count): (&String, &u64)| format!("{kind} {}", number(*count));
    format!("entries: {}", report.dedup_entries.iter().map(entry).collect::<Vec<_>>().join(", "))
}

/// The lag of a whole topic, as far as it is known.
fn total(lags: &[PartitionLag]) -> String {
    let known: Vec<u64> = lags.iter().filter_map(|lag| lag.events).collect();
    match known.is_empty() {
        true => "not known".into(),
        false => counted(known.iter().sum(), "event"),
    }
}

fn partitions(text: &mut String, report: &Report, most: usize) {
    let mut rows = Vec::new();
    let mut hidden = 0;
    for lags in [&report.source, &report.queue] {
        let mut shown: Vec<&PartitionLag> = lags.iter().collect();
        if shown.len() > most {
            shown.sort_by_key(|lag| std::cmp::Reverse(lag.events));
            hidden += shown.split_off(most).len();
            shown.sort_by(|a, b| (&a.topic, a.partition).cmp(&(&b.topic, b.partition)));
        }
        rows.extend(shown.into_iter().map(partition));
    }
    if rows.is_empty() {
        return;
    }
    let _ = write!(text, "\n{}", table(&["partition", "lag", "oldest", "instance"], &[1, 2], &rows));
    if hidden > 0 {
        let _ = writeln!(text, "and {hidden} that are no further behind; --json has all");
    }
}

fn partition(lag: &PartitionLag) -> Vec<String> {
    vec![
        format!("{} {}", lag.topic, lag.partition),
        lag.events.map_or("?".into(), number),
        lag.seconds.map_or("?".into(), duration),
        lag.instance.clone().unwrap_or_else(|| "nobody's".into()),
    ]
}

fn instances(text: &mut String, report: &Report) {
    let rows: Vec<Vec<String>> = report.instances.iter().map(|instance| one_instance(instance, &report.at)).collect();
    if !rows.is_empty() {
        let head = ["instance", "version", "up for", "source", "queue", "in flight", "pending", "state"];
        let _ = write!(text, "\n{}", table(&head, &[2, 3, 4, 5, 6], &rows));
    }
}

fn one_instance(instance: &Instance, at: &str) -> Vec<String> {
    let place = instance.place.clone();
    let Some(status) = &instance.status else {
        let nothing = || "-".to_owned();
        let error = instance.error.clone().unwrap_or_default();
        return vec![place, nothing(), nothing(), nothing(), nothing(), nothing(), nothing(), error];
    };
    vec![
        place,
        status.version.clone(),
        up_for(&status.started_at, at),
        number(status.source.len() as u64),
        number(status.queue.len() as u64),
        number(status.in_flight),
        number(status.pending),
        state(status),
    ]
}

/// What it says of itself, in as few words as do.
fn state(status: &Status) -> String {
    let held = status.held_until.iter().map(|until| format!("Nat.app said not to come back before {until}"));
    let cut_off = status.cut_off.then(|| "cut off from Kafka".to_owned());
    let stopped =
        status.stopped.iter().map(|place| format!("cannot read partition {} of {}", place.partition, place.topic));
    let own = status.stuck.iter().chain(&status.not_ready).cloned();
    let said: Vec<String> = own.chain(cut_off).chain(stopped).chain(held).collect();
    match said.is_empty() {
        true => "ready".into(),
        false => said.join("; "),
    }
}

fn up_for(started_at: &str, at: &str) -> String {
    let seconds = |text: &str| text.parse::<Timestamp>().ok().map(Timestamp::as_second);
    match (seconds(started_at), seconds(at)) {
        (Some(started), Some(now)) => duration((now - started).max(0) as f64),
        _ => "?".into(),
    }
}

fn outcomes(text: &mut String, report: &Report) {
    let row = |row: &crate::admin::status::Settled| vec![row.outcome.clone(), row.reason.clone(), number(row.events)];
    let rows: Vec<Vec<String>> = report.outcomes.iter().map(row).collect();
    if !rows.is_empty() {
        let _ = write!(text, "\n{}", table(&["since the start", "reason", "events"], &[2], &rows));
    }
}

/// Every event is accounted for: the sum.
fn law(sum: &Sum) -> String {
    let Sum { received, requeued, delivered, duplicate, filtered, dead_lettered, on_its_way } = sum;
    let [received, requeued, delivered, duplicate, filtered, dead_lettered] =
        [received, requeued, delivered, duplicate, filtered, dead_lettered].map(|count| number(*count));
    let settled =
        format!("delivered {delivered} + duplicate {duplicate} + filtered {filtered} + dead-lettered {dead_lettered}");
    match u64::try_from(*on_its_way) {
        Ok(rest) => format!("received {received} + requeued {requeued} = {settled} + on its way {}", number(rest)),
        Err(_) => format!(
            "received {received} + requeued {requeued} + received before these instances started {} = {settled}, and what is \
             on its way",
            number(on_its_way.unsigned_abs())
        ),
    }
}

/// To the second.
fn duration(seconds: f64) -> String {
    humantime::format_duration(Duration::from_secs(seconds.max(0.0) as u64)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_that_delivers_nothing_is_not_called_ready() {
        let stopped = vec![crate::admin::status::Place { topic: "events".into(), partition: 1 }];
        assert_eq!(state(&Status { stopped, ..Status::default() }), "cannot read partition 1 of events");
        assert_eq!(state(&Status { cut_off: true, ..Status::default() }), "cut off from Kafka");
        assert_eq!(state(&Status::default()), "ready");
    }

    #[test]
    fn the_sum_is_told_as_one_and_what_came_before_the_start_too() {
        let sum = Sum {
            received: 1000,
            requeued: 5,
            delivered: 600,
            duplicate: 200,
            filtered: 100,
            dead_lettered: 5,
            on_its_way: 100,
        };
        assert_eq!(
            law(&sum),
            "received 1,000 + requeued 5 = delivered 600 + duplicate 200 + filtered 100 + dead-lettered 5 + on its way 100"
        );
        let restarted = law(&Sum { received: 800, on_its_way: -100, ..sum });
        assert!(restarted.contains("received before these instances started 100"), "{restarted}");
    }
}
