//! Statement 5: the conservation law of the metrics. Of each life that ended in order: received = filtered + dead-lettered
//! by ingest + queued. Over all lives: what they say they queued and settled agrees with what lies in the topics.

use serde_json::Value;

use super::{Court, Judgement};
use crate::clock::{MILLI, Micros, SECOND};
use crate::cluster::Record;
use crate::instance::Life;

/// What a life counted.
#[derive(Debug, Clone, Copy, Default)]
struct Account {
    received: u64,
    queued: u64,
    delivered: u64,
    duplicate: u64,
    filtered: u64,
    dead_lettered: u64,
    /// What Kafka had not acknowledged to ingest when it had to end.
    unsettled: u64,
    /// Told by its last words, after the last event: exact.
    last_words: bool,
}

pub fn judge(court: &Court<'_>, judgement: &mut Judgement) {
    let lives = &court.evidence.lives;
    let accounts: Vec<Account> = lives.iter().map(account).collect();
    for (life, account) in lives.iter().zip(&accounts) {
        of_one_life(court, life, account, judgement);
    }
    let sum = |of: fn(&Account) -> u64| accounts.iter().map(of).sum::<u64>();
    let (received, queued, dead) = (sum(|a| a.received), sum(|a| a.queued), sum(|a| a.dead_lettered));
    let settled_by_ingest = sum(|a| a.filtered) + queued;
    let settled = sum(|a| a.delivered) + sum(|a| a.duplicate) + dead;
    let inexact: Vec<&Life> =
        lives.iter().zip(&accounts).filter(|(_, account)| !account.last_words).map(|(life, _)| life).collect();
    let killed = inexact.iter().filter(|life| !life.ended_well()).count();
    judgement.notes.push(format!(
        "metrics of {} lives ({killed} of them not ended in order, {} without last words): received {received}, filtered + \
         queued {settled_by_ingest}, dead-lettered {dead}, delivered + duplicate + dead-lettered {settled}",
        lives.len(),
        inexact.len()
    ));
    queue(court, queued, &inexact, judgement);
    let letters = court.evidence.topics.letters.len() as u64;
    let ingest_letters = letters_of(court, "VALUE_CONVERTER");
    let by_deliver = settled.saturating_sub(ingest_letters);
    deliver(court, by_deliver, &inexact, judgement);
    if dead > letters {
        judgement.wrong(5, format!("{dead} dead letters counted, {letters} in the topic"));
    } else if inexact.is_empty() && dead != letters {
        judgement
            .notes
            .push(format!("{dead} dead letters counted, {letters} in the topic: some acknowledgements were lost"));
    }
}

/// From its last words, or else from its last answer to a scrape.
fn account(life: &Life) -> Account {
    let log = life.log_text();
    let lines = || log.lines().rev().take(50).filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let unsettled = lines().find_map(|line| line["unsettled"].as_u64()).unwrap_or(0);
    let words = lines().find_map(|line| {
        let number = |name: &str| match &line[name] {
            Value::String(text) => text.parse::<u64>().ok(),
            value => value.as_u64(),
        };
        line["message"].as_str()?.starts_with("ended in order").then_some(())?;
        Some(Account {
            received: number("received")?,
            queued: number("queued")?,
            delivered: number("delivered")?,
            duplicate: number("duplicate")?,
            filtered: number("filtered")?,
            dead_lettered: number("dead_lettered")?,
            unsettled,
            last_words: true,
        })
    });
    let settled = |outcome: &str| life.metric("nat_destination_events_total", &[&format!("outcome=\"{outcome}\"")]);
    words.unwrap_or_else(|| Account {
        received: life.metric("nat_destination_events_received_total", &[]),
        queued: life.metric("nat_destination_events_queued_total", &[]),
        delivered: settled("delivered"),
        duplicate: settled("duplicate"),
        filtered: settled("filtered"),
        dead_lettered: settled("dead_lettered"),
        unsettled,
        last_words: false,
    })
}

/// Letters of one stage, which Kafka Connect's names tell apart.
fn letters_of(court: &Court<'_>, stage: &str) -> u64 {
    let of_that = |letter: &&Record| letter.header("__connect.errors.stage").as_deref() == Some(stage);
    court.evidence.topics.letters.iter().filter(of_that).count() as u64
}

/// Dead letters of a life by reasons that only ingest gives, when last scraped.
fn ingest_letters(life: &Life) -> u64 {
    let dead = |reason: &str| {
        life.metric("nat_destination_events_total", &["outcome=\"dead_lettered\"", &format!("reason=\"{reason}\"")])
    };
    life.metric("nat_destination_events_total", &["outcome=\"dead_lettered\""])
        - dead("rejected")
        - dead("retries_exhausted")
}

/// An equality where nothing was on its way when it was counted: of a life that was there to the end, when all was
/// settled. Of others scraped at work, what ingest settled is at most what it received.
fn of_one_life(court: &Court<'_>, life: &Life, account: &Account, judgement: &mut Judgement) {
    if !life.ended_well() {
        return;
    }
    if account.last_words {
        // The last words do not tell the letters by stage.
        let least = account.filtered + account.queued + account.unsettled;
        if account.received < least || account.received > least + account.dead_lettered {
            judgement.wrong(5, format!("life {} said at its end: {account:?}", life.number));
        }
        judgement.count("lives that told their end", 1);
    }
    let last = court.evidence.lives.iter().filter_map(|life| life.told).max().unwrap_or(Micros::MAX);
    let to_the_end = life.told.is_some_and(|told| told + SECOND > last);
    let scraped = |name: &str, labels: &[&str]| life.metric(name, labels);
    let received = scraped("nat_destination_events_received_total", &[]);
    let settled = scraped("nat_destination_events_queued_total", &[])
        + scraped("nat_destination_events_total", &["outcome=\"filtered\""])
        + ingest_letters(life);
    if to_the_end && court.evidence.stuck.is_none() {
        judgement.count("lives whose account is an equality", 1);
        if received != settled {
            judgement.wrong(5, format!("life {}: received {received}, settled by ingest {settled}", life.number));
        }
    }
}

/// Records of the queue: at least what the lives say was acknowledged; at most that, and what lives without last words
/// may have written after they were last scraped.
fn queue(court: &Court<'_>, queued: u64, inexact: &[&Life], judgement: &mut Judgement) {
    // Those that a tool has put there are not counted by ingest.
    let grown = court.evidence.grown.as_ref();
    let is_of_ingest =
        |record: &&Record| record.header("nat.road").is_none() && grown.is_none_or(|grown| !grown.has_moved(record));
    let records = court.evidence.topics.queue.iter().filter(is_of_ingest);
    let records = records.count() as u64;
    let slack: u64 = inexact.iter().map(|life| pending_in_ingest(life) + appended_unseen(court, life)).sum();
    let unacknowledged = "an acknowledgement that was lost with its life or its connection";
    judgement.notes.push(format!("queue: {queued} acknowledged ≤ {records} records ≤ {queued} + {slack} unseen"));
    if queued > records {
        judgement.wrong(5, format!("{queued} queue records counted, {records} in the topic"));
    }
    if records > queued + slack {
        let all = inexact.is_empty();
        let why = if all { "all lives told their end" } else { unacknowledged };
        judgement.notes.push(format!("queue: {} records more than counted: {why}", records - queued - slack));
        if court.evidence.happened.is_empty() {
            judgement.wrong(5, format!("without a fault {records} queue records, {queued} counted"));
        }
    }
}

fn deliver(court: &Court<'_>, settled: u64, inexact: &[&Life], judgement: &mut Judgement) {
    let passed_over = court.evidence.grown.as_ref().map_or(0, |grown| grown.passed_over);
    let records = court.evidence.topics.queue.len() as u64 - passed_over;
    let unseen = |life: &&Life| {
        life.metric("nat_destination_pending_events", &[])
            + life.metric("nat_destination_queue_lag_events", &[])
            + appended_unseen(court, life)
    };
    let slack: u64 = inexact.iter().map(unseen).sum();
    judgement.notes.push(format!("deliver: {records} queue records ≤ {settled} settled + {slack} unseen"));
    if records > settled + slack {
        judgement.wrong(5, format!("{records} queue records, but only {settled} settled (and at most {slack} unseen)"));
    }
    if court.evidence.happened.is_empty() && records != settled {
        judgement.wrong(5, format!("without a fault {records} queue records, {settled} settled"));
    }
}

fn pending_in_ingest(life: &Life) -> u64 {
    let received = life.metric("nat_destination_events_received_total", &[]);
    let queued = life.metric("nat_destination_events_queued_total", &[]);
    let filtered = life.metric("nat_destination_events_total", &["outcome=\"filtered\""]);
    received.saturating_sub(queued + filtered + ingest_letters(life))
}

/// Queue records appended between a life's last scrape and its end.
fn appended_unseen(court: &Court<'_>, life: &Life) -> u64 {
    let from = life.scraped.as_ref().map_or(life.began, |(at, _)| at - 600 * MILLI);
    let to = life.end().saturating_add(SECOND);
    let records = court.evidence.topics.queue.iter();
    records.filter(|record| (from..=to).contains(&record.at)).count() as u64
}
