//! `dead-letters redrive`: puts dead letters into the queue again (design.md, rule 9). What has been taken is noted in the
//! dead-letter topic itself, behind the queue's acknowledgement: killed between the two, an event comes into the queue
//! twice, which dedup sees to; it is never noted and not there.
//!
//! Two readings to one end that is fixed before: the first decides about each letter, when all notes are known; the second
//! sends those that were chosen.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::process::ExitCode;

use clap::Args;
use jiff::Timestamp;
use rdkafka::message::{Header, OwnedHeaders};
use serde_json::json;

use super::choice::{Choice, Chosen, Counts, PassedOver, Taken, count, origin, sendable};
use super::notes::Notes;
use super::outcomes::{Outcomes, QueuePlace, Sent, Watch};
use super::scan::{self, Found, Place};
use super::told_since::EngageEvent;
use super::{FilterArgs, MAX_REDRIVES, prepare};
use crate::cli::progress::Progress;
use crate::cli::table::{counted, number, printable};
use crate::cli::time::{horizon, well_behind};
use crate::cli::{CommandError, STOPPED, SettingsArgs, Stopped, suppress_list, verified, write_result};
use crate::config::Config;
use crate::dead_letter::record::Sendable;
use crate::dead_letter::{Filter, Kind};
use crate::enqueue::{Enqueue, Enqueued, Entry};
use crate::kafka::{Headers, Next, Range, RangeReader};
use crate::suppress::SuppressList;

/// Put them into the queue again, so that they are sent to Nat.app
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    nat-destination dead-letters redrive --config nat-destination.toml --reason rejected --since 2d --dry-run\n  \
    nat-destination dead-letters redrive --config nat-destination.toml --reason rejected --since 2d --rate 50 --wait\n  \
    nat-destination dead-letters redrive --config nat-destination.toml --since 2d --again --dry-run\n\n\
    Takes what is there at its start. It can be stopped (Ctrl-C) and run again: what was taken is noted in the dead-letter \
    topic, and passed over. Two at a time do no harm: what both take is delivered once, since the contact's day is used up; \
    and where it is rejected again, twice, the next redrive takes one of the two letters and notes both. \
    A dry run does not know how large a record the queue takes.\n\n\
    Passed over as well: what is still invalid or filtered by today's settings, what another tool wrote or changed, what does not stand \
    in the topic whole, what was redriven --max-redrives times already, and Engage's events older than the value that \
    Nat.app has or that waits for it.\n\n\
    Of a dead letter older than dedup.retention the contact's day may have been delivered by another event since, and been \
    forgotten: it is told how many that are, and nothing is sent without --allow-redelivery. What becomes so old while it \
    runs is passed over.\n\n\
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
    /// Also what is older than dedup.retention, of which Nat.app may have been told by another event
    #[arg(long)]
    allow_redelivery: bool,
    /// Also what an earlier redrive has taken: where the queue lost it before it was delivered (nat_destination_records_gone_total).
    /// What Nat.app has been told since is a duplicate
    #[arg(long)]
    again: bool,
    /// Pass over what was redriven so often already
    #[arg(long, value_name = "TIMES", default_value_t = MAX_REDRIVES, value_parser = clap::value_parser!(u32).range(1..))]
    max_redrives: u32,
    /// Wait until Nat.app has answered, and say what came of them; needs a running service
    #[arg(long, conflicts_with = "dry_run")]
    wait: bool,
    /// One JSON object at the end: letters, events, reasons, passed_over, items_left, forgettable_contact_days, outcomes, stopped
    #[arg(long)]
    json: bool,
}

pub async fn run(args: RedriveArgs) -> Result<ExitCode, CommandError> {
    let (config, filter) = match prepare(&args.settings, args.filter)? {
        Ok(prepared) => prepared,
        Err(code) => return Ok(code),
    };
    let stopped = Stopped::listen();
    let config = if args.dry_run { config } else { stopped.asking(verified(config)).await? };
    // It is fixed now: what becomes a dead letter again is not taken again by this run.
    let ranges = stopped.asking(scan::ranges(&config, &filter)).await?;
    let watch = if args.wait { Some(stopped.asking(Watch::begin(&config)).await?) } else { None };
    let (dry_run, as_json) = (args.dry_run, args.json);
    let options = Options {
        dry_run,
        rate: args.rate,
        max_redrives: args.max_redrives,
        again: args.again,
        allow_redelivery: args.allow_redelivery,
    };
    let done = stopped.working(move |stopped| redrive(&config, &filter, ranges, &options, watch, stopped));
    let report = done.await?.ok_or(CommandError::Stopped)?;
    if report.stopped {
        eprintln!("{}", report.how_to_go_on());
    }
    report.none_meant.iter().for_each(|told| eprintln!("{}", told.trim_end()));
    let code = if report.stopped { ExitCode::from(STOPPED) } else { ExitCode::SUCCESS };
    let text = if as_json { format!("{}\n", report.json(dry_run)) } else { report.words(dry_run) };
    let code = write_result(&text, code);
    report.failed.map_or(Ok(code), Err)
}

struct Options {
    dry_run: bool,
    rate: Option<u32>,
    max_redrives: u32,
    again: bool,
    allow_redelivery: bool,
}

/// `None`: it was stopped before anything was sent.
fn redrive(
    config: &Config,
    filter: &Filter,
    ranges: Vec<Range>,
    options: &Options,
    watch: Option<Watch>,
    stopped: &Stopped,
) -> Result<Option<Report>, CommandError> {
    let list = suppress_list(config)?.unwrap_or_default();
    let mut choice = Choice::new(config, &list, options.max_redrives, options.again, Timestamp::now());
    let read = scan::select(config, filter, ranges.clone(), "reading", stopped, |found| {
        choice.decide(&found);
        Ok(ControlFlow::Continue(()))
    })?;
    let Some(read) = read else { return Ok(None) };
    let horizon = choice.horizon();
    let chosen = choice.settle(stopped)?;
    if stopped.is_so() {
        return Ok(None);
    }
    if options.dry_run || chosen.letters.is_empty() {
        let none_meant = chosen.is_nothing().then(|| scan::none_of(read, filter));
        return Ok(Some(Report { none_meant, ..Report::of(chosen) }));
    }
    ask_for_leave(config, &chosen, horizon, options.allow_redelivery)?;
    // What was counted in advance is counted anew: the rules look at the clock.
    let mut report = Report { again: options.again, events: 0, items_left: Counts::new(), ..Report::of(chosen) };
    let mut sending = Sending::new(config, &list, options, watch.is_some())?;
    // What was done until then is told all the same.
    report.failed = sending.finished(&ranges, &mut report, watch, stopped).err();
    Ok(Some(report))
}

/// Whether what was delivered since, and forgotten, may be sent again.
fn ask_for_leave(config: &Config, chosen: &Chosen, horizon: i64, is_allowed: bool) -> Result<(), CommandError> {
    let contact_days = chosen.forgettable.len() as u64;
    if contact_days == 0 {
        return Ok(());
    }
    let retention = humantime::format_duration(config.dedup_retention);
    let told = format!(
        "{} (an Engage value counts as one) of dead letters older than dedup.retention ({retention}): what another event \
         delivered since may have been forgotten, and would be sent again",
        counted(contact_days, "contact-day")
    );
    if is_allowed {
        eprintln!("{told}. --allow-redelivery: so be it");
        return Ok(());
    }
    let since = well_behind(horizon);
    Err(CommandError::Told(format!(
        "{told}. Nothing was sent. Add --allow-redelivery to send them all the same, or take the younger ones only: \
         --since {since}"
    )))
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
    list: &'a SuppressList,
    options: &'a Options,
    queue: Enqueue<(Place, Option<Sent>)>,
    notes: Notes,
    under_way: BTreeMap<Place, UnderWay>,
    /// Where somebody waits for what comes of them: the queue's places.
    waits: bool,
    sent: BTreeMap<QueuePlace, Sent>,
}

impl<'a> Sending<'a> {
    fn new(
        config: &'a Config,
        list: &'a SuppressList,
        options: &'a Options,
        waits: bool,
    ) -> Result<Sending<'a>, CommandError> {
        let queue = Enqueue::new(config, options.rate).map_err(CommandError::told)?;
        let notes = Notes::new(config).map_err(CommandError::told)?;
        Ok(Sending { config, list, options, queue, notes, under_way: BTreeMap::new(), waits, sent: BTreeMap::new() })
    }

    /// All of it, and what came of them if somebody waits for that.
    fn finished(
        &mut self,
        ranges: &[Range],
        report: &mut Report,
        watch: Option<Watch>,
        stopped: &Stopped,
    ) -> Result<(), CommandError> {
        let sent = self.run(ranges, report, stopped);
        // What was sent before an error is noted as well.
        let noted = self.finish(report);
        sent.and(noted)?;
        if let Some(watch) = watch {
            report.outcomes = match watch.wait(self.config, &self.sent, stopped) {
                Err(CommandError::Stopped) => None,
                outcomes => outcomes?,
            };
            report.stopped |= report.outcomes.is_none();
        }
        Ok(())
    }

    fn run(&mut self, ranges: &[Range], report: &mut Report, stopped: &Stopped) -> Result<(), CommandError> {
        let chosen = std::mem::take(&mut report.chosen.letters);
        let mut reader = RangeReader::new(self.config, narrowed(ranges, &chosen)).map_err(CommandError::told)?;
        let mut progress = Progress::new("redrive", "dead letters", chosen.len() as u64);
        let mut done = 0;
        while !stopped.is_so() {
            match reader.next().map_err(CommandError::told)? {
                Next::Record(message) => {
                    let found = Found::new(message);
                    if let Some(taken) = chosen.get(&found.place()) {
                        self.send(&found, taken.reason, report, stopped)?;
                        done += 1;
                    }
                }
                Next::Idle => {}
                Next::End => {
                    report.pass_over(PassedOver::Gone, chosen.len() as u64 - done);
                    return Ok(());
                }
            }
            let acknowledged = self.queue.acknowledged().map_err(CommandError::told)?;
            self.note(acknowledged, report)?;
            progress.at(done);
        }
        report.stopped = true;
        Ok(())
    }

    fn finish(&mut self, report: &mut Report) -> Result<(), CommandError> {
        let rest = self.queue.finish().map_err(CommandError::told)?;
        self.note(rest, report)?;
        self.notes.finish().map_err(CommandError::told)
    }

    fn send(&mut self, found: &Found, reason: u16, report: &mut Report, stopped: &Stopped) -> Result<(), CommandError> {
        let Kind::Letter(letter) = &found.kind else { return Ok(()) };
        // The clock has gone on since the first reading: it may be too old by now, and a timestamp out of range.
        let now = Timestamp::now();
        if !self.options.allow_redelivery && found.at() < horizon(self.config.dedup_retention, now) {
            report.pass_over(PassedOver::Forgettable, 1);
            return Ok(());
        }
        let (mut events, invalid) = match sendable(self.config, self.list, found, letter, now) {
            Ok(sendable) => sendable,
            Err(why) => {
                report.pass_over(why, 1);
                return Ok(());
            }
        };
        let engage = |sent: &Sendable<'_>| EngageEvent::of(&sent.key, &origin(self.config, found, letter, sent.item));
        if events.iter().any(|sent| engage(sent).is_some()) {
            report.chosen.told.look_again(self.config, stopped)?;
        }
        let all = events.len();
        events.retain(|sent| !engage(sent).is_some_and(|event| report.chosen.told.holds(&event)));
        if events.is_empty() {
            report.pass_over(PassedOver::ToldSince, 1);
            return Ok(());
        }
        count(&mut report.items_left, PassedOver::StillInvalid, invalid);
        count(&mut report.items_left, PassedOver::ToldSince, (all - events.len()) as u64);
        events.iter().filter_map(engage).for_each(|event| report.chosen.told.add_waiting(&event));
        let place = found.place();
        self.under_way.insert(place, UnderWay { left: events.len(), reason, too_large: false });
        for Sendable { email, event, item, .. } in events {
            if stopped.is_so() {
                // Without its note the whole letter is taken again; of what was sent dedup knows.
                return Ok(());
            }
            let origin = origin(self.config, found, letter, item);
            let sent = self.waits.then(|| Sent { source: origin.to_string(), redrives: letter.redrives + 1 });
            let entry = Entry { email: &email, event: &event, headers: owned(&letter.original), origin: &origin };
            self.queue.send(entry, (place, sent)).map_err(CommandError::told)?;
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
            report.events += u64::from(queued.is_some());
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
                report.pass_over(PassedOver::TooLarge, 1);
                continue;
            }
            *report.redriven.entry(reason).or_insert(0) += 1;
            let copies = report.chosen.copies.get(&place).into_iter().flatten();
            for letter in copies.chain([&place]) {
                self.notes.write(*letter).map_err(CommandError::told)?;
            }
        }
        self.notes.acknowledged().map_err(CommandError::told)
    }
}

/// From the first to the last of those chosen in each partition.
fn narrowed(ranges: &[Range], chosen: &BTreeMap<Place, Taken>) -> Vec<Range> {
    let narrow = |range: &Range| {
        let place = |offset| Place { partition: range.place.1, offset };
        let mut within = chosen.range(place(range.begin)..place(range.end)).map(|(place, _)| place.offset);
        let first = within.next()?;
        Some(Range { begin: first, end: within.next_back().unwrap_or(first) + 1, ..range.clone() })
    };
    ranges.iter().filter_map(narrow).collect()
}

fn owned(headers: &Headers) -> OwnedHeaders {
    let room = OwnedHeaders::new_with_capacity(headers.len() + 3);
    headers.iter().fold(room, |owned, (key, value)| owned.insert(Header { key, value: value.as_deref() }))
}

/// What is said at the end.
#[derive(Default)]
struct Report {
    chosen: Chosen,
    /// What is said where the filter takes none.
    none_meant: Option<String>,
    /// How many letters are to be redriven, or were.
    wanted: u64,
    /// Letters by their reason's number.
    redriven: BTreeMap<u16, u64>,
    events: u64,
    /// Letters.
    passed_over: Counts,
    /// Events of batches whose others were sent.
    items_left: Counts,
    outcomes: Option<Outcomes>,
    again: bool,
    stopped: bool,
    /// Why it was not done.
    failed: Option<CommandError>,
}

impl Report {
    fn of(mut chosen: Chosen) -> Report {
        Report {
            wanted: chosen.letters.len() as u64,
            events: chosen.events,
            passed_over: std::mem::take(&mut chosen.passed_over),
            items_left: std::mem::take(&mut chosen.items_left),
            chosen,
            ..Report::default()
        }
    }

    /// Of those chosen, after all.
    fn pass_over(&mut self, why: PassedOver, letters: u64) {
        self.wanted -= letters;
        count(&mut self.passed_over, why, letters);
    }

    /// Letters that were redriven, or would be.
    fn by_reason(&self, dry_run: bool) -> BTreeMap<&str, u64> {
        let mut counts = BTreeMap::new();
        let name = |reason: u16| self.chosen.reasons.get(usize::from(reason)).map_or("-", String::as_str);
        if dry_run {
            self.chosen.letters.values().for_each(|taken| *counts.entry(name(taken.reason)).or_insert(0) += 1);
        } else {
            counts.extend(self.redriven.iter().map(|(reason, count)| (name(*reason), *count)));
        }
        counts
    }

    fn how_to_go_on(&self) -> String {
        let taken: u64 = self.redriven.values().sum();
        match self.wanted.saturating_sub(taken) {
            0 => "stopped before their outcomes were known; all were redriven, and the service, where it runs, goes on with them".to_owned(),
            left => format!(
                "stopped with {} left; run the same command again to go on{}",
                counted(left, "dead letter"),
                match self.again {
                    true => ", from the beginning: what is delivered by then is a duplicate",
                    false => ": what was taken is passed over then",
                }
            ),
        }
    }

    fn json(&self, dry_run: bool) -> serde_json::Value {
        let reasons = self.by_reason(dry_run);
        let named =
            |counts: &Counts| -> BTreeMap<_, _> { counts.iter().map(|(why, count)| (why.as_str(), *count)).collect() };
        json!({
            "dry_run": dry_run, "letters": reasons.values().sum::<u64>(), "events": self.events, "reasons": reasons,
            "passed_over": named(&self.passed_over), "items_left": named(&self.items_left),
            "forgettable_contact_days": self.chosen.forgettable.len(),
            "outcomes": self.outcomes.as_ref().map(Outcomes::json), "stopped": self.stopped,
        })
    }

    fn words(&self, dry_run: bool) -> String {
        let reasons = self.by_reason(dry_run);
        let what = if dry_run { "to be redriven" } else { "redriven" };
        let line = |name: &str, count: u64, why: &str| {
            format!("{}\n", format!("  {:<24}{:>9}  {why}", printable(name), number(count)).trim_end())
        };
        let mut text = format!("{what}: {}\n", number(reasons.values().sum()));
        reasons.iter().for_each(|(reason, count)| text.push_str(&line(reason, *count, "")));
        text.push_str(&format!("passed over: {}\n", number(self.passed_over.values().sum())));
        self.passed_over.iter().for_each(|(why, count)| text.push_str(&line(why.as_str(), *count, why.because())));
        if !self.items_left.is_empty() {
            text.push_str("left, of batches whose other events are taken:\n");
            self.items_left.iter().for_each(|(why, count)| text.push_str(&line(why.as_str(), *count, why.because())));
        }
        if dry_run && !self.chosen.forgettable.is_empty() {
            let contact_days = number(self.chosen.forgettable.len() as u64);
            text.push_str(&format!(
                "contact-days older than dedup.retention, which could be sent again: {contact_days}\n"
            ));
        }
        if let Some(outcomes) = &self.outcomes {
            text.push_str("what came of them:\n");
            outcomes.lines().for_each(|(name, count, why)| text.push_str(&line(name, count, why)));
        }
        text
    }
}
