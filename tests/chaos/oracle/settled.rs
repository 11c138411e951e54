//! Statement 1: every event is settled exactly as it must be. None is lost, and each dead letter is justified and whole.

use std::collections::HashSet;
use std::time::Duration;

use super::{Case, Court, Judgement, is_backfilled};
use crate::cluster::Record;
use crate::events::{Fate, Header, Nature};
use crate::instance::MAX_ELAPSED;

/// Between the clocks that a life measures patience and tells times by.
const TOLERANCE: Duration = Duration::from_millis(250);

pub fn judge(court: &Court<'_>, judgement: &mut Judgement) {
    let accepted_days = accepted_days(court);
    for case in &court.cases {
        letters(court, case, judgement);
        match &case.event.fate {
            Fate::Filtered => nowhere(case, judgement),
            Fate::Invalid(reason) => invalid(case, reason, judgement),
            Fate::Visit { nature } => {
                queued(case, judgement);
                sent_as_it_is(court, case, judgement);
                visit(court, case, *nature, &accepted_days, judgement);
            }
            // Whether it had to be sent is a matter of its sequence: statement 3.
            Fate::Engage { .. } => {
                queued(case, judgement);
                sent_as_it_is(court, case, judgement);
            }
        }
    }
    judgement.count("contact-days accepted", accepted_days.len() as u64);
    judgement.count("queue records", court.evidence.topics.queue.len() as u64);
}

/// (contact, day) of visits that Nat.app has taken.
fn accepted_days<'a>(court: &Court<'a>) -> HashSet<(&'a str, &'a str)> {
    let visits = court.cases.iter().filter(|case| matches!(case.event.fate, Fate::Visit { .. }));
    let accepted = visits.filter(|case| is_accepted(court, case));
    accepted.map(|case| (case.event.contact.as_str(), case.event.day.as_str())).collect()
}

pub fn is_accepted(court: &Court<'_>, case: &Case<'_>) -> bool {
    case.requests.iter().any(|request| court.request(*request).accepted())
}

fn nowhere(case: &Case<'_>, judgement: &mut Judgement) {
    judgement.count("events filtered", 1);
    if !case.queued.is_empty() || !case.letters.is_empty() || !case.requests.is_empty() {
        judgement.wrong(1, format!("{} had to be filtered, and was not", case.name()));
    }
}

fn invalid(case: &Case<'_>, reason: &str, judgement: &mut Judgement) {
    judgement.count("events invalid", 1);
    if case.letters.is_empty() {
        judgement.lost += 1;
        judgement.wrong(1, format!("LOST: {} had to become a dead letter, {reason}, and did not", case.name()));
    }
    if !case.queued.is_empty() || !case.requests.is_empty() {
        judgement.wrong(1, format!("{} is invalid ({reason}), and was sent on", case.name()));
    }
}

/// In the queue as it came: value, headers, and the contact for its key.
fn queued(case: &Case<'_>, judgement: &mut Judgement) {
    judgement.count("events deliverable", 1);
    if case.queued.is_empty() {
        judgement.lost += 1;
        judgement.wrong(1, format!("LOST: {} never came into the queue", case.name()));
    }
    judgement.count("events queued again", case.queued.len().saturating_sub(1) as u64);
    for record in &case.queued {
        let same = record.value.as_deref() == Some(case.event.text.as_slice())
            && record.key.as_deref() == Some(case.event.contact.as_bytes())
            && (is_backfilled(record) || record.headers.starts_with(&case.record.headers));
        if !same {
            judgement.wrong(1, format!("{} is not in the queue as it came: {record:?}", case.name()));
        }
    }
}

/// What was sent says what the event says.
fn sent_as_it_is(court: &Court<'_>, case: &Case<'_>, judgement: &mut Judgement) {
    for number in &case.requests {
        let Some(said) = &court.request(*number).said else { continue };
        let engage = match &case.event.fate {
            Fate::Engage { key, value } => Some((key.clone(), value.clone())),
            _ => None,
        };
        if said.email != case.event.contact || said.day != case.event.day || said.engage != engage {
            judgement.wrong(1, format!("{} was sent as {said:?}", case.name()));
        }
    }
}

fn visit(
    court: &Court<'_>,
    case: &Case<'_>,
    nature: Nature,
    accepted_days: &HashSet<(&str, &str)>,
    judgement: &mut Judgement,
) {
    let day = (case.event.contact.as_str(), case.event.day.as_str());
    let settled = match nature {
        Nature::Fine | Nature::Rejected => !case.letters.is_empty() || accepted_days.contains(&day),
        Nature::Failing => !case.letters.is_empty(),
    };
    if !settled && !case.queued.is_empty() {
        judgement.lost += 1;
        let tried = case.requests.iter().map(|request| court.tell(court.request(*request)));
        let tried: Vec<_> = tried.collect();
        let at: Vec<_> = case.queued.iter().map(|record| format!("{}:{}", record.partition, record.offset)).collect();
        let written: Vec<_> = at.iter().flat_map(|at| written(court, at)).collect();
        judgement.wrong(
            1,
            format!(
                "LOST: {} (queue {at:?}): its contact-day {} was not accepted and there is no dead letter; tried: {tried:?}; \
                 Kafka told its senders of a dead letter: {written:?}",
                case.name(),
                case.event.day
            ),
        );
    }
    if is_accepted(court, case) && !case.letters.is_empty() {
        judgement.count("accepted and dead letter", 1);
    }
}

/// What instances were told of writing a dead letter of that queue record, and what stands in that place now.
fn written(court: &Court<'_>, queue_place: &str) -> Vec<String> {
    let message = format!("dead letter of {queue_place} of the queue written");
    let mut told = Vec::new();
    for life in &court.evidence.lives {
        for line in life.log_text().lines().filter(|line| line.contains(&message)) {
            let line: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
            let (partition, offset) = (line["partition"].as_i64(), line["offset"].as_i64());
            let there = court
                .evidence
                .topics
                .letters
                .iter()
                .find(|letter| Some(i64::from(letter.partition)) == partition && Some(letter.offset) == offset);
            let there = there.and_then(|letter| letter.header("nat.source"));
            told.push(format!("life {} at {partition:?}:{offset:?}, where {there:?} stands", life.number));
        }
    }
    told
}

// ── dead letters ─────────────────────────────────────────────────────────────────────────────────────────────────────

fn letters(court: &Court<'_>, case: &Case<'_>, judgement: &mut Judgement) {
    judgement.count("dead letters written again", case.letters.len().saturating_sub(1) as u64);
    for letter in &case.letters {
        let reason = letter.header("nat.reason").unwrap_or_default();
        *judgement.letters.entry(reason.clone()).or_default() += 1;
        if let Some(problem) = untrue(case, letter).or_else(|| unjustified(court, case, letter, &reason)) {
            let at = format!("dead letter {}:{} ({reason})", letter.partition, letter.offset);
            judgement.wrong(1, format!("{at} of {}: {problem}", case.name()));
        }
    }
}

/// The source's exact key, value and headers; of a batch, the item.
fn untrue(case: &Case<'_>, letter: &Record) -> Option<String> {
    if is_backfilled(letter) {
        let same = letter.value.as_ref() == Some(&case.event.text);
        return (!same).then(|| "its value is not the file's".to_owned());
    }
    let value = if case.record.batch { Some(&case.event.text) } else { case.record.value.as_ref() };
    if letter.key != case.record.key {
        return Some(format!("its key is {:?} and not {:?}", letter.key, case.record.key));
    }
    if letter.value.as_ref() != value {
        return Some(format!("its value is {:?}", letter.value.as_deref().map(String::from_utf8_lossy)));
    }
    let (original, ours) = letter.headers.split_at(case.record.headers.len().min(letter.headers.len()));
    if original != case.record.headers.as_slice() {
        return Some(format!("the original headers are {original:?}"));
    }
    let is_ours = |(name, _): &&Header| name.starts_with("nat.") || name.starts_with("__connect.errors.");
    ours.iter().find(|header| !is_ours(header)).map(|header| format!("it has a header {header:?}"))
}

fn unjustified(court: &Court<'_>, case: &Case<'_>, letter: &Record, reason: &str) -> Option<String> {
    match (&case.event.fate, reason) {
        (Fate::Invalid(right), reason) => (reason != *right).then(|| format!("it had to be {right}")),
        (Fate::Filtered, _) => Some("it had to be filtered".into()),
        (_, "rejected") => {
            let rejected = case.requests.iter().any(|request| court.request(*request).status == 400);
            (!rejected).then(|| "Nat.app has never answered 400 to it".into())
        }
        (_, "retries_exhausted") => {
            let time = |name: &str| letter.header(name)?.parse::<i64>().ok();
            let (Some(first), Some(last)) = (time("nat.first_attempt"), time("nat.last_attempt")) else {
                return Some("it does not say when it was tried".into());
            };
            let elapsed = Duration::from_millis(last.saturating_sub(first).max(0) as u64);
            let too_soon = elapsed + TOLERANCE < MAX_ELAPSED;
            too_soon.then(|| format!("it was given up after {elapsed:?}, before retry.max_elapsed"))
        }
        (_, reason) => Some(format!("a good event must not end as {reason}")),
    }
}
