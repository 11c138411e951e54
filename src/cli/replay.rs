//! `replay`: a past range of the source topics into the queue once more. Dedup makes it safe; what dedup may have forgotten
//! is told before anything is sent, and needs leave.

mod plan;

use std::collections::{HashMap, HashSet};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use jiff::Timestamp;
use rdkafka::message::{Message, OwnedHeaders, OwnedMessage};

use super::accepted::{Accepted, age, engage_values};
use super::dead_letters::told_since::{EngageEvent, ToldSince};
use super::feeder::{Count, Feeder, Judge, Judged, summary};
use super::records::{each_record, tell_foreign, time_of};
use super::table::counted;
use super::time::{horizon, instant};
use super::{CommandError, STOPPED, SettingsArgs, Stopped, load, start_logs, typed, verified, write_result};
use crate::config::{Config, Log};
use crate::dead_letter::{self, Origin, Road};
use crate::dedup::{DedupKey, Key, Kind, Place};
use crate::enqueue::{Enqueue, Entry};
use crate::kafka::{Bookmark, Range};
use crate::segment::{EngageMode, Identify, Outcome};
use plan::Plan;

/// Put a past range of the source topics into the queue once more
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    nat-destination replay --config nat-destination.toml --from 2026-11-01 --to 2026-11-02 --dry-run\n  \
    nat-destination replay --config nat-destination.toml --from 3d --rate 500\n  \
    nat-destination replay --config nat-destination.toml --from 2026-11-01T08:00Z --topic segment-events\n\n\
    What was delivered is a duplicate and is not sent again, for as long as dedup.retention remembers it. A record that is older \
    than that could be sent again, and so could a late one, whose contact's day began before that: with such in the range the \
    replay tells how many contact-days that are, and wants --allow-redelivery or --leave-out-old; what becomes older while it \
    runs is left out. Of Engage's events those are left out that are older than the value that Nat.app has; where that was \
    forgotten, an old value may overwrite a newer one. What was a dead letter stays one: dead-letters redrive sends those, but \
    for what the dead letter holds the beginning of only.\n\n\
    Stopped by Ctrl-C or killed, the same command goes on where it was. Times are those of the records, and a \
    partition's range ends at its first record of --to or later, also where a clock that is ahead has stamped it. Times such as 3d \
    are another range at every start, hence a stopped replay tells the command that goes on.")]
pub struct ReplayArgs {
    #[command(flatten)]
    settings: SettingsArgs,
    /// From this time on: 2026-11-01, 2026-11-01T08:00Z, or how long ago: 2h, 3d
    #[arg(long, value_name = "TIME", value_parser = instant, allow_hyphen_values = true)]
    from: Timestamp,
    /// Before this time; without it up to now
    #[arg(long, value_name = "TIME", value_parser = instant, allow_hyphen_values = true)]
    to: Option<Timestamp>,
    /// Only this source topic; may be repeated
    #[arg(long = "topic", value_name = "TOPIC")]
    topics: Vec<String>,
    /// Count what would be done, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Events a second at most
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// Also what is older than dedup.retention, which Nat.app may then be told a second time
    #[arg(long)]
    allow_redelivery: bool,
    /// Without what is older than dedup.retention
    #[arg(long, conflicts_with = "allow_redelivery")]
    leave_out_old: bool,
    /// Begin again, though an earlier run of this replay was stopped
    #[arg(long)]
    restart: bool,
    /// The counts as one JSON object
    #[arg(long)]
    json: bool,
}

pub async fn run(mut args: ReplayArgs) -> Result<ExitCode, CommandError> {
    start_logs(&Log { format: "human".into(), level: "warn".into() });
    args.topics.sort();
    args.topics.dedup();
    verify_range(&args)?;
    let (config, stopped) = (load(&args.settings)?, Stopped::listen());
    let config = stopped.asking(verified(config)).await?;
    let plan = stopped.asking(Plan::make(&config, &args)).await?;
    plan.remarks().iter().for_each(|remark| eprintln!("{remark}"));
    let (group, config) = (plan.group.clone(), Arc::new(config));
    let (args, of) = (Arc::new(args), Arc::clone(&config));
    let replay = Replay::new(of, Arc::clone(&args), plan)?;
    let (counts, done) = stopped.working(move |stopped| replay.run(stopped)).await?;
    // All of it before the result, which nobody may read any more.
    let forgotten = match done && !args.dry_run {
        true => plan::forget(&config, &group).await.map_err(CommandError::told),
        false => Ok(()),
    };
    if !done {
        eprintln!("stopped before it was done. {}", how_to_go_on(&args));
    }
    let code = if done { ExitCode::SUCCESS } else { ExitCode::from(STOPPED) };
    let code = write_result(&counts.shown(&args), code);
    forgotten.map(|()| code)
}

fn verify_range(args: &ReplayArgs) -> Result<(), CommandError> {
    let (from, to) = (args.from, args.to.unwrap_or_else(Timestamp::now));
    if from < to {
        return Ok(());
    }
    let to = args.to.map_or_else(|| "now, where it ends without --to".to_owned(), |to| format!("--to {to}"));
    Err(CommandError::Usage(format!("the range is upside down: --from {from} is not before {to}")))
}

fn how_to_go_on(args: &ReplayArgs) -> String {
    if args.dry_run {
        return "Nothing was changed".to_owned();
    }
    let mut command = format!("nat-destination replay{} --from {}", args.settings.typed(), args.from);
    command.extend(args.to.map(|to| format!(" --to {to}")));
    command.extend(args.topics.iter().map(|topic| format!(" --topic {}", typed(topic))));
    command.extend(args.rate.map(|rate| format!(" --rate {rate}")));
    let flags = [
        (args.allow_redelivery, " --allow-redelivery"),
        (args.leave_out_old, " --leave-out-old"),
        (args.json, " --json"),
    ];
    command.extend(flags.iter().filter(|(is_set, _)| *is_set).map(|(_, flag)| *flag));
    format!("What is in the queue is kept in mind; go on with: {command}")
}

/// What became of the events of a range.
#[derive(Debug, Default)]
struct Counts {
    records: u64,
    /// To be put into the queue.
    identify: u64,
    /// Taken by the queue.
    queued: u64,
    filtered: u64,
    invalid: u64,
    dead_letters: u64,
    /// Engage events from before a value that Nat.app was told, or that waits for it.
    told_since: u64,
    too_large: u64,
    /// Offsets that retention deleted before they were read.
    gone: u64,
    /// Older than the retention, and left out since there is no leave.
    left_out: u64,
    /// Older than the retention.
    forgettable: HashSet<Key>,
}

impl Counts {
    fn shown(&self, args: &ReplayArgs) -> String {
        let always = |name, words, count| Count { name, words, count, seldom: false };
        let seldom = |name, words, count| Count { name, words, count, seldom: true };
        let counts = [
            always("records", "records read", self.records),
            match args.dry_run {
                true => always("identify", "identify events that would go into the queue", self.identify),
                false => always("queued", "put into the queue", self.queued),
            },
            always("filtered", "filtered", self.filtered),
            always("invalid", "invalid: dead letters when they came", self.invalid),
            always("dead_letters", "dead letters, left to dead-letters redrive", self.dead_letters),
            seldom("told_since", "Engage's, older than the value that Nat.app has", self.told_since),
            seldom("gone", "offsets that retention deleted before they were read", self.gone),
            seldom("too_large", "larger than the queue takes", self.too_large),
            seldom("left_out", "older than dedup.retention, left out", self.left_out),
            seldom(
                "forgettable_contact_days",
                "contact-days older than dedup.retention, which could be sent again",
                self.forgettable.len() as u64,
            ),
        ];
        summary("replay", &counts, args.json)
    }
}

/// Where an event stood: which range, the offset, the place in a batch, and the record's time: in a topic made anew there are
/// others at the same offsets.
type Spot = (usize, i64, Option<usize>, i64);

/// What Nat.app was told last of an Engage key.
struct Told {
    event: Accepted,
    /// When it was accepted, Unix milliseconds.
    at: i64,
}

struct Replay {
    config: Arc<Config>,
    args: Arc<ReplayArgs>,
    plan: Plan,
    judge: Judge,
    /// Of the range's events, those that the dead-letter topic holds.
    dead_letters: HashSet<Spot>,
    engage: HashMap<Key, Told>,
}

impl Replay {
    fn new(config: Arc<Config>, args: Arc<ReplayArgs>, plan: Plan) -> Result<Replay, CommandError> {
        let judge = Judge::new(&config)?;
        Ok(Replay { config, args, plan, judge, dead_letters: HashSet::new(), engage: HashMap::new() })
    }

    /// What was counted, and whether all of it is done.
    fn run(mut self, stopped: &Stopped) -> Result<(Counts, bool), CommandError> {
        self.find_dead_letters(stopped)?;
        self.find_engage_values(stopped)?;
        // What is too old may stand anywhere: clocks go wrong, and events come late.
        if self.args.dry_run || !self.args.leave_out_old {
            let counts = self.survey(stopped)?;
            if self.args.dry_run || stopped.is_so() {
                return Ok((counts, !stopped.is_so()));
            }
            self.ask_for_leave(&counts)?;
        }
        let counts = self.feed(stopped)?;
        Ok((counts, !stopped.is_so()))
    }

    fn find_dead_letters(&mut self, stopped: &Stopped) -> Result<(), CommandError> {
        let (mut found, mut foreign, ranges) = (HashSet::new(), 0, &self.plan.ranges);
        each_record(&self.config, &self.plan.dead_letters, "reading the dead letters", stopped, |_, letter| {
            let origin = match dead_letter::Kind::read(letter) {
                // A redrive cannot send what is cut: its source record is all there is.
                dead_letter::Kind::Letter(letter) if letter.truncated.is_some() => return Ok(()),
                dead_letter::Kind::Letter(letter) => letter.origin,
                dead_letter::Kind::Note(_) => return Ok(()),
                dead_letter::Kind::Foreign(_) => None,
            };
            let Some(origin) = origin else {
                foreign += 1;
                return Ok(());
            };
            let holds = |range: &Range| {
                range.place.0 == origin.topic
                    && range.place.1 == origin.partition
                    && (range.begin..range.end).contains(&origin.offset)
            };
            if let Some(range) = ranges.iter().position(holds) {
                found.insert((range, origin.offset, origin.item, origin.timestamp));
            }
            Ok(())
        })?;
        self.dead_letters = found;
        tell_foreign(&self.config.topics.dead_letter, foreign);
        Ok(())
    }

    /// What Nat.app had accepted before the replay was started.
    fn find_engage_values(&mut self, stopped: &Stopped) -> Result<(), CommandError> {
        if self.config.rules.engage != EngageMode::Changes {
            return Ok(());
        }
        let values = engage_values(&self.config, &self.plan.delivered, stopped, |_| true)?;
        let found: HashMap<Key, Accepted> = values
            .into_iter()
            .map(|(key, (partition, delivered))| (key, Accepted::of(partition, &delivered)))
            .collect();
        let accepted_at: HashMap<Key, i64> = found.iter().map(|(key, accepted)| (*key, accepted.at)).collect();
        // What was accepted before the range begins is older than all that is in it.
        let from = self.args.from.as_millisecond();
        let (mut young, old): (HashMap<_, _>, HashMap<_, _>) =
            found.into_iter().partition(|(_, accepted)| accepted.at >= from);
        age(&self.config, &mut young, stopped)?;
        let told = |(key, event): (Key, Accepted)| (key, Told { event, at: accepted_at[&key] });
        self.engage = young.into_iter().chain(old).map(told).collect();
        Ok(())
    }

    /// One contact's Engage events lie on several partitions, which a replay reads one after the other. So that none brings an
    /// old value back, it leaves out what is older than the value that Nat.app has: within one partition the offset tells that
    /// (but of a topic made anew, whose offsets begin again), of two only the times.
    fn is_told_since(&self, record: &OwnedMessage, judged: &Judged<'_>) -> bool {
        let Outcome::Identify(identify) = &judged.outcome else { return false };
        let key = DedupKey::of(identify, self.config.rules.engage);
        let Some(told) = self.engage.get(&key.key).filter(|_| key.kind != Kind::Visit) else { return false };
        let item = judged.item.and_then(|item| u32::try_from(item).ok()).unwrap_or(0);
        let place = Place::of(record.topic(), record.partition(), record.offset(), item);
        match place.source == told.event.place.source {
            true => place.is_not_after(&told.event.place) && time_of(record) <= told.at,
            false => time_of(record) <= told.event.at,
        }
    }

    fn waiting(&self, stopped: &Stopped) -> Result<ToldSince, CommandError> {
        match self.config.rules.engage {
            EngageMode::Changes => ToldSince::waiting(&self.config, &self.plan.settled, stopped),
            _ => Ok(ToldSince::default()),
        }
    }

    /// Whether a younger Engage value of another partition waits in the queue, or has since the start; if not, this one does
    /// from now on.
    fn is_overtaken(
        &self,
        waiting: &mut ToldSince,
        record: &OwnedMessage,
        judged: &Judged<'_>,
        identify: &Identify<'_>,
        stopped: &Stopped,
    ) -> Result<bool, CommandError> {
        // A visit's key costs a hash.
        if identify.engage.is_none() {
            return Ok(false);
        }
        let key = DedupKey::of(identify, self.config.rules.engage);
        let Some(event) = EngageEvent::of(&key, &origin(record, judged)) else { return Ok(false) };
        waiting.look_again(&self.config, stopped)?;
        let is_overtaken = waiting.holds(&event);
        if !is_overtaken {
            waiting.add_waiting(&event);
        }
        Ok(is_overtaken)
    }

    /// Counts, and sends nothing.
    fn survey(&self, stopped: &Stopped) -> Result<Counts, CommandError> {
        let (mut counts, mut waiting) = (Counts::default(), self.waiting(stopped)?);
        counts.gone = each_record(&self.config, &self.plan.ranges, "counting", stopped, |range, record| {
            self.each_identify(range, record, &mut counts, |counts, judged, identify| {
                match self.is_forgettable(record, identify) {
                    true if self.args.leave_out_old => counts.left_out += 1,
                    _ if self.is_overtaken(&mut waiting, record, judged, identify, stopped)? => counts.told_since += 1,
                    is_forgettable => {
                        counts.identify += 1;
                        let key = is_forgettable.then(|| DedupKey::of(identify, self.config.rules.engage).key);
                        counts.forgettable.extend(key);
                    }
                }
                Ok(())
            })
        })?;
        Ok(counts)
    }

    fn ask_for_leave(&self, counts: &Counts) -> Result<(), CommandError> {
        let contact_days = counts.forgettable.len() as u64;
        if contact_days == 0 {
            return Ok(());
        }
        let retention = humantime::format_duration(self.config.dedup_retention);
        let told = format!(
            "{} (an Engage value counts as one) of this range, older than dedup.retention ({retention}) or begun before that: \
             what was delivered then may have been forgotten, and would be sent again",
            counted(contact_days, "contact-day")
        );
        if self.args.allow_redelivery {
            eprintln!("{told}. --allow-redelivery: so be it");
            return Ok(());
        }
        Err(CommandError::Told(format!(
            "{told}. Nothing was sent. Add --allow-redelivery to send them all the same, or --leave-out-old to go without them"
        )))
    }

    fn feed(&self, stopped: &Stopped) -> Result<Counts, CommandError> {
        let mut counts = Counts::default();
        self.plan.keep(&self.config).map_err(CommandError::told)?;
        let bookmark = Bookmark::new(&self.config, &self.plan.group).map_err(CommandError::told)?;
        let begins = self.plan.ranges.iter().map(|range| (range.place.clone(), range.begin));
        let enqueue = Enqueue::new(&self.config, self.args.rate).map_err(CommandError::told)?;
        let mut feeder = Feeder::new(enqueue, Some(bookmark), begins);
        let mut waiting = self.waiting(stopped)?;
        let gone = each_record(&self.config, &self.plan.ranges, "replay", stopped, |range, record| {
            self.each_identify(range, record, &mut counts, |counts, judged, identify| {
                if !self.args.allow_redelivery && self.is_forgettable(record, identify) {
                    counts.left_out += 1;
                    return Ok(());
                }
                if self.is_overtaken(&mut waiting, record, judged, identify, stopped)? {
                    counts.told_since += 1;
                    return Ok(());
                }
                self.send(&mut feeder, range, record, judged, identify)
            })?;
            feeder.passed(range, record.offset()).map_err(CommandError::told)?;
            if feeder.is_about_to_save() { feeder.save().map_err(CommandError::told) } else { Ok(()) }
        })?;
        feeder.wait().and_then(|()| feeder.save()).map_err(CommandError::told)?;
        counts.gone = gone;
        counts.queued = feeder.queued;
        counts.too_large = feeder.take_too_large().len() as u64;
        Ok(counts)
    }

    fn send(
        &self,
        feeder: &mut Feeder,
        range: usize,
        record: &OwnedMessage,
        judged: &Judged<'_>,
        identify: &Identify<'_>,
    ) -> Result<(), CommandError> {
        let origin = origin(record, judged);
        let headers = record.headers().map_or_else(OwnedHeaders::new, OwnedHeaders::clone);
        let entry = Entry { email: &identify.email, event: &judged.event, headers, origin: &origin };
        feeder.send(range, record.offset(), entry).map_err(CommandError::told)
    }

    /// Counts what a record holds; its identify calls that are no dead letters go to `take`.
    fn each_identify(
        &self,
        range: usize,
        record: &OwnedMessage,
        counts: &mut Counts,
        mut take: impl FnMut(&mut Counts, &Judged<'_>, &Identify<'_>) -> Result<(), CommandError>,
    ) -> Result<(), CommandError> {
        counts.records += 1;
        let is_dead = |item| self.dead_letters.contains(&(range, record.offset(), item, time_of(record)));
        self.judge.each(record.payload(), |judged| {
            match &judged.outcome {
                Outcome::Filtered(_) => counts.filtered += 1,
                // Of a batch that is one as a whole, every item.
                _ if is_dead(None) || is_dead(judged.item) => counts.dead_letters += 1,
                Outcome::Invalid { .. } => counts.invalid += 1,
                Outcome::Identify(_) if self.is_told_since(record, &judged) => counts.told_since += 1,
                Outcome::Identify(identify) => return take(counts, &judged, identify),
            }
            Ok(())
        })
    }

    /// Whether what was delivered of it may have been forgotten. Dedup forgets by the time of the delivery, and a contact's day
    /// may have been delivered as soon as it began, by an earlier event. A slow replay may have come to it too late.
    fn is_forgettable(&self, record: &OwnedMessage, identify: &Identify<'_>) -> bool {
        let rules = &self.config.rules;
        let is_engage = identify.engage.is_some() && rules.engage == EngageMode::Changes;
        let day = identify.day.to_zoned_datetime(rules.zone.clone()).ok().filter(|_| !is_engage);
        let begin = day.map_or(i64::MAX, |day| day.timestamp().as_millisecond());
        time_of(record).min(begin) < self.horizon()
    }

    /// Records before this are older than the retention. Unix milliseconds.
    fn horizon(&self) -> i64 {
        horizon(self.config.dedup_retention, Timestamp::now())
    }
}

fn origin<'a>(record: &'a OwnedMessage, judged: &Judged<'_>) -> Origin<'a> {
    Origin {
        topic: record.topic().into(),
        partition: record.partition(),
        offset: record.offset(),
        timestamp: time_of(record),
        key: record.key().map(Into::into),
        item: judged.item,
        road: Some(Road::Replay),
    }
}
