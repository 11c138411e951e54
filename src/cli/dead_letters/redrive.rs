//! `dead-letters redrive`: puts dead letters into the queue again (design.md, rule 9). What has been taken is noted in the
//! dead-letter topic itself, behind the queue's acknowledgement: killed between the two, an event comes into the queue
//! twice, which dedup sees to; it is never noted and not there.
//!
//! Two readings to one end that is fixed before: the first decides about each letter, when all notes are known; the second
//! sends those that were chosen.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use clap::Args;
use jiff::Timestamp;
use rdkafka::message::{Header, OwnedHeaders};
use serde_json::json;

use super::outcomes::{Outcomes, Sent, Watch};
use super::scan::{self, Found, Place, Redriven};
use super::{FilterArgs, prepare};
use crate::cli::progress::Progress;
use crate::cli::table::number;
use crate::cli::{CommandError, STOPPED, SettingsArgs, Stopped, interruptible};
use crate::config::Config;
use crate::dead_letter::record::{Today, today};
use crate::dead_letter::{Filter, Kind, Letter, Note, Origin, Road};
use crate::enqueue::{self, Enqueue, Enqueued, Entry};
use crate::kafka::{
    Ack, AckingProducer, Headers, KafkaProblem, Next, OutgoingRecord, Range, RangeReader, producer_config,
};

/// Put them into the queue again, so that they are sent to Nat.app
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    nat-destination dead-letters redrive --config nat-destination.toml --reason rejected --since 2d --dry-run\n  \
    nat-destination dead-letters redrive --config nat-destination.toml --reason rejected --since 2d --rate 50 --wait\n\n\
    Takes what is there at its start. It can be stopped (Ctrl-C) and run again: what was taken is noted in the dead-letter\n\
    topic, and passed over. Two at a time do no harm: what both take is sent once, since the contact's day is used up.\n\
    Passed over as well: what is still invalid by today's rules, what another tool wrote, what does not stand in the topic\n\
    whole, and what was redriven --max-redrives times already.\n\n\
    Exit codes: 0 done, 1 a problem, 2 wrong usage, 130 stopped before it was done.")]
pub struct RedriveArgs {
    #[command(flatten)]
    settings: SettingsArgs,
    #[command(flatten)]
    filter: FilterArgs,
    /// Count what would be redriven, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// So many events a second at most
    #[arg(long, value_name = "EVENTS", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// Pass over what was redriven so often already
    #[arg(long, value_name = "TIMES", default_value_t = 3)]
    max_redrives: u32,
    /// Wait until Nat.app has answered, and say what came of them; needs a running service
    #[arg(long, conflicts_with = "dry_run")]
    wait: bool,
    /// One JSON object at the end: letters, events, reasons, passed_over, outcomes, stopped
    #[arg(long)]
    json: bool,
}

/// Why a letter is not redriven.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum PassedOver {
    AlreadyRedriven,
    RedrivenTooOften,
    StillInvalid,
    NothingForNat,
    Truncated,
    TooLarge,
    Foreign,
}

impl PassedOver {
    fn as_str(self) -> &'static str {
        match self {
            PassedOver::AlreadyRedriven => "already_redriven",
            PassedOver::RedrivenTooOften => "redriven_too_often",
            PassedOver::StillInvalid => "still_invalid",
            PassedOver::NothingForNat => "nothing_for_nat",
            PassedOver::Truncated => "truncated",
            PassedOver::TooLarge => "too_large",
            PassedOver::Foreign => "foreign",
        }
    }

    fn because(self) -> &'static str {
        match self {
            PassedOver::AlreadyRedriven => "taken by an earlier redrive",
            PassedOver::RedrivenTooOften => "redriven --max-redrives times already, and dead again each time",
            PassedOver::StillInvalid => "by today's rules they are invalid still",
            PassedOver::NothingForNat => "by today's rules they are filtered",
            PassedOver::Truncated => {
                "their beginning only is here; replay the whole from the source topic (show tells where)"
            }
            PassedOver::TooLarge => "larger than the queue topic takes (max.message.bytes)",
            PassedOver::Foreign => "another tool wrote them",
        }
    }
}

pub async fn run(args: RedriveArgs) -> Result<ExitCode, CommandError> {
    let (config, filter) = match prepare(&args.settings, args.filter)? {
        Ok(prepared) => prepared,
        Err(code) => return Ok(code),
    };
    // It is fixed now: what becomes a dead letter again is not taken again by this run.
    let ranges = scan::ranges(&config, &filter).await?;
    let watch = if args.wait { Some(Watch::begin(&config).await?) } else { None };
    let limits = (args.max_redrives, args.rate);
    let (dry_run, as_json) = (args.dry_run, args.json);
    let done = interruptible(move |stopped| redrive(&config, &filter, ranges, limits, dry_run, watch, stopped));
    let Some(report) = done.await? else { return Ok(scan::cut_short()) };
    print!("{}", if as_json { format!("{}\n", report.json(dry_run)) } else { report.words(dry_run) });
    if report.stopped {
        eprintln!("{}", report.how_to_go_on());
    }
    Ok(if report.stopped { ExitCode::from(STOPPED) } else { ExitCode::SUCCESS })
}

fn redrive(
    config: &Config,
    filter: &Filter,
    ranges: Vec<Range>,
    (max_redrives, rate): (u32, Option<u32>),
    dry_run: bool,
    watch: Option<Watch>,
    stopped: &Stopped,
) -> Result<Option<Report>, CommandError> {
    let mut choice = Choice::default();
    let all = scan::select(config, filter, ranges.clone(), "reading", stopped, |found| {
        choice.decide(config, max_redrives, &found);
        Ok(ControlFlow::Continue(()))
    })?;
    if all.is_none() {
        return Ok(None);
    }
    let mut report = choice.settle();
    if dry_run || report.chosen.is_empty() {
        return Ok(Some(report));
    }
    let mut sending = Sending::new(config, rate, watch.is_some())?;
    sending.run(&ranges, &mut report, stopped)?;
    if let Some(watch) = watch {
        report.outcomes = watch.wait(config, &sending.sent, stopped)?;
        report.stopped |= report.outcomes.is_none();
    }
    Ok(Some(report))
}

/// What the first reading finds out.
#[derive(Default)]
struct Choice {
    /// Those to be taken, with the number of their reason.
    taken: BTreeMap<Place, u16>,
    reasons: Vec<String>,
    passed_over: BTreeMap<Place, PassedOver>,
    redriven: Redriven,
}

impl Choice {
    fn decide(&mut self, config: &Config, max_redrives: u32, found: &Found) {
        if self.redriven.note(found) {
            return;
        }
        match why_not(config, max_redrives, found) {
            Some(why) => drop(self.passed_over.insert(found.place(), why)),
            None => {
                let reason = self.reason(found);
                self.taken.insert(found.place(), reason);
            }
        }
    }

    /// There are few reasons, and there may be millions of letters.
    fn reason(&mut self, found: &Found) -> u16 {
        let Kind::Letter(letter) = &found.kind else { return 0 };
        let known = self.reasons.iter().position(|reason| *reason == letter.reason);
        let number = known.unwrap_or_else(|| {
            self.reasons.push(letter.reason.clone());
            self.reasons.len() - 1
        });
        u16::try_from(number).unwrap_or(u16::MAX)
    }

    /// When all notes are known.
    fn settle(mut self) -> Report {
        for place in self.redriven.places() {
            let chosen = self.taken.remove(&place).is_some();
            if chosen || self.passed_over.contains_key(&place) {
                self.passed_over.insert(place, PassedOver::AlreadyRedriven);
            }
        }
        let wanted = self.taken.len() as u64;
        let mut report = Report { chosen: self.taken, wanted, reasons: self.reasons, ..Report::default() };
        for why in self.passed_over.into_values() {
            *report.passed_over.entry(why).or_insert(0) += 1;
        }
        report
    }
}

fn why_not(config: &Config, max_redrives: u32, found: &Found) -> Option<PassedOver> {
    let Kind::Letter(letter) = &found.kind else { return Some(PassedOver::Foreign) };
    if letter.truncated.is_some() {
        return Some(PassedOver::Truncated);
    }
    if letter.redrives >= max_redrives {
        return Some(PassedOver::RedrivenTooOften);
    }
    match today(&config.rules, found.value(), letter.is_event, Timestamp::now()) {
        Today::Events(_) => None,
        Today::Filtered => Some(PassedOver::NothingForNat),
        Today::Invalid(_) => Some(PassedOver::StillInvalid),
    }
}

/// The events of one letter on their way.
struct UnderWay {
    left: usize,
    reason: u16,
    too_large: bool,
}

/// The second reading.
struct Sending<'a> {
    config: &'a Config,
    queue: Enqueue<(Place, Option<Sent>)>,
    notes: Notes,
    under_way: BTreeMap<Place, UnderWay>,
    /// Where somebody waits for what comes of them: the queue's places.
    waits: bool,
    sent: BTreeMap<(i32, i64), Sent>,
}

impl Sending<'_> {
    fn new(config: &Config, rate: Option<u32>, waits: bool) -> Result<Sending<'_>, CommandError> {
        let queue = Enqueue::new(config, rate).map_err(CommandError::told)?;
        let notes = Notes::new(config).map_err(CommandError::told)?;
        Ok(Sending { config, queue, notes, under_way: BTreeMap::new(), waits, sent: BTreeMap::new() })
    }

    fn run(&mut self, ranges: &[Range], report: &mut Report, stopped: &Stopped) -> Result<(), CommandError> {
        let chosen = std::mem::take(&mut report.chosen);
        let mut reader = RangeReader::new(self.config, narrowed(ranges, &chosen)).map_err(CommandError::told)?;
        let mut progress = Progress::new("redrive", "dead letters", chosen.len() as u64);
        let mut taken = 0;
        report.stopped = loop {
            if stopped.is_so() {
                break true;
            }
            match reader.next().map_err(CommandError::told)? {
                Next::Record(message) => {
                    let found = Found::new(message);
                    if let Some(reason) = chosen.get(&found.place()) {
                        self.send(&found, *reason, report, stopped)?;
                        taken += 1;
                    }
                }
                Next::Idle => {}
                Next::End => break false,
            }
            let acknowledged = self.queue.acknowledged().map_err(CommandError::told)?;
            self.note(acknowledged, report)?;
            progress.at(taken);
        };
        let rest = self.queue.finish().map_err(CommandError::told)?;
        self.note(rest, report)?;
        self.notes.finish().map_err(CommandError::told)
    }

    fn send(&mut self, found: &Found, reason: u16, report: &mut Report, stopped: &Stopped) -> Result<(), CommandError> {
        let Kind::Letter(letter) = &found.kind else { return Ok(()) };
        // The clock has gone on since the first reading: a timestamp may be out of range by now.
        let Today::Events(events) = today(&self.config.rules, found.value(), letter.is_event, Timestamp::now()) else {
            *report.passed_over.entry(PassedOver::StillInvalid).or_insert(0) += 1;
            return Ok(());
        };
        let place = found.place();
        self.under_way.insert(place, UnderWay { left: events.len(), reason, too_large: false });
        for (email, event, item) in events {
            if stopped.is_so() {
                // Without its note the whole letter is taken again; of what was sent dedup knows.
                return Ok(());
            }
            let origin = origin(self.config, found, letter, item);
            let sent = self.waits.then(|| Sent { source: origin.to_string(), redrives: letter.redrives + 1 });
            let entry = Entry { email: &email, event: &event, headers: owned(&letter.original), origin: &origin };
            self.queue.send(entry, (place, sent)).map_err(CommandError::told)?;
            report.events += 1;
        }
        Ok(())
    }

    /// A letter is noted when the queue has all of its events.
    fn note(
        &mut self,
        acknowledged: Vec<Enqueued<(Place, Option<Sent>)>>,
        report: &mut Report,
    ) -> Result<(), CommandError> {
        for Enqueued { token: (place, sent), place: queued } in acknowledged {
            if let (Some(queued), Some(sent)) = (queued, sent) {
                self.sent.insert(queued, sent);
            }
            let Some(letter) = self.under_way.get_mut(&place) else { continue };
            letter.left -= 1;
            letter.too_large |= queued.is_none();
            if letter.left > 0 {
                continue;
            }
            let Some(UnderWay { reason, too_large, .. }) = self.under_way.remove(&place) else { continue };
            if too_large {
                // Not noted: once the topic takes more, it can be redriven.
                *report.passed_over.entry(PassedOver::TooLarge).or_insert(0) += 1;
            } else {
                *report.redriven.entry(reason).or_insert(0) += 1;
                self.notes.write(place).map_err(CommandError::told)?;
            }
        }
        self.notes.acknowledged().map_err(CommandError::told)
    }
}

/// From the first to the last of those chosen in each partition.
fn narrowed(ranges: &[Range], chosen: &BTreeMap<Place, u16>) -> Vec<Range> {
    let narrow = |range: &Range| {
        let place = |offset| Place { partition: range.place.1, offset };
        let mut within = chosen.range(place(range.begin)..place(range.end)).map(|(place, _)| place.offset);
        let first = within.next()?;
        Some(Range { begin: first, end: within.next_back().unwrap_or(first) + 1, ..range.clone() })
    };
    ranges.iter().filter_map(narrow).collect()
}

/// Where the event came from: the same as before, with the road that it takes now.
fn origin<'a>(config: &'a Config, found: &'a Found, letter: &'a Letter, item: Option<usize>) -> Origin<'a> {
    let road = Some(Road::Redrive(letter.redrives.saturating_add(1)));
    let key = found.key().map(Into::into);
    match letter.origin.clone() {
        Some(origin) => Origin { item: item.or(origin.item), key, road, ..origin },
        None => Origin {
            topic: config.topics.dead_letter.as_str().into(),
            partition: found.place().partition,
            offset: found.place().offset,
            timestamp: found.at(),
            key,
            item,
            road,
        },
    }
}

fn owned(headers: &Headers) -> OwnedHeaders {
    let room = OwnedHeaders::new_with_capacity(headers.len() + 3);
    headers.iter().fold(room, |owned, (key, value)| owned.insert(Header { key, value: value.as_deref() }))
}

/// Writes the notes of what was taken.
struct Notes {
    producer: AckingProducer<()>,
    acks: Receiver<Ack<()>>,
    topic: String,
    under_way: enqueue::Unacknowledged,
}

impl Notes {
    fn new(config: &Config) -> Result<Notes, KafkaProblem> {
        let (sender, acks) = channel();
        let on_ack = move |ack| {
            let _ = sender.send(ack); // Without a receiver nobody waits for it.
        };
        let producer = AckingProducer::new(&producer_config(config), Box::new(on_ack))?;
        let topic = config.topics.dead_letter.clone();
        Ok(Notes { producer, acks, topic, under_way: enqueue::Unacknowledged::new(Instant::now()) })
    }

    /// Into the letter's own partition: there retention deletes the letter first, so that none is left without its note.
    fn write(&mut self, Place { partition, offset }: Place) -> Result<(), KafkaProblem> {
        self.under_way.begin(Instant::now());
        let mut headers = Note { partition, offset }.headers();
        loop {
            let partition = Some(partition);
            let record = OutgoingRecord { topic: &self.topic, partition, key: None, value: None, headers };
            match self.producer.send(record, ()) {
                Ok(()) => {
                    self.under_way.count += 1;
                    return Ok(());
                }
                Err(refused) if refused.queue_full() => {
                    headers = refused.headers;
                    self.acknowledged()?;
                    std::thread::sleep(Duration::from_millis(2));
                }
                Err(refused) => return Err(self.unwritten(&refused.error)),
            }
        }
    }

    fn acknowledged(&mut self) -> Result<(), KafkaProblem> {
        while let Ok(ack) = self.acks.try_recv() {
            self.acknowledge(ack)?;
        }
        match self.under_way.is_given_up(Instant::now()) {
            true => Err(self.unwritten(&"no broker has taken a record for a minute")),
            false => Ok(()),
        }
    }

    fn finish(&mut self) -> Result<(), KafkaProblem> {
        while self.under_way.count > 0 {
            match self.acks.recv_timeout(Duration::from_millis(100)) {
                Ok(ack) => self.acknowledge(ack)?,
                Err(_) => self.acknowledged()?,
            }
        }
        Ok(())
    }

    fn acknowledge(&mut self, ack: Ack<()>) -> Result<(), KafkaProblem> {
        self.under_way.taken(Instant::now());
        ack.result.map(drop).map_err(|failure| self.unwritten(&failure))
    }

    fn unwritten(&self, error: &dyn std::fmt::Display) -> KafkaProblem {
        let problem = format!(
            "it cannot be noted what was redriven: {error}. Run the same command again: what is in the queue twice is sent once"
        );
        KafkaProblem::Topic { topic: self.topic.clone(), problem }
    }
}

/// What is said at the end.
#[derive(Default)]
struct Report {
    chosen: BTreeMap<Place, u16>,
    /// How many were chosen.
    wanted: u64,
    reasons: Vec<String>,
    /// Letters by their reason's number.
    redriven: BTreeMap<u16, u64>,
    events: u64,
    passed_over: BTreeMap<PassedOver, u64>,
    outcomes: Option<Outcomes>,
    stopped: bool,
}

impl Report {
    /// Letters that were redriven, or would be.
    fn by_reason(&self, dry_run: bool) -> BTreeMap<&str, u64> {
        let mut counts = BTreeMap::new();
        let name = |reason: u16| self.reasons.get(usize::from(reason)).map_or("-", String::as_str);
        if dry_run {
            self.chosen.values().for_each(|reason| *counts.entry(name(*reason)).or_insert(0) += 1);
        } else {
            counts.extend(self.redriven.iter().map(|(reason, count)| (name(*reason), *count)));
        }
        counts
    }

    fn how_to_go_on(&self) -> String {
        let taken: u64 = self.redriven.values().sum();
        match self.wanted.saturating_sub(taken) {
            0 => "stopped waiting for their outcomes; all were redriven, and the service goes on with them".to_owned(),
            left => format!(
                "stopped with {} dead letters left; run the same command again to go on: what was taken is passed over then",
                number(left)
            ),
        }
    }

    fn json(&self, dry_run: bool) -> serde_json::Value {
        let reasons = self.by_reason(dry_run);
        let passed: BTreeMap<_, _> = self.passed_over.iter().map(|(why, count)| (why.as_str(), count)).collect();
        json!({
            "dry_run": dry_run, "letters": reasons.values().sum::<u64>(), "events": self.events, "reasons": reasons,
            "passed_over": passed, "outcomes": self.outcomes.as_ref().map(Outcomes::json), "stopped": self.stopped,
        })
    }

    fn words(&self, dry_run: bool) -> String {
        let reasons = self.by_reason(dry_run);
        let what = if dry_run { "to be redriven" } else { "redriven" };
        let line = |name: &str, count: u64, why: &str| {
            format!("{}\n", format!("  {name:<24}{:>9}  {why}", number(count)).trim_end())
        };
        let mut text = format!("{what}: {}\n", number(reasons.values().sum()));
        reasons.iter().for_each(|(reason, count)| text.push_str(&line(reason, *count, "")));
        text.push_str(&format!("passed over: {}\n", number(self.passed_over.values().sum())));
        self.passed_over.iter().for_each(|(why, count)| text.push_str(&line(why.as_str(), *count, why.because())));
        if let Some(outcomes) = &self.outcomes {
            text.push_str("what came of them:\n");
            outcomes.lines().for_each(|(name, count, why)| text.push_str(&line(name, count, why)));
        }
        text
    }
}
